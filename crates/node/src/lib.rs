//! A node: every floor below, put together.
//!
//! This crate decides the lifecycle (home, configuration, start, join, stop), encodes questions,
//! turns the router's decisions into calls, and wires the catalog to its streams. It leaves HTTP
//! to `gateway` and everything a person sees to `cli`; both enter by [`Node::ask`].

mod admission;
mod anchors;
mod catalog;
mod charter;
pub mod config;
mod control;
mod discover;
mod dispatch;
pub mod doctor;
mod encode;
pub mod experts;
mod files;
mod home;
mod hosted;
mod invites;
mod join;
mod learning;
mod listen;
mod live;
mod loads;
mod members;
mod mesh;
mod misses;
mod open_files;
mod own_experts;
mod pause;
mod records;
mod remembered;
mod serve;
mod sources;
mod sync;
mod terms;
mod unused;
mod upstreams;
mod views;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use polymath_blobs::{Cancel, Mirror, Progress, Store};
use polymath_catalog::{Catalog, CatalogConfig, FRAME_BYTES, live::LIVE_FRAME_BYTES};
use polymath_engine::{Engine, EngineConfig, MemoryLimit};
use polymath_net::{Door, Multiaddr, Net, NetConfig, NetLimits, Role, ShutOut};
use polymath_proto::v1::{
    catalog_server::CatalogServer, expert_server::ExpertServer, files_server::FilesServer,
    live_server::LiveServer,
};
use polymath_router::{Router, RouterConfig};
use polymath_rpc::{Admission, Clients, MAX_MESSAGE};
use polymath_types::{ErrorKind, ExpertId, Failure, Index, NodeKey, PeerId};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use admission::{Bounds, Gate, Serve};

pub use anchors::PUBLIC;
pub use catalog::{import_at_rest, mesh_at_rest, records_at_rest};
pub use charter::{charter_at_rest, edit_charter_at_rest};
pub use control::{Control, connect};
pub use dispatch::{Answer, failure, request_id};
pub use home::{Home, HomeLock, IdentityView, Membership, MeshKey};
pub use invites::InviteTerms;
pub use join::{Entrance, Joined, Notice, Outcome, join, take_invite};
pub use mesh::{create, invite_at_rest, leave, sign_anchors, view_at_rest};
#[doc(hidden)] // for `polymath bench catalog`
pub use open_files::{allow_open_files, local_connections};
pub use own_experts::{edit_expert_at_rest, own_experts_at_rest};
pub use polymath_catalog::{FileError, History, Inspected, Step, from_file, inspect, to_file};
pub use records::RecordStore;
use tonic::codec::CompressionEncoding;

pub use polymath_rpc::{Connection, Connections, Held};
pub use tonic::Status;

/// Software and version, as peers see it.
pub const AGENT: &str = concat!("polymath/", env!("CARGO_PKG_VERSION"));

/// Questions at work at once; the engine's own queue is far shorter.
const MOST_QUESTIONS: usize = 1024;

/// Time tasks get to end by themselves.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Keeps panics that the catalog catches (hostile Automerge changes) out of the log; every other
/// panic is reported as before. For the binary's first line.
pub fn quiet_sandboxed_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !polymath_catalog::in_sandbox() {
            usual(panic);
        }
    }));
}

/// What a node is started with.
#[allow(missing_debug_implementations)] // a progress bar has nothing to show
pub struct Options {
    /// Its home.
    pub home: Home,
    /// Proof that the home is ours.
    pub lock: HomeLock,
    /// Settings.
    pub config: config::Config,
    /// Experts to host; what `store` lacks of their files is fetched once the node runs.
    pub cards: Vec<experts::Card>,
    /// Model files.
    pub store: Store,
    /// Shows how missing models are fetched.
    pub progress: Arc<dyn Progress + Send + Sync>,
    /// Here for one question only: no socket, no offer, no mesh of its own.
    pub passing: bool,
    /// What computes; `None`: an engine of its own, as `config` says.
    pub engine: Option<Engine>,
}

