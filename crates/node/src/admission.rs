//! The gate before the engine: every call for an expert hosted here, own or a peer's, passes it. What
//! [`queue`] decides is carried out here; whose calls are answered at all is decided here.

mod queue;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use polymath_types::{ErrorKind, Failure};
use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot, watch},
    time::Instant,
};

pub(crate) use queue::{Bounds, Call, Caller, Class, Lane};
use queue::{CallId, Queue, Refusal, Why};

/// When a peer that met a paused node may ask again.
const PAUSED: Duration = Duration::from_secs(30);
/// Bytes of a question that one permit stands for.
const PERMIT: usize = 1024;

/// Whose questions the experts of this node answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serve {
    Mesh,
    /// This machine's user only; nothing is advertised.
    Own,
}

/// The gate; cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    serve: Serve,
    paused: watch::Sender<bool>,
    state: Mutex<State>,
    /// Bytes of own questions on their way, wherever they are answered.
    questions: Semaphore,
    refused: Refused,
}

struct State {
    queue: Queue,
    /// Who waits; no more than the queue lets wait.
    waiting: HashMap<CallId, oneshot::Sender<Result<(), Failure>>>,
}

/// Calls that were turned away.
#[derive(Debug, Default)]
struct Refused {
    full: AtomicU64,
    late: AtomicU64,
    batch: AtomicU64,
    bytes: AtomicU64,
    evicted: AtomicU64,
    closed: AtomicU64,
}

/// A call's place, at work or in the queue; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Gate,
    id: CallId,
    /// While it waits.
    turn: Option<oneshot::Receiver<Result<(), Failure>>>,
    begun: Option<Instant>,
    completed: bool,
}

/// How busy the gate is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) waiting: usize,
    pub(crate) at_work: usize,
    /// Generations that a peer could begin at once.
    pub(crate) free: usize,
    /// Moving average of how long they take.
    pub(crate) service: Option<Duration>,
}

impl Gate {
    pub(crate) fn new(bounds: Bounds, serve: Serve, paused: bool) -> Self {
        let questions = (bounds.bytes / PERMIT).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            serve,
            paused: watch::Sender::new(paused),
            state: Mutex::new(State {
                queue: Queue::new(bounds),
                waiting: HashMap::new(),
            }),
            questions: Semaphore::new(questions),
            refused: Refused::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a place for a call whose answer must have begun within `budget`. Never waits: the place
    /// may be one in the queue.
    pub(crate) fn enter(&self, call: Call, budget: Duration) -> Result<Place, Failure> {
        let mut state = self.state();
        // Under the lock: a pause turns away all who came before it, and this all who come after.
        if call.caller != Caller::Own {
            self.check_open()?;
        }
        let (id, evicted) = state.queue.enter(call, budget).map_err(|r| self.told(r))?;
        if let Some(evicted) = evicted
            && let Some(waits) = state.waiting.remove(&evicted)
        {
            let eviction = state.queue.eviction();
            let _ = waits.send(Err(self.told(eviction)));
        }
        let (grant, mut turn) = oneshot::channel();
        state.waiting.insert(id, grant);
        state.pump();
        drop(state);
        let at_once = matches!(turn.try_recv(), Ok(Ok(())));
        Ok(Place {
            gate: self.clone(),
            id,
            turn: (!at_once).then_some(turn),
            begun: at_once.then(Instant::now),
            completed: false,
        })
    }

    /// Refuses peers while this node answers none.
    fn check_open(&self) -> Result<(), Failure> {
        let refusal = if self.0.serve == Serve::Own {
            Failure::new(
                ErrorKind::PermissionDenied,
                "this peer's experts answer its own user only: ask another",
            )
        } else if *self.0.paused.borrow() {
            paused()
        } else {
            return Ok(());
        };
        self.0.refused.closed.fetch_add(1, Relaxed);
        Err(refusal)
    }

    /// Whether peers are refused, for whichever reason.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.serve == Serve::Own || *self.0.paused.borrow()
    }

    /// Whether peers are refused until [`Gate::pause`] says otherwise.
    pub(crate) fn is_paused(&self) -> bool {
        *self.0.paused.borrow()
    }

    pub(crate) fn serve(&self) -> Serve {
        self.0.serve
    }

