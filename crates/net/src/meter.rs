//! Bytes by connection and by relayed peer: counted below all protocols, limited for circuits.
//!
//! libp2p's relay bounds the bytes of one circuit only, and tells nobody how many flowed. Here every
//! substream is counted as it is read and written, and one on which this node has agreed to the relay's hop
//! protocol, or has asked for its stop protocol, is charged to its peer's allowance: when that is used up
//! the circuit breaks. By the same look a mesh stream is known: what is written to those and to circuits
//! keeps to the operator's limit on upload, while pings, the DHT and the talk about addresses do not wait.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        ConnectedPoint,
        muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox},
    },
};

use crate::{
    config::NetLimits,
    counters::Counters,
    names::is_mesh_stream,
    upload::{Turn, Upload},
};

/// Connections whose meters wait to be fetched, before dead ones are dropped.
const WAITING: usize = 1024;
/// Peers whose relayed bytes are remembered; beyond it the fullest allowances go, which lose nothing.
const LEDGERS: usize = 16_384;
/// Longest line of a negotiation (multistream-select 1.0) that is looked at.
const LINE: usize = 256;
/// The relay's protocols (libp2p circuit relay v2): on a substream that a peer has opened to this node, and
/// on one that this node has opened to a peer.
const HOP: &[u8] = b"/libp2p/circuit/relay/0.2.0/hop";
const STOP: &[u8] = b"/libp2p/circuit/relay/0.2.0/stop";

/// The bytes of one connection.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
    circuits: AtomicU32,
}

impl Meter {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Circuits of others that run over it now.
    pub(crate) fn circuits(&self) -> u32 {
        self.circuits.load(Relaxed)
    }
}

/// What one peer may have relayed: a bucket that fills at a steady rate.
#[derive(Debug)]
struct Ledger(Mutex<Allowance>);

#[derive(Debug)]
struct Allowance {
    left: u64,
    at: Instant,
}

/// Meters that wait to be fetched, by whom the connection is with and where it leads.
type Waiting = HashMap<(PeerId, Multiaddr), VecDeque<Weak<Meter>>>;

/// Meters of new connections, and the ledgers of relayed peers.
#[derive(Debug)]
pub(crate) struct Meters {
    waiting: Mutex<Waiting>,
    ledgers: Mutex<HashMap<PeerId, Arc<Ledger>>>,
    /// Bytes each peer may have relayed in an hour.
    hourly: u64,
    /// What may be written to peers; nothing when the operator sets no limit.
    upload: Option<Arc<Upload>>,
    counters: Arc<Counters>,
}

impl Meters {
    pub(crate) fn new(limits: &NetLimits, counters: Arc<Counters>) -> Self {
        Self {
            upload: limits.upload.map(|rate| Arc::new(Upload::new(rate))),
            waiting: Mutex::default(),
            ledgers: Mutex::default(),
            hourly: limits.relayed_bytes_per_hour,
            counters,
        }
    }

    /// Waits until some of `bytes` may be sent, and says how many.
    pub(crate) async fn may_send(&self, bytes: usize) -> usize {
        let Some(upload) = self.upload.as_ref().filter(|_| bytes > 0) else {
            return bytes;
        };
        let mut turn = upload.turn(bytes);
        if turn.is_delayed() {
            self.counters.uploads_delayed.up();
        }
        let allowed = poll_fn(|cx| turn.poll(cx)).await.min(bytes);
        drop(turn.after(allowed));
        allowed
    }

    /// Counts everything on `muxer` from now on.
    pub(crate) fn measure(
        self: &Arc<Self>,
        peer: PeerId,
        endpoint: &ConnectedPoint,
        muxer: StreamMuxerBox,
    ) -> StreamMuxerBox {
        let meter = Arc::new(Meter::default());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING {
            waiting.retain(|_, meters| meters.iter().any(|m| m.strong_count() > 0));
        }
        waiting
            .entry((peer, endpoint.get_remote_address().clone()))
            .or_default()
            .push_back(Arc::downgrade(&meter));
        drop(waiting);
        StreamMuxerBox::new(Metered {
            inner: muxer,
            meter,
            ledger: self.ledger(peer),
            meters: self.clone(),
        })
    }

    /// The meter of a connection that has just been established.
    pub(crate) fn fetch(&self, peer: PeerId, remote: &Multiaddr) -> Arc<Meter> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (peer, remote.clone());
        let Some(meters) = waiting.get_mut(&key) else {
            return Arc::default();
        };
        let found = loop {
            match meters.pop_front().map(|m| m.upgrade()) {
                Some(Some(meter)) => break Some(meter),
                Some(None) => {}
                None => break None,
            }
        };
        if meters.is_empty() {
            waiting.remove(&key);
        }
        found.unwrap_or_default()
    }

    fn ledger(&self, peer: PeerId) -> Arc<Ledger> {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        if ledgers.len() >= LEDGERS && !ledgers.contains_key(&peer) {
            let now = Instant::now();
            ledgers
                .retain(|_, l| Arc::strong_count(l) > 1 || l.left(now, self.hourly) < self.hourly);
        }
        ledgers
            .entry(peer)
            .or_insert_with(|| Arc::new(Ledger::new(self.hourly)))
            .clone()
    }
}

