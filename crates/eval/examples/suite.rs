//! Runs the suite: `cargo run --release -p polymath-eval --example suite -- DATA [EXPERIMENT…]`.

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(data) = arguments.next() else {
        eprintln!("give the folder of the data sets");
        std::process::exit(2);
    };
    let only: Vec<String> = arguments.collect();
    match polymath_eval::evaluate(data.as_ref(), &only) {
        Ok(report) => println!("{}", report.markdown()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
