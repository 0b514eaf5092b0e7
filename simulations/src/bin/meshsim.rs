//! `meshsim`: runs a simulation of the mesh and prints what it found.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    str::FromStr,
};

use polymath_simulations::{Fault, Report, catalog, live, replicas, spread, trace};

const USAGE: &str = "\
meshsim: the daemon's catalog and router under a virtual clock

  meshsim catalog  [--nodes N] [--links K] [--seed S] [--json]
      how fast, and with how many bytes, catalogs become equal
  meshsim spread   [--nodes N] [--links K] [--rtt-ms MS] [--changes N] [--seed S] [--json]
      how soon a change of one offer is known to all
  meshsim trace    [--peers N] [--neighbours K] [--every-s S] [--minutes M] [--seed S] [--json]
      what a node of a large mesh sends and receives to stay up to date
  meshsim live     [--nodes N] [--links K] [--minutes M] [--deaths N] [--seed S] [--json]
      what statuses cost, and how soon a peer that died is suspended everywhere
  meshsim replicas [--queries N] [--rate R] [--kills PERCENT] [--deadline-ms MS]
                   [--patience-ms MS] [--seed S] [--json]
      the router beside random choice and an oracle while replicas end and come back";

/// What the arguments ask for.
enum Task {
    Help,
    Catalog(catalog::Config),
    Spread(spread::Config),
    Trace(trace::Config),
    Live(live::Config),
    Replicas(replicas::Config),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let (task, json) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(fault) => return refuse(&fault),
    };
    let report = match task {
        Task::Help => return print(USAGE),
        Task::Catalog(config) => catalog::run(&config),
        Task::Spread(config) => spread::run(&config),
        Task::Trace(config) => trace::run(&config),
        Task::Live(config) => live::run(&config),
        Task::Replicas(config) => replicas::run(&config),
    };
    match report {
        Ok(report) => print(&text(&report, json)),
        Err(fault @ Fault::Setting { .. }) => refuse(&fault.to_string()),
        Err(fault) => {
            let _ = writeln!(io::stderr(), "meshsim: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn text(report: &Report, json: bool) -> String {
    if json {
        serde_json::json!(report).to_string()
    } else {
        report.to_string()
    }
}

fn print(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn refuse(fault: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "meshsim: {fault}; `meshsim --help` shows how");
    ExitCode::from(2)
}

fn parse(arguments: &[String]) -> Result<(Task, bool), String> {
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        return Ok((Task::Help, false));
    }
    let (scenario, rest) = arguments.split_first().ok_or("no scenario was named")?;
    let mut task = match scenario.as_str() {
        "catalog" => Task::Catalog(catalog::Config::default()),
        "spread" => Task::Spread(spread::Config::default()),
        "trace" => Task::Trace(trace::Config::default()),
        "live" => Task::Live(live::Config::default()),
        "replicas" => Task::Replicas(replicas::Config::default()),
        other => return Err(format!("there is no scenario {other:?}")),
    };
    let mut json = false;
    let mut rest = rest.iter();
    while let Some(argument) = rest.next() {
        let (name, given) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument.as_str(), None),
        };
        if name == "--json" && given.is_none() {
            json = true;
            continue;
        }
        let mut value = || given.or_else(|| rest.next().map(String::as_str));
        match (&mut task, name) {
            (Task::Catalog(c), "--nodes") => set(&mut c.nodes, name, value())?,
            (Task::Catalog(c), "--links") => set(&mut c.links, name, value())?,
            (Task::Catalog(c), "--seed") => set(&mut c.seed, name, value())?,
            (Task::Spread(c), "--nodes") => set(&mut c.nodes, name, value())?,
            (Task::Spread(c), "--links") => set(&mut c.links, name, value())?,
            (Task::Spread(c), "--rtt-ms") => set(&mut c.rtt_ms, name, value())?,
            (Task::Spread(c), "--changes") => set(&mut c.changes, name, value())?,
            (Task::Spread(c), "--seed") => set(&mut c.seed, name, value())?,
            (Task::Trace(c), "--peers") => set(&mut c.peers, name, value())?,
            (Task::Trace(c), "--neighbours") => set(&mut c.neighbours, name, value())?,
            (Task::Trace(c), "--every-s") => set(&mut c.every_s, name, value())?,
            (Task::Trace(c), "--minutes") => set(&mut c.minutes, name, value())?,
            (Task::Trace(c), "--seed") => set(&mut c.seed, name, value())?,
            (Task::Live(c), "--nodes") => set(&mut c.nodes, name, value())?,
            (Task::Live(c), "--links") => set(&mut c.links, name, value())?,
            (Task::Live(c), "--minutes") => set(&mut c.minutes, name, value())?,
            (Task::Live(c), "--deaths") => set(&mut c.deaths, name, value())?,
            (Task::Live(c), "--seed") => set(&mut c.seed, name, value())?,
            (Task::Replicas(c), "--queries") => set(&mut c.queries, name, value())?,
            (Task::Replicas(c), "--rate") => set(&mut c.rate, name, value())?,
            (Task::Replicas(c), "--kills") => set(&mut c.kills, name, value())?,
            (Task::Replicas(c), "--deadline-ms") => set(&mut c.deadline_ms, name, value())?,
            (Task::Replicas(c), "--patience-ms") => set(&mut c.patience_ms, name, value())?,
            (Task::Replicas(c), "--seed") => set(&mut c.seed, name, value())?,
            _ => return Err(format!("{scenario} has no option {argument:?}")),
        }
    }
    Ok((task, json))
}

fn set<T: FromStr>(setting: &mut T, name: &str, value: Option<&str>) -> Result<(), String> {
    let value = value.ok_or_else(|| format!("{name} needs a number"))?;
    *setting = value
        .parse()
        .map_err(|_| format!("{name} needs a whole number within its range, not {value:?}"))?;
    Ok(())
}