impl Ledger {
    fn new(hourly: u64) -> Self {
        Self(Mutex::new(Allowance {
            left: hourly,
            at: Instant::now(),
        }))
    }

    fn left(&self, now: Instant, hourly: u64) -> u64 {
        let mut allowance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.fill(now, hourly);
        allowance.left
    }

    /// Takes `bytes` off; `false` when there were not so many.
    fn charge(&self, bytes: u64, now: Instant, hourly: u64) -> bool {
        let mut allowance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.fill(now, hourly);
        let covered = allowance.left >= bytes;
        allowance.left = allowance.left.saturating_sub(bytes);
        covered
    }
}

impl Allowance {
    fn fill(&mut self, now: Instant, hourly: u64) {
        const HOUR: Duration = Duration::from_secs(3600);
        let since = now.saturating_duration_since(self.at);
        let earned = (u128::from(hourly) * since.as_millis() / HOUR.as_millis())
            .try_into()
            .unwrap_or(u64::MAX);
        // Small steps must not be lost to rounding.
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(hourly);
            self.at = now;
        }
    }
}

struct Metered {
    inner: StreamMuxerBox,
    meter: Arc<Meter>,
    ledger: Arc<Ledger>,
    meters: Arc<Meters>,
}

impl Metered {
    fn stream(&self, inner: SubstreamBox, relayed: &'static [u8]) -> MeteredStream {
        MeteredStream {
            inner,
            meter: self.meter.clone(),
            ledger: self.ledger.clone(),
            meters: self.meters.clone(),
            purpose: Purpose::Unknown(Vec::new()),
            relayed,
            turn: None,
        }
    }
}

