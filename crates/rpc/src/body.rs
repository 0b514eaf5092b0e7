//! What arrives of a call, as the body that tonic reads.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tonic::{Code, Status, codegen::Bytes};

use crate::{
    admission::Held,
    frame,
    lane::{Call, Input, LaneError},
    pool::Peer,
};

/// A peer that begins a message and never ends it would hold its memory here: time until the one
/// message of a call is there.
const PATIENCE: Duration = Duration::from_secs(15);

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

/// A request, on the server.
#[derive(Debug)]
pub(crate) struct RequestBody {
    call: Arc<Call>,
    /// Until when all must be there; `None`: the caller may take its time.
    patience: Option<Duration>,
    late: Option<Pin<Box<Sleep>>>,
    /// Of a request that its service takes as a whole.
    held: Option<Held>,
}

impl RequestBody {
    /// A request that its service takes as a whole.
    pub(crate) fn whole(call: Arc<Call>, held: Held) -> Self {
        Self {
            call,
            patience: Some(PATIENCE),
            late: None,
            held: Some(held),
        }
    }

    /// A long exchange of messages, in which silence is nothing bad.
    pub(crate) const fn lasting(call: Arc<Call>) -> Self {
        Self {
            call,
            patience: None,
            late: None,
            held: None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(input) = self.call.poll_input(cx) else {
            let Some(patience) = self.patience else {
                return Poll::Pending;
            };
            let late = self.late.get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(late.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Status::deadline_exceeded(
                "the request was not complete in time",
            ))));
        };
        Poll::Ready(match input {
            Ok(Input::Data(data)) => {
                let held = self.held.as_mut().map_or(Ok(()), |h| h.more(data.len()));
                Some(held.map(|()| Frame::data(data)))
            }
            Ok(Input::Last) => None,
            Ok(Input::Cancelled(_) | Input::End(_)) => {
                Some(Err(Status::cancelled("the caller gave the call up")))
            }
            Err(why) => Some(Err(broken(why))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.call.is_read()
    }
}

/// A reply, at the caller. Dropping it before its end cancels the call.
#[derive(Debug)]
pub struct ReplyBody {
    call: Outgoing,
    deadline: Option<Instant>,
    /// Made when the reply is first waited for.
    late: Option<Pin<Box<Sleep>>>,
    over: bool,
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
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        self.over = true;
        Poll::Ready(Some(match input {
            Ok(Input::End(end)) => {
                self.peer.heard(end.load);
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
