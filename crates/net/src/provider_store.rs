//! The DHT's memory: who provides which key. Bounded so that no stranger can crowd out this
//! node's own records or another peer's.
//!
//! * A record is kept for its lease and not a moment longer; one that has expired is never told.
//! * Every peer has a quota. Where there is no room, **the source with most loses first**: a record
//!   is let in if its source (one IPv4 address, or one IPv6 network of 64 bits) then still holds no
//!   more than the largest one, which gives up a record of the peer of which it holds most. So the
//!   shares are max-min fair: a flood from one place fills what nobody else wants, and no more.
//! * An answer is a random sample that fits a packet: whoever asks again, or asks another holder,
//!   hears of others.
//!
//! libp2p's `MemoryStore` refuses *every* new key, one's own included, once strangers have filled
//! it, keeps expired records until somebody asks for them, and has no limit by source. Values
//! (`PUT_VALUE`) are not stored at all: this mesh keeps none in the DHT.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};

use crate::{config::NetLimits, counters::Counters, names::KEY_BYTES};

/// Most addresses kept with one provider record.
pub(crate) const ADDRESSES: usize = 8;
/// Providers in one answer: as many as libp2p-kad puts in.
const SAMPLE: usize = 20;
/// Bytes of their addresses. The twenty closer peers beside them, each with eight addresses and its
/// id behind each, take up to 48 KiB of the packet's 64.
const SAMPLE_BYTES: usize = 12 * 1024;
/// A full store looks for expired records this often at most: it takes a walk through all of them.
const SWEEP: Duration = Duration::from_secs(1);

/// Where a record came from. The unspecified address stands for connections without any.
pub(crate) type Source = IpAddr;

/// Why a record is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("its key is none of this mesh's")]
    Key,
    #[error("its peer has as many as it may")]
    PeerFull,
    #[error("there is no room, and nobody holds more than its source")]
    NoRoom,
}

/// What others provide of one key.
#[derive(Debug, Default)]
struct Shelf {
    /// Oldest first.
    records: Vec<ProviderRecord>,
    shares: Shares,
}

/// Somebody who announces.
#[derive(Debug)]
struct Announcer {
    /// Where its first record came from. It counts there until its last has gone.
    source: Source,
    /// Oldest first.
    keys: Vec<RecordKey>,
}

/// How many records of each source there are.
#[derive(Debug, Default)]
struct Shares(HashMap<Source, usize>);

#[derive(Debug)]
pub(crate) struct ProviderStore {
    local: PeerId,
    limits: NetLimits,
    counters: Arc<Counters>,
    /// What this node provides.
    own: HashMap<RecordKey, ProviderRecord>,
    others: HashMap<RecordKey, Shelf>,
    announcers: HashMap<PeerId, Announcer>,
    shares: Shares,
    total: usize,
    swept: Option<Instant>,
    /// Draws the samples.
    chance: AtomicU64,
}

impl Shares {
    fn of(&self, source: Source) -> usize {
        self.0.get(&source).copied().unwrap_or(0)
    }

    fn give(&mut self, source: Source) {
        *self.0.entry(source).or_default() += 1;
    }

    fn take(&mut self, source: Source) {
        if let Some(n) = self.0.get_mut(&source) {
            *n -= 1;
            if *n == 0 {
                self.0.remove(&source);
            }
        }
    }

    /// Who gives one up for `source`: the largest, if it then still holds no less.
    fn loser_to(&self, source: Source) -> Option<Source> {
        let (largest, most) = self.0.iter().max_by_key(|(_, n)| **n)?;
        (self.of(source) + 1 < *most).then_some(*largest)
    }
}

impl ProviderStore {
    pub(crate) fn new(local: PeerId, limits: NetLimits, counters: Arc<Counters>) -> Self {
        Self {
            local,
            limits,
            counters,
            own: HashMap::new(),
            others: HashMap::new(),
            announcers: HashMap::new(),
            shares: Shares::default(),
            total: 0,
            swept: None,
            chance: AtomicU64::new(RandomState::new().hash_one(local)),
        }
    }

