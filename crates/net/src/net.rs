//! The handle.

use std::{
    collections::HashSet,
    fmt,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use polymath_types::{Genesis, MeshId, PathKind};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    address::in_use,
    config::{COMMAND_QUEUE, MAX_ADDRESSES, MAX_PROVIDERS, NetConfig, Role},
    counters::{Counters, NetCounters},
    discovery,
    error::{AcceptError, DhtError, DialError, HelloError, OpenError, OpenRefusal, StartError},
    hello::{self, Hello},
    manager::{Command, Manager, Need, Shared},
    meter::Meters,
    names::{HELLO, Names},
    peers::{NetEvent, PeerInfo},
    report::{NetReport, Scope, UpnpReport},
    shut_out::{ShutOut, Verdict},
    streams::{Incoming, MeshStream, OpenRequest, Registry},
    swarm,
};

mod services;

pub(crate) use services::WeakNet;

/// How long the listeners may take to tell their addresses.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the tasks of a swarm may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses before a hidden peer is tried once more.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];
/// Between looks at whether a port is free again.
const PORT_CHECK: Duration = Duration::from_millis(20);

/// A running swarm. Clones are cheap and mean the same swarm; it stops at [`Net::shutdown`], or
/// when the last clone is dropped.
#[derive(Clone)]
pub struct Net {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The swarm task is gone.
struct Gone;

/// Peers that announced a key, each once, as they are found; it ends when the DHT has nothing more to
/// tell, or with the 64th.
#[derive(Debug)]
pub struct Providers {
    found: mpsc::Receiver<PeerId>,
    commands: mpsc::WeakSender<Command>,
}

impl Stream for Providers {
    type Item = PeerId;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerId>> {
        self.found.poll_recv(cx)
    }
}

impl Drop for Providers {
    fn drop(&mut self) {
        self.found.close();
        // Each moment more, the query would ask and dial for nobody. If there is no room to say so,
        // the next round of housekeeping finds out.
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.try_send(Command::Abandoned);
        }
    }
}

impl Net {
    /// Starts a swarm; returns when every listen address is in use and known.
    pub async fn start(config: NetConfig) -> Result<Self, StartError> {
        let counters = Arc::new(Counters::default());
        let registry = Arc::new(Registry::new(config.limits.clone(), counters.clone()));
        let names = Names::new(config.genesis.id());
        let meters = Arc::new(Meters::new(&config.limits, counters.clone()));
        let verdict = Arc::new(Verdict::default());
        let swarm = swarm::build(&config, &names, &registry, &counters, &meters, &verdict)?;
        let shared = Shared::new(&config, names, registry, counters, meters, verdict);
        let shared = Arc::new(shared);
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let tasks = TaskTracker::new();
        let upnp = if config.upnp && config.role == Role::Server {
            UpnpReport::Searching
        } else {
            UpnpReport::Off
        };
        let (shared_, tasks_) = (shared.clone(), tasks.clone());
        let mut manager = Manager::new(
            swarm,
            shared_,
            inbox,
            config.role,
            config.door.is_some(),
            upnp,
            tasks_,
        );
        manager.listen(&config.listen, LISTEN_TIMEOUT).await?;

        let net = Self {
            shared,
            commands,
            tasks,
            stop: CancellationToken::new(),
        };
        net.supervise(manager);
        if let Ok(incoming) = net.shared.registry.register(HELLO) {
            net.tasks.spawn(hello::serve(
                incoming,
                net.shared.genesis.clone(),
                swarm::agent(&config.agent),
                net.tasks.clone(),
            ));
        }
        net.listen_to_members();
        net.hear_of_being_shut_out();
        net.have_addresses_tested(config.role);
        if config.local_discovery {
            net.tasks.spawn(discovery::run(
                net.shared.clone(),
                net.commands.downgrade(),
                net.stop.clone(),
            ));
        }
        Ok(net)
    }

    /// Runs the swarm task and cleans up when it ends, however it ends.
    fn supervise(&self, manager: Manager) {
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        let swarm = self.tasks.spawn(manager.run());
        self.tasks.spawn(async move {
            if let Err(error) = swarm.await {
                tracing::error!(%error, "the swarm task died; this node is off the network until it is restarted");
            }
            shared.registry.close();
            shared.peers().clear();
            stop.cancel();
        });
    }

    /// This node's id.
    pub fn local_peer(&self) -> PeerId {
        self.shared.local
    }