impl StreamMuxer for Metered {
    type Substream = MeteredStream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<MeteredStream>> {
        Pin::new(&mut self.inner)
            .poll_inbound(cx)
            .map_ok(|s| self.stream(s, HOP))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<MeteredStream>> {
        Pin::new(&mut self.inner)
            .poll_outbound(cx)
            .map_ok(|s| self.stream(s, STOP))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

struct MeteredStream {
    inner: SubstreamBox,
    meter: Arc<Meter>,
    ledger: Arc<Ledger>,
    meters: Arc<Meters>,
    purpose: Purpose,
    /// The protocol that would make it part of a circuit.
    relayed: &'static [u8],
    /// Bytes that may be written next, where upload is limited.
    turn: Option<Turn>,
}

/// What a substream is for.
enum Purpose {
    /// What this node has written of the negotiation, from the last line that is not whole yet.
    Unknown(Vec<u8>),
    Relayed,
    /// Calls and whatever else rooms above have streams for.
    Mesh,
    /// What keeps the network going.
    Other,
}

impl Purpose {
    /// Looks at what this node writes first: the protocol that it asks for, or agrees to. What a peer
    /// proposes before, however often, decides nothing. Whether that is `relayed`.
    fn wrote(&mut self, bytes: &[u8], relayed: &[u8]) -> bool {
        let Self::Unknown(seen) = self else {
            return false;
        };
        for byte in bytes {
            seen.push(*byte);
            match line(seen) {
                Line::Part => {}
                Line::Whole(b"/multistream/1.0.0" | b"na") => seen.clear(),
                Line::Whole(name) if name == relayed => {
                    *self = Self::Relayed;
                    return true;
                }
                Line::Whole(name) if is_mesh_stream(name) => {
                    *self = Self::Mesh;
                    return false;
                }
                Line::Whole(_) | Line::Odd => {
                    *self = Self::Other;
                    return false;
                }
            }
        }
        false
    }
}

enum Line<'a> {
    Part,
    Whole(&'a [u8]),
    Odd,
}

/// A line of a negotiation: its length as a varint, the text, a line feed that counts.
fn line(seen: &[u8]) -> Line<'_> {
    let (length, text) = match seen {
        [low, text @ ..] if *low < 0x80 => (usize::from(*low), text),
        [low, high, text @ ..] => (usize::from(*low & 0x7f) | (usize::from(*high) << 7), text),
        _ => return Line::Part,
    };
    match text.split_last() {
        _ if length == 0 || length > LINE => Line::Odd,
        Some((b'\n', name)) if text.len() == length => Line::Whole(name),
        _ if text.len() >= length => Line::Odd,
        _ => Line::Part,
    }
}

impl Drop for MeteredStream {
    fn drop(&mut self) {
        if matches!(self.purpose, Purpose::Relayed) {
            self.meter.circuits.fetch_sub(1, Relaxed);
        }
    }
}

impl MeteredStream {
    /// Accounts for bytes that have flowed.
    fn account(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !matches!(self.purpose, Purpose::Relayed) {
            return Ok(());
        }
        let counters = &self.meters.counters;
        counters.relayed_bytes.add(bytes.len() as u64);
        if self
            .ledger
            .charge(bytes.len() as u64, Instant::now(), self.meters.hourly)
        {
            return Ok(());
        }
        counters.circuits_over_quota.up();
        Err(io::Error::new(
            io::ErrorKind::QuotaExceeded,
            "the peer has used up what is relayed for it in an hour",
        ))
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(Ok(n)) = read {
            self.meter.received.fetch_add(n as u64, Relaxed);
            self.account(&buf[..n])?;
        }
        read
    }
}

impl MeteredStream {
    /// How many of `bytes` may be written now.
    fn poll_turn(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<usize> {
        let Some(upload) = &self.meters.upload else {
            return Poll::Ready(bytes);
        };
        if !matches!(self.purpose, Purpose::Relayed | Purpose::Mesh) || bytes == 0 {
            return Poll::Ready(bytes);
        }
        let counters = &self.meters.counters;
        let turn = self.turn.get_or_insert_with(|| {
            let turn = upload.turn(bytes);
            if turn.is_delayed() {
                counters.uploads_delayed.up();
            }
            turn
        });
        turn.poll(cx).map(|allowed| allowed.min(bytes))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let allowed = std::task::ready!(self.poll_turn(cx, buf.len()));
        let buf = &buf[..allowed];
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = written {
            self.turn = self.turn.take().and_then(|turn| turn.after(n));
            self.meter.sent.fetch_add(n as u64, Relaxed);
            let relayed = self.relayed;
            if self.purpose.wrote(&buf[..n], relayed) {
                self.meter.circuits.fetch_add(1, Relaxed);
            }
            self.account(&buf[..n])?;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_spent_and_fills_again() {
        let begun = Instant::now();
        let ledger = Ledger::new(3600);
        assert!(ledger.charge(3600, begun, 3600));
        assert!(!ledger.charge(1, begun, 3600));
        let later = Instant::now() + Duration::from_secs(11);
        assert!(ledger.charge(10, later, 3600));
        assert!(!ledger.charge(3000, later, 3600));
        assert_eq!(ledger.left(later + Duration::from_secs(9000), 3600), 3600);
    }

    #[test]
    fn the_protocol_that_this_node_agrees_to_decides() {
        let kind = |chunks: &[&[u8]], relayed| {
            let mut purpose = Purpose::Unknown(Vec::new());
            let count = chunks.iter().filter(|c| purpose.wrote(c, relayed)).count();
            assert_eq!(count, usize::from(matches!(purpose, Purpose::Relayed)));
            matches!(purpose, Purpose::Relayed)
        };
        let hop: &[u8] = b"\x13/multistream/1.0.0\n\x20/libp2p/circuit/relay/0.2.0/hop\n";
        assert!(kind(&[hop], HOP));
        assert!(kind(&[&hop[..25], &hop[25..], b"more"], HOP));
        // This node uses a relay itself.
        assert!(!kind(&[hop], STOP));
        let stop: &[u8] = b"\x13/multistream/1.0.0\n\x21/libp2p/circuit/relay/0.2.0/stop\n";
        assert!(kind(&[stop], STOP));
        // A peer that first proposes what nobody speaks, a hundred times.
        let mut refused = vec![&hop[..20]];
        refused.extend(vec![&b"\x03na\n"[..]; 100]);
        refused.push(&hop[20..]);
        assert!(kind(&refused, HOP));
        for other in [
            &b"\x13/multistream/1.0.0\n\x16/polymath/aa/grpc/1\n\0"[..],
            b"\xff\xff",
            b"\0",
        ] {
            assert!(!kind(&[other, hop], HOP));
        }
    }

    #[test]
    fn streams_of_calls_are_told_from_those_of_upkeep() {
        let is_mesh = |lines: &[u8]| {
            let mut purpose = Purpose::Unknown(Vec::new());
            purpose.wrote(lines, HOP);
            matches!(purpose, Purpose::Mesh)
        };
        assert!(is_mesh(
            b"\x13/multistream/1.0.0\n\x14/polymath/aa/grpc/1\n\0"
        ));
        for upkeep in [
            &b"\x13/multistream/1.0.0\n\x13/polymath/aa/kad/1\n\0"[..],
            b"\x13/multistream/1.0.0\n\x12/polymath/hello/1\n",
            b"\x13/multistream/1.0.0\n\x11/ipfs/ping/1.0.0\n",
        ] {
            assert!(!is_mesh(upkeep));
        }
    }
}
