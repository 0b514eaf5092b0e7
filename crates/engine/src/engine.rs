//! The handle everyone else holds.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use polymath_types::{ExpertCard, ExpertId, ExpertKind, FileRef, LoadReport};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Classified, Embedded, EngineError, GenerateJob, GenerateStream, LoadError, MemoryLimit,
    Overlong,
    encode::EncodeJob,
    expert::{Expert, Experts, Running},
    generate::{EVENTS, StandIn},
    inbox::Inbox,
    memory::{Memory, NoRoom},
    sampling::Plan,
    sequence::Admission,
    worker::Worker,
};

/// How much of the machine the engine takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Threads that compute; 0 means one fewer than the machine has, but at least one, which
    /// leaves a core to the network.
    pub threads: usize,
    /// Answers computed at once; each holds a KV cache.
    pub slots: usize,
    /// Requests that wait, of each sort, before the engine answers "busy".
    pub queue: usize,
    /// What models may take; `None` for whatever the machine has.
    pub memory: Option<MemoryLimit>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            slots: 4,
            queue: 32,
            memory: None,
        }
    }
}

/// A handle to the engine; clones share it, and the last one dropped stops it.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inbox: Arc<Inbox>,
    experts: Experts,
    memory: Arc<Memory>,
    slots: usize,
    stand_ins: RwLock<HashMap<ExpertId, Arc<dyn StandIn>>>,
    /// For the work of loading; inference has the same number of threads.
    loaders: rayon::ThreadPool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

