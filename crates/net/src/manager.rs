//! The one task that owns the swarm.
//!
//! It takes commands from handles, follows the swarm's events and looks after time. No request is
//! handled here: streams go to their acceptors' queues, and everything that waits (dials,
//! identification, DHT queries) is a table entry with a reply channel. Replies never block.
//!
//! * [`table`]: who is connected, and who belongs here.
//! * [`dials`]: connections being made and who waits for them.
//! * [`local`]: members announced on the local network.
//! * [`upkeep`]: who fell silent, who outstayed, what is idle.
//! * [`dht`]: the routing table's gate, look-ups, announcements.
//! * [`place`]: where this node is, who is told, what it does for strangers.
//! * [`shut_out`]: who is cut off.
//! * [`relays`]: reservations. [`paths`]: leaving a relay for a direct path.

mod command;
mod dht;
mod dials;
mod local;
mod paths;
mod place;
mod relays;
mod shut_out;
mod table;
mod upkeep;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub(crate) use command::{Command, Need};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::transport::ListenerId,
    identify, ping,
    swarm::{ConnectionId, SwarmEvent},
};
use polymath_types::{Genesis, PathKind, Transport};
use tokio_util::task::TaskTracker;

use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    address::{bridges, ip_of, is_container_bridge, path_of, split_peer, try_bind},
    address_book::AddressBook,
    config::{HOUSEKEEPING, NetConfig, NetLimits, Role},
    counters::Counters,
    error::StartError,
    meter::Meters,
    names::Names,
    peers::{NetEvent, PeerInfo},
    reach::Reach,
    report::{NetReport, UpnpReport},
    shut_out::{ShutOut, Verdict},
    streams::Registry,
    swarm::{Mesh, MeshEvent},
};

/// What the swarm task and the handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) local: PeerId,
    pub(crate) names: Names,
    pub(crate) genesis: Genesis,
    pub(crate) limits: NetLimits,
    pub(crate) registry: Arc<Registry>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) shut_out: ShutOut,
    pub(crate) verdict: Arc<Verdict>,
    pub(crate) events: broadcast::Sender<NetEvent>,
    pub(crate) listen: watch::Sender<Vec<Multiaddr>>,
    pub(crate) announced: watch::Sender<Vec<Multiaddr>>,
    /// Whether this node relays and dials back for strangers.
    pub(crate) serving: watch::Sender<bool>,
    /// Renewed with every look after the house.
    pub(crate) report: Mutex<NetReport>,
    reach: Mutex<Reach>,
    book: Mutex<AddressBook>,
    peers: Mutex<HashMap<PeerId, PeerInfo>>,
}

impl Shared {
    pub(crate) fn new(
        config: &NetConfig,
        names: Names,
        registry: Arc<Registry>,
        counters: Arc<Counters>,
        meters: Arc<Meters>,
        verdict: Arc<Verdict>,
    ) -> Self {
        Self {
            local: config.key.peer_id(),
            names,
            genesis: config.genesis.clone(),
            registry,
            counters,
            meters,
            shut_out: config.shut_out.clone(),
            verdict,
            events: broadcast::Sender::new(crate::config::EVENT_QUEUE),
            listen: watch::Sender::new(Vec::new()),
            announced: watch::Sender::new(Vec::new()),
            serving: watch::Sender::new(false),
            report: Mutex::default(),
            reach: Mutex::new(Reach::new(
                config.anchor,
                config.loopback_is_internet,
                config.announce.clone(),
            )),
            book: Mutex::new(AddressBook::new(config.limits.address_book)),
            peers: Mutex::default(),
            limits: config.limits.clone(),
        }
    }

    pub(crate) fn peers(&self) -> MutexGuard<'_, HashMap<PeerId, PeerInfo>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, AddressBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn learn(&self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>) {
        if peer != self.local {
            let evicted = self.book().learn(peer, addresses);
            self.counters.addresses_evicted.add(evicted);
        }
    }

    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.book().addresses(peer)
    }

    fn emit(&self, event: NetEvent) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }
}

