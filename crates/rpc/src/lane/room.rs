//! Room for windows that have turned out to be too small.
//!
//! A call begins with a window that suits short lines. On a long one its sender waits for credit, though the
//! reader takes whatever comes: then the window doubles, up to [`WIDEST`], as long as there is room. All
//! calls of a process share that, so it bounds what slow readers may leave lying; and a peer may have some
//! part of what is still free, so that each leaves room for the next, as with all that peers share here
//! ([`admission`](crate::admission)).

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use polymath_types::PeerId;

/// The largest window, bytes: at 100 ms enough for 80 MB/s.
pub(super) const WIDEST: usize = 8 << 20;
/// What all windows together may have beyond their beginnings.
const ROOM: usize = 64 << 20;

static ROOMS: LazyLock<Mutex<Rooms>> = LazyLock::new(Mutex::default);

/// At most as many entries as there are calls with a wide window.
#[derive(Debug, Default)]
struct Rooms {
    taken: usize,
    of_peer: HashMap<PeerId, usize>,
}

fn rooms() -> MutexGuard<'static, Rooms> {
    ROOMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one window has beyond its beginning; given back on drop.
#[derive(Debug)]
pub(super) struct Widened {
    peer: PeerId,
    bytes: usize,
}

impl Widened {
    /// Nothing yet, of a window of a call with `peer`.
    pub(super) const fn nothing(peer: PeerId) -> Self {
        Self { peer, bytes: 0 }
    }

    /// Takes `more`; false when there is no room, or this peer has its part.
    pub(super) fn by(&mut self, more: usize) -> bool {
        let mut rooms = rooms();
        let free = ROOM - rooms.taken;
        let has = rooms.of_peer.get(&self.peer).copied().unwrap_or_default();
        let fits = has.checked_add(more).is_some_and(|all| all <= free / 2);
        if fits {
            rooms.taken += more;
            *rooms.of_peer.entry(self.peer).or_default() += more;
            self.bytes += more;
        }
        fits
    }
}

impl Drop for Widened {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut rooms = rooms();
        rooms.taken -= self.bytes;
        if let Some(has) = rooms.of_peer.get_mut(&self.peer) {
            *has -= self.bytes;
            if *has == 0 {
                rooms.of_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As wide as it gets, in steps as a window takes them.
    fn wide(peer: PeerId) -> Widened {
        let mut one = Widened::nothing(peer);
        while one.bytes < WIDEST && one.by(64 << 10) {}
        one
    }

    #[test]
    fn the_room_is_bounded_and_leaves_others_theirs_and_is_given_back() {
        let greedy = PeerId::random();
        let all: Vec<Widened> = (0..100).map(|_| wide(greedy)).collect();
        let has: usize = all.iter().map(|w| w.bytes).sum();
        assert!((WIDEST..=ROOM / 2).contains(&has), "{has}");
        let modest = wide(PeerId::random());
        assert_eq!(modest.bytes, WIDEST);
        let crowd: Vec<Widened> = (0..1000).map(|_| wide(PeerId::random())).collect();
        assert!(rooms().taken <= ROOM);
        drop((all, modest, crowd));
        assert!(!rooms().of_peer.contains_key(&greedy));
        assert_eq!(wide(greedy).bytes, WIDEST);
    }
}