    /// The mesh this node belongs to.
    pub fn mesh(&self) -> MeshId {
        self.shared.names.mesh()
    }

    /// What that mesh was founded on.
    pub fn genesis(&self) -> &Genesis {
        &self.shared.genesis
    }

    /// Addresses this node really listens on, wildcards expanded, without its id.
    pub fn listen_addrs(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.shared.listen.subscribe()
    }

    /// Connects to a member of this mesh at `addr`, which may end in `/p2p/PEER`; returns when it
    /// has said that it is one.
    pub async fn dial(&self, addr: Multiaddr, within: Duration) -> Result<PeerId, DialError> {
        self.dial_until(addr, Need::Identified, within).await
    }

    async fn dial_until(
        &self,
        addr: Multiaddr,
        need: Need,
        within: Duration,
    ) -> Result<PeerId, DialError> {
        let target = addr.to_string();
        timeout(
            within,
            self.ask(|reply| Command::Dial { addr, need, reply }),
        )
        .await
        .map_err(|_| DialError::Timeout { target, within })?
        .map_err(|Gone| DialError::Stopped)?
    }

    /// Connects to the member `peer`: by the address book, then by asking the DHT; returns when it
    /// has said that it is one.
    pub async fn connect(&self, peer: PeerId, within: Duration) -> Result<(), DialError> {
        timeout(within, self.reach(peer)).await.unwrap_or_else(|_| {
            Err(DialError::Timeout {
                target: peer.to_string(),
                within,
            })
        })
    }

    /// Asks whoever is at `addr` which mesh it belongs to. If it is not ours the connection is
    /// closed again.
    pub async fn hello(&self, addr: Multiaddr, within: Duration) -> Result<Hello, HelloError> {
        let target = addr.to_string();
        timeout(within, self.ask_hello(addr, within))
            .await
            .map_err(|_| HelloError::Dial(DialError::Timeout { target, within }))?
    }

    async fn ask_hello(&self, addr: Multiaddr, within: Duration) -> Result<Hello, HelloError> {
        let peer = self.dial_until(addr, Need::Connected, within).await?;
        let answer = match self.request_stream(peer, HELLO, true).await {
            Ok(stream) => hello::ask(stream).await,
            Err(OpenRefusal::NotReady) => Err(HelloError::NoAnswer {
                peer,
                reason: "it closed the connection".into(),
            }),
            Err(OpenRefusal::Final(error)) => Err(HelloError::NoAnswer {
                peer,
                reason: error.to_string(),
            }),
        };
        if answer
            .as_ref()
            .map_or(true, |a| a.genesis.id() != self.mesh())
        {
            self.disconnect(peer).await;
        }
        answer
    }

    /// Tells where `peer` may be reached: a hint for [`Net::open`], kept in the bounded address
    /// book beside what peers and the DHT tell.
    pub fn add_addresses(&self, peer: PeerId, addrs: Vec<Multiaddr>) {
        self.shared.learn(peer, addrs);
    }

