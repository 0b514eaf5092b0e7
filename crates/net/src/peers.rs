//! Peers as callers see them.

use std::{net::IpAddr, time::Duration};

use libp2p::{Multiaddr, PeerId};
use polymath_types::{PathKind, Transport};
use tokio::time::Instant;

use crate::address::{ip_of, path_of};

/// Whether a connected peer is one of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Membership {
    /// It has not said yet.
    Unidentified,
    /// It says it belongs to this mesh.
    Member,
    /// Another mesh, another version, or no Polymath node at all.
    Foreign,
}

/// A connected peer, by its best connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Who.
    pub peer: PeerId,
    /// How its best connection runs.
    pub path: PathKind,
    /// The transport under it.
    pub transport: Transport,
    /// Smoothed round trip of that connection; none before the first pong.
    pub rtt: Option<Duration>,
    /// Program and version, as it says.
    pub agent: String,
    /// Remote addresses of all its connections, without the peer's id.
    pub addresses: Vec<Multiaddr>,
    /// Number of connections with it.
    pub connections: usize,
    /// When the oldest of them was established.
    pub since: Instant,
    /// Bytes received from it on the connections it has now, below all protocols.
    pub received: u64,
    /// Bytes sent to it, likewise.
    pub sent: u64,
    /// The relay that carries the best connection, if one does.
    pub relay: Option<PeerId>,
    /// Whether it is one of us.
    pub membership: Membership,
}

impl PeerInfo {
    /// Where its connections that run through no relay lead.
    pub fn direct_ips(&self) -> impl Iterator<Item = IpAddr> {
        let direct = self
            .addresses
            .iter()
            .filter(|a| path_of(a) == PathKind::Direct);
        direct.filter_map(ip_of)
    }
}

/// Why this node gives a connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// Pings were not answered.
    Silent,
    /// There is no room for idle connections.
    NoRoom,
    /// The peer is shut out of the mesh.
    ShutOut,
}

/// What happens to peers. Subscribers that lag behind by more than 256 events lose the oldest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetEvent {
    /// The first connection with this peer stands.
    Connected {
        /// Who.
        peer: PeerId,
    },
    /// This node gives a connection up, for one of these reasons; if it was the last, `Disconnected`
    /// follows.
    GivenUp {
        /// With whom.
        peer: PeerId,
        /// Why.
        why: GivenUp,
    },
    /// The last connection with this peer is gone.
    Disconnected {
        /// Who.
        peer: PeerId,
    },
    /// A member of this mesh has told about itself.
    Identified {
        /// Who.
        peer: PeerId,
        /// Program and version, as it says.
        agent: String,
        /// Where it can be reached, as it says.
        addresses: Vec<Multiaddr>,
    },
    /// A member that announced itself on the local network was reached there.
    MetLocally {
        /// Who.
        peer: PeerId,
    },
    /// A peer that was reached through a relay is reached directly now.
    PathChanged {
        /// Who.
        peer: PeerId,
    },
    /// A peer turned out not to belong to this mesh.
    Foreign {
        /// Who.
        peer: PeerId,
        /// What it belongs to, for people.
        belongs: String,
    },
}