    /// Addresses that came with `provider`'s record of `key`.
    pub(crate) fn addresses(&self, key: &RecordKey, provider: &PeerId) -> Vec<Multiaddr> {
        let shelf = self.others.get(key);
        shelf
            .and_then(|s| s.records.iter().find(|r| r.provider == *provider))
            .map(|r| r.addresses.clone())
            .unwrap_or_default()
    }

    /// Keeps a record that came from `source`, or renews it.
    pub(crate) fn keep(
        &mut self,
        record: ProviderRecord,
        source: Source,
        now: Instant,
    ) -> std::result::Result<(), Refusal> {
        let kept = self.try_keep(record, source, now);
        match kept {
            Ok(()) => self.counters.provider_records_kept.up(),
            Err(Refusal::Key) => self.counters.provider_records_malformed.up(),
            Err(Refusal::PeerFull) => self.counters.provider_records_peer_full.up(),
            Err(Refusal::NoRoom) => self.counters.provider_records_no_room.up(),
        }
        kept
    }

    fn try_keep(
        &mut self,
        mut record: ProviderRecord,
        source: Source,
        now: Instant,
    ) -> std::result::Result<(), Refusal> {
        // A key of another length is none of ours, and might be a whole packet.
        if record.key.as_ref().len() != KEY_BYTES {
            return Err(Refusal::Key);
        }
        record.addresses.truncate(ADDRESSES);
        record.addresses.shrink_to_fit();
        if let Some(known) = self.find(&record.key, &record.provider) {
            *known = record;
            return Ok(());
        }
        let announcer = self.announcers.get(&record.provider);
        if announcer.map_or(0, |a| a.keys.len()) >= self.limits.provider_records_per_peer {
            return Err(Refusal::PeerFull);
        }
        let source = announcer.map_or(source, |a| a.source);
        if self.key_full(&record.key) || self.full() {
            self.sweep_when_due(now);
        }
        if self.key_full(&record.key) {
            let victim = self.victim_of_key(&record.key, source);
            self.evict(victim.map(|peer| (record.key.clone(), peer)))?;
        }
        if self.full() {
            let victim = self.victim(source);
            self.evict(victim)?;
        }
        self.insert(record, source);
        Ok(())
    }

    fn find(&mut self, key: &RecordKey, provider: &PeerId) -> Option<&mut ProviderRecord> {
        let shelf = self.others.get_mut(key)?;
        shelf.records.iter_mut().find(|r| r.provider == *provider)
    }

    fn full(&self) -> bool {
        self.total >= self.limits.provider_records
    }

    fn key_full(&self, key: &RecordKey) -> bool {
        let shelf = self.others.get(key);
        shelf.is_some_and(|s| s.records.len() >= self.limits.providers_per_key)
    }

    /// The record that has to go for one of `source`, if any has.
    fn victim(&self, source: Source) -> Option<(RecordKey, PeerId)> {
        let loser = self.shares.loser_to(source)?;
        let announcers = self.announcers.iter().filter(|(_, a)| a.source == loser);
        let (peer, announcer) = announcers.max_by_key(|(_, a)| a.keys.len())?;
        Some((announcer.keys.first()?.clone(), *peer))
    }

    /// The same among the records of one key, of which a peer has but one.
    fn victim_of_key(&self, key: &RecordKey, source: Source) -> Option<PeerId> {
        let shelf = self.others.get(key)?;
        let loser = shelf.shares.loser_to(source)?;
        let mut providers = shelf.records.iter().map(|r| r.provider);
        providers.find(|p| self.announcers.get(p).is_some_and(|a| a.source == loser))
    }

    fn evict(&mut self, victim: Option<(RecordKey, PeerId)>) -> std::result::Result<(), Refusal> {
        let (key, peer) = victim.ok_or(Refusal::NoRoom)?;
        self.remove_other(&key, &peer);
        self.counters.provider_records_evicted.up();
        Ok(())
    }

    fn insert(&mut self, record: ProviderRecord, source: Source) {
        let announcer = self.announcers.entry(record.provider);
        let announcer = announcer.or_insert_with(|| Announcer {
            source,
            keys: Vec::new(),
        });
        announcer.keys.push(record.key.clone());
        self.shares.give(source);
        self.total += 1;
        let shelf = self.others.entry(record.key.clone()).or_default();
        shelf.shares.give(source);
        shelf.records.push(record);
    }

