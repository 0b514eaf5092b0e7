//! The catalog at work: one task, on a thread of its own, owns the sans-IO [`Catalog`], carries out its actions, and
//! keeps one `Sync` stream to every connected peer.
//!
//! News go into a short queue; answers are made one by one, each when the one before is on its way.
//! A stream that takes another's place ends the other at once, with all that waits in it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{FuturesUnordered, PollNext, select_with_strategy},
};
use polymath_catalog::{Action, Catalog, CharterEdit, Counters, FRAME_BYTES, Offer};
use polymath_net::{Membership, Net, NetEvent};
use polymath_proto::v1::SyncFrame;
use polymath_rpc::Clients;
use polymath_types::{Cell, ErrorKind, Evidence, ExpertCard, Failure, Index, PeerId};
use tokio::sync::{broadcast::error::RecvError, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::Streaming;

use crate::{
    charter,
    records::{Changes, RecordStore, Records, is_damaged},
};

/// News on their way to one peer; a peer that reads slower loses its stream and begins anew.
const OUTBOUND: usize = 64;
/// Commands on their way to the catalog's task; senders wait.
const COMMANDS: usize = 32;
/// Commands whose records are written together at most.
const GROUP: usize = 32;
/// How often digests are compared although nothing changed.
const TICK: Duration = Duration::from_secs(30);
/// Time to open a stream.
const OPEN: Duration = Duration::from_secs(10);
/// Pauses between tries to open a stream to a connected peer; a stream that held for the longest
/// one starts them anew.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Command {
    Started {
        peer: PeerId,
        session: u64,
        link: Link,
    },
    Frame {
        peer: PeerId,
        session: u64,
        frame: SyncFrame,
    },
    Ended {
        peer: PeerId,
        session: u64,
    },
    Offer {
        offer: Offer,
        cards: Vec<Arc<ExpertCard>>,
    },
    Import {
        frames: Vec<SyncFrame>,
        /// What was taken and refused before, and after.
        reply: Told<(Counters, Counters)>,
    },
    Charter {
        edit: CharterEdit,
        reply: Told<bool>,
    },
    Observed {
        seen: Vec<(Cell, Evidence)>,
    },
}

/// What came of a command, told when it is on the disk.
type Told<T> = oneshot::Sender<Result<T, Failure>>;

/// Whoever waits until all is on the disk; told whether it is.
struct Waiting(Box<dyn FnOnce(Result<(), Failure>) + Send>);

impl Waiting {
    fn new<T: Send + 'static>(reply: Told<T>, outcome: T) -> Self {
        Self(Box::new(|written| {
            let _ = reply.send(written.map(|()| outcome));
        }))
    }
}

/// The keeper's end of a session; dropping it ends the session.
#[derive(Debug)]
struct Link {
    news: mpsc::Sender<SyncFrame>,
    answers: mpsc::Sender<SyncFrame>,
    /// There are answers to be fetched, and this waits for room for one.
    answering: bool,
    _end: DropGuard,
}

/// A new session's two ends, and what tells that it is over.
fn link() -> (
    Link,
    impl Stream<Item = SyncFrame> + use<>,
    CancellationToken,
) {
    let (news, waiting) = mpsc::channel(OUTBOUND);
    let (answers, asked_for) = mpsc::channel(1);
    let over = CancellationToken::new();
    let link = Link {
        news,
        answers,
        answering: false,
        _end: over.clone().drop_guard(),
    };
    let frames = select_with_strategy(
        ReceiverStream::new(waiting),
        ReceiverStream::new(asked_for),
        |(): &mut ()| PollNext::Left,
    );
    let frames = frames.take_until(over.clone().cancelled_owned());
    (link, frames, over)
}

/// Talks to the catalog's task; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SyncHandle {
    commands: mpsc::Sender<Command>,
    sessions: Arc<AtomicU64>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    trouble: Trouble,
    store: Arc<Mutex<RecordStore>>,
    /// Told whenever there is another index.
    changed: watch::Sender<()>,
}

