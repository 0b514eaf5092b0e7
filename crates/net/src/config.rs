//! What a swarm is started with.

use std::time::Duration;

use libp2p::Multiaddr;
use polymath_types::{Genesis, NodeKey};

use crate::{door::Door, lab::Conditions, shut_out::ShutOut};

/// Whether others may rely on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Keeps a part of the DHT as soon as it listens somewhere.
    Server,
    /// Asks the DHT, never answers for it: a passing guest, or a node nobody can reach.
    Client,
}

/// What a swarm is started with.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// This node's identity.
    pub key: NodeKey,
    /// The mesh it belongs to.
    pub genesis: Genesis,
    /// Addresses to listen on; empty for a node that only dials. Port 0 takes a free one.
    pub listen: Vec<Multiaddr>,
    /// Its part in the DHT.
    pub role: Role,
    /// Whether to announce this node on the local network and to dial members announced there.
    pub local_discovery: bool,
    /// Whether to serve others as bootstrap, DHT server, relay and dial-back server, come what may.
    /// Without it a node offers the same as soon as it was dialled back on a global address.
    pub anchor: bool,
    /// Addresses under which others reach this node, on the word of whoever runs it.
    pub announce: Vec<Multiaddr>,
    /// Whether loopback stands for the internet: for tests of all this on one machine.
    pub loopback_is_internet: bool,
    /// The door of a closed mesh. With it nobody gets past the connection's first bytes who cannot
    /// prove to be a member or to be invited.
    pub door: Option<Door>,
    /// Peers to be kept out. The list may be changed at any time, here or by [`Net::shut_out`](crate::Net::shut_out).
    pub shut_out: ShutOut,
    /// Whether to ask the gateway for a port by UPnP.
    pub upnp: bool,
    /// `host:port` of an HTTP proxy to dial through (CONNECT).
    pub proxy: Option<String>,
    /// Program and version, told to peers; at most 128 bytes are sent.
    pub agent: String,
    /// Bounds.
    pub limits: NetLimits,
    /// How long provider records are kept unless renewed: the mesh must forget a dead expert. This
    /// node's own are renewed at a third of it.
    pub lease: Duration,
    /// Conditions imposed on every TCP connection, for simulations.
    pub lab: Conditions,
}