/// Why a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// The home joined another mesh, or was let into the one it waited for: start again.
    Restart,
    /// The same identity runs elsewhere too, and was started earlier there.
    RunsTwice,
}

/// A running node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) home: Home,
    _lock: HomeLock,
    pub(crate) config: config::Config,
    pub(crate) membership: Mutex<Membership>,
    pub(crate) key: NodeKey,
    pub(crate) net: Net,
    /// Of a closed mesh.
    pub(crate) door: Option<Door>,
    pub(crate) invites: invites::Invites,
    pub(crate) anchors: anchors::Anchors,
    pub(crate) remembered: remembered::Remembered,
    pub(crate) sources: sources::Sources,
    pub(crate) clients: Clients,
    pub(crate) service: serve::Service,
    /// What peers have going here.
    pub(crate) admission: Admission,
    pub(crate) router: Mutex<Router>,
    pub(crate) learning: learning::Learning,
    /// Peers of this node's operator.
    pub(crate) own_peers: HashSet<PeerId>,
    pub(crate) encoder: encode::Encoder,
    pub(crate) index: Arc<ArcSwap<Index>>,
    pub(crate) discovered: discover::Discovered,
    pub(crate) gateway: Mutex<String>,
    pub(crate) loads: Arc<loads::Loads>,
    pub(crate) live: live::LiveHandle,
    pub(crate) sync: sync::SyncHandle,
    /// Why peers were not reached.
    pub(crate) misses: misses::Misses,
    /// Held while the home's own experts are edited.
    pub(crate) editing: tokio::sync::Mutex<()>,
    /// A place for each question at work.
    pub(crate) questions: Semaphore,
    pub(crate) begun: Instant,
    pub(crate) end: watch::Sender<Option<End>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