impl Engine {
    /// Starts the inference thread. Nothing is loaded yet.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] when the system grants no threads.
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if config.threads == 0 {
            cores.saturating_sub(1).max(1)
        } else {
            config.threads
        };
        let slots = config.slots.max(1);
        let pool = |name: &'static str| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(move |i| format!("{name}-{i}"))
                .build()
                .map_err(|e| EngineError::Stopped(format!("cannot start {threads} threads: {e}")))
        };
        let inbox = Arc::new(Inbox::new(config.queue.max(1)));
        let memory = Arc::new(Memory::new(config.memory));
        let worker = Worker::new(
            Arc::clone(&inbox),
            pool("inference")?,
            slots,
            Arc::clone(&memory),
        );
        let closing = Arc::clone(&inbox);
        let shared = Shared {
            inbox,
            experts: Experts::new(Arc::clone(&memory), slots),
            memory,
            slots,
            stand_ins: RwLock::default(),
            loaders: pool("load")?,
        };
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                // Whatever happens to the thread, nobody waits for it in vain.
                let _ = catch_unwind(AssertUnwindSafe(|| worker.run()));
                closing.close();
            })
            .map_err(|e| EngineError::Stopped(format!("cannot start its thread: {e}")))?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// From now on `stand_in` answers for this expert, which counts as loaded.
    pub fn stand_in(&self, id: ExpertId, stand_in: Arc<dyn StandIn>) {
        let all = self.shared.stand_ins.write();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        all.insert(id, stand_in);
    }

    fn standing_in(&self, id: &ExpertId) -> Option<Arc<dyn StandIn>> {
        let all = self.shared.stand_ins.read();
        all.unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Loads an expert; `file` says where each of its files lies. Blocks while it reads, so call it
    /// off the async threads. Experts over the same files share one copy of the weights. Checksums
    /// are taken as verified. Loading what is loaded does nothing.
    ///
    /// # Errors
    /// See [`LoadError`]; a failed load leaves no trace.
    pub fn load(
        &self,
        card: Arc<ExpertCard>,
        file: &dyn Fn(&FileRef) -> PathBuf,
    ) -> Result<(), LoadError> {
        if self.standing_in(&card.id()).is_some() {
            return Ok(());
        }
        self.shared.experts.load(card, file, &self.shared.loaders)
    }

    /// Forgets an expert; answers under way end in peace. Whether it was loaded.
    pub fn unload(&self, id: &ExpertId) -> bool {
        let all = self.shared.stand_ins.write();
        let stood_in = all.unwrap_or_else(PoisonError::into_inner).remove(id);
        self.shared.experts.remove(id) || stood_in.is_some()
    }

    /// Whether the expert can be asked.
    pub fn is_ready(&self, id: &ExpertId) -> bool {
        self.standing_in(id).is_some() || self.shared.experts.get(id).is_some()
    }

    /// What this expert's answers are computed by: build, runtime, formats, kernel class, device.
    /// Answers are equal token for token only between equal fingerprints.
    pub fn fingerprint(&self, id: &ExpertId) -> Option<String> {
        self.shared.experts.get(id).map(|e| e.fingerprint.clone())
    }

    /// Asks for an answer; never waits.
    ///
    /// # Errors
    /// `UnknownExpert`, `WrongKind`, `InvalidInput`, `ContextOverflow`, and `Busy` when the queue
    /// is full. Later faults come through the stream.
    pub fn generate(&self, id: &ExpertId, job: GenerateJob) -> Result<GenerateStream, EngineError> {
        if let Some(stand_in) = self.standing_in(id) {
            let (events, receiver) = mpsc::channel(EVENTS);
            stand_in.generate(job, events);
            let inbox = Arc::clone(&self.shared.inbox);
            return Ok(GenerateStream::new(receiver, inbox));
        }
        let expert = self.expert(id, ExpertKind::Generate)?;
        let Running::Generate(model) = &expert.running else {
            return Err(EngineError::Internal("the expert lost its model".into()));
        };
        if job.messages.is_empty() {
            return Err(EngineError::InvalidInput(
                "the conversation has no message".into(),
            ));
        }
        let plan = Plan::new(&expert.card.sampling, &job.sampling, draw_seed)
            .map_err(EngineError::InvalidInput)?;
        let vocabulary = model.tokenizer.vocabulary();
        let foreign = |id: &&u32| **id as usize >= vocabulary || model.tokenizer.is_end(**id);
        if let Some(id) = job.prefix_token_ids.iter().find(foreign) {
            return Err(EngineError::InvalidInput(format!(
                "the forced prefix holds token {id}, which is no token of an answer by this model"
            )));
        }
        let context = expert.context(model);
        if job.prefix_token_ids.len() > context as usize {
            let prompt = u32::try_from(job.prefix_token_ids.len()).unwrap_or(u32::MAX);
            return Err(EngineError::ContextOverflow {
                prompt,
                limit: context,
            });
        }
        let (events, receiver) = mpsc::channel(EVENTS);
        let admission = Admission {
            prompt: model.prompt(&expert.with_system(job.messages), context)?,
            model: Arc::clone(model),
            fingerprint: expert.fingerprint.clone(),
            prefix: job.prefix_token_ids,
            plan,
            context,
            deadline: job.deadline,
            events,
        };
        let needed = admission.cache_bytes();
        if let Err(NoRoom::Ever(room)) = self.shared.memory.could_hold(needed) {
            return Err(EngineError::Memory { needed, room });
        }
        self.shared.inbox.push_generate(admission)?;
        Ok(GenerateStream::new(
            receiver,
            Arc::clone(&self.shared.inbox),
        ))
    }

    /// Turns texts into unit vectors. Dropping the future cancels.
    ///
    /// # Errors
    /// As [`Self::generate`], with `TextOverflow` for `ContextOverflow`.
    pub async fn embed(
        &self,
        id: &ExpertId,
        texts: Vec<String>,
        overlong: Overlong,
    ) -> Result<Embedded, EngineError> {
        if let Some(stand_in) = self.standing_in(id) {
            return stand_in.embed(texts).await;
        }
        let expert = self.expert(id, ExpertKind::Embed)?;
        let (reply, result) = oneshot::channel();
        self.shared
            .inbox
            .push_encode(EncodeJob::embed(expert, texts, overlong, reply)?)?;
        result.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Gives texts labels with probabilities, best first. Without `labels` the card's own are used;
    /// a language identifier narrows its choice to the `labels` given. A text too long for the encoder
    /// is refused; a language is told from the beginning.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub async fn classify(
        &self,
        id: &ExpertId,
        texts: Vec<String>,
        labels: Vec<String>,
    ) -> Result<Classified, EngineError> {
        let expert = self.expert(id, ExpertKind::Classify)?;
        let (reply, result) = oneshot::channel();
        self.shared
            .inbox
            .push_encode(EncodeJob::classify(expert, texts, labels, reply)?)?;
        result.await.unwrap_or_else(|_| Err(lost()))
    }

    /// How busy the engine is; how long answers take it does not measure.
    pub fn load_report(&self) -> LoadReport {
        let (waiting, active) = self.shared.inbox.load();
        LoadReport {
            queue_depth: waiting as u32,
            active: active as u32,
            free_slots: self.shared.slots.saturating_sub(waiting + active) as u32,
            resident_experts: self.shared.experts.count() as u32,
            ..LoadReport::default()
        }
    }

    /// Bytes that weights and KV caches take, as they were reckoned before they were taken.
    pub fn memory_taken(&self) -> u64 {
        self.shared.memory.taken()
    }

    /// Tokens sampled since the start, whoever asked for them.
    pub fn generated_tokens(&self) -> u64 {
        self.shared.inbox.generated()
    }

    fn expert(&self, id: &ExpertId, kind: ExpertKind) -> Result<Arc<Expert>, EngineError> {
        let expert = self
            .shared
            .experts
            .get(id)
            .ok_or_else(|| EngineError::UnknownExpert(id.short()))?;
        expert.expect(kind)?;
        Ok(expert)
    }
}

fn lost() -> EngineError {
    EngineError::Internal("the request was dropped by a stopping or failing engine".into())
}

/// A seed nobody chose: the standard library keys each `RandomState` from the system's randomness.
fn draw_seed() -> u64 {
    RandomState::new().hash_one(0u8)
}
