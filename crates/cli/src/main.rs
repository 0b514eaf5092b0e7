//! `polymath`: verbs, output formats and exit codes. Everything else lives on the floors below.

mod args;
mod ask;
mod bench;
mod catalog;
mod charter;
mod config;
mod daemon;
mod demo;
mod doctor;
mod expert;
mod identity;
mod join;
mod logs;
mod mesh;
mod model;
mod output;
mod peers;
mod rate;
mod route;
mod screen;
mod session;
mod signals;
mod up;
mod views;

use std::process::ExitCode;

use clap::Parser;
use polymath_types::Failure;
use serde_json::json;

use args::{Args, Verb};
use session::Session;

/// Version and commit, e.g. `0.1.0 (1a2b3c4d5e6f)`.
pub(crate) const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("POLYMATH_COMMIT"),
    ")"
);

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => return output::usage(&e),
    };
    polymath_node::quiet_sandboxed_panics();
    let session = Session::new(args.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            output::note(&format!(
                "error: the operating system gives no threads: {e}"
            ));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(session.clone(), args.verb));
    let ended = ended.and_then(|()| output::lost().map_or(Ok(()), Err));
    let code = match ended {
        Ok(()) => output::code(),
        Err(failure) => {
            let failure = session.hinted(failure);
            output::print_failure(&failure, session.json);
            ExitCode::from(failure.kind.exit_code())
        }
    };
    // A thread that is loading a model must not keep the process.
    runtime.shutdown_background();
    code
}

async fn run(session: Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Up(up) => up::run(session, up).await,
        Verb::Ask(ask) => ask::run(session, ask).await,
        Verb::Rate(rate) => rate::run(session, rate).await,
        Verb::Join(join) => join::run(session, join).await,
        Verb::Mesh { verb } => mesh::run(session, verb).await,
        Verb::Catalog { verb } => catalog::run(session, verb).await,
        Verb::Status => views::status(session).await,
        Verb::Peers(peers) => peers::run(session, peers).await,
        Verb::Doctor(doctor) => doctor::run(session, doctor).await,
        Verb::Experts => views::experts(session).await,
        Verb::Expert { verb } => expert::run(session, verb).await,
        Verb::Pause => views::pause(session, true).await,
        Verb::Resume => views::pause(session, false).await,
        Verb::Down => views::down(session).await,
        Verb::Model { verb } => model::run(session, verb).await,
        Verb::Identity { verb } => identity::run(&session, &verb),
        Verb::Config { verb } => config::run(&session, &verb),
        Verb::Demo(demo) => demo::run(session, demo).await,
        Verb::Bench(bench) => bench::run(session, bench).await,
        Verb::Route(route) => route::run(session, *route).await,
        Verb::Completions { shell } => {
            let script = args::completions(shell);
            if session.json {
                let script = String::from_utf8_lossy(&script);
                let value = json!({ "shell": shell.to_string(), "script": script });
                output::print(&session, &value, String::new);
            } else {
                output::raw(&script);
            }
            Ok(())
        }
        Verb::Version => {
            output::print(
                &session,
                &json!({ "version": env!("CARGO_PKG_VERSION"), "commit": env!("POLYMATH_COMMIT") }),
                || format!("polymath {VERSION}"),
            );
            Ok(())
        }
    }
}
