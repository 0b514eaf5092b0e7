//! What can go wrong, by operation. Every message is one line that says what was tried and what
//! to do; every error has an [`ErrorKind`].

use std::{io, time::Duration};

use libp2p::{Multiaddr, PeerId};
use polymath_types::{ErrorKind, GenesisError, VersionMismatch};

/// Why the swarm did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; {}", listen_advice(source))]
    Listen {
        /// The address asked for.
        addr: Multiaddr,
        /// Why.
        source: io::Error,
    },
    /// An address is of a kind no transport here serves.
    #[error(
        "cannot listen on {addr}: use /ip4/…/tcp/PORT, /ip4/…/udp/PORT/quic-v1 or their ip6 forms"
    )]
    Address {
        /// The address asked for.
        addr: Multiaddr,
    },
    /// Keys, encryption or name resolution could not be set up.
    #[error("the network could not be set up: {0}")]
    Setup(String),
}

fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program uses that port: stop it or choose another port (0 takes a free one)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: choose one of its own, or 0.0.0.0 for all"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one",
        io::ErrorKind::TimedOut => "no network interface carries that address",
        _ => "choose another address",
    }
}

impl StartError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Listen { .. } => ErrorKind::FailedPrecondition,
            Self::Address { .. } => ErrorKind::InvalidInput,
            Self::Setup(_) => ErrorKind::Internal,
        }
    }
}

/// Why a peer is not connected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The deadline passed first.
    #[error(
        "no connection to {target} within {within:?}: it may be down, or accept connections and never answer"
    )]
    Timeout {
        /// The address or peer dialled.
        target: String,
        /// The deadline.
        within: Duration,
    },
    /// No address answered.
    #[error(
        "cannot reach {target}: {reason}; check that the node runs and that the address is right"
    )]
    Unreachable {
        /// The address or peer dialled.
        target: String,
        /// What was tried and what came of it.
        reason: String,
    },
    /// No address of the peer is known.
    #[error(
        "no address of peer {peer} is known; join through a peer that knows it, or dial an address of it"
    )]
    NoAddress {
        /// The peer wanted.
        peer: PeerId,
    },
    /// Another peer answered at that address.
    #[error("peer {found} answers at {address}, not {expected}; ask for its current address")]
    WrongPeer {
        /// The peer wanted.
        expected: PeerId,
        /// The peer that answered.
        found: PeerId,
        /// Where.
        address: Multiaddr,
    },
    /// The peer belongs to another mesh.
    #[error(
        "peer {peer} belongs to mesh {theirs}, this node to mesh {ours}; a home belongs to one mesh: join theirs from another --home"
    )]
    WrongMesh {
        /// The peer.
        peer: PeerId,
        /// The first digits of its mesh's id.
        theirs: String,
        /// The first digits of ours.
        ours: String,
    },
    /// What answers is no Polymath node.
    #[error("peer {peer} is not a Polymath node ({agent}); check the address")]
    NotPolymath {
        /// The peer.
        peer: PeerId,
        /// What it calls itself.
        agent: String,
    },
    /// The peer speaks another version.
    #[error("peer {peer}: {mismatch}")]
    Version {
        /// The peer.
        peer: PeerId,
        /// Both versions.
        mismatch: VersionMismatch,
    },
    /// The address is this node's own.
    #[error("{target} is this node itself; give the address of another node")]
    Own {
        /// The address or peer dialled.
        target: String,
    },
    /// A limit of this node was reached.
    #[error("not connecting to {target}: {reason}; try again when others have finished")]
    Busy {
        /// The address or peer dialled.
        target: String,
        /// Which limit.
        reason: String,
    },
    /// The connection closed before the peer had identified itself.
    #[error("peer {peer} closed the connection before it said who it is; try again")]
    Closed {
        /// The peer.
        peer: PeerId,
    },
    /// The peer is shut out of the mesh.
    #[error(
        "peer {peer} is shut out: this mesh's admins have revoked it; one of them can let it in again"
    )]
    ShutOut {
        /// The peer.
        peer: PeerId,
    },
    /// The peer has turned this node away, as one that is shut out of the mesh.
    #[error(
        "peer {by} turns this node away: this mesh's admins have revoked it; ask one of them to let it in again"
    )]
    TurnedAway {
        /// Who says so.
        by: PeerId,
    },
    /// The swarm task has ended.
    #[error("the network of this node has stopped; restart the node")]
    Stopped,
}

impl DialError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Timeout { .. } => ErrorKind::DeadlineExceeded,
            Self::Unreachable { .. }
            | Self::WrongPeer { .. }
            | Self::Closed { .. }
            | Self::Stopped => ErrorKind::Unavailable,
            Self::NoAddress { .. } => ErrorKind::NotFound,
            Self::WrongMesh { .. } | Self::NotPolymath { .. } => ErrorKind::FailedPrecondition,
            Self::Version { .. } => ErrorKind::VersionMismatch,
            Self::Own { .. } => ErrorKind::InvalidInput,
            Self::Busy { .. } => ErrorKind::ResourceExhausted,
            Self::ShutOut { .. } | Self::TurnedAway { .. } => ErrorKind::PermissionDenied,
        }
    }

    /// Whether another address of the same peer may succeed.
    pub(crate) fn another_address_may_help(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::NoAddress { .. }
                | Self::WrongPeer { .. }
                | Self::Closed { .. }
        )
    }
}

