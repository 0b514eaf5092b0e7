//! One connection as the rest of this crate sees it: whose it is, over which path it runs, and
//! whether it is still alive.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use libp2p::{Multiaddr, PeerId, StreamProtocol, swarm::ConnectionId};
use polymath_types::{PathKind, Transport};

use crate::{
    address::{path_of, relay_of, transport_of},
    meter::Meter,
    names::is_upkeep,
};
use tokio_util::sync::CancellationToken;

/// Shared by the swarm task, the connection's handler and every stream on it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) id: ConnectionId,
    /// Where the peer is, without its id.
    pub(crate) remote: Multiaddr,
    /// The transport under it, a circuit's being that to its relay.
    pub(crate) transport: Transport,
    /// The relay that carries it.
    pub(crate) relay: Option<PeerId>,
    /// Opened from here, and from the port that is listened on: what the peer sees is what others can
    /// reach, if the NAT lets them.
    pub(crate) from_listen_port: bool,
    /// Made for one dial-back: nothing else may use it, and it is closed behind it.
    pub(crate) passing: AtomicBool,
    pub(crate) meter: Arc<Meter>,
    /// Given up because its peer is shut out of the mesh.
    pub(crate) shut_out: AtomicBool,
    punched: AtomicBool,
    /// Cancelled when the connection is closed or given up. Streams must not rely on the
    /// multiplexer alone: with a frozen peer its orderly close may never end.
    pub(crate) lost: CancellationToken,
    /// Whether the connection outlives its streams: set for members of the mesh.
    pub(crate) keep: AtomicBool,
    inbound: AtomicU32,
    outbound: AtomicU32,
    /// Counts streams ever opened that are of use to somebody; tells a busy connection from an idle one.
    used: AtomicU64,
}

/// Which side opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

impl Link {
    pub(crate) fn new(
        peer: PeerId,
        id: ConnectionId,
        remote: Multiaddr,
        from_listen_port: bool,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            peer,
            id,
            transport: transport_of(&remote),
            relay: relay_of(&remote),
            remote,
            from_listen_port,
            passing: AtomicBool::new(false),
            meter,
            shut_out: AtomicBool::new(false),
            punched: AtomicBool::new(false),
            lost: CancellationToken::new(),
            keep: AtomicBool::new(false),
            inbound: AtomicU32::new(0),
            outbound: AtomicU32::new(0),
            used: AtomicU64::new(0),
        }
    }

    /// How it runs, as far as is known now: that a hole was punched turns out after the fact.
    pub(crate) fn path(&self) -> PathKind {
        match path_of(&self.remote) {
            PathKind::Direct if self.punched.load(Relaxed) => PathKind::HolePunched,
            path => path,
        }
    }

    pub(crate) fn is_relayed(&self) -> bool {
        path_of(&self.remote) == PathKind::Relayed
    }

    pub(crate) fn punched(&self) {
        self.punched.store(true, Relaxed);
    }

    pub(crate) fn is_passing(&self) -> bool {
        self.passing.load(Relaxed)
    }

    /// Claims room for one more stream, of at most `limit` in this direction.
    pub(crate) fn claim(self: &Arc<Self>, direction: Direction, limit: u32) -> Option<Claim> {
        let count = self.count(direction);
        count
            .fetch_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1))
            .ok()?;
        Some(Claim {
            link: self.clone(),
            direction,
        })
    }

    /// Streams open now, both ways.
    pub(crate) fn streams(&self) -> u32 {
        self.inbound.load(Relaxed) + self.outbound.load(Relaxed)
    }

    /// A stream of use to somebody: what members tell each other unasked is none.
    pub(crate) fn use_once(&self, protocol: &StreamProtocol) {
        if !is_upkeep(protocol) {
            self.used.fetch_add(1, Relaxed);
        }
    }

    /// Streams opened so far, both ways, but those of upkeep.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    fn count(&self, direction: Direction) -> &AtomicU32 {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// One stream's place on its connection; given back on drop.
#[derive(Debug)]
pub(crate) struct Claim {
    link: Arc<Link>,
    direction: Direction,
}

impl Claim {
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.link.count(self.direction).fetch_sub(1, Relaxed);
    }
}