/// The swarm and all that is under way on it.
pub(crate) struct Manager {
    swarm: Swarm<Mesh>,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    role: Role,
    /// Whether the mesh has a secret that all members know.
    closed: bool,
    peers: HashMap<PeerId, table::Peer>,
    dials: HashMap<ConnectionId, dials::Dial>,
    /// Changes of the list of those who are shut out.
    shut_out: watch::Receiver<Arc<HashSet<PeerId>>>,
    dht: dht::Dht,
    /// Members announced on the local network.
    local: HashMap<PeerId, local::LocalMember>,
    /// Addresses the swarm believes others can reach.
    external: Vec<Multiaddr>,
    relays: relays::Relays,
    /// Peers connected through a relay only.
    upgrades: HashMap<PeerId, paths::Upgrade>,
    upnp: UpnpReport,
    dht_server: bool,
    /// Whether strangers are served.
    serves: bool,
    /// Members are to be told where this node is, as soon as the present events are done with.
    to_tell: bool,
    /// When public members were last asked to see this node over a transport.
    observers: HashMap<(PeerId, Transport), Instant>,
    /// Whose turn it is among dial-back servers.
    turn: usize,
    tasks: TaskTracker,
    kept_house: Instant,
    /// Refused connections that the log has told of, and when it may tell of more.
    refused_told: u64,
    tell_refused_at: Instant,
}

impl Manager {
    pub(crate) fn new(
        swarm: Swarm<Mesh>,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        role: Role,
        closed: bool,
        upnp: UpnpReport,
        tasks: TaskTracker,
    ) -> Self {
        let mut manager = Self {
            swarm,
            shut_out: shared.shut_out.subscribe(),
            shared,
            commands,
            role,
            closed,
            peers: HashMap::new(),
            dials: HashMap::new(),
            dht: dht::Dht::default(),
            local: HashMap::new(),
            external: Vec::new(),
            relays: relays::Relays::default(),
            upgrades: HashMap::new(),
            upnp,
            dht_server: false,
            serves: false,
            to_tell: false,
            observers: HashMap::new(),
            turn: 0,
            tasks,
            kept_house: Instant::now(),
            refused_told: 0,
            tell_refused_at: Instant::now(),
        };
        manager.serve_dht(false);
        manager
    }