impl Node {
    /// Starts a node. Its socket and its place in the mesh are open when this returns; models
    /// load behind it.
    pub async fn start(options: Options) -> Result<Self, Failure> {
        let Options {
            home,
            lock,
            config,
            cards,
            store,
            progress,
            passing,
            engine,
        } = options;
        let key = home.identity(&lock)?;
        let mut membership = membership(&home, &key, passing)?;
        let client = config.client || passing;
        let outside = goes_outside(&key, &membership, &config);
        let listen = listen::listen_addresses(&config, &mut membership, client, outside)?;
        if !passing {
            home.save_membership(&membership)?;
        }
        let control = if passing {
            None
        } else {
            Some(control::bind(&home)?)
        };
        let engine = engine.map_or_else(|| start_engine(&config), Ok)?;
        // Whoever can be reached keeps its part of the DHT, experts or not: others may join through it.
        let role = if listen.is_empty() || passing {
            Role::Client
        } else {
            Role::Server
        };
        let mesh_dir = home.mesh_dir(membership.genesis.id());
        let index = Arc::new(ArcSwap::from_pointee(Index::default()));
        let invites = invites::Invites::open(key.peer_id(), &mesh_dir)?;
        let invites = invites.heeding(Arc::clone(&index));
        let catalog_dir = mesh_dir.join("catalog");
        let (record_store, records) = records::RecordStore::open(&catalog_dir)?;
        let record_store = record_store.marking(&catalog_dir, &key.peer_id(), &records);
        let (mut catalog, recovered) = Catalog::open(
            CatalogConfig {
                unix: unix_now(),
                key: key.clone(),
                mesh: membership.genesis.id(),
                founders: membership.genesis.admins(),
                observations: config.catalog.observations,
                limits: Default::default(),
            },
            records,
        );
        for (record, problem) in &recovered.problems {
            tracing::warn!("catalog record {record} was skipped: {problem}");
        }
        let seed = u64::from_be_bytes(random());
        let policy = config.router.policy(seed)?;
        let mut router = Router::with_policy(RouterConfig::default(), seed, policy);
        let learning = if passing {
            learning::Learning::passing()
        } else {
            learning::Learning::open(&mesh_dir.join("router"), router.policy_mut(), seed)?
        };
        let _ = catalog.use_codebooks(router.policy().codebooks());
        let door = door(&membership, Some(&invites));
        let announce = config
            .net
            .announce
            .iter()
            .map(|a| listen::parse_dialable(a));
        let mut limits = if config.net.anchor {
            NetLimits::anchor()
        } else {
            NetLimits::default()
        };
        limits.relayed_bytes_per_hour = config.net.relayed_per_hour;
        limits.upload = config.limits.upload.bytes();
        let net = Net::start(NetConfig {
            role,
            limits,
            local_discovery: config.net.local_discovery,
            agent: AGENT.to_owned(),
            anchor: config.net.anchor,
            announce: announce.collect::<Result<_, _>>()?,
            upnp: config.net.upnp,
            proxy: Some(config.net.proxy.clone()).filter(|p| !p.is_empty()),
            door: door.clone(),
            shut_out: ShutOut::new(Arc::new(charter::revoked(catalog.charter()))),
            ..NetConfig::new(key.clone(), membership.genesis.clone(), listen)
        })
        .await
        .map_err(|e| Failure::new(e.kind(), e.to_string()))?;

        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let sync = sync::start(catalog, record_store, Arc::clone(&index), &tasks, &cancel);
        let (live, live_inbox) = live::open(
            key.clone(),
            net.mesh(),
            home.dir(),
            passing,
            &tasks,
            &cancel,
        )?;
        let hosted = hosted::Hosted::new(engine.clone(), cards);
        let listed = hosted.listed();
        let names: Vec<&str> = listed.iter().map(|l| l.card.name.as_str()).collect();
        for name in config.priced_in_vain(&names) {
            tracing::warn!("prices name '{name}', and no expert here is called that");
        }
        let gate = gate(&config, home.is_paused());
        let loads = Arc::new(loads::Loads::default());
        let heard = Arc::clone(&loads);
        let clients = Clients::hearing(net.clone(), move |peer, load| {
            heard.heard(Instant::now(), peer, load);
        });
        let encoder = encode::Encoder::new(engine.clone(), store.clone(), &config.router.encoder);
        let service = serve::Service {
            engine,
            hosted: hosted.clone(),
            gate,
        };
        let (held, reporting) = (memory_for_questions(&config), service.clone());
        let admission = Admission::reporting(move || reporting.load())
            .holding(usize::try_from(held).unwrap_or(usize::MAX));
        let inner = Arc::new(Inner {
            encoder,
            service,
            admission,
            router: Mutex::new(router),
            learning,
            own_peers: config.router.own_peers()?.into_iter().collect(),
            discovered: discover::Discovered::default(),
            door,
            invites,
            anchors: anchors::Anchors::open(&membership.genesis, &mesh_dir)
                .heeding(Arc::clone(&index)),
            remembered: remembered::Remembered::open(&mesh_dir),
            sources: sources::Sources::default(),
            gateway: Mutex::default(),
            loads,
            live,
            sync: sync.clone(),
            misses: misses::Misses::default(),
            editing: tokio::sync::Mutex::default(),
            questions: Semaphore::new(MOST_QUESTIONS),
            begun: Instant::now(),
            end: watch::Sender::new(None),
            home,
            _lock: lock,
            config,
            membership: Mutex::new(membership),
            key,
            net: net.clone(),
            clients: clients.clone(),
            index,
            tasks,
            cancel,
        });
        let node = Self { inner };
        let lane = node.bulk_lane(outside);
        let services = (sync.clone(), node.files(&lane, &store));
        node.spawn_services(control, services, !passing);
        let tasks = &node.inner.tasks;
        // Whoever is here for one question says nothing of itself.
        if !passing {
            let service = node.inner.service.clone();
            let load = move || service.load();
            node.inner.live.run(live_inbox, &net, &clients, load);
            tasks.spawn(end_if_it_runs_twice(node.clone()));
        }
        tasks.spawn(charter::shut_out(node.clone()));
        tasks.spawn(learning::exchange(node.clone()));
        tasks.spawn(members::meet(node.clone()));
        tasks.spawn(members::keep_secret(node.clone()));
        tasks.spawn(members::seek(node.clone()));
        tasks.spawn(anchors::follow(node.clone()));
        if node.inner.config.catalog.exchange {
            tasks.spawn(sync.clone().follow(net, clients));
        }
        if !passing {
            tasks.spawn(members::announce(node.clone(), sync));
        }
        let (stop, fetching) = (node.inner.cancel.clone(), Cancel::new());
        let (stopped, cancel) = (stop.clone(), fetching.clone());
        tasks.spawn(async move {
            stopped.cancelled().await;
            cancel.cancel();
        });
        let mirror = node.mirror(lane, outside, fetching.clone());
        tasks.spawn(hosted.load_all(
            store,
            progress,
            mirror,
            stop.clone(),
            fetching,
            tasks.clone(),
        ));
        let describing = node.clone();
        tasks.spawn(async move {
            let inner = &describing.inner;
            let prepare = inner.encoder.prepare(&inner.index);
            stop.run_until_cancelled(prepare).await;
        });
        Ok(node)
    }

