//! An expert whose answers are written down: which tokens, and when each of them comes.

use std::{sync::Arc, time::Duration};

use polymath_engine::{EngineError, GenerateJob, Generated, StandIn};
use polymath_types::{
    ExpertCard, ExpertKind, FinishReason, LabelSet, Model, Runtime, Sampling, Usage,
};
use tokio::{sync::mpsc::Sender, time::sleep};

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Tells the answers apart.
    pub id: u64,
    /// Tokens.
    pub tokens: u32,
    /// Until the first.
    pub first: Duration,
    /// Between two.
    pub every: Duration,
}

impl Line {
    /// The question as it is asked.
    pub fn question(&self) -> String {
        format!(
            "Answer {} with {} tokens, the first after {} ms, then every {} ms.",
            self.id,
            self.tokens,
            self.first.as_millis(),
            self.every.as_millis()
        )
    }

    /// Reads [`Self::question`].
    fn read(question: &str) -> Option<Self> {
        let mut numbers = question
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse::<u64>().ok());
        let mut next = || numbers.next();
        Some(Self {
            id: next()?,
            tokens: u32::try_from(next()?).ok()?,
            first: Duration::from_millis(next()?),
            every: Duration::from_millis(next()?),
        })
    }

    fn token(&self, n: u32) -> String {
        format!("{}.{n} ", self.id)
    }

    /// The whole answer.
    pub fn answer(&self) -> String {
        (0..self.tokens).map(|n| self.token(n)).collect()
    }
}

/// A scripted expert's card.
pub fn card(name: &str) -> ExpertCard {
    ExpertCard {
        version: 1,
        name: name.into(),
        kind: ExpertKind::Generate,
        model: Model {
            name: format!("{name}-script"),
            runtime: Runtime::GgufLlama,
            files: Vec::new(),
            adapter: None,
            context_length: 0,
            dimensions: 0,
            licence: "MIT".into(),
        },
        system: None,
        sampling: Sampling {
            max_tokens: 1 << 16,
            ..Sampling::default()
        },
        description: format!("Answers as the questions of {name} say"),
        examples: Vec::new(),
        languages: Vec::new(),
        capabilities: Vec::new(),
        labels: LabelSet::None,
    }
}

/// Answers each question as it says, `slowness` times slower.
#[derive(Debug)]
pub struct Script {
    /// 1 for as fast as the question says.
    pub slowness: u32,
}

impl StandIn for Script {
    fn generate(&self, job: GenerateJob, events: Sender<Result<Generated, EngineError>>) {
        let slowness = self.slowness;
        tokio::spawn(async move {
            tokio::select! {
                () = events.closed() => {}
                () = answer(job, slowness, &events) => {}
            }
        });
    }
}

async fn answer(job: GenerateJob, slowness: u32, events: &Sender<Result<Generated, EngineError>>) {
    let send = async |event| drop(events.send(event).await);
    let question = job.messages.last().map(|m| m.content.as_str());
    let Some(line) = question.and_then(Line::read) else {
        let unknown = "the script has no such line".to_owned();
        return send(Err(EngineError::InvalidInput(unknown))).await;
    };
    // A prefix that is not the answer's beginning is the caller's fault, which must not go unseen.
    let prefix = &job.prefix_token_ids;
    let begun = u32::try_from(prefix.len()).unwrap_or(u32::MAX);
    if !prefix.iter().copied().eq(0..begun) || begun > line.tokens {
        let wrong = format!("the prefix of answer {} is not its beginning", line.id);
        return send(Err(EngineError::Internal(wrong))).await;
    }
    send(Ok(Generated::Started {
        prompt_tokens: 1,
        seed: job.sampling.seed.unwrap_or(line.id),
        fingerprint: "script".into(),
    }))
    .await;
    let mut pause = line.first;
    for n in begun..line.tokens {
        sleep(pause * slowness).await;
        pause = line.every;
        send(Ok(Generated::Tokens {
            ids: vec![n],
            text: line.token(n),
        }))
        .await;
    }
    send(Ok(Generated::Finished {
        reason: FinishReason::Stop,
        usage: Usage {
            prompt_tokens: 1,
            completion_tokens: line.tokens,
            estimated: false,
        },
    }))
    .await;
}

/// The script for sharing.
pub fn script(slowness: u32) -> Arc<dyn StandIn> {
    Arc::new(Script { slowness })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_written() {
        let line = Line {
            id: 17,
            tokens: 3,
            first: Duration::from_millis(50),
            every: Duration::from_millis(7),
        };
        assert_eq!(Line::read(&line.question()), Some(line));
        assert_eq!(line.answer(), "17.0 17.1 17.2 ");
    }
}
