//! Asks an OpenAI-compatible server (Ollama, llama-server, vLLM and others) for what the engine would
//! compute: its models, answers that stream, vectors.
//!
//! This crate decides what is sent to such a server, how long it may be silent, how much of what it says
//! is read, and what each of its faults is called. It leaves to others which expert a server stands
//! behind, whether it is offered (`node`), and who may ask.
//!
//! A server is not trusted: every length has a bound, every wait has an end, and no text of it that may
//! hold the key goes on. Each call has a connection of its own, so that dropping the call ends it there
//! too, and nobody inherits a connection that another's answer has left in disorder.

mod address;
mod chat;
mod embed;
mod key;
mod models;
mod refusal;
mod sse;
mod wire;

use std::{sync::Arc, time::Duration};

use polymath_types::{ErrorKind, Failure};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

pub use address::Address;
pub use chat::{Answer, Chat, Part};
pub use embed::Vectors;
pub use key::KeySource;
pub use models::{Found, near};

/// How long a server may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// To take a connection, TLS included.
    pub connect: Duration,
    /// Until the first token of an answer, or less where a caller says so: a server may load the model first.
    pub first: Duration,
    /// Between two tokens.
    pub between: Duration,
    /// For an answer of one piece: models, vectors.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first: Duration::from_secs(120),
            between: Duration::from_secs(30),
            whole: Duration::from_secs(60),
        }
    }
}

/// A model on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the server is.
    pub address: Address,
    /// The model's id there.
    pub model: String,
    /// Where the API key is, if one is needed.
    pub key: KeySource,
    /// Calls at once; as many again may wait.
    pub concurrency: usize,
    /// How long it may take.
    pub patience: Patience,
}

/// A model on a server, to be asked; clones share its places.
#[derive(Debug, Clone)]
pub struct Upstream {
    config: Arc<Config>,
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// A place among the calls that a server is asked at once.
#[derive(Debug)]
pub struct Place(#[allow(dead_code)] OwnedSemaphorePermit);

impl Upstream {
    /// Nothing is connected to yet.
    pub fn new(config: Config) -> Self {
        let places = config.concurrency.clamp(1, 1024);
        Self {
            config: Arc::new(config),
            places: Arc::new(Semaphore::new(places)),
            waiting: Arc::new(Semaphore::new(places)),
        }
    }

    /// What it was made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A place among the calls at once, which is waited for until then: not the server's silence.
    ///
    /// # Errors
    /// `ResourceExhausted` when there is none.
    pub async fn place(&self, until: Instant) -> Result<Place, Failure> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Place(place));
        }
        let full = || {
            let full = Failure::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "all {} places at the server behind this expert are taken and as many calls wait: ask another replica, or again shortly",
                    self.config.concurrency
                ),
            );
            full.retry_after(Duration::from_secs(1))
        };
        let _waits = self.waiting.try_acquire().map_err(|_| full())?;
        let place = Arc::clone(&self.places).acquire_owned();
        let place = tokio::time::timeout_at(until, place).await;
        place.ok().and_then(Result::ok).map(Place).ok_or_else(full)
    }
}