    fn bulk_lane(&self, outside: bool) -> files::BulkLane {
        let Inner {
            net,
            key,
            config,
            tasks,
            cancel,
            ..
        } = self.inner.as_ref();
        files::BulkLane::new(
            net.clone(),
            key.clone(),
            &config.net,
            !outside,
            tasks,
            cancel,
        )
    }

    /// What gives model files to members.
    fn files(&self, lane: &files::BulkLane, store: &Store) -> files::Files {
        let inner = &self.inner;
        let (gate, share) = (inner.service.gate.clone(), inner.config.models.share);
        files::Files {
            shelf: files::Shelf::new(store.clone(), gate, share),
            lane: lane.clone(),
            cancel: inner.cancel.clone(),
        }
    }

    /// Whom model files are taken from; `stopped` is told when the node ends.
    fn mirror(
        &self,
        lane: files::BulkLane,
        expected: bool,
        stopped: Cancel,
    ) -> Option<Box<dyn Mirror>> {
        let Inner {
            net,
            clients,
            config,
            tasks,
            cancel,
            ..
        } = self.inner.as_ref();
        let (net, clients) = (net.clone(), clients.clone());
        config.models.share.then(|| {
            let members = files::Members::new(net, clients, lane, expected, tasks, cancel, stopped);
            Box::new(members) as Box<dyn Mirror>
        })
    }

    fn spawn_services(
        &self,
        control: Option<tokio::net::UnixListener>,
        (sync, files): (sync::SyncHandle, files::Files),
        speaking: bool,
    ) {
        let inner = &self.inner;
        let live = speaking.then(|| inner.live.clone());
        let exchange = inner.config.catalog.exchange.then_some(sync);
        let mut routes = tonic::service::RoutesBuilder::default();
        routes.add_service(
            ExpertServer::new(inner.service.clone())
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(MAX_MESSAGE),
        );
        routes.add_service(
            CatalogServer::new(serve::SyncService { sync: exchange })
                .max_decoding_message_size(FRAME_BYTES),
        );
        routes.add_service(
            LiveServer::new(serve::LiveService { live })
                .max_decoding_message_size(LIVE_FRAME_BYTES),
        );
        routes.add_service(FilesServer::new(files));
        let (net, cancel) = (inner.net.clone(), inner.cancel.clone());
        let routes = routes.routes();
        let admission = inner.admission.clone();
        inner.tasks.spawn(async move {
            if let Err(e) = polymath_rpc::serve(&net, routes, admission, cancel).await {
                tracing::error!("{e}");
            }
        });
        if let Some(listener) = control {
            inner.tasks.spawn(control::serve(self.clone(), listener));
        }
    }

