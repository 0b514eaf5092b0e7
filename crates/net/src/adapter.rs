//! A behaviour with a word put in: what it hears of the swarm, and what it says to it.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use crate::{
    counters::Counters,
    vetting::{Distance, vet},
};

/// What an [`Adapter`] changes.
pub(crate) trait Adapt<B: NetworkBehaviour>: 'static {
    /// Whether the behaviour hears of `event`.
    fn hears(_: &FromSwarm<'_>) -> bool {
        true
    }

    /// Which of the addresses it names for a dial are dialled.
    fn dials(&self, addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        addresses
    }

    /// What becomes of what it says.
    fn says(
        action: ToSwarm<B::ToSwarm, THandlerInEvent<B>>,
    ) -> ToSwarm<B::ToSwarm, THandlerInEvent<B>> {
        action
    }
}

/// `B`, changed by `A`.
pub(crate) struct Adapter<B, A> {
    pub(crate) inner: B,
    pub(crate) how: A,
}

impl<B, A> Deref for Adapter<B, A> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B, A> DerefMut for Adapter<B, A> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B, A: Default> Adapter<B, A> {
    pub(crate) fn new(inner: B) -> Self {
        Self {
            inner,
            how: A::default(),
        }
    }
}

/// Identify tells everybody the same, so it hears of no address that is private: those are told to
/// peers of their scope alone, by [`crate::whereabouts`].
#[derive(Default)]
pub(crate) struct PublicOnly;

impl<B: NetworkBehaviour> Adapt<B> for PublicOnly {
    fn hears(event: &FromSwarm<'_>) -> bool {
        match event {
            FromSwarm::ExternalAddrConfirmed(confirmed) => is_public(confirmed.addr),
            FromSwarm::ExternalAddrExpired(expired) => is_public(expired.addr),
            _ => true,
        }
    }
}

fn is_public(address: &Multiaddr) -> bool {
    use crate::{address::scope_of, report::Scope};
    matches!(scope_of(address), Scope::Global | Scope::Circuit)
}

/// Hole punching is given its candidates by [`crate::reach`]: identify's own are of ports that no NAT
/// that translates them has mapped.
#[derive(Default)]
pub(crate) struct OwnCandidates;

impl<B: NetworkBehaviour> Adapt<B> for OwnCandidates {
    fn hears(event: &FromSwarm<'_>) -> bool {
        !matches!(event, FromSwarm::NewExternalAddrCandidate(_))
    }
}

/// The relay server of `libp2p-relay` 0.22 sends its status to relayed connections too, whose handlers
/// do not know that event and panic: it hears of direct connections alone.
#[derive(Default)]
pub(crate) struct DirectOnly;

impl<B: NetworkBehaviour> Adapt<B> for DirectOnly {
    fn hears(event: &FromSwarm<'_>) -> bool {
        match event {
            FromSwarm::ConnectionEstablished(established) => !established.endpoint.is_relayed(),
            FromSwarm::ConnectionClosed(closed) => !closed.endpoint.is_relayed(),
            _ => true,
        }
    }
}

/// A gateway's word is no proof: what it has mapped is dialled back before it is announced.
#[derive(Default)]
pub(crate) struct Unproven;

impl<B: NetworkBehaviour> Adapt<B> for Unproven {
    fn says(
        action: ToSwarm<B::ToSwarm, THandlerInEvent<B>>,
    ) -> ToSwarm<B::ToSwarm, THandlerInEvent<B>> {
        match action {
            ToSwarm::ExternalAddrConfirmed(address) => ToSwarm::NewExternalAddrCandidate(address),
            other => other,
        }
    }
}

/// The DHT dials whatever addresses others name for third parties. In a mesh that spans the internet none
/// of them may be of a private network: it would be somebody else's, or this node's own.
#[derive(Default)]
pub(crate) struct Vetted {
    /// Whether members beyond this machine and its network were met.
    pub(crate) abroad: bool,
    pub(crate) counters: Arc<Counters>,
}

impl<B: NetworkBehaviour> Adapt<B> for Vetted {
    fn dials(&self, addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        if !self.abroad {
            return addresses;
        }
        vet(addresses, Distance::Far, usize::MAX, &self.counters)
    }
}

impl<B: NetworkBehaviour, A: Adapt<B>> NetworkBehaviour for Adapter<B, A> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let named = self
            .inner
            .handle_pending_outbound_connection(id, peer, addresses, role)?;
        Ok(self.how.dials(named))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(id, peer, remote, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if A::hears(&event) {
            self.inner.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx).map(A::says)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use libp2p::swarm::dummy;

    use super::*;

    #[test]
    fn abroad_the_dht_dials_nothing_of_a_private_network() {
        let addresses = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.168.0.1/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
            "/ip4/11.0.0.1/tcp/1",
        ];
        let named: Vec<Multiaddr> = addresses.map(|a| a.parse().unwrap()).to_vec();
        let dials = |how: &Vetted| Adapt::<dummy::Behaviour>::dials(how, named.clone());
        let mut how = Vetted::default();
        assert_eq!(dials(&how), named, "a mesh of one network lives by them");
        how.abroad = true;
        assert_eq!(dials(&how), [named[3].clone()]);
        assert_eq!(how.counters.snapshot().addresses_out_of_scope, 3);
    }
}
