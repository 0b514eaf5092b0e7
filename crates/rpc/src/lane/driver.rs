//! The one task of a lane that touches its stream.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use super::{Lane, LaneError};
use crate::frame::{self, Frame, HEADER, Kind, LARGEST};

/// How long a lane puts up with its peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How often it is looked at.
    pub(super) tick: Duration,
    /// A peer that takes nothing for this long, or leaves a frame unfinished, is given up.
    pub(super) stalled: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(5),
            stalled: Duration::from_secs(30),
        }
    }
}

/// Room for what arrives: between these, by how much has come at once.
const SMALLEST_READ: usize = 4 << 10;
const LARGEST_READ: usize = HEADER + LARGEST;
/// Reads in a row before others of this thread have their turn.
const READS: usize = 16;
/// Frames in a row: whoever they are for puts its own next frames into the outbox meanwhile. With many more
/// the two sides of a busy lane take turns, and each is idle while the other works: with a thousand, 64
/// callers had two thirds of the calls a second.
const FRAMES: usize = 32;

/// What the two sides of a lane do differently.
pub(crate) trait Role: Send + Unpin + 'static {
    /// Calls begin on the other side, replies on this one.
    const ANSWERS: bool;

    /// A frame that belongs to no call yet.
    fn frame(&mut self, lane: &Arc<Lane>, frame: Frame) -> Result<(), LaneError>;
    /// Whether the lane may end, now that it has had no calls for so long.
    fn may_end(&mut self, lane: &Arc<Lane>, idle: Duration) -> bool;
    /// Called whenever the driver is polled, to see whether the node is stopping.
    fn poll(&mut self, lane: &Arc<Lane>, cx: &mut Context<'_>) -> Result<(), LaneError>;
}

/// Runs a lane over its stream; resolves when it has ended.
pub(crate) struct Driver<S, R> {
    lane: Arc<Lane>,
    stream: S,
    role: R,
    read: BytesMut,
    /// What has been taken out of the outbox and not been written.
    write: BytesMut,
    unflushed: bool,
    /// The peer takes nothing any more. What it has said before may still be on its way, a caller's whole
    /// reply.
    deaf: Option<LaneError>,
    room: usize,
    /// Bytes so far.
    written: u64,
    received: u64,
    /// Frames that have come so far.
    frames: u64,
    tick: Interval,
    stalled: Duration,
    /// Since when a write, or the rest of a frame, has been waited for, and what had moved by then.
    unwritten: Option<(Instant, u64)>,
    unfinished: Option<(Instant, u64)>,
    /// Since when there have been no calls, and what had moved by then.
    idle: Option<(Instant, u64)>,
    leaving: bool,
    ended: bool,
}

impl<S, R> Driver<S, R>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    R: Role,
{
    pub(crate) fn new(lane: Arc<Lane>, stream: S, role: R) -> Self {
        Self::with(Patience::default(), lane, stream, role)
    }

    pub(super) fn with(patience: Patience, lane: Arc<Lane>, stream: S, role: R) -> Self {
        let mut tick = interval_at(Instant::now() + patience.tick, patience.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            lane,
            stream,
            role,
            read: BytesMut::new(),
            write: BytesMut::new(),
            unflushed: false,
            deaf: None,
            room: SMALLEST_READ,
            written: 0,
            received: 0,
            frames: 0,
            tick,
            stalled: patience.stalled,
            unwritten: None,
            unfinished: None,
            idle: None,
            leaving: false,
            ended: false,
        }
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        self.role.poll(&self.lane, cx)?;
        while self.tick.poll_tick(cx).is_ready() {
            self.look()?;
        }
        if self.ended {
            return self.poll_shutdown(cx);
        }
        if let Err(why) = self.poll_write(cx) {
            if R::ANSWERS {
                return Poll::Ready(Err(why));
            }
            self.lane.retire();
            self.deaf = Some(why);
        }
        if self.poll_read(cx)? {
            // Others first; what is left is read after them.
            cx.waker().wake_by_ref();
        }
        // Calls that ended meanwhile may have been the last of a lane that nobody needs any more.
        if !self.leaving && self.lane.calls() == 0 && self.role.may_end(&self.lane, self.quiet()) {
            self.leaving = true;
        }
        let written = self.write.is_empty() && !self.unflushed;
        if self.leaving && written && self.lane.end_if_unused() {
            self.ended = true;
            return self.poll_shutdown(cx);
        }
        Poll::Pending
    }

