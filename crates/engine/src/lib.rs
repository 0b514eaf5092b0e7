//! Runs models from verified files: language models (GGUF, llama architecture), sentence encoders
//! (BERT), zero-shot and language classification.
//!
//! This crate decides how weights lie in memory, who computes next on the one inference thread, how
//! tokens are sampled and when an answer ends. It leaves to others where files come from and whether
//! they are genuine (`blobs`), who may ask (`rpc`) and whom to ask (`router`).
//!
//! An expert is a card over weights: several experts over the same files share one copy. Answers
//! can be carried on elsewhere: see [`GenerateJob::prefix_token_ids`].

mod bert;
mod chat;
mod encode;
mod engine;
mod error;
mod expert;
mod generate;
mod gguf;
mod inbox;
mod language;
mod llama;
mod matrix;
mod memory;
mod sampling;
mod schedule;
mod sequence;
pub mod static_encoder;
mod stop;
mod tokenizer;
mod vector;
mod worker;
mod zero_shot;

pub use bert::{EncoderInfo, inspect_encoder};
pub use encode::{Classified, Embedded, Overlong};
pub use engine::{Engine, EngineConfig};
pub use error::{EngineError, LoadError};
pub use generate::{Embedding, GenerateJob, GenerateStream, Generated, StandIn};
pub use gguf::{GgufInfo, inspect_gguf};
pub use language::{detect_language, language_labels};
pub use memory::MemoryLimit;
