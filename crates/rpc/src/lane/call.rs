//! One call, as seen from one of its sides.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use polymath_proto::v1;
use tokio::task::AbortHandle;
use tonic::{Code, Status};

use super::{
    Lane, LaneError, OUTBOX,
    room::{WIDEST, Widened},
};
use crate::frame::{self, CallId, Frame, Kind, LARGEST};

/// Pieces that may wait for a reader before the small ones are put together.
const PIECES: usize = 128;
/// A piece shorter than this is small: by itself it may hold a whole read buffer, or cost more than it
/// carries.
const SMALL: usize = 32 << 10;

/// A message up to this size is short.
const SHORT: usize = 4 << 10;

/// What one side may have sent before the other has taken it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// What the peer may send us.
    pub(crate) theirs: usize,
    /// What we may send the peer.
    pub(crate) ours: usize,
}

/// One side of a call.
#[derive(Debug)]
pub(crate) struct Call {
    id: CallId,
    lane: Arc<Lane>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// At most a window's worth, in few pieces.
    arrived: VecDeque<Bytes>,
    unread: usize,
    /// What may be unread, and how much of that it did not begin with.
    window: usize,
    widened: Widened,
    /// Taken by the reader, and the peer not told yet.
    taken: usize,
    head: Option<v1::ReplyHead>,
    /// The reply has begun.
    begun: bool,
    /// Nothing more arrives.
    over: Option<Over>,
    reader: Option<Waker>,
    /// What we may still send.
    credit: usize,
    sender: Option<Waker>,
    /// We have said all, or nobody listens.
    closed: bool,
    /// The handler's task.
    task: Option<AbortHandle>,
}

/// How the other side's part came to its end.
#[derive(Debug, Clone)]
enum Over {
    Last,
    End(v1::ReplyEnd),
    Cancelled(Code),
    Lost(LaneError),
}

/// What a reader gets next.
#[derive(Debug)]
pub(crate) enum Input {
    Data(Bytes),
    /// The peer has sent its last message.
    Last,
    /// The reply's end.
    End(v1::ReplyEnd),
    Cancelled(Code),
}

/// How a reply begins.
#[derive(Debug)]
pub(crate) enum LeadIn {
    Head(v1::ReplyHead),
    /// It was over before it began.
    Over(Input),
}

impl Call {
    pub(crate) fn new(lane: &Arc<Lane>, id: CallId, windows: Windows) -> Arc<Self> {
        Arc::new(Self {
            id,
            lane: Arc::clone(lane),
            state: Mutex::new(State {
                arrived: VecDeque::new(),
                unread: 0,
                window: windows.theirs,
                widened: Widened::nothing(lane.peer),
                taken: 0,
                head: None,
                begun: false,
                over: None,
                reader: None,
                credit: windows.ours,
                sender: None,
                closed: false,
                task: None,
            }),
        })
    }

    pub(crate) const fn id(&self) -> CallId {
        self.id
    }

    /// Names the task that answers it, which ends with it.
    pub(crate) fn answered_by(&self, task: AbortHandle) {
        let mut state = self.state();
        if matches!(state.over, Some(Over::Cancelled(_) | Over::Lost(_))) {
            drop(state);
            task.abort();
        } else {
            state.task = Some(task);
        }
    }

    /// Takes what a frame brings; an error when the peer may not send it now.
    pub(super) fn arrived(&self, frame: Frame) -> Result<(), LaneError> {
        let mut state = self.state();
        // What crosses our own end on the way means nothing any more.
        if state.closed && state.over.is_some() {
            return Ok(());
        }
        let mut task = None;
        match frame.kind {
            Kind::Credit => {
                let more = frame::number(&frame.payload)? as usize;
                state.credit = state.credit.saturating_add(more);
                let sender = state.sender.take();
                drop(state);
                sender.into_iter().for_each(Waker::wake);
                return Ok(());
            }
            // Who has said all may still lose interest in the answer.
            Kind::Cancel if matches!(state.over, None | Some(Over::Last)) => {
                let code = frame::number(&frame.payload)?;
                let code = i32::try_from(code).map_or(Code::Unknown, Code::from_i32);
                // Nothing is given up because it went well.
                let code = if code == Code::Ok {
                    Code::Unknown
                } else {
                    code
                };
                state.over = Some(Over::Cancelled(code));
                task = state.task.take();
            }
            _ if state.over.is_some() => {
                return Err(LaneError::protocol("more of a call that was over"));
            }
            Kind::Reply if !state.begun => {
                state.begun = true;
                state.head = Some(frame::head(frame.payload)?);
            }
            Kind::Data => {
                if state.unread + frame.payload.len() > state.window {
                    return Err(LaneError::protocol("more than the window allows"));
                }
                state.begun = true;
                state.add(frame.payload);
                if frame.last {
                    state.over = Some(Over::Last);
                }
            }
            Kind::End => state.over = Some(Over::End(frame::head(frame.payload)?)),
            Kind::Cancel | Kind::Hello | Kind::Call | Kind::Reply | Kind::GoAway => {
                return Err(LaneError::protocol("a frame where it has no meaning"));
            }
        }
        let ends = !matches!(state.over, None | Some(Over::Last));
        let reader = state.reader.take();
        let sender = ends.then(|| state.sender.take()).flatten();
        drop(state);
        if ends {
            self.lane.leave(self.id);
        }
        reader.into_iter().chain(sender).for_each(Waker::wake);
        if let Some(task) = task {
            task.abort();
        }
        Ok(())
    }

