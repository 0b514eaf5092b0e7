//! `POST /v1/ratings`: how good an answer was. OpenAI has no such call; the request id is what the header
//! `x-request-id` of the answer says.

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
};
use polymath_node::Node;
use polymath_types::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::envelope::Refusal;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rating {
    /// Empty or absent: the latest answer.
    #[serde(default)]
    request_id: String,
    /// 0 to 1.
    rating: f64,
}

pub(crate) async fn rate(
    State(node): State<Node>,
    body: Result<Json<Rating>, JsonRejection>,
) -> Result<Json<Value>, Refusal> {
    let Json(Rating { request_id, rating }) = body?;
    let rated = node.rate(&request_id, rating).await.map_err(|failure| {
        let unknown = failure.kind == ErrorKind::NotFound;
        let refusal = Refusal::from(failure);
        if unknown {
            refusal.with_code("request_not_found")
        } else {
            refusal
        }
    })?;
    Ok(Json(json!({
        "object": "rating", "request_id": rated.request_id, "rating": rating,
        "expert": rated.expert, "peer": rated.peer,
    })))
}
