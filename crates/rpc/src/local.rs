//! The same services over a Unix socket, for programs on this machine.

use std::{
    io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    codegen::http::Uri,
    service::Routes,
    transport::{Channel, Endpoint, Server},
};
use tower::service_fn;

/// Serves `routes` on an already bound Unix socket until `cancel`.
pub async fn serve_unix(
    listener: UnixListener,
    routes: Routes,
    cancel: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), cancel.cancelled())
        .await
}

/// A channel to whoever listens on the socket; an error when nobody does.
pub async fn connect_unix(path: &Path) -> io::Result<Channel> {
    // Connect once by hand: the error is then the plain one of the operating system.
    drop(UnixStream::connect(path).await?);
    let path: PathBuf = path.to_owned();
    Endpoint::from_static("http://control.invalid")
        .connect_with_connector(service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        }))
        .await
        .map_err(io::Error::other)
}
