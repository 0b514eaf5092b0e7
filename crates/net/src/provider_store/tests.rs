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
