//! Why a connection or a stream is closed: the codes on the wire, and what they mean to whoever sees them.

use std::net::SocketAddr;

use libp2p::PeerId;
use quinn::{ConnectionError, ReadExactError, TransportErrorCode, VarInt, WriteError};

use super::error::BulkConnectError;

/// Codes that close a connection.
pub(super) const DONE: VarInt = VarInt::from_u32(0);
pub(super) const TICKET_REFUSED: VarInt = VarInt::from_u32(1);
pub(super) const FULL: VarInt = VarInt::from_u32(2);
pub(super) const IDLE: VarInt = VarInt::from_u32(3);
pub(super) const STOPPED: VarInt = VarInt::from_u32(4);
pub(super) const SHUT_OUT: VarInt = VarInt::from_u32(5);

/// Codes that reset or stop a stream.
pub(super) const GIVEN_UP: VarInt = VarInt::from_u32(16);
pub(super) const HEADER_TOO_LONG: VarInt = VarInt::from_u32(17);
pub(super) const BODY_TOO_LONG: VarInt = VarInt::from_u32(18);
pub(super) const NOT_AS_SAID: VarInt = VarInt::from_u32(19);
pub(super) const STALLED: VarInt = VarInt::from_u32(20);
pub(super) const MALFORMED: VarInt = VarInt::from_u32(21);

/// TLS alerts (RFC 8446, section 6) as QUIC reports them.
const ACCESS_DENIED: u8 = 49;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// What a stream's code says of the peer, after "the peer".
pub(super) fn stream_text(code: VarInt) -> String {
    match code {
        GIVEN_UP => "gave the transfer up".into(),
        MALFORMED => "knows no such kind of transfer".into(),
        HEADER_TOO_LONG => "takes no header of this length".into(),
        BODY_TOO_LONG => "takes no body of this length".into(),
        NOT_AS_SAID => "found the body shorter or longer than said".into(),
        STALLED => "waited for more in vain".into(),
        other => format!("ended the transfer with code {other}"),
    }
}

/// What happened before a connection was ready.
#[derive(Debug)]
pub(super) enum Broken {
    Connection(ConnectionError),
    /// The stream of the ticket ended otherwise than by its connection.
    Stream(String),
}

impl From<ConnectionError> for Broken {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Connection(error),
            other => Self::Stream(other.to_string()),
        }
    }
}

impl From<ReadExactError> for Broken {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error)) => {
                Self::Connection(error)
            }
            other => Self::Stream(other.to_string()),
        }
    }
}

/// The caller's view of it.
pub(super) fn why_not_connected(
    peer: PeerId,
    addr: SocketAddr,
    broken: Broken,
) -> BulkConnectError {
    let unreachable = |reason: String| BulkConnectError::Unreachable { peer, addr, reason };
    let error = match broken {
        Broken::Connection(error) => error,
        Broken::Stream(reason) => return unreachable(reason),
    };
    let alert = |alert| TransportErrorCode::crypto(alert);
    match error {
        ConnectionError::ApplicationClosed(close) => match close.error_code {
            TICKET_REFUSED => BulkConnectError::TicketRefused { peer },
            FULL => BulkConnectError::PeerFull { peer },
            other => unreachable(format!("it closed the connection with code {other}")),
        },
        ConnectionError::ConnectionClosed(close) => match close.error_code {
            TransportErrorCode::CONNECTION_REFUSED => BulkConnectError::NobodyExpected { peer },
            code if code == alert(ACCESS_DENIED) => BulkConnectError::Stranger { peer },
            code if code == alert(NO_APPLICATION_PROTOCOL) => {
                BulkConnectError::AnotherMesh { addr }
            }
            _ => unreachable(close.to_string()),
        },
        ConnectionError::TransportError(error) if error.code == alert(ACCESS_DENIED) => {
            BulkConnectError::WrongPeer { peer, addr }
        }
        ConnectionError::TimedOut => unreachable("it does not answer".into()),
        ConnectionError::LocallyClosed => BulkConnectError::Stopped,
        other => unreachable(other.to_string()),
    }
}

/// Why a connection that worked is over.
pub(super) fn why_lost(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => match close.error_code {
            DONE => "the peer closed it".into(),
            IDLE => "the peer closed it as idle".into(),
            STOPPED => "the peer has stopped".into(),
            SHUT_OUT => "the peer shuts this node out: this mesh's admins have revoked it".into(),
            other => format!("the peer closed it with code {other}"),
        },
        ConnectionError::LocallyClosed => "closed here".into(),
        ConnectionError::TimedOut => "the peer fell silent".into(),
        other => other.to_string(),
    }
}