    /// Listens on every address; returns when each has told its first real address.
    pub(crate) async fn listen(
        &mut self,
        addresses: &[Multiaddr],
        within: Duration,
    ) -> Result<(), StartError> {
        let mut waiting: Vec<(ListenerId, Multiaddr)> = Vec::new();
        for addr in addresses {
            try_bind(addr).map_err(|source| StartError::Listen {
                addr: addr.clone(),
                source,
            })?;
            let id = self.swarm.listen_on(addr.clone()).map_err(|e| match e {
                libp2p::TransportError::MultiaddrNotSupported(addr) => StartError::Address { addr },
                libp2p::TransportError::Other(source) => StartError::Listen {
                    addr: addr.clone(),
                    source,
                },
            })?;
            waiting.push((id, addr.clone()));
        }
        let deadline = Instant::now() + within;
        while let Some((_, addr)) = waiting.first() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(event) = timeout(left, self.swarm.select_next_some()).await else {
                return Err(StartError::Listen {
                    addr: addr.clone(),
                    source: std::io::ErrorKind::TimedOut.into(),
                });
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    waiting.retain(|(id, _)| id != listener_id);
                }
                SwarmEvent::ListenerClosed {
                    listener_id,
                    reason,
                    ..
                } => {
                    if let Some((_, addr)) = waiting.iter().find(|(id, _)| id == listener_id) {
                        let kind = reason
                            .as_ref()
                            .err()
                            .map_or(std::io::ErrorKind::Other, |e| e.kind());
                        return Err(StartError::Listen {
                            addr: addr.clone(),
                            source: kind.into(),
                        });
                    }
                }
                _ => {}
            }
            self.on_swarm_event(event);
        }
        Ok(())
    }

    /// Runs until told to stop, or until the last handle is gone.
    pub(crate) async fn run(mut self) {
        let mut tick = interval(HOUSEKEEPING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.kept_house = Instant::now();
        let asked = loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                Ok(()) = self.shut_out.changed() => self.shut_out_changed(),
                _ = tick.tick() => self.keep_house(Instant::now()),
            }
        };
        self.close().await;
        drop(self);
        if let Some(reply) = asked {
            let _: Result<(), ()> = reply.send(());
        }
    }

    /// Says goodbye to every peer, so that they notice at once, and lets go of the ports.
    async fn close(&mut self) {
        self.commands.close();
        let connected: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let _ = timeout(Duration::from_secs(1), async {
            while self.swarm.connected_peers().next().is_some() {
                let event = self.swarm.select_next_some().await;
                self.on_swarm_event(event);
            }
        })
        .await;
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { addr, need, reply } => {
                self.dial(addr, dials::Waiter::new(need, reply));
            }
            Command::Connect { peer, reply } => {
                self.connect(peer, dials::Waiter::new(Need::Identified, reply));
            }
            Command::Open {
                peer,
                request,
                anyone,
            } => self.open(peer, request, anyone),
            Command::Find { peer, reply } => self.find(peer, reply),
            Command::Provide { key, reply } => self.provide(key, reply),
            Command::StopProviding { key, reply } => {
                self.stop_providing(&key);
                answer(reply, ());
            }
            Command::Providers { key, found, reply } => self.find_providers(key, found, reply),
            Command::Abandoned => self.end_abandoned_queries(),
            Command::Disconnect { peer, reply } => {
                let _ = self.swarm.disconnect_peer_id(peer);
                answer(reply, ());
            }
            Command::DialBack {
                peer,
                address,
                reply,
            } => self.dial_back(peer, address, reply),
            Command::OpenOn { link, request } => {
                self.swarm.behaviour_mut().streams.open(&link, request);
            }
            Command::NextProbe { reply } => {
                let next = self.next_probe();
                answer(reply, next);
            }
            Command::Probed {
                server,
                address,
                outcome,
            } => self.probed(server, &address, outcome),
            Command::Told { peer, message } => self.told(peer, &message),
            Command::Discovered { peer, addresses } => self.discovered(peer, addresses),
            Command::Shutdown { .. } => {}
            #[cfg(test)]
            Command::Crash => panic!("asked to crash"),
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<MeshEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                tracing::debug!(peer = %peer_id, cause = cause.map(|c| c.to_string()), "connection closed");
                self.disconnected(peer_id, connection_id);
            }
            SwarmEvent::Dialing {
                peer_id,
                connection_id,
            } => self.dialling(peer_id, connection_id),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                peer_id,
                error,
            } => {
                self.dial_failed(connection_id, peer_id, error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                if matches!(error, libp2p::swarm::ListenError::Denied { .. }) {
                    self.shared.counters.connections_refused.up();
                }
                tracing::debug!(%error, "inbound connection failed");
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } => {
                let reason = reason.map_or_else(|e| e.to_string(), |()| "it was closed".to_owned());
                self.reservation_ended(listener_id, &reason);
                self.listeners_changed();
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                self.listeners_changed();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "listener"),
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: MeshEvent) {
        match event {
            // `Pushed` is not this: it tells what *we* told the peer.
            MeshEvent::Identify(identify::Event::Received {
                peer_id,
                connection_id,
                info,
            }) => {
                self.observed_by(peer_id, connection_id, &info);
                self.identified(peer_id, info);
            }
            MeshEvent::Identify(identify::Event::Error { peer_id, error, .. }) => {
                tracing::debug!(peer = %peer_id, %error, "identify failed");
                self.not_identified(peer_id);
            }
            MeshEvent::Identify(_) => {}
            MeshEvent::Ping(ping::Event {
                peer,
                connection,
                result,
            }) => {
                if let Ok(rtt) = result {
                    self.heard(peer, connection, rtt);
                }
            }
            MeshEvent::Kad(event) => self.on_kad_event(event),
            MeshEvent::Dcutr(event) => self.on_punched(event),
            MeshEvent::RelayClient(event) => self.on_relay_client(&event),
            MeshEvent::RelayServer(event) => self.on_relay_server(&event),
            MeshEvent::Upnp(event) => self.on_upnp(event),
            MeshEvent::ShutOut(never)
            | MeshEvent::Limits(never)
            | MeshEvent::Sources(never)
            | MeshEvent::Streams(never) => match never {},
        }
    }

    fn listeners_changed(&mut self) {
        let bridges = bridges();
        let of_bridge = |a: &Multiaddr| {
            is_container_bridge(a) || ip_of(a).is_some_and(|ip| bridges.contains(&ip))
        };
        let mut addresses: Vec<_> = self
            .swarm
            .listeners()
            .map(|a| split_peer(a.clone()).0)
            .filter(|a| path_of(a) == PathKind::Direct && !of_bridge(a))
            .collect();
        addresses.sort_by_key(|a| a.to_string());
        addresses.dedup();
        self.shared
            .reach()
            .set_listen(addresses.clone(), Instant::now());
        self.shared.listen.send_if_modified(|known| {
            let changed = *known != addresses;
            if changed {
                *known = addresses;
            }
            changed
        });
        self.place_changed();
    }
}

/// Answers a command; that the asker no longer waits is its own business.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}
