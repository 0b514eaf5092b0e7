//! What peers may have going on this node at once: lanes, and calls on them.
//!
//! What is shared is not all taken by those who came first: a peer may have some part of what is still free,
//! so each that comes leaves room for the next (the dynamic threshold of Choudhury and Hahne, 1998), and
//! the last eighth of the places is for peers that have none.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure, LoadReport, PeerId};
use tonic::Status;

use crate::{
    clients::MAX_MESSAGE, convert::load_to_proto, frame, pool::CALLS_TO_A_PEER, status::status,
};

/// Lanes of one peer: a few for each class, and as many again while a broken connection is not yet
/// known to be broken.
const LANES_OF_A_PEER: usize = 24;
/// Lanes in all. One without calls holds a few hundred bytes.
const LANES: usize = 4096;
/// Calls of one peer at once: twice what it has under way itself, as those it has given up may not have
/// ended here when it begins others.
const CALLS_OF_A_PEER: usize = 2 * CALLS_TO_A_PEER;
/// Calls in all, a few kilobytes each while they wait.
const CALLS: usize = 16_384;

/// Bytes of requests that their services have not taken yet, unless set otherwise.
const BYTES: usize = 256 << 20;
/// The part of the free bytes that one peer may have, unless its one message needs more: one in so many.
const OF_FREE_BYTES: usize = 4;

/// When whoever found none may try again.
const AGAIN: Duration = Duration::from_secs(1);

/// How many of `all` places a peer that `has` some may have while so many are taken.
fn share(all: usize, taken: usize, has: usize, most: usize) -> usize {
    match has {
        0 => most.min(all - taken),
        _ => most.min((all - all / 8).saturating_sub(taken) / 2),
    }
}

/// Places for what peers have going, and what they are told of the load. Clones mean the same places.
#[derive(Clone)]
pub struct Admission {
    places: Arc<Mutex<Places>>,
    /// Bytes of requests, see [`Admission::holding`].
    most_bytes: usize,
    load: Option<LoadSource>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            places: Arc::default(),
            most_bytes: BYTES,
            load: None,
        }
    }
}

type LoadSource = Arc<dyn Fn() -> LoadReport + Send + Sync>;

/// At most [`LANES`] peers have an entry.
#[derive(Debug, Default)]
struct Places {
    of_peer: HashMap<PeerId, Taken>,
    taken: Taken,
    lanes_refused: u64,
    calls_refused: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Taken {
    lanes: usize,
    calls: usize,
    bytes: usize,
}

impl Admission {
    /// At most so many bytes of requests are held that their services have not taken yet; one peer has a
    /// quarter of those that are free, or room for one message.
    pub fn holding(self, bytes: usize) -> Self {
        Self {
            most_bytes: bytes,
            ..self
        }
    }

    /// Every call's end carries what `load` says then.
    pub fn reporting(load: impl Fn() -> LoadReport + Send + Sync + 'static) -> Self {
        Self {
            load: Some(Arc::new(load)),
            ..Self::default()
        }
    }

    /// A call's end, with the load beside it.
    pub(crate) fn with_load(&self, end: v1::ReplyEnd) -> v1::ReplyEnd {
        let load = self.load.as_ref().map(|load| load_to_proto(load()));
        let with_load = v1::ReplyEnd { load, ..end };
        if frame::fits(&with_load, &with_load.metadata) {
            return with_load;
        }
        // The status itself matters more.
        v1::ReplyEnd {
            load: None,
            ..with_load
        }
    }

    /// Streams refused so far: their peer, or all peers together, had too many open.
    pub fn refused(&self) -> u64 {
        self.lock().lanes_refused
    }

    /// Calls refused so far, for the same reasons.
    pub fn calls_refused(&self) -> u64 {
        self.lock().calls_refused
    }

    /// Lanes that peers have open now.
    pub fn lanes(&self) -> usize {
        self.lock().taken.lanes
    }

    /// Calls being answered now.
    pub fn calls(&self) -> usize {
        self.lock().taken.calls
    }

    /// A place for one more lane of `peer`, given back on drop.
    pub(crate) fn admit(&self, peer: PeerId) -> Option<Place> {
        let mut places = self.lock();
        let of_peer = places.of_peer.get(&peer).copied().unwrap_or_default();
        let share = share(LANES, places.taken.lanes, of_peer.lanes, LANES_OF_A_PEER);
        if of_peer.lanes >= share {
            places.lanes_refused += 1;
            return None;
        }
        places.of_peer.entry(peer).or_default().lanes += 1;
        places.taken.lanes += 1;
        Some(Place {
            admission: self.clone(),
            peer,
        })
    }

    /// A place for one more call of `peer`, given back on drop.
    pub(crate) fn begin(&self, peer: PeerId) -> Result<CallPlace, Status> {
        let mut places = self.lock();
        let of_peer = places.of_peer.get(&peer).copied().unwrap_or_default();
        let share = share(CALLS, places.taken.calls, of_peer.calls, CALLS_OF_A_PEER);
        if of_peer.calls >= share {
            places.calls_refused += 1;
            return Err(full(format!(
                "{} calls are being answered, {} of them this peer's; no more are taken: try again later",
                places.taken.calls, of_peer.calls
            )));
        }
        places.of_peer.entry(peer).or_default().calls += 1;
        places.taken.calls += 1;
        Ok(CallPlace {
            admission: self.clone(),
            peer,
        })
    }