    /// Stops answering peers or begins again; answers under way go on, calls that wait are refused.
    /// Whether that was a change.
    pub(crate) fn pause(&self, pause: bool) -> bool {
        let changed = self.0.paused.send_if_modified(|now| {
            let changed = *now != pause;
            *now = pause;
            changed
        });
        if changed && pause {
            let mut state = self.state();
            for id in state.queue.drop_peers() {
                if let Some(waits) = state.waiting.remove(&id) {
                    self.0.refused.closed.fetch_add(1, Relaxed);
                    let _ = waits.send(Err(paused()));
                }
            }
        }
        changed
    }

    /// Changes with [`Gate::is_paused`].
    pub(crate) fn pauses(&self) -> watch::Receiver<bool> {
        self.0.paused.subscribe()
    }

    /// Room for the text of an own question, wherever it is answered.
    pub(crate) fn hold(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Failure> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT)).unwrap_or(u32::MAX);
        self.0.questions.try_acquire_many(permits).map_err(|_| {
            self.0.refused.bytes.fetch_add(1, Relaxed);
            let full = Failure::new(
                ErrorKind::ResourceExhausted,
                "the questions under way fill the memory that is for them: ask again shortly",
            );
            full.retry_after(Duration::from_secs(1))
        })
    }

    /// Counts an own question for which there was no place.
    pub(crate) fn question_refused(&self) {
        self.0.refused.full.fetch_add(1, Relaxed);
    }

    pub(crate) fn crowd(&self) -> Crowd {
        let state = self.state();
        Crowd {
            waiting: state.queue.waiting(),
            at_work: state.queue.at_work(),
            free: state.queue.free_for_peers(),
            service: state.queue.service(),
        }
    }

    /// Refusals since the start, by name.
    pub(crate) fn counters(&self) -> [(&'static str, u64); 6] {
        let refused = &self.0.refused;
        [
            ("calls_refused_full", &refused.full),
            ("calls_refused_late", &refused.late),
            ("calls_refused_batch", &refused.batch),
            ("calls_refused_bytes", &refused.bytes),
            ("calls_refused_closed", &refused.closed),
            ("calls_evicted", &refused.evicted),
        ]
        .map(|(name, count)| (name, count.load(Relaxed)))
    }

    /// A refusal, counted and in words.
    fn told(&self, refusal: Refusal) -> Failure {
        let Refusal {
            why,
            retry_after,
            waiting,
        } = refusal;
        let refused = &self.0.refused;
        let again = format!("ask another replica, or try again in {retry_after:.1?}");
        let (count, message) = match why {
            Why::Full => (
                &refused.full,
                format!("the queue is full ({waiting} calls wait): {again}"),
            ),
            Why::Batch => (
                &refused.batch,
                format!(
                    "many texts at once are taken at quieter times only ({waiting} calls wait): {again}"
                ),
            ),
            Why::Bytes => (
                &refused.bytes,
                format!("the questions that are held here fill the memory for them: {again}"),
            ),
            Why::Late(wait) => (
                &refused.late,
                format!(
                    "the answer could not begin in time: {waiting} calls wait, which takes about {wait:.1?}: allow more time, {again}"
                ),
            ),
            Why::Evicted => (
                &refused.evicted,
                format!(
                    "the queue is full, and a caller with fewer calls in it came before: {again}"
                ),
            ),
        };
        count.fetch_add(1, Relaxed);
        Failure::new(ErrorKind::ResourceExhausted, message).retry_after(retry_after)
    }

    fn leave(&self, id: CallId, took: Duration, completed: bool) {
        let mut state = self.state();
        state.waiting.remove(&id);
        state.queue.leave(id, took, completed);
        state.pump();
    }
}

fn paused() -> Failure {
    let paused = Failure::new(
        ErrorKind::Unavailable,
        "this peer is paused by whoever runs it: ask another, or again later",
    );
    paused.retry_after(PAUSED)
}

impl State {
    /// Tells everybody whose turn it is.
    fn pump(&mut self) {
        while let Some(id) = self.queue.next() {
            // Whoever has gone meanwhile gives the place back as its own is dropped.
            if let Some(waits) = self.waiting.remove(&id) {
                let _ = waits.send(Ok(()));
            }
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.crowd()).finish()
    }
}

impl Place {
    /// Whether its call may begin.
    pub(crate) fn is_ready(&self) -> bool {
        self.turn.is_none()
    }

