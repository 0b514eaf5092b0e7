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
    let experts = node.experts().experts;
    // What the mesh's admins call an expert goes before what it calls itself.
    for (alias, name) in node.aliases() {
        if let Some(expert) = experts.iter().find(|e| is_called(e, &name)) {
            data.push(entry(&alias, expert));
            seen.insert(alias);
        }
    }
    for expert in experts {
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
    let aliases = node.aliases();
    let meant = aliases.get(&name).unwrap_or(&name);
    experts
        .iter()
        .find(|e| is_called(e, meant))
        .map(|e| Json(entry(&name, e)))
        .ok_or_else(|| {
            let names: BTreeSet<&str> = experts.iter().map(|e| e.name.as_str()).collect();
            let aliases = aliases.keys().map(String::as_str);
            let names: Vec<&str> = [AUTO].into_iter().chain(names).chain(aliases).collect();
            Refusal::new(
                ErrorKind::NotFound,
                format!(
                    "no expert is called '{name}': there are {}",
                    names.join(", ")
                ),
            )
        })
}

fn is_called(expert: &v1::ListedExpert, name: &str) -> bool {
    let by_id = name.len() >= 8 && expert.id.starts_with(name);
    expert.name == name || expert.model == name || by_id
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
