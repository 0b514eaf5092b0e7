//! The llama architecture (Touvron et al. 2023) from GGUF, on the CPU.
//!
//! One forward pass takes tokens of any number of sequences ("ragged batch"): every matrix is read
//! once for all of them, attention runs over each sequence's own cache. A token's logits do not
//! depend on what else is in the batch (see [`crate::matrix`]), nor on whether it came as prompt
//! or was generated; so an answer carried on from a forced prefix is the same answer.

mod attention;
mod cache;
mod config;

use rayon::prelude::*;

pub(crate) use cache::KvCache;
pub(crate) use config::Config;

use crate::{
    LoadError,
    gguf::{Gguf, first_line},
    matrix::{Activations, Matrix},
    vector,
};

/// The weights. Shared between experts, never changed.
#[derive(Debug)]
pub(crate) struct Llama {
    config: Config,
    /// Divisors of the rotary frequencies, one a pair of dimensions.
    inverse_frequencies: Vec<f32>,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None`: tied to the embedding.
    head: Option<Matrix>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    output: Matrix,
    feed_forward_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A sequence's part in a forward pass.
pub(crate) struct Span<'a> {
    /// What the sequence holds so far; grows by `tokens`.
    pub(crate) cache: &'a mut KvCache,
    /// At least one token, all in the vocabulary.
    pub(crate) tokens: &'a [u32],
    /// Whether the logits after the last token are wanted.
    pub(crate) wants_logits: bool,
}

impl Llama {
    /// Loads the weights of an open file.
    pub(crate) fn load(gguf: &mut Gguf) -> Result<Self, LoadError> {
        let config = Config::read(gguf)?;
        let (d, q, kv) = (
            config.hidden,
            config.heads * config.head_dim,
            config.kv_heads * config.head_dim,
        );
        let matrix = |gguf: &mut Gguf, name: &str, rows, cols| {
            let tensor = gguf.tensor(name, &[rows, cols])?;
            Matrix::from_tensor(&tensor)
                .map_err(|e| gguf.corrupt(format!("tensor '{name}': {}", first_line(&e))))
        };
        let layers = (0..config.layers)
            .map(|i| {
                let name = |part: &str| format!("blk.{i}.{part}.weight");
                Ok(Layer {
                    attention_norm: gguf.vector(&name("attn_norm"), d)?,
                    query: matrix(gguf, &name("attn_q"), q, d)?,
                    key: matrix(gguf, &name("attn_k"), kv, d)?,
                    value: matrix(gguf, &name("attn_v"), kv, d)?,
                    output: matrix(gguf, &name("attn_output"), d, q)?,
                    feed_forward_norm: gguf.vector(&name("ffn_norm"), d)?,
                    gate: matrix(gguf, &name("ffn_gate"), config.feed_forward, d)?,
                    up: matrix(gguf, &name("ffn_up"), config.feed_forward, d)?,
                    down: matrix(gguf, &name("ffn_down"), d, config.feed_forward)?,
                })
            })
            .collect::<Result<_, LoadError>>()?;
        let head = if gguf.has_tensor("output.weight") {
            Some(matrix(gguf, "output.weight", config.vocabulary, d)?)
        } else {
            None
        };
        let mut inverse_frequencies = config.inverse_frequencies();
        if gguf.has_tensor("rope_freqs.weight") {
            let factors = gguf.vector("rope_freqs.weight", inverse_frequencies.len())?;
            for (f, factor) in inverse_frequencies.iter_mut().zip(factors) {
                *f /= factor;
            }
        }
        Ok(Self {
            embedding: matrix(gguf, "token_embd.weight", config.vocabulary, d)?,
            norm: gguf.vector("output_norm.weight", d)?,
            config,
            inverse_frequencies,
            layers,
            head,
        })
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes the weights take.
    pub(crate) fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|l| {
            [
                &l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down,
            ]
            .map(Matrix::bytes)
        });
        layers.sum::<usize>() + self.embedding.bytes() + self.head.as_ref().map_or(0, Matrix::bytes)
    }

    /// An empty cache for one sequence.
    pub(crate) fn new_cache(&self) -> KvCache {
        KvCache::new(
            self.config.layers,
            self.config.kv_heads,
            self.config.head_dim,
        )
    }

    /// Runs all spans' tokens through the model; returns, for each span in turn, the logits over
    /// the vocabulary after its last token, or nothing where they are not wanted.
    pub(crate) fn forward(&self, spans: &mut [Span<'_>]) -> Vec<Option<Vec<f32>>> {
        let c = &self.config;
        let d = c.hidden;
        let rows: usize = spans.iter().map(|s| s.tokens.len()).sum();
        let mut x = vec![0.0; rows * d];
        let tokens = spans.iter().flat_map(|s| s.tokens.iter());
        for (row, token) in x.chunks_exact_mut(d).zip(tokens) {
            self.embedding.row(*token as usize, row);
        }
        for span in spans.iter_mut() {
            span.cache.reserve(span.tokens.len());
        }
        let places = attention::places(spans);
        let rotations = attention::rotations(&places, &self.inverse_frequencies);

        let (q_len, kv_len) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let mut normed = vec![0.0; rows * d];
        let mut query = vec![0.0; rows * q_len];
        let mut key = vec![0.0; rows * kv_len];
        let mut value = vec![0.0; rows * kv_len];
        let mut mixed = vec![0.0; rows * q_len];
        let mut gate = vec![0.0; rows * c.feed_forward];
        let mut up = vec![0.0; rows * c.feed_forward];
        for (index, layer) in self.layers.iter().enumerate() {
            vector::rms_norm(&x, &layer.attention_norm, c.eps, &mut normed);
            let input = Activations::round(&normed, d);
            layer.query.forward(&input, &mut query);
            layer.key.forward(&input, &mut key);
            layer.value.forward(&input, &mut value);
            attention::rotate(&mut query, q_len, c.head_dim, &rotations);
            attention::rotate(&mut key, kv_len, c.head_dim, &rotations);
            for (row, place) in places.iter().enumerate() {
                let at = row * kv_len..(row + 1) * kv_len;
                spans[place.span]
                    .cache
                    .write(index, place.position, &key[at.clone()], &value[at]);
            }
            attention::attend(c, spans, &places, index, &query, &mut mixed);
            layer
                .output
                .forward(&Activations::round(&mixed, q_len), &mut normed);
            vector::add(&mut x, &normed);

            vector::rms_norm(&x, &layer.feed_forward_norm, c.eps, &mut normed);
            let input = Activations::round(&normed, d);
            layer.gate.forward(&input, &mut gate);
            layer.up.forward(&input, &mut up);
            gate.par_chunks_mut(8 * c.feed_forward)
                .zip(up.par_chunks(8 * c.feed_forward))
                .for_each(|(gate, up)| vector::swiglu(gate, up));
            layer
                .down
                .forward(&Activations::round(&gate, c.feed_forward), &mut normed);
            vector::add(&mut x, &normed);
        }
        for span in spans.iter_mut() {
            span.cache.advance(span.tokens.len());
        }
        self.logits(spans, &x)
    }

    fn logits(&self, spans: &[Span<'_>], x: &[f32]) -> Vec<Option<Vec<f32>>> {
        let d = self.config.hidden;
        let mut end = 0;
        let mut last = Vec::new();
        for span in spans {
            end += span.tokens.len();
            if span.wants_logits {
                last.extend_from_slice(&x[(end - 1) * d..end * d]);
            }
        }
        let mut normed = vec![0.0; last.len()];
        vector::rms_norm(&last, &self.norm, self.config.eps, &mut normed);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let mut logits = vec![0.0; last.len() / d * head.rows()];
        if !logits.is_empty() {
            head.forward(&Activations::round(&normed, d), &mut logits);
        }
        let mut each = logits.chunks_exact(head.rows());
        spans
            .iter()
            .map(|s| {
                if s.wants_logits {
                    each.next().map(<[f32]>::to_vec)
                } else {
                    None
                }
            })
            .collect()
    }
}
