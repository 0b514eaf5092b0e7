//! The virtual clock, and what is to happen by it.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::Duration,
};

/// Events in the order of their time; those of one instant in the order in which they were put in.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    now: Duration,
    entered: u64,
    heap: BinaryHeap<Reverse<Entry<E>>>,
}

#[derive(Debug)]
struct Entry<E> {
    at: Duration,
    order: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            entered: 0,
            heap: BinaryHeap::new(),
        }
    }

    /// The time of the latest event taken out.
    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.entered += 1;
        self.heap.push(Reverse(Entry {
            at: self.now + delay,
            order: self.entered,
            event,
        }));
    }

    /// The next event, and the clock with it; none when it lies beyond `limit`, where the clock
    /// then stands.
    pub(crate) fn pop_until(&mut self, limit: Duration) -> Option<E> {
        if self.heap.peek().is_none_or(|Reverse(e)| e.at > limit) {
            self.now = self.now.max(limit);
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_by_order() {
        let mut queue = Queue::new();
        for (ms, name) in [(5, "c"), (1, "a"), (5, "d"), (2, "b"), (9, "e")] {
            queue.after(Duration::from_millis(ms), name);
        }
        let taken: String =
            std::iter::from_fn(|| queue.pop_until(Duration::from_millis(5))).collect();
        assert_eq!(taken, "abcd");
        assert_eq!(queue.pop_until(Duration::from_millis(9)), Some("e"));
        assert_eq!(queue.now(), Duration::from_millis(9));
    }
}
