//! BERT sentence embeddings (Devlin et al. 2018; pooling as in Reimers and Gurevych 2019): the
//! encoder of MiniLM and its kin, in 32-bit floats on candle's matrix product.

use std::{collections::HashMap, io::Read, path::Path};

use candle_core::{D, DType, Device, Result as CandleResult, Tensor};
use candle_nn::ops::softmax_last_dim;
use tokenizers::Tokenizer;

use crate::{
    EngineError, LoadError, Overlong,
    encode::BATCH,
    gguf::first_line,
    memory::{Booking, Need},
};

/// Longest text that is looked at, tokens, where the model allows as many: what MiniLM was tuned
/// on.
const MAX_TOKENS: usize = 256;

/// Bytes that the tokenizer keeps for each piece of its vocabulary, about.
const VOCABULARY_ENTRY: u64 = 512;

#[derive(Debug, serde::Deserialize)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    vocab_size: usize,
    layer_norm_eps: f64,
    hidden_act: String,
}

/// What an encoder's configuration says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderInfo {
    /// Longest text, tokens.
    pub context_length: u32,
    /// Length of its vectors.
    pub dimensions: u32,
}

/// Reads an encoder's `config.json`.
///
/// # Errors
/// Those of a damaged file, and [`LoadError::Unsupported`] for what is no BERT sentence encoder.
pub fn inspect_encoder(config: &Path) -> Result<EncoderInfo, LoadError> {
    let config = Config::read(config)?;
    Ok(EncoderInfo {
        context_length: MAX_TOKENS.min(config.max_position_embeddings) as u32,
        dimensions: config.hidden_size as u32,
    })
}

/// Largest configuration, bytes.
const LARGEST_CONFIG: u64 = 1 << 20;

impl Config {
    fn read(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let unreadable = |reason: String| LoadError::Unreadable {
            path: name.clone(),
            reason,
        };
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(LARGEST_CONFIG + 1).read_to_end(&mut bytes));
        read.map_err(|e| unreadable(e.to_string()))?;
        if bytes.len() as u64 > LARGEST_CONFIG {
            return Err(unreadable("it is too large for a configuration".into()));
        }
        #[derive(serde::Deserialize)]
        struct Named {
            model_type: Option<String>,
        }
        let corrupt = |e: serde_json::Error| LoadError::Corrupt {
            path: name.clone(),
            reason: e.to_string(),
        };
        let unsupported = |what: String| LoadError::Unsupported {
            path: name.clone(),
            what,
            supported: "BERT sentence encoders with gelu".into(),
        };
        let named: Named = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if let Some(other) = named.model_type.filter(|t| t != "bert") {
            let shown: String = other.chars().take(64).collect();
            return Err(unsupported(format!("its architecture is '{shown}'")));
        }
        let c: Self = serde_json::from_slice(&bytes).map_err(corrupt)?;
        let sound = (1..=1 << 14).contains(&c.hidden_size)
            && (1..=256).contains(&c.num_hidden_layers)
            && (1..=c.hidden_size).contains(&c.num_attention_heads)
            && c.hidden_size.is_multiple_of(c.num_attention_heads)
            && c.max_position_embeddings >= 8
            && c.layer_norm_eps > 0.0;
        if !sound || c.hidden_act != "gelu" {
            let what = "its sizes or its activation are not those of a BERT sentence encoder";
            return Err(unsupported(what.into()));
        }
        Ok(c)
    }

    /// What the encoder takes, whose file has `stored` bytes.
    fn need(&self, stored: u64) -> Need {
        // What the file claims is not yet checked against its tensors.
        let n = |count: usize| count.min(1 << 24) as u64;
        let (hidden, inner) = (n(self.hidden_size), n(self.intermediate_size.min(1 << 18)));
        let rows = n(self.vocab_size) + n(self.max_position_embeddings) + 2;
        let layer = 4 * hidden * hidden + 2 * hidden * inner + 9 * hidden + inner;
        let floats = rows * hidden + n(self.num_hidden_layers) * layer;
        let longest = n(MAX_TOKENS.min(self.max_position_embeddings));
        let texts = n(BATCH);
        // As `forward` has them at once: four matrices of attention, eight of states, two inner ones.
        let attention = 4 * texts * n(self.num_attention_heads) * longest * longest;
        let states = texts * longest * (8 * hidden + 2 * inner);
        Need {
            weights: floats * 4 + n(self.vocab_size) * VOCABULARY_ENTRY,
            cache: 0,
            working: (attention + states) * 4,
            // The file, and its tensors before they are turned.
            loading: 2 * stored,
        }
    }
}

/// A sentence encoder.
#[derive(Debug)]
pub(crate) struct Bert {
    config: Config,
    tokenizer: Tokenizer,
    words: Tensor,
    positions: Tensor,
    /// The embedding of segment 0, the only one a lone text has.
    segment: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    _booking: Booking,
}

#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

