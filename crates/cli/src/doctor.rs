//! `polymath doctor`.

use std::time::Duration;

use polymath_node::{
    Home, Node, Options,
    config::Config,
    doctor::{NoNetwork, look},
};
use polymath_proto::v1::{self, doctor_event::Event};
use polymath_types::{ErrorKind, Failure, Format};
use serde_json::{Value, json};
use toml::Table;

use crate::{args, output, screen, session::Session, signals};

/// The state that makes the exit code.
const FAILING: &str = "failing";
/// Longest `--timeout`, seconds.
const LONGEST: f64 = 120.0;

pub(crate) async fn run(session: Session, doctor: args::Doctor) -> Result<(), Failure> {
    if !(doctor.timeout >= 0.0 && doctor.timeout <= LONGEST) {
        return Err(Failure::new(
            ErrorKind::InvalidInput,
            format!("--timeout takes seconds from 0 to {LONGEST}"),
        ));
    }
    session.clone().begin_quietly()?;
    let within = Duration::from_secs_f64(doctor.timeout);
    let mut passing = None;
    let diagnosis = tokio::select! {
        diagnosis = examine(&session, within, &mut passing) => diagnosis,
        failure = signals::told_to_end() => Err(failure),
    };
    if let Some(node) = passing {
        node.shut_down().await;
    }
    let diagnosis = diagnosis?;
    if session.json {
        output::print(&session, &to_json(&diagnosis), String::new);
    } else {
        // Commands name the home before lines are broken, not afterwards.
        let hint = |text: &str| session.hint(text);
        output::raw(format!("{}\n", text(&diagnosis, &hint)).as_bytes());
    }
    if diagnosis.findings.iter().any(|f| f.state == FAILING) {
        output::end_with(ErrorKind::FailedPrecondition);
    }
    Ok(())
}

/// By the running node, else by a passing one, else by looks alone.
async fn examine(
    session: &Session,
    within: Duration,
    passing: &mut Option<Node>,
) -> Result<v1::Diagnosis, Failure> {
    if let Some(mut daemon) = session.daemon().await? {
        let request = v1::DoctorRequest {
            version: Format::Control.current(),
            timeout_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        };
        let stream = daemon.doctor(request).await;
        let mut stream = stream.map_err(|s| Node::control_failure(&s))?.into_inner();
        while let Some(event) = stream
            .message()
            .await
            .map_err(|s| Node::control_failure(&s))?
        {
            if let Some(diagnosis) = take(event) {
                return Ok(diagnosis);
            }
        }
        return Err(unfinished());
    }
    let home = session.unopened_home()?;
    let config = session.config(Table::new()).map(|e| e.config);
    let machine = look::machine(&home, config.as_ref(), false).await;
    // Before the node takes them.
    let ports = machine.ports.clone();
    let without = |why| Ok(look::without_network(machine, why).to_proto());
    let Ok(config) = config else {
        let why = "the settings are not valid".to_owned();
        return without(NoNetwork::Failed(why));
    };
    match home.membership() {
        Ok(Some(_)) => {}
        Ok(None) => return without(NoNetwork::NoMesh),
        Err(failure) => return without(NoNetwork::Failed(failure.message)),
    }
    let node = match start(session, home, config).await {
        Ok(node) => passing.insert(node),
        Err(failure) => return without(NoNetwork::Failed(failure.message)),
    };
    output::note(&output::dim(
        "no node runs here: a passing one is started for the examination",
    ));
    let mut events = node.examined(within, ports);
    while let Some(event) = events.recv().await {
        if let Some(diagnosis) = take(event) {
            return Ok(diagnosis);
        }
    }
    Err(unfinished())
}

/// A node that listens where a lasting one would, hosts nothing and is gone afterwards.
async fn start(session: &Session, home: Home, config: Config) -> Result<Node, Failure> {
    let lock = home.lock()?;
    let store = session.store(&config)?;
    Node::start(Options {
        config: look::listening(&home, config)?,
        home,
        lock,
        cards: Vec::new(),
        store,
        progress: output::progress(session),
        passing: true,
        engine: None,
    })
    .await
}

fn unfinished() -> Failure {
    Failure::new(
        ErrorKind::Unavailable,
        "the node ended in the middle of the examination: see its log, then run `polymath doctor` again",
    )
}

/// The diagnosis; what is still waited for goes to standard error.
fn take(event: v1::DoctorEvent) -> Option<v1::Diagnosis> {
    match event.event? {
        Event::Waiting(waiting) => {
            output::note(&output::dim(&format!(
                "waiting for {} …",
                waiting.facts.join(", ")
            )));
            None
        }
        Event::Diagnosis(diagnosis) => Some(diagnosis),
    }
}

fn to_json(d: &v1::Diagnosis) -> Value {
    let finding = |f: &v1::Finding| {
        json!({
            "area": f.area, "subject": f.subject, "state": f.state, "found": f.found, "fix": f.fix,
            "values": f.values,
        })
    };
    json!({
        "ok": d.findings.iter().all(|f| f.state != FAILING),
        "reach": d.reach,
        "verdict": d.verdict,
        "findings": d.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

/// One finding a line, what to do about it below, the verdict last.
fn text(d: &v1::Diagnosis, hint: &dyn Fn(&str) -> String) -> String {
    let label = |f: &v1::Finding| format!("{} {}", f.area, f.subject).trim_end().to_owned();
    // A long subject, such as a name, must not push all others aside.
    let widest = d.findings.iter().map(|f| label(f).chars().count());
    let indent = widest.max().unwrap_or(0).min(14) + 4;
    let mut lines = Vec::new();
    for f in &d.findings {
        let mark = match f.state.as_str() {
            "ok" => screen::green("✓"),
            "warning" => screen::yellow("!"),
            FAILING => screen::red("✗"),
            _ => screen::dim("?"),
        };
        let label = label(f);
        let width = indent - 4;
        lines.push(format!(
            "{mark} {label:<width$}  {}",
            screen::wrapped(&hint(&f.found), indent)
        ));
        if !f.fix.is_empty() {
            let fix = screen::wrapped(&format!("fix: {}", hint(&f.fix)), indent);
            lines.push(format!("{:indent$}{fix}", ""));
        }
    }
    lines.push(screen::wrapped(&format!("verdict: {}", d.verdict), 9));
    lines.join("\n")
}
