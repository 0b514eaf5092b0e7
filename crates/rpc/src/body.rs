//! What arrives of a call, as the body that tonic reads.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame};
use polymath_types::PeerId;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};
use tonic::{Code, Status, codegen::Bytes};

use crate::{
    admission::{Admission, Held},
    frame,
    lane::{Call, Input, LaneError},
    messages::Messages,
    pool::Peer,
};

/// How long a server waits for what a caller has yet to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// A peer that begins a message and never ends it would hold its memory here: a message must come
    /// within this, and longer ones at [`SLOWEST`] at least.
    pub(crate) message: Duration,
    /// Whoever begins a call has something to say by then, if it is ever going to; later it may be silent
    /// between its messages for as long as the call lasts.
    pub(crate) first: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            message: Duration::from_secs(15),
            first: Duration::from_secs(60),
        }
    }
}

/// Bytes a second.
const SLOWEST: u32 = 8 << 10;

/// A lane's end as the status of the calls that were on it; its source tells it from a peer's own.
pub(crate) fn broken(why: LaneError) -> Status {
    let mut status = Status::unavailable(why.to_string());
    status.set_source(Arc::new(why));
    status
}

/// The peer ended the call without a status.
pub(crate) fn given_up(code: Code) -> Status {
    Status::new(code, "the peer gave the call up")
}

pub(crate) fn without_status() -> LaneError {
    LaneError::protocol("a reply without a status")
}

pub(crate) fn too_late() -> Status {
    Status::deadline_exceeded("the call was not complete in time")
}

/// Where a request comes from.
pub(crate) trait Source: Send + Unpin {
    /// The next bytes; `None` when the caller has said that there are no more.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>>;
    /// Whether all that will ever come has been taken.
    fn is_read(&self) -> bool;
}

/// A lane's call.
impl Source for Arc<Call> {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        self.poll_input(cx).map(|input| match input {
            Ok(Input::Data(data)) => Ok(Some(data)),
            Ok(Input::Last) => Ok(None),
            Ok(Input::Cancelled(_) | Input::End(_)) => {
                Err(Status::cancelled("the caller gave the call up"))
            }
            Err(why) => Err(broken(why)),
        })
    }

    fn is_read(&self) -> bool {
        Call::is_read(self)
    }
}

/// HTTP/2's, from a program on this machine.
impl Source for tonic::body::Body {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            match ready!(Pin::new(&mut *self).poll_frame(cx)) {
                None => return Poll::Ready(Ok(None)),
                Some(Err(status)) => return Poll::Ready(Err(status)),
                // HTTP/2 may end a body by a frame with nothing in it; trailers of a request mean nothing.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Ok(Some(data))),
                    _ => {}
                },
            }
        }
    }

    fn is_read(&self) -> bool {
        self.is_end_stream()
    }
}

/// A request, on the server.
///
/// One of a method that takes a stream may be silent between its messages. One of a method that takes a
/// single message is handed on when all of it is there, and nothing else is to come: its service would hold
/// the message while it waits for the end.
#[derive(Debug)]
pub(crate) struct RequestBody<S = Arc<Call>> {
    source: S,
    streams: bool,
    patience: Patience,
    admission: Admission,
    peer: PeerId,
    messages: Messages,
    /// Bytes of the message that is coming.
    held: Held,
    /// Since when it has been waited for.
    since: Option<Instant>,
    begun: bool,
    /// The end of the only message, until it is known to be that.
    kept: Option<Bytes>,
    late: Option<Pin<Box<Sleep>>>,
}

