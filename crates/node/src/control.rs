//! The daemon's own API: on a Unix socket in its home, and as far as it harms nobody over TCP.

use std::{fs, io, os::unix::fs::PermissionsExt, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use polymath_proto::v1::{
    self, control_client::ControlClient, control_server, expert_server::ExpertServer,
};
use polymath_rpc as rpc;
use polymath_types::{ErrorKind, Failure, Format};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    service::RoutesBuilder,
    transport::{Channel, server::Connected},
};

use crate::{
    End, Entrance, Home, InviteTerms, Node, charter, dispatch::failure, home::io_failure,
    open_files,
};

/// Time a running daemon gets to answer at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for facts on their way to a diagnosis.
const LONGEST_DIAGNOSIS: Duration = Duration::from_secs(120);

/// A client of a running daemon.
pub type Control = ControlClient<Channel>;

/// Connects to the daemon that runs on the home; `None` when none does.
pub async fn connect(home: &Home) -> Result<Option<Control>, Failure> {
    let socket = home.control_socket()?;
    let silent = |_| {
        let pid = home.holder();
        Failure::new(
            ErrorKind::Unavailable,
            format!(
                "the node that runs on {} (pid {pid}) does not answer: end it with `kill -9 {pid}`, then start it again",
                home.dir().display()
            ),
        )
    };
    let connected = tokio::time::timeout(PATIENCE, rpc::connect_unix(&socket))
        .await
        .map_err(silent)?;
    match connected {
        Ok(channel) => {
            let mut client = ControlClient::new(channel).max_decoding_message_size(64 << 20);
            let status = client.status(v1::StatusRequest {
                version: Format::Control.current(),
            });
            let answered = tokio::time::timeout(PATIENCE, status)
                .await
                .map_err(silent)?;
            answered.map_err(|s| Node::control_failure(&s))?;
            Ok(Some(client))
        }
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(io_failure("reach the running node at", &socket, &e)),
    }
}

/// Binds the socket; the home's lock is held, so a file found there is a dead daemon's.
pub(crate) fn bind(home: &Home) -> Result<UnixListener, Failure> {
    unbind(home);
    let path = home.control_socket()?;
    let listener = UnixListener::bind(&path).map_err(|e| io_failure("listen on", &path, &e))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .map_err(|e| io_failure("protect", &path, &e))?;
    home.point_to(&path)?;
    Ok(listener)
}

/// Removes the socket of a daemon that ends, or that has died.
pub(crate) fn unbind(home: &Home) {
    if let Ok(path) = home.control_socket() {
        let _ = fs::remove_file(path);
    }
    home.point_nowhere();
}

pub(crate) async fn serve(node: Node, listener: UnixListener) {
    serve_on(node, listener, Access::Owner).await;
}

/// The same over TCP, where anybody on this machine can call.
pub(crate) async fn serve_tcp(node: Node, listener: TcpListener) {
    serve_on(node, listener, Access::Anybody).await;
}

async fn serve_on<L>(node: Node, listener: L, access: Access)
where
    L: rpc::Listener,
    L::Io: Connected,
{
    let cancel = node.inner.cancel.clone();
    let mut routes = RoutesBuilder::default();
    let expert = ExpertServer::new(node.inner.service.clone())
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(rpc::MAX_MESSAGE);
    routes.add_service(expert);
    let service = Service {
        node: node.clone(),
        access,
    };
    let control = control_server::ControlServer::new(service)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(rpc::MAX_MESSAGE);
    routes.add_service(control);
    match rpc::describe(&mut routes, &[CONTROL, EXPERT]).await {
        Ok(health) => node.inner.tasks.spawn(tell_health(node.clone(), health)),
        Err(e) => return tracing::error!("the gRPC API cannot be described: {e}"),
    };
    let local = rpc::LocalCalls {
        routes: routes.routes(),
        admission: node.inner.admission.clone(),
        peer: node.peer_id(),
        connections: open_files::local_connections(),
    };
    if let Err(e) = rpc::serve_local(listener, local, cancel).await {
        tracing::error!("the gRPC API stopped: {e}");
    }
}

/// Experts serve while one of them is loaded; all ends with the node.
async fn tell_health(node: Node, health: rpc::HealthReporter) {
    let hosted = &node.inner.service.hosted;
    let mut changes = hosted.changes();
    loop {
        let now = if hosted.ready().is_empty() {
            rpc::ServingStatus::NotServing
        } else {
            rpc::ServingStatus::Serving
        };
        health.set_service_status(EXPERT, now).await;
        tokio::select! {
            () = node.inner.cancel.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
        }
    }
    for service in ["", CONTROL, EXPERT] {
        let over = rpc::ServingStatus::NotServing;
        health.set_service_status(service, over).await;
    }
}

