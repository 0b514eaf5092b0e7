//! A connection for bulk transfers, and its end when nothing is transferred.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::PeerId;
use quinn::{Connection, RecvStream, SendStream};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Shared,
    close::{DONE, IDLE, SHUT_OUT, STOPPED, why_lost},
    counters::Counters,
    error::TransferError,
    frame::{self, Kind},
    limits::BulkLimits,
    transfer::{BulkAnswer, BulkArrival, BulkReceiver, BulkSender},
};
use crate::shut_out::ShutOut;

/// A connection to a peer for bulk transfers, either way and many at a time. Clones mean the same
/// connection. It ends when the last clone and the last transfer are dropped, or after
/// [`BulkLimits::idle`] without a transfer.
#[derive(Clone)]
pub struct BulkConnection {
    inner: Arc<Inner>,
}

/// What its transfers share.
pub(super) struct Inner {
    pub(super) connection: Connection,
    pub(super) peer: PeerId,
    pub(super) limits: BulkLimits,
    pub(super) counters: Arc<Counters>,
    shut_out: ShutOut,
    /// Transfers under way.
    busy: watch::Sender<usize>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.close(DONE, b"");
    }
}

/// A transfer under way, for as long as it is held.
pub(super) struct Busy(pub(super) Arc<Inner>);

impl Busy {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        inner.busy.send_modify(|n| *n += 1);
        Self(inner.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|n| *n = n.saturating_sub(1));
    }
}

impl BulkConnection {
    /// `place` is given back when the connection has ended.
    pub(super) fn new(
        shared: &Arc<Shared>,
        connection: Connection,
        peer: PeerId,
        place: impl Send + 'static,
    ) -> Self {
        let (busy, mut changes) = watch::channel(0);
        let (watched, shared_) = (connection.clone(), shared.clone());
        shared.tasks.spawn(async move {
            let idle = shared_.limits.idle;
            loop {
                let unused = *changes.borrow_and_update() == 0;
                tokio::select! {
                    _ = watched.closed() => break,
                    () = shared_.stop.cancelled() => {
                        watched.close(STOPPED, b"stopped");
                        break;
                    }
                    () = shared_.shut_out.until_it_has(peer) => {
                        watched.close(SHUT_OUT, b"shut out");
                        break;
                    }
                    changed = changes.changed() => if changed.is_err() { break },
                    () = sleep(idle), if unused => {
                        shared_.counters.connections_idle.up();
                        watched.close(IDLE, b"idle");
                        break;
                    }
                }
            }
            drop(place);
        });
        Self {
            inner: Arc::new(Inner {
                connection,
                peer,
                limits: shared.limits.clone(),
                counters: shared.counters.clone(),
                shut_out: shared.shut_out.clone(),
                busy,
            }),
        }
    }

    /// Who holds the other end, as its certificate proves.
    pub fn peer(&self) -> PeerId {
        self.inner.peer
    }

    /// Where it is.
    pub fn remote_addr(&self) -> SocketAddr {
        self.inner.connection.remote_address()
    }

    /// The round trip as estimated now.
    pub fn rtt(&self) -> Duration {
        self.inner.connection.rtt()
    }

    /// Packets lost on the way to the peer, and packets sent.
    pub fn loss(&self) -> (u64, u64) {
        let path = self.inner.connection.stats().path;
        (path.lost_packets, path.sent_packets)
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.inner.connection.close_reason().is_some()
    }

    /// Returns when it is over, and says why.
    pub async fn closed(&self) -> String {
        why_lost(&self.inner.connection.closed().await)
    }

    /// Ends it; transfers under way fail on both sides.
    pub fn close(&self) {
        self.inner.connection.close(DONE, b"");
    }

    /// Begins a transfer of `length` bytes; waits while the peer allows no more at a time.
    pub async fn send(&self, header: Bytes, length: u64) -> Result<BulkSender, TransferError> {
        let (busy, write, read) = self.open(&header).await?;
        let sender = BulkSender::new(busy, write, Some(read));
        sender.begin(Kind::Plain, header, length).await
    }

    /// Begins a transfer that the peer answers with another.
    pub async fn call(
        &self,
        header: Bytes,
        length: u64,
    ) -> Result<(BulkSender, BulkAnswer), TransferError> {
        let (busy, write, read) = self.open(&header).await?;
        let answer = BulkAnswer::new(Busy::new(&self.inner), read);
        let sender = BulkSender::new(busy, write, None);
        Ok((sender.begin(Kind::Call, header, length).await?, answer))
    }

    /// Asks with a header alone; the answer has begun when this returns.
    pub async fn ask(&self, header: Bytes) -> Result<BulkReceiver, TransferError> {
        let (sender, answer) = self.call(header, 0).await?;
        sender.end()?;
        answer.begin().await
    }

    async fn open(&self, header: &Bytes) -> Result<(Busy, SendStream, RecvStream), TransferError> {
        let inner = &self.inner;
        frame::check_header(header)?;
        let busy = Busy::new(inner);
        let opened = timeout(inner.limits.stall, inner.connection.open_bi()).await;
        let opened = opened.map_err(|_| inner.stalled())?;
        let (write, read) = opened.map_err(|e| inner.lost(&e))?;
        Ok((busy, write, read))
    }

    /// The next transfer or call that the peer begins. One with a header or body over this node's bounds
    /// is refused and counted. An error means that the connection is over.
    ///
    /// Dropped while it waits, it refuses a transfer whose header was arriving.
    pub async fn accept(&self) -> Result<BulkArrival, TransferError> {
        let inner = &self.inner;
        loop {
            let streams = inner.connection.accept_bi().await;
            let (write, read) = streams.map_err(|e| inner.lost(&e))?;
            match BulkArrival::begin(inner, write, read).await {
                Err(error) if !error.is_lost() => {
                    tracing::debug!(peer = %inner.peer, %error, "a bulk transfer was refused");
                }
                begun => return begun,
            }
        }
    }
}

impl fmt::Debug for BulkConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkConnection")
            .field("peer", &self.inner.peer)
            .field("remote", &self.remote_addr())
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn lost(&self, error: &quinn::ConnectionError) -> TransferError {
        if self.shut_out.contains(&self.peer) {
            return TransferError::ShutOut { peer: self.peer };
        }
        TransferError::Lost {
            peer: self.peer,
            reason: why_lost(error),
        }
    }

    pub(super) fn stalled(&self) -> TransferError {
        TransferError::Stalled {
            peer: self.peer,
            within: self.limits.stall,
        }
    }
}
