//! tonic's HTTP/2 over one mesh stream: what HTTP/2 costs where ours are lanes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use polymath_net::{MeshStream, Net};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
};
use tonic::{codegen::http::Uri, transport::server::Connected};
use tower::service_fn;

use super::{
    Failure, PATIENCE, echo, failed,
    load::Side,
    mesh::Guest,
    tonic::{endpoint, http2_server},
};

const NAME: &str = "HTTP/2 on a stream";
/// Name of the streams.
const PROTOCOL: &str = "bench-http2";

pub(super) fn serve(on: &Handle, net: &Net) -> Result<(), Failure> {
    let streams = net.accept(PROTOCOL).map_err(|e| failed("streams", e))?;
    let incoming = streams.map(|s| Ok::<_, io::Error>(Http2Stream(s)));
    on.spawn(
        http2_server()
            .add_service(echo::service())
            .serve_with_incoming(incoming),
    );
    Ok(())
}

pub(super) async fn side(guest: &Guest) -> Result<Side, Failure> {
    let (net, server) = (guest.net.clone(), guest.server);
    let connector = service_fn(move |_: Uri| {
        let net = net.clone();
        async move {
            let stream = net.open(server, PROTOCOL, PATIENCE).await;
            let stream = stream.map_err(|e| io::Error::other(e.to_string()))?;
            Ok::<_, io::Error>(TokioIo::new(Http2Stream(stream)))
        }
    });
    let endpoint = endpoint("http://mesh.invalid".into())?;
    let channel = endpoint.connect_with_connector(connector).await;
    let clients = [echo::client(channel.map_err(|e| failed(NAME, e))?)];
    let callers = move |load| {
        let callers = echo::callers(&clients, load);
        async move { Ok(callers) }
    };
    Ok(Side::new(NAME, guest.transport, guest.control(), callers))
}

/// A mesh stream as tonic's HTTP/2 takes it.
struct Http2Stream(MeshStream);

impl Connected for Http2Stream {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
