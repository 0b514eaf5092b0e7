//! A byte stream to a peer.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
};

use libp2p::PeerId;
use polymath_types::{PathKind, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::{
    compat::{Compat, FuturesAsyncReadCompatExt},
    sync::{CancellationToken, WaitForCancellationFutureOwned},
};

use crate::{link::Claim, shut_out::IsShutOut};

/// A byte stream to a peer, encrypted and authenticated: [`MeshStream::peer`] is who holds the
/// other end.
///
/// Opening is optimistic: that the peer does not speak the protocol, or had no room for the
/// stream, shows at the first read. A refused stream reads as an error over TCP and as an early
/// end over QUIC, so protocols on top must tell an early end from a finished message. Dropping a
/// stream without `shutdown` resets it over TCP and ends it over QUIC.
pub struct MeshStream {
    io: Compat<libp2p::Stream>,
    claim: Claim,
    /// One watch for each half: a split stream is polled from two tasks.
    read_lost: Watch,
    write_lost: Watch,
}

type Watch = Option<Pin<Box<WaitForCancellationFutureOwned>>>;

impl MeshStream {
    pub(super) fn new(io: libp2p::Stream, claim: Claim) -> Self {
        Self {
            io: io.compat(),
            claim,
            read_lost: None,
            write_lost: None,
        }
    }

    /// Who holds the other end.
    pub fn peer(&self) -> PeerId {
        self.claim.link().peer
    }

    /// How the connection under it runs.
    pub fn path(&self) -> PathKind {
        self.claim.link().path()
    }

    /// The address of the peer as this connection has it.
    pub(crate) fn remote(&self) -> &libp2p::Multiaddr {
        &self.claim.link().remote
    }

    /// The transport under it.
    pub fn transport(&self) -> Transport {
        self.claim.link().transport
    }

    /// Cancelled when the connection under this stream is closed or given up.
    pub fn connection_lost(&self) -> CancellationToken {
        self.claim.link().lost.clone()
    }

    /// What every operation ends with once the peer is shut out: what it has sent before is not read any
    /// more.
    fn shut_out(claim: &Claim) -> Option<io::Error> {
        let link = claim.link();
        link.shut_out.load(Relaxed).then(|| {
            let shut_out = IsShutOut(link.peer);
            io::Error::new(io::ErrorKind::PermissionDenied, shut_out)
        })
    }

    /// Whether the connection was given up while an operation waits. What has already arrived is
    /// read first, so this is asked only when the stream itself has nothing to say.
    fn poll_lost(claim: &Claim, watch: &mut Watch, cx: &mut Context<'_>) -> Poll<io::Error> {
        let watch =
            watch.get_or_insert_with(|| Box::pin(claim.link().lost.clone().cancelled_owned()));
        watch.as_mut().poll(cx).map(|()| {
            let peer = claim.link().peer;
            if let Some(error) = Self::shut_out(claim) {
                return error;
            }
            io::Error::new(
                io::ErrorKind::ConnectionReset,
                format!("the connection to peer {peer} was lost"),
            )
        })
    }

    fn poll_write_lost<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        Self::poll_lost(&self.claim, &mut self.write_lost, cx).map(Err)
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = Self::shut_out(&this.claim) {
            return Poll::Ready(Err(error));
        }
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Pending => Self::poll_lost(&this.claim, &mut this.read_lost, cx).map(Err),
            ready => ready,
        }
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(error) = Self::shut_out(&this.claim) {
            return Poll::Ready(Err(error));
        }
        match Pin::new(&mut this.io).poll_write(cx, buf) {
            Poll::Pending => this.poll_write_lost(cx),
            ready => ready,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = Self::shut_out(&this.claim) {
            return Poll::Ready(Err(error));
        }
        match Pin::new(&mut this.io).poll_flush(cx) {
            Poll::Pending => this.poll_write_lost(cx),
            ready => ready,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = Self::shut_out(&this.claim) {
            return Poll::Ready(Err(error));
        }
        match Pin::new(&mut this.io).poll_shutdown(cx) {
            Poll::Pending => this.poll_write_lost(cx),
            ready => ready,
        }
    }
}

impl fmt::Debug for MeshStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshStream")
            .field("peer", &self.peer())
            .field("path", &self.path())
            .field("transport", &self.transport())
            .finish_non_exhaustive()
    }
}
