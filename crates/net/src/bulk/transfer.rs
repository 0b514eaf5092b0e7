//! The two ends of a transfer.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures::FutureExt;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio::time::timeout;

use super::{
    close::{
        BODY_TOO_LONG, GIVEN_UP, HEADER_TOO_LONG, MALFORMED, NOT_AS_SAID, STALLED, stream_text,
    },
    connection::{Busy, Inner},
    error::TransferError,
    frame::{self, HeadError, Kind, TAKEN},
};

/// The sending end. Dropped before [`finish`](Self::finish) it gives the transfer up, which the
/// receiver is told.
pub struct BulkSender {
    busy: Busy,
    stream: SendStream,
    /// Where the receiver says that it has all; a call's answer says so by itself.
    verdict: Option<RecvStream>,
    length: u64,
    written: u64,
    ended: bool,
}

impl BulkSender {
    pub(super) fn new(busy: Busy, stream: SendStream, verdict: Option<RecvStream>) -> Self {
        Self {
            busy,
            stream,
            verdict,
            length: 0,
            written: 0,
            ended: false,
        }
    }

    pub(super) async fn begin(
        mut self,
        kind: Kind,
        header: Bytes,
        length: u64,
    ) -> Result<Self, TransferError> {
        let mut head = frame::head(kind, header, length)?;
        self.length = length;
        self.write(&mut head).await?;
        Ok(self)
    }

    /// Bytes of the body still to be written.
    pub fn remaining(&self) -> u64 {
        self.length - self.written
    }

    /// Sends a piece of the body, without copying it; returns when all of it is on its way or in this
    /// node's send window.
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), TransferError> {
        let size = chunk.len() as u64;
        if size > self.remaining() {
            self.give_up(NOT_AS_SAID);
            return Err(TransferError::Excess { said: self.length });
        }
        self.write(&mut [chunk]).await?;
        self.written += size;
        self.inner().counters.bytes_sent.add(size);
        Ok(())
    }

    async fn write(&mut self, mut chunks: &mut [Bytes]) -> Result<(), TransferError> {
        let stall = self.inner().limits.stall;
        while !chunks.is_empty() {
            let written = match timeout(stall, self.stream.write_chunks(chunks)).await {
                Ok(Ok(written)) => written,
                Ok(Err(error)) => return Err(self.failed(error)),
                Err(_) => {
                    self.give_up(STALLED);
                    return Err(self.inner().stalled());
                }
            };
            chunks = &mut chunks[written.chunks..];
        }
        Ok(())
    }

    /// Ends the body; returns when the reader at the other end has taken all of it. Of a call, and of
    /// the answer to one, it returns when the peer's machine has all: what the reader made of a
    /// question, its answer tells.
    pub async fn finish(mut self) -> Result<(), TransferError> {
        self.close()?;
        let stall = self.inner().limits.stall;
        let taken = async {
            let Some(verdict) = &mut self.verdict else {
                return match self.stream.stopped().await {
                    Ok(None) => Ok(()),
                    Ok(Some(code)) => Err(WriteError::Stopped(code)),
                    Err(StoppedError::ConnectionLost(e)) => Err(WriteError::ConnectionLost(e)),
                    Err(StoppedError::ZeroRttRejected) => Err(WriteError::ZeroRttRejected),
                };
            };
            let mut said = [0];
            match verdict.read_exact(&mut said).await {
                Ok(()) if said == [TAKEN] => Ok(()),
                Err(ReadExactError::ReadError(ReadError::ConnectionLost(e))) => {
                    Err(WriteError::ConnectionLost(e))
                }
                Err(ReadExactError::ReadError(ReadError::Reset(code))) => {
                    Err(WriteError::Stopped(code))
                }
                _ => Err(WriteError::Stopped(MALFORMED)),
            }
        };
        let Ok(taken) = timeout(stall, taken).await else {
            self.give_up(STALLED);
            self.inner().counters.transfers_broken.up();
            return Err(self.inner().stalled());
        };
        if let Err(error) = taken {
            self.inner().counters.transfers_broken.up();
            return Err(self.failed(error));
        }
        self.inner().counters.transfers_sent.up();
        Ok(())
    }

    /// Ends the body without waiting for the peer.
    pub(super) fn end(mut self) -> Result<(), TransferError> {
        self.close()?;
        self.inner().counters.transfers_sent.up();
        Ok(())
    }

    fn close(&mut self) -> Result<(), TransferError> {
        if self.remaining() > 0 {
            self.give_up(NOT_AS_SAID);
            return Err(TransferError::Truncated {
                said: self.length,
                found: self.written,
            });
        }
        self.ended = true;
        // Fails only where the peer has stopped the stream, which whoever waits will hear.
        let _ = self.stream.finish();
        Ok(())
    }

    fn inner(&self) -> &Inner {
        &self.busy.0
    }

    fn failed(&mut self, error: WriteError) -> TransferError {
        self.give_up(GIVEN_UP);
        match error {
            WriteError::ConnectionLost(error) => self.inner().lost(&error),
            WriteError::Stopped(code) => ended_by(self.inner(), code),
            other => TransferError::Ended {
                peer: self.inner().peer,
                reason: other.to_string(),
            },
        }
    }

    /// Once is enough.
    fn give_up(&mut self, code: VarInt) {
        if !std::mem::replace(&mut self.ended, true) {
            self.inner().counters.transfers_broken.up();
        }
        let _ = self.stream.reset(code);
    }
}

