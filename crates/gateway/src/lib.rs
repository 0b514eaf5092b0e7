//! The HTTP side of a node: OpenAI's API for chat, the list of models, and health.
//!
//! This crate decides how HTTP requests become questions and how answers become HTTP; it enters
//! by the same door as the CLI, [`Node::ask`]. It knows nothing of libp2p.

mod chat;
mod envelope;
mod guard;
mod models;

use std::net::SocketAddr;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use polymath_node::Node;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Largest request body, bytes.
const LARGEST_BODY: usize = 8 << 20;

/// Serves HTTP on `listener` until `cancel`.
pub async fn serve(
    node: Node,
    listener: TcpListener,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    axum::serve(listener, routes(node, address))
        .with_graceful_shutdown(cancel.cancelled_owned())
        .await
}

fn routes(node: Node, address: SocketAddr) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{name}", get(models::one))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .fallback(envelope::no_such_path)
        .method_not_allowed_fallback(envelope::no_such_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn(announced_size))
        .layer(middleware::from_fn_with_state(address, guard::same_machine))
        .with_state(node)
}

/// Refuses a body whose announced length is too large, before any of it is awaited.
async fn announced_size(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
    match length {
        Some(length) if length > LARGEST_BODY => envelope::Refusal::invalid(format!(
            "the body has {length} bytes; at most {LARGEST_BODY} are taken"
        ))
        .with_status(StatusCode::PAYLOAD_TOO_LARGE)
        .into_response(),
        _ => next.run(request).await,
    }
}

/// The process answers.
async fn alive() -> Json<Value> {
    Json(json!({ "alive": true }))
}

/// Every hosted expert is loaded, so questions are answered at once.
async fn ready(State(node): State<Node>) -> (StatusCode, Json<Value>) {
    let status = node.status();
    let experts: Vec<Value> = status
        .hosted
        .iter()
        .map(|e| json!({ "name": e.name, "state": e.state, "detail": e.detail }))
        .collect();
    let ready = status.hosted.iter().all(|e| e.state == "ready");
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        code,
        Json(
            json!({ "ready": ready, "experts": experts, "connected_peers": status.connected_peers }),
        ),
    )
}
