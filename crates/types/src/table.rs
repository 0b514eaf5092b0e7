//! An ordered map whose copies share what they have in common.
//!
//! The routing index is replaced as a whole, several times a second, while readers hold the one
//! before. Two levels make that cheap: a write copies the list of shards and one shard, of the
//! values nothing. Keys are spread by a byte that is a hash, or a key's own random byte.

use std::{collections::BTreeMap, fmt, ops, sync::Arc};

use libp2p_identity::PeerId;

use crate::ExpertId;

/// Entries of a table of 10,000 share a shard with some forty others.
const SHARDS: usize = 256;
/// Where the key begins in an Ed25519 peer id's digest, after protobuf's four bytes.
const KEY_IN_PEER_ID: usize = 4;

/// What a [`Table`] can have as keys.
pub trait TableKey: Ord + Copy {
    /// A byte that is spread evenly over all keys.
    fn shard(&self) -> u8;
}

impl TableKey for ExpertId {
    fn shard(&self) -> u8 {
        self.as_bytes()[0]
    }
}

impl TableKey for PeerId {
    fn shard(&self) -> u8 {
        let digest = self.as_ref().digest();
        digest.get(KEY_IN_PEER_ID).copied().unwrap_or(0)
    }
}

/// A part of a table, one and the same in all copies that have not been written to there: whoever keeps
/// something made of it compares pointers to learn that nothing changed.
pub type Shard<K, V> = Arc<BTreeMap<K, Arc<V>>>;

/// A map that copies in the time of one counter, and is written to in that of one shard.
pub struct Table<K, V> {
    shards: Arc<[Shard<K, V>]>,
    len: usize,
}

impl<K: TableKey, V> Table<K, V> {
    fn shard(&self, key: &K) -> &Shard<K, V> {
        &self.shards[usize::from(key.shard())]
    }

    fn shard_mut(&mut self, key: &K) -> &mut BTreeMap<K, Arc<V>> {
        let shards = Arc::make_mut(&mut self.shards);
        Arc::make_mut(&mut shards[usize::from(key.shard())])
    }

    /// The value of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.shard(key).get(key).map(Arc::as_ref)
    }

    /// Whether `key` has a value.
    pub fn contains_key(&self, key: &K) -> bool {
        self.shard(key).contains_key(key)
    }

    /// All parts: as many in every table, the lower keys' first where they are expert ids.
    pub fn shards(&self) -> &[Shard<K, V>] {
        &self.shards
    }

    /// Whether `other` is an unchanged copy. Tables with equal entries need not be.
    pub fn is_copy_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shards, &other.shards)
    }

    /// Sets a value; the one before.
    pub fn insert(&mut self, key: K, value: impl Into<Arc<V>>) -> Option<Arc<V>> {
        let before = self.shard_mut(&key).insert(key, value.into());
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes a value out. Nothing is copied when there is none.
    pub fn remove(&mut self, key: &K) -> Option<Arc<V>> {
        if !self.contains_key(key) {
            return None;
        }
        self.len -= 1;
        self.shard_mut(key).remove(key)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries: in the keys' order where they are expert ids, or peer ids of Ed25519 keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let shards = self.shards.iter();
        shards.flat_map(|s| s.iter().map(|(k, v)| (k, v.as_ref())))
    }

    /// All keys, in the order of [`Table::iter`].
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of [`Table::iter`].
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: TableKey, V: Clone> Table<K, V> {
    /// The value of `key`, to be changed; copied where another table has it too.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.contains_key(key) {
            return None;
        }
        self.shard_mut(key).get_mut(key).map(Arc::make_mut)
    }
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self {
            shards: Arc::clone(&self.shards),
            len: self.len,
        }
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        let empty: Shard<K, V> = Arc::default();
        Self {
            shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(),
            len: 0,
        }
    }
}

impl<K: TableKey, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let shards = self.shards.iter().zip(other.shards.iter());
        self.len == other.len && shards.into_iter().all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
    }
}

impl<K: TableKey + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: TableKey, V> ops::Index<&K> for Table<K, V> {
    type Output = V;

    /// Panics where there is no such key, as maps do.
    #[allow(clippy::expect_used)] // the trait leaves no other way
    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the key is in the table")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(first: u8, last: u8) -> ExpertId {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (first, last);
        ExpertId::from_bytes(bytes)
    }

    #[test]
    fn a_copy_stays_as_it_was_and_shares_what_was_not_touched() {
        let mut table = Table::default();
        for n in 0..=255 {
            table.insert(id(n, 0), u32::from(n));
            table.insert(id(n, 1), 0);
        }
        let before = table.clone();
        table.insert(id(7, 0), 1000);
        *table.get_mut(&id(8, 1)).unwrap() = 1001;
        table.remove(&id(9, 0));
        assert_eq!((before.len(), table.len()), (512, 511));
        assert_eq!((before[&id(7, 0)], table[&id(7, 0)]), (7, 1000));
        assert_eq!((before[&id(8, 1)], table[&id(8, 1)]), (0, 1001));
        assert!(before.contains_key(&id(9, 0)) && !table.contains_key(&id(9, 0)));
        let shared = before.shards.iter().zip(table.shards.iter());
        assert_eq!(shared.filter(|(a, b)| Arc::ptr_eq(a, b)).count(), 253);
        assert_ne!(before, table);
        assert!(before.is_copy_of(&before.clone()) && !before.is_copy_of(&table));
        assert!(table.keys().is_sorted());
    }

    #[test]
    fn equal_entries_are_equal_tables_however_they_came_about() {
        let (mut one, mut other) = (Table::default(), Table::default());
        for n in 0..100 {
            one.insert(id(n, n), n);
            other.insert(id(99 - n, 99 - n), 99 - n);
        }
        other.insert(id(1, 2), 3);
        assert_ne!(one, other);
        assert_eq!(other.remove(&id(1, 2)).as_deref(), Some(&3));
        assert_eq!(other.remove(&id(1, 2)), None);
        assert_eq!(one, other);
    }
}
