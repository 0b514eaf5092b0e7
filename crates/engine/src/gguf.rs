//! Reading GGUF files without trusting them.
//!
//! candle's reader bounds every length by what is left of the file; this module adds types,
//! ranges and shapes, and turns each fault into a [`LoadError`] that names the file.

use std::{
    fs::File,
    io::BufReader,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use candle_core::{
    Device,
    quantized::{
        QTensor,
        gguf_file::{Content, Value},
    },
};

use crate::{
    LoadError,
    matrix::{BLOCK, Matrix},
};

/// The architectures this build runs.
pub(crate) const ARCHITECTURES: &str =
    "the llama architecture (Llama 1 to 3, Mistral, SmolLM, TinyLlama)";

/// Bytes that an entry of a header's list takes, about: a short text and where it lies.
const HEADER_ENTRY: u64 = 80;

/// What a GGUF file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufInfo {
    /// `general.architecture`; one this build runs.
    pub architecture: String,
    /// `general.name`, if stated.
    pub name: Option<String>,
    /// `general.license`, as stated.
    pub licence: Option<String>,
    /// `general.languages`: ISO 639-1 codes as stated.
    pub languages: Vec<String>,
    /// Longest prompt and answer together, tokens.
    pub context_length: u32,
    /// Length of the hidden state.
    pub embedding_length: u32,
    /// Transformer blocks.
    pub layers: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Number of weights.
    pub parameters: u64,
    /// The type most weights are stored in, e.g. `Q4_1`.
    pub quantisation: String,
    /// Whether the file carries a chat template; without one it cannot serve conversations.
    pub has_chat_template: bool,
}

/// Reads the header of the file at `path`; the weights are not read, but must be there.
///
/// # Errors
/// Those of a damaged file, and [`LoadError::Unsupported`] for an architecture or tokenizer this
/// build does not run.
pub fn inspect_gguf(path: &Path) -> Result<GgufInfo, LoadError> {
    let gguf = Gguf::open(path)?;
    let config = crate::llama::Config::read(&gguf)?;
    let mut parameters = 0u64;
    let mut by_type = std::collections::BTreeMap::<String, u64>::new();
    let length = gguf.length()?;
    for (name, info) in &gguf.content.tensor_infos {
        let weights = info
            .shape
            .dims()
            .iter()
            .fold(1u64, |n, d| n.saturating_mul(*d as u64));
        let blocks = weights / info.ggml_dtype.block_size() as u64;
        let end = blocks
            .saturating_mul(info.ggml_dtype.type_size() as u64)
            .saturating_add(info.offset)
            .saturating_add(gguf.content.tensor_data_offset);
        if end > length {
            return Err(gguf.corrupt(format!(
                "it is cut off: tensor '{name}' ends at byte {end}, the file at {length}"
            )));
        }
        parameters = parameters.saturating_add(weights);
        let sum = by_type.entry(format!("{:?}", info.ggml_dtype)).or_default();
        *sum = sum.saturating_add(weights);
    }
    crate::tokenizer::check_supported(&gguf)?;
    Ok(GgufInfo {
        architecture: gguf.string("general.architecture")?.to_owned(),
        name: gguf.optional_string("general.name").map(str::to_owned),
        licence: gguf.optional_string("general.license").map(str::to_owned),
        languages: gguf
            .optional_strings("general.languages")
            .unwrap_or_default(),
        context_length: config.context as u32,
        embedding_length: config.hidden as u32,
        layers: config.layers as u32,
        vocabulary: config.vocabulary as u32,
        parameters,
        quantisation: by_type
            .into_iter()
            .max_by_key(|(_, n)| *n)
            .map_or_else(String::new, |(t, _)| t),
        has_chat_template: gguf.optional_string("tokenizer.chat_template").is_some(),
    })
}

/// An open file and its header.
pub(crate) struct Gguf {
    path: String,
    content: Content,
    reader: BufReader<File>,
}

