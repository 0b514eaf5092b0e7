//! One connection as the rest of this crate sees it: whose it is, over which path it runs, and
//! whether it is still alive.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use libp2p::{PeerId, swarm::ConnectionId};
use polymath_types::{PathKind, Transport};
use tokio_util::sync::CancellationToken;

/// Shared by the swarm task, the connection's handler and every stream on it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) id: ConnectionId,
    pub(crate) path: PathKind,
    pub(crate) transport: Transport,
    /// Cancelled when the connection is closed or given up. Streams must not rely on the
    /// multiplexer alone: with a frozen peer its orderly close may never end.
    pub(crate) lost: CancellationToken,
    /// Whether the connection outlives its streams: set for members of the mesh.
    pub(crate) keep: AtomicBool,
    inbound: AtomicU32,
    outbound: AtomicU32,
    /// Counts streams ever opened; tells a busy connection from an idle one.
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
        path: PathKind,
        transport: Transport,
    ) -> Self {
        Self {
            peer,
            id,
            path,
            transport,
            lost: CancellationToken::new(),
            keep: AtomicBool::new(false),
            inbound: AtomicU32::new(0),
            outbound: AtomicU32::new(0),
            used: AtomicU64::new(0),
        }
    }

    /// Claims room for one more stream, of at most `limit` in this direction.
    pub(crate) fn claim(self: &Arc<Self>, direction: Direction, limit: u32) -> Option<Claim> {
        let count = self.count(direction);
        count
            .fetch_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1))
            .ok()?;
        self.used.fetch_add(1, Relaxed);
        Some(Claim {
            link: self.clone(),
            direction,
        })
    }

    /// Streams open now, both ways.
    pub(crate) fn streams(&self) -> u32 {
        self.inbound.load(Relaxed) + self.outbound.load(Relaxed)
    }

    /// Streams opened so far, both ways.
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
