//! Logs on stderr: for people, or a JSON object a line.

use polymath_node::config::Log;
use polymath_types::{ErrorKind, Failure};
use tracing_subscriber::EnvFilter;

/// The filter, or what is wrong with it.
pub(crate) fn check(log: &Log) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(&log.level).map_err(|e| {
        Failure::new(
            ErrorKind::Config,
            format!(
                "log.level = \"{}\": {e}: write it like info or polymath_net=debug",
                log.level
            ),
        )
    })
}

/// Begins logging; the first call of a process counts.
pub(crate) fn begin(log: &Log) -> Result<(), Failure> {
    let filter = check(log)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Else a full disk under the log ends, by a panic, whichever task had something to say.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let begun = if log.format == "json" {
        builder.json().flatten_event(true).try_init()
    } else {
        builder
            .with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init()
    };
    // A second call changes nothing, as documented.
    drop(begun);
    Ok(())
}
