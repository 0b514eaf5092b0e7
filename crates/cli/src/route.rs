//! `polymath route`: the router looked at by itself, without a daemon.

use polymath_eval::{DataError, Entry, Options, evaluate, pareto::pareto, policies};
use polymath_figures::Report;
use polymath_types::{ErrorKind, Failure};

use crate::{
    args::{RouteEval, RoutePareto, RouteVerb},
    output,
    session::Session,
    signals,
};

pub(crate) async fn run(session: Session, verb: RouteVerb) -> Result<(), Failure> {
    session.begin_apart()?;
    match verb {
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

fn evaluated(eval: &RouteEval) -> Result<Report, Failure> {
    let options = Options {
        only: eval.only.clone(),
        policy: policy(&eval.policy)?,
    };
    evaluate(&eval.data, &options, &mut output::note).map_err(|e| unusable(&e))
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