    /// The index the router reads now.
    pub(crate) fn index(&self) -> Arc<Index> {
        let me = self.inner.net.local_peer();
        let service = &self.inner.service;
        let cards = service.hosted.ready();
        let ready: Vec<ExpertId> = cards.iter().map(|c| c.id()).collect();
        if self.revoked_by().is_some() {
            return Arc::new(Index::default().with_served(me, &cards));
        }
        let index = self.inner.discovered.merged(&self.inner.index.load_full());
        let offered = index.peers().get(&me).map_or(&[][..], |o| &o.experts);
        // What an earlier run of this home offered, others may still hope for; and what is offered to
        // nobody, this machine's user may ask. We know better.
        let gone = offered.iter().any(|e| !ready.contains(e));
        let closed = service.gate.is_closed() || service.hosted.any_paused();
        let withheld = closed && ready.iter().any(|e| !offered.contains(e));
        if gone || withheld {
            Arc::new(index.with_served(me, &cards))
        } else {
            index
        }
    }

    /// The router; held for a decision or an outcome, never across an await.
    pub(crate) fn router(&self) -> MutexGuard<'_, Router> {
        self.inner
            .router
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the start: the router's clock.
    pub(crate) fn elapsed(&self) -> Duration {
        self.inner.begun.elapsed()
    }

    /// This node's id.
    pub fn peer_id(&self) -> PeerId {
        self.inner.net.local_peer()
    }

