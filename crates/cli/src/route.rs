//! `polymath route`: whom a question would go to; and the router looked at by itself, without a daemon.

use std::{fs::OpenOptions, io::Write, path::Path};

use polymath_eval::{DataError, Entry, Options, evaluate, pareto::pareto, policies, replay};
use polymath_figures::Report;
use polymath_node::Node;
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure, Format, PeerId};
use serde_json::{Value, json};
use toml::Table;

use crate::{
    args::{LogVerb, Route, RouteEval, RoutePareto, RouteVerb},
    ask, output,
    session::Session,
    signals,
};

pub(crate) async fn run(session: Session, route: Route) -> Result<(), Failure> {
    let Some(verb) = route.verb else {
        let mut ask = route.ask;
        ask.dry_run = true;
        return ask::run(session, ask).await;
    };
    if let RouteVerb::Log {
        verb: LogVerb::Export { file },
    } = verb
    {
        return export(&session, file.as_deref()).await;
    }
    session.begin_apart()?;
    match verb {
        RouteVerb::Log { .. } => {}
        RouteVerb::Eval(eval) => {
            let strict = eval.strict;
            let report = measured(move || evaluated(&eval)).await?;
            let missed = report.missed().count();
            output::report(&session, report);
            if missed > 0 {
                output::note(&format!("{missed} figures miss what was asked for"));
                if strict {
                    output::end_with(ErrorKind::FailedPrecondition);
                }
            }
        }
        RouteVerb::Pareto(args) => {
            let report = measured(move || front(&args)).await?;
            output::report(&session, report);
        }
    }
    Ok(())
}

/// Writes what the running node has noted.
async fn export(session: &Session, file: Option<&Path>) -> Result<(), Failure> {
    session.begin(Table::new())?;
    let mut daemon = session.daemon().await?.ok_or_else(|| {
        Failure::new(
            ErrorKind::FailedPrecondition,
            "no node runs here: start it with `polymath up`; it keeps what it noted before",
        )
    })?;
    let request = v1::RouteLogRequest {
        version: Format::Control.current(),
    };
    let log = daemon.route_log(request).await;
    let mut log = log.map_err(|s| Node::control_failure(&s))?.into_inner();
    let (mut out, name): (Box<dyn Write>, String) = match file {
        None => (Box::new(std::io::stdout().lock()), String::new()),
        Some(path) => {
            let opened = OpenOptions::new().write(true).create_new(true).open(path);
            let file = opened.map_err(|e| unwritten(path, &e))?;
            let file = std::io::BufWriter::new(file);
            (Box::new(file), path.display().to_string())
        }
    };
    let mut decisions = 0;
    while let Some(routed) = log.message().await.map_err(|s| Node::control_failure(&s))? {
        let written = writeln!(out, "{}", routed_json(&routed));
        written.map_err(|e| match file {
            None => output::unwritten(&e),
            Some(path) => unwritten(path, &e),
        })?;
        decisions += 1;
    }
    let flushed = out.flush();
    flushed.map_err(|e| output::unwritten(&e))?;
    drop(out);
    if file.is_some() {
        let value = json!({ "file": name, "decisions": decisions });
        output::print(session, &value, || {
            format!("{decisions} decisions in {name}")
        });
    }
    Ok(())
}

fn unwritten(path: &Path, e: &std::io::Error) -> Failure {
    let what = format!(
        "cannot write {}: {e}; name a file that is not there yet",
        path.display()
    );
    Failure::new(ErrorKind::InvalidInput, what)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn routed_json(routed: &v1::RoutedQuery) -> Value {
    let expert = |e: &v1::RoutedExpert| {
        let expected = e.expected.unwrap_or_default();
        json!({
            "expert": hex(&e.expert), "score": e.score, "prior": expected.prior,
            "quality": expected.quality, "evidence": expected.evidence,
            "propensity": expected.propensity,
        })
    };
    let learned = |l: &Option<v1::Learned>| {
        l.as_ref().map(|l| {
            let seed = format!("{:016x}", l.seed);
            json!({ "seed": seed, "counted": l.counted, "grades": l.grades, "others": l.others,
                "policy": l.policy })
        })
    };
    let outcome = routed.outcome.as_ref().map(|o| {
        let answered = !o.expert.is_empty();
        let peer = PeerId::from_bytes(&o.peer).map(|p| p.to_string());
        json!({
            "expert": answered.then(|| hex(&o.expert)), "peer": peer.ok(),
            "failure": (!o.failure.is_empty()).then_some(&o.failure),
            "finish_reason": (!o.finished.is_empty()).then_some(&o.finished),
            "total_ms": o.total_ms, "tokens": o.tokens,
        })
    });
    json!({
        "number": routed.number, "request_id": routed.request_id, "at_ms": routed.at_ms,
        "kind": routed.kind, "policy": routed.policy, "agent": routed.agent,
        "encoder": routed.encoder, "places": routed.places, "values": routed.values,
        "cues": routed.cues, "experts": routed.experts.iter().map(expert).collect::<Vec<_>>(),
        "explored": routed.explored, "outcome": outcome, "reward": routed.reward,
        "grade": routed.grade, "learned": learned(&routed.learned),
        "graded_at": learned(&routed.graded_at),
    })
}

fn evaluated(eval: &RouteEval) -> Result<Report, Failure> {
    let data = match (&eval.data, &eval.replay) {
        (Some(data), _) => data,
        (None, Some(log)) => return replay::report(log).map_err(|e| unusable(&e)),
        (None, None) => {
            let message = "name the data sets with --data DIR, or a log with --replay FILE";
            return Err(Failure::new(ErrorKind::InvalidInput, message));
        }
    };
    let options = Options {
        only: eval.only.clone(),
        policy: policy(&eval.policy)?,
    };
    evaluate(data, &options, &mut output::note).map_err(|e| unusable(&e))
}

fn front(args: &RoutePareto) -> Result<Report, Failure> {
    let policy = policy(&args.policy)?;
    pareto(&args.data, policy, &mut output::note).map_err(|e| unusable(&e))
}

/// Computes away from the runtime's threads, until done or interrupted.
async fn measured(
    measure: impl FnOnce() -> Result<Report, Failure> + Send + 'static,
) -> Result<Report, Failure> {
    tokio::select! {
        done = tokio::task::spawn_blocking(measure) => done.unwrap_or_else(|e| {
            Err(Failure::new(ErrorKind::Internal, format!("the evaluation broke off: {e}")))
        }),
        told = signals::told_to_end() => Err(told),
    }
}

fn policy(name: &str) -> Result<Entry, Failure> {
    policies::by_name(name).ok_or_else(|| {
        let known = policies::POLICIES.map(|p| p.name).join(", ");
        let message = format!("there is no policy '{name}'; there are {known}");
        Failure::new(ErrorKind::InvalidInput, message)
    })
}

fn unusable(error: &DataError) -> Failure {
    let kind = match error {
        DataError::Read { .. } | DataError::Nothing { .. } => ErrorKind::NotFound,
        DataError::Form { .. } => ErrorKind::DataLoss,
        _ => ErrorKind::InvalidInput,
    };
    Failure::new(kind, error.to_string())
}
