//! What handles ask of the swarm task.

use std::sync::Arc;

use libp2p::{Multiaddr, PeerId, kad::RecordKey};
use tokio::sync::{mpsc, oneshot};

use crate::{
    dialback::Unconfirmed,
    error::{DhtError, DialError},
    link::Link,
    streams::OpenRequest,
    whereabouts::Whereabouts,
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
    /// Dial an address of a connected peer once more, on a connection of its own.
    DialBack {
        peer: PeerId,
        address: Multiaddr,
        reply: oneshot::Sender<Result<Arc<Link>, DialError>>,
    },
    /// Open a stream on exactly this connection.
    OpenOn {
        link: Arc<Link>,
        request: OpenRequest,
    },
    /// An address to have dialled back, and by whom; none while there is nothing to ask.
    NextProbe {
        reply: oneshot::Sender<Option<(PeerId, Multiaddr)>>,
    },
    /// What came of a probe.
    Probed {
        server: PeerId,
        address: Multiaddr,
        outcome: Result<(), Unconfirmed>,
    },
    /// A member told where it is.
    Told {
        peer: PeerId,
        message: Whereabouts,
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
