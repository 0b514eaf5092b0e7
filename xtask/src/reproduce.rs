//! `cargo xtask reproduce`: every figure of the README by name.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{data, process};

pub(crate) const HELP: &str = "\
Measures a figure of the README again.

Usage: cargo xtask reproduce [FIGURE [--data DIR]]

Without FIGURE the names are listed, each with the command that is run.

  --data DIR  the data sets of the router's evaluation [default: target/data/routing, which
              `cargo xtask data` fills]
";

/// Stands for the folder of the data sets.
const DATA: &str = "DATA";
/// Stands for the small language model that the tests use; `cargo xtask test` fetches it.
const MODEL: &str = "MODEL";

/// A name, what it measures, and the arguments of cargo.
type Figure = (&'static str, &'static str, &'static [&'static str]);

const CLI: &[&str] = &[
    "run",
    "--release",
    "--locked",
    "--package",
    "polymath",
    "--",
];
const SIMULATIONS: &[&str] = &[
    "run",
    "--release",
    "--locked",
    "--package",
    "polymath-simulations",
    "--",
];
const XTASK: &[&str] = &["run", "--quiet", "--package", "xtask", "--"];

/// With what a figure's arguments begin.
#[derive(Clone, Copy)]
enum With {
    Cli,
    Simulations,
    Xtask,
    Example(&'static str, &'static str),
}

