//! The DHT's memory: who provides which key. Bounded so that no stranger can crowd out this
//! node's own records or another peer's.
//!
//! libp2p's `MemoryStore` refuses *every* new key, one's own included, once strangers have filled
//! it, keeps expired records until somebody asks for them, and has no limit by source. Values
//! (`PUT_VALUE`) are not stored at all: this mesh keeps none in the DHT.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};

use crate::{address::is_dialable, config::NetLimits, counters::Counters};

/// Most addresses kept with one provider record: replies with 20 of them must fit a packet.
const ADDRESSES: usize = 8;

#[derive(Debug)]
pub(crate) struct ProviderStore {
    local: PeerId,
    limits: NetLimits,
    counters: Arc<Counters>,
    /// What this node provides.
    own: HashMap<RecordKey, ProviderRecord>,
    /// What others provide.
    others: HashMap<RecordKey, VecDeque<ProviderRecord>>,
    per_source: HashMap<PeerId, usize>,
    total: usize,
    /// A reply holds 20 providers at most; each starts elsewhere, so that all get their turn.
    rotation: AtomicUsize,
}

impl ProviderStore {
    pub(crate) fn new(local: PeerId, limits: NetLimits, counters: Arc<Counters>) -> Self {
        Self {
            local,
            limits,
            counters,
            own: HashMap::new(),
            others: HashMap::new(),
            per_source: HashMap::new(),
            total: 0,
            rotation: AtomicUsize::new(0),
        }
    }

    /// Addresses that came with `provider`'s record of `key`.
    pub(crate) fn addresses(&self, key: &RecordKey, provider: &PeerId) -> Vec<libp2p::Multiaddr> {
        self.others
            .get(key)
            .and_then(|list| list.iter().find(|r| r.provider == *provider))
            .map(|r| r.addresses.clone())
            .unwrap_or_default()
    }

    fn add_other(&mut self, mut record: ProviderRecord) -> bool {
        record.addresses.retain(is_dialable);
        record.addresses.truncate(ADDRESSES);
        if let Some(known) = self
            .others
            .get_mut(&record.key)
            .and_then(|list| list.iter_mut().find(|r| r.provider == record.provider))
        {
            *known = record;
            return true;
        }
        if self.total >= self.limits.provider_records {
            self.sweep(Instant::now());
        }
        if self.of_key(&record.key) >= self.limits.providers_per_key {
            self.sweep_key(&record.key, Instant::now());
        }
        let of_key = self.of_key(&record.key);
        let from_source = self.per_source.get(&record.provider).copied().unwrap_or(0);
        if self.total >= self.limits.provider_records
            || from_source >= self.limits.provider_records_per_peer
            || of_key >= self.limits.providers_per_key
        {
            return false;
        }
        *self.per_source.entry(record.provider).or_default() += 1;
        self.total += 1;
        self.others
            .entry(record.key.clone())
            .or_default()
            .push_back(record);
        true
    }

    fn remove_other(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(list) = self.others.get_mut(key) else {
            return;
        };
        let Some(at) = list.iter().position(|r| r.provider == *provider) else {
            return;
        };
        list.remove(at);
        if list.is_empty() {
            self.others.remove(key);
        }
        self.forget(provider);
    }

    fn of_key(&self, key: &RecordKey) -> usize {
        self.others.get(key).map_or(0, VecDeque::len)
    }

    /// Drops what has expired of one key.
    fn sweep_key(&mut self, key: &RecordKey, now: Instant) {
        let Some(list) = self.others.get(key) else {
            return;
        };
        let gone: Vec<_> = list
            .iter()
            .filter(|r| r.is_expired(now))
            .map(|r| r.provider)
            .collect();
        for provider in gone {
            self.remove_other(key, &provider);
        }
    }

