//! A behaviour that may panic without taking the swarm with it.
//!
//! `libp2p-dcutr` asserts its own state in its connection hooks, so one slip there would end the task
//! that owns every connection of this node. Behind a guard the panic ends only what the behaviour had
//! under way: it is replaced by a fresh one, and the panic is counted.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
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

use crate::counters::Counters;

#[derive(Debug, thiserror::Error)]
#[error("a protocol of this node failed while connecting")]
struct Failed;

/// `B`, replaced by what `fresh` makes whenever it panics.
pub(crate) struct Guard<B> {
    inner: B,
    /// Connections that the present one has been told of. A fresh one knows nothing of older ones, and
    /// would assert over news of them.
    known: HashSet<ConnectionId>,
    fresh: Box<dyn Fn() -> B + Send>,
    counters: Arc<Counters>,
}

impl<B: NetworkBehaviour> Guard<B> {
    pub(crate) fn new(fresh: impl Fn() -> B + Send + 'static, counters: Arc<Counters>) -> Self {
        Self {
            inner: fresh(),
            known: HashSet::new(),
            fresh: Box::new(fresh),
            counters,
        }
    }

    fn run<T>(&mut self, work: impl FnOnce(&mut B) -> T) -> Option<T> {
        let inner = &mut self.inner;
        let done = catch_unwind(AssertUnwindSafe(|| work(inner)));
        if done.is_err() {
            self.counters.behaviours_restarted.up();
            tracing::warn!("hole punching failed inside and was started afresh; all else goes on");
            let broken = std::mem::replace(&mut self.inner, (self.fresh)());
            self.known.clear();
            // Even its end may panic.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
        }
        done.ok()
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Guard<B> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // The fresh one gets a second try: it has no state to be at odds with.
        for _ in 0..2 {
            if let Some(handler) =
                self.run(|b| b.handle_established_inbound_connection(id, peer, local, remote))
            {
                return handler;
            }
        }
        Err(ConnectionDenied::new(Failed))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        for _ in 0..2 {
            if let Some(handler) =
                self.run(|b| b.handle_established_outbound_connection(id, peer, remote, role, port))
            {
                return handler;
            }
        }
        Err(ConnectionDenied::new(Failed))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(made) => {
                self.known.insert(made.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) if !self.known.remove(&closed.connection_id) => {
                return;
            }
            _ => {}
        }
        self.run(|b| b.on_swarm_event(event));
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if self.known.contains(&id) {
            self.run(|b| b.on_connection_handler_event(peer, id, event));
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.run(|b| b.poll(cx)) {
            Some(polled) => polled,
            None => {
                // The fresh one has not been polled yet.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;
    use libp2p::swarm::{NewExternalAddrCandidate, dummy};

    use super::*;

    /// Panics in every hook, as `libp2p-dcutr` does when its state is at odds.
    struct Asserts(dummy::Behaviour);

    impl NetworkBehaviour for Asserts {
        type ConnectionHandler = dummy::ConnectionHandler;
        type ToSwarm = std::convert::Infallible;

        fn handle_established_inbound_connection(
            &mut self,
            _: ConnectionId,
            _: PeerId,
            _: &Multiaddr,
            _: &Multiaddr,
        ) -> Result<THandler<Self>, ConnectionDenied> {
            panic!("state mismatch")
        }

        fn handle_established_outbound_connection(
            &mut self,
            _: ConnectionId,
            _: PeerId,
            _: &Multiaddr,
            _: Endpoint,
            _: PortUse,
        ) -> Result<THandler<Self>, ConnectionDenied> {
            panic!("state mismatch")
        }

        fn on_swarm_event(&mut self, _: FromSwarm<'_>) {
            panic!("Peer of direct connection to be tracked.")
        }

        fn on_connection_handler_event(
            &mut self,
            _: PeerId,
            _: ConnectionId,
            event: THandlerOutEvent<Self>,
        ) {
            match event {}
        }

        fn poll(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
            let _ = self.0.poll(cx);
            panic!("state mismatch")
        }
    }

    #[test]
    fn a_panicking_behaviour_is_replaced_and_the_caller_goes_on() {
        let counters = Arc::new(Counters::default());
        let mut guard = Guard::new(|| Asserts(dummy::Behaviour), counters.clone());
        let (id, peer) = (ConnectionId::new_unchecked(1), PeerId::random());
        let address = Multiaddr::empty();
        assert!(
            guard
                .handle_established_inbound_connection(id, peer, &address, &address)
                .is_err()
        );
        guard.on_swarm_event(FromSwarm::NewExternalAddrCandidate(
            NewExternalAddrCandidate { addr: &address },
        ));
        let waker = noop_waker();
        assert!(guard.poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(counters.snapshot().behaviours_restarted, 4);
    }
}