#[derive(Debug)]
struct Linear {
    /// Transposed: inputs by outputs.
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    output_norm: Norm,
}

/// Tensors of a safetensors file, by name.
struct Tensors {
    path: String,
    map: HashMap<String, Tensor>,
}

impl Tensors {
    fn read(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        if let Err(e) = std::fs::metadata(path) {
            return Err(LoadError::Unreadable {
                path: name,
                reason: e.to_string(),
            });
        }
        let map =
            candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| LoadError::Corrupt {
                path: name.clone(),
                reason: first_line(&e),
            })?;
        Ok(Self { path: name, map })
    }

    fn take(&mut self, name: &str, dims: &[usize]) -> Result<Tensor, LoadError> {
        let corrupt = |reason: String| LoadError::Corrupt {
            path: self.path.clone(),
            reason,
        };
        // Some exports put every name under "bert.".
        let tensor = self
            .map
            .remove(name)
            .or_else(|| self.map.remove(&format!("bert.{name}")))
            .ok_or_else(|| corrupt(format!("the tensor '{name}' is missing")))?;
        if tensor.dims() != dims {
            return Err(corrupt(format!(
                "the tensor '{name}' has shape {:?}, not {dims:?}",
                tensor.dims()
            )));
        }
        tensor
            .to_dtype(DType::F32)
            .map_err(|e| corrupt(format!("tensor '{name}': {}", first_line(&e))))
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, LoadError> {
        let weight = self.take(&format!("{name}.weight"), &[outputs, inputs])?;
        let weight = weight
            .t()
            .and_then(|t| t.contiguous())
            .map_err(|e| LoadError::Corrupt {
                path: self.path.clone(),
                reason: first_line(&e),
            })?;
        Ok(Linear {
            weight,
            bias: self.take(&format!("{name}.bias"), &[outputs])?,
        })
    }

    fn norm(&mut self, name: &str, size: usize, eps: f64) -> Result<Norm, LoadError> {
        Ok(Norm {
            weight: self.take(&format!("{name}.weight"), &[size])?,
            bias: self.take(&format!("{name}.bias"), &[size])?,
            eps,
        })
    }
}

impl Norm {
    fn apply(&self, x: &Tensor) -> CandleResult<Tensor> {
        candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps as f32)
    }
}