impl<S: Source> RequestBody<S> {
    /// `streams`: its method takes any number of messages.
    pub(crate) fn new(source: S, streams: bool, admission: Admission, peer: PeerId) -> Self {
        Self {
            source,
            streams,
            patience: Patience::default(),
            held: admission.nothing_of(peer),
            admission,
            peer,
            messages: Messages::default(),
            since: None,
            begun: false,
            kept: None,
            late: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Until when something must come; `None`: whenever it likes.
    fn waits_until(&mut self) -> Option<Instant> {
        if self.streams && self.begun && self.messages.are_whole() {
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.streams && !self.begun {
            return Some(since + self.patience.first);
        }
        let earned = self.held.bytes() as u64 * 1000 / u64::from(SLOWEST);
        Some(since + self.patience.message + Duration::from_millis(earned))
    }

    /// Takes note of what has come; what may be handed on.
    fn take(&mut self, data: Bytes) -> Result<Option<Bytes>, Status> {
        if self.kept.is_some() {
            return Err(Status::invalid_argument(
                "the method takes one message, and more came",
            ));
        }
        self.begun = true;
        self.held.more(data.len())?;
        let Some(behind) = self.messages.pass(&data) else {
            return Ok(Some(data));
        };
        if !self.streams {
            self.kept = Some(data);
            return Ok(None);
        }
        // What is whole goes to its service with these bytes.
        self.held = self.admission.nothing_of(self.peer);
        self.held.more(behind)?;
        self.since = None;
        Ok(Some(data))
    }
}

impl<S: Source> Body for RequestBody<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let Poll::Ready(input) = self.source.poll_data(cx) else {
                let Some(until) = self.waits_until() else {
                    return Poll::Pending;
                };
                let late = self
                    .late
                    .get_or_insert_with(|| Box::pin(sleep_until(until)));
                if late.deadline() != until {
                    late.as_mut().reset(until);
                }
                ready!(late.as_mut().poll(cx));
                return Poll::Ready(Some(Err(Status::deadline_exceeded(
                    "the request was not complete in time",
                ))));
            };
            return Poll::Ready(match input {
                Ok(Some(data)) => match self.take(data) {
                    Ok(None) => continue,
                    Ok(Some(data)) => Some(Ok(Frame::data(data))),
                    Err(refusal) => Some(Err(refusal)),
                },
                Ok(None) if !self.messages.are_whole() => Some(Err(cut())),
                // After that the same again: nothing.
                Ok(None) => self.kept.take().map(|data| Ok(Frame::data(data))),
                Err(status) => Some(Err(status)),
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_read() && self.messages.are_whole() && self.kept.is_none()
    }
}

/// A peer that says that all is well in the middle of a message.
fn cut() -> Status {
    Status::internal("the peer ended the call within a message")
}

/// A reply, at the caller. Dropping it before its end cancels the call.
#[derive(Debug)]
pub struct ReplyBody {
    call: Outgoing,
    deadline: Option<Instant>,
    /// Made when the reply is first waited for.
    late: Option<Pin<Box<Sleep>>>,
    over: bool,
    messages: Messages,
    peer: Arc<Peer>,
    /// Of the calls this node makes to that peer.
    _place: OwnedSemaphorePermit,
}

/// A call this side has begun; given up on drop.
#[derive(Debug)]
pub(crate) struct Outgoing(pub(crate) Arc<Call>);

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.0.cancel(Code::Cancelled);
    }
}

impl ReplyBody {
    pub(crate) fn new(
        call: Outgoing,
        over: bool,
        deadline: Option<Instant>,
        peer: Arc<Peer>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            call,
            deadline,
            late: None,
            over,
            messages: Messages::default(),
            peer,
            _place: place,
        }
    }
}

impl ReplyBody {
    fn give_up(&mut self) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.over = true;
        self.call.0.cancel(Code::DeadlineExceeded);
        Poll::Ready(Some(Err(too_late())))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let Poll::Ready(input) = self.call.0.poll_input(cx) else {
            let Some(deadline) = self.deadline else {
                return Poll::Pending;
            };
            let late = self
                .late
                .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            ready!(late.as_mut().poll(cx));
            return self.give_up();
        };
        if let Ok(Input::Data(data)) = input {
            // A server that never stops sending does not get past the deadline either.
            if self.deadline.is_some_and(|d| d <= Instant::now()) {
                return self.give_up();
            }
            let _ = self.messages.pass(&data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        self.over = true;
        Poll::Ready(Some(match input {
            Ok(Input::End(end)) => {
                self.peer.heard(end.load);
                if end.code == Code::Ok as u32 && !self.messages.are_whole() {
                    return Poll::Ready(Some(Err(cut())));
                }
                frame::trailers(end)
                    .map(Frame::trailers)
                    .map_err(|e| broken(e.into()))
            }
            Ok(Input::Cancelled(code)) => Err(given_up(code)),
            Ok(Input::Data(_) | Input::Last) => Err(broken(without_status())),
            Err(why) => Err(broken(why)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}
