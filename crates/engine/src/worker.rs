//! The inference thread: carries out what [`crate::schedule`] decides.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use crate::{
    EngineError,
    encode::EncodeJob,
    expert::LanguageModel,
    inbox::Inbox,
    memory::Memory,
    schedule::{Round, Schedule, SequenceId},
    sequence::Sequence,
};

pub(crate) struct Worker {
    inbox: Arc<Inbox>,
    pool: rayon::ThreadPool,
    schedule: Schedule,
    sequences: BTreeMap<SequenceId, Sequence>,
    encoding: Option<EncodeJob>,
    next_id: SequenceId,
    memory: Arc<Memory>,
}

impl Worker {
    pub(crate) fn new(
        inbox: Arc<Inbox>,
        pool: rayon::ThreadPool,
        slots: usize,
        memory: Arc<Memory>,
    ) -> Self {
        Self {
            inbox,
            pool,
            schedule: Schedule::new(slots),
            sequences: BTreeMap::new(),
            encoding: None,
            next_id: 0,
            memory,
        }
    }

    /// Works until the inbox is closed.
    pub(crate) fn run(mut self) {
        loop {
            let deadline = self.drop_the_dead(Instant::now());
            let (free, idle) = (self.schedule.free(), self.encoding.is_none());
            let room = |bytes| self.memory.cache(bytes);
            let (admissions, encode, rings) = self.inbox.take(free, idle, room);
            self.encoding = self.encoding.take().or(encode);
            for (admission, room) in admissions {
                if let Some(sequence) = Sequence::admit(admission, room) {
                    self.schedule.admit(self.next_id, sequence.unseen());
                    self.sequences.insert(self.next_id, sequence);
                    self.next_id += 1;
                }
            }
            self.inbox
                .set_active(self.schedule.active() + usize::from(self.encoding.is_some()));
            let Some(rings) = rings else { break };
            let sequences = &self.sequences;
            let ready = |id| sequences.get(&id).is_some_and(Sequence::is_ready);
            let round = self.schedule.next(ready, self.encoding.is_some());
            if round.is_idle() {
                self.inbox.wait(rings, deadline);
            } else {
                self.carry_out(&round);
            }
        }
        self.fail_all(&EngineError::Stopped("it is shutting down".into()));
    }

    /// Frees what nobody waits for any more; the next deadline.
    fn drop_the_dead(&mut self, now: Instant) -> Option<Instant> {
        let mut next = self.inbox.expire(now);
        let schedule = &mut self.schedule;
        self.sequences.retain(|id, sequence| {
            let expired = sequence.deadline().is_some_and(|d| d <= now);
            if expired {
                sequence.fail(EngineError::DeadlineExceeded);
            }
            let keep = !expired && !sequence.is_cancelled();
            if keep {
                next = next.into_iter().chain(sequence.deadline()).min();
            } else {
                schedule.remove(*id);
            }
            keep
        });
        self.encoding = self.encoding.take().filter(|job| !job.is_cancelled());
        next
    }

    fn carry_out(&mut self, round: &Round) {
        let Self {
            inbox,
            pool,
            sequences,
            encoding,
            ..
        } = self;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.install(|| {
                let (finished, sampled) = compute(sequences, round);
                inbox.count_generated(sampled);
                if round.encode {
                    *encoding = encoding.take().and_then(EncodeJob::step);
                }
                finished
            })
        }));
        match outcome {
            Ok(finished) => {
                for id in finished {
                    self.sequences.remove(&id);
                    self.schedule.remove(id);
                }
            }
            Err(_) => {
                tracing::error!("a step of inference panicked; its requests fail");
                self.fail_all(&EngineError::Internal(
                    "a step of inference panicked".into(),
                ));
            }
        }
    }

    fn fail_all(&mut self, error: &EngineError) {
        for (id, sequence) in std::mem::take(&mut self.sequences) {
            sequence.fail(error.clone());
            self.schedule.remove(id);
        }
        self.encoding = None;
    }
}

/// A sequence in a forward pass, and how many of its tokens.
type Member<'a> = (SequenceId, &'a mut Sequence, usize);

/// One forward pass for each model in the round; the sequences that ended, and how many tokens were
/// sampled.
fn compute(
    sequences: &mut BTreeMap<SequenceId, Sequence>,
    round: &Round,
) -> (Vec<SequenceId>, usize) {
    let tokens = |id: SequenceId| match round.prefill {
        Some((prompt, tokens)) if prompt == id => Some(tokens),
        _ => round.decode.contains(&id).then_some(1),
    };
    let mut batches: Vec<(Arc<LanguageModel>, Vec<Member<'_>>)> = Vec::new();
    for (id, sequence) in sequences.iter_mut() {
        let Some(tokens) = tokens(*id) else { continue };
        match batches
            .iter_mut()
            .find(|(model, _)| Arc::ptr_eq(model, &sequence.model))
        {
            Some((_, members)) => members.push((*id, sequence, tokens)),
            None => batches.push((Arc::clone(&sequence.model), vec![(*id, sequence, tokens)])),
        }
    }
    let (mut finished, mut sampled) = (Vec::new(), 0);
    for (model, members) in &mut batches {
        let mut spans: Vec<_> = members
            .iter_mut()
            .map(|(_, sequence, tokens)| sequence.span(*tokens))
            .collect();
        let logits = model.llama.forward(&mut spans);
        for ((id, sequence, _), logits) in members.iter_mut().zip(logits) {
            let Some(mut logits) = logits else { continue };
            sampled += 1;
            if !sequence.accept(&mut logits) {
                finished.push(*id);
            }
        }
    }
    (finished, sampled)
}
