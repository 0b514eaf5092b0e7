//! A QUIC stream that was ended is not let go before the other side has agreed to its protocol.
//!
//! Streams are negotiated optimistically: whoever opens one sends its proposal and its message together,
//! and may end and drop the stream without having read the answer. Over QUIC a dropped stream tells the
//! other side at once to stop sending (RFC 9000, section 3.5), and a listener that cannot send its
//! consent any more fails the negotiation and throws the message away. So identify's pushes, what
//! members tell of where they are, and the DHT's announcements were lost. Here such a stream is read
//! until the consent has come, out of its user's sight. Over yamux a dropped stream is no reset while
//! the other side has not ended it, so there is nothing to do.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

/// Ended streams of one connection that wait for consent. One more ends the oldest: a peer that agrees
/// to nothing holds no more than this.
const MOST: usize = 64;

/// Streams that nobody holds any more.
struct Ended<S> {
    streams: Mutex<(Vec<Waiting<S>>, Option<Waker>)>,
}

struct Waiting<S> {
    stream: S,
    consent: Consent,
}

impl<S> Ended<S> {
    fn lock(&self) -> MutexGuard<'_, (Vec<Waiting<S>>, Option<Waker>)> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, waiting: Waiting<S>) {
        let (oldest, waker) = {
            let (streams, waker) = &mut *self.lock();
            let full = streams.len() >= MOST;
            let oldest = full.then(|| streams.remove(0));
            streams.push(waiting);
            (oldest, waker.take())
        };
        drop(oldest);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A connection whose dropped streams linger.
pub(crate) struct Lingering<M: StreamMuxer> {
    inner: M,
    ended: Arc<Ended<M::Substream>>,
}

impl<M: StreamMuxer> Lingering<M> {
    pub(crate) fn new(inner: M) -> Self {
        let streams = Mutex::new((Vec::new(), None));
        Self {
            inner,
            ended: Arc::new(Ended { streams }),
        }
    }

    fn stream(&self, inner: M::Substream, consent: Consent) -> Stream<M::Substream> {
        Stream {
            inner: Some(inner),
            consent,
            closed: false,
            ended: self.ended.clone(),
        }
    }
}

impl<M> StreamMuxer for Lingering<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: Unpin,
{
    type Substream = Stream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        // Whoever listens has nothing to wait for: its own consent has left before all else.
        Pin::new(&mut self.inner)
            .poll_inbound(cx)
            .map_ok(|s| self.stream(s, Consent::given()))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        Pin::new(&mut self.inner)
            .poll_outbound(cx)
            .map_ok(|s| self.stream(s, Consent::default()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        let done: Vec<_> = {
            let (streams, waker) = &mut *self.ended.lock();
            *waker = Some(cx.waker().clone());
            streams.extract_if(.., |w| w.is_over(cx)).collect()
        };
        drop(done);
        Pin::new(&mut self.inner).poll(cx)
    }
}

impl<S: AsyncRead + Unpin> Waiting<S> {
    /// Reads on; whether there is nothing left to wait for.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let mut bytes = [0; 256];
        while !self.consent.is_complete() {
            match Pin::new(&mut self.stream).poll_read(cx, &mut bytes) {
                Poll::Pending => return false,
                Poll::Ready(Ok(read @ 1..)) => self.consent.read(&bytes[..read]),
                Poll::Ready(_) => return true,
            }
        }
        true
    }
}

/// How much of the listener's answer has been read: two lines (multistream-select 1.0), its own header
/// and the protocol it agrees to, or `na`. Each begins with its length as a varint.
#[derive(Debug, Default, Clone, Copy)]
struct Consent {
    lines: u8,
    /// Bits of the length that were read.
    shift: u32,
    length: u32,
    /// The length is known, and so many bytes are left of its line.
    inside: bool,
}

impl Consent {
    const LINES: u8 = 2;
    /// No line is as long; what looks like one is no negotiation.
    const LONGEST: u32 = 1 << 14;

