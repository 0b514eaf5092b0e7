//! Where inbound connections come from: one address must not take every place there is.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use crate::address::ip_of;

/// Refuses inbound connections of a source that has too many already.
///
/// Its tables have at most as many entries as the swarm has such connections.
pub(crate) struct Behaviour {
    pending: Share,
    established: Share,
}

/// The connections of every source, and how many one may have.
struct Share {
    limit: usize,
    of: HashMap<ConnectionId, IpAddr>,
}

#[derive(Debug, thiserror::Error)]
#[error("{source_ip} already has {limit} connections")]
struct TooMany {
    source_ip: IpAddr,
    limit: usize,
}

impl Behaviour {
    pub(crate) fn new(pending: usize, established: usize) -> Self {
        let share = |limit| Share {
            limit,
            of: HashMap::new(),
        };
        Self {
            pending: share(pending),
            established: share(established),
        }
    }
}

impl Share {
    fn take(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        let Some(source_ip) = source_of(remote) else {
            return Ok(());
        };
        let limit = self.limit;
        if self.of.values().filter(|s| **s == source_ip).count() >= limit {
            return Err(ConnectionDenied::new(TooMany { source_ip, limit }));
        }
        self.of.insert(id, source_ip);
        Ok(())
    }
}

/// Who is meant by an address: an IPv6 host has a network of 64 bits to itself (RFC 6177).
pub(crate) fn source_of(remote: &Multiaddr) -> Option<IpAddr> {
    ip_of(remote).map(source_of_ip)
}

/// The same, of a bare address.
pub(crate) fn source_of_ip(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.pending.take(id, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.of.remove(&id);
        self.established.take(id, remote)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let gone = match event {
            FromSwarm::ListenFailure(failure) => failure.connection_id,
            FromSwarm::ConnectionClosed(closed) => closed.connection_id,
            _ => return,
        };
        self.pending.of.remove(&gone);
        self.established.of.remove(&gone);
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_source_has_one_share() {
        let source = |text: &str| source_of(&text.parse().unwrap());
        let same = [
            ("/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/udp/2/quic-v1"),
            ("/ip4/192.0.2.1/tcp/1", "/ip6/::ffff:192.0.2.1/tcp/1"),
            ("/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8::ffff:0:0:2/tcp/1"),
        ];
        for (a, b) in same {
            assert_eq!(source(a), source(b), "{a} {b}");
        }
        assert_ne!(
            source("/ip4/192.0.2.1/tcp/1"),
            source("/ip4/192.0.2.2/tcp/1")
        );
        assert_ne!(
            source("/ip6/2001:db8::/tcp/1"),
            source("/ip6/2001:db8:0:1::/tcp/1")
        );
        assert_eq!(source("/memory/1"), None);
    }
}
