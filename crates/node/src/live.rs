//! Fast state at work: one task owns the sans-IO [`Live`], carries out its actions, and keeps one
//! `Live/Exchange` stream to every connected member.
//!
//! A stream of its own, not frames among the catalog's: those wait for the disk, and for each other.

mod streams;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use polymath_catalog::live::{
    LIVE_TICK, Live, LiveAction, LiveConfig, LiveCounters, Standing, View,
};
use polymath_net::Net;
use polymath_proto::v1::LiveFrame;
use polymath_rpc::Clients;
use polymath_types::{Failure, LoadReport, MeshId, NodeKey, PeerId};
use tokio::{
    sync::{mpsc, oneshot, watch as watched},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::watch::PROBES;
use crate::home::write_atomic;

/// Commands on their way to the task; senders wait.
const COMMANDS: usize = 256;
/// Frames on their way to one peer; what a slow one does not take is lost, and told again.
const OUTBOUND: usize = 16;
/// Peers of whom something is thought; far above what the table holds at once.
const VIEWS: usize = 2 * LiveConfig::AUTHORS;
/// How long a node that leaves waits for its words to go out.
const FAREWELL: Duration = Duration::from_millis(300);
/// Holds the last incarnation, in the home.
const FILE: &str = "incarnation";

#[derive(Debug)]
enum Command {
    Started {
        peer: PeerId,
        session: u64,
        relayed: bool,
        outbound: mpsc::Sender<LiveFrame>,
    },
    Frame {
        peer: PeerId,
        session: u64,
        frame: LiveFrame,
    },
    Ended {
        peer: PeerId,
        session: u64,
    },
    /// A connection stands.
    Reached(PeerId),
    /// The last connection broke, and none could be made.
    Lost(PeerId),
    Leave(oneshot::Sender<()>),
}

/// Talks to the task; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LiveHandle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    sessions: Arc<AtomicU64>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    /// The clock of the table counts from here.
    begun: Instant,
    views: Mutex<HashMap<PeerId, View>>,
    counters: Mutex<LiveCounters>,
    /// Peers with which a stream stands.
    streams: Mutex<HashSet<PeerId>>,
    twice: watched::Sender<bool>,
}

/// The task before it is spawned.
pub(crate) struct Inbox {
    keeper: Keeper,
    inbox: mpsc::Receiver<Command>,
}

/// What is known of a peer that speaks against asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It says that it leaves, or has left.
    Leaving,
    /// Others have lost it.
    Suspended,
    /// It has not been heard of for so long.
    Silent(Duration),
}

impl Doubt {
    pub(crate) fn words(self) -> String {
        match self {
            Self::Leaving => "has left the mesh".to_owned(),
            Self::Suspended => {
                "was lost by two members that were connected with it; it has not answered since"
                    .to_owned()
            }
            Self::Silent(since) => {
                format!(
                    "has been silent for {} s longer than it may",
                    since.as_secs()
                )
            }
        }
    }
}

/// The file of a home that holds the last incarnation.
pub(crate) fn incarnation_file(home: &Path) -> PathBuf {
    home.join(FILE)
}

/// The last incarnation this home has used, if it has kept one that can be read.
pub(crate) fn last_incarnation(home: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(incarnation_file(home)).ok()?;
    text.trim().parse().ok()
}

/// Begins the next incarnation: durable before anybody hears of it. A home that has lost the last one
/// begins at 1, and steps over what others hold.
pub(crate) fn next_incarnation(home: &Path) -> Result<u64, Failure> {
    let next = last_incarnation(home).unwrap_or(0).wrapping_add(1);
    store(&incarnation_file(home), next)?;
    Ok(next)
}

fn store(file: &Path, incarnation: u64) -> Result<(), Failure> {
    write_atomic(file, format!("{incarnation}\n").as_bytes())
}

