//! A llama file's hyper-parameters, checked.

use super::cache::PAGE;
use crate::{
    LoadError,
    gguf::{ARCHITECTURES, Gguf},
    matrix::BLOCK,
};

/// Sizes are in elements unless a field says otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) feed_forward: usize,
    pub(crate) heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads (Ainslie et al. 2023).
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocabulary: usize,
    /// Tokens.
    pub(crate) context: usize,
    pub(crate) eps: f32,
    /// Dimensions of a head that are rotated.
    rotated: usize,
    rope_base: f32,
    /// Positions are divided by it (linear scaling); 1 is off.
    rope_divisor: f32,
}

impl Config {
    /// Reads and checks the header.
    pub(crate) fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let architecture = gguf.string("general.architecture")?;
        if architecture != "llama" {
            return Err(gguf.unsupported(
                format!("its architecture is '{architecture}'"),
                ARCHITECTURES,
            ));
        }
        if gguf.optional_u64("llama.expert_count").unwrap_or(0) > 0
            || gguf.has_tensor("blk.0.attn_q.bias")
        {
            return Err(
                gguf.unsupported("it has mixture-of-experts layers or biases", ARCHITECTURES)
            );
        }
        let hidden = gguf.count("llama.embedding_length", 1..=1 << 16)?;
        let heads = gguf.count("llama.attention.head_count", 1..=1024)?;
        let kv_heads = match gguf.optional_u64("llama.attention.head_count_kv") {
            Some(_) => gguf.count("llama.attention.head_count_kv", 1..=heads)?,
            None => heads,
        };
        let head_dim = match gguf.optional_u64("llama.attention.key_length") {
            Some(_) => gguf.count("llama.attention.key_length", 2..=1024)?,
            None => hidden / heads,
        };
        let rotated = match gguf.optional_u64("llama.rope.dimension_count") {
            Some(_) => gguf.count("llama.rope.dimension_count", 2..=head_dim.max(2))?,
            None => head_dim,
        };
        let config = Self {
            hidden,
            layers: gguf.count("llama.block_count", 1..=1024)?,
            feed_forward: gguf.count("llama.feed_forward_length", 1..=1 << 18)?,
            heads,
            kv_heads,
            head_dim,
            vocabulary: gguf
                .tensor_rows("token_embd.weight")
                .filter(|n| (1..=1 << 22).contains(n))
                .ok_or_else(|| gguf.corrupt("it has no token embedding"))?,
            context: gguf.count("llama.context_length", 1..=1 << 24)?,
            eps: gguf
                .optional_f32("llama.attention.layer_norm_rms_epsilon")
                .unwrap_or(1e-5),
            rotated,
            rope_base: gguf
                .optional_f32("llama.rope.freq_base")
                .unwrap_or(10_000.0),
            rope_divisor: rope_divisor(gguf)?,
        };
        let fits = heads.is_multiple_of(kv_heads)
            && head_dim >= 2
            && head_dim.is_multiple_of(2)
            && rotated.is_multiple_of(2)
            && rotated <= head_dim;
        if !fits {
            return Err(gguf.corrupt(format!(
                "{heads} heads of {head_dim}, {rotated} of them rotated, over {kv_heads} key heads do not fit together"
            )));
        }
        if [hidden, heads * head_dim, config.feed_forward]
            .iter()
            .any(|n| !n.is_multiple_of(BLOCK))
        {
            return Err(gguf.unsupported(
                format!(
                    "its layers of {hidden} and {} are not multiples of {BLOCK}",
                    config.feed_forward
                ),
                ARCHITECTURES,
            ));
        }
        if !(config.eps > 0.0 && config.rope_base > 1.0 && config.rope_divisor >= 1.0) {
            return Err(gguf.corrupt("its normalisation or rotary parameters are out of range"));
        }
        Ok(config)
    }

    /// Bytes of a KV cache that holds `tokens`.
    pub(crate) fn cache_bytes(&self, tokens: usize) -> u64 {
        let page = self.layers * 2 * self.kv_heads * PAGE * self.head_dim * size_of::<f32>();
        (tokens.div_ceil(PAGE) as u64).saturating_mul(page as u64)
    }

    /// Bytes a forward pass of so many tokens works with, the logits of `answers` among them.
    pub(crate) fn working_bytes(&self, tokens: usize, answers: usize) -> u64 {
        let query = self.heads * self.head_dim;
        let key = self.kv_heads * self.head_dim;
        // Floats and the same rounded for the products, layer by layer: see `Llama::forward`.
        let row = 4 * self.hidden + 2 * query + 2 * key + 3 * self.feed_forward;
        let floats = tokens * 2 * row + answers * 2 * self.vocabulary;
        (floats * size_of::<f32>()) as u64
    }

    /// Rotary frequencies, radians a token, one a rotated pair (Su et al. 2021).
    pub(super) fn inverse_frequencies(&self) -> Vec<f32> {
        (0..self.rotated / 2)
            .map(|i| {
                let exponent = -2.0 * i as f64 / self.rotated as f64;
                (f64::from(self.rope_base).powf(exponent) / f64::from(self.rope_divisor)) as f32
            })
            .collect()
    }
}

fn rope_divisor(gguf: &Gguf) -> Result<f32, LoadError> {
    match gguf.optional_string("llama.rope.scaling.type") {
        None | Some("none") => Ok(1.0),
        Some("linear") => Ok(gguf
            .optional_f32("llama.rope.scaling.factor")
            .unwrap_or(1.0)),
        Some(other) => Err(gguf.unsupported(
            format!("its rope scaling is '{other}'"),
            "no or linear rope scaling",
        )),
    }
}
