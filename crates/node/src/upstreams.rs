//! Experts that another server computes: what stands in for the engine, and whether the server is well.
//!
//! A server is well while it lists the model and answers. It is looked at now and then, and at once when a
//! question failed; one that is not well is not offered, is tried again after pauses that grow, and comes
//! back by itself. That it lists its models proves little: after three questions in a row that it failed, it
//! rests all the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use polymath_engine::{Embedded, Embedding, EngineError, GenerateJob, Generated, StandIn};
use polymath_types::{ErrorKind, ExpertCard, ExpertId, Failure, Message, Role};
use polymath_upstream::{Chat, Part, Upstream};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::hosted::{Hosted, State, jittered};

/// How often a server that is well is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// Longest wait for its list of models.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses before a server that is not well is looked at again; each doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Least time between two looks, however many questions fail.
const SETTLE: Duration = Duration::from_millis(500);
/// A question that is given up after so long without a word counts as failed.
const SILENCE: Duration = Duration::from_secs(10);
/// Questions in a row that it may fail, or refuse.
const FAILED: u32 = 3;
/// Most tokens of an answer where neither the server nor the card bounds them.
const MOST_TOKENS: u32 = 32 << 10;

/// How questions fare.
#[derive(Debug, Default)]
struct Health {
    failed: AtomicU32,
    /// As wrong, in a row: then it is more likely that the server takes none of what is sent here.
    refused: AtomicU32,
    doubt: Notify,
}

/// A question at the server. Dropped before its outcome was noted, it was given up.
struct Asking<'a> {
    health: &'a Health,
    /// When the server was asked, or said something.
    heard: Option<Instant>,
}

impl Asking<'_> {
    fn heard(&mut self) {
        self.heard = Some(Instant::now());
    }

    fn noted<T>(mut self, outcome: &Result<T, Failure>) {
        self.heard = None;
        self.health
            .noted(outcome.as_ref().map(drop).map_err(|f| f.kind));
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.heard.is_some_and(|at| at.elapsed() >= SILENCE) {
            self.health.noted(Err(ErrorKind::Unavailable));
        }
    }
}

/// Answers in the engine's place.
#[derive(Debug, Clone)]
struct Outside {
    card: Arc<ExpertCard>,
    upstream: Upstream,
    health: Arc<Health>,
    tasks: TaskTracker,
}

