//! Which way files go.
//!
//! The mesh's own streams are always there, and on a short way nothing is faster. On a long one the bulk
//! lane keeps the line full where a lost packet halves the speed of libp2p's QUIC; it needs a UDP port that
//! the taker can reach, and where it cannot the streams carry on.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use polymath_net::{
    Bulk, BulkArrival, BulkConnectError, BulkConnection, BulkLimits, Net, PeerInfo, Ticket,
};
use polymath_proto::v1;
use polymath_rpc as rpc;
use polymath_types::{ErrorKind, Failure, Format, NodeKey, PathKind, PeerId};
use prost::Message as _;
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Shelf;

/// Time for a connection; a port behind a firewall answers never.
const CONNECT: Duration = Duration::from_secs(3);
/// Peers whose port could not be reached, remembered as such for a while.
const MOST_UNREACHED: usize = 256;
const UNREACHED: Duration = Duration::from_secs(600);
/// A taker that reads nothing for so long has left its place to others.
const STALLED: Duration = Duration::from_secs(60);
/// Addresses tried.
const MOST_TRIED: usize = 2;

/// Members ask by this lane, and nothing else; answers are long.
fn limits() -> BulkLimits {
    let mut limits = BulkLimits::default();
    limits.inbound_window = 64 << 10;
    limits.header_bytes = 1024;
    limits.transfers = 4;
    limits.tickets_per_peer = 2;
    limits.send_window = 8 << 20;
    limits
}

/// The bulk lane of this node, whose port is opened when somebody first wants it; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BulkLane {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    net: Net,
    key: NodeKey,
    /// For this machine only.
    local: bool,
    port: u16,
    /// Round trip from which it is taken.
    from: Duration,
    bulk: OnceCell<Bulk>,
    /// Where giving has begun.
    giving: OnceCell<()>,
    unreached: Mutex<HashMap<PeerId, Instant>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl BulkLane {
    pub(crate) fn new(
        net: Net,
        key: NodeKey,
        config: &crate::config::Net,
        local: bool,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                net,
                key,
                local,
                port: config.bulk_port,
                from: Duration::from_millis(config.bulk_from_ms),
                bulk: OnceCell::new(),
                giving: OnceCell::new(),
                unreached: Mutex::default(),
                tasks: tasks.clone(),
                cancel: cancel.clone(),
            }),
        }
    }

    async fn bulk(&self) -> Result<&Bulk, Failure> {
        let inner = &self.inner;
        let opened = inner.bulk.get_or_try_init(|| async {
            let bind = |ip| {
                let addr = SocketAddr::new(ip, inner.port);
                let shut_out = inner.net.shut_out_list();
                Bulk::bind(&inner.key, inner.net.mesh(), addr, limits(), shut_out)
            };
            let bulk = if inner.local {
                bind(Ipv4Addr::LOCALHOST.into())?
            } else {
                // Both families in one socket, or the one there is.
                bind(Ipv6Addr::UNSPECIFIED.into())
                    .or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into()))?
            };
            let (stopping, cancel) = (bulk.clone(), inner.cancel.clone());
            inner.tasks.spawn(async move {
                cancel.cancelled().await;
                stopping.shutdown().await;
            });
            Ok(bulk)
        });
        let opened = opened.await;
        opened.map_err(|e: polymath_net::BulkBindError| {
            tracing::warn!("no bulk lane: {e}");
            Failure::new(e.kind(), e.to_string())
        })
    }

    /// Lets `peer` in once, to take from `shelf`; the port is where.
    pub(super) async fn ticket(
        &self,
        peer: PeerId,
        shelf: &Shelf,
    ) -> Result<(Ticket, u16), Failure> {
        let bulk = self.bulk().await?;
        let inner = &self.inner;
        let giving = inner.giving.get_or_init(|| async {
            let giving = give(
                bulk.clone(),
                inner.net.clone(),
                shelf.clone(),
                inner.tasks.clone(),
            );
            inner.tasks.spawn(giving);
        });
        giving.await;
        let port = bulk
            .local_addr()
            .map_err(|e| Failure::new(e.kind(), e.to_string()))?
            .port();
        let ticket = bulk.ticket(peer);
        let ticket =
            ticket.map_err(|e| Failure::new(ErrorKind::ResourceExhausted, e.to_string()))?;
        Ok((ticket, port))
    }

    /// Whether bytes from this peer should come by the bulk lane: it is reached directly, and far.
    pub(super) fn suits(&self, peer: &PeerInfo) -> bool {
        let direct = matches!(peer.path, PathKind::Direct | PathKind::HolePunched);
        let far = peer.rtt.is_some_and(|rtt| rtt >= self.inner.from);
        let mut unreached = self.unreached();
        unreached.retain(|_, since| since.elapsed() < UNREACHED);
        let known = peer.direct_ips().next().is_some();
        direct && far && known && !unreached.contains_key(&peer.peer)
    }

    /// Connects with a ticket that `peer` has issued. Where nothing answers it is not tried again soon.
    pub(super) async fn connect(
        &self,
        peer: &PeerInfo,
        ticket: &v1::TicketResponse,
    ) -> Result<BulkConnection, Failure> {
        let bytes = <[u8; Ticket::BYTES]>::try_from(&ticket.ticket[..]);
        let (Ok(bytes), Ok(port)) = (bytes, u16::try_from(ticket.port)) else {
            return Err(Failure::new(ErrorKind::Internal, "that is no ticket"));
        };
        let ticket = Ticket::from_bytes(bytes);
        let bulk = self.bulk().await?;
        let mut failure = Failure::new(ErrorKind::Unavailable, "the peer's address is not known");
        for ip in peer.direct_ips().take(MOST_TRIED) {
            let addr = SocketAddr::new(ip, port);
            match bulk.connect(peer.peer, addr, ticket.clone(), CONNECT).await {
                Ok(connection) => return Ok(connection),
                Err(
                    e @ (BulkConnectError::Timeout { .. } | BulkConnectError::Unreachable { .. }),
                ) => {
                    failure.message = e.to_string();
                }
                Err(e) => return Err(Failure::new(ErrorKind::Unavailable, e.to_string())),
            }
        }
        let mut unreached = self.unreached();
        if unreached.len() < MOST_UNREACHED {
            unreached.insert(peer.peer, Instant::now());
        }
        Err(failure)
    }

    fn unreached(&self) -> MutexGuard<'_, HashMap<PeerId, Instant>> {
        let unreached = self.inner.unreached.lock();
        unreached.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers everybody who got in, until the lane ends.