    fn remove_other(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(shelf) = self.others.get_mut(key) else {
            return;
        };
        let Some(at) = shelf.records.iter().position(|r| r.provider == *provider) else {
            return;
        };
        shelf.records.remove(at);
        self.forget(key, provider);
    }

    /// Takes a record that is no longer on its shelf out of all books.
    fn forget(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(announcer) = self.announcers.get_mut(provider) else {
            return;
        };
        let source = announcer.source;
        announcer.keys.retain(|k| k != key);
        if announcer.keys.is_empty() {
            self.announcers.remove(provider);
        }
        self.shares.take(source);
        self.total = self.total.saturating_sub(1);
        if let Some(shelf) = self.others.get_mut(key) {
            shelf.shares.take(source);
            if shelf.records.is_empty() {
                self.others.remove(key);
            }
        }
    }

    fn sweep_when_due(&mut self, now: Instant) {
        let due = |at| now.saturating_duration_since(at) >= SWEEP;
        if self.swept.is_none_or(due) {
            self.sweep(now);
        }
    }

    /// Drops what has expired.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        let mut gone = Vec::new();
        for shelf in self.others.values_mut() {
            gone.extend(shelf.records.extract_if(.., |r| r.is_expired(now)));
        }
        for record in gone {
            self.forget(&record.key, &record.provider);
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014), from a start nobody else knows.
    fn below(&self, n: usize) -> usize {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.chance.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    /// Live records of others, drawn without repetition until a packet is full.
    fn sample(&self, key: &RecordKey, now: Instant, most: usize) -> Vec<ProviderRecord> {
        let records = self.others.get(key).into_iter().flat_map(|s| &s.records);
        let mut live: Vec<_> = records.filter(|r| !r.is_expired(now)).collect();
        let (mut drawn, mut bytes) = (Vec::new(), 0);
        while drawn.len() < most && !live.is_empty() {
            let record = live.swap_remove(self.below(live.len()));
            bytes += record.addresses.iter().map(Multiaddr::len).sum::<usize>();
            if bytes > SAMPLE_BYTES {
                break;
            }
            drawn.push(record.clone());
        }
        drawn
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

    /// Takes this node's own records only: others' go through [`ProviderStore::keep`], which needs
    /// to know where they come from.
    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let room = self.own.len() < self.limits.provided_keys || self.own.contains_key(&record.key);
        if record.provider != self.local || !room {
            return Err(Error::MaxProvidedKeys);
        }
        self.own.insert(record.key.clone(), record);
        Ok(())
    }

    /// What goes into an answer: this node itself if it provides `key`, and a sample of others. The
    /// asker may be among them and is left out later: hence one more.
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let mut found: Vec<_> = self.own.get(key).cloned().into_iter().collect();
        found.extend(self.sample(key, Instant::now(), SAMPLE + 1 - found.len()));
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
    use std::{collections::HashSet, net::Ipv4Addr};

    use super::*;

    fn store(change: impl FnOnce(&mut NetLimits)) -> ProviderStore {
        let mut limits = NetLimits::default();
        change(&mut limits);
        ProviderStore::new(PeerId::random(), limits, Arc::default())
    }

    fn key(n: usize) -> RecordKey {
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        RecordKey::new(&bytes)
    }

    fn record(n: usize, provider: PeerId) -> ProviderRecord {
        ProviderRecord::new(key(n), provider, Vec::new())
    }

    fn expired(n: usize, provider: PeerId) -> ProviderRecord {
        let expires = Some(Instant::now().checked_sub(Duration::from_secs(1)).unwrap());
        ProviderRecord {
            expires,
            ..record(n, provider)
        }
    }

    fn host(n: u8) -> Source {
        Ipv4Addr::new(192, 0, 2, n).into()
    }

    impl ProviderStore {
        fn put_from(&mut self, n: u8, record: ProviderRecord) -> std::result::Result<(), Refusal> {
            self.keep(record, host(n), Instant::now())
        }

        fn names(&self, n: usize) -> HashSet<PeerId> {
            let records = self
                .others
                .get(&key(n))
                .into_iter()
                .flat_map(|s| &s.records);
            records.map(|r| r.provider).collect()
        }

        /// Every book says the same.
        fn audit(&self) {
            let mut shares: HashMap<Source, usize> = HashMap::new();
            let mut total = 0;
            for (key, shelf) in &self.others {
                let mut here: HashMap<Source, usize> = HashMap::new();
                for record in &shelf.records {
                    let announcer = &self.announcers[&record.provider];
                    assert!(announcer.keys.contains(key));
                    *here.entry(announcer.source).or_default() += 1;
                    *shares.entry(announcer.source).or_default() += 1;
                    total += 1;
                }
                assert!(!here.is_empty() && here == shelf.shares.0);
            }
            assert_eq!((shares, total), (self.shares.0.clone(), self.total));
            let keys: usize = self.announcers.values().map(|a| a.keys.len()).sum();
            assert_eq!(keys, total);
            assert!(self.announcers.values().all(|a| !a.keys.is_empty()));
        }
    }

    #[test]
    fn a_peer_has_a_quota_and_own_keys_a_place_of_their_own() {
        let mut store = store(|l| {
            l.provider_records = 3;
            l.provider_records_per_peer = 2;
            l.provided_keys = 1;
        });
        let (a, b, c) = (PeerId::random(), PeerId::random(), PeerId::random());
        store.put_from(1, record(1, a)).unwrap();
        store.put_from(1, record(2, a)).unwrap();
        assert_eq!(store.put_from(1, record(3, a)), Err(Refusal::PeerFull));
        store.put_from(1, record(3, b)).unwrap();
        assert_eq!(store.put_from(1, record(4, c)), Err(Refusal::NoRoom));
        store.put_from(1, record(1, a)).unwrap();
        store.add_provider(record(9, store.local)).unwrap();
        assert!(store.add_provider(record(8, store.local)).is_err());
        assert!(
            store.add_provider(record(8, a)).is_err(),
            "without a source"
        );
        assert_eq!(store.provided().count(), 1);
        let counters = store.counters.snapshot();
        assert_eq!(counters.provider_records_peer_full, 1);
        assert_eq!(counters.provider_records_no_room, 1);
        assert_eq!(counters.provider_records_kept, 4);
        store.remove_provider(&key(1), &a);
        store.put_from(1, record(4, c)).unwrap();
        store.audit();
    }

    #[test]
    fn a_flood_of_keys_from_one_place_makes_room_for_everybody_else() {
        let mut store = store(|l| {
            l.provider_records = 1000;
            l.provider_records_per_peer = 100;
        });
        let early = PeerId::random();
        store.put_from(1, record(0, early)).unwrap();
        for sybil in 0..50 {
            let peer = PeerId::random();
            for n in 0..100 {
                let _ = store.put_from(66, record(1000 + sybil * 100 + n, peer));
            }
        }
        assert_eq!(store.total, 1000);
        let late: Vec<_> = (2..52).map(|n| (n, PeerId::random())).collect();
        for (n, peer) in &late {
            for m in 0..4 {
                store.put_from(*n, record(m, *peer)).unwrap();
            }
        }
        assert_eq!(store.total, 1000);
        assert!(store.names(0).contains(&early));
        assert!(late.iter().all(|(_, p)| store.names(3).contains(p)));
        let counters = store.counters.snapshot();
        assert_eq!(counters.provider_records_evicted, 200);
        assert_eq!(counters.provider_records_no_room, 4001);
        store.audit();
    }

    #[test]
    fn sybils_of_one_place_leave_a_popular_key_to_others() {
        let mut store = store(|l| l.providers_per_key = 256);
        let honest: Vec<_> = (1..=20).map(|n| (n, PeerId::random())).collect();
        let (before, after) = honest.split_at(10);
        for (n, peer) in before {
            store.put_from(*n, record(1, *peer)).unwrap();
        }
        for _ in 0..5000 {
            let _ = store.put_from(66, record(1, PeerId::random()));
        }
        for (n, peer) in after {
            store.put_from(*n, record(1, *peer)).unwrap();
        }
        let kept = store.names(1);
        assert_eq!(kept.len(), 256);
        assert!(honest.iter().all(|(_, peer)| kept.contains(peer)));
        store.audit();
    }

    #[test]
    fn no_source_pushes_others_below_its_own_share() {
        let mut store = store(|l| l.provider_records = 90);
        for n in 0..1000 {
            for source in 1..=3 {
                let _ = store.put_from(source, record(n, PeerId::random()));
            }
        }
        assert!((1..=3).all(|n| store.shares.of(host(n)) == 30));
        store.audit();
    }

    #[test]
    fn what_has_expired_is_never_told_and_goes_first() {
        let mut store = store(|l| {
            l.providers_per_key = 2;
            l.provider_records_per_peer = 1;
        });
        let (live, dead) = (PeerId::random(), PeerId::random());
        store.put_from(1, expired(1, dead)).unwrap();
        assert!(store.providers(&key(1)).is_empty());
        store.put_from(1, record(1, live)).unwrap();
        let newcomer = PeerId::random();
        store.put_from(1, record(1, newcomer)).unwrap();
        assert_eq!(store.names(1), HashSet::from([live, newcomer]));
        let one_more = store.put_from(1, record(1, PeerId::random()));
        assert_eq!(one_more, Err(Refusal::NoRoom));
        store.put_from(1, record(2, dead)).unwrap();
        store.audit();
    }

    #[test]
    fn renewing_makes_a_record_live_again() {
        let mut store = store(|_| {});
        let peer = PeerId::random();
        store.put_from(1, expired(1, peer)).unwrap();
        store.put_from(2, record(1, peer)).unwrap();
        assert_eq!(store.providers(&key(1)).len(), 1);
        store.audit();
    }

    #[test]
    fn an_answer_is_a_sample_that_fits_and_differs() {
        let mut store = store(|_| {});
        store.add_provider(record(1, store.local)).unwrap();
        let long = format!("/dns4/{}.example.org/tcp/4001", "x".repeat(200));
        let addresses: Vec<Multiaddr> = vec![long.parse().unwrap(); 12];
        for _ in 0..3000 {
            let mut record = record(1, PeerId::random());
            record.addresses.clone_from(&addresses);
            store.put_from(1, record).unwrap();
        }
        let mut seen = HashSet::new();
        for _ in 0..100 {
            let answer = store.providers(&key(1));
            assert_eq!(answer[0].provider, store.local);
            assert!((4..=SAMPLE + 1).contains(&answer.len()));
            let addresses = answer.iter().flat_map(|r| &r.addresses);
            assert!(addresses.map(Multiaddr::len).sum::<usize>() <= SAMPLE_BYTES);
            assert!(answer.iter().all(|r| r.addresses.len() <= ADDRESSES));
            seen.extend(answer.iter().map(|r| r.provider));
        }
        assert!(seen.len() > 400, "{} of 3000", seen.len());

        let few: Vec<_> = (0..40).map(|_| PeerId::random()).collect();
        for peer in &few {
            store.put_from(1, record(2, *peer)).unwrap();
        }
        let answers = || store.providers(&key(2)).into_iter().map(|r| r.provider);
        assert_eq!(answers().len(), SAMPLE + 1);
        let heard_of: HashSet<_> = (0..40).flat_map(|_| answers()).collect();
        assert_eq!(heard_of.len(), 40, "everybody gets their turn");
    }

    #[test]
    fn what_is_no_key_of_ours_is_not_kept() {
        let mut store = store(|_| {});
        for length in [0, KEY_BYTES - 1, KEY_BYTES + 1, 60_000] {
            let key = RecordKey::new(&vec![0; length]);
            let record = ProviderRecord::new(key, PeerId::random(), Vec::new());
            assert_eq!(store.put_from(1, record), Err(Refusal::Key));
        }
        assert_eq!(store.counters.snapshot().provider_records_malformed, 4);
    }

    #[test]
    fn values_are_not_stored() {
        let mut store = store(|_| {});
        assert!(store.put(Record::new(key(1), vec![1])).is_err());
        assert!(store.get(&key(1)).is_none());
    }
}
