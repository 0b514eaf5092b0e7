//! `/v1/models`: the experts this node knows, from local state alone.

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use polymath_node::Node;
use polymath_proto::v1;
use polymath_types::ErrorKind;
use serde_json::{Value, json};

use crate::envelope::Refusal;

/// The name under which the router chooses.
pub(crate) const AUTO: &str = "auto";
/// Digits of an expert's id that stand for it where its name is taken.
const DIGITS: usize = 16;

pub(crate) async fn list(State(node): State<Node>) -> Json<Value> {
    let mut data = vec![auto()];
    let mut seen = BTreeSet::new();
    for expert in node.experts().experts {
        // Two experts may have one name; the second is pinned by its id.
        let id = if seen.insert(expert.name.clone()) {
            expert.name.clone()
        } else {
            expert.id.chars().take(DIGITS).collect()
        };
        data.push(entry(&id, &expert));
    }
    Json(json!({ "object": "list", "data": data }))
}

pub(crate) async fn one(
    State(node): State<Node>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let Path(name) = name.map_err(|e| Refusal::invalid(e.body_text()))?;
    if name == AUTO {
        return Ok(Json(auto()));
    }
    let experts = node.experts().experts;
    let by_id = |e: &v1::ListedExpert| name.len() >= 8 && e.id.starts_with(&name);
    experts
        .iter()
        .find(|e| e.name == name || e.model == name || by_id(e))
        .map(|e| Json(entry(&name, e)))
        .ok_or_else(|| {
            let names: BTreeSet<&str> = experts.iter().map(|e| e.name.as_str()).collect();
            let names: Vec<&str> = [AUTO].into_iter().chain(names).collect();
            Refusal::new(
                ErrorKind::NotFound,
                format!(
                    "no expert is called '{name}': there are {}",
                    names.join(", ")
                ),
            )
        })
}

fn auto() -> Value {
    json!({ "id": AUTO, "object": "model", "created": 0, "owned_by": "polymath", "kind": "generate" })
}

fn entry(id: &str, expert: &v1::ListedExpert) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": 0,
        "owned_by": "polymath",
        "name": expert.name,
        "kind": expert.kind,
        "model": expert.model,
        "expert_id": expert.id,
        "description": expert.description,
        "context_length": expert.context_length,
        "peers": expert.peers.len(),
        "hosted_here": expert.hosted_here,
    })
}
