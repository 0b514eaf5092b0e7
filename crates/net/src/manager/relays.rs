//! Reservations with relays: a node that strangers cannot reach keeps two, so that the death of one
//! relay leaves it reachable.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, core::transport::ListenerId, multiaddr::Protocol, relay};
use tokio::time::Instant;

use super::{Manager, place::circuits_through, table::Peer};
use crate::{
    config::Role,
    report::{RelayReport, RelayState},
};

/// Reservations a node keeps.
const WANTED: usize = 2;
/// Relays remembered.
const MOST: usize = 32;
/// A relay that refused or was lost is asked again after this, then after twice as long.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// A relay must have answered by then.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Relays {
    slots: HashMap<PeerId, Slot>,
    /// Peers that this node, as a relay, has granted a reservation; at most as many as it grants.
    guests: HashSet<PeerId>,
}

struct Slot {
    listener: Option<ListenerId>,
    state: RelayState,
    asked: Instant,
    retry: Instant,
    failures: u32,
}

impl Slot {
    fn fail(&mut self, reason: String, now: Instant) {
        self.listener = None;
        self.state = RelayState::Failed(reason);
        self.retry = now + (RETRY * 2u32.pow(self.failures.min(8))).min(LONGEST_RETRY);
        self.failures += 1;
    }
}

impl Relays {
    /// Whether somebody is reached by the connection with this peer: through it, or it through here.
    pub(super) fn need(&self, peer: &PeerId) -> bool {
        self.guests.contains(peer)
            || self
                .slots
                .get(peer)
                .is_some_and(|s| s.state == RelayState::Reserved)
    }

    pub(super) fn granted(&mut self, guest: PeerId) {
        self.guests.insert(guest);
    }

    pub(super) fn left(&mut self, guest: &PeerId) {
        self.guests.remove(guest);
    }

    /// Addresses that lead here through relays.
    pub(super) fn circuits(&self, peers: &HashMap<PeerId, Peer>) -> Vec<Multiaddr> {
        let mut all: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, s)| s.state == RelayState::Reserved)
            .filter_map(|(id, _)| Some((id, peers.get(id)?)))
            .flat_map(|(id, peer)| circuits_through(*id, &peer.dialable()))
            .collect();
        all.sort_by_key(|a| a.to_string());
        all
    }

    pub(super) fn report(&self) -> Vec<RelayReport> {
        let mut all: Vec<_> = self
            .slots
            .iter()
            .map(|(peer, slot)| RelayReport {
                peer: *peer,
                state: slot.state.clone(),
            })
            .collect();
        all.sort_by_key(|r| r.peer);
        all
    }
}

impl Manager {
    /// Asks for reservations while they are needed, and gives them up when they are not.
    pub(super) fn keep_relays(&mut self, now: Instant) {
        let needed = self.role == Role::Server && self.shared.reach().needs_relay();
        for slot in self.relays.slots.values_mut() {
            let late = slot.state == RelayState::Asked && now - slot.asked > PATIENCE;
            if !needed || late {
                if let Some(listener) = slot.listener.take() {
                    self.swarm.remove_listener(listener);
                }
                if late {
                    slot.fail(format!("no answer within {PATIENCE:?}"), now);
                }
            }
        }
        if !needed {
            if !self.relays.slots.is_empty() {
                self.relays.slots.clear();
                self.place_changed();
            }
            return;
        }
        let held = self
            .relays
            .slots
            .values()
            .filter(|s| s.listener.is_some())
            .count();
        for id in self
            .candidates(now)
            .into_iter()
            .take(WANTED.saturating_sub(held))
        {
            self.reserve(id, now);
        }
    }

    /// Members that relay, directly connected, whose turn it is; the nearest first.
    fn candidates(&self, now: Instant) -> Vec<PeerId> {
        let mut free: Vec<_> = self
            .peers
            .iter()
            .filter(|(id, p)| {
                let slot = self.relays.slots.get(id);
                p.relays
                    && p.is_member()
                    && p.has_direct()
                    && slot.is_none_or(|s| s.listener.is_none() && s.retry <= now)
            })
            .map(|(id, p)| {
                (
                    self.relays.slots.get(id).map_or(0, |s| s.failures),
                    p.rtt(),
                    *id,
                )
            })
            .collect();
        free.sort();
        free.into_iter().map(|(_, _, id)| id).collect()
    }

    fn reserve(&mut self, id: PeerId, now: Instant) {
        let Some(remote) = self.peers.get(&id).and_then(Peer::direct_remote) else {
            return;
        };
        let address = remote.with(Protocol::P2p(id)).with(Protocol::P2pCircuit);
        if self.relays.slots.len() >= MOST && !self.relays.slots.contains_key(&id) {
            self.relays.slots.retain(|_, s| s.listener.is_some());
        }
        let slot = self.relays.slots.entry(id).or_insert(Slot {
            listener: None,
            state: RelayState::Asked,
            asked: now,
            retry: now,
            failures: 0,
        });
        match self.swarm.listen_on(address) {
            Ok(listener) => {
                (slot.listener, slot.state, slot.asked) = (Some(listener), RelayState::Asked, now);
            }
            Err(e) => slot.fail(e.to_string(), now),
        }
    }

    pub(super) fn on_relay_client(&mut self, event: &relay::client::Event) {
        if let relay::client::Event::ReservationReqAccepted { relay_peer_id, .. } = event
            && let Some(slot) = self.relays.slots.get_mut(relay_peer_id)
        {
            (slot.state, slot.failures) = (RelayState::Reserved, 0);
            tracing::debug!(relay = %relay_peer_id, "reservation granted");
            self.place_changed();
        }
    }

    /// Whether the listener was a reservation; then its relay is done with.
    pub(super) fn reservation_ended(&mut self, listener: ListenerId, reason: &str) {
        let now = Instant::now();
        let ended = self
            .relays
            .slots
            .iter_mut()
            .find(|(_, s)| s.listener == Some(listener));
        if let Some((relay, slot)) = ended {
            tracing::debug!(%relay, reason, "reservation lost");
            slot.fail(reason.to_owned(), now);
            self.place_changed();
        }
    }
}
