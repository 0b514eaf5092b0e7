//! Runs the suite: `cargo run --release -p polymath-eval --example suite -- DATA [EXPERIMENT…]`.

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(data) = arguments.next() else {
        eprintln!("give the folder of the data sets");
        std::process::exit(2);
    };
    let options = polymath_eval::Options {
        only: arguments.collect(),
        ..Default::default()
    };
    match polymath_eval::evaluate(data.as_ref(), &options, &mut |line| eprintln!("{line}")) {
        Ok(report) => println!("{}", report.markdown()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