    /// The lane is no more. Bytes that have arrived are still read.
    pub(super) fn lost(&self, why: &LaneError) {
        let mut state = self.state();
        if !matches!(state.over, Some(Over::End(_) | Over::Cancelled(_))) {
            state.over = Some(Over::Lost(why.clone()));
        }
        let (reader, sender, task) = (state.reader.take(), state.sender.take(), state.task.take());
        drop(state);
        reader.into_iter().chain(sender).for_each(Waker::wake);
        if let Some(task) = task {
            task.abort();
        }
    }

    /// How the reply begins.
    pub(crate) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<LeadIn, LaneError>> {
        let mut state = self.state();
        if let Some(head) = state.head.take() {
            return Poll::Ready(Ok(LeadIn::Head(head)));
        }
        // A head with nothing in it is not sent.
        if !state.arrived.is_empty() {
            return Poll::Ready(Ok(LeadIn::Head(v1::ReplyHead::default())));
        }
        match state.over() {
            Some(over) => Poll::Ready(over.map(LeadIn::Over)),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// What comes next. After anything but data, the same again.
    pub(crate) fn poll_input(&self, cx: &Context<'_>) -> Poll<Result<Input, LaneError>> {
        let mut state = self.state();
        if let Some(data) = state.arrived.pop_front() {
            state.unread -= data.len();
            state.taken += data.len();
            // Told in halves of a window, and not when nothing more can come.
            let told = state.taken * 2 >= state.window && state.over.is_none();
            let credit = told.then(|| std::mem::take(&mut state.taken) + state.widen());
            drop(state);
            if let Some(credit) = credit {
                let credit = u32::try_from(credit).unwrap_or(u32::MAX);
                self.lane.put_number(Kind::Credit, self.id, credit);
            }
            return Poll::Ready(Ok(Input::Data(data)));
        }
        match state.over() {
            Some(over) => Poll::Ready(over),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether all that will ever arrive has been taken, and it was no accident.
    pub(crate) fn is_read(&self) -> bool {
        let state = self.state();
        state.arrived.is_empty() && matches!(state.over, Some(Over::Last | Over::End(_)))
    }

    /// Sends all of `data`, as fast as window and outbox allow; with the last byte `last`, which ends
    /// this side's messages. An error when nobody takes it any more.
    pub(crate) fn poll_send(
        &self,
        data: &mut Bytes,
        last: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), LaneError>> {
        loop {
            let most = {
                let mut state = self.state();
                if let Some(Over::Lost(why)) = &state.over {
                    return Poll::Ready(Err(why.clone()));
                }
                if state.closed || matches!(state.over, Some(Over::End(_) | Over::Cancelled(_))) {
                    return Poll::Ready(Err(LaneError::Closing));
                }
                if state.credit == 0 && !data.is_empty() {
                    state.sender = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                state.credit.min(LARGEST).min(data.len())
            };
            // Asked of the lane after the window, so that a place in its queue is never held in vain. What
            // is short does not wait behind what is long.
            let small = data.len() <= SHORT && most == data.len();
            ready!(self.lane.poll_room(self.id, small, cx))?;
            self.state().credit -= most;
            let piece = data.split_to(most);
            let ends = last && data.is_empty();
            self.lane
                .put(|out| frame::put(out, Kind::Data, ends, self.id, &piece));
            if data.is_empty() {
                return Poll::Ready(Ok(()));
            }
            // The others' turn, a frame each.
            if self.lane.is_shared() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Ready when nobody takes anything of this side any more.
    pub(crate) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.closed || !matches!(state.over, None | Some(Over::Last)) {
            return Poll::Ready(());
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Begins a call, with as much of its first message as the window allows in the same write.
    /// Ready when that is done, once the outbox has room.
    pub(crate) fn poll_begin(
        &self,
        head: &v1::CallHead,
        data: &mut Bytes,
        last: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), LaneError>> {
        loop {
            let put = self.lane.put_within(OUTBOX, |out| {
                put_message(out, Kind::Call, self.id, head);
                let mut state = self.state();
                let most = state.credit.min(LARGEST).min(data.len());
                state.credit -= most;
                drop(state);
                let piece = data.split_to(most);
                let last = last && data.is_empty();
                if last || !piece.is_empty() {
                    frame::put(out, Kind::Data, last, self.id, &piece);
                }
            });
            if put {
                return Poll::Ready(Ok(()));
            }
            ready!(self.lane.poll_room(self.id, false, cx))?;
        }
    }

    /// Begins the reply.
    pub(crate) fn reply(&self, head: &v1::ReplyHead) {
        self.lane
            .put(|out| put_message(out, Kind::Reply, self.id, head));
    }

    /// Ends the call with its status; nothing happens if it is over.
    pub(crate) fn finish(&self, end: &v1::ReplyEnd) {
        if self.close(Over::Cancelled(Code::Cancelled)) {
            // First said, then left: a lane without calls and with nothing to write may end.
            self.lane
                .put(|out| put_message(out, Kind::End, self.id, end));
            self.lane.leave(self.id);
        }
    }

    /// Gives the call up, if it is not over; the peer is told why.
    pub(crate) fn cancel(&self, code: Code) {
        self.give_up(Over::Cancelled(code), code);
    }

    /// Gives the call up because its request cannot be sent; its reader is told `why`.
    pub(crate) fn fail(&self, why: &Status) {
        self.give_up(Over::End(frame::of_status(why)), Code::Cancelled);
    }

    fn give_up(&self, over: Over, code: Code) {
        if self.close(over) {
            self.lane.put_number(Kind::Cancel, self.id, code as u32);
            self.lane.leave(self.id);
        }
    }

    /// No more from this side; false when it, or the other, had ended the call before. What this side
    /// has yet to read is forgotten, and whoever waits for more reads `over`.
    fn close(&self, over: Over) -> bool {
        let mut state = self.state();
        let open = !state.closed
            && !matches!(
                state.over,
                Some(Over::End(_) | Over::Cancelled(_) | Over::Lost(_))
            );
        state.closed = true;
        state.arrived = VecDeque::new();
        if open {
            state.over = Some(over);
        }
        let (reader, sender) = (state.reader.take(), state.sender.take());
        drop(state);
        reader.into_iter().chain(sender).for_each(Waker::wake);
        open
    }

    /// What may wait for the reader.
    #[cfg(test)]
    pub(super) fn window(&self) -> usize {
        self.state().window
    }

    /// Bytes that wait for the reader, and in how many pieces.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        let state = self.state();
        (state.unread, state.arrived.len())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the sender may have under way beside, because the reader takes all that comes.
    fn widen(&mut self) -> usize {
        let more = self.window;
        let wider = self.unread == 0 && more * 2 <= WIDEST && self.widened.by(more);
        let more = if wider { more } else { 0 };
        self.window += more;
        more
    }

    /// Keeps what has arrived until it is read. What a slow reader has waiting costs about what it
    /// weighs, in whatever pieces it came.
    fn add(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        let slow = self.unread >= SMALL;
        self.unread += piece.len();
        if slow && piece.len() < SMALL {
            self.arrived.push_back(Bytes::copy_from_slice(&piece));
        } else {
            self.arrived.push_back(piece);
        }
        if self.arrived.len() < PIECES {
            return;
        }
        let small = self.arrived.iter().rev().take_while(|p| p.len() < SMALL);
        let from = self.arrived.len() - small.count();
        let mut joined = BytesMut::new();
        for piece in self.arrived.drain(from..) {
            joined.extend_from_slice(&piece);
        }
        self.arrived.push_back(joined.freeze());
    }

    fn over(&self) -> Option<Result<Input, LaneError>> {
        Some(Ok(match self.over.clone()? {
            Over::Last => Input::Last,
            Over::End(end) => Input::End(end),
            Over::Cancelled(code) => Input::Cancelled(code),
            Over::Lost(why) => return Some(Err(why)),
        }))
    }
}

fn put_message(out: &mut BytesMut, kind: Kind, call: CallId, message: &impl prost::Message) {
    let length = message.encoded_len();
    out.reserve(frame::HEADER + length);
    frame::put_header(out, kind, false, call, length);
    let before = out.len();
    // BytesMut grows without end, so this cannot fail.
    if message.encode(out).is_err() {
        debug_assert!(false);
    }
    debug_assert_eq!(out.len() - before, length);
    debug_assert!(out.has_remaining_mut());
}
