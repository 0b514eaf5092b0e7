//! `/v1/models`: the experts this node knows, from local state alone.

use axum::{
    Json,
    extract::{Path, State},
};
use polymath_node::Node;
use polymath_proto::v1;
use polymath_types::ErrorKind;
use serde_json::{Value, json};

use crate::envelope::Refusal;

/// The name under which the router chooses.
pub(crate) const AUTO: &str = "auto";

pub(crate) async fn list(State(node): State<Node>) -> Json<Value> {
    let mut data = vec![auto()];
    let mut seen = std::collections::BTreeSet::new();
    for expert in node.experts().experts {
        if seen.insert(expert.name.clone()) {
            data.push(entry(&expert));
        }
    }
    Json(json!({ "object": "list", "data": data }))
}

pub(crate) async fn one(
    State(node): State<Node>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    if name == AUTO {
        return Ok(Json(auto()));
    }
    let experts = node.experts().experts;
    experts
        .iter()
        .find(|e| e.name == name || e.model == name || e.id == name)
        .map(|e| Json(entry(e)))
        .ok_or_else(|| {
            let names: Vec<&str> = experts.iter().map(|e| e.name.as_str()).collect();
            Refusal::new(
                ErrorKind::NotFound,
                format!(
                    "no expert is called '{name}': there are {AUTO}{}{}",
                    if names.is_empty() { "" } else { ", " },
                    names.join(", ")
                ),
            )
        })
}

fn auto() -> Value {
    json!({ "id": AUTO, "object": "model", "created": 0, "owned_by": "polymath", "kind": "generate" })
}

fn entry(expert: &v1::ListedExpert) -> Value {
    json!({
        "id": expert.name,
        "object": "model",
        "created": 0,
        "owned_by": "polymath",
        "kind": expert.kind,
        "model": expert.model,
        "expert_id": expert.id,
        "description": expert.description,
        "context_length": expert.context_length,
        "peers": expert.peers.len(),
        "hosted_here": expert.hosted_here,
    })
}
