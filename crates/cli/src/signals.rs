//! The signals that ask this process to end.

use polymath_types::{ErrorKind, Failure};
use tokio::signal::unix::{SignalKind, signal};

/// Waits until this process is asked to end; returns the failure it then ends with.
///
/// From the first call on nothing but this ends the process on these signals, so whoever calls it
/// for one step must go on to call it for the next.
pub(crate) async fn told_to_end() -> Failure {
    let watch = |kind| {
        signal(kind).map_err(|e| {
            Failure::new(
                ErrorKind::Internal,
                format!("signals cannot be watched: {e}"),
            )
        })
    };
    let (mut term, mut int) = match (
        watch(SignalKind::terminate()),
        watch(SignalKind::interrupt()),
    ) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(e), _) | (_, Err(e)) => return e,
    };
    let hung_up = async {
        // Under nohup the end of the terminal is not ours.
        let watched = if hang_up_is_ignored() {
            None
        } else {
            watch(SignalKind::hangup()).ok()
        };
        match watched {
            Some(mut hangup) => drop(hangup.recv().await),
            None => std::future::pending().await,
        }
    };
    let how = tokio::select! {
        _ = term.recv() => "ended",
        _ = int.recv() => "interrupted",
        () = hung_up => "the terminal was closed",
    };
    Failure::new(
        ErrorKind::Cancelled,
        format!("{how}: everything that was started is stopped"),
    )
}

/// By `/proc`, whose mask of ignored signals has SIGHUP as its lowest bit; not known elsewhere.
fn hang_up_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok())
        .is_none_or(|m| m & 1 == 1)
}
