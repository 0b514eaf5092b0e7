//! The HTTP side of a node: OpenAI's API for chat, the list of models, and health.
//!
//! This crate decides how HTTP requests become questions and how answers become HTTP; it enters
//! by the same door as the CLI, [`Node::ask`]. It knows nothing of libp2p.

mod chat;
mod envelope;
mod guard;
mod models;
mod ratings;

use std::{net::SocketAddr, time::Duration};

use axum::{
    BoxError, Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::StreamExt as _;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use polymath_node::{Connections, Node};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::envelope::NoRoom;

/// Largest request body, bytes.
const LARGEST_BODY: usize = 8 << 20;

/// Time for the head of a request, and for a connection to have another one.
const HEAD: Duration = Duration::from_secs(60);
/// What is buffered of a connection each way, bytes: a client that reads slowly slows its answer down.
const BUFFER: usize = 64 << 10;

/// Serves HTTP on `listener` until `cancel`.
pub async fn serve(
    node: Node,
    listener: TcpListener,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let routes = routes(node, listener.local_addr()?);
    let connections = Connections::new(listener, polymath_node::local_connections());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER);
    let ending = GracefulShutdown::new();
    while let Some(connection) = cancel.run_until_cancelled(connections.next()).await {
        let service = TowerToHyperService::new(routes.clone());
        let serving = ending.watch(http.serve_connection(TokioIo::new(connection), service));
        tokio::spawn(async move {
            if let Err(why) = serving.await {
                tracing::debug!("an HTTP connection ended: {why}");
            }
        });
    }
    ending.shutdown().await;
    Ok(())
}

fn routes(node: Node, address: SocketAddr) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/ratings", post(ratings::rate))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{name}", get(models::one))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .fallback(envelope::no_such_path)
        .method_not_allowed_fallback(envelope::no_such_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(node.clone(), within_room))
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

/// Counts what arrives of a body as what peers send is counted, and takes no more than there is room for.
async fn within_room(State(node): State<Node>, request: Request, next: Next) -> Response {
    let mut held = node.arriving();
    let request = request.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |piece| {
            let piece = piece.map_err(BoxError::from)?;
            held.more(piece.len()).map_err(NoRoom)?;
            Ok::<_, BoxError>(piece)
        }))
    });
    next.run(request).await
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
