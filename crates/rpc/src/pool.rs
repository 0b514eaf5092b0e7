//! The lanes this node has opened to its peers.
//!
//! Calls of one peer and class share few lanes; another lane is opened when those are well filled. A
//! lane through a relay is left to the calls on it as soon as there is a better path. Lanes without
//! calls end after a while, so that they keep no connection open.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::Context,
    time::Duration,
};

use polymath_net::{MeshStream, Net, OpenError};
use polymath_proto::v1;
use polymath_types::{Format, LoadReport, PathKind, PeerId};
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tonic::Status;

use crate::{
    body::broken,
    breaker::Breaker,
    clients::ConnectError,
    convert::load_from_proto,
    frame::{self, Frame, Kind, LARGEST},
    lane::{Call, Driver, Lane, LaneError, Role, Windows},
    server::CALLS,
};

/// Peers with lanes at once; those unused for longest go first.
const MOST_PEERS: usize = 512;
/// A lane without calls keeps its connection alive, so it ends after this.
const IDLE: Duration = Duration::from_secs(90);
/// Calls on a lane from which on another one is opened.
const FILLED: usize = 64;
/// Lanes of one peer and class.
const MOST_LANES: usize = 4;
/// Calls to one peer at once. What is more waits for the others' ends.
pub(crate) const CALLS_TO_A_PEER: usize = 1024;
/// Opening a lane that a call could not wait for.
const OPENING: Duration = Duration::from_secs(5);

/// What a caller may have sent before the handler has taken it, and the handler before the caller.
pub(crate) const REQUEST_WINDOW: usize = 256 << 10;
pub(crate) const REPLY_WINDOW: usize = 1 << 20;

/// Which calls share a lane: those that would not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Class {
    /// Short questions and answers.
    Interactive,
    /// Answers that come in many pieces.
    Streaming,
    /// Large messages.
    Bulk,
}

impl Class {
    const COUNT: usize = 3;

    pub(crate) fn of(method: &str, first: usize) -> Self {
        match method {
            _ if first > LARGEST => Self::Bulk,
            "/polymath.v1.Expert/Generate"
            | "/polymath.v1.Catalog/Sync"
            | "/polymath.v1.Live/Exchange" => Self::Streaming,
            "/polymath.v1.Files/Read" => Self::Bulk,
            _ => Self::Interactive,
        }
    }
}

/// Clones mean the same lanes.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    net: Net,
    peers: Arc<Mutex<HashMap<PeerId, Arc<Peer>>>>,
    heard: Heard,
}

/// Told the load of a peer whenever a call to it ends.
#[derive(Clone)]
pub(crate) struct Heard(pub(crate) Arc<dyn Fn(PeerId, LoadReport) + Send + Sync>);

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heard")
    }
}

/// What this node has open to one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    net: Net,
    id: PeerId,
    calls: Arc<Semaphore>,
    heard: Heard,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    classes: [Lanes; Class::COUNT],
    breaker: Breaker,
    used: Instant,
}

#[derive(Debug, Default)]
struct Lanes {
    open: Vec<CallerLane>,
    /// Held by whoever opens one, so that many first calls share it.
    opening: Arc<tokio::sync::Mutex<()>>,
}

/// A lane on which this node calls.
#[derive(Debug, Clone)]
pub(crate) struct CallerLane {
    lane: Arc<Lane>,
    next: Arc<AtomicU32>,
    path: PathKind,
}

impl CallerLane {
    /// Runs a lane over a fresh stream.
    fn begin(stream: MeshStream) -> Self {
        let (path, peer) = (stream.path(), stream.peer());
        let lane = Lane::new(peer);
        let hello = v1::Hello {
            version: Format::Wire.current(),
        };
        lane.put(|out| frame::put(out, Kind::Hello, false, 0, &hello.encode_to_vec()));
        let driver = Driver::new(Arc::clone(&lane), stream, Caller { idle: IDLE });
        tokio::spawn(async move {
            if let Err(why) = driver.await {
                tracing::debug!(%peer, "calls to a peer ended: {why}");
            }
        });
        Self {
            lane,
            next: Arc::new(AtomicU32::new(1)),
            path,
        }
    }

