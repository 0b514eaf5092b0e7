//! The expert card: everything immutable about an expert, and the id derived from it.

mod capability;

use std::{fmt, str::FromStr};

pub use capability::{Capability, NOT_PROMISED};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Format, VersionMismatch};

/// Bounds on what a card may hold; they bound what a stranger can make others store.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CardLimits {
    /// Canonical form, bytes.
    pub bytes: usize,
    /// A name, bytes.
    pub name: usize,
    /// Description, bytes.
    pub description: usize,
    /// System prompt, bytes.
    pub system: usize,
    /// Number of example queries.
    pub examples: usize,
    /// One example, bytes.
    pub example: usize,
    /// Number of files.
    pub files: usize,
    /// Number of fixed labels.
    pub labels: usize,
    /// Tokens of an answer: callers reckon their memory by it.
    pub answer: u32,
}

/// The limits every card is held to.
pub const CARD_LIMITS: CardLimits = CardLimits {
    bytes: 64 * 1024,
    name: 64,
    description: 2048,
    system: 16 * 1024,
    examples: 32,
    example: 512,
    files: 64,
    labels: 256,
    answer: 1 << 20,
};

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From raw bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
            /// Raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
            /// The first 12 hexadecimal digits, for people.
            pub fn short(&self) -> String {
                blake3::Hash::from_bytes(self.0).to_hex()[..12].to_owned()
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }
        impl TryFrom<&[u8]> for $name {
            type Error = $crate::CardError;
            fn try_from(bytes: &[u8]) -> Result<Self, $crate::CardError> {
                let bytes = bytes.try_into().map_err(|_| {
                    $crate::CardError::Malformed(format!("an id has 32 bytes, not {}", bytes.len()))
                })?;
                Ok(Self(bytes))
            }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::CardError;
            fn from_str(s: &str) -> Result<Self, $crate::CardError> {
                let hash = blake3::Hash::from_hex(s)
                    .map_err(|_| $crate::CardError::Malformed("an id has 64 hexadecimal digits".into()))?;
                Ok(Self(*hash.as_bytes()))
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(d)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use digest_id;

digest_id!(
    /// BLAKE3 of an [`ExpertCard`]'s canonical bytes.
    ExpertId
);
digest_id!(
    /// BLAKE3 over the weights and adapter alone: experts that share it can continue each other's
    /// answers and can be served from one copy in memory.
    WeightsId
);

/// What an expert does with a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpertKind {
    /// Writes text.
    Generate,
    /// Turns texts into vectors.
    Embed,
    /// Gives texts labels with scores.
    Classify,
}

impl ExpertKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Generate, Self::Embed, Self::Classify];

    /// Its name, as in JSON and in DHT keys.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Embed => "embed",
            Self::Classify => "classify",
        }
    }
}

impl fmt::Display for ExpertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ExpertKind {
    type Err = CardError;
    fn from_str(s: &str) -> Result<Self, CardError> {
        Self::ALL
            .into_iter()
            .find(|k| k.as_str() == s)
            .ok_or_else(|| {
                CardError::Malformed(format!(
                    "unknown kind '{s}': use generate, embed or classify"
                ))
            })
    }
}

/// Which code runs the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Runtime {
    /// A GGUF file of the llama architecture, tokenizer and chat template inside.
    GgufLlama,
    /// A BERT sentence encoder: safetensors, `config.json`, `tokenizer.json`; mean pooling.
    BertSentence,
    /// Zero-shot classification by a [`Runtime::BertSentence`] encoder.
    BertZeroShot,
    /// The trigram language identifier compiled into the binary; has no files.
    Trigram,
    /// A server that whoever hosts the expert vouches for, asked over OpenAI's API; has no files here.
    Upstream,
}

/// What a file is to its runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FileRole {
    /// The weights.
    Weights,
    /// A tokenizer in Hugging Face's JSON format.
    Tokenizer,
    /// The architecture's configuration.
    Config,
    /// A low-rank adapter over the weights.
    Adapter,
}

/// One immutable file, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// What it is for.
    pub role: FileRole,
    /// File name, without folders.
    pub name: String,
    /// Length, bytes.
    pub size: u64,
    /// SHA-256, hexadecimal: what publishers print.
    pub sha256: String,
    /// BLAKE3, hexadecimal: what the mesh addresses by.
    pub blake3: String,
}