impl Gguf {
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| LoadError::Unreadable {
            path: name.clone(),
            reason: e.to_string(),
        })?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        // A hostile header can still divide by zero inside the reader.
        let content = catch_unwind(AssertUnwindSafe(|| Content::read(&mut reader)))
            .map_err(|_| "its header cannot be read".to_owned())
            .and_then(|read| read.map_err(|e| first_line(&e)))
            .map_err(|reason| LoadError::Corrupt {
                path: name.clone(),
                reason,
            })?;
        Ok(Self {
            path: name,
            content,
            reader,
        })
    }

    /// Length of the file, bytes.
    fn length(&self) -> Result<u64, LoadError> {
        let metadata = self.reader.get_ref().metadata();
        metadata
            .map(|m| m.len())
            .map_err(|e| LoadError::Unreadable {
                path: self.path.clone(),
                reason: e.to_string(),
            })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn corrupt(&self, reason: impl Into<String>) -> LoadError {
        LoadError::Corrupt {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(&self, what: impl Into<String>, supported: &str) -> LoadError {
        LoadError::Unsupported {
            path: self.path.clone(),
            what: what.into(),
            supported: supported.into(),
        }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    pub(crate) fn optional_string(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Some(Value::String(s)) => Some(s),
            _ => None,
        }
    }

    pub(crate) fn string(&self, key: &str) -> Result<&str, LoadError> {
        self.optional_string(key)
            .ok_or_else(|| self.corrupt(format!("no text under '{key}'")))
    }

    pub(crate) fn optional_u64(&self, key: &str) -> Option<u64> {
        match *self.value(key)? {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// A whole number within `range`, which bounds what the file can make this process allocate.
    pub(crate) fn count(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, LoadError> {
        let found = self
            .optional_u64(key)
            .ok_or_else(|| self.corrupt(format!("no whole number under '{key}'")))?;
        usize::try_from(found)
            .ok()
            .filter(|v| range.contains(v))
            .ok_or_else(|| {
                self.corrupt(format!(
                    "'{key}' is {found}, which is not between {} and {}",
                    range.start(),
                    range.end()
                ))
            })
    }

    pub(crate) fn optional_f32(&self, key: &str) -> Option<f32> {
        match *self.value(key)? {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    pub(crate) fn optional_bool(&self, key: &str) -> Option<bool> {
        match *self.value(key)? {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    pub(crate) fn optional_strings(&self, key: &str) -> Option<Vec<String>> {
        let Some(Value::Array(values)) = self.value(key) else {
            return None;
        };
        values
            .iter()
            .map(|v| match v {
                Value::String(s) => Some(s.clone()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Vec<String>, LoadError> {
        self.optional_strings(key)
            .ok_or_else(|| self.corrupt(format!("no list of texts under '{key}'")))
    }

    pub(crate) fn array_length(&self, key: &str) -> Option<usize> {
        match self.value(key) {
            Some(Value::Array(values)) => Some(values.len()),
            _ => None,
        }
    }

    pub(crate) fn optional_ints(&self, key: &str) -> Option<Vec<i64>> {
        let Some(Value::Array(values)) = self.value(key) else {
            return None;
        };
        values
            .iter()
            .map(|v| match *v {
                Value::I32(v) => Some(v.into()),
                Value::U32(v) => Some(v.into()),
                Value::I64(v) => Some(v),
                Value::U8(v) => Some(v.into()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    pub(crate) fn tensor_rows(&self, name: &str) -> Option<usize> {
        self.content
            .tensor_infos
            .get(name)?
            .shape
            .dims()
            .first()
            .copied()
    }

    /// Bytes that the weights will take as [`Matrix`] and vectors, and bytes that are in memory beside
    /// them at most while one tensor after the other is read.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let (mut weights, mut reading) = (0u64, 0u64);
        for info in self.content.tensor_infos.values() {
            let dims = info.shape.dims();
            let count = dims.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64));
            let blocks = count / info.ggml_dtype.block_size() as u64;
            let stored = blocks.saturating_mul(info.ggml_dtype.type_size() as u64);
            let packed = count / BLOCK as u64;
            let floats = count.saturating_mul(4);
            let (kept, unpacked) = match Matrix::packed_block_bytes(info.ggml_dtype) {
                _ if dims.len() != 2 => (floats, floats),
                (block, true) => (packed.saturating_mul(block), 0),
                (block, false) => (packed.saturating_mul(block), floats),
            };
            weights = weights.saturating_add(kept);
            reading = reading.max(stored.saturating_add(unpacked));
        }
        // The header's lists, the vocabulary above all, are kept until the file is closed.
        let entries = self.content.metadata.values().map(|v| match v {
            Value::Array(values) => values.len() as u64,
            _ => 1,
        });
        let header = entries.sum::<u64>().saturating_mul(HEADER_ENTRY);
        // A hostile file may claim anything; no machine has so much.
        (
            weights.min(1 << 50),
            reading.saturating_add(header).min(1 << 50),
        )
    }

    /// Reads the tensor `name`, which must have the shape `dims`.
    pub(crate) fn tensor(&mut self, name: &str, dims: &[usize]) -> Result<QTensor, LoadError> {
        let info = self
            .content
            .tensor_infos
            .get(name)
            .ok_or_else(|| self.corrupt(format!("the tensor '{name}' is missing")))?;
        if info.shape.dims() != dims {
            return Err(self.corrupt(format!(
                "the tensor '{name}' has shape {:?}, not {dims:?}",
                info.shape.dims()
            )));
        }
        info.read(
            &mut self.reader,
            self.content.tensor_data_offset,
            &Device::Cpu,
        )
        .map_err(|e| LoadError::Corrupt {
            path: self.path.clone(),
            reason: format!("tensor '{name}': {}", first_line(&e)),
        })
    }

    /// Reads a vector as floats.
    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.tensor(name, &[len])?;
        tensor
            .dequantize(&Device::Cpu)
            .and_then(|t| t.to_vec1())
            .map_err(|e| self.corrupt(first_line(&e)))
    }
}

/// candle appends a backtrace to its errors.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or("unknown error")
        .to_owned()
}
