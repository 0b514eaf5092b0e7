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
/// Questions in a row that it may fail.
const FAILED: u32 = 3;
/// Most tokens of an answer where neither the server nor the card bounds them.
const MOST_TOKENS: u32 = 32 << 10;

/// How questions fare.
#[derive(Debug, Default)]
struct Health {
    failed: AtomicU32,
    doubt: Notify,
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
                    pause = FIRST_PAUSE;
                    LOOK
                }
                Err(failure) => {
                    well = false;
                    let wait = jittered(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    hosted.fail(&[id], &failure.message, Some(Instant::now() + wait));
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
    let failed = health.failed.load(Relaxed);
    if failed >= FAILED {
        return Err(Failure::new(
            ErrorKind::Unavailable,
            format!("its server has failed {failed} questions in a row"),
        ));
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
    /// Whether an answer came, or why not: what the question itself is to blame for says nothing.
    fn noted(&self, outcome: Result<(), ErrorKind>) {
        match outcome {
            Ok(()) => self.failed.store(0, Relaxed),
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
            let answered = tokio::select! {
                // Whoever asked has gone: the connection ends with the answer.
                () = events.closed() => return,
                answered = this.answer(job, &events) => answered,
            };
            this.health
                .noted(answered.as_ref().copied().map_err(|f| f.kind));
            if let Err(failure) = answered {
                let _ = events.send(Err(EngineError::Outside(failure))).await;
            }
        });
    }

    fn embed(&self, texts: Vec<String>) -> Embedding {
        let this = self.clone();
        Box::pin(async move {
            let embedded = this.upstream.embed(&texts).await;
            this.health
                .noted(embedded.as_ref().map(|_| ()).map_err(|f| f.kind));
            let vectors = embedded.map_err(EngineError::Outside)?;
            Ok(Embedded {
                vectors: vectors.vectors,
                prompt_tokens: vectors.prompt_tokens,
            })
        })
    }
}

impl Outside {
    async fn answer(
        &self,
        job: GenerateJob,
        events: &mpsc::Sender<Result<Generated, EngineError>>,
    ) -> Result<(), Failure> {
        if !job.prefix_token_ids.is_empty() {
            return Err(Failure::new(
                ErrorKind::InvalidInput,
                "another server computes this expert, and cannot carry an answer on: ask anew",
            ));
        }
        let seed = job.sampling.seed;
        let mut answer = self.upstream.chat(&self.chat(job)?).await?;
        // Nobody reads any more: see `generate`.
        let send = async |event| drop(events.send(Ok(event)).await);
        send(Generated::Started {
            prompt_tokens: 0,
            seed: seed.unwrap_or(0),
            fingerprint: String::new(),
        })
        .await;
        loop {
            match answer.next().await? {
                Part::Text(text) => {
                    let ids = Vec::new();
                    send(Generated::Tokens { ids, text }).await;
                }
                Part::Finished { reason, usage } => {
                    send(Generated::Finished { reason, usage }).await;
                    return Ok(());
                }
            }
        }
    }

    /// The question as the server is asked: the card's defaults, and what the caller changes of them.
    fn chat(&self, job: GenerateJob) -> Result<Chat, Failure> {
        let (defaults, asked) = (&self.card.sampling, job.sampling);
        let mut messages = job.messages;
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
        let stop = defaults.stop.iter().cloned().chain(asked.stop);
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