impl Linear {
    /// `x` has rank 2.
    fn apply(&self, x: &Tensor) -> CandleResult<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Bert {
    /// Loads the encoder from its three files, after `book` has found room for it.
    pub(crate) fn load(
        weights: &Path,
        config: &Path,
        tokenizer: &Path,
        book: impl FnOnce(Need) -> Result<Booking, LoadError>,
    ) -> Result<Self, LoadError> {
        let tokenizer_path = tokenizer.display().to_string();
        let config = Config::read(config)?;
        let c = &config;
        if let Err(e) = std::fs::metadata(tokenizer) {
            return Err(LoadError::Unreadable {
                path: tokenizer_path,
                reason: e.to_string(),
            });
        }
        let stored = std::fs::metadata(weights).map_or(0, |m| m.len());
        let booking = book(c.need(stored))?;
        let corrupt = |e: tokenizers::Error| LoadError::Corrupt {
            path: tokenizer_path.clone(),
            reason: e.to_string(),
        };
        let mut tokenizer = Tokenizer::from_file(tokenizer).map_err(corrupt)?;
        tokenizer.with_padding(None);
        // Done by [`Bert::tokens`], which can also refuse.
        tokenizer.with_truncation(None).map_err(corrupt)?;

        let mut t = Tensors::read(weights)?;
        let (h, i, eps) = (c.hidden_size, c.intermediate_size, c.layer_norm_eps);
        let layers = (0..c.num_hidden_layers)
            .map(|n| {
                let name = |part: &str| format!("encoder.layer.{n}.{part}");
                Ok(Layer {
                    query: t.linear(&name("attention.self.query"), h, h)?,
                    key: t.linear(&name("attention.self.key"), h, h)?,
                    value: t.linear(&name("attention.self.value"), h, h)?,
                    output: t.linear(&name("attention.output.dense"), h, h)?,
                    attention_norm: t.norm(&name("attention.output.LayerNorm"), h, eps)?,
                    up: t.linear(&name("intermediate.dense"), i, h)?,
                    down: t.linear(&name("output.dense"), h, i)?,
                    output_norm: t.norm(&name("output.LayerNorm"), h, eps)?,
                })
            })
            .collect::<Result<_, LoadError>>()?;
        let segments = t.take("embeddings.token_type_embeddings.weight", &[2, h])?;
        let segment = segments.narrow(0, 0, 1).map_err(|e| LoadError::Corrupt {
            path: t.path.clone(),
            reason: first_line(&e),
        })?;
        Ok(Self {
            words: t.take("embeddings.word_embeddings.weight", &[c.vocab_size, h])?,
            positions: t.take(
                "embeddings.position_embeddings.weight",
                &[c.max_position_embeddings, h],
            )?,
            segment,
            norm: t.norm("embeddings.LayerNorm", h, eps)?,
            layers,
            tokenizer,
            config,
            _booking: booking,
        })
    }

    /// Length of a vector.
    pub(crate) const fn dimensions(&self) -> usize {
        self.config.hidden_size
    }

    /// Unit vectors of `texts`, and the tokens looked at.
    pub(crate) fn embed(
        &self,
        texts: &[String],
        overlong: Overlong,
    ) -> Result<(Vec<Vec<f32>>, u32), EngineError> {
        let ids = texts
            .iter()
            .map(|text| self.tokens(text, overlong))
            .collect::<Result<Vec<_>, _>>()?;
        let tokens = ids.iter().map(Vec::len).sum::<usize>();
        if tokens == 0 {
            return Ok((vec![vec![0.0; self.dimensions()]; texts.len()], 0));
        }
        let vectors = self
            .forward(&ids)
            .map_err(|e| EngineError::Internal(first_line(&e)))?;
        Ok((vectors, tokens as u32))
    }

    /// Token ids of a text, the encoder's own first and last token included.
    fn tokens(&self, text: &str, overlong: Overlong) -> Result<Vec<u32>, EngineError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, true)
            .map_err(|e| EngineError::Internal(e.to_string()))?;
        let ids = encoding.get_ids();
        let limit = MAX_TOKENS.min(self.config.max_position_embeddings);
        match (overlong, ids) {
            (_, ids) if ids.len() <= limit => Ok(ids.to_vec()),
            (Overlong::Refuse, ids) => Err(EngineError::TextOverflow {
                length: ids.len(),
                unit: "tokens",
                limit,
            }),
            (Overlong::Cut, [ids @ .., last]) => {
                let beginning = ids.iter().take(limit - 1);
                Ok(beginning.chain([last]).copied().collect())
            }
            (Overlong::Cut, []) => Ok(Vec::new()),
        }
    }

    fn forward(&self, ids: &[Vec<u32>]) -> CandleResult<Vec<Vec<f32>>> {
        let (batch, longest) = (ids.len(), ids.iter().map(Vec::len).max().unwrap_or(0));
        let (hidden, heads) = (self.config.hidden_size, self.config.num_attention_heads);
        let head_dim = hidden / heads;
        let mut padded = Vec::with_capacity(batch * longest);
        let mut mask = Vec::with_capacity(batch * longest);
        for ids in ids {
            padded.extend_from_slice(ids);
            padded.resize(padded.len() + longest - ids.len(), 0);
            mask.resize(mask.len() + ids.len(), 1f32);
            mask.resize(mask.len() + longest - ids.len(), 0f32);
        }
        let cpu = &Device::Cpu;
        let mask = Tensor::from_vec(mask, (batch, longest), cpu)?;
        // Padding gets no attention.
        let bias = mask.affine(1e9, -1e9)?.reshape((batch, 1, 1, longest))?;
        let padded = Tensor::from_vec(padded, batch * longest, cpu)?;
        let x = self
            .words
            .index_select(&padded, 0)?
            .reshape((batch, longest, hidden))?;
        let x = x
            .broadcast_add(&self.positions.narrow(0, 0, longest)?)?
            .broadcast_add(&self.segment)?;
        let mut x = self.norm.apply(&x)?.reshape((batch * longest, hidden))?;
        let scale = 1.0 / (head_dim as f64).sqrt();
        for layer in &self.layers {
            let split = |linear: &Linear| {
                linear
                    .apply(&x)?
                    .reshape((batch, longest, heads, head_dim))?
                    .transpose(1, 2)?
                    .contiguous()
            };
            let (query, key, value) = (
                split(&layer.query)?,
                split(&layer.key)?,
                split(&layer.value)?,
            );
            let scores = (query.matmul(&key.t()?)? * scale)?.broadcast_add(&bias)?;
            let mixed = softmax_last_dim(&scores)?.matmul(&value)?;
            let mixed = mixed
                .transpose(1, 2)?
                .contiguous()?
                .reshape((batch * longest, hidden))?;
            x = layer
                .attention_norm
                .apply(&(layer.output.apply(&mixed)? + &x)?)?;
            let inner = layer.up.apply(&x)?.gelu_erf()?;
            x = layer
                .output_norm
                .apply(&(layer.down.apply(&inner)? + &x)?)?;
        }
        let weighted = x
            .reshape((batch, longest, hidden))?
            .broadcast_mul(&mask.unsqueeze(D::Minus1)?)?;
        let mut vectors: Vec<Vec<f32>> = weighted.sum(1)?.to_vec2()?;
        for vector in &mut vectors {
            // The count in the mean cancels against the normalisation.
            let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
            vector.iter_mut().for_each(|v| *v /= norm);
        }
        Ok(vectors)
    }
}
