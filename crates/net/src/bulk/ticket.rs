//! Tickets: who may connect, once and soon.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libp2p::PeerId;
use quinn::rustls::crypto::aws_lc_rs;
use tokio::time::Instant;

use super::{counters::Counters, error::TicketError, limits::BulkLimits};
use crate::shut_out::ShutOut;

/// Admits one peer to the bulk lane of another, once.
#[derive(Clone)]
pub struct Ticket([u8; Self::BYTES]);

impl Ticket {
    /// Length, bytes.
    pub const BYTES: usize = 32;

    /// As the peer sent it.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// To be sent to the peer it was issued to, and to nobody else.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// The tickets that are out.
pub(super) struct Tickets {
    issued: Mutex<HashMap<PeerId, Vec<Issued>>>,
    limit: usize,
    limit_per_peer: usize,
    life: Duration,
    counters: Arc<Counters>,
    shut_out: ShutOut,
}

struct Issued {
    /// Hashes are compared in constant time, and their table admits nobody who reads it.
    hash: blake3::Hash,
    expires: Instant,
}

impl Tickets {
    pub(super) fn new(limits: &BulkLimits, counters: Arc<Counters>, shut_out: ShutOut) -> Self {
        Self {
            issued: Mutex::default(),
            limit: limits.tickets,
            limit_per_peer: limits.tickets_per_peer,
            life: limits.ticket_life,
            counters,
            shut_out,
        }
    }

    pub(super) fn issue(&self, peer: PeerId, now: Instant) -> Result<Ticket, TicketError> {
        if self.shut_out.contains(&peer) {
            self.counters.tickets_denied.up();
            return Err(TicketError::ShutOut { peer });
        }
        let mut bytes = [0; Ticket::BYTES];
        let random = aws_lc_rs::default_provider().secure_random;
        random.fill(&mut bytes).map_err(|_| TicketError::NoChance)?;
        let mut issued = self.current(now);
        let full = self.limit <= issued.values().map(Vec::len).sum();
        let of_peer = issued.get(&peer).map_or(0, Vec::len);
        if full || of_peer >= self.limit_per_peer {
            self.counters.tickets_denied.up();
            let life = self.life;
            return Err(if of_peer >= self.limit_per_peer {
                let limit = self.limit_per_peer;
                TicketError::PeerFull { peer, limit, life }
            } else {
                let limit = self.limit;
                TicketError::Full { limit, life }
            });
        }
        issued.entry(peer).or_default().push(Issued {
            hash: blake3::hash(&bytes),
            expires: now + self.life,
        });
        self.counters.tickets_issued.up();
        Ok(Ticket(bytes))
    }

    /// Whether `peer` has a ticket to show.
    pub(super) fn expects(&self, peer: &PeerId, now: Instant) -> bool {
        !self.shut_out.contains(peer) && self.current(now).contains_key(peer)
    }

    /// The same, of somebody who knocks.
    pub(super) fn expects_or_counts(&self, peer: &PeerId, now: Instant) -> bool {
        let expected = self.expects(peer, now);
        if !expected {
            self.counters.strangers_refused.up();
        }
        expected
    }

    /// Whether anybody has.
    pub(super) fn expects_anybody(&self, now: Instant) -> bool {
        !self.current(now).is_empty()
    }

    /// Takes a ticket that `peer` shows; it is gone if it was good.
    pub(super) fn redeem(&self, peer: &PeerId, shown: &[u8; Ticket::BYTES], now: Instant) -> bool {
        let shown = blake3::hash(shown);
        let mut issued = self.current(now);
        let wanted = !self.shut_out.contains(peer);
        let good = issued.get_mut(peer).is_some_and(|of_peer| {
            let before = of_peer.len();
            of_peer.retain(|ticket| ticket.hash != shown);
            wanted && of_peer.len() < before
        });
        issued.retain(|_, of_peer| !of_peer.is_empty());
        if !good {
            self.counters.tickets_refused.up();
        }
        good
    }

    /// The table without what has expired.
    fn current(&self, now: Instant) -> MutexGuard<'_, HashMap<PeerId, Vec<Issued>>> {
        // A panic elsewhere leaves a table as good as any.
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|_, of_peer| {
            let before = of_peer.len();
            of_peer.retain(|ticket| ticket.expires > now);
            let expired = (before - of_peer.len()) as u64;
            self.counters.tickets_expired.add(expired);
            !of_peer.is_empty()
        });
        issued
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tickets() -> Tickets {
        let limits = BulkLimits {
            tickets: 3,
            tickets_per_peer: 2,
            ..BulkLimits::default()
        };
        Tickets::new(&limits, Arc::default(), ShutOut::default())
    }

    #[test]
    fn a_ticket_is_good_once_for_its_peer_and_for_its_life() {
        let (tickets, now) = (tickets(), Instant::now());
        let (peer, other) = (PeerId::random(), PeerId::random());
        let ticket = tickets.issue(peer, now).unwrap();
        assert!(tickets.expects(&peer, now) && !tickets.expects(&other, now));
        assert!(!tickets.redeem(&other, ticket.as_bytes(), now));
        assert!(!tickets.redeem(&peer, &[0; 32], now));
        assert!(tickets.redeem(&peer, ticket.as_bytes(), now));
        assert!(!tickets.redeem(&peer, ticket.as_bytes(), now));
        assert!(!tickets.expects_anybody(now));

        let late = tickets.issue(peer, now).unwrap();
        let now = now + tickets.life;
        assert!(!tickets.expects(&peer, now));
        assert!(!tickets.redeem(&peer, late.as_bytes(), now));
        let counted = tickets.counters.snapshot();
        assert_eq!((counted.tickets_issued, counted.tickets_expired), (2, 1));
        assert_eq!(counted.tickets_refused, 4);
    }

    #[test]
    fn tickets_are_bounded_for_each_peer_and_in_all() {
        let (tickets, now) = (tickets(), Instant::now());
        let (peer, other, third) = (PeerId::random(), PeerId::random(), PeerId::random());
        let first = tickets.issue(peer, now).unwrap();
        tickets.issue(peer, now).unwrap();
        let refused = tickets.issue(peer, now).unwrap_err();
        assert!(matches!(refused, TicketError::PeerFull { limit: 2, .. }));
        tickets.issue(other, now).unwrap();
        let refused = tickets.issue(third, now).unwrap_err();
        assert!(matches!(refused, TicketError::Full { limit: 3, .. }));
        // A used one makes room.
        assert!(tickets.redeem(&peer, first.as_bytes(), now));
        tickets.issue(third, now).unwrap();
        assert_eq!(tickets.counters.snapshot().tickets_denied, 2);
    }
}