impl Drop for BulkSender {
    fn drop(&mut self) {
        if !self.ended {
            self.give_up(GIVEN_UP);
        }
    }
}

impl fmt::Debug for BulkSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkSender")
            .field("peer", &self.inner().peer)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// A transfer that a peer has begun.
#[derive(Debug)]
pub enum BulkArrival {
    /// Sent by [`BulkConnection::send`](super::BulkConnection::send).
    Transfer(BulkReceiver),
    /// A question, sent by [`BulkConnection::call`](super::BulkConnection::call) or
    /// [`ask`](super::BulkConnection::ask), and what answers it.
    Call(BulkReceiver, BulkReply),
}

impl BulkArrival {
    pub(super) async fn begin(
        inner: &Arc<Inner>,
        write: SendStream,
        read: RecvStream,
    ) -> Result<Self, TransferError> {
        let (kind, mut receiver) = BulkReceiver::begin(Busy::new(inner), read, Some(write)).await?;
        Ok(match (kind, receiver.verdict.take()) {
            (Kind::Call, Some(write)) => {
                let reply = BulkSender::new(Busy::new(inner), write, None);
                Self::Call(receiver, BulkReply(reply))
            }
            (_, verdict) => {
                receiver.verdict = verdict;
                Self::Transfer(receiver)
            }
        })
    }
}

/// The receiving end. Dropped before the whole body was read it tells the sender to stop.
pub struct BulkReceiver {
    busy: Busy,
    stream: RecvStream,
    /// Where the sender of a plain transfer is told that all is here.
    verdict: Option<SendStream>,
    header: Bytes,
    length: u64,
    read: u64,
    ended: bool,
}

impl BulkReceiver {
    async fn begin(
        busy: Busy,
        mut stream: RecvStream,
        mut verdict: Option<SendStream>,
    ) -> Result<(Kind, Self), TransferError> {
        let inner = &busy.0;
        let begun = Self::read_head(inner, &mut stream).await;
        let (kind, header, length) = begun.map_err(|(code, error)| {
            let refused = [HEADER_TOO_LONG, BODY_TOO_LONG].contains(&code);
            let counter = if refused {
                &inner.counters.transfers_refused
            } else {
                &inner.counters.transfers_broken
            };
            counter.up();
            let _ = stream.stop(code);
            if let Some(verdict) = &mut verdict {
                let _ = verdict.reset(code);
            }
            error
        })?;
        let receiver = Self {
            busy,
            stream,
            verdict,
            header,
            length,
            read: 0,
            ended: false,
        };
        Ok((kind, receiver))
    }

    /// Its kind, header and length, or what its sender is told and what its reader.
    async fn read_head(
        inner: &Inner,
        stream: &mut RecvStream,
    ) -> Result<(Kind, Bytes, u64), (VarInt, TransferError)> {
        let (limits, peer) = (&inner.limits, inner.peer);
        let ended = |reason: &str| TransferError::Ended {
            peer,
            reason: reason.to_owned(),
        };
        let head = timeout(limits.stall, frame::read_head(stream, limits.header_bytes)).await;
        let (kind, header, length) = match head {
            Err(_) => return Err((STALLED, inner.stalled())),
            Ok(Ok(head)) => head,
            Ok(Err(HeadError::TooLong { length })) => {
                let limit = limits.header_bytes as u64;
                return Err((
                    HEADER_TOO_LONG,
                    TransferError::HeaderTooLong { length, limit },
                ));
            }
            Ok(Err(HeadError::Kind(number))) => {
                let error = ended(&format!("began a transfer of the unknown kind {number}"));
                return Err((MALFORMED, error));
            }
            Ok(Err(HeadError::Read(error))) => {
                return Err(match error.downcast::<ReadError>() {
                    Ok(error) => (GIVEN_UP, broken(inner, error)),
                    // The stream ended.
                    Err(_) => (NOT_AS_SAID, ended("ended a transfer within its header")),
                });
            }
        };
        let limit = limits.body_bytes;
        if length > limit {
            let error = TransferError::BodyTooLong {
                peer,
                length,
                limit,
            };
            return Err((BODY_TOO_LONG, error));
        }
        Ok((kind, header, length))
    }

