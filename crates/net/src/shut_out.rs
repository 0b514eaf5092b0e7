//! Peers that are shut out: whoever decides membership names them, this crate keeps them out.
//!
//! One list serves all of this crate, and may change at any time. Who is newly on it is cut off at once, who
//! is no longer on it may come back at once.
//!
//! * [`ShutOut`] is the list. The bulk lane asks it for every ticket and ends connections by it.
//! * [`Behaviour`] keeps them from becoming connections of the swarm: no dial leaves, and what has passed the
//!   encryption ends before any protocol is spoken.
//! * [`manager::shut_out`](crate::manager) ends the connections there are.
//! * Who is shut out is told so, that its own user can see it: at the door of a closed mesh, and by
//!   [`turn_away`] where there is no door. [`Verdict`] is what this node was told itself.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::poll_fn,
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt},
        transport::PortUse,
    },
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use multistream_select::{Version, dialer_select_proto};
use tokio::{sync::watch, time::timeout};

/// The protocol's name within a mesh. There is nothing to send: that the stream is opened says it all.
pub(crate) const NAME: &str = "shut-out";
/// For a peer to take note that it is turned away, and for the last bytes to leave.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The peers that are shut out, shared by all that hold a clone.
#[derive(Debug, Clone, Default)]
pub struct ShutOut {
    peers: Arc<watch::Sender<Arc<HashSet<PeerId>>>>,
}

impl ShutOut {
    /// A list of these peers.
    pub fn new(peers: Arc<HashSet<PeerId>>) -> Self {
        Self {
            peers: Arc::new(watch::Sender::new(peers)),
        }
    }

    /// From now on these peers are shut out, and no others.
    pub fn set(&self, peers: Arc<HashSet<PeerId>>) {
        self.peers.send_if_modified(|known| {
            let changed = *known != peers;
            *known = peers;
            changed
        });
    }

    /// Whether this peer is.
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.peers.borrow().contains(peer)
    }

    /// Who is, now.
    pub fn peers(&self) -> Arc<HashSet<PeerId>> {
        self.peers.borrow().clone()
    }

    /// To be told of changes; the list as it is now counts as seen.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<HashSet<PeerId>>> {
        self.peers.subscribe()
    }

    /// Returns as soon as this peer is.
    pub(crate) async fn until_it_has(&self, peer: PeerId) {
        let mut changes = self.subscribe();
        // Its sender lives as long as `self`.
        let _ = changes.wait_for(|peers| peers.contains(&peer)).await;
    }
}

/// A connection with a peer that is shut out.
#[derive(Debug, thiserror::Error)]
#[error("peer {0} is shut out of this mesh")]
pub(crate) struct IsShutOut(pub(crate) PeerId);

/// Refuses connections with whoever is shut out, either way and by whatever path.
pub(crate) struct Behaviour(pub(crate) ShutOut);

impl Behaviour {
    fn check(&self, peer: PeerId) -> Result<(), ConnectionDenied> {
        if self.0.contains(&peer) {
            return Err(ConnectionDenied::new(IsShutOut(peer)));
        }
        Ok(())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(peer).map(|()| dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        peer.map_or(Ok(()), |peer| self.check(peer))
            .map(|()| Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(peer).map(|()| dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

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

/// Tells the peer at the other end of `muxer`, which has no door to be told at, that it is shut out, and
/// closes the connection.
pub(crate) async fn turn_away(mut muxer: StreamMuxerBox, protocol: StreamProtocol) {
    let say = async {
        let stream = poll_fn(|cx| {
            drive(&mut muxer, cx)?;
            muxer.poll_outbound_unpin(cx)
        })
        .await?;
        let mut talk = pin!(async {
            // Not lazily: the peer has taken note when its end comes.
            let negotiated = dialer_select_proto(stream, [protocol.as_ref()], Version::V1).await;
            let (_, mut stream) = negotiated?;
            stream.close().await?;
            stream.read(&mut [0]).await.map(drop)
        });
        poll_fn(|cx| match talk.as_mut().poll(cx) {
            Poll::Pending => {
                drive(&mut muxer, cx).map_or_else(|e| Poll::Ready(Err(e)), |()| Poll::Pending)
            }
            said => said,
        })
        .await
    };
    let _: Result<io::Result<()>, _> = timeout(LAST_WORD, say).await;
    let _ = timeout(LAST_WORD, muxer.close()).await;
}

/// Lets the connection make progress, until it waits.
pub(crate) fn drive(muxer: &mut StreamMuxerBox, cx: &mut Context<'_>) -> io::Result<()> {
    // What it tells is a changed address, of which nobody has been told an earlier one.
    while let Poll::Ready(told) = muxer.poll_unpin(cx) {
        told?;
    }
    Ok(())
}

/// Who has told this node last that it is shut out itself.
#[derive(Debug, Default)]
pub(crate) struct Verdict(Mutex<Option<PeerId>>);

impl Verdict {
    fn lock(&self) -> MutexGuard<'_, Option<PeerId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn told_by(&self, peer: PeerId) {
        *self.lock() = Some(peer);
    }

    /// A member let this node in: whoever said otherwise was wrong, or no longer says so.
    pub(crate) fn let_in(&self) {
        *self.lock() = None;
    }

    pub(crate) fn by(&self) -> Option<PeerId> {
        *self.lock()
    }
}
