//! How much memory models may take: weights, KV caches and the room to compute in.
//!
//! Weights are booked before they are read, and freed with the last expert that uses them. A cache is
//! booked whole when its answer gets a slot, for all the tokens it may grow to; while there is no room
//! for it the answer waits. So a limit costs answers at once, not answers.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::LoadError;

/// Tokens of cache that must find room beside the weights of a language model, or those of its context
/// if that is shorter: a conversation. A longer one may still be refused.
pub(crate) const CONVERSATION: usize = 2048;

/// A bound on memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes the whole process may take.
    pub total: u64,
    /// Bytes of them that are not for models.
    pub reserved: u64,
}

/// What a model needs, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// As long as it is loaded.
    pub(crate) weights: u64,
    /// For one answer of [`CONVERSATION`] tokens.
    pub(crate) cache: u64,
    /// While it computes, however many answers.
    pub(crate) working: u64,
    /// Beside the weights, while they are being read.
    pub(crate) loading: u64,
}

/// The books.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    limit: Option<MemoryLimit>,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    weights: u64,
    caches: u64,
    /// The largest of all models: they compute in turn, and each must be able to answer.
    working: u64,
    cache: u64,
}

/// Weights on the books, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Booking {
    memory: Arc<Memory>,
    bytes: u64,
}

/// A cache on the books, for as long as it lives.
#[derive(Debug)]
pub(crate) struct CacheRoom {
    memory: Arc<Memory>,
    bytes: u64,
}

/// Why a cache has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Others have it now.
    Now,
    /// It is larger than all there is, in bytes.
    Ever(u64),
}

impl Memory {
    pub(crate) fn new(limit: Option<MemoryLimit>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What models may take.
    fn allowed(&self) -> Option<u64> {
        self.limit.map(|l| l.total.saturating_sub(l.reserved))
    }

    /// Books a model before it is read. Where only answers under way are in the way it waits for their
    /// end; new ones get what is left beside the model.
    pub(crate) fn book(self: &Arc<Self>, expert: &str, need: Need) -> Result<Booking, LoadError> {
        let mut state = self.state();
        let (cache, working) = (state.cache.max(need.cache), state.working.max(need.working));
        let beside = (cache + working).max(need.loading);
        if let (Some(allowed), Some(limit)) = (self.allowed(), self.limit)
            && state.weights + need.weights + beside > allowed
        {
            return Err(LoadError::Memory {
                expert: expert.to_owned(),
                needed: need.weights + (need.cache + need.working).max(need.loading),
                taken: state.weights,
                reserved: limit.reserved,
                total: limit.total,
            });
        }
        state.weights += need.weights;
        (state.cache, state.working) = (cache, working);
        let booking = Booking {
            memory: Arc::clone(self),
            bytes: need.weights,
        };
        let fits = |state: &State| {
            let taken = state.weights + state.caches + working.max(need.loading);
            self.allowed().is_none_or(|allowed| taken <= allowed)
        };
        while state.caches > 0 && !fits(&state) {
            state = self
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(booking)
    }

    /// Books a cache.
    pub(crate) fn cache(self: &Arc<Self>, bytes: u64) -> Result<CacheRoom, NoRoom> {
        let mut state = self.state();
        self.check(&state, bytes)?;
        state.caches += bytes;
        Ok(CacheRoom {
            memory: Arc::clone(self),
            bytes,
        })
    }

    /// Whether a cache could have room once nobody else has any.
    pub(crate) fn could_hold(&self, bytes: u64) -> Result<(), NoRoom> {
        match self.check(&self.state(), bytes) {
            Err(NoRoom::Now) | Ok(()) => Ok(()),
            ever => ever,
        }
    }

    fn check(&self, state: &State, bytes: u64) -> Result<(), NoRoom> {
        let Some(allowed) = self.allowed() else {
            return Ok(());
        };
        let room = allowed.saturating_sub(state.weights + state.working);
        match bytes {
            _ if bytes > room => Err(NoRoom::Ever(room)),
            _ if state.caches + bytes > room => Err(NoRoom::Now),
            _ => Ok(()),
        }
    }

    /// Bytes on the books.
    pub(crate) fn taken(&self) -> u64 {
        let state = self.state();
        state.weights + state.caches
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        self.memory.state().weights -= self.bytes;
        self.memory.freed.notify_all();
    }
}

impl Drop for CacheRoom {
    fn drop(&mut self) {
        self.memory.state().caches -= self.bytes;
        self.memory.freed.notify_all();
    }
}

/// Bytes for people, in whole MiB.
pub(crate) struct MiB(pub(crate) u64);

impl fmt::Display for MiB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Need = Need {
        weights: 100,
        cache: 40,
        working: 10,
        loading: 30,
    };

    fn memory(total: u64) -> Arc<Memory> {
        let limit = MemoryLimit {
            total,
            reserved: 50,
        };
        Arc::new(Memory::new(Some(limit)))
    }

    #[test]
    fn a_model_that_would_pass_the_limit_is_refused_with_the_numbers() {
        let memory = memory(299);
        let first = memory.book("first", MODEL).unwrap();
        let refused = memory.book("second", MODEL).unwrap_err();
        let expected = LoadError::Memory {
            expert: "second".into(),
            needed: 150,
            taken: 100,
            reserved: 50,
            total: 299,
        };
        assert_eq!(refused, expected);
        assert_eq!(memory.taken(), 100);
        drop(first);
        assert!(memory.book("second", MODEL).is_ok());
    }

    #[test]
    fn caches_share_what_weights_leave() {
        let memory = memory(260);
        let _model = memory.book("model", MODEL).unwrap();
        let first = memory.cache(60).unwrap();
        let second = memory.cache(40).unwrap();
        assert_eq!(memory.cache(1).unwrap_err(), NoRoom::Now);
        assert_eq!(memory.cache(101).unwrap_err(), NoRoom::Ever(100));
        assert_eq!(memory.could_hold(100), Ok(()));
        drop(first);
        assert!(memory.cache(60).is_ok());
        drop(second);
        assert_eq!(memory.taken(), 100);
    }

    #[test]
    fn a_second_model_waits_for_answers_that_are_in_its_way() {
        let memory = memory(360);
        let _model = memory.book("model", MODEL).unwrap();
        let cache = memory.cache(200).unwrap();
        let booked = std::thread::scope(|scope| {
            let booking = scope.spawn(|| memory.book("second", MODEL).map(drop));
            while memory.state().weights < 200 {
                std::thread::yield_now();
            }
            // What it will need is not given away meanwhile.
            assert!(matches!(memory.cache(150), Err(NoRoom::Ever(_))));
            drop(cache);
            booking.join().unwrap()
        });
        assert_eq!(booked, Ok(()));
    }

    #[test]
    fn without_a_limit_everything_fits_and_is_counted() {
        let memory = Arc::new(Memory::new(None));
        let _model = memory.book("model", MODEL).unwrap();
        let _cache = memory.cache(1 << 50).unwrap();
        assert_eq!(memory.taken(), 100 + (1 << 50));
    }
}
