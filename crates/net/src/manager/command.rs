//! What handles ask of the swarm task.

use libp2p::{Multiaddr, PeerId, kad::RecordKey};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{DhtError, DialError},
    streams::OpenRequest,
};

/// When a dial has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// As soon as the connection stands.
    Connected,
    /// When the peer has said that it belongs to this mesh.
    Identified,
}

#[derive(Debug)]
pub(crate) enum Command {
    /// Connect to an address, whoever is there.
    Dial {
        addr: Multiaddr,
        need: Need,
        reply: oneshot::Sender<Result<PeerId, DialError>>,
    },
    /// Connect to a member, wherever it is known to be.
    Connect {
        peer: PeerId,
        reply: oneshot::Sender<Result<PeerId, DialError>>,
    },
    /// Open a stream on the best connection. `anyone`: also to a peer not known as a member.
    Open {
        peer: PeerId,
        request: OpenRequest,
        anyone: bool,
    },
    /// Learn a peer's addresses from the DHT; answers whether any are known now.
    Find {
        peer: PeerId,
        reply: oneshot::Sender<bool>,
    },
    Provide {
        key: RecordKey,
        reply: oneshot::Sender<Result<(), DhtError>>,
    },
    StopProviding {
        key: RecordKey,
        reply: oneshot::Sender<()>,
    },
    /// Look for providers; they go into `found`, which is closed at the end.
    Providers {
        key: RecordKey,
        found: mpsc::Sender<PeerId>,
        reply: oneshot::Sender<Result<(), DhtError>>,
    },
    /// Whoever looked for providers has enough.
    Abandoned,
    Disconnect {
        peer: PeerId,
        reply: oneshot::Sender<()>,
    },
    /// A member announced itself on the local network.
    Discovered {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
    #[cfg(test)]
    Crash,
}