    /// A new call on it.
    pub(crate) fn enter(&self) -> Result<Arc<Call>, LaneError> {
        let id = self.next.fetch_add(1, Relaxed);
        // Numbers are not used twice: long before they run out, another lane takes over.
        if id > u32::MAX / 2 {
            self.lane.retire();
        }
        let windows = Windows {
            theirs: REPLY_WINDOW,
            ours: REQUEST_WINDOW,
        };
        let call = Call::new(&self.lane, id, windows);
        self.lane.enter(&call)?;
        Ok(call)
    }
}

impl Pool {
    pub(crate) fn new(net: Net, heard: Heard) -> Self {
        Self {
            net,
            peers: Arc::default(),
            heard,
        }
    }

    /// What is open to `peer`; nothing yet, perhaps.
    pub(crate) fn peer(&self, peer: PeerId) -> Arc<Peer> {
        let mut peers = self.lock();
        if let Some(known) = peers.get(&peer) {
            return Arc::clone(known);
        }
        if peers.len() >= MOST_PEERS {
            let oldest = peers.iter().min_by_key(|(_, p)| p.state().used);
            if let Some(gone) = oldest.map(|(id, _)| *id).and_then(|id| peers.remove(&id)) {
                gone.retire();
            }
        }
        let new = Arc::new(Peer::new(self.net.clone(), peer, self.heard.clone()));
        peers.insert(peer, Arc::clone(&new));
        new
    }

    /// Leaves all lanes to a peer to the calls on them.
    pub(crate) fn forget(&self, peer: &PeerId) {
        // Its breaker and its places stay: calls under way still count, and so do failures.
        if let Some(peer) = self.lock().get(peer) {
            peer.retire();
        }
    }

