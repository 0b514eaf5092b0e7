//! Asking for an answer and reading it.

use std::{fmt::Debug, pin::Pin, sync::Arc, time::Instant};

use polymath_types::{FinishReason, Message, SamplingOverrides, Usage};
use tokio::sync::mpsc;

use crate::{Embedded, EngineError, inbox::Inbox, sequence::EVENTS_A_STEP};

/// Events that wait for a slow reader before its sequence pauses.
pub(crate) const EVENTS: usize = 64;

/// A request for an answer.
#[derive(Debug, Clone, Default)]
pub struct GenerateJob {
    /// The conversation. The expert's system prompt is put in front unless one is here.
    pub messages: Vec<Message>,
    /// Departures from the expert's sampling defaults; stop strings add to the expert's.
    pub sampling: SamplingOverrides,
    /// Tokens of the answer that are settled: the answer goes on after them. To continue an answer,
    /// pass every token id received, the same messages and the same seed.
    pub prefix_token_ids: Vec<u32>,
    /// When the answer must be complete.
    pub deadline: Option<Instant>,
}

/// A step of an answer. The order is one `Started`, any number of `Tokens`, one `Finished`; an
/// error may end it at any point.
#[derive(Debug, Clone, PartialEq)]
pub enum Generated {
    /// The prompt was accepted and is being computed.
    Started {
        /// Tokens of the rendered prompt.
        prompt_tokens: u32,
        /// The seed in use, drawn when the job named none.
        seed: u64,
        /// What the answer is computed by; see [`crate::Engine::fingerprint`].
        fingerprint: String,
    },
    /// More of the answer.
    Tokens {
        /// Every accepted token, in order, those of a stop string included. The token that ends a
        /// turn (EOS) is never among them. Empty when only held-back text is released.
        ids: Vec<u32>,
        /// Text that became certain: characters come whole, stop strings never. May be empty. After
        /// a forced prefix it goes on where the text that came with the prefix ended.
        text: String,
    },
    /// The answer is complete.
    Finished {
        /// Why it ended. `Length`: `max_tokens`, or the context, is used up.
        reason: FinishReason,
        /// Tokens used; the completion counts the forced prefix, not EOS.
        usage: Usage,
    },
}

/// Vectors on their way from a [`StandIn`].
pub type Embedding = Pin<Box<dyn Future<Output = Result<Embedded, EngineError>> + Send>>;

/// Answers in place of a model: for an expert that another server computes; and in tests of what is around
/// the engine, with more answers at once than any model here could give.
pub trait StandIn: Debug + Send + Sync {
    /// Sends an answer's events, as [`Generated`] orders them, from a task or thread of its own. Nobody
    /// listens any more when `events` is closed.
    fn generate(&self, job: GenerateJob, events: mpsc::Sender<Result<Generated, EngineError>>);

    /// Turns texts into unit vectors. Dropping it cancels.
    fn embed(&self, texts: Vec<String>) -> Embedding {
        let _ = texts;
        let refused = EngineError::InvalidInput("this expert makes no vectors".into());
        Box::pin(std::future::ready(Err(refused)))
    }
}

/// An answer as it comes. Dropping it cancels the generation within one token or one chunk of the
/// prompt.
#[derive(Debug)]
pub struct GenerateStream {
    events: mpsc::Receiver<Result<Generated, EngineError>>,
    inbox: Arc<Inbox>,
    /// The last event, or an error, was given out.
    over: bool,
}

impl GenerateStream {
    pub(crate) const fn new(
        events: mpsc::Receiver<Result<Generated, EngineError>>,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self {
            events,
            inbox,
            over: false,
        }
    }

    /// The next event; `None` after `Finished` or an error. Reading slowly slows the model down.
    pub async fn next(&mut self) -> Option<Result<Generated, EngineError>> {
        if self.over {
            return None;
        }
        // Only a reader that was close to full can have paused its sequence.
        let paused = self.events.len() + EVENTS_A_STEP >= EVENTS;
        let event = self.events.recv().await;
        if paused {
            self.inbox.wake();
        }
        // A request that the engine drops as it stops is told, not left with silence.
        let event =
            event.unwrap_or_else(|| Err(EngineError::Stopped("it dropped the request".into())));
        self.over = matches!(event, Err(_) | Ok(Generated::Finished { .. }));
        Some(event)
    }
}

impl Drop for GenerateStream {
    fn drop(&mut self) {
        self.events.close();
        self.inbox.wake();
    }
}