/// Keeps an expert's state by its server's, until the expert is `gone` or the node ends.
pub(crate) async fn watch(
    hosted: Hosted,
    id: ExpertId,
    upstream: Upstream,
    stop: CancellationToken,
    gone: CancellationToken,
) {
    let (Some(card), Some(tasks)) = (hosted.card(&id), hosted.tasks()) else {
        return;
    };
    let health = Arc::new(Health::default());
    let outside = Outside {
        card,
        upstream: upstream.clone(),
        health: Arc::clone(&health),
        tasks,
    };
    hosted.stand_in(id, Arc::new(outside));
    let watching = async {
        let mut pause = FIRST_PAUSE;
        let mut well = false;
        loop {
            let wait = match look(&upstream, &health).await {
                Ok(()) => {
                    if !well {
                        tracing::info!(server = %upstream.config().address, "serves {}", upstream.config().model);
                        hosted.set(&[id], State::Ready);
                    }
                    well = true;
                    if health.is_clean() {
                        pause = FIRST_PAUSE;
                    }
                    LOOK
                }
                Err(failure) => {
                    well = false;
                    let wait = jittered(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    // The operator is told more than peers are.
                    let key = upstream.config().key.check().await;
                    let why = key.err().unwrap_or(failure).message;
                    hosted.fail(&[id], &why, Some(Instant::now() + wait));
                    wait
                }
            };
            if well {
                tokio::select! {
                    () = sleep(wait) => {}
                    () = health.doubt.notified() => sleep(SETTLE).await,
                }
            } else {
                sleep(wait).await;
                // On probation: the next failure is one too many.
                health.failed.fetch_min(FAILED - 1, Relaxed);
                health.refused.fetch_min(FAILED - 1, Relaxed);
            }
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
        () = gone.cancelled() => {}
    }
}

async fn look(upstream: &Upstream, health: &Health) -> Result<(), Failure> {
    for (count, what) in [(&health.failed, "failed"), (&health.refused, "refused")] {
        let count = count.load(Relaxed);
        if count >= FAILED {
            return Err(Failure::new(
                ErrorKind::Unavailable,
                format!("its server has {what} {count} questions in a row"),
            ));
        }
    }
    let silent = || Failure::new(ErrorKind::Unavailable, "its server does not answer");
    let found = timeout(PATIENCE, upstream.find()).await;
    match found.map_err(|_| silent())? {
        Ok(_) => Ok(()),
        // Peers that ask are told this: what else the server has is the operator's own affair.
        Err(e) if e.kind == ErrorKind::NotFound => Err(Failure::new(
            ErrorKind::Unavailable,
            "its server does not have the model any more",
        )),
        Err(e) => Err(e),
    }
}

impl Health {
    fn is_clean(&self) -> bool {
        self.failed.load(Relaxed) == 0 && self.refused.load(Relaxed) == 0
    }

    /// Whether an answer came, or why not: what the question itself is to blame for says nothing once.
    fn noted(&self, outcome: Result<(), ErrorKind>) {
        match outcome {
            Ok(()) => {
                self.failed.store(0, Relaxed);
                self.refused.store(0, Relaxed);
            }
            Err(ErrorKind::InvalidInput) => {
                if self.refused.fetch_add(1, Relaxed) + 1 >= FAILED {
                    self.doubt.notify_one();
                }
            }
            Err(ErrorKind::Unavailable | ErrorKind::Internal) => {
                self.failed.fetch_add(1, Relaxed);
                self.doubt.notify_one();
            }
            Err(_) => {}
        }
    }
}

impl StandIn for Outside {
    fn generate(&self, job: GenerateJob, events: mpsc::Sender<Result<Generated, EngineError>>) {
        let this = self.clone();
        self.tasks.spawn(async move {
            let mut asking = this.asking();
            let answered = match this.chat(&job) {
                Err(wrong) => Err(wrong),
                Ok(chat) => {
                    let answered = tokio::select! {
                        // Whoever asked has gone: the connection ends with the answer.
                        () = events.closed() => return,
                        answered = this.answer(&job, &chat, &mut asking, &events) => answered,
                    };
                    asking.noted(&answered);
                    answered
                }
            };
            if let Err(failure) = answered {
                let _ = events.send(Err(EngineError::Outside(failure))).await;
            }
        });
    }

    fn embed(&self, texts: Vec<String>) -> Embedding {
        let this = self.clone();
        Box::pin(async move {
            let until = Instant::now() + this.upstream.config().patience.first;
            let place = this.upstream.place(until).await;
            let place = place.map_err(EngineError::Outside)?;
            let mut asking = this.asking();
            asking.heard();
            let embedded = this.upstream.embed_in(place, &texts).await;
            asking.noted(&embedded);
            let vectors = embedded.map_err(EngineError::Outside)?;
            Ok(Embedded {
                vectors: vectors.vectors,
                prompt_tokens: vectors.prompt_tokens,
            })
        })
    }
}

impl Outside {
    fn asking(&self) -> Asking<'_> {
        Asking {
            health: &self.health,
            heard: None,
        }
    }

    async fn answer(
        &self,
        job: &GenerateJob,
        chat: &Chat,
        asking: &mut Asking<'_>,
        events: &mpsc::Sender<Result<Generated, EngineError>>,
    ) -> Result<(), Failure> {
        let seed = job.sampling.seed;
        let now = Instant::now();
        let until = now + self.upstream.config().patience.first;
        // Half of the time is left for another replica to answer in.
        let half = |deadline| now + Instant::from_std(deadline).saturating_duration_since(now) / 2;
        let until = job.deadline.map_or(until, |d| until.min(half(d)));
        let place = self.upstream.place(until).await?;
        asking.heard();
        let mut answer = self.upstream.chat_in(place, chat, until).await?;
        // Nobody reads any more: see `generate`.
        let send = async |event| drop(events.send(Ok(event)).await);
        send(Generated::Started {
            prompt_tokens: answer.prompt_tokens(),
            seed: seed.unwrap_or(0),
            fingerprint: String::new(),
        })
        .await;
        loop {
            let part = answer.next().await?;
            // Whoever asked may be slow to take it, which is no silence of the server's.
            asking.heard = None;
            match part {
                Part::Text(text) => {
                    let ids = Vec::new();
                    send(Generated::Tokens { ids, text }).await;
                    asking.heard();
                }
                Part::Finished { reason, usage } => {
                    send(Generated::Finished { reason, usage }).await;
                    return Ok(());
                }
            }
        }
    }

    /// The question as the server is asked: the card's defaults, and what the caller changes of them.
    fn chat(&self, job: &GenerateJob) -> Result<Chat, Failure> {
        if !job.prefix_token_ids.is_empty() {
            return Err(Failure::new(
                ErrorKind::InvalidInput,
                "another server computes this expert, and cannot carry an answer on: ask anew",
            ));
        }
        let (defaults, asked) = (&self.card.sampling, &job.sampling);
        let mut messages = job.messages.clone();
        if messages.is_empty() {
            let empty = "the conversation has no message";
            return Err(Failure::new(ErrorKind::InvalidInput, empty));
        }
        if let Some(system) = &self.card.system
            && messages.iter().all(|m| m.role != Role::System)
        {
            let content = system.clone();
            let role = Role::System;
            messages.insert(0, Message { role, content });
        }
        let most = match self.card.model.context_length {
            0 => MOST_TOKENS,
            context => context,
        };
        let top_p = asked.top_p.unwrap_or(defaults.top_p);
        let top_k = asked.top_k.unwrap_or(defaults.top_k);
        let stop = defaults
            .stop
            .iter()
            .cloned()
            .chain(asked.stop.iter().cloned());
        Ok(Chat {
            messages,
            max_tokens: asked
                .max_tokens
                .unwrap_or(defaults.max_tokens)
                .clamp(1, most),
            temperature: Some(asked.temperature.unwrap_or(defaults.temperature)),
            // Not every server knows these: stated only where they say something.
            top_p: (top_p < 1.0).then_some(top_p),
            top_k: (top_k > 0).then_some(top_k),
            seed: asked.seed,
            stop: stop.collect(),
        })
    }
}