/// A set of weights and how to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The model's name, e.g. `smollm2-135m-instruct`.
    pub name: String,
    /// Which code runs it.
    pub runtime: Runtime,
    /// Files, sorted by role and name.
    pub files: Vec<FileRef>,
    /// A low-rank adapter, if one is applied. Boxed: of thousands of cards in memory hardly any has one.
    pub adapter: Option<Box<FileRef>>,
    /// Longest prompt and answer together, tokens; 0 where it does not apply.
    pub context_length: u32,
    /// Vector length of an embedder; 0 where it does not apply.
    pub dimensions: u32,
    /// SPDX expression of the weights' licence.
    pub licence: String,
}

impl Model {
    /// The id of these weights with this adapter.
    pub fn weights_id(&self) -> WeightsId {
        let mut hasher = blake3::Hasher::new_derive_key("polymath weights v1");
        hasher.update(
            &serde_json::to_vec(&(self.runtime, &self.files, &self.adapter)).unwrap_or_default(),
        );
        if self.files.is_empty() {
            hasher.update(self.name.as_bytes());
        }
        WeightsId(*hasher.finalize().as_bytes())
    }
}

/// An expert's sampling defaults; a caller may override each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass, (0, 1].
    pub top_p: f64,
    /// Only the k likeliest tokens; 0 means all.
    pub top_k: u32,
    /// Divides the logits of tokens already said (Keskar et al. 2019, CTRL); 1 is off.
    pub repeat_penalty: f64,
    /// Strings that end the answer.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repeat_penalty: 1.0,
            stop: Vec::new(),
        }
    }
}

/// Which labels a classifier gives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelSet {
    /// Not a classifier.
    #[default]
    None,
    /// Whatever labels the caller names.
    Open,
    /// These.
    Fixed(Vec<String>),
}

/// Everything immutable about an expert. Two nodes that serve equal cards are replicas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertCard {
    /// [`Format::Card`]: see [`ExpertCard::version_with`].
    pub version: u32,
    /// Short name, e.g. `chef`: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// What it does with a query.
    pub kind: ExpertKind,
    /// The weights behind it.
    pub model: Model,
    /// The system prompt that makes these weights this expert.
    pub system: Option<String>,
    /// Sampling defaults.
    pub sampling: Sampling,
    /// What it is good at, in a sentence or two; the router compares queries with it.
    pub description: String,
    /// Example queries it should get (pilots); the router compares queries with them.
    pub examples: Vec<String>,
    /// ISO 639-1 codes it understands; empty means unstated.
    pub languages: Vec<String>,
    /// Labels of a classifier.
    pub labels: LabelSet,
    /// What it can do beyond its kind, sorted, each once: names of [`Capability`] and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// Why a card is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// Not a card, or one that breaks a limit.
    #[error("malformed expert card: {0}")]
    Malformed(String),
    /// Another version of the format.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
}

impl ExpertCard {
    /// Canonical bytes: compact JSON, fields in declared order.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The expert's id.
    pub fn id(&self) -> ExpertId {
        ExpertId(blake3::derive_key(
            "polymath expert card v1",
            &self.to_bytes(),
        ))
    }