const FIGURES: [(With, Figure); 24] = [
    (
        With::Cli,
        (
            "start",
            "start until the API answers, memory of an idle node",
            &["bench", "start"],
        ),
    ),
    (
        With::Cli,
        (
            "remote",
            "tokens/s of a remote expert against its own node",
            &["bench", "remote"],
        ),
    ),
    (
        With::Cli,
        (
            "rpc",
            "calls between two nodes, every way, 13 minutes",
            &["bench", "rpc"],
        ),
    ),
    (
        With::Cli,
        (
            "rpc-quick",
            "the same within a minute",
            &["bench", "rpc", "--quick"],
        ),
    ),
    (
        With::Cli,
        (
            "catalog",
            "10,000 offers agreed on, held, looked up, opened",
            &["bench", "catalog"],
        ),
    ),
    (
        With::Example("polymath-engine", "decode_speed"),
        ("decode", "tokens/s of one thread", &[MODEL, "1"]),
    ),
    (
        With::Example("polymath-net", "dht_lookup"),
        (
            "dht",
            "look-up of a provider among 200 nodes",
            &["--connections", "48", "--seconds", "60"],
        ),
    ),
    (
        With::Example("polymath-net", "anchor_memory"),
        ("anchor", "memory of an anchor with 1,000 peers", &[]),
    ),
    (
        With::Example("polymath-rpc", "call_memory"),
        ("call-memory", "10,000 streaming calls from 100 peers", &[]),
    ),
    (
        With::Example("polymath-bench", "call_allocations"),
        ("call-allocations", "allocations of a call", &[]),
    ),
    (
        With::Simulations,
        (
            "spread",
            "how soon a change is known to 200 nodes",
            &["spread"],
        ),
    ),
    (
        With::Simulations,
        ("trace", "traffic of a node among 10,000", &["trace"]),
    ),
    (
        With::Xtask,
        (
            "natlab",
            "which pairs behind which NATs meet, as root, 36 minutes",
            &["natlab"],
        ),
    ),
    (
        With::Xtask,
        (
            "natlab-rpc",
            "calls over long lines that lose packets, as root",
            &["natlab", "--part", "rpc", "--repeats", "3"],
        ),
    ),
    (
        With::Xtask,
        (
            "natlab-bulk",
            "the bulk lane over such a line, as root",
            &["natlab", "--part", "bulk"],
        ),
    ),
    (
        With::Cli,
        (
            "route-mmlu",
            "RouteLLM's MMLU",
            &["route", "eval", "--data", DATA, "--only", "mmlu"],
        ),
    ),
    (
        With::Cli,
        (
            "route-gsm8k",
            "RouteLLM's GSM8K",
            &["route", "eval", "--data", DATA, "--only", "gsm8k"],
        ),
    ),
    (
        With::Cli,
        (
            "route-experts",
            "LLMRouter's nine experts",
            &["route", "eval", "--data", DATA, "--only", "experts"],
        ),
    ),
    (
        With::Cli,
        (
            "route-newcomers",
            "each of them held out",
            &["route", "eval", "--data", DATA, "--only", "newcomers"],
        ),
    ),
    (
        With::Cli,
        (
            "route-choices",
            "MMLU-Pro: one, votes, cascade",
            &["route", "eval", "--data", DATA, "--only", "choices"],
        ),
    ),
    (
        With::Cli,
        (
            "route-intents",
            "CLINC150 and Banking77",
            &[
                "route", "eval", "--data", DATA, "--only", "clinc", "--only", "banking",
            ],
        ),
    ),
    (
        With::Cli,
        (
            "route-sharing",
            "twenty nodes that share, and liars",
            &["route", "eval", "--data", DATA, "--only", "sharing"],
        ),
    ),
    (
        With::Cli,
        (
            "route-drift",
            "two experts swap skills",
            &["route", "eval", "--data", DATA, "--only", "drift"],
        ),
    ),
    (
        With::Cli,
        (
            "route-pareto",
            "what quality costs",
            &["route", "pareto", "--data", DATA],
        ),
    ),
];

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let Some((name, rest)) = args.split_first() else {
        print!("{}", list());
        return Ok(ExitCode::SUCCESS);
    };
    let data = match rest {
        [] => data::folder(),
        [flag, folder] if flag == "--data" => PathBuf::from(folder),
        _ => bail!("only --data DIR may follow a figure's name"),
    };
    let known = FIGURES.iter().find(|(_, (n, ..))| n == name);
    let (with, (_, _, arguments)) =
        known.with_context(|| format!("there is no figure '{name}'; there are\n{}", list()))?;
    if arguments.contains(&DATA) && !data.is_dir() {
        bail!(
            "there is no {}; run `cargo xtask data`, or give --data DIR",
            data.display()
        );
    }
    let model = process::target().join("test-models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if arguments.contains(&MODEL) && !model.is_file() {
        bail!(
            "there is no {}; `cargo xtask test` fetches it",
            model.display()
        );
    }
    let mut command = process::cargo();
    command.args(beginning(*with));
    for argument in *arguments {
        match *argument {
            DATA => command.arg(&data),
            MODEL => command.arg(&model),
            other => command.arg(other),
        };
    }
    if *name == "decode" {
        command.env("RAYON_NUM_THREADS", "1");
    }
    let ended = process::status(&mut command)?;
    let code = ended.code().and_then(|c| u8::try_from(c).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn beginning(with: With) -> Vec<&'static str> {
    match with {
        With::Cli => CLI.to_vec(),
        With::Simulations => SIMULATIONS.to_vec(),
        With::Xtask => XTASK.to_vec(),
        With::Example(package, example) => vec![
            "run",
            "--release",
            "--locked",
            "--package",
            package,
            "--example",
            example,
            "--",
        ],
    }
}

fn list() -> String {
    let mut text = String::new();
    for (with, (name, what, arguments)) in FIGURES {
        let begin = match with {
            With::Cli => "polymath".to_owned(),
            With::Simulations => "cargo run --release -p polymath-simulations --".to_owned(),
            With::Xtask => "cargo xtask".to_owned(),
            With::Example(package, example) => {
                format!("cargo run --release -p {package} --example {example} --")
            }
        };
        let _ = writeln!(
            text,
            "{name:<17} {what}\n{:<17} $ {begin} {}",
            "",
            arguments.join(" ")
        );
    }
    text
}
