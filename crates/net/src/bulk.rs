//! The bulk lane: large tensors and files between peers that reach each other directly.
//!
//! libp2p's QUIC knows one congestion control and hides its switches; on a long link that loses a
//! packet in a thousand it carries a small part of what the link could. This is a second QUIC
//! endpoint, on a UDP port of its own, tuned for bytes in quantity: [`Bottleneck`] in place of CUBIC,
//! windows for long links, AES-GCM, and buffers handed over as they are, from socket to consumer.
//!
//! * **Who gets in.** Both sides prove their peer id in the TLS handshake, as in libp2p. In that same
//!   handshake whoever holds no ticket is refused, before any stream is read. [`Bulk::ticket`] issues
//!   one: used once, bound to one peer, valid for seconds. It travels over a call on the mesh, so whoever
//!   has one is a member that was let in there.
//! * **What travels.** One stream a transfer: a short header, the body's length, the body. Lengths are
//!   checked before anything is allocated, a body that ends early or goes on too long is an error on
//!   both sides, and a slow reader slows its sender down.
//! * **Who uses it.** `node::files`, for model files from members far away.
//! * **What it does not do.** It punches no holes and is relayed by nobody: without a direct way the
//!   mesh's own streams carry what there is.
//!
//! [`Bottleneck`]: congestion::Bottleneck

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use libp2p::PeerId;
use polymath_types::{Format, MeshId, NodeKey};
use quinn::Endpoint;
use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod admission;
mod close;
mod congestion;
mod connection;
mod counters;
mod endpoint;
mod error;
pub(crate) mod frame;
pub(crate) mod limits;
mod ticket;
mod tls;
mod transfer;

pub use connection::BulkConnection;
pub use counters::BulkCounters;
pub use error::{BulkBindError, BulkConnectError, TicketError, TransferError};
pub use limits::{BulkLimits, Congestion};
pub use ticket::Ticket;
pub use transfer::{BulkAnswer, BulkArrival, BulkReceiver, BulkReply, BulkSender};

use crate::shut_out::ShutOut;
use counters::Counters;
use ticket::Tickets;
use tls::Identity;

/// A bulk endpoint, server and client at once. Clones are cheap and mean the same endpoint; it stops at
/// [`Bulk::shutdown`], or when the last clone is dropped.
#[derive(Clone)]
pub struct Bulk {
    shared: Arc<Shared>,
    stops: Arc<Stops>,
}

/// What its tasks share.
struct Shared {
    endpoint: Endpoint,
    local: PeerId,
    identity: Identity,
    transport: Arc<quinn::TransportConfig>,
    limits: BulkLimits,
    counters: Arc<Counters>,
    tickets: Arc<Tickets>,
    shut_out: ShutOut,
    /// Places for connections this node opens.
    outbound: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Ends the tasks when the last handle goes.
struct Stops {
    stop: CancellationToken,
    /// Admitted connections; one caller waits at a time.
    accepted: Mutex<mpsc::Receiver<BulkConnection>>,
}

impl Drop for Stops {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bulk {
    /// Takes a UDP port; port 0 takes a free one. Whoever is, or comes to be, on the list `shut_out` gets and
    /// keeps nothing here. Needs a running Tokio runtime.
    pub fn bind(
        key: &NodeKey,
        mesh: MeshId,
        addr: SocketAddr,
        limits: BulkLimits,
        shut_out: ShutOut,
    ) -> Result<Self, BulkBindError> {
        let counters = Arc::new(Counters::default());
        let tickets = Arc::new(Tickets::new(&limits, counters.clone(), shut_out.clone()));
        let identity = Identity::new(key, &protocol(mesh))?;
        let server = identity.server(tickets.clone())?;
        let transport = Arc::new(endpoint::transport(&limits));
        let endpoint = endpoint::open(addr, server, &limits)?;
        // As many as there are connections: then none is refused for this bound alone.
        let (queue, accepted) = mpsc::channel(limits.inbound.max(1));
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            outbound: Arc::new(Semaphore::new(limits.outbound)),
            endpoint,
            local: key.peer_id(),
            identity,
            transport,
            limits,
            counters,
            tickets,
            shut_out,
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        shared.tasks.spawn(admission::serve(shared.clone(), queue));
        Ok(Self {
            shared,
            stops: Arc::new(Stops {
                stop,
                accepted: Mutex::new(accepted),
            }),
        })
    }

    /// This node's id.
    pub fn local_peer(&self) -> PeerId {
        self.shared.local
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Result<SocketAddr, BulkBindError> {
        let addr = self.shared.endpoint.local_addr();
        addr.map_err(|e| BulkBindError::Setup(e.to_string()))
    }

    /// Lets `peer` connect once, within [`BulkLimits::ticket_life`].
    pub fn ticket(&self, peer: PeerId) -> Result<Ticket, TicketError> {
        self.shared.tickets.issue(peer, Instant::now())
    }

    /// Connects to `peer` at `addr` with a ticket it has issued to this node.
    pub async fn connect(
        &self,
        peer: PeerId,
        addr: SocketAddr,
        ticket: Ticket,
        within: Duration,
    ) -> Result<BulkConnection, BulkConnectError> {
        let shared = &self.shared;
        if shared.stop.is_cancelled() {
            return Err(BulkConnectError::Stopped);
        }
        if shared.shut_out.contains(&peer) {
            return Err(BulkConnectError::ShutOut { peer });
        }
        let place = shared.outbound.clone().try_acquire_owned();
        let place = place.map_err(|_| BulkConnectError::Full {
            limit: shared.limits.outbound,
        })?;
        let failed = |reason: String| BulkConnectError::Unreachable { peer, addr, reason };
        let mut config = shared.identity.client(peer)?;
        config.transport_config(shared.transport.clone());
        // The name is not looked at: the certificate proves a peer id.
        let connecting = shared.endpoint.connect_with(config, addr, "l");
        let connecting = connecting.map_err(|e| failed(e.to_string()))?;
        let knocking = async {
            let connection = connecting.await?;
            admission::hand_in(&connection, &ticket).await?;
            Ok(connection)
        };
        let connection = timeout(within, knocking)
            .await
            .map_err(|_| BulkConnectError::Timeout { peer, addr, within })?
            .map_err(|e| close::why_not_connected(peer, addr, e))?;
        shared.counters.connections_opened.up();
        Ok(BulkConnection::new(shared, connection, peer, place))
    }

    /// The next peer that has connected with a valid ticket; `None` when the endpoint has stopped.
    pub async fn accept(&self) -> Option<BulkConnection> {
        self.stops.accepted.lock().await.recv().await
    }

    /// What was refused so far.
    pub fn counters(&self) -> BulkCounters {
        self.shared.counters.snapshot()
    }

    /// Closes every connection and frees the port; transfers under way fail on both sides.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        // Peers hear of it; one that is gone does not hold this up for long.
        let _ = timeout(limits::FAREWELL, self.shared.endpoint.wait_idle()).await;
    }
}

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk")
            .field("local", &self.shared.local)
            .finish_non_exhaustive()
    }
}

/// What TLS negotiates: endpoints of another mesh or version share no protocol and never shake hands.
fn protocol(mesh: MeshId) -> String {
    format!("/polymath/{mesh}/bulk/{}", Format::Wire.current())
}

#[cfg(test)]
mod tests;