    /// Where `peer` was last known to be, best first: by its own word, the DHT's, or what was added.
    pub fn known_addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.shared.addresses(peer)
    }

    /// Opens a stream of `protocol` (1 to 64 lower-case letters, digits, `.`, `_`, `-`) to a
    /// member. Connects first if need be: by the address book, then by asking the DHT. Of several
    /// connections takes a direct one before a relayed one, then the one with the shortest round
    /// trip.
    pub async fn open(
        &self,
        peer: PeerId,
        protocol: &str,
        within: Duration,
    ) -> Result<MeshStream, OpenError> {
        let name = self
            .shared
            .names
            .stream(protocol)
            .ok_or_else(|| OpenError::Name(clip(protocol)))?;
        timeout(within, self.connect_and_open(peer, name))
            .await
            .unwrap_or_else(|_| {
                Err(OpenError::Timeout {
                    peer,
                    protocol: protocol.to_owned(),
                    within,
                })
            })
    }

    async fn connect_and_open(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<MeshStream, OpenError> {
        match self.request_stream(peer, protocol.clone(), false).await {
            Ok(stream) => return Ok(stream),
            // A connection may break just now; a fresh one is worth a try.
            Err(OpenRefusal::NotReady | OpenRefusal::Final(OpenError::ConnectionLost { .. })) => {}
            Err(OpenRefusal::Final(error)) => return Err(error),
        }
        self.reach(peer).await?;
        self.request_stream(peer, protocol, false)
            .await
            .map_err(|refusal| match refusal {
                OpenRefusal::NotReady => OpenError::ConnectionLost {
                    peer,
                    reason: "it was closed at once".into(),
                },
                OpenRefusal::Final(error) => error,
            })
    }

    /// A peer that has just come up may not have its reservation yet, nor told of it: it is tried
    /// again for a while, unless it has an address at which it should have answered.
    async fn reach(&self, peer: PeerId) -> Result<(), DialError> {
        let mut outcome = self.reach_once(peer).await;
        for pause in AGAIN {
            let hidden = {
                let reach = self.shared.reach();
                let global = |a: &Multiaddr| reach.scope(a) == Scope::Global;
                reach.abroad() && !self.shared.addresses(&peer).iter().any(global)
            };
            match &outcome {
                Err(error) if hidden && error.another_address_may_help() => {}
                _ => break,
            }
            sleep(pause).await;
            outcome = self.reach_once(peer).await;
        }
        outcome
    }

    async fn reach_once(&self, peer: PeerId) -> Result<(), DialError> {
        let Err(error) = self.connect_anywhere(peer).await else {
            return Ok(());
        };
        let found = error.another_address_may_help() && self.find(peer).await?;
        if !found {
            return Err(error);
        }
        match self.connect_anywhere(peer).await {
            // Nothing new was found: what came of the old addresses tells more.
            Err(DialError::NoAddress { .. }) => Err(error),
            outcome => outcome,
        }
    }

    /// Of several addresses libp2p dials together, one where somebody else answers ends the whole
    /// attempt. It is then forgotten, and the others get theirs.
    async fn connect_anywhere(&self, peer: PeerId) -> Result<(), DialError> {
        let mut outcome = self.connect_known(peer).await;
        for _ in 0..MAX_ADDRESSES {
            if !matches!(outcome, Err(DialError::WrongPeer { .. })) {
                break;
            }
            match self.connect_known(peer).await {
                Err(DialError::NoAddress { .. }) => break,
                next => outcome = next,
            }
        }
        outcome.map(drop)
    }

    async fn connect_known(&self, peer: PeerId) -> Result<PeerId, DialError> {
        self.ask(|reply| Command::Connect { peer, reply })
            .await
            .map_err(|Gone| DialError::Stopped)?
    }

    async fn find(&self, peer: PeerId) -> Result<bool, DialError> {
        self.ask(|reply| Command::Find { peer, reply })
            .await
            .map_err(|Gone| DialError::Stopped)
    }

    async fn request_stream(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
        anyone: bool,
    ) -> Result<MeshStream, OpenRefusal> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Open {
            peer,
            request: OpenRequest { protocol, reply },
            anyone,
        };
        if self.commands.send(command).await.is_err() {
            return Err(OpenRefusal::Final(OpenError::Stopped));
        }
        answer.await.unwrap_or_else(|_| {
            // The wish was dropped unanswered: with its connection, or with the whole swarm.
            Err(OpenRefusal::Final(if self.commands.is_closed() {
                OpenError::Stopped
            } else {
                OpenError::ConnectionLost {
                    peer,
                    reason: "it closed".into(),
                }
            }))
        })
    }

    /// Accepts streams of `protocol` from members, until the returned value is dropped.
    pub fn accept(&self, protocol: &str) -> Result<Incoming, AcceptError> {
        let name = self
            .shared
            .names
            .stream(protocol)
            .ok_or_else(|| AcceptError::Name(clip(protocol)))?;
        self.shared
            .registry
            .register(name)
            .map_err(|e| e.into_accept(protocol))
    }

    /// Announces that this node provides `key`, now and every ten minutes, until
    /// [`Net::stop_providing`]. Returns when that is noted; with nobody to tell yet, the first
    /// peer to come is told at once.
    pub async fn provide(&self, key: &[u8]) -> Result<(), DhtError> {
        let key = self.shared.names.dht_key(key);
        self.ask(|reply| Command::Provide { key, reply })
            .await
            .map_err(|Gone| DhtError::Stopped)?
    }

    /// Stops announcing `key`; others forget it within half an hour.
    pub async fn stop_providing(&self, key: &[u8]) {
        let key = self.shared.names.dht_key(key);
        let _ = self
            .ask(|reply| Command::StopProviding { key, reply })
            .await;
    }

    /// Looks for peers, this one excepted, that announced `key`; each comes as soon as it is named, its
    /// addresses in the address book. Dropping what is returned ends the look-up.
    ///
    /// A record is a hint: anybody may announce anything, and its peer may be gone for half an hour.
    /// What counts is what the peer itself answers.
    pub async fn look_up(&self, key: &[u8]) -> Result<Providers, DhtError> {
        let key = self.shared.names.dht_key(key);
        let (sender, found) = mpsc::channel(MAX_PROVIDERS);
        let commands = self.commands.downgrade();
        let providers = Providers { found, commands };
        self.ask(|reply| Command::Providers {
            key,
            found: sender,
            reply,
        })
        .await
        .map_err(|Gone| DhtError::Stopped)??;
        Ok(providers)
    }

    /// Up to 64 of the peers [`Net::look_up`] finds: when the DHT has nothing more to tell, or at
    /// the deadline those found by then.
    pub async fn providers(&self, key: &[u8], within: Duration) -> Result<Vec<PeerId>, DhtError> {
        let mut found = Vec::new();
        let search = async {
            let mut providers = self.look_up(key).await?;
            while let Some(peer) = providers.next().await {
                found.push(peer);
            }
            Ok(())
        };
        match timeout(within, search).await {
            Ok(outcome) => outcome?,
            Err(_) if found.is_empty() => return Err(DhtError::Timeout(within)),
            Err(_) => {}
        }
        Ok(found)
    }

    /// Connected peers, members or not, in no particular order.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.peers().values().cloned().collect()
    }

    /// What happens to peers from now on.
    pub fn events(&self) -> broadcast::Receiver<NetEvent> {
        self.shared.events.subscribe()
    }

    /// Closes all connections with `peer`. It may connect again.
    pub async fn disconnect(&self, peer: PeerId) {
        let _ = self.ask(|reply| Command::Disconnect { peer, reply }).await;
    }

    /// From now on these peers are shut out of the mesh, and no others: no connection with them is made or
    /// let in, whatever the path; those there are end at once, with their streams. Who is no longer named
    /// may come back at once.
    pub fn shut_out(&self, peers: Arc<HashSet<PeerId>>) {
        self.shared.shut_out.set(peers);
    }

    /// The list of those who are shut out, for all else that must keep them out.
    pub fn shut_out_list(&self) -> ShutOut {
        self.shared.shut_out.clone()
    }

    /// The member that has told this node last that it is shut out itself; none once any member has let it
    /// in again.
    pub fn shut_out_by(&self) -> Option<PeerId> {
        self.shared.verdict.by()
    }

    /// Waits until some of `bytes` may be sent beside the mesh's own streams, within the operator's limit
    /// on upload, and says how many.
    pub async fn may_send(&self, bytes: usize) -> usize {
        self.shared.meters.may_send(bytes).await
    }

    /// Closes every connection, stops listening and announcing, and ends all tasks. The ports are free
    /// when it returns.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let ports = self.shared.listen.send_replace(Vec::new());
        let _ = self.ask(|reply| Command::Shutdown { reply }).await;
        self.tasks.close();
        if timeout(SHUTDOWN_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("network tasks did not end within {SHUTDOWN_TIMEOUT:?}");
        }
        // A QUIC socket outlives its endpoint until its last connection has drained, and nothing
        // in libp2p tells when that is.
        let _ = timeout(SHUTDOWN_TIMEOUT, async {
            while ports.iter().any(in_use) {
                sleep(PORT_CHECK).await;
            }
        })
        .await;
    }

    /// What this node knows of its own place in the network, a quarter of a second old at most.
    pub fn report(&self) -> NetReport {
        self.shared
            .report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A connected peer.
    pub fn peer(&self, peer: &PeerId) -> Option<PeerInfo> {
        self.shared.peers().get(peer).cloned()
    }

    /// How a new stream to `peer` would run now; none while it is not connected.
    pub fn path_to(&self, peer: &PeerId) -> Option<PathKind> {
        self.shared.peers().get(peer).map(|p| p.path)
    }

    /// Addresses that strangers may be told, best first: global ones that were dialled back, circuits
    /// of relays, and, in a mesh that is all on one machine or network, those of it.
    pub fn announced(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.shared.announced.subscribe()
    }

    /// What was refused or given up so far.
    pub fn counters(&self) -> NetCounters {
        self.shared.counters.snapshot()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("local_peer", &self.local_peer())
            .field("mesh", &self.mesh())
            .finish_non_exhaustive()
    }
}

/// A caller's text as it may stand in an error message.
fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests;