/// Sets everything up; [`LiveHandle::run`] begins.
pub(crate) fn open(
    key: NodeKey,
    mesh: MeshId,
    home: &Path,
    passing: bool,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<(LiveHandle, Inbox), Failure> {
    let incarnation = if passing {
        last_incarnation(home).unwrap_or(0)
    } else {
        next_incarnation(home)?
    };
    let live = Live::new(LiveConfig {
        key,
        mesh,
        run: u64::from_be_bytes(crate::unguessable()?),
        started: crate::unix_now(),
        incarnation,
        seed: u64::from_be_bytes(crate::random()),
        authors: LiveConfig::AUTHORS,
    });
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let shared = Arc::new(Shared {
        begun: Instant::now(),
        views: Mutex::default(),
        counters: Mutex::default(),
        streams: Mutex::default(),
        twice: watched::Sender::new(false),
    });
    let handle = LiveHandle {
        commands,
        shared: Arc::clone(&shared),
        sessions: Arc::default(),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
    };
    let keeper = Keeper {
        live,
        shared,
        file: incarnation_file(home),
        peers: HashMap::new(),
        probes: None,
    };
    Ok((handle, Inbox { keeper, inbox }))
}

impl LiveHandle {
    /// Spawns the task, and what feeds it. `load` says how busy this node is.
    pub(crate) fn run(
        &self,
        inbox: Inbox,
        net: &Net,
        clients: &Clients,
        load: impl Fn() -> LoadReport + Send + Sync + 'static,
    ) {
        let (probes, wanted) = mpsc::channel(PROBES);
        let Inbox { mut keeper, inbox } = inbox;
        keeper.probes = Some(probes);
        self.tasks
            .spawn(keeper.run(inbox, load, self.cancel.clone()));
        let (this, net, clients) = (self.clone(), net.clone(), clients.clone());
        self.tasks.spawn(this.clone().follow(net.clone(), clients));
        self.tasks.spawn(this.watch(net, wanted));
    }

    /// What speaks against asking `peer`, as far as others have told.
    pub(crate) fn doubt(&self, peer: &PeerId) -> Option<Doubt> {
        let now = self.shared.begun.elapsed();
        let view = *self.shared.views().get(peer)?;
        match view.standing {
            // It may have come back, and not everybody has heard of it.
            Standing::Leaving if view.fresh_until >= now => Some(Doubt::Leaving),
            Standing::Suspended => Some(Doubt::Suspended),
            _ if view.fresh_until < now => Some(Doubt::Silent(now - view.fresh_until)),
            _ => None,
        }
    }

    /// Peers that were lost, as long as that is held against them, and that left, while what they last said is
    /// good.
    pub(crate) fn gone(&self) -> Vec<PeerId> {
        let now = self.shared.begun.elapsed();
        let views = self.shared.views();
        let gone = views.iter().filter(|(_, v)| match v.standing {
            Standing::Suspended => true,
            Standing::Leaving => v.fresh_until > now,
            Standing::Alive => false,
        });
        gone.map(|(peer, _)| *peer).collect()
    }

    /// The load that `peer` last told everybody, while that is good.
    pub(crate) fn load(&self, peer: &PeerId) -> Option<LoadReport> {
        let view = *self.shared.views().get(peer)?;
        (view.fresh_until > self.shared.begun.elapsed()).then_some(view.load)
    }

    /// What was taken and refused so far.
    pub(crate) fn counters(&self) -> LiveCounters {
        let counters = self.shared.counters.lock();
        counters.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until another run of this identity is known to go on in this one's stead.
    pub(crate) async fn runs_twice(&self) {
        let mut twice = self.shared.twice.subscribe();
        if twice.wait_for(|twice| *twice).await.is_err() {
            std::future::pending().await
        }
    }

    /// Tells every peer that this node leaves, and gives the words time to go out.
    pub(crate) async fn leave(&self) {
        let (said, done) = oneshot::channel();
        let leaving = async {
            if self.commands.send(Command::Leave(said)).await.is_ok() && done.await.is_ok() {
                tokio::time::sleep(FAREWELL).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL * 4, leaving).await;
    }
}

impl Shared {
    fn views(&self) -> MutexGuard<'_, HashMap<PeerId, View>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, HashSet<PeerId>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, peer: PeerId, view: View) {
        let mut views = self.views();
        if views.len() >= VIEWS && !views.contains_key(&peer) {
            let now = self.begun.elapsed();
            views.retain(|_, v| v.fresh_until > now);
        }
        if views.len() < VIEWS || views.contains_key(&peer) {
            views.insert(peer, view);
        }
    }
}

/// The task's state.
struct Keeper {
    live: Live,
    shared: Arc<Shared>,
    file: PathBuf,
    /// The newest stream of each peer.
    peers: HashMap<PeerId, (u64, mpsc::Sender<LiveFrame>)>,
    probes: Option<mpsc::Sender<PeerId>>,
}

impl Keeper {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Command>,
        load: impl Fn() -> LoadReport + Send + Sync,
        cancel: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(LIVE_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (actions, said) = tokio::select! {
                () = cancel.cancelled() => return,
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                _ = tick.tick() => (self.live.tick(self.now(), load()), None),
            };
            self.carry_out(actions).await;
            if let Some(said) = said {
                let _: Result<(), ()> = said.send(());
            }
        }
    }

    fn now(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    fn obey(&mut self, command: Command) -> (Vec<LiveAction>, Option<oneshot::Sender<()>>) {
        let now = self.now();
        let actions = match command {
            Command::Started {
                peer,
                session,
                relayed,
                outbound,
            } => {
                self.peers.insert(peer, (session, outbound));
                self.shared.streams().insert(peer);
                self.live.peer_connected(now, peer, relayed)
            }
            Command::Frame {
                peer,
                session,
                frame,
            } if self.is_current(&peer, session) => {
                self.live.receive(now, peer, frame).unwrap_or_else(|e| {
                    tracing::warn!(%peer, "its stream of fast state is closed: {e}");
                    self.end(&peer);
                    Vec::new()
                })
            }
            Command::Ended { peer, session } if self.is_current(&peer, session) => {
                self.end(&peer);
                Vec::new()
            }
            Command::Frame { .. } | Command::Ended { .. } => Vec::new(),
            Command::Reached(peer) => self.live.reached(now, peer),
            Command::Lost(peer) => {
                self.end(&peer);
                self.live.lost(now, peer)
            }
            Command::Leave(said) => return (self.live.leave(now), Some(said)),
        };
        (actions, None)
    }

    fn is_current(&self, peer: &PeerId, session: u64) -> bool {
        let current = self.peers.get(peer);
        current.is_some_and(|(current, _)| *current == session)
    }

    fn end(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
        self.shared.streams().remove(peer);
        self.live.peer_disconnected(peer);
    }

    async fn carry_out(&mut self, actions: Vec<LiveAction>) {
        for action in actions {
            match action {
                LiveAction::Incarnation(n) => {
                    tracing::info!(
                        "others hold a later state of this node than its home: it goes on as incarnation {n}"
                    );
                    let file = self.file.clone();
                    let written = tokio::task::spawn_blocking(move || store(&file, n)).await;
                    if let Ok(Err(e)) = written {
                        tracing::error!("{e}");
                    }
                }
                LiveAction::Send { peer, frame } => {
                    if let Some((_, outbound)) = self.peers.get(&peer) {
                        // A peer that reads too slowly misses something; it is told again.
                        let _ = outbound.try_send(frame);
                    }
                }
                LiveAction::View { peer, view } => {
                    let before = self.shared.views().get(&peer).map(|v| v.standing);
                    if before != Some(view.standing) {
                        tracing::debug!(%peer, standing = ?view.standing, "fast state");
                    }
                    self.shared.note(peer, view);
                }
                LiveAction::Forgotten(peer) => {
                    self.shared.views().remove(&peer);
                }
                LiveAction::Probe(peer) => {
                    if let Some(probes) = &self.probes {
                        let _ = probes.try_send(peer);
                    }
                }
                LiveAction::RunsTwice => {
                    self.shared.twice.send_replace(true);
                }
                _ => {}
            }
        }
        let mut counters = self
            .shared
            .counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counters.clone_from(self.live.counters());
    }
}