    /// Waits until the peer has been told that no more comes: a stream dropped before may lose what it
    /// was given. Ends by [`Self::look`] if the peer takes nothing.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        // Whether it goes well does not matter to anybody any more.
        Pin::new(&mut self.stream).poll_shutdown(cx).map(|_| Ok(()))
    }

    /// Takes what waits to be written; whoever waited for room may go on.
    fn empty_outbox(&mut self, cx: &Context<'_>) {
        let waiting = {
            let mut outbox = self.lane.outbox();
            outbox.driver = Some(cx.waker().clone());
            std::mem::swap(&mut self.write, &mut outbox.bytes);
            std::mem::take(&mut outbox.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Writes what there is; what comes meanwhile as well.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), LaneError> {
        if self.deaf.is_some() {
            self.write = BytesMut::new();
            self.unflushed = false;
            self.empty_outbox(cx);
            self.write.clear();
            return Ok(());
        }
        loop {
            if self.write.is_empty() {
                self.empty_outbox(cx);
            }
            if self.write.is_empty() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.write) {
                Poll::Ready(Ok(0)) => return Err(lost(&io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.write.advance(n);
                    self.written += n as u64;
                    self.unflushed = true;
                    if self.write.is_empty() && self.write.capacity() < SMALLEST_READ {
                        self.write = BytesMut::new();
                    }
                }
                Poll::Ready(Err(e)) => return Err(lost(&e)),
                Poll::Pending => {
                    // Woken by the stream alone, but a retired lane must be told too.
                    self.lane.outbox().driver = Some(cx.waker().clone());
                    return Ok(());
                }
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed.map_err(|e| lost(&e))?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Reads and hands out frames; true when there may be more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, LaneError> {
        let mut frames = FRAMES;
        for _ in 0..READS {
            // A caller's own calls wait for room; a server would go on refusing. Woken by writing.
            if R::ANSWERS && self.lane.is_crowded() {
                return Ok(false);
            }
            while let Some(frame) = frame::take(&mut self.read)? {
                self.take(frame)?;
                frames -= 1;
                if frames == 0 {
                    return Ok(true);
                }
            }
            self.read.reserve(self.room);
            // The future holds no state of its own, so it may be made anew for every poll.
            let reading = std::pin::pin!(self.stream.read_buf(&mut self.read));
            let n = match reading.poll(cx) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(e)) => return Err(lost(&e)),
                Poll::Pending => {
                    // An idle lane holds no memory for what may come.
                    if self.read.is_empty() && self.lane.calls() == 0 {
                        self.read = BytesMut::new();
                        self.room = SMALLEST_READ;
                    }
                    return Ok(false);
                }
            };
            if n == 0 {
                let ended = || LaneError::Lost("it ended the stream".into());
                return Err(self.deaf.take().unwrap_or_else(ended));
            }
            self.received += n as u64;
            if n >= self.room {
                self.room = (self.room * 4).min(LARGEST_READ);
            } else if n < self.room / 8 {
                self.room = (self.room / 2).max(SMALLEST_READ);
            }
        }
        Ok(true)
    }

    fn take(&mut self, frame: Frame) -> Result<(), LaneError> {
        self.frames += 1;
        match frame.kind {
            Kind::Reply | Kind::End if R::ANSWERS => {
                Err(LaneError::protocol("a caller that replies"))
            }
            Kind::Data | Kind::Credit | Kind::Cancel | Kind::Reply | Kind::End => {
                match self.lane.call(frame.call) {
                    Some(call) => call.arrived(frame),
                    // Of a call that this side has ended.
                    None => Ok(()),
                }
            }
            Kind::Hello | Kind::Call | Kind::GoAway => self.role.frame(&self.lane, frame),
        }
    }

    /// Gives up a peer that keeps this side waiting in the middle of something.
    fn look(&mut self) -> Result<(), LaneError> {
        let now = Instant::now();
        let deaf = self.deaf.is_some();
        let writing = deaf || !self.write.is_empty() || self.unflushed || self.ended;
        let reading = !self.read.is_empty() && !self.lane.is_crowded();
        let since = [
            waits_since(&mut self.unwritten, writing, self.written, now),
            waits_since(&mut self.unfinished, reading, self.received, now),
        ];
        if since.iter().flatten().any(|s| now - *s >= self.stalled) {
            return Err(LaneError::Stalled(self.stalled));
        }
        // A lane on which calls come and go between two looks is in use.
        let moved = self.written + self.frames;
        match self.idle {
            _ if self.lane.calls() > 0 => self.idle = None,
            Some((_, then)) if then == moved => {}
            _ => self.idle = Some((now, moved)),
        }
        if self.lane.calls() == 0 && self.write.is_empty() {
            self.write = BytesMut::new();
            self.lane.shrink();
        }
        Ok(())
    }

    /// How long it has had no calls, as the ticks saw it.
    fn quiet(&self) -> Duration {
        self.idle
            .map_or(Duration::ZERO, |(since, _)| since.elapsed())
    }
}

impl<S, R> Future for Driver<S, R>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    R: Role,
{
    type Output = Result<(), LaneError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(self.poll_drive(cx));
        if let Err(why) = &ended {
            self.lane.end(why);
        }
        Poll::Ready(ended)
    }
}

impl<S, R> Drop for Driver<S, R> {
    fn drop(&mut self) {
        self.lane.end(&LaneError::Closing);
    }
}

/// Since when what is `wanted` has been waited for while nothing moved.
fn waits_since(
    known: &mut Option<(Instant, u64)>,
    wanted: bool,
    moved: u64,
    now: Instant,
) -> Option<Instant> {
    if !wanted {
        *known = None;
    } else if known.is_none_or(|(_, then)| then != moved) {
        *known = Some((now, moved));
    }
    known.map(|(since, _)| since)
}

fn lost(e: &io::Error) -> LaneError {
    LaneError::Lost(e.to_string().into())
}
