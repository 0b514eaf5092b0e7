//! Fewer and larger operations around the encryption of a stream transport.
//!
//! yamux writes header and body of a frame by themselves and flushes after each, and the layers below
//! read eight kilobytes at a time: a system call, and on the wire an encrypted record, for each.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// What is written or read in one go, at most.
const BATCH: usize = 64 << 10;
/// Buffers of idle connections are no larger than this.
const SMALL: usize = 4 << 10;

/// Above the encryption, below yamux: writes gather until yamux turns to reading.
///
/// yamux (0.14, `connection::Active::poll`) polls for a frame to read when it has none to write, so that
/// what it has said by then is all it has to say for now, and no flush is needed before. The one time it
/// does not come to reading, a frame waits because the stream below takes no more: then the stream wakes
/// it. It closes by `poll_close`, which sends what is left.
#[derive(Debug)]
pub(crate) struct GatheredWrites<T> {
    inner: T,
    waiting: Vec<u8>,
    written: usize,
    unflushed: bool,
}

impl<T: AsyncWrite + Unpin> GatheredWrites<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            waiting: Vec::new(),
            written: 0,
            unflushed: false,
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let rest = &self.waiting[self.written..];
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.unflushed = true;
        }
        self.waiting.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for GatheredWrites<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= BATCH {
            ready!(self.poll_write_out(cx))?;
        }
        let n = buf.len().min(BATCH - self.waiting.len());
        self.waiting.extend_from_slice(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    /// Nothing: see the type.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for GatheredWrites<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // Whether all of it could be written now or not, reading goes on.
        if let Poll::Ready(Err(e)) = self.poll_send(cx) {
            return Poll::Ready(Err(e));
        }
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_pending() && self.waiting.is_empty() {
            self.waiting.shrink_to(SMALL);
        }
        read
    }
}

/// Below the encryption: reads ahead.
#[derive(Debug)]
pub(crate) struct ReadAhead<T> {
    inner: T,
    /// Longer than what has arrived: made anew, it would have to be zeroed for every read.
    buffer: Vec<u8>,
    taken: usize,
    arrived: usize,
    /// What is asked for at once: more after a full read.
    batch: usize,
}

impl<T> ReadAhead<T> {
    pub(crate) const fn new(inner: T) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
            taken: 0,
            arrived: 0,
            batch: SMALL,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.taken == this.arrived {
            if buf.len() >= this.batch {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            if this.buffer.len() < this.batch {
                this.buffer.resize(this.batch, 0);
            }
            match Pin::new(&mut this.inner).poll_read(cx, &mut this.buffer[..this.batch]) {
                Poll::Ready(Ok(n)) => {
                    (this.taken, this.arrived) = (0, n);
                    if n == this.batch {
                        this.batch = BATCH;
                    }
                }
                Poll::Pending => {
                    // An idle connection holds no more than a little.
                    this.batch = SMALL;
                    this.buffer.truncate(SMALL);
                    this.buffer.shrink_to_fit();
                    return Poll::Pending;
                }
                error => return error,
            }
        }
        let n = buf.len().min(this.arrived - this.taken);
        buf[..n].copy_from_slice(&this.buffer[this.taken..this.taken + n]);
        this.taken += n;
        Poll::Ready(Ok(n))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