async fn give(bulk: Bulk, net: Net, shelf: Shelf, tasks: TaskTracker) {
    while let Some(connection) = bulk.accept().await {
        let (net, shelf, each) = (net.clone(), shelf.clone(), tasks.clone());
        tasks.spawn(async move {
            while let Ok(arrival) = connection.accept().await {
                let (net, shelf, peer) = (net.clone(), shelf.clone(), connection.peer());
                each.spawn(async move {
                    if let Err(failure) = answer(arrival, peer, &net, &shelf).await {
                        tracing::debug!(%peer, "a file was not given to its end: {}", failure.message);
                    }
                });
            }
        });
    }
}

async fn answer(
    arrival: BulkArrival,
    peer: PeerId,
    net: &Net,
    shelf: &Shelf,
) -> Result<(), Failure> {
    let lost = |e: polymath_net::TransferError| Failure::new(ErrorKind::Unavailable, e.to_string());
    let BulkArrival::Call(question, reply) = arrival else {
        return Err(Failure::new(
            ErrorKind::InvalidInput,
            "nobody asked for a file",
        ));
    };
    let request = v1::ReadFileRequest::decode(question.header().clone())
        .map_err(|e| Failure::new(ErrorKind::InvalidInput, e.to_string()))?;
    rpc::check_version(Format::Wire, request.version).map_err(|s| rpc::failure(&s))?;
    drop(question);
    let mut given = shelf.give(peer, &request).await?;
    let mut sender = reply.send(Bytes::new(), given.left).await.map_err(lost)?;
    let stalled = |_| Failure::new(ErrorKind::Unavailable, "the taker reads nothing");
    while let Some(mut piece) = given.next().await? {
        while !piece.is_empty() {
            let allowed = net.may_send(piece.len()).await;
            let sent = sender.write_chunk(piece.split_to(allowed));
            timeout(STALLED, sent)
                .await
                .map_err(stalled)?
                .map_err(lost)?;
        }
    }
    sender.finish().await.map_err(lost)
}
