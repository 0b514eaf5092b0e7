//! An answer, as it comes.

use std::collections::VecDeque;

use polymath_types::{Failure, FinishReason, Message, Usage};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant, timeout_at};

use crate::{
    Place, Upstream,
    refusal::{self, garbage, lost, wordless},
    sse::Events,
    wire::Exchange,
};

/// Largest answer of one piece that is read, bytes.
const LARGEST: usize = 8 << 20;
/// Most text of one part, bytes.
const PART: usize = 32 << 10;
/// Most bytes of text that a token brings, on average over an answer.
const TEXT_PER_TOKEN: usize = 256;
/// Bytes of text for a token where nobody counted.
const BYTES_PER_TOKEN: usize = 4;
/// Tokens that a template may add to a message, and to all.
const TEMPLATE: usize = 64;
/// Longest wait for what a server has to say after it said why the answer ended: how much it was.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A question. What is `None` is left to the server.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// The conversation.
    pub messages: Vec<Message>,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: Option<f64>,
    /// Nucleus mass.
    pub top_p: Option<f64>,
    /// Only the k likeliest; no part of OpenAI's API, but known to llama-server and vLLM.
    pub top_k: Option<u32>,
    /// Seed of the sampling.
    pub seed: Option<u64>,
    /// Strings that end the answer.
    pub stop: Vec<String>,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text, never empty, in one or more tokens.
    Text(String),
    /// The end.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// As the server counted, if that can be believed, else estimated.
        usage: Usage,
    },
}