/// Why a peer did not tell which mesh it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It speaks another version.
    #[error("peer {peer}: {mismatch}")]
    Version {
        /// The peer.
        peer: PeerId,
        /// Both versions.
        mismatch: VersionMismatch,
    },
    /// It connected and did not answer.
    #[error("peer {peer} did not answer the hello: {reason}; it may not be a Polymath node")]
    NoAnswer {
        /// The peer.
        peer: PeerId,
        /// What happened instead.
        reason: String,
    },
    /// Its genesis is not acceptable.
    #[error("peer {peer}: {source}")]
    Genesis {
        /// The peer.
        peer: PeerId,
        /// Why.
        source: GenesisError,
    },
}

impl HelloError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Dial(e) => e.kind(),
            Self::Version { .. }
            | Self::Genesis {
                source: GenesisError::Version(_),
                ..
            } => ErrorKind::VersionMismatch,
            Self::NoAnswer { .. } => ErrorKind::Unavailable,
            Self::Genesis { .. } => ErrorKind::DataLoss,
        }
    }
}

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The deadline passed first.
    #[error("no {protocol} stream to peer {peer} within {within:?}: it may be down or overloaded")]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// The protocol asked for.
        protocol: String,
        /// The deadline.
        within: Duration,
    },
    /// The peer does not speak that protocol.
    #[error("peer {peer} does not speak {protocol}; it may run another version")]
    Unsupported {
        /// The peer.
        peer: PeerId,
        /// The protocol asked for.
        protocol: String,
    },
    /// Too many streams are open or waiting on the connection.
    #[error("too many streams to peer {peer} are open; close some, or try again")]
    TooManyStreams {
        /// The peer.
        peer: PeerId,
    },
    /// The connection broke while the stream was being opened.
    #[error(
        "the connection to peer {peer} broke while a stream was being opened: {reason}; try again"
    )]
    ConnectionLost {
        /// The peer.
        peer: PeerId,
        /// What broke it.
        reason: String,
    },
    /// The protocol's name is not usable.
    #[error("'{0}' is no protocol name: use 1 to 64 lower-case letters, digits, '.', '_' or '-'")]
    Name(String),
    /// The swarm task has ended.
    #[error("the network of this node has stopped; restart the node")]
    Stopped,
}

impl OpenError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Dial(e) => e.kind(),
            Self::Timeout { .. } => ErrorKind::DeadlineExceeded,
            Self::Unsupported { .. } => ErrorKind::FailedPrecondition,
            Self::TooManyStreams { .. } => ErrorKind::ResourceExhausted,
            Self::ConnectionLost { .. } | Self::Stopped => ErrorKind::Unavailable,
            Self::Name(_) => ErrorKind::InvalidInput,
        }
    }
}

/// Why a protocol is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// Somebody else in this process serves it.
    #[error("protocol '{0}' is already being accepted; drop the other acceptor first")]
    Taken(String),
    /// The protocol's name is not usable.
    #[error("'{0}' is no protocol name: use 1 to 64 lower-case letters, digits, '.', '_' or '-'")]
    Name(String),
    /// The swarm task has ended.
    #[error("the network of this node has stopped; restart the node")]
    Stopped,
}

impl AcceptError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Taken(_) => ErrorKind::Internal,
            Self::Name(_) => ErrorKind::InvalidInput,
            Self::Stopped => ErrorKind::Unavailable,
        }
    }
}

/// Why the DHT was not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DhtError {
    /// This node provides as many keys as it may.
    #[error("this node already provides {0} keys, the most it may; stop providing some")]
    TooManyKeys(usize),
    /// Too many look-ups are under way.
    #[error("{0} DHT look-ups are under way, the most allowed; try again")]
    TooManyQueries(usize),
    /// The deadline passed and nothing was found.
    #[error("the DHT did not answer within {0:?}; peers may be unreachable")]
    Timeout(Duration),
    /// The swarm task has ended.
    #[error("the network of this node has stopped; restart the node")]
    Stopped,
}

impl DhtError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooManyKeys(_) | Self::TooManyQueries(_) => ErrorKind::ResourceExhausted,
            Self::Timeout(_) => ErrorKind::DeadlineExceeded,
            Self::Stopped => ErrorKind::Unavailable,
        }
    }
}

/// Why a stream cannot be asked for right now.
#[derive(Debug)]
pub(crate) enum OpenRefusal {
    /// The peer is not connected, or has not identified itself.
    NotReady,
    Final(OpenError),
}
