//! What can go wrong on the bulk lane, by operation.

use std::{io, net::SocketAddr, time::Duration};

use libp2p::PeerId;
use polymath_types::ErrorKind;
use quinn::rustls;

/// Why the endpoint did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BulkBindError {
    /// The port is not to be had.
    #[error(
        "cannot listen on UDP {addr} for bulk transfers: {source}; choose another port (0 takes a free one) or an address of this machine"
    )]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Keys or encryption could not be set up.
    #[error("the bulk endpoint could not be set up: {0}")]
    Setup(String),
}

impl From<rustls::Error> for BulkBindError {
    fn from(error: rustls::Error) -> Self {
        Self::Setup(error.to_string())
    }
}

impl BulkBindError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Listen { .. } => ErrorKind::FailedPrecondition,
            Self::Setup(_) => ErrorKind::Internal,
        }
    }
}

/// Why no ticket was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// The peer has enough.
    #[error(
        "peer {peer} has {limit} unused tickets for bulk transfers; use one, or wait {life:?} until they expire"
    )]
    PeerFull {
        /// The peer.
        peer: PeerId,
        /// How many it may have.
        limit: usize,
        /// How long they are good for.
        life: Duration,
    },
    /// All together have enough.
    #[error("all {limit} tickets for bulk transfers are out; try again within {life:?}")]
    Full {
        /// How many may be out.
        limit: usize,
        /// How long they are good for.
        life: Duration,
    },
    /// The peer is shut out of the mesh.
    #[error("peer {peer} is shut out: this mesh's admins have revoked it")]
    ShutOut {
        /// The peer.
        peer: PeerId,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes, so no ticket can be made")]
    NoChance,
}

impl TicketError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PeerFull { .. } | Self::Full { .. } => ErrorKind::ResourceExhausted,
            Self::ShutOut { .. } => ErrorKind::PermissionDenied,
            Self::NoChance => ErrorKind::Internal,
        }
    }
}

/// Why a peer is not connected for bulk transfers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BulkConnectError {
    /// The deadline passed first.
    #[error(
        "no bulk connection to peer {peer} at {addr} within {within:?}; UDP may be blocked on the way: use the mesh's own streams"
    )]
    Timeout {
        /// The peer wanted.
        peer: PeerId,
        /// Where.
        addr: SocketAddr,
        /// The deadline.
        within: Duration,
    },
    /// Nothing answers, or not in QUIC.
    #[error(
        "no bulk connection to peer {peer} at {addr}: {reason}; check the address, or use the mesh's own streams"
    )]
    Unreachable {
        /// The peer wanted.
        peer: PeerId,
        /// Where.
        addr: SocketAddr,
        /// What came of it.
        reason: String,
    },
    /// Another peer answers there.
    #[error("whoever answers at {addr} is not peer {peer}; ask the peer for its current address")]
    WrongPeer {
        /// The peer wanted.
        peer: PeerId,
        /// Where.
        addr: SocketAddr,
    },
    /// The endpoint belongs to another mesh, or speaks another version.
    #[error(
        "the bulk endpoint at {addr} belongs to another mesh or another version; ask the peer for its current address"
    )]
    AnotherMesh {
        /// Where.
        addr: SocketAddr,
    },
    /// The peer has issued no ticket to this node that is still good.
    #[error("peer {peer} has issued this node no ticket that is still good; ask it for a new one")]
    Stranger {
        /// The peer.
        peer: PeerId,
    },
    /// The ticket is not good.
    #[error(
        "peer {peer} refused the ticket: used before, expired, or another peer's; ask it for a new one"
    )]
    TicketRefused {
        /// The peer.
        peer: PeerId,
    },
    /// The peer refuses connections: it has no ticket out, or too many knock at once.
    #[error("peer {peer} expects no bulk connection now; ask it for a new ticket and try again")]
    NobodyExpected {
        /// The peer.
        peer: PeerId,
    },
    /// The peer has no place left.
    #[error(
        "peer {peer} has too many bulk connections; try again later, or use the mesh's own streams"
    )]
    PeerFull {
        /// The peer.
        peer: PeerId,
    },
    /// This node has no place left.
    #[error(
        "this node has {limit} bulk connections open; close one, or use the mesh's own streams"
    )]
    Full {
        /// How many there may be.
        limit: usize,
    },
    /// The peer is shut out of the mesh.
    #[error("no bulk connection to peer {peer}: this mesh's admins have revoked it")]
    ShutOut {
        /// The peer.
        peer: PeerId,
    },
    /// Encryption could not be set up.
    #[error(transparent)]
    Setup(#[from] BulkBindError),
    /// This endpoint has ended.
    #[error("the bulk endpoint of this node has stopped; restart the node")]
    Stopped,
}

