//! Loaded experts. Weights are shared: experts over the same files hold one copy.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

use polymath_types::{ExpertCard, ExpertId, ExpertKind, FileRef, FileRole, Message, Role, Runtime};

use crate::{
    EngineError, LoadError,
    bert::Bert,
    chat::ChatTemplate,
    gguf::Gguf,
    llama::Llama,
    matrix::kernel_class,
    memory::{Booking, CONVERSATION, Memory, Need},
    schedule::PREFILL_CHUNK,
    tokenizer::BpeTokenizer,
    zero_shot,
};

/// Bytes that a tokenizer keeps for each token of its vocabulary, about: its text, its merges, and the
/// tables that lead to both.
const VOCABULARY_ENTRY: u64 = 256;

/// A language model with what it needs to speak.
#[derive(Debug)]
pub(crate) struct LanguageModel {
    pub(crate) llama: Llama,
    pub(crate) tokenizer: BpeTokenizer,
    template: ChatTemplate,
    _booking: Booking,
}

/// What runs behind a card.
#[derive(Debug, Clone)]
pub(crate) enum Running {
    Generate(Arc<LanguageModel>),
    Embed(Arc<Bert>),
    ZeroShot(Arc<Bert>),
    Language,
}

/// An expert that can be asked.
#[derive(Debug)]
pub(crate) struct Expert {
    pub(crate) card: Arc<ExpertCard>,
    pub(crate) running: Running,
    pub(crate) fingerprint: String,
    last_labels: Mutex<LabelVectors>,
}

/// Labels and the vectors of their hypotheses.
pub(crate) type LabelVectors = Arc<(Vec<String>, Vec<Vec<f32>>)>;

/// All loaded experts.
#[derive(Debug)]
pub(crate) struct Experts {
    by_id: RwLock<HashMap<ExpertId, Arc<Expert>>>,
    books: Books,
    /// Held while loading: the same weights are never loaded twice at once.
    weights: Mutex<HashMap<[u8; 32], Weights>>,
}

#[derive(Debug)]
enum Weights {
    LanguageModel(Weak<LanguageModel>),
    Bert(Weak<Bert>),
}

/// Where what is loaded is booked.
#[derive(Debug, Clone)]
struct Books {
    memory: Arc<Memory>,
    /// Answers at once.
    slots: usize,
}

impl Experts {
    pub(crate) fn new(memory: Arc<Memory>, slots: usize) -> Self {
        Self {
            by_id: RwLock::default(),
            books: Books { memory, slots },
            weights: Mutex::default(),
        }
    }

    /// How many are loaded.
    pub(crate) fn count(&self) -> usize {
        self.by_id
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    pub(crate) fn get(&self, id: &ExpertId) -> Option<Arc<Expert>> {
        self.by_id
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    pub(crate) fn remove(&self, id: &ExpertId) -> bool {
        self.by_id
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id)
            .is_some()
    }

    /// Loads `card` unless it is loaded; `file` says where a file lies. Weights are packed on
    /// `pool`; the lock is taken outside of it, where no other job can run on top of this one.
    pub(crate) fn load(
        &self,
        card: Arc<ExpertCard>,
        file: &dyn Fn(&FileRef) -> PathBuf,
        pool: &rayon::ThreadPool,
    ) -> Result<(), LoadError> {
        let refuse = |reason: String| LoadError::Card {
            expert: card.name.clone(),
            reason,
        };
        card.check().map_err(|e| refuse(e.to_string()))?;
        if card.model.adapter.is_some() {
            return Err(refuse(
                "this build applies no adapters; merge it into the weights".into(),
            ));
        }
        let fits = match card.model.runtime {
            Runtime::GgufLlama => card.kind == ExpertKind::Generate,
            Runtime::BertSentence => card.kind == ExpertKind::Embed,
            Runtime::BertZeroShot | Runtime::Trigram => card.kind == ExpertKind::Classify,
            _ => {
                return Err(refuse(format!(
                    "this build has no runtime {:?}",
                    card.model.runtime
                )));
            }
        };
        if !fits {
            return Err(refuse(format!(
                "the runtime {:?} cannot {}",
                card.model.runtime, card.kind
            )));
        }
        let id = card.id();
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        if self.get(&id).is_some() {
            return Ok(());
        }
        let path = |role: FileRole| {
            let found = card.model.files.iter().find(|f| f.role == role);
            found
                .map(file)
                .ok_or_else(|| refuse(format!("its model names no {role:?} file")))
        };
        let running = match card.model.runtime {
            Runtime::GgufLlama => Running::Generate(language_model(
                &mut weights,
                &card,
                &path(FileRole::Weights)?,
                pool,
                &self.books,
            )?),
            Runtime::BertSentence => {
                Running::Embed(bert(&mut weights, &card, path, pool, &self.books)?)
            }
            Runtime::BertZeroShot => {
                Running::ZeroShot(bert(&mut weights, &card, path, pool, &self.books)?)
            }
            _ => Running::Language,
        };
        weights.retain(|_, w| match w {
            Weights::LanguageModel(w) => w.strong_count() > 0,
            Weights::Bert(w) => w.strong_count() > 0,
        });
        let expert = Expert {
            fingerprint: running.fingerprint(),
            card,
            running,
            last_labels: Mutex::default(),
        };
        self.by_id
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::new(expert));
        Ok(())
    }
}

