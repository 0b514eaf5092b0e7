//! Failures in the form OpenAI's clients read.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure};
use serde_json::{Value, json};

/// A failure on its way to an HTTP client.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Failure);

impl Refusal {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self(Failure::new(ErrorKind::InvalidInput, message))
    }

    /// The error object alone.
    pub(crate) fn body(&self) -> Value {
        let kind = self.0.kind;
        let group = match kind.http_status() {
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
        json!({ "error": { "message": self.0.to_string(), "type": group, "param": null, "code": code } })
    }
}

impl From<v1::Failed> for Refusal {
    fn from(failed: v1::Failed) -> Self {
        Self(polymath_node::failure(failed))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body())).into_response();
        if matches!(
            self.0.kind,
            ErrorKind::ResourceExhausted | ErrorKind::Unavailable
        ) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(crate) async fn no_such_path() -> Refusal {
    Refusal(Failure::new(
        ErrorKind::NotFound,
        "there is no such path: use POST /v1/chat/completions, GET /v1/models, GET /livez or GET /readyz",
    ))
}

pub(crate) async fn no_such_method() -> Response {
    let body = Refusal::invalid("this path does not take that method").body();
    (StatusCode::METHOD_NOT_ALLOWED, Json(body)).into_response()
}