    /// Ends what nobody has used for a while.
    pub(crate) fn reap(&self) {
        self.lock().retain(|_, peer| {
            let keep = peer.is_busy() || peer.state().used.elapsed() < IDLE;
            if !keep {
                peer.retire();
            }
            keep
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    fn new(net: Net, id: PeerId, heard: Heard) -> Self {
        Self {
            net,
            id,
            calls: Arc::new(Semaphore::new(CALLS_TO_A_PEER)),
            heard,
            state: Mutex::new(State {
                classes: Default::default(),
                breaker: Breaker::default(),
                used: Instant::now(),
            }),
        }
    }

    /// Takes note of the load that a call's end came with.
    pub(crate) fn heard(&self, load: Option<v1::Load>) {
        if let Some(load) = load_from_proto(load) {
            (self.heard.0)(self.id, load);
        }
    }

    /// A place for one more call, free when its reply has ended.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let calls = Arc::clone(&self.calls);
        if let Ok(place) = Arc::clone(&calls).try_acquire_owned() {
            return Ok(place);
        }
        // Never closed.
        let place = calls.acquire_owned().await;
        place.map_err(|e| Status::internal(e.to_string()))
    }

    /// The lane for the next call.
    pub(crate) async fn lane(self: &Arc<Self>, class: Class) -> Result<CallerLane, Status> {
        let lane = self.connect(class, OPENING).await;
        lane.map_err(|e| broken(LaneError::Lost(e.to_string().into())))
    }

    /// The same, within a time, with the opening's own error.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        class: Class,
        within: Duration,
    ) -> Result<CallerLane, ConnectError> {
        match self.choose(class) {
            Choice::Take(lane) => Ok(lane),
            Choice::TakeAndOpen(lane, opening) => {
                // The next calls find the new one.
                if let Ok(opening) = opening.try_lock_owned() {
                    let peer = Arc::clone(self);
                    tokio::spawn(async move {
                        let _opening = opening;
                        // Another call may have opened it meanwhile.
                        if matches!(peer.choose(class), Choice::TakeAndOpen(..)) {
                            let _ = peer.open(class, OPENING).await;
                        }
                    });
                }
                Ok(lane)
            }
            Choice::Open(opening) => {
                let until = Instant::now() + within;
                let opening = tokio::time::timeout_at(until, opening.lock_owned());
                // Whoever was first took the time; had it been us, its own error would tell more.
                let _opening = opening.await.map_err(|_| OpenError::Timeout {
                    peer: self.id,
                    protocol: CALLS.to_owned(),
                    within,
                })?;
                if let Choice::Take(lane) | Choice::TakeAndOpen(lane, _) = self.choose(class) {
                    return Ok(lane);
                }
                let left = until.saturating_duration_since(Instant::now());
                self.open(class, left).await
            }
        }
    }

    fn choose(&self, class: Class) -> Choice {
        let mut state = self.state();
        state.used = Instant::now();
        let lanes = &mut state.classes[class as usize];
        lanes.open.retain(|l| {
            if l.path == PathKind::Relayed && self.has_better_path() {
                l.lane.retire();
            }
            l.lane.is_open()
        });
        let least = lanes.open.iter().map(|l| (l.lane.calls(), l));
        match least.min_by_key(|(calls, _)| *calls) {
            None => Choice::Open(Arc::clone(&lanes.opening)),
            Some((calls, lane)) if calls >= FILLED && lanes.open.len() < MOST_LANES => {
                Choice::TakeAndOpen(lane.clone(), Arc::clone(&lanes.opening))
            }
            Some((_, lane)) => Choice::Take(lane.clone()),
        }
    }

    /// Whether there is a path without a relay.
    fn has_better_path(&self) -> bool {
        let path = self.net.path_to(&self.id);
        path.is_some_and(|path| path != PathKind::Relayed)
    }

    /// Opens a lane and enters it.
    async fn open(&self, class: Class, within: Duration) -> Result<CallerLane, ConnectError> {
        // Whoever is connected is no longer out of reach.
        if self.net.path_to(&self.id).is_none() {
            let may = self.state().breaker.may_try(Instant::now());
            may.map_err(|why| ConnectError::Paused { peer: self.id, why })?;
        }
        let opened = self.net.open(self.id, CALLS, within).await;
        let mut state = self.state();
        match opened {
            Ok(stream) => {
                state.breaker.succeeded();
                let lane = CallerLane::begin(stream);
                state.classes[class as usize].open.push(lane.clone());
                Ok(lane)
            }
            Err(e) => {
                // That a caller had no time left says nothing of the peer.
                if within >= OPENING || !matches!(e, OpenError::Timeout { .. }) {
                    state.breaker.failed(Instant::now(), &e.to_string());
                }
                Err(e.into())
            }
        }
    }

    fn is_busy(&self) -> bool {
        let state = self.state();
        let mut lanes = state.classes.iter().flat_map(|c| &c.open);
        lanes.any(|l| l.lane.calls() > 0)
    }

    fn retire(&self) {
        for lane in self.state().classes.iter().flat_map(|c| &c.open) {
            lane.lane.retire();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Choice {
    Take(CallerLane),
    TakeAndOpen(CallerLane, Arc<tokio::sync::Mutex<()>>),
    Open(Arc<tokio::sync::Mutex<()>>),
}

/// The calling side of a lane.
pub(crate) struct Caller {
    /// Without calls for this long it ends.
    pub(crate) idle: Duration,
}

impl Role for Caller {
    const ANSWERS: bool = false;

    fn frame(&mut self, lane: &Arc<Lane>, frame: Frame) -> Result<(), LaneError> {
        match frame.kind {
            Kind::GoAway => {
                lane.retire();
                Ok(())
            }
            _ => Err(LaneError::protocol("a server that calls")),
        }
    }

    fn may_end(&mut self, lane: &Arc<Lane>, idle: Duration) -> bool {
        if idle >= self.idle {
            lane.retire();
        }
        !lane.is_open()
    }

    fn poll(&mut self, _: &Arc<Lane>, _: &mut Context<'_>) -> Result<(), LaneError> {
        Ok(())
    }
}
