//! Serving tonic's routes to peers over mesh streams.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::StreamExt;
use polymath_net::{AcceptError, MeshStream, Net};
use polymath_types::{PathKind, PeerId, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};
use tower::util::MapRequestLayer;

use crate::{
    admission::{Admission, Place},
    upload::with_deadline,
};

/// Name of the stream protocol that carries gRPC.
pub const GRPC: &str = "grpc";

/// Windows: what a sender may have in flight, and what a reader that falls behind must buffer. A
/// prompt or a frame of the catalog is far smaller, and [`Admission`] bounds how many there are.
pub(crate) const STREAM_WINDOW: u32 = 2 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 4 << 20;
/// Calls at once on one mesh stream.
const CALLS_A_STREAM: u32 = 128;

/// Who is on the other side of a call, as the connection's handshake proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The peer.
    pub peer: PeerId,
    /// How it is connected.
    pub path: PathKind,
    /// The transport under the connection.
    pub transport: Transport,
}

/// Serves `routes` to every peer of the mesh until `cancel`; calls in flight are then finished.
/// Streams for which `admission` has no place are dropped.
pub async fn serve(
    net: &Net,
    routes: Routes,
    admission: Admission,
    cancel: CancellationToken,
) -> Result<(), ServeError> {
    let incoming = net.accept(GRPC)?.filter_map(move |stream| {
        let place = admission.admit(stream.peer());
        std::future::ready(place.map(|p| Ok::<_, Infallible>(PeerStream::admitted(stream, p))))
    });
    Server::builder()
        .layer(MapRequestLayer::new(with_deadline))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CALLS_A_STREAM)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, cancel.cancelled())
        .await?;
    Ok(())
}

/// Why peers cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The mesh does not hand us streams.
    #[error("cannot accept calls from peers: {0}")]
    Accept(#[from] AcceptError),
    /// tonic gave up.
    #[error("the gRPC server to peers stopped: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A mesh stream that tonic can serve or dial over.
pub(crate) struct PeerStream {
    stream: MeshStream,
    caller: Caller,
    /// Of a stream that a peer opened.
    _place: Option<Place>,
}

impl PeerStream {
    pub(crate) fn new(stream: MeshStream) -> Self {
        let caller = Caller {
            peer: stream.peer(),
            path: stream.path(),
            transport: stream.transport(),
        };
        Self {
            stream,
            caller,
            _place: None,
        }
    }

    fn admitted(stream: MeshStream, place: Place) -> Self {
        Self {
            _place: Some(place),
            ..Self::new(stream)
        }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
