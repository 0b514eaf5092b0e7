//! Embedding and classifying texts, a batch at a time between the steps of generations.

use std::sync::Arc;

use polymath_types::LabelSet;
use tokio::sync::oneshot;

use crate::{
    EngineError,
    expert::{Expert, Running},
    language, zero_shot,
};

/// Texts encoded in one round.
pub(crate) const BATCH: usize = 8;
/// Most texts in one request.
const MAX_TEXTS: usize = 1024;
/// Most labels, and their longest, bytes.
const MAX_LABELS: usize = 256;
const MAX_LABEL: usize = 128;
/// Bytes of a text that are read: more than an encoder's tokens cover, and enough to tell a language.
const MAX_TEXT: usize = 32 * 1024;

/// What becomes of a text with more tokens than its encoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlong {
    /// The request fails with [`EngineError::TextOverflow`].
    Refuse,
    /// Only its beginning counts.
    Cut,
}

/// Vectors of texts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embedded {
    /// One unit vector a text, in order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens looked at.
    pub prompt_tokens: u32,
}

/// Labels of texts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Classified {
    /// For each text in order, labels with probabilities, best first.
    pub labels: Vec<Vec<(String, f64)>>,
    /// Tokens looked at; 0 for the language identifier, which has none.
    pub prompt_tokens: u32,
}

#[derive(Debug)]
pub(crate) struct EncodeJob {
    expert: Arc<Expert>,
    texts: Vec<String>,
    done: usize,
    output: Output,
}

#[derive(Debug)]
enum Output {
    Embed(
        Overlong,
        Embedded,
        oneshot::Sender<Result<Embedded, EngineError>>,
    ),
    Classify(
        Vec<String>,
        Classified,
        oneshot::Sender<Result<Classified, EngineError>>,
    ),
}

impl EncodeJob {
    pub(crate) fn embed(
        expert: Arc<Expert>,
        texts: Vec<String>,
        overlong: Overlong,
        reply: oneshot::Sender<Result<Embedded, EngineError>>,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            expert,
            texts: check_texts(texts, overlong)?,
            done: 0,
            output: Output::Embed(overlong, Embedded::default(), reply),
        })
    }

    pub(crate) fn classify(
        expert: Arc<Expert>,
        texts: Vec<String>,
        labels: Vec<String>,
        reply: oneshot::Sender<Result<Classified, EngineError>>,
    ) -> Result<Self, EngineError> {
        let labels = choose_labels(&expert, labels)?;
        let overlong = match expert.running {
            // A language shows in the beginning.
            Running::Language => Overlong::Cut,
            _ => Overlong::Refuse,
        };
        let output = Output::Classify(labels, Classified::default(), reply);
        Ok(Self {
            texts: check_texts(texts, overlong)?,
            expert,
            done: 0,
            output,
        })
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        match &self.output {
            Output::Embed(_, _, reply) => reply.is_closed(),
            Output::Classify(_, _, reply) => reply.is_closed(),
        }
    }

    /// Encodes one batch; gives itself back while texts are left.
    pub(crate) fn step(mut self) -> Option<Self> {
        let end = self.texts.len().min(self.done + BATCH);
        let batch = &self.texts[self.done..end];
        let result = match &mut self.output {
            Output::Embed(overlong, out, _) => embed(&self.expert, batch, *overlong, out),
            Output::Classify(labels, out, _) => classify(&self.expert, batch, labels, out),
        };
        self.done = end;
        match result {
            Err(error) => {
                self.fail(error);
                None
            }
            Ok(()) if self.done < self.texts.len() => Some(self),
            Ok(()) => {
                // The caller may have gone; then nobody misses the result.
                let _ = match self.output {
                    Output::Embed(_, out, reply) => reply.send(Ok(out)).is_ok(),
                    Output::Classify(_, out, reply) => reply.send(Ok(out)).is_ok(),
                };
                None
            }
        }
    }

    fn fail(self, error: EngineError) {
        let _ = match self.output {
            Output::Embed(_, _, reply) => reply.send(Err(error)).is_ok(),
            Output::Classify(_, _, reply) => reply.send(Err(error)).is_ok(),
        };
    }
}

fn embed(
    expert: &Expert,
    texts: &[String],
    overlong: Overlong,
    out: &mut Embedded,
) -> Result<(), EngineError> {
    let Running::Embed(bert) = &expert.running else {
        return Err(EngineError::Internal("the expert lost its encoder".into()));
    };
    let (vectors, tokens) = bert.embed(texts, overlong)?;
    out.vectors.extend(vectors);
    out.prompt_tokens += tokens;
    Ok(())
}

fn classify(
    expert: &Expert,
    texts: &[String],
    labels: &[String],
    out: &mut Classified,
) -> Result<(), EngineError> {
    match &expert.running {
        Running::ZeroShot(bert) => {
            let known = expert.label_vectors(bert, labels)?;
            let (vectors, tokens) = bert.embed(texts, Overlong::Refuse)?;
            out.labels
                .extend(vectors.iter().map(|v| zero_shot::rank(v, labels, &known.1)));
            out.prompt_tokens += tokens;
        }
        Running::Language => {
            let allowed = language::allowed(labels).map_err(EngineError::InvalidInput)?;
            out.labels
                .extend(texts.iter().map(|t| language::identify(t, &allowed)));
        }
        Running::Generate(_) | Running::Embed(_) => {
            return Err(EngineError::Internal(
                "the expert lost its classifier".into(),
            ));
        }
    }
    Ok(())
}

fn check_texts(mut texts: Vec<String>, overlong: Overlong) -> Result<Vec<String>, EngineError> {
    if texts.is_empty() || texts.len() > MAX_TEXTS {
        return Err(EngineError::InvalidInput(format!(
            "{} texts were given; between 1 and {MAX_TEXTS} are allowed",
            texts.len()
        )));
    }
    for text in &mut texts {
        if text.len() > MAX_TEXT && overlong == Overlong::Refuse {
            return Err(EngineError::TextOverflow {
                length: text.len(),
                unit: "bytes",
                limit: MAX_TEXT,
            });
        }
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    Ok(texts)
}

/// The caller's labels, or the card's when it names none.
fn choose_labels(expert: &Expert, mut labels: Vec<String>) -> Result<Vec<String>, EngineError> {
    let invalid = |what: String| Err(EngineError::InvalidInput(what));
    if labels.is_empty()
        && let LabelSet::Fixed(fixed) = &expert.card.labels
    {
        labels.clone_from(fixed);
    }
    if labels.len() > MAX_LABELS || labels.iter().any(|l| l.is_empty() || l.len() > MAX_LABEL) {
        return invalid(format!(
            "at most {MAX_LABELS} labels of 1 to {MAX_LABEL} bytes each"
        ));
    }
    match &expert.running {
        Running::Language => {
            if let Err(unknown) = language::allowed(&labels) {
                return invalid(format!(
                    "'{unknown}' is no language the identifier knows; use codes such as en, de, zh"
                ));
            }
        }
        _ if labels.is_empty() => {
            return invalid(format!(
                "expert '{}' has no labels of its own: name the labels to choose from",
                expert.card.name
            ));
        }
        _ => {}
    }
    Ok(labels)
}
