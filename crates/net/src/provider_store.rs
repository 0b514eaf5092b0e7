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

    /// Drops all that this peer provides.
    pub(crate) fn remove_peer(&mut self, provider: &PeerId) {
        let announcer = self.announcers.get(provider);
        for key in announcer.map(|a| a.keys.clone()).unwrap_or_default() {
            self.remove_other(&key, provider);
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
mod tests;