    /// Room for `more` bytes of a request of `peer`, given back on drop.
    pub(crate) fn hold(&self, held: &mut Held, more: usize) -> Result<(), Status> {
        let mut places = self.lock();
        let of_peer = places.of_peer.get(&held.peer).copied().unwrap_or_default();
        let free = self.most_bytes.saturating_sub(places.taken.bytes);
        let share = (free / OF_FREE_BYTES).max(MAX_MESSAGE.min(free + of_peer.bytes));
        if of_peer.bytes + more > share {
            places.calls_refused += 1;
            return Err(full(format!(
                "{} bytes of requests are waiting here, {} of them this peer's; no more are taken: try again later",
                places.taken.bytes, of_peer.bytes
            )));
        }
        places.of_peer.entry(held.peer).or_default().bytes += more;
        places.taken.bytes += more;
        held.bytes += more;
        Ok(())
    }

    /// Nothing yet, of a request of `peer`.
    pub fn nothing_of(&self, peer: PeerId) -> Held {
        Held {
            admission: self.clone(),
            peer,
            bytes: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, peer: PeerId, what: Taken) {
        let mut places = self.lock();
        places.taken.subtract(what);
        if let Some(of_peer) = places.of_peer.get_mut(&peer) {
            of_peer.subtract(what);
            if of_peer.lanes + of_peer.calls + of_peer.bytes == 0 {
                places.of_peer.remove(&peer);
            }
        }
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admission").field(&self.lock()).finish()
    }
}

impl Taken {
    fn subtract(&mut self, other: Self) {
        self.lanes -= other.lanes;
        self.calls -= other.calls;
        self.bytes -= other.bytes;
    }
}

fn full(what: String) -> Status {
    let full = Failure::new(ErrorKind::ResourceExhausted, what);
    status(&full.retry_after(AGAIN))
}

/// Bytes of one request that its service has not taken yet.
#[derive(Debug)]
pub struct Held {
    admission: Admission,
    peer: PeerId,
    bytes: usize,
}

impl Held {
    /// Bytes so far.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts `more` bytes; an error, with when to come again, where there is no room for them.
    pub fn more(&mut self, more: usize) -> Result<(), Status> {
        self.admission.clone().hold(self, more)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let what = Taken {
            bytes: self.bytes,
            ..Taken::default()
        };
        self.admission.give_back(self.peer, what);
    }
}

/// One lane's place.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Admission,
    peer: PeerId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let what = Taken {
            lanes: 1,
            ..Taken::default()
        };
        self.admission.give_back(self.peer, what);
    }
}

/// One call's place.
#[derive(Debug)]
pub(crate) struct CallPlace {
    admission: Admission,
    peer: PeerId,
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        let what = Taken {
            calls: 1,
            ..Taken::default()
        };
        self.admission.give_back(self.peer, what);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tonic::Code;

    use super::*;

    #[test]
    fn many_peers_together_have_a_bound_too() {
        let admission = Admission::default();
        let mut held: Vec<_> = (0..LANES)
            .map(|_| admission.admit(PeerId::random()).unwrap())
            .collect();
        assert!(admission.admit(PeerId::random()).is_none());
        assert_eq!(admission.refused(), 1);
        held.pop();
        held.push(admission.admit(PeerId::random()).unwrap());
        drop(held);
        let places = admission.lock();
        assert!(places.of_peer.is_empty() && places.taken.lanes == 0);
    }

    #[test]
    fn the_bytes_of_requests_have_a_bound_and_leave_others_theirs() {
        const MIB: usize = 1 << 20;
        let admission = Admission::default().holding(100 * MIB);
        let (greedy, modest) = (PeerId::random(), PeerId::random());
        let mut held = admission.nothing_of(greedy);
        held.more(20 * MIB).unwrap();
        let refusal = held.more(1).unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        let mut others = admission.nothing_of(modest);
        others.more(16 * MIB).unwrap();
        others.more(1).unwrap_err();
        drop(held);
        admission.nothing_of(greedy).more(16 * MIB).unwrap();
        drop(others);
        let places = admission.lock();
        assert!(places.of_peer.is_empty() && places.taken.bytes == 0);
    }

    #[test]
    fn one_message_fits_however_little_there_is() {
        let admission = Admission::default().holding(MAX_MESSAGE + 1);
        let mut held = admission.nothing_of(PeerId::random());
        held.more(MAX_MESSAGE / 2).unwrap();
        held.more(MAX_MESSAGE - MAX_MESSAGE / 2).unwrap();
        held.more(1).unwrap_err();
        admission.nothing_of(PeerId::random()).more(1).unwrap();
    }

    #[test]
    fn however_many_take_all_they_can_whoever_comes_next_finds_places() {
        let admission = Admission::default();
        let (mut calls, mut lanes) = (Vec::new(), Vec::new());
        for _ in 0..LANES / 16 {
            let greedy = PeerId::random();
            calls.extend(std::iter::from_fn(|| admission.begin(greedy).ok()));
            lanes.extend(std::iter::from_fn(|| admission.admit(greedy)));
        }
        let late = PeerId::random();
        assert!(admission.begin(late).is_ok() && admission.admit(late).is_some());
    }

    #[test]
    fn a_peers_calls_have_a_bound_and_leave_others_theirs() {
        let (admission, greedy) = (Admission::default(), PeerId::random());
        let held: Vec<_> = (0..CALLS_OF_A_PEER)
            .map(|_| admission.begin(greedy).unwrap())
            .collect();
        let refusal = admission.begin(greedy).unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        admission.begin(PeerId::random()).unwrap();
        drop(held);
        admission.begin(greedy).unwrap();
        assert_eq!((admission.calls(), admission.calls_refused()), (0, 1));
    }
}