/// What identifies loaded weights: their files, whatever they are used for.
fn files_key(family: &str, card: &ExpertCard) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("polymath engine weights v1");
    hasher.update(family.as_bytes());
    for file in &card.model.files {
        hasher.update(format!("\n{:?} {}", file.role, file.blake3).as_bytes());
    }
    *hasher.finalize().as_bytes()
}

fn language_model(
    weights: &mut HashMap<[u8; 32], Weights>,
    card: &ExpertCard,
    path: &Path,
    pool: &rayon::ThreadPool,
    books: &Books,
) -> Result<Arc<LanguageModel>, LoadError> {
    let key = files_key("llama", card);
    if let Some(Weights::LanguageModel(shared)) = weights.get(&key)
        && let Some(shared) = shared.upgrade()
    {
        return Ok(shared);
    }
    let model = Arc::new(pool.install(|| LanguageModel::open(path, card, books))?);
    weights.insert(key, Weights::LanguageModel(Arc::downgrade(&model)));
    Ok(model)
}

fn bert(
    weights: &mut HashMap<[u8; 32], Weights>,
    card: &ExpertCard,
    path: impl Fn(FileRole) -> Result<PathBuf, LoadError>,
    pool: &rayon::ThreadPool,
    books: &Books,
) -> Result<Arc<Bert>, LoadError> {
    let key = files_key("bert", card);
    if let Some(Weights::Bert(shared)) = weights.get(&key)
        && let Some(shared) = shared.upgrade()
    {
        return Ok(shared);
    }
    let (config, tokenizer) = (path(FileRole::Config)?, path(FileRole::Tokenizer)?);
    let file = path(FileRole::Weights)?;
    let book = |need| books.memory.book(&card.name, need);
    let model = Arc::new(pool.install(|| Bert::load(&file, &config, &tokenizer, book))?);
    weights.insert(key, Weights::Bert(Arc::downgrade(&model)));
    Ok(model)
}

impl Running {
    /// Answers are equal token for token only between equal fingerprints.
    fn fingerprint(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        match self {
            Self::Generate(_) => format!(
                "polymath {version} gguf-llama blocks-4a8s-act16 cpu-{}",
                kernel_class()
            ),
            Self::Embed(_) => format!("polymath {version} bert-sentence f32 cpu"),
            Self::ZeroShot(_) => format!("polymath {version} bert-zero-shot f32 cpu"),
            Self::Language => format!("polymath {version} trigram"),
        }
    }
}