    /// Says where the HTTP API listens, for `status`.
    pub fn set_gateway(&self, address: &str) {
        address.clone_into(
            &mut self
                .inner
                .gateway
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Room for what arrives of a request of a program on this machine; none is taken yet.
    pub fn arriving(&self) -> Held {
        self.inner.admission.nothing_of(self.peer_id())
    }

    /// Serves programs on this machine by ordinary gRPC, with reflection and health, until the node ends.
    pub fn serve_grpc(&self, listener: tokio::net::TcpListener) {
        let serving = control::serve_tcp(self.clone(), listener);
        self.inner.tasks.spawn(serving);
    }

    /// Whether every hosted expert is loaded or has failed.
    pub fn settled(&self) -> bool {
        self.inner.service.hosted.settled()
    }

    /// Asks the node to end; [`Node::ended`] then returns.
    pub fn stop(&self, end: End) {
        self.inner
            .end
            .send_if_modified(|e| e.is_none() && e.replace(end).is_none());
    }

    /// Waits until someone asked the node to end.
    pub async fn ended(&self) -> End {
        let mut end = self.inner.end.subscribe();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.unwrap_or(End::Stopped),
            Err(_) => End::Stopped,
        }
    }

    /// Says goodbye, ends all tasks and leaves the mesh.
    pub async fn shut_down(self) {
        let inner = &self.inner;
        inner.live.leave().await;
        inner.cancel.cancel();
        inner.tasks.close();
        let _ = tokio::time::timeout(LAST_WORDS, inner.tasks.wait()).await;
        self.write_learnt().await;
        self.remember();
        inner.net.shutdown().await;
        control::unbind(&inner.home);
    }
}

fn start_engine(config: &config::Config) -> Result<Engine, Failure> {
    let threads = match config.engine.threads {
        0 => std::thread::available_parallelism()
            .map_or(1, usize::from)
            .saturating_sub(1)
            .max(1),
        n => n,
    };
    Engine::start(EngineConfig {
        threads,
        slots: config.engine.slots,
        // Calls wait in the gate; here only those whose predecessors are being cleared away.
        queue: config.engine.queue + config.engine.slots,
        memory: memory_for_models(config),
    })
    .map_err(|e| Failure::new(e.kind(), e.to_string()))
}

async fn end_if_it_runs_twice(node: Node) {
    let cancel = node.inner.cancel.clone();
    let twice = node.inner.live.runs_twice();
    if cancel.run_until_cancelled(twice).await.is_some() {
        node.stop(End::RunsTwice);
    }
}

impl Inner {
    /// Tells the network what the catalog knows of a peer's addresses.
    pub(crate) fn introduce(&self, peer: &PeerId) {
        let index = self.index.load();
        if let Some(offer) = index.peers().get(peer) {
            let addresses: Vec<Multiaddr> = offer
                .addresses
                .iter()
                .filter_map(|a| a.parse().ok())
                .collect();
            if !addresses.is_empty() {
                self.net.add_addresses(*peer, addresses);
            }
        }
    }
}

/// Bytes of the process that are not for models: the network, the catalog, the runtime, and room for
/// what the allocator does not give back.
const NODE_MEMORY: u64 = 64 << 20;
/// Most bytes of questions that are held at once, and their share of a limit on memory.
const QUESTIONS_MEMORY: u64 = 64 << 20;
const QUESTIONS_SHARE: u64 = 16;

/// Bytes of questions that are held at once, for peers and for this machine's user.
fn memory_for_questions(config: &config::Config) -> u64 {
    let share = |limit: u64| limit / QUESTIONS_SHARE;
    let limit = config.limits.memory.bytes();
    limit.map_or(QUESTIONS_MEMORY, share).min(QUESTIONS_MEMORY)
}

/// What the operator's limit leaves for models.
fn memory_for_models(config: &config::Config) -> Option<MemoryLimit> {
    // Those of peers, and those of this machine's user on their way to others.
    let reserved = NODE_MEMORY + 2 * memory_for_questions(config);
    let total = config.limits.memory.bytes()?;
    Some(MemoryLimit { total, reserved })
}

/// Encodings at work at once: the engine does one after the other, and the next should lie ready; one
/// place is kept for this machine's user.
const ENCODINGS: usize = 3;

/// Calls at work at other servers; each of them has a bound of its own.
const OUTSIDE: usize = 64;

fn gate(config: &config::Config, paused: bool) -> Gate {
    let bounds = Bounds {
        waiting: config.engine.queue.max(1),
        places: [config.engine.slots, ENCODINGS, OUTSIDE],
        peers: Some(config.limits.concurrent).filter(|n| *n > 0),
        bytes: usize::try_from(memory_for_questions(config)).unwrap_or(usize::MAX),
    };
    let serve = match config.serve.as_str() {
        "self" => Serve::Own,
        _ => Serve::Mesh,
    };
    Gate::new(bounds, serve, paused)
}

/// The home's mesh; a fresh home founds its own, a passing client must have one.
fn membership(home: &Home, key: &NodeKey, passing: bool) -> Result<Membership, Failure> {
    if let Some(membership) = home.membership()? {
        return Ok(membership);
    }
    if passing {
        return Err(Failure::new(
            ErrorKind::Unavailable,
            "no node runs here and this home belongs to no mesh: start one with `polymath up --expert NAME`, or join one with `polymath join ADDR|INVITE`",
        ));
    }
    mesh::own(key)
}

/// The door of a closed mesh; `invites` decides on guests.
pub(crate) fn door(membership: &Membership, invites: Option<&invites::Invites>) -> Option<Door> {
    let mesh = membership.genesis.id();
    let keeper = invites.map(|i| Arc::new(i.clone()) as Arc<dyn polymath_net::Doorkeeper>);
    match &membership.key {
        MeshKey::None => None,
        MeshKey::Secret(secret) => Some(Door::member(mesh, secret.clone(), keeper)),
        MeshKey::Invite(invite) => {
            let key = invite.key()?.clone();
            Some(Door::guest(mesh, invite.claims().clone(), key, keeper))
        }
    }
}

/// Whether a mesh is one that others are meant to be in.
pub(crate) fn goes_outside(
    key: &NodeKey,
    membership: &Membership,
    config: &config::Config,
) -> bool {
    membership.joined || config.net.anchor || mesh::founded_on_purpose(key, membership)
}

/// Bytes for secrets and for ids that must not repeat: from the operating system, or not at all.
pub(crate) fn unguessable<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        Failure::new(
            ErrorKind::Internal,
            format!("the operating system gives no random bytes: {e}"),
        )
    })?;
    Ok(bytes)
}

/// The wall clock, Unix seconds: for what expires by date.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// Bytes from the operating system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness an id repeats, and nothing else is lost.
    let _ = getrandom::fill(&mut bytes);
    bytes
}
