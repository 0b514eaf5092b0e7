//! Bytes by connection and by relayed peer: counted below all protocols, limited for circuits.
//!
//! libp2p's relay bounds the bytes of one circuit only, and tells nobody how many flowed. Here every
//! substream is counted as it is read and written, and one whose first bytes negotiate the relay's hop
//! or stop protocol is charged to its peer's allowance: when that is used up the circuit breaks.

use std::{
    collections::{HashMap, VecDeque},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
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

use crate::counters::Counters;

/// Connections whose meters wait to be fetched, before dead ones are dropped.
const WAITING: usize = 1024;
/// Peers whose relayed bytes are remembered; beyond it the fullest allowances go, which lose nothing.
const LEDGERS: usize = 16_384;
/// First bytes of a substream that are searched for a protocol name.
const SNIFFED: usize = 96;
/// What only the relay's protocols have in their names (libp2p circuit relay v2).
const RELAY_MARK: &[u8] = b"/libp2p/circuit/relay/0.2.0/";

/// The bytes of one connection.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Meter {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
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
    counters: Arc<Counters>,
}

impl Meters {
    pub(crate) fn new(hourly: u64, counters: Arc<Counters>) -> Self {
        Self {
            waiting: Mutex::default(),
            ledgers: Mutex::default(),
            hourly,
            counters,
        }
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
    fn stream(&self, inner: SubstreamBox) -> MeteredStream {
        MeteredStream {
            inner,
            meter: self.meter.clone(),
            ledger: self.ledger.clone(),
            meters: self.meters.clone(),
            purpose: Purpose::Unknown(Vec::new()),
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
            .map_ok(|s| self.stream(s))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<MeteredStream>> {
        Pin::new(&mut self.inner)
            .poll_outbound(cx)
            .map_ok(|s| self.stream(s))
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
}

/// What a substream is for, as its first bytes tell.
enum Purpose {
    Unknown(Vec<u8>),
    Relayed,
    Other,
}

impl Purpose {
    /// Looks at the first bytes that flow, either way.
    fn sniff(&mut self, bytes: &[u8]) {
        let Self::Unknown(seen) = self else { return };
        seen.extend_from_slice(&bytes[..bytes.len().min(SNIFFED - seen.len())]);
        if seen.windows(RELAY_MARK.len()).any(|w| w == RELAY_MARK) {
            *self = Self::Relayed;
        } else if seen.len() >= SNIFFED {
            *self = Self::Other;
        }
    }
}

impl MeteredStream {
    /// Accounts for bytes that have flowed.
    fn account(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.purpose.sniff(bytes);
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

impl AsyncWrite for MeteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = written {
            self.meter.sent.fetch_add(n as u64, Relaxed);
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
    fn only_substreams_that_negotiate_the_relay_are_relayed() {
        let kind = |chunks: &[&[u8]]| {
            let mut purpose = Purpose::Unknown(Vec::new());
            for chunk in chunks {
                purpose.sniff(chunk);
            }
            matches!(purpose, Purpose::Relayed)
        };
        let hop: &[u8] = b"\x13/multistream/1.0.0\n\x20/libp2p/circuit/relay/0.2.0/hop\n";
        assert!(kind(&[hop]));
        assert!(kind(&[&hop[..25], &hop[25..]]));
        assert!(!kind(&[
            b"\x13/multistream/1.0.0\n\x20/polymath/aa/grpc/1\n",
            &[0; 200],
            RELAY_MARK
        ]));
    }
}
