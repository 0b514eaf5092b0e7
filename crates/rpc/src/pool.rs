//! The lanes this node has opened to its peers.
//!
//! Calls of one peer and class share few lanes; another lane is opened when those are well filled. A
//! lane through a relay is left to the calls on it as soon as there is a better path. Lanes without
//! calls end after a while, so that they keep no connection open.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::Context,
    time::Duration,
};

use polymath_net::{MeshStream, Net, OpenError};
use polymath_proto::v1;
use polymath_types::{Format, PathKind, PeerId};
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
const CALLS_TO_A_PEER: usize = 1024;
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
            "/polymath.v1.Expert/Generate" | "/polymath.v1.Catalog/Sync" => Self::Streaming,
            _ => Self::Interactive,
        }
    }
}

/// Clones mean the same lanes.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    net: Net,
    peers: Arc<Mutex<HashMap<PeerId, Peer>>>,
}

#[derive(Debug)]
struct Peer {
    classes: [Lanes; Class::COUNT],
    calls: Arc<Semaphore>,
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
    pub(crate) fn new(net: Net) -> Self {
        Self {
            net,
            peers: Arc::default(),
        }
    }

    /// A place for one more call to `peer`, free when its reply has ended.
    pub(crate) async fn place(&self, peer: PeerId) -> Result<OwnedSemaphorePermit, Status> {
        let calls = self.with(peer, |p| Arc::clone(&p.calls));
        // Never closed.
        let place = calls.acquire_owned().await;
        place.map_err(|e| Status::internal(e.to_string()))
    }

    /// The lane for the next call.
    pub(crate) async fn lane(&self, peer: PeerId, class: Class) -> Result<CallerLane, Status> {
        let open = self.connect(peer, class, OPENING).await;
        open.map_err(|e| {
            let why = LaneError::Lost(e.to_string().into());
            broken(why)
        })
    }

    /// The same, within a time, with the opening's own error.
    pub(crate) async fn connect(
        &self,
        peer: PeerId,
        class: Class,
        within: Duration,
    ) -> Result<CallerLane, ConnectError> {
        match self.choose(peer, class) {
            Choice::Take(lane) => return Ok(lane),
            Choice::TakeAndOpen(lane, opening) => {
                // The next calls find the new one.
                if let Ok(opening) = opening.try_lock_owned() {
                    let pool = self.clone();
                    self.spawn(async move {
                        let _opening = opening;
                        let _ = pool.open(peer, class, OPENING).await;
                    });
                }
                return Ok(lane);
            }
            Choice::Open(opening) => {
                let until = Instant::now() + within;
                let late = || {
                    ConnectError::Open(OpenError::Timeout {
                        peer,
                        protocol: CALLS.to_owned(),
                        within,
                    })
                };
                let opening = tokio::time::timeout_at(until, opening.lock_owned());
                // Whoever was first took the time; had it been us, its own error would tell more.
                let _opening = opening.await.map_err(|_| late())?;
                if let Choice::Take(lane) | Choice::TakeAndOpen(lane, _) = self.choose(peer, class)
                {
                    return Ok(lane);
                }
                let left = until.saturating_duration_since(Instant::now());
                self.open(peer, class, left).await
            }
        }
    }

    /// Leaves all lanes to a peer to the calls on them.
    pub(crate) fn forget(&self, peer: &PeerId) {
        if let Some(peer) = self.lock().remove(peer) {
            peer.retire();
        }
    }

