//! Connections of programs on this machine: as many as there are places, and none that never says a word.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

/// Before the next try, where none can be accepted: this process has no file left to open.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// A bound socket.
pub trait Listener: Send + Sync + Unpin + 'static {
    /// What comes by it.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Io>>;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        Self::poll_accept(self, cx).map_ok(|(stream, _)| {
            // One that is slower for it is none the worse.
            let _ = stream.set_nodelay(true);
            stream
        })
    }
}

impl Listener for UnixListener {
    type Io = UnixStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        Self::poll_accept(self, cx).map_ok(|(stream, _)| stream)
    }
}

/// Accepts connections while there are places; the others wait in the system's queue.
#[derive(Debug)]
pub struct Connections<L> {
    listener: L,
    places: Arc<Semaphore>,
    greeting: Option<(usize, Duration)>,
}

impl<L: Listener> Connections<L> {
    /// `most` at once.
    pub fn new(listener: L, most: usize) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            greeting: None,
        }
    }

    /// Ends a connection that has not said `bytes` within `time`.
    pub fn greeting(self, bytes: usize, time: Duration) -> Self {
        Self {
            greeting: Some((bytes, time)),
            ..self
        }
    }

    /// The next one.
    pub async fn next(&self) -> Connection<L::Io> {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            // Nobody closes it.
            return std::future::pending().await;
        };
        loop {
            match poll_fn(|cx| self.listener.poll_accept(cx)).await {
                Ok(stream) => {
                    let greeting = self.greeting;
                    return Connection {
                        stream,
                        greeting: greeting.map(|(bytes, time)| (bytes, Box::pin(sleep(time)))),
                        _place: place,
                    };
                }
                Err(e) => {
                    tracing::warn!("a connection of a program on this machine was lost: {e}");
                    sleep(EXHAUSTED).await;
                }
            }
        }
    }

    /// All of them, as tonic wants them.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Connection<L::Io>>> {
        stream::unfold(
            self,
            |this| async move { Some((Ok(this.next().await), this)) },
        )
    }
}

/// One connection, and its place.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    /// Bytes that are still to be said, and by when.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some((left, late)) = &mut self.greeting else {
            return read;
        };
        *left = left.saturating_sub(buf.filled().len() - before);
        if *left == 0 {
            self.greeting = None;
        } else if read.is_pending() && late.as_mut().poll(cx).is_ready() {
            let mute = "the caller has not said in time what it wants";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, mute)));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for Connection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