/// An answer on its way; dropping it ends it at the server too.
#[derive(Debug)]
pub struct Answer {
    exchange: Exchange,
    events: Events,
    ready: VecDeque<Part>,
    patience: crate::Patience,
    /// When the server must have brought another token.
    until: Instant,
    /// Bytes of the prompt, and messages.
    prompt: (usize, usize),
    most_tokens: u32,
    counted: u32,
    /// Bytes of text that were passed on, and of thoughts that were not.
    text: usize,
    thought: usize,
    finish: Option<FinishReason>,
    said: Option<Said>,
    _place: Place,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Said {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Said>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    index: Option<u32>,
    /// Of a stream.
    delta: Option<Words>,
    /// Of an answer of one piece.
    message: Option<Words>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Words {
    content: Option<String>,
    /// What a model thinks before it answers: llama-server and vLLM, and Ollama.
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

impl Upstream {
    /// Asks; the answer's head has come when this returns.
    ///
    /// # Errors
    /// `Unavailable` for a server that cannot be reached, is silent or fails, `ResourceExhausted` for a
    /// busy one, `InvalidInput` and `ContextOverflow` for what it refuses, `Internal` for one that
    /// breaks the protocol. So also [`Answer::next`].
    pub async fn chat(&self, chat: &Chat) -> Result<Answer, Failure> {
        let until = Instant::now() + self.config().patience.first;
        self.chat_in(self.place(until).await?, chat, until).await
    }

    /// The same, in a place that is taken already; the first token has come by `until`.
    ///
    /// # Errors
    /// See [`Self::chat`].
    pub async fn chat_in(
        &self,
        place: Place,
        chat: &Chat,
        until: Instant,
    ) -> Result<Answer, Failure> {
        let patience = self.config().patience;
        let body = self.body(chat).to_string().into_bytes();
        let exchange = self.send("/chat/completions", Some(body), until).await?;
        let bytes = chat.messages.iter().map(|m| m.content.len()).sum();
        let mut answer = Answer {
            events: Events::default(),
            ready: VecDeque::new(),
            patience,
            until,
            prompt: (bytes, chat.messages.len()),
            most_tokens: chat.max_tokens,
            counted: 0,
            text: 0,
            thought: 0,
            finish: None,
            said: None,
            exchange,
            _place: place,
        };
        match answer.exchange.content_type().as_str() {
            "text/event-stream" => Ok(answer),
            // It does not stream.
            "application/json" => {
                answer.in_one_piece().await?;
                Ok(answer)
            }
            _ => Err(garbage("something else than an answer")),
        }
    }

    fn body(&self, chat: &Chat) -> Value {
        let messages = chat.messages.iter();
        let messages = messages.map(|m| json!({ "role": m.role.as_str(), "content": m.content }));
        let mut body = Map::new();
        body.insert("model".into(), self.config().model.clone().into());
        body.insert("messages".into(), messages.collect());
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({ "include_usage": true }));
        body.insert("max_tokens".into(), chat.max_tokens.into());
        let stated = [
            ("temperature", chat.temperature.map(Value::from)),
            ("top_p", chat.top_p.map(Value::from)),
            ("top_k", chat.top_k.map(Value::from)),
            // Signed in many servers.
            ("seed", chat.seed.map(|s| Value::from(s & (u64::MAX >> 1)))),
            (
                "stop",
                (!chat.stop.is_empty()).then(|| chat.stop.clone().into()),
            ),
        ];
        for (name, value) in stated {
            if let Some(value) = value {
                body.insert(name.into(), value);
            }
        }
        Value::Object(body)
    }
}

impl Answer {
    /// Tokens of the prompt, as far as that is known: estimated until the server counts, at the end.
    pub fn prompt_tokens(&self) -> u32 {
        self.usage().prompt_tokens
    }

    /// The next part, of which [`Part::Finished`] is the last. Nothing is lost when this is dropped.
    ///
    /// # Errors
    /// See [`Upstream::chat`].
    pub async fn next(&mut self) -> Result<Part, Failure> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(part);
            }
            let more = self.more().await;
            match self.finish {
                // Nothing is missing but the last word, which tells no more than a count.
                Some(reason) if more.is_err() => self.finished(reason)?,
                _ => more?,
            }
        }
    }

    /// Takes in what came, or what comes.
    async fn more(&mut self) -> Result<(), Failure> {
        if let Some(data) = self.events.next() {
            return self.take(&data);
        }
        let more = timeout_at(self.until, self.exchange.more()).await;
        match more.map_err(|_| lost("fell silent"))? {
            Some(bytes) => self.events.push(&bytes?).map_err(garbage),
            None => Err(lost("broke off in the middle of its answer")),
        }
    }

    /// Takes an event in.
    fn take(&mut self, data: &str) -> Result<(), Failure> {
        if data.trim() == "[DONE]" {
            return self.finished(self.finish.unwrap_or(FinishReason::Stop));
        }
        let chunk: Chunk = serde_json::from_str(data)
            .map_err(|_| garbage("an event that is no part of an answer"))?;
        if let Some(error) = chunk.error {
            return Err(refusal::in_stream(&error, self.exchange.key.as_ref()));
        }
        self.said = chunk.usage.or(self.said);
        for choice in chunk.choices {
            // One answer was asked for.
            if choice.index.unwrap_or(0) > 0 {
                continue;
            }
            if let Some(words) = choice.delta.or(choice.message) {
                self.words(words);
            }
            if let Some(reason) = choice.finish_reason {
                self.until = self.until.min(Instant::now() + LAST_WORDS);
                self.finish = Some(match reason.as_str() {
                    "length" => FinishReason::Length,
                    _ => FinishReason::Stop,
                });
            }
        }
        // A server that goes on when it should have ended is left.
        let over = self.counted > self.most_tokens || self.text >= self.most_text();
        if over && self.finish.is_none() {
            self.finished(FinishReason::Length)?;
        }
        Ok(())
    }

    fn words(&mut self, words: Words) {
        let thought = words.reasoning_content.or(words.reasoning);
        let thought = thought.unwrap_or_default().len();
        let text = words.content.unwrap_or_default();
        if thought == 0 && text.is_empty() {
            return;
        }
        if self.finish.is_none() {
            self.until = Instant::now() + self.patience.between;
        }
        self.counted = self.counted.saturating_add(1);
        self.thought = self.thought.saturating_add(thought);
        // No more tokens than were asked for, however a server counts.
        let room = self.most_text().saturating_sub(self.text);
        let mut rest = &text[..floor(&text, room)];
        if self.counted > self.most_tokens {
            rest = "";
        }
        self.text += rest.len();
        while !rest.is_empty() {
            let (part, after) = rest.split_at(floor(rest, PART));
            self.ready.push_back(Part::Text(part.to_owned()));
            rest = after;
        }
    }

    fn most_text(&self) -> usize {
        (self.most_tokens as usize).saturating_mul(TEXT_PER_TOKEN)
    }

    fn finished(&mut self, reason: FinishReason) -> Result<(), Failure> {
        // All that was allowed went into thoughts: that is neither an answer nor a refusal to give one.
        if self.text == 0 && reason == FinishReason::Length {
            return Err(wordless(self.most_tokens));
        }
        let usage = self.usage();
        self.ready.push_back(Part::Finished { reason, usage });
        Ok(())
    }

    /// What the server says it was, unless there is too little text for it.
    fn usage(&self) -> Usage {
        let (bytes, messages) = self.prompt;
        let said = self.said.map(|s| (s.prompt_tokens, s.completion_tokens));
        if let Some((Some(prompt_tokens), Some(completion_tokens))) = said {
            let most = |bytes: usize, more: usize| u32::try_from(bytes + more).unwrap_or(u32::MAX);
            let believed = prompt_tokens <= most(bytes, TEMPLATE * (messages + 1) * 8)
                && completion_tokens <= most(self.text + self.thought, TEMPLATE)
                && completion_tokens <= self.most_tokens
                && (completion_tokens > 0 || self.text == 0);
            if believed {
                return Usage {
                    prompt_tokens,
                    completion_tokens,
                    estimated: false,
                };
            }
        }
        let guess =
            |bytes: usize| u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX);
        Usage {
            prompt_tokens: guess(bytes),
            completion_tokens: match self.counted {
                // In one piece.
                1 => guess(self.text + self.thought),
                counted => counted,
            }
            .min(self.most_tokens),
            estimated: true,
        }
    }

    async fn in_one_piece(&mut self) -> Result<(), Failure> {
        let mut body = Vec::new();
        loop {
            let more = timeout_at(self.until, self.exchange.more()).await;
            let Some(more) = more.map_err(|_| lost("fell silent"))? else {
                break;
            };
            let more = more?;
            if body.len() + more.len() > LARGEST {
                return Err(garbage(format_args!("more than {LARGEST} bytes")));
            }
            body.extend_from_slice(&more);
        }
        let text = String::from_utf8(body).map_err(|_| garbage("an answer that is no UTF-8"))?;
        self.take(&text)?;
        if !matches!(self.ready.back(), Some(Part::Finished { .. })) {
            match self.finish {
                Some(reason) => self.finished(reason)?,
                None => return Err(garbage("an answer without an end")),
            }
        }
        Ok(())
    }
}

/// The last place up to `at` where `text` may be cut.
fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}
