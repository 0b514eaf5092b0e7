//! Room for windows that have turned out to be too small.
//!
//! A call begins with a window that suits short lines. On a long one its sender waits for credit, though the
//! reader takes whatever comes: then the window doubles, up to [`WIDEST`], as long as there is room. All
//! calls of a process share that, so it bounds what slow readers may leave lying.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The largest window, bytes: at 100 ms enough for 80 MB/s.
pub(super) const WIDEST: usize = 8 << 20;
/// What all windows together may have beyond their beginnings.
const ROOM: usize = 64 << 20;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// What one window has beyond its beginning; given back on drop.
#[derive(Debug, Default)]
pub(super) struct Widened(usize);

impl Widened {
    /// Takes `more`; false when there is no room.
    pub(super) fn by(&mut self, more: usize) -> bool {
        let fits = |taken: usize| taken.checked_add(more).filter(|all| *all <= ROOM);
        let taken = TAKEN.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if taken {
            self.0 += more;
        }
        taken
    }
}

impl Drop for Widened {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_bounded_and_given_back() {
        let mut all: Vec<Widened> = Vec::new();
        let mut widen = || {
            let mut one = Widened::default();
            one.by(WIDEST).then_some(one)
        };
        all.extend(std::iter::from_fn(&mut widen));
        assert!(all.len() <= ROOM / WIDEST);
        assert!(!Widened::default().by(WIDEST));
        all.pop();
        assert!(Widened::default().by(WIDEST));
    }
}
