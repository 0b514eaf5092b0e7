//! Where peers were last known to be. Bounded: the peer not heard of for longest goes first.

use std::collections::HashMap;

use libp2p::{Multiaddr, PeerId};

use crate::{
    address::{is_dialable, split_peer},
    config::MAX_ADDRESSES,
};

/// Addresses by peer. Sans-IO: age is counted in insertions.
#[derive(Debug)]
pub(crate) struct AddressBook {
    capacity: usize,
    clock: u64,
    entries: HashMap<PeerId, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Best first: the last one heard of or proven.
    addresses: Vec<Multiaddr>,
    touched: u64,
    failures: u32,
}

impl AddressBook {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            clock: 0,
            entries: HashMap::new(),
        }
    }

    /// Remembers addresses of `peer`, the first of them as the best. Undialable ones, and ones
    /// that name another peer, are ignored. Returns how many other peers had to be forgotten.
    pub(crate) fn learn(
        &mut self,
        peer: PeerId,
        addresses: impl IntoIterator<Item = Multiaddr>,
    ) -> u64 {
        let fresh: Vec<_> = addresses
            .into_iter()
            .filter(is_dialable)
            .map(split_peer)
            .filter(|(_, named)| named.is_none_or(|p| p == peer))
            .map(|(address, _)| address)
            .take(MAX_ADDRESSES)
            .collect();
        if fresh.is_empty() {
            return 0;
        }
        self.clock += 1;
        let evicted = if self.entries.contains_key(&peer) {
            0
        } else {
            self.make_room()
        };
        let entry = self.entries.entry(peer).or_insert_with(|| Entry {
            addresses: Vec::new(),
            touched: 0,
            failures: 0,
        });
        entry.touched = self.clock;
        for address in fresh.into_iter().rev() {
            entry.addresses.retain(|known| known != &address);
            entry.addresses.insert(0, address);
        }
        entry.addresses.truncate(MAX_ADDRESSES);
        evicted
    }

    /// Notes that somebody else answers at an address of `peer`.
    pub(crate) fn disown(&mut self, peer: &PeerId, address: &Multiaddr) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.addresses.retain(|known| known != address);
        }
    }

    /// Known addresses, best first.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.entries
            .get(peer)
            .map(|e| e.addresses.clone())
            .unwrap_or_default()
    }

    /// Notes that no address of `peer` could be reached; returns how often in a row.
    pub(crate) fn failed(&mut self, peer: &PeerId) -> u32 {
        self.entries.get_mut(peer).map_or(0, |e| {
            e.failures = e.failures.saturating_add(1);
            e.failures
        })
    }

    /// Notes that `peer` was reached.
    pub(crate) fn reached(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.failures = 0;
        }
    }

    fn make_room(&mut self) -> u64 {
        let mut evicted = 0;
        while self.entries.len() >= self.capacity {
            let Some(oldest) = self
                .entries
                .iter()
                .min_by_key(|(_, e)| e.touched)
                .map(|(peer, _)| *peer)
            else {
                break;
            };
            self.entries.remove(&oldest);
            evicted += 1;
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn newest_address_comes_first_and_the_number_is_bounded() {
        let mut book = AddressBook::new(4);
        let peer = PeerId::random();
        for port in 1..=40 {
            book.learn(peer, [addr(port)]);
        }
        book.learn(peer, [addr(30)]);
        let known = book.addresses(&peer);
        assert_eq!(known.len(), MAX_ADDRESSES);
        assert_eq!(known[..2], [addr(30), addr(40)]);
    }

    #[test]
    fn the_peer_longest_unheard_of_is_forgotten_first() {
        let mut book = AddressBook::new(2);
        let (a, b, c) = (PeerId::random(), PeerId::random(), PeerId::random());
        assert_eq!(
            book.learn(a, [addr(1)]) + book.learn(b, [addr(2)]) + book.learn(a, [addr(3)]),
            0
        );
        assert_eq!(book.learn(c, [addr(4)]), 1);
        assert!(book.addresses(&b).is_empty());
        assert_eq!(book.addresses(&a).len(), 2);
    }

    #[test]
    fn what_cannot_be_dialled_or_is_someone_elses_is_ignored() {
        let mut book = AddressBook::new(2);
        let peer = PeerId::random();
        let other: Multiaddr = format!("/ip4/192.0.2.1/tcp/1/p2p/{}", PeerId::random())
            .parse()
            .unwrap();
        book.learn(peer, [other, "/ip4/0.0.0.0/tcp/1".parse().unwrap()]);
        assert!(book.addresses(&peer).is_empty());
        let own: Multiaddr = format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}").parse().unwrap();
        book.learn(peer, [own]);
        assert_eq!(book.addresses(&peer), [addr(1)]);
        assert_eq!((book.failed(&peer), book.failed(&peer)), (1, 2));
        book.reached(&peer);
        assert_eq!(book.failed(&peer), 1);
    }
}
