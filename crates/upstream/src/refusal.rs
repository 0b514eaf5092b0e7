//! What a server's faults are called. Whoever asked, perhaps a peer, is told neither the server's address nor
//! its key, and of its own words only what is wrong with the question.

use std::time::Duration;

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use polymath_types::{ErrorKind, Failure};
use serde_json::Value;

use crate::key::Key;

/// Most characters of a server's own words that are passed on.
const WORDS: usize = 240;
/// Longest pause that is believed, and the one that is assumed.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const USUAL_PAUSE: Duration = Duration::from_secs(2);

/// The server cannot be reached, or went away.
pub(crate) fn lost(what: impl std::fmt::Display) -> Failure {
    Failure::new(
        ErrorKind::Unavailable,
        format!("the server behind this expert {what}: ask another replica, or again in a while"),
    )
}

/// The server speaks something else than what it promises.
pub(crate) fn garbage(what: impl std::fmt::Display) -> Failure {
    Failure::new(
        ErrorKind::Internal,
        format!("the server behind this expert breaks the protocol: it sent {what}"),
    )
}

/// The server answered without a word of text.
pub(crate) fn wordless(most: u32) -> Failure {
    Failure::new(
        ErrorKind::ResourceExhausted,
        format!(
            "the model behind this expert spent all {most} tokens on thinking and came to no answer: allow more with --max-tokens"
        ),
    )
}

/// A response whose status is no success.
pub(crate) fn of_status(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    key: Option<&Key>,
) -> Failure {
    let said = words(body, key);
    let quoted = if said.is_empty() {
        String::new()
    } else {
        format!(": '{said}'")
    };
    let code = status.as_u16();
    // The operator's own affair: it may name accounts, machines and parts of a key.
    tracing::debug!(code, "a server refuses{quoted}");
    match code {
        400 | 413 | 422 if is_overflow(body, code) => Failure::new(
            ErrorKind::ContextOverflow,
            format!("the prompt does not fit the model's context{quoted}: shorten it"),
        ),
        400 | 405 | 413 | 415 | 422 => Failure::new(
            ErrorKind::InvalidInput,
            format!("the server behind this expert refuses the question{quoted}"),
        ),
        // Of these words may hold the key in part.
        401 | 403 => lost("refuses this node's API key, which whoever runs it must put right"),
        404 => lost("does not have the model any more"),
        429 | 503 => Failure::new(
            ErrorKind::ResourceExhausted,
            "the server behind this expert is too busy: ask another replica, or again later",
        )
        .retry_after(pause(headers)),
        300..=399 => lost(format_args!(
            "points elsewhere (HTTP {code}), which is not followed"
        )),
        _ => lost(format_args!("failed (HTTP {code})")),
    }
}

/// An error in the middle of a stream, which has no status of its own.
pub(crate) fn in_stream(error: &Value, key: Option<&Key>) -> Failure {
    let body = serde_json::json!({ "error": error }).to_string();
    let code = error.get("code").and_then(Value::as_u64);
    let status = code.and_then(|c| u16::try_from(c).ok());
    let status = status.and_then(|c| StatusCode::from_u16(c).ok());
    let status = status.filter(|s| s.is_client_error() || s.is_server_error());
    let status = status.unwrap_or(if is_overflow(body.as_bytes(), 0) {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    });
    of_status(status, &HeaderMap::new(), body.as_bytes(), key)
}

/// When the server wants to be asked again; a date is taken for the usual pause.
fn pause(headers: &HeaderMap) -> Duration {
    let stated = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok());
    let stated = stated.and_then(|s| s.trim().parse().ok());
    stated.map_or(USUAL_PAUSE, |s: u64| {
        Duration::from_secs(s.max(1)).min(LONGEST_PAUSE)
    })
}

/// What the server itself says, safe to print.
fn words(body: &[u8], key: Option<&Key>) -> String {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let error = parsed.as_ref().and_then(|v| v.get("error"));
    let message = error.and_then(|e| e.get("message").or(Some(e)));
    let message = message.and_then(Value::as_str).unwrap_or_default();
    let shown = key.map_or_else(|| message.to_owned(), |k| k.hide(message));
    let shown = shown.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.take(WORDS).collect()
}

/// Whether the context is too short, as OpenAI and vLLM, llama-server, and Ollama say it.
fn is_overflow(body: &[u8], code: u16) -> bool {
    let text = String::from_utf8_lossy(&body[..body.len().min(4096)]).to_lowercase();
    code == 413
        || [
            "context_length_exceeded",
            "exceed_context_size",
            "maximum context length",
            "context size",
        ]
        .iter()
        .any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, body: &str) -> Failure {
        let status = StatusCode::from_u16(code).unwrap();
        of_status(status, &HeaderMap::new(), body.as_bytes(), None)
    }

    #[test]
    fn each_status_is_a_failure_of_the_right_kind() {
        for (code, kind) in [
            (302, ErrorKind::Unavailable),
            (400, ErrorKind::InvalidInput),
            (401, ErrorKind::Unavailable),
            (404, ErrorKind::Unavailable),
            (413, ErrorKind::ContextOverflow),
            (418, ErrorKind::Unavailable),
            (429, ErrorKind::ResourceExhausted),
            (500, ErrorKind::Unavailable),
            (503, ErrorKind::ResourceExhausted),
        ] {
            assert_eq!(of(code, "").kind, kind, "{code}");
        }
        let overflow = r#"{"error":{"code":"context_length_exceeded","message":"too long"}}"#;
        assert_eq!(of(400, overflow).kind, ErrorKind::ContextOverflow);
    }

    #[test]
    fn a_servers_words_are_cut_and_cannot_command_a_terminal() {
        let body = format!(
            r#"{{"error":{{"message":"a\u001b[2Jb{}"}}}}"#,
            "x".repeat(9999)
        );
        let failure = of(422, &body);
        assert!(failure.message.contains('x') && failure.message.len() < 400);
        assert!(!failure.message.contains('\u{1b}'));
        assert!(
            !of(401, r#"{"error":{"message":"bad key sk-12"}}"#)
                .message
                .contains("sk-12")
        );
        for code in [401, 429, 500, 503] {
            let said = of(code, r#"{"error":{"message":"org-17 at 10.0.0.7"}}"#);
            assert!(!said.message.contains("org-17"), "{said}");
        }
        assert!(of(500, "<html>").message.contains("HTTP 500"));
    }

    #[test]
    fn a_pause_is_believed_within_bounds() {
        let stated = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            let busy = StatusCode::SERVICE_UNAVAILABLE;
            of_status(busy, &headers, b"", None).retry_after_ms.unwrap()
        };
        assert_eq!(stated("7"), 7_000);
        assert_eq!(stated("0"), 1_000);
        assert_eq!(stated("99999999999"), 3_600_000);
        assert_eq!(stated("Wed, 21 Oct 2037 07:28:00 GMT"), 2_000);
        assert_eq!(of(429, "").retry_after_ms, Some(2_000));
    }

    #[test]
    fn an_error_in_the_stream_goes_by_its_code() {
        let of = |text: &str| in_stream(&serde_json::from_str(text).unwrap(), None).kind;
        assert_eq!(
            of(r#"{"code":503,"message":"x"}"#),
            ErrorKind::ResourceExhausted
        );
        assert_eq!(
            of(r#"{"code":"x","message":"the context size"}"#),
            ErrorKind::ContextOverflow
        );
        assert_eq!(of("\"broken\""), ErrorKind::Unavailable);
        assert_eq!(of(r#"{"code":200}"#), ErrorKind::Unavailable);
    }
}