impl BulkConnectError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Timeout { .. } => ErrorKind::DeadlineExceeded,
            Self::Unreachable { .. } | Self::WrongPeer { .. } | Self::Stopped => {
                ErrorKind::Unavailable
            }
            Self::AnotherMesh { .. } => ErrorKind::FailedPrecondition,
            Self::Stranger { .. }
            | Self::TicketRefused { .. }
            | Self::NobodyExpected { .. }
            | Self::ShutOut { .. } => ErrorKind::PermissionDenied,
            Self::PeerFull { .. } | Self::Full { .. } => ErrorKind::ResourceExhausted,
            Self::Setup(error) => error.kind(),
        }
    }
}

/// Why a transfer is not whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The connection is over, and every transfer on it.
    #[error(
        "the bulk connection to peer {peer} is over: {reason}; connect again with a new ticket"
    )]
    Lost {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// The peer was shut out of the mesh meanwhile, and its connections with it.
    #[error("peer {peer} is shut out: this mesh's admins have revoked it; use another peer")]
    ShutOut {
        /// The peer.
        peer: PeerId,
    },
    /// Nothing moved for too long.
    #[error("peer {peer} did nothing on this transfer for {within:?}; try again, or another peer")]
    Stalled {
        /// The peer.
        peer: PeerId,
        /// How long it had.
        within: Duration,
    },
    /// The peer ended the transfer.
    #[error("peer {peer} {reason}")]
    Ended {
        /// The peer.
        peer: PeerId,
        /// What it said.
        reason: String,
    },
    /// A header is longer than the bound.
    #[error("a transfer's header has {length} bytes, {limit} are allowed; put it in the body")]
    HeaderTooLong {
        /// Its length.
        length: u64,
        /// The bound.
        limit: u64,
    },
    /// A body is longer than this node takes.
    #[error("peer {peer} would send {length} bytes, this node takes {limit}; ask for less")]
    BodyTooLong {
        /// The peer.
        peer: PeerId,
        /// Its length as announced.
        length: u64,
        /// The bound.
        limit: u64,
    },
    /// The body ended early.
    #[error("the body ended after {found} of {said} bytes; transfer it again")]
    Truncated {
        /// The announced length.
        said: u64,
        /// What there was.
        found: u64,
    },
    /// The body goes on behind its announced end.
    #[error("the body goes on behind the {said} bytes announced; announce its whole length")]
    Excess {
        /// The announced length.
        said: u64,
    },
}

impl TransferError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lost { .. } => ErrorKind::Unavailable,
            Self::Stalled { .. } => ErrorKind::DeadlineExceeded,
            Self::ShutOut { .. } => ErrorKind::PermissionDenied,
            Self::Ended { .. } => ErrorKind::Cancelled,
            Self::HeaderTooLong { .. } => ErrorKind::InvalidInput,
            Self::BodyTooLong { .. } => ErrorKind::ResourceExhausted,
            Self::Truncated { .. } | Self::Excess { .. } => ErrorKind::DataLoss,
        }
    }

    /// Whether the connection is over too.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::ShutOut { .. })
    }
}
