//! Vectors of texts.

use polymath_types::Failure;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::{Place, Upstream, refusal::garbage};

/// Largest answer that is read, bytes: 256 vectors of 4,096 numbers in decimal.
const LARGEST: usize = 32 << 20;
/// Longest vector.
const LONGEST: usize = 1 << 16;

/// Vectors, and what they took.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    /// One a text, in the texts' order, of equal lengths, scaled to length 1.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of the texts.
    pub prompt_tokens: u32,
}

#[derive(Deserialize)]
struct Response {
    data: Vec<Embedding>,
    usage: Option<Used>,
}

#[derive(Deserialize)]
struct Embedding {
    index: Option<usize>,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Used {
    prompt_tokens: Option<u32>,
}

impl Upstream {
    /// Turns texts into vectors. Dropping the future ends it at the server too.
    ///
    /// # Errors
    /// As of any question, and `Internal` when the server does not send one vector for each text.
    pub async fn embed(&self, texts: &[String]) -> Result<Vectors, Failure> {
        let until = Instant::now() + self.config().patience.first;
        self.embed_in(self.place(until).await?, texts).await
    }

    /// The same, in a place that is taken already.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub async fn embed_in(&self, _place: Place, texts: &[String]) -> Result<Vectors, Failure> {
        let until = Instant::now() + self.config().patience.whole;
        let body =
            json!({ "model": self.config().model, "input": texts, "encoding_format": "float" });
        let exchange = self.send("/embeddings", Some(body.to_string().into_bytes()), until);
        let body = exchange.await?.whole(LARGEST, until).await?;
        let response: Response =
            serde_json::from_slice(&body).map_err(|_| garbage("something else than vectors"))?;
        let mut slots: Vec<Option<Vec<f32>>> = vec![None; texts.len()];
        let length = response.data.first().map_or(0, |e| e.embedding.len());
        for (i, embedding) in response.data.into_iter().enumerate() {
            let slot = slots.get_mut(embedding.index.unwrap_or(i));
            let slot = slot.filter(|s| s.is_none());
            let slot = slot.ok_or_else(|| garbage("vectors of texts that nobody gave it"))?;
            *slot = Some(unit(embedding.embedding, length)?);
        }
        let vectors: Option<Vec<_>> = slots.into_iter().collect();
        let bytes: usize = texts.iter().map(String::len).sum();
        let most = u32::try_from(bytes + 8 * texts.len()).unwrap_or(u32::MAX);
        let said = response.usage.and_then(|u| u.prompt_tokens);
        Ok(Vectors {
            vectors: vectors.ok_or_else(|| garbage("fewer vectors than texts"))?,
            prompt_tokens: said.filter(|n| *n <= most).unwrap_or(most / 4),
        })
    }
}

fn unit(mut vector: Vec<f32>, length: usize) -> Result<Vec<f32>, Failure> {
    if vector.is_empty() || vector.len() > LONGEST || vector.len() != length {
        return Err(garbage("vectors of odd lengths"));
    }
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return Err(garbage("a vector without a direction"));
    }
    vector.iter_mut().for_each(|x| *x /= norm);
    Ok(vector)
}
