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
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

use super::{OpenRequest, Registry, handler::Handler};
use crate::{
    address::{path_of, transport_of},
    link::Link,
};

/// Must stand last among composed behaviours: a link is made when all others agreed.
pub(crate) struct Behaviour {
    registry: Arc<Registry>,
    links: HashMap<ConnectionId, Arc<Link>>,
    /// Emptied by every poll; at most one entry for each command the swarm task has taken.
    wishes: VecDeque<(PeerId, ConnectionId, OpenRequest)>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
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

    fn connect(&mut self, id: ConnectionId, peer: PeerId, remote: &Multiaddr) -> Handler {
        let link = Arc::new(Link::new(peer, id, path_of(remote), transport_of(remote)));
        self.links.insert(id, link.clone());
        Handler::new(link, self.registry.clone())
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
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.connect(id, peer, remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.connect(id, peer, remote))
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
