//! Failures in the form OpenAI's clients read.

use axum::{
    Json,
    extract::rejection::JsonRejection,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use polymath_node::Node;
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure, Terms};
use serde_json::{Value, json};

/// A failure on its way to an HTTP client.
#[derive(Debug)]
pub(crate) struct Refusal {
    failure: Failure,
    /// Where HTTP knows it more exactly than its kind says.
    status: Option<StatusCode>,
    /// The parameter at fault.
    param: Option<&'static str>,
    /// OpenAI's code, where the kind's own would mislead.
    code: Option<&'static str>,
    /// What a question that failed has cost all the same: calls, and millionths of a credit.
    spent: Option<Box<(u32, u64)>>,
}

impl Refusal {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Failure::new(kind, message).into()
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    pub(crate) fn of_param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn status(&self) -> StatusCode {
        let of_kind = StatusCode::from_u16(self.failure.kind.http_status());
        self.status
            .or(of_kind.ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The error object alone.
    pub(crate) fn body(&self) -> Value {
        let kind = self.failure.kind;
        let group = match self.status().as_u16() {
            404 => "not_found_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        let code = match kind {
            ErrorKind::ContextOverflow => "context_length_exceeded",
            ErrorKind::NotFound => "model_not_found",
            kind => kind.as_str(),
        };
        let code = self.code.unwrap_or(code);
        let mut body = json!({ "error": { "message": self.failure.to_string(), "type": group, "param": self.param, "code": code } });
        if let Some((calls, cost)) = self.spent.as_deref() {
            let credits = *cost as f64 / Terms::CREDIT as f64;
            body["polymath"] = json!({ "calls_made": calls, "cost": credits });
        }
        body
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            status: None,
            param: None,
            code: None,
            spent: None,
        }
    }
}

impl From<v1::Failed> for Refusal {
    fn from(failed: v1::Failed) -> Self {
        let spent = (failed.calls_made, failed.cost);
        Self {
            spent: (spent.0 > 0).then(|| Box::new(spent)),
            ..polymath_node::failure(failed).into()
        }
    }
}

/// There is no room for what arrives of a body.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message())]
pub(crate) struct NoRoom(pub(crate) polymath_node::Status);

/// Why a body was cut short, if that was this node's doing.
fn no_room(rejection: &JsonRejection) -> Option<Failure> {
    let mut cause = std::error::Error::source(rejection);
    while let Some(error) = cause {
        if let Some(NoRoom(status)) = error.downcast_ref() {
            return Some(Node::control_failure(status));
        }
        cause = error.source();
    }
    None
}

/// A body that could not be read; what it says of types and syntax is for the client's author.
impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        if let Some(full) = no_room(&rejection) {
            return full.into();
        }
        let refusal = Self::invalid(format!(
            "the request cannot be read: {}",
            rejection.body_text()
        ));
        match rejection.status() {
            // OpenAI's API answers 400 to JSON of the wrong shape.
            StatusCode::UNPROCESSABLE_ENTITY => refusal,
            status => refusal.with_status(status),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        let retryable = matches!(
            self.failure.kind,
            ErrorKind::ResourceExhausted | ErrorKind::Unavailable
        );
        let told = self.failure.retry_after_ms;
        if let Some(wait) = told.or(retryable.then_some(1000)) {
            // Whole seconds (RFC 9110, 10.2.3), rather too many than too few.
            let seconds = HeaderValue::from(wait.div_ceil(1000).max(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

pub(crate) async fn no_such_path() -> Refusal {
    Refusal::new(
        ErrorKind::NotFound,
        "there is no such path: use POST /v1/chat/completions, GET /v1/models, GET /livez or GET /readyz",
    )
    .with_code("unknown_url")
}

pub(crate) async fn no_such_method() -> Refusal {
    Refusal::invalid("this path does not take that method")
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
        .with_code("method_not_supported")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_question_that_failed_says_what_it_cost_all_the_same() {
        let failed = v1::Failed {
            kind: ErrorKind::Unavailable.as_str().to_owned(),
            calls_made: 2,
            cost: 250_000,
            ..v1::Failed::default()
        };
        let told = Refusal::from(failed).body();
        assert_eq!(
            told["polymath"],
            json!({ "calls_made": 2, "cost": 0.25 }),
            "{told}"
        );
        let free = Refusal::new(ErrorKind::NotFound, "no").body();
        assert_eq!(free.get("polymath"), None);
    }

    #[test]
    fn a_refusal_says_when_to_come_again_in_whole_seconds() {
        let header = |failure: Failure| {
            let response = Refusal::from(failure).into_response();
            let header = response.headers().get(header::RETRY_AFTER).cloned();
            header.map(|h| h.to_str().unwrap().to_owned())
        };
        let full = || Failure::new(ErrorKind::ResourceExhausted, "full");
        let after = |ms| header(full().retry_after(Duration::from_millis(ms)));
        assert_eq!(after(1), Some("1".into()));
        assert_eq!(after(2500), Some("3".into()));
        assert_eq!(header(full()), Some("1".into()));
        assert_eq!(header(Failure::new(ErrorKind::NotFound, "no")), None);
    }
}