    /// Waits until its call may begin, or has lost its place. Nothing is lost when this is dropped.
    pub(crate) async fn ready(&mut self) -> Result<(), Failure> {
        let Some(turn) = &mut self.turn else {
            return Ok(());
        };
        let turn = turn.await;
        self.turn = None;
        self.begun = Some(Instant::now());
        turn.unwrap_or_else(|_| {
            Err(Failure::new(
                ErrorKind::Internal,
                "the gate has forgotten a call that waits",
            ))
        })
    }

    /// The answer is complete: how long it took counts.
    pub(crate) fn completed(mut self) {
        self.completed = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let took = self.begun.map_or(Duration::ZERO, |at| at.elapsed());
        self.gate.leave(self.id, took, self.completed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polymath_types::PeerId;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn gate(serve: Serve) -> Gate {
        let bounds = Bounds {
            waiting: 1,
            places: [1, 1, 1],
            peers: None,
            bytes: 1 << 20,
        };
        Gate::new(bounds, serve, false)
    }

    fn question(caller: Caller) -> Call {
        Call {
            caller,
            lane: Lane::Generate,
            class: Class::Interactive,
            bytes: 1,
        }
    }

    fn stranger() -> Call {
        question(Caller::Peer(PeerId::random()))
    }

    #[tokio::test]
    async fn a_place_that_is_dropped_goes_to_whoever_waits() {
        let gate = gate(Serve::Mesh);
        let first = gate.enter(stranger(), LONG).unwrap();
        let mut second = gate.enter(stranger(), LONG).unwrap();
        assert!(first.is_ready() && !second.is_ready());
        let full = gate.enter(stranger(), LONG).unwrap_err();
        assert_eq!(full.kind, ErrorKind::ResourceExhausted);
        assert!(full.retry_after_ms.is_some() && full.message.contains("queue is full"));
        first.completed();
        second.ready().await.unwrap();
        assert!(gate.crowd().service.is_some());
        drop(second);
        // One whose turn came as its caller went away.
        let busy = gate.enter(stranger(), LONG).unwrap();
        let gone = gate.enter(stranger(), LONG).unwrap();
        drop(busy);
        drop(gone);
        let crowd = gate.crowd();
        assert_eq!((crowd.waiting, crowd.at_work, crowd.free), (0, 0, 1));
        assert!(gate.state().waiting.is_empty());
        assert_eq!(gate.counters()[0], ("calls_refused_full", 1));
    }

    #[tokio::test]
    async fn who_loses_its_place_is_told_when_to_come_again() {
        let gate = gate(Serve::Mesh);
        let _busy = gate.enter(stranger(), LONG).unwrap();
        let mut waits = gate.enter(stranger(), LONG).unwrap();
        let own = gate.enter(question(Caller::Own), LONG).unwrap();
        let lost = waits.ready().await.unwrap_err();
        assert_eq!(lost.kind, ErrorKind::ResourceExhausted);
        assert!(lost.retry_after_ms.is_some() && !own.is_ready());
    }

    #[tokio::test]
    async fn a_paused_node_answers_its_own_user_only_and_ends_what_it_began() {
        let gate = gate(Serve::Mesh);
        let at_work = gate.enter(stranger(), LONG).unwrap();
        let mut waits = gate.enter(stranger(), LONG).unwrap();
        assert!(gate.pause(true) && !gate.pause(true) && gate.is_closed());
        for refused in [
            waits.ready().await.unwrap_err(),
            gate.enter(stranger(), LONG).unwrap_err(),
        ] {
            assert_eq!(refused.kind, ErrorKind::Unavailable);
            assert!(refused.message.contains("paused") && refused.retry_after_ms.is_some());
        }
        let mut own = gate.enter(question(Caller::Own), LONG).unwrap();
        at_work.completed();
        own.ready().await.unwrap();
        drop(own);
        assert!(gate.pause(false));
        assert!(gate.enter(stranger(), LONG).unwrap().is_ready());
    }

    #[test]
    fn a_node_for_its_own_user_refuses_all_others_for_good() {
        let gate = gate(Serve::Own);
        let refused = gate.enter(stranger(), LONG).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::PermissionDenied);
        assert_eq!(refused.retry_after_ms, None);
        assert!(gate.enter(question(Caller::Own), LONG).unwrap().is_ready());
    }

    #[test]
    fn own_questions_have_a_bound_too() {
        let gate = gate(Serve::Mesh);
        let held = gate.hold(1 << 20).unwrap();
        assert_eq!(gate.hold(1).unwrap_err().kind, ErrorKind::ResourceExhausted);
        drop(held);
        assert!(gate.hold(1).is_ok());
    }
}