    /// Reads and checks canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CardError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        if bytes.len() > CARD_LIMITS.bytes {
            return Err(CardError::Malformed(format!(
                "{} bytes; at most {} are allowed",
                bytes.len(),
                CARD_LIMITS.bytes
            )));
        }
        Format::Card.check(parse::<Versioned>(bytes)?.version)?;
        let card: Self = parse(bytes)?;
        card.check()?;
        if card.to_bytes() != bytes {
            return Err(CardError::Malformed("not in canonical form".into()));
        }
        Ok(card)
    }

    /// Holds the card to [`CARD_LIMITS`] and to its own logic.
    pub fn check(&self) -> Result<(), CardError> {
        Format::Card.check(self.version)?;
        self.check_capabilities()?;
        let l = CARD_LIMITS;
        let fail = |what: String| Err(CardError::Malformed(what));
        for (what, name) in [("name", &self.name), ("model name", &self.model.name)] {
            let fits = (1..=l.name).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            if !fits {
                return fail(format!(
                    "the {what} '{}' must be 1 to {} letters, digits, '.', '_' or '-'",
                    excerpt(name),
                    l.name
                ));
            }
        }
        self.check_characters()?;
        if self.description.len() > l.description {
            return fail(format!(
                "the description is longer than {} bytes",
                l.description
            ));
        }
        if self.system.as_ref().is_some_and(|s| s.len() > l.system) {
            return fail(format!(
                "the system prompt is longer than {} bytes",
                l.system
            ));
        }
        if self.examples.len() > l.examples || self.examples.iter().any(|e| e.len() > l.example) {
            return fail(format!(
                "at most {} examples of at most {} bytes each",
                l.examples, l.example
            ));
        }
        if self.languages.len() > 200 || self.languages.iter().any(|c| c.len() > 8) {
            return fail("at most 200 language codes of at most 8 bytes".into());
        }
        if let LabelSet::Fixed(labels) = &self.labels
            && (labels.len() > l.labels || labels.iter().any(|x| x.len() > 128))
        {
            return fail(format!("at most {} labels of at most 128 bytes", l.labels));
        }
        if (self.kind == ExpertKind::Classify) == (self.labels == LabelSet::None) {
            return fail("a classifier, and only a classifier, has labels".into());
        }
        let files = self.model.files.iter().chain(self.model.adapter.as_deref());
        if self.model.files.len() > l.files {
            return fail(format!("at most {} files", l.files));
        }
        for file in files {
            let hex64 = |s: &str| {
                s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            };
            if !hex64(&file.sha256) || !hex64(&file.blake3) {
                return fail(format!(
                    "file '{}' lacks its checksums",
                    excerpt(&file.name)
                ));
            }
            let plain = !file.name.is_empty()
                && file.name.len() <= 255
                && !file.name.contains(['/', '\\'])
                && !file.name.contains(char::is_control)
                && !file.name.starts_with('.');
            if !plain {
                return fail("a file name must be plain, without folders".into());
            }
        }
        let s = &self.sampling;
        let in_range = (0.0..=5.0).contains(&s.temperature)
            && s.top_p > 0.0
            && s.top_p <= 1.0
            && (0.5..=2.0).contains(&s.repeat_penalty)
            && s.stop.len() <= 16
            && s.stop.iter().all(|x| (1..=64).contains(&x.len()));
        if !in_range {
            return fail(
                "sampling defaults out of range: temperature 0 to 5, top_p over 0 to 1, \
                 repeat_penalty 0.5 to 2, at most 16 stop strings of 1 to 64 bytes"
                    .into(),
            );
        }
        if s.max_tokens > l.answer {
            return fail(format!("max_tokens of at most {}", l.answer));
        }
        if self.model.licence.is_empty() || self.model.licence.len() > 128 {
            return fail("the licence must be an SPDX expression".into());
        }
        Ok(())
    }

    /// Cards of strangers are printed on terminals, to which control characters are commands.
    fn check_characters(&self) -> Result<(), CardError> {
        let labels = match &self.labels {
            LabelSet::Fixed(labels) => labels.as_slice(),
            LabelSet::None | LabelSet::Open => &[],
        };
        let lines = [
            ("description", std::slice::from_ref(&self.description)),
            ("examples", &self.examples),
            ("languages", &self.languages),
            ("labels", labels),
            ("licence", std::slice::from_ref(&self.model.licence)),
        ];
        for (what, texts) in lines {
            if texts.iter().any(|t| t.contains(char::is_control)) {
                return Err(CardError::Malformed(format!(
                    "the {what} must have no control characters, line breaks included"
                )));
            }
        }
        // Models read these; lines are part of what they mean.
        let forbidden = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        let mut prompts = self.system.iter().chain(&self.sampling.stop);
        if prompts.any(|t| t.contains(forbidden)) {
            return Err(CardError::Malformed(
                "the system prompt and the stop strings must have no control characters \
                 other than line feeds and tabs"
                    .into(),
            ));
        }
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CardError> {
    // The line repeats names of unknown fields.
    serde_json::from_slice(bytes).map_err(|e| CardError::Malformed(excerpt(&e.to_string())))
}

/// The beginning of a stranger's text, safe to print.
fn excerpt(text: &str) -> String {
    let safe = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(256).map(safe).collect()
}

#[cfg(test)]
mod tests;