    fn given() -> Self {
        Self {
            lines: Self::LINES,
            ..Self::default()
        }
    }

    fn is_complete(self) -> bool {
        self.lines >= Self::LINES
    }

    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.is_complete() {
                return;
            }
            if self.inside {
                self.length -= 1;
            } else {
                self.length |= u32::from(byte & 0x7f) << self.shift;
                self.shift += 7;
                if byte & 0x80 != 0 {
                    if self.length >= Self::LONGEST || self.shift >= 21 {
                        *self = Self::given();
                    }
                    continue;
                }
                self.inside = true;
            }
            if self.length == 0 {
                *self = Self {
                    lines: self.lines + 1,
                    ..Self::default()
                };
            }
        }
    }
}

/// A stream that lingers, if need be, once it is dropped.
pub(crate) struct Stream<S> {
    /// There until it is dropped.
    inner: Option<S>,
    consent: Consent,
    /// Ended by its user; one that was not is broken off, and that must show at once.
    closed: bool,
    ended: Arc<Ended<S>>,
}

impl<S> Drop for Stream<S> {
    fn drop(&mut self) {
        if !self.closed || self.consent.is_complete() {
            return;
        }
        if let Some(stream) = self.inner.take() {
            let consent = self.consent;
            self.ended.push(Waiting { stream, consent });
        }
    }
}

impl<S: Unpin> Stream<S> {
    fn inner(&mut self) -> io::Result<Pin<&mut S>> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.inner.as_mut().map(Pin::new).ok_or_else(gone)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = self.inner()?.poll_read(cx, bytes);
        match &read {
            Poll::Ready(Ok(read @ 1..)) => self.consent.read(&bytes[..*read]),
            // The end, or an error: there will be no more.
            Poll::Ready(_) if !bytes.is_empty() => self.consent = Consent::given(),
            _ => {}
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = self.inner()?.poll_close(cx);
        if let Poll::Ready(Ok(())) = closed {
            self.closed = true;
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete_after(answer: &[u8]) -> Option<usize> {
        let mut consent = Consent::default();
        (0..answer.len()).find_map(|at| {
            consent.read(&answer[at..=at]);
            consent.is_complete().then_some(at + 1)
        })
    }

    #[test]
    fn consent_is_two_lines_however_they_come() {
        let answer = b"\x13/multistream/1.0.0\n\x11/ipfs/ping/1.0.0\nmore";
        assert_eq!(complete_after(answer), Some(answer.len() - 4));
        let mut at_once = Consent::default();
        at_once.read(answer);
        assert!(at_once.is_complete());
        assert_eq!(complete_after(&answer[..30]), None);
        let refused = b"\x13/multistream/1.0.0\n\x03na\n";
        assert_eq!(complete_after(refused), Some(refused.len()));
    }

    #[test]
    fn as_many_linger_as_there_is_room_for_and_the_oldest_goes_first() {
        let ended = Ended {
            streams: Mutex::new((Vec::new(), None)),
        };
        let streams: Vec<_> = (0..=MOST).map(|_| Arc::new(())).collect();
        for stream in &streams {
            let consent = Consent::default();
            let stream = stream.clone();
            ended.push(Waiting { stream, consent });
        }
        let held = |stream: &Arc<()>| Arc::strong_count(stream) > 1;
        assert!(!held(&streams[0]));
        assert!(streams[1..].iter().all(held));
    }

    #[test]
    fn what_is_no_negotiation_is_not_waited_for() {
        assert_eq!(complete_after(&[0xff; 8]), Some(3));
        assert_eq!(complete_after(&[0, 0, 1]), Some(2));
        let long = [[0x80, 0x01].as_slice(), &[b'x'; 128], b"\x01\n"].concat();
        assert_eq!(complete_after(&long), Some(long.len()));
    }
}
