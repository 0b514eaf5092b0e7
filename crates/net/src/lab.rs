//! Network conditions imposed on one node's TCP connections, so that simulations and benchmarks run
//! the daemon's own code over links of a known length. A daemon sets none.
//!
//! The whole round trip is added where the dialler reads, and once to the dial itself. Which half of
//! the way is slow cannot be told from either end: every exchange takes the time it should.

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{Multiaddr, core::ConnectedPoint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Bytes under way on one link; the sender waits when they have not arrived.
const UNDER_WAY: usize = 256 * 1024;
/// How far a sender may be ahead of a link of limited rate.
const BURST: Duration = Duration::from_millis(5);
/// Bytes taken from the socket at once.
const READ: usize = 16 * 1024;

/// The links of one node. Clones mean the same node.
#[derive(Clone)]
pub struct Conditions {
    rtt: Arc<dyn Fn(&Multiaddr) -> Duration + Send + Sync>,
    /// Bytes a second, each way.
    rate: Option<u64>,
    cut: Arc<AtomicBool>,
}

impl Conditions {
    /// Links whose round trip, added to the real one, is `rtt` of the address dialled.
    pub fn new(rtt: impl Fn(&Multiaddr) -> Duration + Send + Sync + 'static) -> Self {
        Self {
            rtt: Arc::new(rtt),
            rate: None,
            cut: Arc::default(),
        }
    }

    /// The same links, over which at most so many bytes a second pass each way.
    pub fn with_rate(self, bytes_per_second: u64) -> Self {
        Self {
            rate: Some(bytes_per_second.max(1)),
            ..self
        }
    }

    /// Pulls the plug: from now on nothing arrives and nothing leaves, and no connection is closed.
    pub fn cut(&self) {
        self.cut.store(true, Relaxed);
    }

    /// Lays `stream` out as a link of these conditions.
    pub(crate) async fn lay<S>(self, stream: S, point: ConnectedPoint) -> Link<S> {
        let rtt = match &point {
            ConnectedPoint::Dialer { address, .. } => (self.rtt)(address),
            ConnectedPoint::Listener { .. } => Duration::ZERO,
        };
        if !rtt.is_zero() {
            sleep(rtt).await;
        }
        let in_flight = self
            .rate
            .map_or(0.0, |rate| rate as f64 * rtt.as_secs_f64());
        Link {
            stream,
            cut: self.cut,
            rtt,
            // The listener's side is the real link.
            rate: self
                .rate
                .filter(|_| matches!(point, ConnectedPoint::Dialer { .. })),
            most: UNDER_WAY + in_flight as usize,
            free_in: Instant::now(),
            free_out: Instant::now(),
            may_send: Box::pin(sleep(Duration::ZERO)),
            under_way: VecDeque::new(),
            bytes: 0,
            ended: false,
            due: Box::pin(sleep(Duration::ZERO)),
        }
    }
}

impl Default for Conditions {
    /// The real links, as they are.
    fn default() -> Self {
        Self::new(|_| Duration::ZERO)
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conditions")
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}

/// When `n` more bytes have passed a link that is free at `free`.
fn passed(rate: Option<u64>, free: Instant, n: usize) -> Instant {
    let took = rate.map_or(Duration::ZERO, |rate| {
        Duration::from_secs_f64(n as f64 / rate as f64)
    });
    free.max(Instant::now()) + took
}

/// A stream whose bytes arrive late.
pub(crate) struct Link<S> {
    stream: S,
    cut: Arc<AtomicBool>,
    rtt: Duration,
    rate: Option<u64>,
    most: usize,
    /// When all that came before has passed the link, each way.
    free_in: Instant,
    free_out: Instant,
    may_send: Pin<Box<Sleep>>,
    /// What was sent, when it arrives, and how much of it has been read.
    under_way: VecDeque<(Instant, Vec<u8>, usize)>,
    bytes: usize,
    ended: bool,
    due: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + Unpin> Link<S> {
    /// Notes the time of everything that has come in.
    fn take_in(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut buffer = [0; READ];
        while !self.ended && self.bytes < self.most {
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(n)) => {
                    self.bytes += n;
                    self.free_in = passed(self.rate, self.free_in, n);
                    let arrives = self.free_in + self.rtt;
                    self.under_way.push_back((arrives, buffer[..n].to_vec(), 0));
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Link<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.cut.load(Relaxed) {
            return Poll::Pending;
        }
        if this.rtt.is_zero() && this.rate.is_none() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        this.take_in(cx)?;
        let Some((arrives, bytes, read)) = this.under_way.front_mut() else {
            return if this.ended {
                Poll::Ready(Ok(0))
            } else {
                Poll::Pending
            };
        };
        if *arrives > Instant::now() {
            if this.due.deadline() != *arrives {
                this.due.set(sleep_until(*arrives));
            }
            ready!(this.due.as_mut().poll(cx));
        }
        let rest = &bytes[*read..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        *read += n;
        this.bytes -= n;
        if *read == bytes.len() {
            this.under_way.pop_front();
        }
        Poll::Ready(Ok(n))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Link<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.cut.load(Relaxed) {
            return Poll::Ready(Ok(buffer.len()));
        }
        let this = &mut *self;
        if this.rate.is_some() && this.free_out > Instant::now() + BURST {
            let due = this.free_out - BURST;
            if this.may_send.deadline() != due {
                this.may_send.set(sleep_until(due));
            }
            ready!(this.may_send.as_mut().poll(cx));
        }
        let n = ready!(Pin::new(&mut this.stream).poll_write(cx, buffer))?;
        this.free_out = passed(this.rate, this.free_out, n);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p::core::{Endpoint, transport::PortUse};
    use tokio::time::timeout;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    #[tokio::test]
    async fn what_is_sent_arrives_whole_and_late_until_the_plug_is_pulled() {
        let rtt = Duration::from_millis(20);
        let conditions = Conditions::new(move |_| rtt);
        let (near, far) = tokio::io::duplex(64 * 1024);
        let mut far = far.compat();
        let point = ConnectedPoint::Dialer {
            address: "/ip4/127.0.0.1/tcp/1".parse().unwrap(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        };
        let began = Instant::now();
        let mut link = conditions.clone().lay(near.compat(), point).await;
        assert!(began.elapsed() >= rtt, "a dial takes one round trip");

        let sent: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
        far.write_all(&sent).await.unwrap();
        let mut got = vec![0; sent.len()];
        link.read_exact(&mut got).await.unwrap();
        assert_eq!(got, sent);
        assert!(began.elapsed() >= 2 * rtt);

        conditions.cut();
        far.write_all(b"lost").await.unwrap();
        link.write_all(b"lost too").await.unwrap();
        let (mut here, mut there) = ([0; 8], [0; 8]);
        let arrives = futures::future::select(link.read(&mut here), far.read(&mut there));
        assert!(timeout(3 * rtt, arrives).await.is_err());
    }
}
