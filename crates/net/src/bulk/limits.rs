//! Bounds on what the bulk lane can make this node hold.

use std::time::Duration;

/// What decides how many bytes may be under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Congestion {
    /// What the path has shown to deliver, whatever it loses by chance.
    #[default]
    Bottleneck,
    /// quinn's BBR, for comparison.
    Bbr,
}

/// Bounds on what the bulk lane can make this node hold.
///
/// In the worst case a connection holds [`receive_window`](Self::receive_window) of bytes nobody reads
/// and [`send_window`](Self::send_window) of bytes nobody acknowledges.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BulkLimits {
    /// Connections others have opened to this node.
    pub inbound: usize,
    /// Connections of one peer among them: a former one may not have ended yet.
    pub inbound_per_peer: usize,
    /// Connections this node has opened.
    pub outbound: usize,
    /// Inbound connections whose ticket has not been seen yet. From half of it on a peer must prove its
    /// address first, so that forged ones take no place.
    pub handshakes: usize,
    /// Those of one IPv4 address, or of one IPv6 network of 64 bits.
    pub handshakes_per_source: usize,
    /// How long handshake and ticket may take.
    pub handshake: Duration,
    /// Tickets issued and neither used nor expired.
    pub tickets: usize,
    /// Those of one peer.
    pub tickets_per_peer: usize,
    /// How long a ticket is good for.
    pub ticket_life: Duration,
    /// Longest header of a transfer, bytes; 64 KiB is the most the wire allows.
    pub header_bytes: usize,
    /// Longest body this node takes in, bytes. It is never held as a whole.
    pub body_bytes: u64,
    /// Transfers and calls a peer may have open on one connection.
    pub transfers: u32,
    /// Bytes taken in on one connection before they are read.
    pub receive_window: u32,
    /// The same, of a connection that a peer has opened: little where peers only ask.
    pub inbound_window: u32,
    /// The same, of one transfer.
    pub stream_window: u32,
    /// Bytes sent on one connection before they are acknowledged.
    pub send_window: u64,
    /// A connection without a transfer is closed after this.
    pub idle: Duration,
    /// A transfer on which the peer does nothing for this long has failed; so has one whose reader takes
    /// longer than this for what lies in its window at the end.
    pub stall: Duration,
    /// Largest UDP payload the path is probed for. Loopback and some local networks carry more than the
    /// 1,452 bytes of the internet.
    pub largest_datagram: u16,
    /// What decides how many bytes may be under way.
    pub congestion: Congestion,
}

impl Default for BulkLimits {
    fn default() -> Self {
        Self {
            inbound: 16,
            inbound_per_peer: 2,
            outbound: 16,
            handshakes: 32,
            handshakes_per_source: 8,
            handshake: Duration::from_secs(10),
            tickets: 256,
            tickets_per_peer: 8,
            ticket_life: Duration::from_secs(30),
            header_bytes: MAX_HEADER,
            body_bytes: 64 << 30,
            transfers: 16,
            receive_window: 32 << 20,
            inbound_window: 32 << 20,
            stream_window: 16 << 20,
            send_window: 32 << 20,
            idle: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            largest_datagram: 1452,
            congestion: Congestion::default(),
        }
    }
}

/// Longest header the wire allows, bytes.
pub(crate) const MAX_HEADER: usize = 64 * 1024;
/// A peer that answers nothing for this long is gone.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
/// A connection that waits is kept alive this often, far below [`SILENCE`]: a reader may take its time.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(8);
/// What a peer may send before its ticket is seen.
pub(super) const STRANGERS_WINDOW: u32 = 1024;
/// How long a farewell may take.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
/// Asked of the system for the socket, bytes each way: at 200 Mbit/s the usual 208 KiB are 8 ms, and a
/// busy machine looks away for longer.
pub(super) const SOCKET_BUFFER: usize = 4 << 20;
