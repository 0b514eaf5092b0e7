//! An expert that says what it was told to, so that votes, cascades and plans can be staged.

use std::sync::Arc;

use polymath_engine::{EngineError, GenerateJob, Generated, StandIn};
use polymath_types::{FinishReason, Usage};
use tokio::sync::mpsc::Sender;

/// Says nothing, and ends only when it is told to.
pub const SILENT: &str = "[silent]";
/// Fails.
pub const FAILS: &str = "[fails]";

/// A part and its lines: `NAME@PRICE=LINES`. The price, credits for 1,000 tokens each way, may be left out, with its
/// `@`. Lines are separated by `||`; one with a condition, `WHEN=>TEXT`, is said where a turn contains WHEN, the
/// first without one otherwise. `{asked}` in it stands for the last turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The expert's name.
    pub name: String,
    /// As in the settings.
    pub price: Option<String>,
    lines: Vec<(Option<String>, String)>,
}

impl Part {
    /// Reads it; nothing where no lines are given.
    pub fn read(text: &str) -> Option<Self> {
        let (head, lines) = text.split_once('=')?;
        let (name, price) = match head.split_once('@') {
            Some((name, price)) => (name, Some(format!("{name}={price}/{price}"))),
            None => (head, None),
        };
        let line = |line: &str| match line.split_once("=>") {
            Some((when, text)) => (Some(when.to_owned()), text.to_owned()),
            None => (None, line.to_owned()),
        };
        Some(Self {
            name: name.to_owned(),
            price,
            lines: lines.split("||").map(line).collect(),
        })
    }

    fn line(&self, job: &GenerateJob) -> String {
        let said = |when: &str| job.messages.iter().any(|m| m.content.contains(when));
        let fits = |(when, _): &&(Option<String>, String)| when.as_deref().is_some_and(said);
        let chosen = self.lines.iter().find(fits);
        let chosen = chosen.or_else(|| self.lines.iter().find(|(when, _)| when.is_none()));
        let asked = job.messages.last().map_or("", |m| &m.content);
        let text = chosen.map_or("", |(_, text)| text);
        text.replace("{asked}", asked)
    }

    /// For sharing.
    pub fn shared(self) -> Arc<dyn StandIn> {
        Arc::new(self)
    }
}

impl StandIn for Part {
    fn generate(&self, job: GenerateJob, events: Sender<Result<Generated, EngineError>>) {
        let text = self.line(&job);
        tokio::spawn(async move {
            tokio::select! {
                () = events.closed() => {}
                () = say(&text, job, &events) => {}
            }
        });
    }
}

/// Equal words are equal tokens.
fn token(word: &str) -> u32 {
    word.bytes()
        .fold(5381, |hash: u32, b| hash.wrapping_mul(33) ^ u32::from(b))
}

async fn say(text: &str, job: GenerateJob, events: &Sender<Result<Generated, EngineError>>) {
    let send = async |event| drop(events.send(event).await);
    if text == FAILS {
        return send(Err(EngineError::Internal("it was told to fail".into()))).await;
    }
    send(Ok(Generated::Started {
        prompt_tokens: 10,
        seed: 1,
        fingerprint: "says".into(),
    }))
    .await;
    if text == SILENT {
        return std::future::pending().await;
    }
    let most = job.sampling.max_tokens.map_or(usize::MAX, |n| n as usize);
    let words: Vec<&str> = text.split_inclusive(' ').take(most).collect();
    for word in words.iter().skip(job.prefix_token_ids.len()) {
        send(Ok(Generated::Tokens {
            ids: vec![token(word)],
            text: (*word).to_owned(),
        }))
        .await;
    }
    send(Ok(Generated::Finished {
        reason: FinishReason::Stop,
        usage: Usage {
            prompt_tokens: 10,
            completion_tokens: u32::try_from(words.len()).unwrap(),
            estimated: false,
        },
    }))
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_a_name_a_price_and_lines() {
        let part = Part::read("chef@0.5=eggs=>six||I hear {asked}").unwrap();
        assert_eq!(part.name, "chef");
        assert_eq!(part.price.as_deref(), Some("chef=0.5/0.5"));
        assert_eq!(part.lines.len(), 2);
        assert_eq!(Part::read("chef"), None);
    }
}
