//! The swarm's part: knows every connection by its [`Link`] and passes wishes to its handler.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

use polymath_types::PathKind;

use super::{OpenRequest, Registry, handler::Handler};
use crate::{
    address::{path_of, relay_of, split_peer},
    link::Link,
    meter::Meters,
};

/// Must stand last among composed behaviours: a link is made when all others agreed.
pub(crate) struct Behaviour {
    registry: Arc<Registry>,
    meters: Arc<Meters>,
    links: HashMap<ConnectionId, Arc<Link>>,
    /// Emptied by every poll; at most one entry for each command the swarm task has taken.
    wishes: VecDeque<(PeerId, ConnectionId, OpenRequest)>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(registry: Arc<Registry>, meters: Arc<Meters>) -> Self {
        Self {
            registry,
            meters,
            links: HashMap::new(),
            wishes: VecDeque::new(),
            waker: None,
        }
    }

    /// The link of an established connection.
    pub(crate) fn link(&self, id: ConnectionId) -> Option<Arc<Link>> {
        self.links.get(&id).cloned()
    }

    /// Opens a stream on exactly this connection.
    pub(crate) fn open(&mut self, link: &Link, request: OpenRequest) {
        self.wishes.push_back((link.peer, link.id, request));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn connect(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        route: &Multiaddr,
        from_listen_port: bool,
    ) -> Handler {
        let meter = self.meters.fetch(peer, remote);
        let route = split_peer(route.clone()).0;
        let link = Arc::new(Link::new(peer, id, route, from_listen_port, meter));
        self.links.insert(id, link.clone());
        Handler::new(link, self.registry.clone())
    }

    /// `circuit` with its relay's id, which it lacks where the relay was dialled without.
    fn with_relay(&self, circuit: &Multiaddr) -> Multiaddr {
        if relay_of(circuit).is_some() {
            return circuit.clone();
        }
        let hop = circuit.iter().take_while(|p| *p != Protocol::P2pCircuit);
        let hop: Multiaddr = hop.collect();
        match self.links.values().find(|l| l.remote == hop) {
            Some(relay) => hop
                .with(Protocol::P2p(relay.peer))
                .with(Protocol::P2pCircuit),
            None => circuit.clone(),
        }
    }

    fn disconnect(&mut self, id: ConnectionId) {
        if let Some(link) = self.links.remove(&id) {
            link.lost.cancel();
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // An inbound circuit is told by our own address alone.
        if path_of(local) == PathKind::Relayed {
            return Ok(self.connect(id, peer, remote, &self.with_relay(local), false));
        }
        Ok(self.connect(id, peer, remote, remote, false))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.connect(id, peer, remote, remote, port == PortUse::Reuse))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => self.disconnect(closed.connection_id),
            FromSwarm::DialFailure(failure) => self.disconnect(failure.connection_id),
            FromSwarm::ListenFailure(failure) => self.disconnect(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        if let Some((peer_id, id, event)) = self.wishes.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(id),
                event,
            });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
