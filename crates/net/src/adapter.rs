//! A behaviour with a word put in: what it hears of the swarm, and what it says to it.

use std::task::{Context, Poll};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

/// What an [`Adapter`] changes.
pub(crate) trait Adapt<B: NetworkBehaviour>: 'static {
    /// Whether the behaviour hears of `event`.
    fn hears(_: &FromSwarm<'_>) -> bool {
        true
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
    how: std::marker::PhantomData<A>,
}

impl<B, A> Adapter<B, A> {
    pub(crate) fn new(inner: B) -> Self {
        Self {
            inner,
            how: std::marker::PhantomData,
        }
    }
}

/// Identify tells everybody the same, so it hears of no address that is private: those are told to
/// peers of their scope alone, by [`crate::whereabouts`].
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
pub(crate) struct OwnCandidates;

impl<B: NetworkBehaviour> Adapt<B> for OwnCandidates {
    fn hears(event: &FromSwarm<'_>) -> bool {
        !matches!(event, FromSwarm::NewExternalAddrCandidate(_))
    }
}

/// The relay server of `libp2p-relay` 0.22 sends its status to relayed connections too, whose handlers
/// do not know that event and panic: it hears of direct connections alone.
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
        self.inner
            .handle_pending_outbound_connection(id, peer, addresses, role)
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
