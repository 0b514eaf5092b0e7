//! Which protocols are accepted, and the bounded queue of each.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    task::{Context, Poll, Waker},
};

use futures::Stream;
use libp2p::{PeerId, StreamProtocol};

use super::MeshStream;
use crate::{config::NetLimits, counters::Counters, error::AcceptError};

/// Shared by the handle, which adds acceptors, and by every connection, which fills their queues.
#[derive(Debug)]
pub(crate) struct Registry {
    table: RwLock<Table>,
    pub(super) limits: NetLimits,
    pub(super) counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Table {
    closed: bool,
    queues: HashMap<StreamProtocol, Arc<Queue>>,
    /// The keys of `queues`, ready for a connection to offer.
    offered: Arc<[StreamProtocol]>,
}

/// Why a protocol cannot be accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RegisterError {
    Taken,
    Closed,
}

impl Registry {
    pub(crate) fn new(limits: NetLimits, counters: Arc<Counters>) -> Self {
        Self {
            table: RwLock::default(),
            limits,
            counters,
        }
    }

    pub(crate) fn register(
        self: &Arc<Self>,
        protocol: StreamProtocol,
    ) -> Result<Incoming, RegisterError> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.closed {
            return Err(RegisterError::Closed);
        }
        if table.queues.contains_key(&protocol) {
            return Err(RegisterError::Taken);
        }
        let queue = Arc::new(Queue::default());
        table.queues.insert(protocol.clone(), queue.clone());
        table.refresh();
        Ok(Incoming {
            registry: self.clone(),
            protocol,
            queue,
        })
    }

    /// Ends every acceptor: the swarm is gone.
    pub(crate) fn close(&self) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.closed = true;
        for queue in std::mem::take(&mut table.queues).into_values() {
            queue.close();
        }
        table.refresh();
    }

    /// The protocols accepted now.
    pub(super) fn offered(&self) -> Arc<[StreamProtocol]> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .offered
            .clone()
    }

    /// Hands over an inbound stream, or drops it, which resets it, and counts why.
    pub(super) fn deliver(&self, protocol: &StreamProtocol, stream: MeshStream) {
        let queue = self
            .table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .queues
            .get(protocol)
            .cloned();
        let Some(queue) = queue else {
            self.counters.streams_refused_queue_full.up();
            return;
        };
        match queue.push(stream, &self.limits) {
            Pushed::Accepted => self.counters.streams_accepted.up(),
            Pushed::Full => self.counters.streams_refused_queue_full.up(),
            Pushed::PeerFull => self.counters.streams_refused_peer_full.up(),
        }
    }

    fn unregister(&self, protocol: &StreamProtocol, queue: &Arc<Queue>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table
            .queues
            .get(protocol)
            .is_some_and(|q| Arc::ptr_eq(q, queue))
        {
            table.queues.remove(protocol);
            table.refresh();
        }
    }
}

impl Table {
    fn refresh(&mut self) {
        self.offered = self.queues.keys().cloned().collect();
    }
}

#[derive(Debug, Default)]
struct Queue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    streams: VecDeque<MeshStream>,
    per_peer: HashMap<PeerId, usize>,
    waker: Option<Waker>,
    closed: bool,
}

enum Pushed {
    Accepted,
    Full,
    PeerFull,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, stream: MeshStream, limits: &NetLimits) -> Pushed {
        let mut waiting = self.lock();
        if waiting.closed || waiting.streams.len() >= limits.inbound_queue {
            return Pushed::Full;
        }
        let of_peer = waiting.per_peer.entry(stream.peer()).or_default();
        if *of_peer >= limits.inbound_queue_per_peer {
            return Pushed::PeerFull;
        }
        *of_peer += 1;
        waiting.streams.push_back(stream);
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
        Pushed::Accepted
    }

    fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.streams.clear();
        waiting.per_peer.clear();
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }
}

/// Inbound streams of one protocol, in order of arrival; ends when the swarm does. While nobody
/// takes them, a bounded number waits and the rest is reset. Dropping it stops accepting.
#[derive(Debug)]
#[must_use = "streams are accepted only while this is held and polled"]
pub struct Incoming {
    registry: Arc<Registry>,
    protocol: StreamProtocol,
    queue: Arc<Queue>,
}

impl Stream for Incoming {
    type Item = MeshStream;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<MeshStream>> {
        let mut waiting = self.queue.lock();
        if let Some(stream) = waiting.streams.pop_front() {
            let peer = stream.peer();
            if let Some(of_peer) = waiting.per_peer.get_mut(&peer) {
                *of_peer -= 1;
                if *of_peer == 0 {
                    waiting.per_peer.remove(&peer);
                }
            }
            return Poll::Ready(Some(stream));
        }
        if waiting.closed {
            return Poll::Ready(None);
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.registry.unregister(&self.protocol, &self.queue);
        self.queue.close();
    }
}

impl RegisterError {
    /// As the public error for the protocol the caller named.
    pub(crate) fn into_accept(self, protocol: &str) -> AcceptError {
        match self {
            Self::Taken => AcceptError::Taken(protocol.to_owned()),
            Self::Closed => AcceptError::Stopped,
        }
    }
}
