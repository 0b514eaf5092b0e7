//! Cutting off whoever is newly shut out.

use std::sync::atomic::Ordering::Relaxed;

use libp2p::PeerId;

use super::Manager;
use crate::{
    error::DialError,
    peers::{GivenUp, NetEvent},
};

impl Manager {
    /// The list has changed: nothing of those on it stays. Who is no longer on it needs nothing.
    pub(super) fn shut_out_changed(&mut self) {
        let listed = self.shared.shut_out.peers();
        for peer in listed.iter() {
            self.cut_off(*peer);
            self.unroute(peer);
            self.local.remove(peer);
            let store = self.swarm.behaviour_mut().kad.store_mut();
            store.remove_peer(peer);
        }
    }

    pub(super) fn cut_off(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        for waiter in std::mem::take(&mut peer.waiters) {
            waiter.tell(Err(DialError::ShutOut { peer: id }));
        }
        let links: Vec<_> = peer.connections.iter().map(|c| c.link.clone()).collect();
        tracing::info!(peer = %id, connections = links.len(), "shut out: cut off");
        let why = GivenUp::ShutOut;
        self.shared.emit(NetEvent::GivenUp { peer: id, why });
        for link in links {
            link.shut_out.store(true, Relaxed);
            self.give_up(id, &link);
        }
    }
}
