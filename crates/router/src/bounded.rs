//! A map that forgets what was unused the longest.

use std::{collections::HashMap, hash::Hash};

use foldhash::fast::RandomState;

/// Holds at most `capacity` entries.
#[derive(Debug)]
pub(crate) struct Bounded<K, V> {
    /// Peer ids are long, and several are looked up in every decision: SipHash would take most of its time.
    entries: HashMap<K, (u64, V), RandomState>,
    capacity: usize,
    tick: u64,
}

impl<K: Hash + Eq + Clone, V: Default> Bounded<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::default(),
            capacity: capacity.max(1),
            tick: 0,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, v)| v)
    }

    /// The entry, made if absent, as the most recently used one.
    pub(crate) fn touch(&mut self, key: &K) -> &mut V {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(key) {
            self.forget();
        }
        self.tick += 1;
        let entry = self.entries.entry(key.clone()).or_default();
        entry.0 = self.tick;
        &mut entry.1
    }

    /// An eighth goes at once, so that finding the oldest costs little per insertion.
    fn forget(&mut self) {
        let mut ticks: Vec<u64> = self.entries.values().map(|(t, _)| *t).collect();
        let last = ticks.len() / 8;
        let (_, newest_to_go, _) = ticks.select_nth_unstable(last);
        let newest_to_go = *newest_to_go;
        self.entries.retain(|_, (t, _)| *t > newest_to_go);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_go_first_and_the_bound_holds() {
        let mut map: Bounded<u32, u32> = Bounded::new(16);
        for i in 0..1000 {
            *map.touch(&i) = i;
            *map.touch(&0) += 1;
            assert!(map.entries.len() <= 16);
        }
        assert!(map.get(&0).is_some(), "always in use");
        assert_eq!(map.get(&999), Some(&999));
        assert_eq!(map.get(&500), None);
        let mut one: Bounded<u32, u32> = Bounded::new(0);
        one.touch(&1);
        one.touch(&2);
        assert_eq!(one.entries.len(), 1);
    }
}
