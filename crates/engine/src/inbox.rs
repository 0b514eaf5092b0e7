//! What waits for the inference thread. Bounded; never blocks a caller.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    EngineError,
    encode::EncodeJob,
    memory::{CacheRoom, NoRoom},
    sequence::Admission,
};

/// Jobs and the bell.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    bell: Condvar,
    /// Longest queue of either kind.
    limit: usize,
    /// Tokens sampled so far.
    generated: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    generate: VecDeque<Admission>,
    encode: VecDeque<EncodeJob>,
    /// Sequences in slots, as the thread last reported.
    active: usize,
    rings: u64,
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            bell: Condvar::new(),
            limit,
            generated: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push_generate(&self, job: Admission) -> Result<(), EngineError> {
        self.push(job, |s| &mut s.generate)
    }

    pub(crate) fn push_encode(&self, job: EncodeJob) -> Result<(), EngineError> {
        self.push(job, |s| &mut s.encode)
    }

    fn push<T>(
        &self,
        job: T,
        queue: impl Fn(&mut State) -> &mut VecDeque<T>,
    ) -> Result<(), EngineError> {
        let mut state = self.state();
        if state.closed {
            return Err(EngineError::Stopped("it is shutting down".into()));
        }
        let queue = queue(&mut state);
        if queue.len() >= self.limit {
            return Err(EngineError::Busy {
                queued: queue.len() as u32,
            });
        }
        queue.push_back(job);
        state.rings += 1;
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    /// Takes up to `slots` generations in order, without those whose callers went away, as far as
    /// `room` finds memory for them, and the first encoding if `encoder_free`; also how often the bell
    /// rang so far, or `None` when closed.
    pub(crate) fn take(
        &self,
        slots: usize,
        encoder_free: bool,
        room: impl Fn(u64) -> Result<CacheRoom, NoRoom>,
    ) -> (Vec<(Admission, CacheRoom)>, Option<EncodeJob>, Option<u64>) {
        let mut state = self.state();
        state.generate.retain(|job| !job.events.is_closed());
        state.encode.retain(|job| !job.is_cancelled());
        let mut admissions = Vec::new();
        while admissions.len() < slots
            && let Some(first) = state.generate.pop_front()
        {
            let needed = first.cache_bytes();
            match room(needed) {
                Ok(room) => admissions.push((first, room)),
                // One that came before its turn would take what this one waits for.
                Err(NoRoom::Now) => {
                    state.generate.push_front(first);
                    break;
                }
                Err(NoRoom::Ever(room)) => {
                    let _ = first
                        .events
                        .try_send(Err(EngineError::Memory { needed, room }));
                }
            }
        }
        let encode = if encoder_free {
            state.encode.pop_front()
        } else {
            None
        };
        (admissions, encode, (!state.closed).then_some(state.rings))
    }

    /// Sleeps until the bell has rung more than `seen` times, or until `deadline`.
    pub(crate) fn wait(&self, seen: u64, deadline: Option<Instant>) {
        let mut state = self.state();
        while state.rings == seen && !state.closed {
            let Some(deadline) = deadline else {
                state = self
                    .bell
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return;
            }
            state = self
                .bell
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Something changed that the thread may be waiting for.
    pub(crate) fn wake(&self) {
        self.state().rings += 1;
        self.bell.notify_one();
    }

    /// No more jobs; those that wait are dropped, which tells their callers.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.generate.clear();
        state.encode.clear();
        drop(state);
        self.bell.notify_one();
    }

    /// Earliest deadline among the generations that wait.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        state.generate.retain(|job| {
            let expired = job.deadline.is_some_and(|d| d <= now);
            if expired {
                let _ = job.events.try_send(Err(EngineError::DeadlineExceeded));
            }
            !expired
        });
        state.generate.iter().filter_map(|job| job.deadline).min()
    }

    pub(crate) fn set_active(&self, active: usize) {
        self.state().active = active;
    }

    /// Counts tokens that were sampled.
    pub(crate) fn count_generated(&self, tokens: usize) {
        self.generated.fetch_add(tokens as u64, Relaxed);
    }

    pub(crate) fn generated(&self) -> u64 {
        self.generated.load(Relaxed)
    }

    /// Jobs that wait, sequences in slots.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.generate.len() + state.encode.len(), state.active)
    }
}