/// Why the store cannot be written, while that is so.
type Trouble = Arc<Mutex<Option<String>>>;

/// Starts the task that owns `catalog`.
pub(crate) fn start(
    catalog: Catalog,
    store: RecordStore,
    index: Arc<ArcSwap<Index>>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> SyncHandle {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let store = Arc::new(Mutex::new(store));
    let handle = SyncHandle {
        commands,
        sessions: Arc::default(),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
        trouble: Trouble::default(),
        store: Arc::clone(&store),
        changed: watch::Sender::new(()),
    };
    index.store(catalog.index());
    let keeper = Keeper {
        catalog,
        store,
        index,
        changed: handle.changed.clone(),
        peers: HashMap::new(),
        room: FuturesUnordered::new(),
        unwritten: Changes::new(),
        waiting: Vec::new(),
        trouble: Arc::clone(&handle.trouble),
    };
    // A thread of its own: to apply strangers' changes takes milliseconds each, and the runtime's workers are for
    // those who wait for answers.
    let (runtime, cancel) = (tokio::runtime::Handle::current(), cancel.clone());
    tasks.spawn_blocking(move || runtime.block_on(keeper.run(inbox, cancel)));
    handle
}

impl SyncHandle {
    /// Every record, as the disk has it.
    pub(crate) async fn records(&self) -> Result<Records, Failure> {
        let store = Arc::clone(&self.store);
        let read = tokio::task::spawn_blocking(move || {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            store.read().map_err(|e| e.to_string())
        });
        let read = read.await.unwrap_or_else(|e| Err(e.to_string()));
        read.map_err(|e| {
            let what = format!("the catalog's store cannot be read: {e}");
            Failure::new(ErrorKind::DataLoss, what)
        })
    }

    /// Takes what a file holds; what was taken and refused before, and after.
    pub(crate) async fn import(
        &self,
        frames: Vec<SyncFrame>,
    ) -> Result<(Counters, Counters), Failure> {
        self.told(|reply| Command::Import { frames, reply }).await
    }

    /// Gives a command, and waits until what it changes is on the disk.
    async fn told<T>(&self, command: impl FnOnce(Told<T>) -> Command) -> Result<T, Failure> {
        let stopping = || Failure::new(ErrorKind::Unavailable, "the node is stopping: try again");
        let (reply, done) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| stopping())?;
        done.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Lays something down; whether that changed anything, when it is on the disk.
    pub(crate) async fn edit_charter(&self, edit: CharterEdit) -> Result<bool, Failure> {
        self.told(|reply| Command::Charter { edit, reply }).await
    }

    /// Told whenever there is another index.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Why the catalog's store cannot be written, while that is so: until it can, nothing is exchanged.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes what this node serves.
    pub(crate) async fn offer(&self, offer: Offer, cards: Vec<Arc<ExpertCard>>) {
        let _ = self.commands.send(Command::Offer { offer, cards }).await;
    }

    /// Says what this node has seen of experts; all of it, each time.
    pub(crate) async fn observe(&self, seen: Vec<(Cell, Evidence)>) {
        let _ = self.commands.send(Command::Observed { seen }).await;
    }

    /// A peer opened a stream to us: its frames go to the catalog, the catalog's come back.
    pub(crate) fn session(
        &self,
        peer: PeerId,
        inbound: Streaming<SyncFrame>,
    ) -> impl Stream<Item = SyncFrame> + use<> {
        let (link, frames, over) = link();
        let this = self.clone();
        self.tasks
            .spawn(async move { this.read(peer, link, over, inbound).await });
        frames
    }

    async fn read(
        &self,
        peer: PeerId,
        link: Link,
        over: CancellationToken,
        mut inbound: Streaming<SyncFrame>,
    ) {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        if self
            .commands
            .send(Command::Started {
                peer,
                session,
                link,
            })
            .await
            .is_err()
        {
            return;
        }
        loop {
            let next = tokio::select! {
                next = inbound.next() => next,
                () = over.cancelled() => None,
                () = self.cancel.cancelled() => None,
            };
            match next {
                Some(Ok(frame)) => {
                    if self
                        .commands
                        .send(Command::Frame {
                            peer,
                            session,
                            frame,
                        })
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Some(Err(e)) => {
                    tracing::debug!(%peer, "catalog stream ended: {}", e.message());
                    break;
                }
                _ => break,
            }
        }
        let _ = self.commands.send(Command::Ended { peer, session }).await;
    }

    /// Opens a stream to every peer that connects, if it is ours to open: of two peers the one
    /// with the smaller id does.
    pub(crate) async fn follow(self, net: Net, clients: Clients) {
        let mut events = net.events();
        let mut open: HashMap<PeerId, tokio::task::JoinHandle<()>> = HashMap::new();
        loop {
            let connected: Vec<PeerId> = net
                .peers()
                .into_iter()
                .filter(|p| p.membership == Membership::Member && net.local_peer() < p.peer)
                .map(|p| p.peer)
                .collect();
            open.retain(|_, task| !task.is_finished());
            for peer in connected {
                open.entry(peer).or_insert_with(|| {
                    let (this, net, clients) = (self.clone(), net.clone(), clients.clone());
                    self.tasks
                        .spawn(async move { this.keep_open(peer, net, clients).await })
                });
            }
            tokio::select! {
                () = self.cancel.cancelled() => return,
                event = events.recv() => match event {
                    Err(RecvError::Closed) => return,
                    // A stream on a circuit would keep it, and pay for it, for ever.
                    Ok(NetEvent::PathChanged { peer }) => {
                        if let Some(task) = open.remove(&peer) {
                            task.abort();
                        }
                    }
                    _ => {}
                },
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn keep_open(&self, peer: PeerId, net: Net, clients: Clients) {
        let mut pause = FIRST_PAUSE;
        while net.peers().iter().any(|p| p.peer == peer) && !self.cancel.is_cancelled() {
            let begun = tokio::time::Instant::now();
            if let Err(why) = self.dial(peer, &clients).await {
                tracing::debug!(%peer, "no catalog stream: {why}");
            }
            // A peer that ends every stream at once, because it cannot write, is left in peace.
            if begun.elapsed() >= LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn dial(&self, peer: PeerId, clients: &Clients) -> Result<(), String> {
        let client = clients.catalog(peer, OPEN).await;
        let client = client.map_err(|e| e.to_string())?;
        let mut client = client.max_decoding_message_size(FRAME_BYTES);
        let (link, frames, over) = link();
        // The server answers with its own stream at once, before our first frame.
        let opened = tokio::time::timeout(OPEN, client.sync(frames)).await;
        let inbound = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(status.message().to_owned()),
            Err(_) => return Err(format!("no answer within {OPEN:?}")),
        };
        self.read(peer, link, over, inbound).await;
        Ok(())
    }
}

/// Room for an answer on a session's way, or nothing if it is over.
type Room = (PeerId, u64, Option<mpsc::OwnedPermit<SyncFrame>>);

fn room(peer: PeerId, session: u64, answers: mpsc::Sender<SyncFrame>) -> BoxFuture<'static, Room> {
    let permit = answers.reserve_owned();
    async move { (peer, session, permit.await.ok()) }.boxed()
}

/// The task's state.
struct Keeper {
    catalog: Catalog,
    /// Locked by the writer's thread only.
    store: Arc<Mutex<RecordStore>>,
    index: Arc<ArcSwap<Index>>,
    changed: watch::Sender<()>,
    /// The newest stream of each peer.
    peers: HashMap<PeerId, (u64, Link)>,
    /// One for each session that has answers to fetch: ready when there is room for one.
    room: FuturesUnordered<BoxFuture<'static, Room>>,
    /// Records that are not on the disk as the catalog has them; `None` is to be removed. Bounded
    /// by their names, of which each is here once. While there is one no peer hears anything.
    unwritten: Changes,
    /// Whoever waits until what one group of commands changed is on the disk.
    waiting: Vec<Waiting>,
    /// Why the last record could not be written.
    trouble: Trouble,
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.catalog.set_time(crate::unix_now());
            let mut actions = tokio::select! {
                () = cancel.cancelled() => return,
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(room) = self.room.next() => {
                    self.answer(room);
                    continue;
                }
                _ = tick.tick() => self.catalog.tick(),
            };
            // One transaction for all that has come meanwhile.
            for _ in 1..GROUP {
                if cancel.is_cancelled() {
                    break;
                }
                match inbox.try_recv() {
                    Ok(command) => actions.extend(self.obey(command)),
                    Err(_) => break,
                }
            }
            self.carry_out(actions).await;
        }
    }

    fn obey(&mut self, command: Command) -> Vec<Action> {
        match command {
            Command::Started {
                peer,
                session,
                link,
            } => {
                // Dropping its sender ends the session; the peer comes again after a pause.
                if !self.unwritten.is_empty() {
                    tracing::debug!(%peer, "no catalog stream while the store cannot be written");
                    return Vec::new();
                }
                if self.peers.insert(peer, (session, link)).is_some() {
                    self.catalog.peer_disconnected(peer);
                }
                self.catalog.peer_connected(peer)
            }
            Command::Frame {
                peer,
                session,
                frame,
            } => {
                if self
                    .peers
                    .get(&peer)
                    .is_none_or(|(current, _)| *current != session)
                {
                    return Vec::new();
                }
                self.catalog.receive(peer, frame).unwrap_or_else(|e| {
                    tracing::warn!(%peer, "catalog stream closed: {e}");
                    self.end(peer);
                    Vec::new()
                })
            }
            Command::Ended { peer, session } => {
                if self
                    .peers
                    .get(&peer)
                    .is_some_and(|(current, _)| *current == session)
                {
                    self.end(peer);
                }
                Vec::new()
            }
            Command::Import { frames, reply } => {
                let before = self.catalog.counters().clone();
                let actions = self.catalog.import(frames);
                let after = self.catalog.counters().clone();
                self.waiting.push(Waiting::new(reply, (before, after)));
                actions
            }
            Command::Charter { edit, reply } => match self.catalog.edit_charter(edit) {
                // What holds already may not be on the disk yet.
                Ok(actions) => {
                    self.waiting.push(Waiting::new(reply, !actions.is_empty()));
                    actions
                }
                Err(why) => {
                    let _ = reply.send(Err(charter::failure(&why)));
                    Vec::new()
                }
            },
            Command::Observed { seen } => match self.catalog.publish_observations(seen) {
                Ok(actions) => actions,
                Err(e) => {
                    tracing::error!("what this node has seen of experts cannot be published: {e}");
                    Vec::new()
                }
            },
            Command::Offer { offer, cards } => {
                let mut actions = Vec::new();
                for card in cards {
                    match self.catalog.add_card(card) {
                        Ok(more) => actions.extend(more),
                        Err(e) => tracing::error!("a card cannot be published: {e}"),
                    }
                }
                match self.catalog.set_offer(offer) {
                    Ok(more) => actions.extend(more),
                    Err(e) => tracing::error!("this node's offer cannot be published: {e}"),
                }
                actions
            }
        }
    }

    fn end(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.catalog.peer_disconnected(peer);
    }

    /// Sends the next answer, and waits for room for the one after it. All that answers are made of
    /// is on the disk: while it is not, no session is open.
    fn answer(&mut self, (peer, session, permit): Room) {
        let Some((_, link)) = self.peers.get_mut(&peer).filter(|(s, _)| *s == session) else {
            return;
        };
        match permit.and_then(|permit| Some((permit, self.catalog.next_answer(&peer)?))) {
            Some((permit, frame)) => {
                let answers = permit.send(frame);
                self.room.push(room(peer, session, answers));
            }
            None => link.answering = false,
        }
    }

    /// What must be durable before it is said comes before the saying.
    async fn carry_out(&mut self, actions: Vec<Action>) {
        let (mut sends, mut answers) = (Vec::new(), Vec::new());
        let mut index = false;
        for action in actions {
            match action {
                Action::Store { name, bytes } => {
                    self.unwritten.insert(name, Some(bytes.into()));
                }
                Action::Remove { name } => {
                    self.unwritten.insert(name, None);
                }
                Action::Send { peer, frame } => sends.push((peer, frame)),
                Action::Answer { peer } => answers.push(peer),
                Action::IndexChanged => index = true,
                _ => {}
            }
        }
        let written = self.write().await;
        // What this node shows outlives a kill; but a full disk is no reason to answer no questions.
        if index {
            self.index.store(self.catalog.index());
            self.changed.send_replace(());
        }
        for Waiting(tell) in std::mem::take(&mut self.waiting) {
            tell(if written {
                Ok(())
            } else {
                Err(Failure::new(
                    ErrorKind::Unavailable,
                    "it holds at this node, but others hear of it only when the catalog's store can be written: see `polymath status`",
                ))
            });
        }
        if !written {
            // Going on would say things a restart forgets, and so contradict ourselves. What is
            // left unsaid, the digests of the next sessions bring.
            let peers: Vec<PeerId> = self.peers.keys().copied().collect();
            peers.into_iter().for_each(|p| self.end(p));
            return;
        }
        for (peer, frame) in sends {
            let full = self
                .peers
                .get(&peer)
                .is_some_and(|(_, link)| link.news.try_send(frame).is_err());
            if full {
                tracing::debug!(%peer, "reads its catalog stream too slowly; it begins anew");
                self.end(peer);
            }
        }
        for peer in answers {
            if let Some((session, link)) = self.peers.get_mut(&peer)
                && !std::mem::replace(&mut link.answering, true)
            {
                let answers = link.answers.clone();
                self.room.push(room(peer, *session, answers));
            }
        }
    }

    /// Writes what is not on the disk yet; whether all of it is there now.
    async fn write(&mut self) -> bool {
        if self.unwritten.is_empty() {
            return true;
        }
        let changes = Arc::new(std::mem::take(&mut self.unwritten));
        let (store, writing) = (Arc::clone(&self.store), Arc::clone(&changes));
        let task = tokio::task::spawn_blocking(move || {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let written = store.write(&writing);
            let damaged = written.as_ref().is_err_and(is_damaged);
            // What it holds is of no use any more, and all of it is known here: the next try begins
            // an empty one.
            let lost = damaged && store.set_aside().is_ok();
            (written, lost)
        });
        let (failed, lost) = match task.await {
            Ok((Ok(()), _)) => (None, false),
            Ok((Err(e), lost)) => (Some(e.to_string()), lost),
            Err(e) => (Some(format!("it was broken off: {e}")), false),
        };
        if failed.is_some() {
            self.unwritten = Arc::unwrap_or_clone(changes);
        }
        if lost {
            let all = self.catalog.records();
            self.unwritten
                .extend(all.map(|(name, bytes)| (name, Some(bytes.into()))));
        }
        let written = failed.is_none();
        let trouble = self.trouble.lock();
        let mut trouble = trouble.unwrap_or_else(PoisonError::into_inner);
        match (&failed, &*trouble) {
            (Some(why), None) => tracing::error!(
                "the catalog is not exchanged until its store can be written: {why}"
            ),
            (None, Some(_)) => tracing::info!("the catalog's store can be written again"),
            _ => {}
        }
        *trouble = failed;
        written
    }
}

#[cfg(test)]
mod tests;