impl NetConfig {
    /// A serving node without local discovery, with default limits.
    pub fn new(key: NodeKey, genesis: Genesis, listen: Vec<Multiaddr>) -> Self {
        Self {
            key,
            genesis,
            listen,
            role: Role::Server,
            local_discovery: false,
            anchor: false,
            announce: Vec::new(),
            loopback_is_internet: false,
            door: None,
            shut_out: ShutOut::default(),
            upnp: false,
            proxy: None,
            agent: concat!("polymath/", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: NetLimits::default(),
            lease: PROVIDER_LEASE,
            lab: Conditions::default(),
        }
    }
}

/// Bounds on what the network can make this node hold.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NetLimits {
    /// Established connections. Idle ones are closed from seven eighths on; a quarter is reserved
    /// for connections this node opens itself, so that inbound ones cannot eclipse it.
    pub connections: u32,
    /// Connections without streams that are kept nevertheless; those unused for longest are closed
    /// first. Far fewer than `connections` leave room for the many short ones of DHT queries.
    pub idle_connections: u32,
    /// Connections with one peer: two transports, both sides dialling at once.
    pub connections_per_peer: u32,
    /// Connections being established, in each direction.
    pub pending_connections: u32,
    /// Inbound ones being established from one IPv4 address, or from one IPv6 network of 64 bits.
    pub pending_per_source: usize,
    /// Established inbound ones from one such source; many hosts may share an address.
    pub connections_per_source: usize,
    /// Reservations this node grants as a relay.
    pub reservations: usize,
    /// Circuits through this node at once, and those of one peer.
    pub circuits: usize,
    /// Circuits of one peer.
    pub circuits_per_peer: usize,
    /// Bytes relayed for one peer in an hour, both ways: a few conversations' worth many times over, and
    /// a model's weights now and then.
    pub relayed_bytes_per_hour: u64,
    /// Bytes written to mesh streams and relayed circuits in a second, all together; `None` for as many
    /// as go.
    pub upload: Option<u64>,
    /// Mesh streams on one connection, in each direction.
    pub streams_per_connection: u32,
    /// Inbound streams of one protocol that wait to be accepted; the next is reset.
    pub inbound_queue: usize,
    /// The same, from one peer.
    pub inbound_queue_per_peer: usize,
    /// Peers whose addresses are remembered.
    pub address_book: usize,
    /// Keys this node may provide.
    pub provided_keys: usize,
    /// Providers kept of one key; an answer names twenty of them at most, drawn by chance.
    pub providers_per_key: usize,
    /// Provider records kept for others, in total. One takes about 400 bytes with two addresses, and
    /// 2.5 KB at most.
    pub provider_records: usize,
    /// Provider records kept for others, from one peer.
    pub provider_records_per_peer: usize,
    /// DHT queries of this node's own under way.
    pub queries: usize,
    /// Members found on the local network that are dialled without being asked for.
    pub local_peers: usize,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            idle_connections: 448,
            connections_per_peer: 4,
            pending_connections: 128,
            pending_per_source: 32,
            connections_per_source: 128,
            reservations: 1024,
            circuits: 1024,
            circuits_per_peer: 64,
            relayed_bytes_per_hour: 2 << 30,
            upload: None,
            streams_per_connection: 256,
            inbound_queue: 256,
            inbound_queue_per_peer: 64,
            address_book: 4096,
            provided_keys: 1024,
            providers_per_key: 4096,
            provider_records: 32_768,
            provider_records_per_peer: 2048,
            queries: 256,
            local_peers: 64,
        }
    }
}

impl NetLimits {
    /// For a node whose work is to be connected with many: bootstrap, DHT server, relay.
    pub fn anchor() -> Self {
        Self {
            connections: 4096,
            idle_connections: 3584,
            pending_connections: 256,
            connections_per_source: 512,
            address_book: 16_384,
            ..Self::default()
        }
    }

    /// Established inbound connections: all but the quarter for our own.
    pub(crate) fn inbound(&self) -> u32 {
        self.connections - self.connections / 4
    }
}

/// Refused connections are logged at most this often.
pub(crate) const REFUSALS_TOLD: Duration = Duration::from_secs(60);
/// Commands that wait for the swarm task; senders wait when it is full.
pub(crate) const COMMAND_QUEUE: usize = 256;
/// Events a slow subscriber may lag behind.
pub(crate) const EVENT_QUEUE: usize = 256;
/// Callers that may wait for one peer to connect or identify itself.
pub(crate) const WAITERS_PER_PEER: usize = 1024;
/// Most providers one look-up returns.
pub(crate) const MAX_PROVIDERS: usize = 64;
/// Most addresses kept of one peer.
pub(crate) const MAX_ADDRESSES: usize = 16;
/// Longest agent string kept or sent, bytes.
pub(crate) const MAX_AGENT: usize = 128;

/// Transport, encryption and multiplexing must be done by then.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection nobody wants to keep is closed after this.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Every connection is pinged this often.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(3);
/// A connection without a pong for this long is dead: two pings lost in a row, and known within
/// ten seconds. libp2p's own ping reports only the second failure, which would take longer.
pub(crate) const SILENCE: Duration = Duration::from_millis(8500);
/// How long a peer of another mesh may stay to have its hello answered.
pub(crate) const FOREIGN_GRACE: Duration = Duration::from_secs(10);
/// How often the swarm task looks after silent peers, waiting queries and delayed announcements.
pub(crate) const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// See [`NetConfig::lease`].
const PROVIDER_LEASE: Duration = Duration::from_secs(30 * 60);
/// The whole routing table is looked up anew this often.
pub(crate) const BOOTSTRAP: Duration = Duration::from_secs(15 * 60);
/// One DHT query.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
