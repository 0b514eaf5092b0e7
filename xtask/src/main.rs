//! Project tasks: `cargo xtask test`, `check`, `fuzz`, `natlab`, `data`, `reproduce`, `codegen`.
//!
//! Light on purpose (no async, no argument parser), so that it is built within seconds on a fresh
//! clone. One file a verb.

mod check;
mod codegen;
mod data;
mod fuzz;
mod natlab;
mod process;
mod reproduce;
mod system;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
Project tasks.

Usage: cargo xtask <VERB>

Verbs:
  test [-- NEXTEST ARGS]  install what the tests need, then run all of them
  check [STEP ...]        everything but tests; without STEP, all steps
  fuzz [--seconds N]      hostile bytes for every decoder of what the network brings
  natlab [--quick]        real daemons behind real NATs, against what theory allows
  data [--from FOLDER]    the data sets of the router's evaluation, pinned and checked
  reproduce [FIGURE]      measure a figure of the README again; without FIGURE, list them
  codegen                 regenerate crates/proto from proto/
  help                    this text; also `cargo xtask <VERB> --help`
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (verb, rest) = args
        .split_first()
        .map_or(("help", &[][..]), |(v, r)| (v.as_str(), r));
    let asks_help = rest
        .iter()
        .take_while(|a| *a != "--")
        .any(|a| a == "--help" || a == "-h");
    let help = match verb {
        "help" | "--help" | "-h" => Some(HELP.to_owned()),
        "test" if asks_help => Some(test::HELP.to_owned()),
        "check" if asks_help => Some(check::help()),
        "fuzz" if asks_help => Some(fuzz::HELP.to_owned()),
        "natlab" if asks_help => Some(natlab::HELP.to_owned()),
        "data" if asks_help => Some(data::HELP.to_owned()),
        "reproduce" if asks_help => Some(reproduce::HELP.to_owned()),
        "codegen" if asks_help => Some(codegen::HELP.to_owned()),
        _ => None,
    };
    if let Some(help) = help {
        print!("{help}");
        return ExitCode::SUCCESS;
    }
    let result = match verb {
        "test" => test::run(rest),
        "check" => check::run(rest),
        "fuzz" => fuzz::run(rest),
        "natlab" => natlab::run(rest),
        "data" => data::run(rest),
        "reproduce" => reproduce::run(rest),
        "codegen" => codegen::run(rest),
        other => {
            eprintln!("xtask: there is no verb '{other}'.\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask {verb}: {error:#}");
        ExitCode::FAILURE
    })
}