    /// What the peer says of the body.
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// The announced length of the body.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of it still to be read.
    pub fn remaining(&self) -> u64 {
        self.length - self.read
    }

    /// The next piece of the body, as it came from the socket: about a packet. The body is whole when
    /// this returns `None`, and not before.
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>, TransferError> {
        let mut one = [Bytes::new()];
        let read = self.read_chunks(&mut one).await?;
        let [chunk] = one;
        Ok((read > 0).then_some(chunk))
    }

    /// Fills `chunks` with the next pieces of the body, as many as are there and at least one; 0 says
    /// that the body is whole. Cheaper than one at a time.
    pub async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<usize, TransferError> {
        if self.ended || chunks.is_empty() {
            return Ok(0);
        }
        let stall = self.inner().limits.stall;
        let read = match timeout(stall, self.stream.read_chunks(chunks)).await {
            Ok(Ok(read)) => read.unwrap_or(0),
            Ok(Err(error)) => {
                self.give_up(GIVEN_UP);
                return Err(broken(self.inner(), error));
            }
            Err(_) => {
                self.give_up(STALLED);
                return Err(self.inner().stalled());
            }
        };
        let size = chunks.iter().take(read).map(|c| c.len() as u64).sum();
        if size > self.remaining() {
            self.give_up(NOT_AS_SAID);
            return Err(TransferError::Excess { said: self.length });
        }
        if read == 0 && self.remaining() > 0 {
            self.give_up(NOT_AS_SAID);
            return Err(TransferError::Truncated {
                said: self.length,
                found: self.read,
            });
        }
        self.read += size;
        let counters = &self.busy.0.counters;
        counters.bytes_received.add(size);
        if read == 0 {
            self.taken();
        }
        Ok(read)
    }

    fn inner(&self) -> &Inner {
        &self.busy.0
    }

    /// All is here, and the sender may know.
    fn taken(&mut self) {
        self.ended = true;
        self.busy.0.counters.transfers_received.up();
        if let Some(mut verdict) = self.verdict.take() {
            // One byte into a stream that carries no other: there is room. Dropping the stream ends
            // it, and a connection that is gone needs no verdict.
            let _ = verdict.write(&[TAKEN]).now_or_never();
        }
    }

    fn give_up(&mut self, code: VarInt) {
        if !std::mem::replace(&mut self.ended, true) {
            self.inner().counters.transfers_broken.up();
        }
        let _ = self.stream.stop(code);
        if let Some(mut verdict) = self.verdict.take() {
            let _ = verdict.reset(code);
        }
    }
}

impl Drop for BulkReceiver {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.remaining() > 0 {
            self.give_up(GIVEN_UP);
        } else {
            // Only that nothing more comes was not waited for.
            self.taken();
        }
    }
}

impl fmt::Debug for BulkReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkReceiver")
            .field("peer", &self.inner().peer)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// The answer to a call, before it has begun. Dropped, it tells the peer that nobody wants it.
pub struct BulkAnswer {
    busy: Busy,
    stream: RecvStream,
}

impl BulkAnswer {
    pub(super) fn new(busy: Busy, stream: RecvStream) -> Self {
        Self { busy, stream }
    }

    /// Returns when its header is there.
    pub async fn begin(self) -> Result<BulkReceiver, TransferError> {
        let (_, receiver) = BulkReceiver::begin(self.busy, self.stream, None).await?;
        Ok(receiver)
    }
}

impl fmt::Debug for BulkAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("BulkAnswer");
        f.field("peer", &self.busy.0.peer).finish_non_exhaustive()
    }
}

/// What answers a call. Dropped, it tells the peer that no answer comes.
#[derive(Debug)]
pub struct BulkReply(BulkSender);

impl BulkReply {
    /// Begins the answer.
    pub async fn send(self, header: Bytes, length: u64) -> Result<BulkSender, TransferError> {
        self.0.begin(Kind::Plain, header, length).await
    }
}

fn ended_by(inner: &Inner, code: VarInt) -> TransferError {
    TransferError::Ended {
        peer: inner.peer,
        reason: stream_text(code),
    }
}

fn broken(inner: &Inner, error: ReadError) -> TransferError {
    match error {
        ReadError::ConnectionLost(error) => inner.lost(&error),
        ReadError::Reset(code) => ended_by(inner, code),
        other => TransferError::Ended {
            peer: inner.peer,
            reason: other.to_string(),
        },
    }
}
