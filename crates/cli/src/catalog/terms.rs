//! Prices, limits and labels, as they are printed.

use std::collections::BTreeMap;

use polymath_proto::v1;
use polymath_types::Terms;
use serde_json::{Value, json};

pub(crate) fn json(terms: Terms) -> Value {
    json!({
        "price_in": credits(terms.price_in), "price_out": credits(terms.price_out),
        "context": terms.context, "concurrency": terms.concurrency,
    })
}

#[allow(clippy::cast_precision_loss)] // at most 10^12
fn credits(millionths: u64) -> f64 {
    millionths as f64 / Terms::CREDIT as f64
}

/// `0.5/1.5`: credits for 1,000 tokens of prompt and answer.
pub(crate) fn price(terms: Terms) -> String {
    if terms.price() == 0 {
        return "free".to_owned();
    }
    format!("{}/{}", credits(terms.price_in), credits(terms.price_out))
}

pub(crate) fn from_proto(terms: Option<v1::Terms>) -> Terms {
    let terms = terms.unwrap_or_default();
    Terms {
        price_in: terms.price_in,
        price_out: terms.price_out,
        context: terms.context,
        concurrency: terms.concurrency,
    }
}

/// ` for 0.5/1.5 credits, at most 4096 tokens, 4 calls at once`; nothing where nothing is stated.
pub(super) fn stated(terms: Terms) -> String {
    let mut parts = Vec::new();
    if terms.price() > 0 {
        parts.push(format!("for {} credits", price(terms)));
    }
    if terms.context > 0 {
        parts.push(format!("at most {} tokens", terms.context));
    }
    if terms.concurrency > 0 {
        parts.push(format!("{} calls at once", terms.concurrency));
    }
    parts.iter().map(|part| format!(", {part}")).collect()
}

/// `office=berlin, rack=3`.
pub(super) fn labels(all: &BTreeMap<String, String>) -> String {
    let all: Vec<String> = all.iter().map(|(k, v)| format!("{k}={v}")).collect();
    all.join(", ")
}