    /// Drops what has expired.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let mut gone = Vec::new();
        self.others.retain(|_, list| {
            list.retain(|r| {
                let keep = !r.is_expired(now);
                if !keep {
                    gone.push(r.provider);
                }
                keep
            });
            !list.is_empty()
        });
        for provider in gone {
            self.forget(&provider);
        }
    }

    fn forget(&mut self, provider: &PeerId) {
        self.total = self.total.saturating_sub(1);
        if let Some(n) = self.per_source.get_mut(provider) {
            *n -= 1;
            if *n == 0 {
                self.per_source.remove(provider);
            }
        }
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider == self.local {
            if self.own.len() >= self.limits.provided_keys && !self.own.contains_key(&record.key) {
                return Err(Error::MaxProvidedKeys);
            }
            self.own.insert(record.key.clone(), record);
            return Ok(());
        }
        if self.add_other(record) {
            Ok(())
        } else {
            self.counters.provider_records_refused.up();
            Err(Error::MaxProvidedKeys)
        }
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let mut found: Vec<_> = self.own.get(key).cloned().into_iter().collect();
        if let Some(list) = self.others.get(key) {
            let start = self.rotation.fetch_add(1, Relaxed) % list.len().max(1);
            found.extend(list.iter().cycle().skip(start).take(list.len()).cloned());
        }
        found
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own
            .values()
            .map(Cow::Borrowed)
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.own.remove(key);
        } else {
            self.remove_other(key, provider);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn store(limits: NetLimits) -> (ProviderStore, PeerId) {
        let local = PeerId::random();
        (ProviderStore::new(local, limits, Arc::default()), local)
    }

    fn record(key: u8, provider: PeerId) -> ProviderRecord {
        ProviderRecord::new(RecordKey::new(&[key]), provider, Vec::new())
    }

    #[test]
    fn strangers_cannot_crowd_out_own_keys_or_each_other() {
        let limits = NetLimits {
            provider_records: 3,
            provider_records_per_peer: 2,
            provided_keys: 1,
            ..NetLimits::default()
        };
        let (mut store, local) = store(limits);
        let (a, b, c) = (PeerId::random(), PeerId::random(), PeerId::random());
        store.add_provider(record(1, a)).unwrap();
        store.add_provider(record(2, a)).unwrap();
        assert!(
            store.add_provider(record(3, a)).is_err(),
            "over its own share"
        );
        store.add_provider(record(3, b)).unwrap();
        assert!(store.add_provider(record(4, c)).is_err(), "over the total");
        store.add_provider(record(1, a)).unwrap();
        store.add_provider(record(9, local)).unwrap();
        assert!(store.add_provider(record(8, local)).is_err());
        assert_eq!(store.provided().count(), 1);
        assert_eq!(store.counters.snapshot().provider_records_refused, 2);
        store.remove_provider(&RecordKey::new(&[1]), &a);
        store.add_provider(record(4, c)).unwrap();
    }

    #[test]
    fn expired_records_make_room() {
        let (mut store, _) = store(NetLimits {
            provider_records: 1,
            ..NetLimits::default()
        });
        let mut old = record(1, PeerId::random());
        old.expires = Instant::now().checked_sub(Duration::from_secs(1));
        assert!(old.expires.is_some());
        store.add_provider(old).unwrap();
        store.add_provider(record(2, PeerId::random())).unwrap();
        assert!(store.providers(&RecordKey::new(&[1])).is_empty());
    }

    #[test]
    fn expired_records_do_not_block_their_key_or_their_provider() {
        let (mut store, _) = store(NetLimits {
            providers_per_key: 2,
            provider_records_per_peer: 1,
            ..NetLimits::default()
        });
        let (live, dead) = (PeerId::random(), PeerId::random());
        let mut old = record(1, dead);
        old.expires = Instant::now().checked_sub(Duration::from_secs(1));
        assert!(old.expires.is_some());
        store.add_provider(old).unwrap();
        store.add_provider(record(1, live)).unwrap();
        let newcomer = PeerId::random();
        store.add_provider(record(1, newcomer)).unwrap();
        let found: Vec<_> = store.providers(&RecordKey::new(&[1]));
        assert!(found.iter().any(|r| r.provider == live));
        assert!(found.iter().any(|r| r.provider == newcomer));
        assert_eq!(found.len(), 2);
        assert!(store.add_provider(record(1, PeerId::random())).is_err());
        store.add_provider(record(2, dead)).unwrap();
    }

    #[test]
    fn every_provider_of_a_crowded_key_gets_its_turn() {
        let (mut store, _) = store(NetLimits::default());
        let peers: Vec<_> = (0..40).map(|_| PeerId::random()).collect();
        for peer in &peers {
            store.add_provider(record(1, *peer)).unwrap();
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..40 {
            seen.extend(
                store
                    .providers(&RecordKey::new(&[1]))
                    .iter()
                    .take(20)
                    .map(|r| r.provider),
            );
        }
        assert_eq!(seen.len(), 40);
    }

    #[test]
    fn values_are_not_stored() {
        let (mut store, _) = store(NetLimits::default());
        assert!(
            store
                .put(Record::new(RecordKey::new(&[1]), vec![1]))
                .is_err()
        );
        assert!(store.get(&RecordKey::new(&[1])).is_none());
    }
}