const CONTROL: &str = "polymath.v1.Control";
const EXPERT: &str = "polymath.v1.Expert";

/// Who can reach the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Whoever may read the home.
    Owner,
    /// Every program on this machine.
    Anybody,
}

struct Service {
    node: Node,
    access: Access,
}

impl Service {
    /// For what changes the node or tells its secrets.
    fn owner(&self) -> Result<(), Status> {
        match self.access {
            Access::Owner => Ok(()),
            Access::Anybody => Err(rpc::status(&Failure::new(
                ErrorKind::PermissionDenied,
                "that is the owner's to ask: call it on the Unix socket in the node's home, or use the polymath command",
            ))),
        }
    }
}

fn check(version: u32) -> Result<(), Status> {
    rpc::check_version(Format::Control, version)
}

#[tonic::async_trait]
impl control_server::Control for Service {
    type AskStream = Pin<Box<dyn Stream<Item = Result<v1::AskEvent, Status>> + Send>>;

    async fn ask(
        &self,
        request: Request<v1::AskRequest>,
    ) -> Result<Response<Self::AskStream>, Status> {
        check(request.get_ref().version)?;
        let left = rpc::timeout(&request).map(|left| left.as_millis().max(1));
        let mut request = request.into_inner();
        // 0 leaves it to the node.
        if let Some(left) = left.and_then(|left| u64::try_from(left).ok())
            && (request.timeout_ms == 0 || left < request.timeout_ms)
        {
            request.timeout_ms = left;
        }
        let events = ReceiverStream::new(self.node.ask(request)).flat_map(|event| {
            // A client in whatever language goes by the status.
            let status = match &event.event {
                Some(v1::ask_event::Event::Failed(failed)) => {
                    Some(Err(rpc::status(&failure(failed.clone()))))
                }
                _ => None,
            };
            futures::stream::iter([Ok(event)].into_iter().chain(status))
        });
        Ok(Response::new(events.boxed()))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        check(request.get_ref().version)?;
        Ok(Response::new(self.node.status()))
    }

    async fn peers(
        &self,
        request: Request<v1::PeersRequest>,
    ) -> Result<Response<v1::PeersResponse>, Status> {
        check(request.get_ref().version)?;
        Ok(Response::new(self.node.peers()))
    }

    async fn experts(
        &self,
        request: Request<v1::ExpertsRequest>,
    ) -> Result<Response<v1::ExpertsResponse>, Status> {
        check(request.get_ref().version)?;
        Ok(Response::new(self.node.experts()))
    }

