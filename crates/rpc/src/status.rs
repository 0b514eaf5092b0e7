//! Failures, versions and budgets across the wire.

use std::{error::Error as _, time::Duration};

use polymath_types::{ErrorKind, Failure, Format};
use tonic::{Code, Request, Status, codegen::http::HeaderValue, metadata::MetadataValue};

/// Metadata key that carries [`ErrorKind::as_str`], finer than the status code.
const KIND: &str = "polymath-error-kind";
/// Metadata key of a call's remaining time.
pub(crate) const TIMEOUT: &str = "grpc-timeout";
/// Metadata key that carries [`Failure::retry_after_ms`], in decimal digits.
const RETRY_AFTER: &str = "polymath-retry-after-ms";
/// Longest wait a peer may ask for, milliseconds: an hour.
const MAX_RETRY_AFTER: u64 = 3_600_000;
/// Longest message taken from a peer, characters.
const MAX_MESSAGE: usize = 1024;

/// A failure as a gRPC status.
pub fn status(failure: &Failure) -> Status {
    let mut status = Status::new(
        Code::from_i32(failure.kind.grpc_code()),
        failure.to_string(),
    );
    status
        .metadata_mut()
        .insert(KIND, MetadataValue::from_static(failure.kind.as_str()));
    if let Some(wait) = failure.retry_after_ms {
        status.metadata_mut().insert(RETRY_AFTER, wait.into());
    }
    status
}

/// A gRPC status as a failure; a peer's text is clipped and stripped of control characters.
pub fn failure(status: &Status) -> Failure {
    let kind = status
        .metadata()
        .get(KIND)
        .and_then(|v| v.to_str().ok())
        .and_then(ErrorKind::from_name)
        .unwrap_or_else(|| match status.source() {
            // Made on this side: the connection under the call broke, whatever HTTP/2 calls it.
            Some(_) => ErrorKind::Unavailable,
            None => ErrorKind::from_grpc_code(status.code() as i32),
        });
    if status.source().is_some() {
        return Failure::new(
            kind,
            "the connection to the peer broke in the middle of the call",
        );
    }
    let mut message: String = status
        .message()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_MESSAGE)
        .collect();
    if message.is_empty() {
        message = format!("the call failed with status {}", status.code());
    }
    let wait = status.metadata().get(RETRY_AFTER);
    let wait = wait.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    Failure {
        retry_after_ms: wait.map(|w| w.min(MAX_RETRY_AFTER)),
        ..Failure::new(kind, message)
    }
}

/// Refuses another version of the format, naming both.
pub fn check_version(format: Format, found: u32) -> Result<(), Status> {
    format
        .check(found)
        .map_err(|e| status(&Failure::new(ErrorKind::VersionMismatch, e.to_string())))
}

/// What is left of a caller's budget: the smaller of `grpc-timeout` and the message's own
/// `budget_ms` (0: none), and never more than `most`.
pub fn budget<T>(request: &Request<T>, budget_ms: u64, most: Duration) -> Duration {
    let said = if budget_ms == 0 {
        most
    } else {
        Duration::from_millis(budget_ms)
    };
    said.min(timeout(request).unwrap_or(most)).min(most)
}

/// What `grpc-timeout` says, if it is there.
pub fn timeout<T>(request: &Request<T>) -> Option<Duration> {
    let header = request.metadata().get(TIMEOUT)?;
    parse_timeout(header.to_str().ok()?)
}

/// `TimeoutValue TimeoutUnit` of the gRPC over HTTP/2 specification: at most 8 digits, one unit.
pub(crate) fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|d| d.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// The same, written: in the finest unit whose digits suffice.
pub(crate) fn timeout_value(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units = [
        ('u', timeout.as_micros()),
        ('m', timeout.as_millis()),
        ('S', u128::from(timeout.as_secs())),
    ];
    let fits = units.into_iter().find(|(_, n)| *n <= MOST);
    let (unit, n) = fits.unwrap_or(('H', (u128::from(timeout.as_secs()) / 3600).min(MOST)));
    // Digits and a letter are always a value.
    HeaderValue::from_str(&format!("{n}{unit}")).unwrap_or(HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in ErrorKind::ALL {
            let sent = status(&Failure::new(kind, "what to do"));
            assert_eq!(failure(&sent), Failure::new(kind, "what to do"));
        }
    }

    #[test]
    fn a_wait_survives_the_wire_and_an_absurd_one_is_cut() {
        let full = Failure::new(ErrorKind::ResourceExhausted, "full");
        let sent = |wait| failure(&status(&full.clone().retry_after(wait))).retry_after_ms;
        assert_eq!(sent(Duration::from_millis(1500)), Some(1500));
        assert_eq!(sent(Duration::MAX), Some(MAX_RETRY_AFTER));
        let mut odd = status(&full);
        let word = MetadataValue::from_static("soon");
        odd.metadata_mut().insert(RETRY_AFTER, word);
        assert_eq!(failure(&odd), full);
    }

    #[test]
    fn a_foreign_servers_text_is_tamed() {
        let hostile = Status::unavailable(format!("\u{1b}[2J{}", "x".repeat(5000)));
        let tamed = failure(&hostile);
        assert_eq!(tamed.kind, ErrorKind::Unavailable);
        assert!(tamed.message.len() <= 1024 && !tamed.message.contains('\u{1b}'));
    }

    #[test]
    fn the_smallest_budget_counts() {
        let most = Duration::from_secs(60);
        let mut request = Request::new(());
        assert_eq!(budget(&request, 0, most), most);
        request.set_timeout(Duration::from_secs(5));
        assert_eq!(budget(&request, 0, most), Duration::from_secs(5));
        assert_eq!(budget(&request, 1500, most), Duration::from_millis(1500));
        assert_eq!(parse_timeout("123456789S"), None);
        assert_eq!(parse_timeout(""), None);
        assert_eq!(parse_timeout("+5S"), None);
    }

    #[test]
    fn a_written_timeout_is_read_again() {
        let longest = timeout_value(Duration::from_micros(u64::MAX));
        assert_eq!(longest, "99999999H");
        for micros in [
            0,
            1,
            99_999_999,
            100_000_000,
            3_600_000_000,
            u64::MAX / 1000,
        ] {
            let timeout = Duration::from_micros(micros);
            let written = timeout_value(timeout);
            let read = parse_timeout(written.to_str().unwrap()).unwrap();
            assert!(read <= timeout && timeout - read < timeout / 1000 + Duration::from_micros(1));
        }
    }
}