    /// Ends what nobody has used for a while.
    pub(crate) fn reap(&self) {
        self.lock().retain(|_, p| {
            let keep = p.used.elapsed() < IDLE || p.busy();
            if !keep {
                p.retire();
            }
            keep
        });
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn choose(&self, peer: PeerId, class: Class) -> Choice {
        let path = self.net.path_to(&peer);
        self.with(peer, |p| {
            let lanes = &mut p.classes[class as usize];
            lanes.open.retain(|l| {
                let better = l.path == PathKind::Relayed
                    && path.is_some_and(|path| path != PathKind::Relayed);
                if better {
                    l.lane.retire();
                }
                l.lane.is_open()
            });
            let opening = Arc::clone(&lanes.opening);
            let least = lanes.open.iter().map(|l| (l.lane.calls(), l));
            match least.min_by_key(|(calls, _)| *calls) {
                None => Choice::Open(opening),
                Some((calls, lane)) if calls >= FILLED && lanes.open.len() < MOST_LANES => {
                    Choice::TakeAndOpen(lane.clone(), opening)
                }
                Some((_, lane)) => Choice::Take(lane.clone()),
            }
        })
    }

    /// Opens a lane and enters it.
    async fn open(
        &self,
        peer: PeerId,
        class: Class,
        within: Duration,
    ) -> Result<CallerLane, ConnectError> {
        let connected = self.net.path_to(&peer).is_some();
        let may = self.with(peer, |p| match connected {
            true => Ok(()),
            false => p.breaker.may_try(Instant::now()),
        });
        may.map_err(|why| ConnectError::Paused { peer, why })?;
        let opened = self.net.open(peer, CALLS, within).await;
        self.with(peer, |p| match &opened {
            Ok(_) => p.breaker.succeeded(),
            Err(e) => p.breaker.failed(Instant::now(), &e.to_string()),
        });
        let stream = opened?;
        let path = stream.path();
        let lane = self.begin(stream, path);
        self.with(peer, |p| p.classes[class as usize].open.push(lane.clone()));
        Ok(lane)
    }

    fn begin(&self, stream: MeshStream, path: PathKind) -> CallerLane {
        let lane = Lane::new();
        let hello = v1::Hello {
            version: Format::Wire.current(),
        };
        lane.put(|out| frame::put(out, Kind::Hello, false, 0, &hello.encode_to_vec()));
        let peer = stream.peer();
        let driver = Driver::new(Arc::clone(&lane), stream, Caller);
        self.spawn(async move {
            if let Err(why) = driver.await {
                tracing::debug!(%peer, "calls to a peer ended: {why}");
            }
        });
        CallerLane {
            lane,
            next: Arc::new(AtomicU32::new(1)),
            path,
        }
    }

    fn with<T>(&self, peer: PeerId, look: impl FnOnce(&mut Peer) -> T) -> T {
        let mut peers = self.lock();
        if !peers.contains_key(&peer) && peers.len() >= MOST_PEERS {
            let oldest = peers.iter().min_by_key(|(_, p)| p.used).map(|(id, _)| *id);
            if let Some(gone) = oldest.and_then(|id| peers.remove(&id)) {
                gone.retire();
            }
        }
        let entry = peers.entry(peer).or_insert_with(Peer::new);
        entry.used = Instant::now();
        look(entry)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Choice {
    Take(CallerLane),
    TakeAndOpen(CallerLane, Arc<tokio::sync::Mutex<()>>),
    Open(Arc<tokio::sync::Mutex<()>>),
}

impl Peer {
    fn new() -> Self {
        Self {
            classes: Default::default(),
            calls: Arc::new(Semaphore::new(CALLS_TO_A_PEER)),
            breaker: Breaker::default(),
            used: Instant::now(),
        }
    }

    fn busy(&self) -> bool {
        let mut lanes = self.classes.iter().flat_map(|c| &c.open);
        lanes.any(|l| l.lane.calls() > 0)
    }

    fn retire(&self) {
        for lane in self.classes.iter().flat_map(|c| &c.open) {
            lane.lane.retire();
        }
    }
}

/// The calling side of a lane.
struct Caller;

impl Role for Caller {
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
        if idle >= IDLE {
            lane.retire();
        }
        !lane.is_open()
    }

    fn poll(&mut self, _: &Arc<Lane>, _: &mut Context<'_>) -> Result<(), LaneError> {
        Ok(())
    }
}
