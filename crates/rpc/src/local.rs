//! The same services as ordinary gRPC, for programs on this machine: over a Unix socket, and over TCP.
//!
//! What they may hold here has bounds, as what peers hold has: connections, calls on each, and the bytes of
//! requests, which share one [`Admission`] with those of peers.

mod connections;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use polymath_types::PeerId;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::http::{Request, Uri},
    service::{Routes, RoutesBuilder},
    transport::{Channel, Endpoint, Server, server::Connected},
};
use tower::{service_fn, util::MapRequestLayer};

use crate::{admission::Admission, body::RequestBody, methods::takes_a_stream};

pub use tonic_health::{ServingStatus, server::HealthReporter};

pub use connections::{Connection, Connections, Listener};

/// Calls at once on one connection.
const MOST_CALLS: u32 = 256;
/// Bytes of HTTP/2's preface.
const PREFACE: usize = 24;
/// Time to say them.
const MUTE: Duration = Duration::from_secs(10);
/// A connection that says nothing for this long is asked whether it is still there, and has as long to answer.
const SILENT: Duration = Duration::from_secs(30);

/// What is under way may take this long when it all ends.
const LINGER: Duration = Duration::from_secs(10);

/// Who answers programs on this machine, and what their requests may take.
#[derive(Debug, Clone)]
pub struct LocalCalls {
    /// The services.
    pub routes: Routes,
    /// Room for what arrives of requests.
    pub admission: Admission,
    /// As whom these programs take it: this node itself.
    pub peer: PeerId,
    /// Connections at once.
    pub connections: usize,
}

/// Serves them on an already bound socket, of Unix or TCP, until `cancel`.
pub async fn serve_local<L>(
    listener: L,
    local: LocalCalls,
    cancel: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    L: Listener,
    L::Io: Connected,
{
    let LocalCalls {
        routes,
        admission,
        peer,
        connections,
    } = local;
    let bounded = move |request: Request<Body>| {
        let streams = takes_a_stream(request.uri().path());
        request.map(|body| Body::new(RequestBody::new(body, streams, admission.clone(), peer)))
    };
    let ended = cancel.clone();
    let connections = Connections::new(listener, connections).greeting(PREFACE, MUTE);
    let serving = Server::builder()
        .max_concurrent_streams(MOST_CALLS)
        .http2_keepalive_interval(Some(SILENT))
        .http2_keepalive_timeout(Some(SILENT))
        .layer(MapRequestLayer::new(bounded))
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections.into_stream(), cancel.cancelled());
    tokio::select! {
        done = serving => done,
        // Some streams, as that of health, never end.
        () = async { ended.cancelled().await; tokio::time::sleep(LINGER).await } => Ok(()),
    }
}

/// Adds what clients without our `.proto` files need: reflection (versions 1 and 1alpha) and health,
/// which says that `services` serve until its reporter is told otherwise.
pub async fn describe(
    routes: &mut RoutesBuilder,
    services: &[&str],
) -> Result<HealthReporter, String> {
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
    Ok(reporter)
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
