//! What can go wrong when a model is loaded and when it is asked.

use polymath_types::{ErrorKind, ExpertKind, Failure};

use crate::memory::MiB;

/// Why a model cannot be loaded. Each line names the file or part at fault and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {reason}; fetch the model again")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The bytes are not what the format demands: truncated, damaged or hostile.
    #[error("{path} is damaged or truncated: {reason}; fetch the model again")]
    Corrupt {
        /// The file.
        path: String,
        /// What was wrong.
        reason: String,
    },
    /// A sound file of a sort this build does not run.
    #[error("{path} cannot be run: {what}; supported: {supported}")]
    Unsupported {
        /// The file.
        path: String,
        /// What it has.
        what: String,
        /// What this build runs instead.
        supported: String,
    },
    /// The expert card contradicts itself or its files.
    #[error("the card of expert '{expert}' cannot be served: {reason}")]
    Card {
        /// The expert's name.
        expert: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It would take more memory than the operator allows.
    #[error(
        "expert '{expert}' needs {} of memory; of the {} allowed (limits.memory) {} are the node's own and {} other experts': raise --max-memory, host fewer experts, or a smaller model",
        MiB(*needed), MiB(*total), MiB(*reserved), MiB(*taken)
    )]
    Memory {
        /// The expert's name.
        expert: String,
        /// Bytes its weights and one conversation need.
        needed: u64,
        /// Bytes that weights of others take.
        taken: u64,
        /// Bytes that are not for models.
        reserved: u64,
        /// Bytes the process may take.
        total: u64,
    },
}

impl LoadError {
    /// The kind of failure in the house's taxonomy.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreadable { .. } => ErrorKind::NotFound,
            Self::Corrupt { .. } => ErrorKind::DataLoss,
            Self::Unsupported { .. } => ErrorKind::FailedPrecondition,
            Self::Card { .. } => ErrorKind::InvalidInput,
            Self::Memory { .. } => ErrorKind::ResourceExhausted,
        }
    }
}

/// Why a request to the engine failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {prompt} tokens, the expert's context holds {limit}: shorten it by at least {} tokens", prompt.saturating_sub(*limit) + 1)]
    ContextOverflow {
        /// Tokens of prompt and forced prefix (a lower bound when the prompt is absurdly long).
        prompt: u32,
        /// Tokens the context holds.
        limit: u32,
    },
    /// A text is longer than its encoder reads.
    #[error(
        "a text has {length} {unit}, the expert reads {limit}: shorten it, or split it and ask for each part"
    )]
    TextOverflow {
        /// Its length.
        length: usize,
        /// In bytes or tokens.
        unit: &'static str,
        /// Most that is read.
        limit: usize,
    },
    /// The queue is full.
    #[error(
        "the engine's queue is full ({queued} requests wait); ask another replica or try again"
    )]
    Busy {
        /// Requests that wait.
        queued: u32,
    },
    /// The KV cache of this question would be larger than all memory that is left for caches.
    #[error(
        "the question and its answer would need {} of memory, {} are left for them (limits.memory): ask for fewer tokens, shorten the prompt, or ask another replica",
        MiB(*needed), MiB(*room)
    )]
    Memory {
        /// Bytes it would take.
        needed: u64,
        /// Bytes there are.
        room: u64,
    },
    /// No such expert is loaded.
    #[error("expert {0} is not loaded on this node")]
    UnknownExpert(String),
    /// The expert does something else.
    #[error("expert '{expert}' can {has}, it was asked to {wanted}")]
    WrongKind {
        /// The expert's name.
        expert: String,
        /// What it does.
        has: ExpertKind,
        /// What was asked.
        wanted: ExpertKind,
    },
    /// The request itself is wrong.
    #[error("{0}")]
    InvalidInput(String),
    /// The deadline passed before the answer was complete.
    #[error("the deadline passed before the answer was complete; allow more time or fewer tokens")]
    DeadlineExceeded,
    /// The engine is stopping, or could not start.
    #[error("the engine is not running: {0}")]
    Stopped(String),
    /// A fault of our own.
    #[error("the engine failed: {0}")]
    Internal(String),
    /// What answers in the engine's place says so.
    #[error("{0}")]
    Outside(Failure),
}

impl EngineError {
    /// The kind of failure in the house's taxonomy.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::ContextOverflow { .. } | Self::TextOverflow { .. } => ErrorKind::ContextOverflow,
            Self::Busy { .. } | Self::Memory { .. } => ErrorKind::ResourceExhausted,
            Self::UnknownExpert(_) => ErrorKind::NotFound,
            Self::WrongKind { .. } | Self::InvalidInput(_) => ErrorKind::InvalidInput,
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Self::Stopped(_) => ErrorKind::Unavailable,
            Self::Internal(_) => ErrorKind::Internal,
            Self::Outside(failure) => failure.kind,
        }
    }
}
