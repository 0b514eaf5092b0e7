//! From a relayed path to a direct one.
//!
//! `libp2p-dcutr` punches where both NATs map endpoint-independently. What it leaves out is done here:
//! the plain dial that goes through where only one side must open (connection reversal), from a fresh
//! port, so that it never collides with a punch on the port that is listened on; the same behind a NAT
//! that gives every destination another port, towards the addresses others have seen the peer at; and,
//! when a punch failed, a second circuit opened from this side, which swaps the roles of the two.

use std::time::Duration;

use libp2p::{
    Multiaddr, PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use polymath_types::{PathKind, Transport};
use tokio::time::Instant;

use super::{Manager, dials::Dial};
use crate::{
    address::{path_of, transport_of},
    peers::NetEvent,
    report::Mapping,
};

/// Pauses between tries to leave a relay; the last goes on for ever.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(700),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
];
/// Between two dials past a relay to one peer: what it tells must not keep this node dialling.
const BETWEEN: Duration = Duration::from_millis(500);
const BETWEEN_MANY: Duration = Duration::from_secs(3);
/// As many may follow each other closely.
const MANY: usize = 8;
/// Such dials to one peer at once over each transport: one may hang on what a firewall swallows while the
/// next would get through.
const DIALS: usize = 4;
/// And to all peers; callers need room for theirs.
const DIALS_IN_ALL: usize = 48;
/// Addresses of one such dial.
const AT_ONCE: usize = 8;
/// From this try on a new circuit is opened too, for another round of DCUtR.
const PUNCH_AGAIN: usize = 3;
/// A relayed connection that a better one has replaced is closed when nothing used it for so long.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// How far leaving the relay has come.
pub(super) struct Upgrade {
    tries: usize,
    due: Instant,
    swapped: bool,
    /// Dials for what the peer has told anew, and when the next may follow.
    told: usize,
    next: Instant,
}

impl Manager {
    /// Notes that a peer is connected through a relay only, or no longer.
    pub(super) fn path_changed(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            self.upgrades.remove(&id);
            return;
        };
        if peer.has_direct() {
            if self.upgrades.remove(&id).is_some() {
                self.shared.emit(NetEvent::PathChanged { peer: id });
            }
        } else {
            self.upgrades.entry(id).or_insert(Upgrade {
                tries: 0,
                due: Instant::now() + PAUSES[0],
                swapped: false,
                told: 0,
                next: Instant::now(),
            });
        }
    }

    /// The peer has told new addresses: worth a try at once.
    pub(super) fn better_path(&mut self, id: PeerId) {
        let now = Instant::now();
        let Some(upgrade) = self.upgrades.get_mut(&id) else {
            return;
        };
        if upgrade.next > now {
            // Soon, then.
            upgrade.due = upgrade.due.min(upgrade.next);
            return;
        }
        upgrade.told += 1;
        let many = upgrade.told >= MANY;
        upgrade.next = now + if many { BETWEEN_MANY } else { BETWEEN };
        self.dial_past_relay(id);
    }

    pub(super) fn keep_paths(&mut self, now: Instant) {
        let due: Vec<_> = self
            .upgrades
            .iter_mut()
            .filter(|(_, u)| u.due <= now)
            .map(|(id, u)| {
                u.tries += 1;
                u.due = now + PAUSES[u.tries.min(PAUSES.len() - 1)];
                (*id, u.tries)
            })
            .collect();
        for (id, tries) in due {
            if self.peers.get(&id).is_none_or(|p| !p.is_member()) {
                continue;
            }
            self.dial_past_relay(id);
            if tries >= PUNCH_AGAIN {
                self.open_circuit(id);
            }
        }
    }

    fn dial_past_relay(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let mut addresses = self.shared.addresses(&id);
        addresses.retain(|a| path_of(a) == PathKind::Direct);
        {
            let reach = self.shared.reach();
            let from_anywhere =
                |a: &&Multiaddr| reach.mapping(transport_of(a)) == Mapping::EndpointDependent;
            addresses.extend(peer.told.candidates.iter().filter(from_anywhere).cloned());
        }
        addresses.retain(|a| !self.shared.listen.borrow().contains(a));
        // Each transport for itself: where one is swallowed, the other need not wait for its end.
        for over in [Transport::Tcp, Transport::Quic, Transport::Wss] {
            let mut of_it = addresses.clone();
            of_it.retain(|a| transport_of(a) == over);
            of_it.truncate(AT_ONCE);
            let (of_peer, all) = self.dials_past_relay(id, over);
            if !of_it.is_empty() && of_peer < DIALS && all < DIALS_IN_ALL {
                self.dial_unasked(id, of_it, Some(over));
            }
        }
    }

    fn dial_unasked(
        &mut self,
        id: PeerId,
        addresses: Vec<Multiaddr>,
        past_relay: Option<Transport>,
    ) {
        let opts = DialOpts::peer_id(id)
            .condition(PeerCondition::Always)
            .addresses(addresses)
            .allocate_new_port()
            .build();
        let connection = opts.connection_id();
        if self.swarm.dial(opts).is_ok() {
            let dial = match past_relay {
                Some(over) => Dial::past_relay(id, over),
                None => Dial::unasked(id),
            };
            self.dials.insert(connection, dial);
        }
    }

    /// DCUtR gave up: the peer may succeed where this side's role was the wrong one.
    pub(super) fn punch_failed(&mut self, id: PeerId) {
        let first = self
            .upgrades
            .get_mut(&id)
            .is_some_and(|u| !std::mem::replace(&mut u.swapped, true));
        if first {
            self.open_circuit(id);
        }
    }

    fn open_circuit(&mut self, id: PeerId) {
        let mut circuits = self.shared.addresses(&id);
        circuits.retain(|a| path_of(a) == PathKind::Relayed);
        circuits.truncate(1);
        if !circuits.is_empty() {
            self.dial_unasked(id, circuits, None);
        }
    }
}
