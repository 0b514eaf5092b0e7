//! One pooled HTTP/2 channel a peer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use polymath_net::{MeshStream, Net, OpenError};
use polymath_proto::v1::{catalog_client::CatalogClient, expert_client::ExpertClient};
use polymath_types::{ErrorKind, PathKind, PeerId};
use tokio::{sync::OnceCell, time::Instant};
use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::server::{CONNECTION_WINDOW, GRPC, PeerStream, STREAM_WINDOW};

/// Channels kept at once; the longest idle goes first.
const MOST_CHANNELS: usize = 512;
/// An idle channel's open stream keeps its connection alive, so it is dropped after this.
const IDLE: Duration = Duration::from_secs(90);
/// A broken channel's own reconnection attempts end after this.
const RECONNECT: Duration = Duration::from_secs(5);

/// Clients to peers; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients {
    net: Net,
    channels: Arc<Mutex<HashMap<PeerId, Pooled>>>,
}

#[derive(Debug)]
struct Pooled {
    /// Empty until the first caller has connected; the others of that moment wait for it, for a
    /// peer admits only a few streams.
    channel: Arc<OnceCell<Wired>>,
    used: Instant,
}

/// A channel, and how its connection ran when it was made.
#[derive(Debug, Clone)]
struct Wired {
    channel: Channel,
    path: PathKind,
}

/// Why a peer cannot be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No stream to the peer.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A stream, but no HTTP/2 on it in time.
    #[error("{peer} accepted the connection but did not speak gRPC: {why}")]
    Handshake {
        /// The peer.
        peer: PeerId,
        /// What happened.
        why: String,
    },
}

impl ConnectError {
    /// Its place in the taxonomy.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(e) => e.kind(),
            Self::Handshake { .. } => ErrorKind::Unavailable,
        }
    }
}

impl Clients {
    /// Clients over `net`.
    pub fn new(net: Net) -> Self {
        Self {
            net,
            channels: Arc::default(),
        }
    }

    /// A client of `peer`'s experts, connected within `within`.
    pub async fn expert(
        &self,
        peer: PeerId,
        within: Duration,
    ) -> Result<ExpertClient<Channel>, ConnectError> {
        Ok(ExpertClient::new(self.channel(peer, within).await?)
            .max_decoding_message_size(MAX_MESSAGE))
    }

    /// A client of `peer`'s catalog. It gets a channel of its own: a long-lived stream must not
    /// keep the pooled one from being reaped.
    pub async fn catalog(
        &self,
        peer: PeerId,
        within: Duration,
    ) -> Result<CatalogClient<Channel>, ConnectError> {
        Ok(
            CatalogClient::new(connect(&self.net, peer, within).await?.channel)
                .max_decoding_message_size(MAX_MESSAGE),
        )
    }

    /// Forgets the channel to a peer that went away.
    pub fn forget(&self, peer: &PeerId) {
        self.lock().remove(peer);
    }

    /// Drops channels that nobody used for a while.
    pub fn reap(&self) {
        self.lock().retain(|_, p| p.used.elapsed() < IDLE);
    }

    async fn channel(&self, peer: PeerId, within: Duration) -> Result<Channel, ConnectError> {
        let until = Instant::now() + within;
        let channel = self.pooled(peer);
        let connected = channel.get_or_try_init(|| {
            connect(
                &self.net,
                peer,
                until.saturating_duration_since(Instant::now()),
            )
        });
        match tokio::time::timeout_at(until, connected).await {
            Ok(connected) => Ok(connected?.channel.clone()),
            // Whoever was first took the time; had it been us, its own error would tell more.
            Err(_) => Err(ConnectError::Open(OpenError::Timeout {
                peer,
                protocol: GRPC.to_owned(),
                within,
            })),
        }
    }

    /// The peer's place in the pool. A channel through a relay is left to the calls on it as soon as
    /// there is a better path.
    fn pooled(&self, peer: PeerId) -> Arc<OnceCell<Wired>> {
        let mut channels = self.lock();
        let relayed = |p: &Pooled| p.channel.get().is_some_and(|w| w.path == PathKind::Relayed);
        if channels.get(&peer).is_some_and(relayed)
            && self
                .net
                .path_to(&peer)
                .is_some_and(|p| p != PathKind::Relayed)
        {
            channels.remove(&peer);
        }
        if let Some(pooled) = channels.get_mut(&peer) {
            pooled.used = Instant::now();
            return Arc::clone(&pooled.channel);
        }
        if channels.len() >= MOST_CHANNELS
            && let Some(oldest) = channels
                .iter()
                .min_by_key(|(_, p)| p.used)
                .map(|(id, _)| *id)
        {
            channels.remove(&oldest);
        }
        let channel = Arc::default();
        channels.insert(
            peer,
            Pooled {
                channel: Arc::clone(&channel),
                used: Instant::now(),
            },
        );
        channel
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PeerId, Pooled>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Largest message either side decodes: the longest question, and what is around it. Answers stream,
/// so a message is never a whole answer.
pub const MAX_MESSAGE: usize = 5 << 20;

async fn connect(net: &Net, peer: PeerId, within: Duration) -> Result<Wired, ConnectError> {
    let until = Instant::now() + within;
    // The first stream is opened here, so that its failure keeps its own type; later ones are
    // opened by the channel itself when the first breaks.
    let first = net.open(peer, GRPC, within).await?;
    let path = first.path();
    let first = Arc::new(Mutex::new(Some(first)));
    let net = net.clone();
    let connector = service_fn(move |_: Uri| {
        let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let net = net.clone();
        async move {
            let stream: MeshStream = match ready {
                Some(stream) => stream,
                None => net.open(peer, GRPC, RECONNECT).await?,
            };
            Ok::<_, OpenError>(TokioIo::new(PeerStream::new(stream)))
        }
    });
    let endpoint = Endpoint::from_static("http://mesh.invalid")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    match tokio::time::timeout_at(until, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(Wired { channel, path }),
        Ok(Err(e)) => Err(ConnectError::Handshake {
            peer,
            why: e.to_string(),
        }),
        Err(_) => Err(ConnectError::Handshake {
            peer,
            why: format!("nothing within {within:?}"),
        }),
    }
}
