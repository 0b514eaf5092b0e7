//! A lane: one mesh stream that carries many calls.
//!
//! Callers and handlers put frames into the lane's outbox; one task, the [`driver`], writes what has
//! gathered there in one go and hands what arrives to the calls it belongs to. So a hundred short
//! calls cost few writes, and few packets. No call can hold another up: each has a window, and its
//! reader's place for what has arrived is as large as that.

mod call;
mod driver;
mod room;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use polymath_types::PeerId;

pub(crate) use call::{Call, Input, LeadIn, Windows};
pub(crate) use driver::{Driver, Role};

use crate::frame::{self, CallId, FrameError, Kind};

/// What may wait to be written before calls wait with more: a few round trips on a slow link would be
/// lost behind much more than this.
const OUTBOX: usize = 256 << 10;
/// Messages stop at [`OUTBOX`]. Refusals do not wait, so beyond this a server reads no more of what it
/// would have to refuse.
const CROWDED: usize = 2 * OUTBOX;

/// Why a lane ended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The stream or the connection under it broke, or the peer ended it.
    #[error("the connection to the peer broke in the middle of the call: {0}")]
    Lost(Arc<str>),
    /// The peer sent what is no frame, or frames in an order that makes no sense.
    #[error("the peer broke the protocol: {0}")]
    Protocol(Arc<str>),
    /// The peer takes nothing any more.
    #[error("the peer has read nothing for {0:?}")]
    Stalled(Duration),
    /// The peer ends, or this node does.
    #[error("the peer is shutting down")]
    Closing,
}

impl From<FrameError> for LaneError {
    fn from(e: FrameError) -> Self {
        Self::Protocol(e.to_string().into())
    }
}

impl LaneError {
    pub(crate) fn protocol(what: &str) -> Self {
        Self::Protocol(what.into())
    }
}

/// What calls and the driver share.
#[derive(Debug)]
pub(crate) struct Lane {
    peer: PeerId,
    outbox: Mutex<Outbox>,
    calls: Mutex<HashMap<CallId, Arc<Call>>>,
    /// No new calls: it is broken, going away, or there is a better one.
    retired: AtomicBool,
}

#[derive(Debug, Default)]
struct Outbox {
    bytes: BytesMut,
    /// The driver; taken when it has been woken and has not looked yet.
    driver: Option<Waker>,
    /// Calls that wait for room: one waker each, however often they are polled.
    waiting: HashMap<CallId, Waker>,
    ended: Option<LaneError>,
}

impl Lane {
    /// One to or from `peer`.
    pub(crate) fn new(peer: PeerId) -> Arc<Self> {
        Arc::new(Self {
            peer,
            outbox: Mutex::default(),
            calls: Mutex::default(),
            retired: AtomicBool::new(false),
        })
    }

    /// Calls under way.
    pub(crate) fn calls(&self) -> usize {
        self.table().len()
    }

    /// Whether a new call may be put on it.
    pub(crate) fn is_open(&self) -> bool {
        !self.retired.load(Relaxed)
    }

    /// Leaves it to the calls on it.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.wake_driver();
    }

    /// Enters a call; an error when the lane has ended.
    pub(crate) fn enter(&self, call: &Arc<Call>) -> Result<(), LaneError> {
        self.table().insert(call.id(), Arc::clone(call));
        // In this order: whoever ends the lane says so, then looks for calls to tell.
        let ended = self.outbox().ended.clone();
        let Some(why) = ended else {
            return Ok(());
        };
        self.table().remove(&call.id());
        Err(why)
    }

    /// Whether a call of this number is under way.
    pub(crate) fn is_taken(&self, id: CallId) -> bool {
        self.table().contains_key(&id)
    }

    /// Forgets a call; the driver of a retired lane looks whether it was the last.
    fn leave(&self, id: CallId) {
        let mut table = self.table();
        let removed = table.remove(&id).is_some();
        let last = removed && table.is_empty();
        drop(table);
        if last && !self.is_open() {
            self.wake_driver();
        }
    }

    fn call(&self, id: CallId) -> Option<Arc<Call>> {
        self.table().get(&id).cloned()
    }

    /// Puts frames into the outbox. For frames that are small and due; messages go by
    /// [`Call::poll_send`].
    pub(crate) fn put(&self, write: impl FnOnce(&mut BytesMut)) {
        self.put_within(usize::MAX, write);
    }

    /// The same, unless more than `most` waits there; false when it did not happen for that.
    fn put_within(&self, most: usize, write: impl FnOnce(&mut BytesMut)) -> bool {
        let mut outbox = self.outbox();
        if outbox.ended.is_some() {
            return true;
        }
        if outbox.bytes.len() > most {
            return false;
        }
        write(&mut outbox.bytes);
        let driver = outbox.driver.take();
        drop(outbox);
        if let Some(driver) = driver {
            driver.wake();
        }
        true
    }

    fn put_number(&self, kind: Kind, call: CallId, number: u32) {
        self.put(|out| frame::put(out, kind, false, call, &number.to_be_bytes()));
    }

    /// Ready when the outbox takes more of `call`.
    fn poll_room(
        &self,
        call: CallId,
        small: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), LaneError>> {
        let mut outbox = self.outbox();
        if let Some(why) = &outbox.ended {
            return Poll::Ready(Err(why.clone()));
        }
        let most = if small { 2 * OUTBOX } else { OUTBOX };
        if outbox.bytes.len() < most {
            return Poll::Ready(Ok(()));
        }
        outbox.waiting.insert(call, cx.waker().clone());
        Poll::Pending
    }

    /// Whether other calls are under way.
    fn is_shared(&self) -> bool {
        self.table().len() > 1
    }

    fn wake_driver(&self) {
        let driver = self.outbox().driver.take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Ends it if nothing is under way on it and nothing waits to be written.
    fn end_if_unused(&self) -> bool {
        let table = self.table();
        if !table.is_empty() {
            return false;
        }
        let mut outbox = self.outbox();
        if !outbox.bytes.is_empty() {
            return false;
        }
        self.retired.store(true, Relaxed);
        outbox.ended.get_or_insert(LaneError::Closing);
        true
    }

    /// Whether so much waits to be written that nothing should be read that may add to it.
    fn is_crowded(&self) -> bool {
        self.outbox().bytes.len() > CROWDED
    }

    /// Gives back the memory of an outbox that is empty.
    fn shrink(&self) {
        let mut outbox = self.outbox();
        if outbox.bytes.is_empty() {
            outbox.bytes = BytesMut::new();
        }
    }

    /// Ends it and every call on it. The first reason counts.
    fn end(&self, why: &LaneError) {
        self.retired.store(true, Relaxed);
        let waiting = {
            let mut outbox = self.outbox();
            outbox.ended.get_or_insert_with(|| why.clone());
            outbox.bytes = BytesMut::new();
            outbox.driver = None;
            std::mem::take(&mut outbox.waiting)
        };
        let calls = std::mem::take(&mut *self.table());
        for call in calls.into_values() {
            call.lost(why);
        }
        waiting.into_values().for_each(Waker::wake);
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<CallId, Arc<Call>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
