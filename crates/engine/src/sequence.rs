//! One answer in the making.

use std::{ops::Range, sync::Arc, time::Instant};

use polymath_types::{FinishReason, Usage};
use tokio::sync::mpsc;

use crate::{
    EngineError,
    expert::LanguageModel,
    generate::Generated,
    llama::{KvCache, Span},
    memory::CacheRoom,
    sampling::Plan,
    stop::StopMatcher,
    tokenizer::Detokenizer,
};

/// Events a step may send at most: so much room a reader must leave.
pub(crate) const EVENTS_A_STEP: usize = 4;

/// What a generation starts from; waits in the queue.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) model: Arc<LanguageModel>,
    pub(crate) fingerprint: String,
    pub(crate) prompt: Vec<u32>,
    pub(crate) prefix: Vec<u32>,
    pub(crate) plan: Plan,
    /// Tokens of prompt and answer together.
    pub(crate) context: u32,
    pub(crate) deadline: Option<Instant>,
    pub(crate) events: mpsc::Sender<Result<Generated, EngineError>>,
}

impl Admission {
    /// Bytes of its KV cache once the answer is as long as it may get.
    pub(crate) fn cache_bytes(&self) -> u64 {
        let answer = self.prefix.len().max(self.plan.max_tokens as usize);
        let tokens = self.prompt.len().saturating_add(answer);
        let tokens = tokens.min(self.context as usize);
        self.model.llama.config().cache_bytes(tokens)
    }
}

/// A sequence in a slot.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) model: Arc<LanguageModel>,
    /// Prompt, forced prefix, and what was sampled.
    tokens: Vec<u32>,
    prompt: usize,
    /// Tokens the model has seen.
    fed: usize,
    cache: KvCache,
    /// Given back after the cache itself.
    _room: CacheRoom,
    plan: Plan,
    context: usize,
    deadline: Option<Instant>,
    text: Detokenizer,
    stop: StopMatcher,
    events: mpsc::Sender<Result<Generated, EngineError>>,
}

impl Sequence {
    /// Replays the forced prefix and announces the start. `None`: the answer was over already.
    pub(crate) fn admit(admission: Admission, room: CacheRoom) -> Option<Self> {
        let Admission {
            model,
            fingerprint,
            prompt,
            prefix,
            plan,
            context,
            deadline,
            events,
        } = admission;
        let mut sequence = Self {
            cache: model.llama.new_cache(),
            _room: room,
            prompt: prompt.len(),
            tokens: prompt,
            fed: 0,
            context: context as usize,
            deadline,
            text: Detokenizer::default(),
            stop: StopMatcher::new(plan.stop.clone()),
            events,
            plan,
            model,
        };
        sequence.send(Ok(Generated::Started {
            prompt_tokens: sequence.prompt as u32,
            seed: sequence.plan.seed,
            fingerprint,
        }));
        for id in prefix {
            sequence.tokens.push(id);
            let text = sequence.text.push(&sequence.model.tokenizer, id);
            // The caller has this text; only what is still held back may yet be shown.
            if sequence.stop.push(&text).1 {
                sequence.finish(FinishReason::Stop);
                return None;
            }
        }
        if sequence.is_full() {
            sequence.send_held_back();
            sequence.finish(FinishReason::Length);
            return None;
        }
        Some(sequence)
    }

    /// Tokens the model has yet to see before it can answer.
    pub(crate) fn unseen(&self) -> usize {
        self.tokens.len() - self.fed
    }

    /// Whether the reader has room for a step's events.
    pub(crate) fn is_ready(&self) -> bool {
        self.events.capacity() >= EVENTS_A_STEP
    }

    /// Whether the reader went away.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The next `tokens` as part of a forward pass.
    pub(crate) fn span(&mut self, tokens: usize) -> Span<'_> {
        let range: Range<usize> = self.fed..self.fed + tokens;
        self.fed = range.end;
        Span {
            wants_logits: range.end == self.tokens.len(),
            cache: &mut self.cache,
            tokens: &self.tokens[range],
        }
    }

    /// Samples from `logits` and tells the reader; whether the answer goes on.
    pub(crate) fn accept(&mut self, logits: &mut [f32]) -> bool {
        let said = &self.tokens[self.prompt..];
        let id = self.plan.next(logits, said, said.len() as u64);
        if self.model.tokenizer.is_end(id) {
            self.send_held_back();
            self.finish(FinishReason::Stop);
            return false;
        }
        self.tokens.push(id);
        let text = self.text.push(&self.model.tokenizer, id);
        let (mut text, stopped) = self.stop.push(&text);
        let full = self.is_full();
        if full && !stopped {
            text += &self.stop.finish();
        }
        self.send(Ok(Generated::Tokens {
            ids: vec![id],
            text,
        }));
        if stopped || full {
            self.finish(if stopped {
                FinishReason::Stop
            } else {
                FinishReason::Length
            });
        }
        !(stopped || full)
    }

    /// Ends with an error.
    pub(crate) fn fail(&self, error: EngineError) {
        self.send(Err(error));
    }

    fn is_full(&self) -> bool {
        self.tokens.len() - self.prompt >= self.plan.max_tokens as usize
            || self.tokens.len() >= self.context
    }

    /// Text that might have become a stop string, at the end.
    fn send_held_back(&mut self) {
        let text = self.stop.finish();
        if !text.is_empty() {
            self.send(Ok(Generated::Tokens {
                ids: Vec::new(),
                text,
            }));
        }
    }

    fn finish(&self, reason: FinishReason) {
        let usage = Usage {
            prompt_tokens: self.prompt as u32,
            completion_tokens: (self.tokens.len() - self.prompt) as u32,
            estimated: false,
        };
        self.send(Ok(Generated::Finished { reason, usage }));
    }

    /// There is room (`is_ready`), or the reader is gone and nobody misses the event.
    fn send(&self, event: Result<Generated, EngineError>) {
        if self.events.try_send(event).is_err() && !self.events.is_closed() {
            tracing::error!("a reader without room was scheduled; an event is lost");
        }
    }
}