impl LanguageModel {
    fn open(path: &Path, card: &ExpertCard, books: &Books) -> Result<Self, LoadError> {
        let mut gguf = Gguf::open(path)?;
        let config = crate::llama::Config::read(&gguf)?;
        let (weights, reading) = gguf.memory();
        let vocabulary = config.vocabulary as u64;
        let context = match card.model.context_length as usize {
            0 => config.context,
            stated => stated.min(config.context),
        };
        let booking = books.memory.book(
            &card.name,
            Need {
                weights: weights.saturating_add(vocabulary.saturating_mul(VOCABULARY_ENTRY)),
                cache: config.cache_bytes(context.min(CONVERSATION)),
                working: config.working_bytes(PREFILL_CHUNK + books.slots, books.slots + 1),
                loading: reading,
            },
        )?;
        let tokenizer = BpeTokenizer::read(&gguf, config.vocabulary)?;
        let source = gguf
            .optional_string("tokenizer.chat_template")
            .ok_or_else(|| {
                gguf.unsupported(
                    "it has no chat template, so it is no chat model",
                    "GGUF files of instruct models",
                )
            })?;
        let template = ChatTemplate::compile(source, tokenizer.bos_text(), tokenizer.eos_text())
            .map_err(|e| {
                gguf.unsupported(
                    format!("its chat template fails: {e}"),
                    "Jinja chat templates",
                )
            })?;
        let llama = Llama::load(&mut gguf)?;
        tracing::debug!(
            path = gguf.path(),
            bytes = llama.bytes(),
            "language model loaded"
        );
        Ok(Self {
            llama,
            tokenizer,
            template,
            _booking: booking,
        })
    }

    /// Tokens of a conversation, up to where the assistant speaks. `limit` is the context.
    pub(crate) fn prompt(&self, messages: &[Message], limit: u32) -> Result<Vec<u32>, EngineError> {
        // A prompt that cannot fit is refused before it costs time.
        let bytes: usize = messages.iter().map(|m| m.content.len()).sum();
        let at_least = u32::try_from(bytes / self.tokenizer.longest_token()).unwrap_or(u32::MAX);
        if at_least >= limit {
            return Err(EngineError::ContextOverflow {
                prompt: at_least,
                limit,
            });
        }
        let rendered = self.template.render(messages).map_err(|e| {
            EngineError::InvalidInput(format!(
                "the model's chat template refuses these messages: {e}"
            ))
        })?;
        let ids = self
            .tokenizer
            .encode(&self.template.pieces(&rendered, messages))
            .map_err(EngineError::Internal)?;
        let prompt = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        if prompt >= limit {
            return Err(EngineError::ContextOverflow { prompt, limit });
        }
        Ok(ids)
    }
}

impl Expert {
    /// Refuses a request of another kind.
    pub(crate) fn expect(&self, wanted: ExpertKind) -> Result<(), EngineError> {
        if self.card.kind == wanted {
            return Ok(());
        }
        Err(EngineError::WrongKind {
            expert: self.card.name.clone(),
            has: self.card.kind,
            wanted,
        })
    }

    /// The messages with the expert's system prompt in front, unless the caller brought one.
    pub(crate) fn with_system(&self, mut messages: Vec<Message>) -> Vec<Message> {
        if let Some(system) = &self.card.system
            && messages.iter().all(|m| m.role != Role::System)
        {
            messages.insert(
                0,
                Message {
                    role: Role::System,
                    content: system.clone(),
                },
            );
        }
        messages
    }

    /// Tokens of prompt and answer together.
    pub(crate) fn context(&self, model: &LanguageModel) -> u32 {
        let of_model = u32::try_from(model.llama.config().context).unwrap_or(u32::MAX);
        match self.card.model.context_length {
            0 => of_model,
            stated => stated.min(of_model),
        }
    }

    /// Vectors of `labels`; the last set asked for is kept.
    pub(crate) fn label_vectors(
        &self,
        bert: &Bert,
        labels: &[String],
    ) -> Result<LabelVectors, EngineError> {
        let mut last = self
            .last_labels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last.0 != labels {
            *last = Arc::new((labels.to_vec(), zero_shot::label_vectors(bert, labels)?.0));
        }
        Ok(Arc::clone(&last))
    }
}
