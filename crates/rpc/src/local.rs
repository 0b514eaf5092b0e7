//! The same services as ordinary gRPC, for programs on this machine: over a Unix socket, and over TCP.

use std::{
    io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    codegen::http::Uri,
    service::{Routes, RoutesBuilder},
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tower::service_fn;

/// Calls at once on one TCP connection.
const MOST_CALLS: u32 = 256;

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

/// Serves `routes` on an already bound TCP socket until `cancel`.
pub async fn serve_tcp(
    listener: TcpListener,
    routes: Routes,
    cancel: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .max_concurrent_streams(MOST_CALLS)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, cancel.cancelled())
        .await
}

/// Adds what clients without our `.proto` files need: reflection (versions 1 and 1alpha) and health,
/// which says that `services` serve.
pub async fn describe(routes: &mut RoutesBuilder, services: &[&str]) -> Result<(), String> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(polymath_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Those that are served, not all that are described.
    let reflection = || {
        let others = ["grpc.health.v1.Health"];
        let names = services.iter().chain(&others);
        names.fold(reflection(), |builder, name| {
            builder.with_service_name(*name)
        })
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in services.iter().chain(&[""]) {
        let serving = tonic_health::ServingStatus::Serving;
        reporter.set_service_status(service, serving).await;
    }
    let v1 = reflection().build_v1().map_err(|e| e.to_string())?;
    let v1alpha = reflection().build_v1alpha().map_err(|e| e.to_string())?;
    routes.add_service(health);
    routes.add_service(v1);
    routes.add_service(v1alpha);
    Ok(())
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
