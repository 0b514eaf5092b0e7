//! Which models a server has.

use polymath_types::{ErrorKind, Failure};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{Upstream, refusal::garbage};

/// Largest list that is read, bytes, and most models of it.
const LIST: usize = 4 << 20;
const MOST: usize = 10_000;
/// Names that are shown to whoever named a model that is not there.
const NEAR: usize = 5;

/// A model on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id there.
    pub id: String,
    /// Prompt and answer together, tokens; 0 where the server does not say.
    pub context: u32,
}

#[derive(Deserialize)]
struct List {
    data: Option<Vec<Listed>>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    /// vLLM.
    max_model_len: Option<u32>,
    /// llama-server.
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    // `n_ctx_train` is what the model was trained with: a server may run it with less.
    n_ctx: Option<u32>,
}

impl Upstream {
    /// The models that the server lists.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be reached or is silent, `Internal` when it sends no list.
    pub async fn models(&self) -> Result<Vec<Found>, Failure> {
        let until = Instant::now() + self.config().patience.whole;
        let exchange = self.send("/models", None, until).await?;
        let body = exchange.whole(LIST, until).await?;
        let list: List =
            serde_json::from_slice(&body).map_err(|_| garbage("something else than its models"))?;
        let usable = |id: &str| !id.is_empty() && id.len() <= 256 && !id.contains(char::is_control);
        let models = list.data.unwrap_or_default().into_iter();
        let models = models.filter(|m| usable(&m.id)).take(MOST).map(|m| Found {
            context: m
                .max_model_len
                .or_else(|| m.meta.and_then(|m| m.n_ctx))
                .unwrap_or(0),
            id: m.id,
        });
        Ok(models.collect())
    }

    /// The model this stands for, as the server lists it: whether the server is well, and has it.
    ///
    /// # Errors
    /// As [`Self::models`], and `NotFound`, with near names, when it has no such model.
    pub async fn find(&self) -> Result<Found, Failure> {
        let wanted = &self.config().model;
        let models = self.models().await?;
        // Ollama's tag for what was named without one.
        let latest = format!("{wanted}:latest");
        let is_it = |m: &&Found| m.id == *wanted || m.id == latest;
        if let Some(found) = models.iter().find(is_it) {
            return Ok(found.clone());
        }
        let near = near(wanted, models.iter().map(|m| m.id.as_str()));
        let advice = match (models.is_empty(), near.is_empty()) {
            (true, _) => "it lists none at all".to_owned(),
            (_, true) => format!("it has {} others", models.len()),
            _ => format!("near names: {}", near.join(", ")),
        };
        Err(Failure::new(
            ErrorKind::NotFound,
            format!("the server has no model '{wanted}': {advice}"),
        ))
    }
}

/// Those of `names` that somebody who wrote `wanted` may have meant, the nearest first.
pub fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut all: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let distance = distance(&wanted, &lower);
            let part = !wanted.is_empty() && (lower.contains(&wanted) || wanted.contains(&lower));
            let most = wanted.chars().count().max(4) / 2;
            (part || distance <= most).then_some((if part { 0 } else { distance }, name))
        })
        .collect();
    all.sort_unstable();
    all.into_iter()
        .take(NEAR)
        .map(|(_, n)| n.to_owned())
        .collect()
}

/// Insertions, deletions and substitutions from one to the other (Levenshtein 1966), of the first 64
/// characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_those_that_may_have_been_meant() {
        let names = ["llama3.2:3b", "qwen3:4b", "nomic-embed-text", "llama3.1:8b"];
        let near = |wanted| near(wanted, names.into_iter());
        assert_eq!(near("lama3.2:3b")[0], "llama3.2:3b");
        assert_eq!(near("Qwen3"), ["qwen3:4b"]);
        assert!(near("zzz").is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
