//! How many mesh streams peers may keep open for their calls.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use polymath_types::PeerId;

/// Of one peer. It needs one for its questions, one for the catalog, and a second of each while
/// a broken connection is not yet known to be broken.
const OF_A_PEER: usize = 8;
/// In all. Each may buffer a connection window.
const IN_ALL: usize = 1024;

/// Places for the mesh streams that carry peers' calls. Clones mean the same places.
#[derive(Debug, Clone, Default)]
pub struct Admission(Arc<Mutex<Places>>);

/// At most [`IN_ALL`] peers have an entry.
#[derive(Debug, Default)]
struct Places {
    of_peer: HashMap<PeerId, usize>,
    taken: usize,
    refused: u64,
}

impl Admission {
    /// Streams refused so far: their peer, or all peers together, had too many open.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// A place for one more stream of `peer`, given back on drop.
    pub(crate) fn admit(&self, peer: PeerId) -> Option<Place> {
        let mut places = self.lock();
        let of_peer = places.of_peer.get(&peer).copied().unwrap_or(0);
        if of_peer >= OF_A_PEER || places.taken >= IN_ALL {
            places.refused += 1;
            return None;
        }
        places.of_peer.insert(peer, of_peer + 1);
        places.taken += 1;
        Some(Place {
            admission: self.clone(),
            peer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's place.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Admission,
    peer: PeerId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.admission.lock();
        places.taken -= 1;
        if let Some(of_peer) = places.of_peer.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                places.of_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_peers_together_have_a_bound_too() {
        let admission = Admission::default();
        let mut held: Vec<_> = (0..IN_ALL)
            .map(|_| admission.admit(PeerId::random()).unwrap())
            .collect();
        assert!(admission.admit(PeerId::random()).is_none());
        assert_eq!(admission.refused(), 1);
        held.pop();
        held.push(admission.admit(PeerId::random()).unwrap());
        drop(held);
        let places = admission.lock();
        assert!(places.of_peer.is_empty() && places.taken == 0);
    }
}