    async fn rate(
        &self,
        request: Request<v1::RateRequest>,
    ) -> Result<Response<v1::RateResponse>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let v1::RateRequest {
            request_id, reward, ..
        } = request.into_inner();
        let rated = self.node.rate(&request_id, reward).await;
        Ok(Response::new(rated.map_err(|f| rpc::status(&f))?))
    }

    type RouteLogStream = Pin<Box<dyn Stream<Item = Result<v1::RoutedQuery, Status>> + Send>>;

    async fn route_log(
        &self,
        request: Request<v1::RouteLogRequest>,
    ) -> Result<Response<Self::RouteLogStream>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let all = self.node.inner.learning.all();
        let all = futures::stream::iter(all.into_iter().map(Ok));
        Ok(Response::new(all.boxed()))
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let request = request.get_ref();
        let outcome = async {
            let entrance = Entrance::parse(&request.address)?;
            self.node.join(&entrance, request.accept_public).await
        };
        let outcome = outcome.await.map_err(|f| rpc::status(&f))?;
        Ok(Response::new(outcome.into()))
    }

    async fn invite(
        &self,
        request: Request<v1::InviteRequest>,
    ) -> Result<Response<v1::InviteResponse>, Status> {
        self.owner()?;
        let request = request.into_inner();
        check(request.version)?;
        let terms = InviteTerms {
            expires_in: Some(request.expires_s).filter(|s| *s != 0),
            uses: Some(request.uses).filter(|n| *n != 0),
        };
        let invite = self.node.invite(terms).map_err(|f| rpc::status(&f))?;
        Ok(Response::new(v1::InviteResponse {
            invite: invite.to_string(),
            expires: invite.claims().expires.unwrap_or(0),
            uses: invite.claims().uses.unwrap_or(0),
            addresses: invite.addresses().to_vec(),
        }))
    }

    async fn sign_anchors(
        &self,
        request: Request<v1::SignAnchorsRequest>,
    ) -> Result<Response<v1::SignAnchorsResponse>, Status> {
        self.owner()?;
        let request = request.into_inner();
        check(request.version)?;
        let expires_in = Some(request.expires_s).filter(|s| *s != 0);
        let list = self
            .node
            .sign_anchors(request.addresses, expires_in)
            .map_err(|f| rpc::status(&f))?;
        Ok(Response::new(v1::SignAnchorsResponse {
            list: list.to_bytes().into(),
        }))
    }

    type DoctorStream = Pin<Box<dyn Stream<Item = Result<v1::DoctorEvent, Status>> + Send>>;

    async fn doctor(
        &self,
        request: Request<v1::DoctorRequest>,
    ) -> Result<Response<Self::DoctorStream>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let within = Duration::from_millis(request.get_ref().timeout_ms).min(LONGEST_DIAGNOSIS);
        let events = self.node.examined(within, Vec::new());
        Ok(Response::new(ReceiverStream::new(events).map(Ok).boxed()))
    }

    type CatalogRecordsStream =
        Pin<Box<dyn Stream<Item = Result<v1::CatalogRecord, Status>> + Send>>;

    async fn catalog_records(
        &self,
        request: Request<v1::CatalogRequest>,
    ) -> Result<Response<Self::CatalogRecordsStream>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let records = self.node.catalog_records().await;
        let records = records.map_err(|f| rpc::status(&f))?.into_iter();
        let records = records.map(|(name, bytes)| {
            let bytes = bytes.into();
            Ok(v1::CatalogRecord { name, bytes })
        });
        Ok(Response::new(futures::stream::iter(records).boxed()))
    }

    type CatalogWatchStream = Pin<Box<dyn Stream<Item = Result<v1::CatalogEvent, Status>> + Send>>;

    async fn catalog_watch(
        &self,
        request: Request<v1::CatalogRequest>,
    ) -> Result<Response<Self::CatalogWatchStream>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let events = self.node.watch_catalog();
        Ok(Response::new(ReceiverStream::new(events).map(Ok).boxed()))
    }

    async fn catalog_import(
        &self,
        request: Request<v1::CatalogImportRequest>,
    ) -> Result<Response<v1::CatalogImportResponse>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let taken = self.node.import_catalog(request.into_inner().frames).await;
        Ok(Response::new(taken.map_err(|f| rpc::status(&f))?))
    }

    async fn charter(
        &self,
        request: Request<v1::CharterRequest>,
    ) -> Result<Response<v1::CharterView>, Status> {
        check(request.get_ref().version)?;
        Ok(Response::new(charter::to_proto(&self.node.charter())))
    }

    async fn edit_charter(
        &self,
        request: Request<v1::EditCharterRequest>,
    ) -> Result<Response<v1::EditCharterResponse>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let edited = self.node.edit_charter(request.into_inner().edit).await;
        Ok(Response::new(edited.map_err(|f| rpc::status(&f))?))
    }

    async fn own_experts(
        &self,
        request: Request<v1::OwnExpertsRequest>,
    ) -> Result<Response<v1::OwnExpertsResponse>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let experts = self.node.own_experts().map_err(|f| rpc::status(&f))?;
        Ok(Response::new(v1::OwnExpertsResponse { experts }))
    }

    async fn edit_expert(
        &self,
        request: Request<v1::EditExpertRequest>,
    ) -> Result<Response<v1::EditExpertResponse>, Status> {
        self.owner()?;
        let request = request.into_inner();
        check(request.version)?;
        let edited = self
            .node
            .edit_expert(request.edit.unwrap_or_default())
            .await;
        let expert = Some(edited.map_err(|f| rpc::status(&f))?);
        Ok(Response::new(v1::EditExpertResponse { expert }))
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRequest>,
    ) -> Result<Response<v1::PauseResponse>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        let changed = self.node.pause(request.get_ref().paused);
        let changed = changed.map_err(|f| rpc::status(&f))?;
        Ok(Response::new(v1::PauseResponse { changed }))
    }

    async fn shutdown(
        &self,
        request: Request<v1::ShutdownRequest>,
    ) -> Result<Response<v1::ShutdownResponse>, Status> {
        self.owner()?;
        check(request.get_ref().version)?;
        self.node.stop(End::Stopped);
        Ok(Response::new(v1::ShutdownResponse {}))
    }
}

/// A failed call to the daemon, in words.
impl Node {
    /// Turns a status of the control API into a failure.
    pub fn control_failure(status: &Status) -> Failure {
        let failure = rpc::failure(status);
        if failure.kind == ErrorKind::Unavailable && failure.message.contains("transport") {
            return Failure::new(
                ErrorKind::Unavailable,
                "the running node went away in the middle of the call: see its log, then start it again with `polymath up`",
            );
        }
        failure
    }
}
