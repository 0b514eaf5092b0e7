//! Who is connected: their connections, whether they belong here, whether they still live.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, core::ConnectedPoint, identify, swarm::ConnectionId};
use tokio::time::Instant;

use super::{
    Manager,
    dials::Waiter,
    place::{self, Told},
};
use crate::{
    address::{ip_of, split_peer},
    config::{FOREIGN_GRACE, MAX_ADDRESSES, WAITERS_PER_PEER},
    error::{DialError, OpenError, OpenRefusal},
    link::Link,
    names::{Belongs, HELLO},
    peers::{Membership, NetEvent, PeerInfo},
    reach::Reach,
    report::Scope,
    streams::OpenRequest,
    swarm::agent,
    vetting::{Distance, vet},
};

pub(super) struct Peer {
    pub(super) connections: Vec<Connection>,
    pub(super) standing: Standing,
    agent: String,
    /// It keeps a part of the DHT.
    pub(super) serves_dht: bool,
    /// It relays for others.
    pub(super) relays: bool,
    /// It dials others back.
    pub(super) dials_back: bool,
    /// What it has said of where it is.
    pub(super) told: Told,
    /// Callers that wait for it to identify itself.
    pub(super) waiters: Vec<Waiter>,
}

pub(super) struct Connection {
    pub(super) link: Arc<Link>,
    pub(super) inbound: bool,
    /// Opened by a DHT query of this node's own, to ask a stranger once.
    errand: bool,
    pub(super) since: Instant,
    /// Last pong.
    pub(super) heard: Instant,
    rtt: Option<Duration>,
    /// Streams opened on it when last looked at, and when that number last grew.
    pub(super) used: u64,
    pub(super) used_at: Instant,
}

pub(super) enum Standing {
    Unidentified,
    Member,
    /// What callers are told, and until when it may stay.
    Foreign {
        error: Box<DialError>,
        until: Instant,
    },
}

impl Connection {
    /// Of no use beyond the query it was opened for, as far as anybody has shown.
    pub(super) fn is_errand(&self) -> bool {
        self.errand && self.used == 0
    }
}

impl Peer {
    fn membership(&self) -> Membership {
        match self.standing {
            Standing::Unidentified => Membership::Unidentified,
            Standing::Member => Membership::Member,
            Standing::Foreign { .. } => Membership::Foreign,
        }
    }

    /// Direct before relayed, then the shortest round trip, then the oldest.
    pub(super) fn best(&self) -> Option<&Connection> {
        self.usable()
            .min_by_key(|c| (c.link.is_relayed(), c.rtt.unwrap_or(Duration::MAX), c.since))
    }

    /// Connections for everybody's use.
    pub(super) fn usable(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|c| !c.link.is_passing())
    }

    /// The best direct connection's address.
    pub(super) fn direct_remote(&self) -> Option<Multiaddr> {
        let best = self.best()?;
        // What an inbound connection comes from is no address to dial.
        let dialled = self.usable().find(|c| !c.link.is_relayed() && !c.inbound);
        let told = || {
            self.told
                .addresses
                .iter()
                .find(|a| crate::address::relay_of(a).is_none())
                .cloned()
        };
        match dialled {
            Some(c) => Some(c.link.remote.clone()),
            None => told().or_else(|| (!best.link.is_relayed()).then(|| best.link.remote.clone())),
        }
    }

    /// Where it can be dialled, as far as is proven or told.
    pub(super) fn dialable(&self) -> Vec<Multiaddr> {
        let dialled = self.usable().filter(|c| !c.link.is_relayed() && !c.inbound);
        let mut all: Vec<_> = dialled.map(|c| c.link.remote.clone()).collect();
        all.extend(
            self.told
                .addresses
                .iter()
                .filter(|a| !all.contains(a))
                .cloned()
                .collect::<Vec<_>>(),
        );
        all
    }

    pub(super) fn has_direct(&self) -> bool {
        self.usable().any(|c| !c.link.is_relayed())
    }

    pub(super) fn is_inbound(&self, connection: ConnectionId) -> bool {
        self.connections
            .iter()
            .any(|c| c.link.id == connection && c.inbound)
    }

    pub(super) fn rtt(&self) -> Duration {
        self.best().and_then(|c| c.rtt).unwrap_or(Duration::MAX)
    }

    /// The nearest scope it is met in.
    pub(super) fn scope(&self, reach: &Reach) -> Scope {
        let scopes = self.usable().map(|c| reach.scope(&c.link.remote));
        let near = |s: &Scope| match s {
            Scope::Loopback => 0,
            Scope::Private => 1,
            Scope::Global => 2,
            Scope::Circuit => 3,
        };
        scopes.min_by_key(near).unwrap_or(Scope::Circuit)
    }

    pub(super) fn is_at(&self, address: &Multiaddr) -> bool {
        self.usable().any(|c| c.link.remote == *address)
    }

    /// What a caller that needs a member is told now; `None` while that is unknown.
    pub(super) fn verdict(&self, peer: PeerId) -> Option<Result<PeerId, DialError>> {
        match &self.standing {
            Standing::Unidentified => None,
            Standing::Member => Some(Ok(peer)),
            Standing::Foreign { error, .. } => Some(Err(DialError::clone(error))),
        }
    }
}

impl Manager {
    pub(super) fn connected(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        let Some(link) = self.swarm.behaviour().streams.link(connection) else {
            return;
        };
        let passing = self.is_dial_back(connection);
        link.passing.store(passing, Relaxed);
        if endpoint.is_dialer() && !passing {
            self.shared.learn(id, [link.remote.clone()]);
        }
        self.shared.book().reached(&id);
        let now = Instant::now();
        let first = !self.peers.contains_key(&id);
        let errand = first && self.is_unwanted(connection);
        let peer = self.peers.entry(id).or_insert_with(|| Peer {
            connections: Vec::new(),
            standing: Standing::Unidentified,
            agent: String::new(),
            serves_dht: false,
            relays: false,
            dials_back: false,
            told: Told::default(),
            waiters: Vec::new(),
        });
        // A direct connection beside a circuit, to a peer that cannot be reached unaided or from one
        // that this node is not reachable for, went through a hole.
        let beside_relay = !link.is_relayed() && peer.usable().any(|c| c.link.is_relayed());
        link.keep.store(
            matches!(peer.standing, Standing::Member) && !passing,
            Relaxed,
        );
        let member = peer.is_member();
        peer.connections.push(Connection {
            link: link.clone(),
            inbound: endpoint.is_listener(),
            errand,
            since: now,
            heard: now,
            rtt: None,
            used: 0,
            used_at: now,
        });
        if beside_relay && !passing {
            let unaided = match endpoint.is_dialer() {
                true => {
                    self.shared.addresses(&id).contains(&link.remote)
                        && self.announces(id, &link.remote)
                }
                false => self.shared.reach().is_public(),
            };
            if !unaided {
                link.punched();
            }
        }
        self.met(id, endpoint, beside_relay || passing);
        if member {
            self.met_member(&link);
        }
        self.publish(id);
        self.path_changed(id);
        if first {
            self.shared.emit(NetEvent::Connected { peer: id });
        }
        self.dial_succeeded(connection, &link);
        // The list may have changed between the swarm's consent and its telling.
        if self.shared.shut_out.contains(&id) {
            self.cut_off(id);
        }
    }

    /// Whether a peer has told that it can be dialled at this address.
    fn announces(&self, id: PeerId, address: &Multiaddr) -> bool {
        self.peers
            .get(&id)
            .is_some_and(|p| p.told.addresses.contains(address))
    }

    /// How wide the world is, is told by where members are met.
    fn met_member(&mut self, link: &Link) {
        let before = self.shared.reach().announced();
        self.shared.reach().met(&link.remote);
        if self.shared.reach().announced() != before {
            self.place_changed();
        }
    }

    pub(super) fn disconnected(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.connections.retain(|c| c.link.id != connection);
        if !peer.connections.is_empty() {
            self.publish(id);
            self.path_changed(id);
            return;
        }
        if let Some(peer) = self.peers.remove(&id) {
            let turned_away = self.shared.verdict.by() == Some(id);
            for waiter in peer.waiters {
                waiter.tell(Err(if turned_away {
                    DialError::TurnedAway { by: id }
                } else {
                    DialError::Closed { peer: id }
                }));
            }
        }
        self.route_lost(&id);
        self.shared.peers().remove(&id);
        self.path_changed(id);
        self.shared.emit(NetEvent::Disconnected { peer: id });
    }

    /// Puts `waiter` where it is answered: at once, or when the peer has identified itself.
    pub(super) fn await_standing(&mut self, id: PeerId, waiter: Waiter) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return waiter.tell(Err(DialError::Closed { peer: id }));
        };
        match peer.verdict(id) {
            _ if !waiter.needs_member() => waiter.tell(Ok(id)),
            Some(verdict) => waiter.tell(verdict),
            None if peer.waiters.len() >= WAITERS_PER_PEER => {
                self.shared.counters.callers_refused.up();
                waiter.tell(Err(DialError::Busy {
                    target: id.to_string(),
                    reason: format!("{WAITERS_PER_PEER} callers already wait for it"),
                }));
            }
            None => peer.waiters.push(waiter),
        }
    }

    pub(super) fn open(&mut self, id: PeerId, request: OpenRequest, anyone: bool) {
        let refusal = match self.peers.get(&id) {
            None => OpenRefusal::NotReady,
            Some(peer) => match (&peer.standing, peer.best()) {
                (Standing::Foreign { error, .. }, _) if !anyone => {
                    OpenRefusal::Final(OpenError::Dial(DialError::clone(error)))
                }
                (Standing::Unidentified, _) if !anyone => OpenRefusal::NotReady,
                (_, None) => OpenRefusal::NotReady,
                (_, Some(best)) => {
                    let link = best.link.clone();
                    return self.swarm.behaviour_mut().streams.open(&link, request);
                }
            },
        };
        let _ = request.reply.send(Err(refusal));
    }

    pub(super) fn identified(&mut self, id: PeerId, info: identify::Info) {
        let agent = agent(&info.agent_version);
        let belongs = self.shared.names.classify(&info.protocol_version);
        let error = match belongs {
            Belongs::Here => return self.member(id, agent, info),
            Belongs::Elsewhere(theirs) => DialError::WrongMesh {
                peer: id,
                theirs,
                ours: self.shared.names.short().to_owned(),
            },
            Belongs::OtherVersion(mismatch) => DialError::Version { peer: id, mismatch },
            // A node of another build may differ in everything but the hello.
            Belongs::Nowhere => DialError::NotPolymath {
                peer: id,
                agent: if info.protocols.contains(&HELLO) {
                    format!("{agent}, unknown version")
                } else {
                    agent.clone()
                },
            },
        };
        self.foreign(id, agent, error);
    }

    /// Identify failed on a connection: no node of ours does that.
    pub(super) fn not_identified(&mut self, id: PeerId) {
        if self
            .peers
            .get(&id)
            .is_some_and(|p| matches!(p.standing, Standing::Unidentified))
        {
            // It says nothing since it does not want this node.
            if self.shared.verdict.by() == Some(id) {
                return self.turned_away(id);
            }
            let agent = "it does not identify itself".to_owned();
            self.foreign(
                id,
                String::new(),
                DialError::NotPolymath { peer: id, agent },
            );
        }
    }

    fn turned_away(&mut self, id: PeerId) {
        let peer = self.peers.get_mut(&id);
        let waiters = peer.map(|p| std::mem::take(&mut p.waiters));
        for waiter in waiters.unwrap_or_default() {
            waiter.tell(Err(DialError::TurnedAway { by: id }));
        }
    }

    fn member(&mut self, id: PeerId, agent: String, info: identify::Info) {
        let (kad, distance) = (self.shared.names.kad(), self.distance(&id));
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.standing = Standing::Member;
        self.shared.verdict.let_in();
        peer.agent.clone_from(&agent);
        peer.serves_dht = kad.is_some_and(|kad| info.protocols.contains(&kad));
        peer.relays = place::relays(&info);
        peer.dials_back = place::dials_back(&info);
        for connection in peer.usable() {
            connection.link.keep.store(true, Relaxed);
        }
        let links: Vec<_> = peer.usable().map(|c| c.link.clone()).collect();
        let waiters = std::mem::take(&mut peer.waiters);
        // Foreign implementations tell their addresses here; ours tell by whereabouts what is private.
        let told = info.listen_addrs.into_iter().map(|a| split_peer(a).0);
        let addresses = vet(told, distance, MAX_ADDRESSES, &self.shared.counters);
        self.shared.learn(id, addresses.clone());
        for link in links {
            self.met_member(&link);
        }
        self.route_told(id);
        self.tell(id);
        self.publish(id);
        self.shared.emit(NetEvent::Identified {
            peer: id,
            agent,
            addresses,
        });
        for waiter in waiters {
            waiter.tell(Ok(id));
        }
    }

    /// Where a peer is, by the nearest of its connections.
    pub(super) fn distance(&self, id: &PeerId) -> Distance {
        if self.shared.reach().is_lab() {
            return Distance::SameMachine;
        }
        let listen = self.shared.listen.borrow();
        let here: Vec<_> = listen.iter().filter_map(ip_of).collect();
        let connections = self.peers.get(id).into_iter().flat_map(|p| &p.connections);
        connections
            .map(|c| Distance::of(&c.link.remote, &here))
            .min()
            .unwrap_or(Distance::Far)
    }

    fn foreign(&mut self, id: PeerId, agent: String, error: DialError) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if !matches!(peer.standing, Standing::Foreign { .. }) {
            self.shared.counters.foreign_peers.up();
            tracing::debug!(peer = %id, %error, "foreign peer");
            self.shared.emit(NetEvent::Foreign {
                peer: id,
                belongs: error.to_string(),
            });
        }
        let waiters = std::mem::take(&mut peer.waiters);
        for connection in &peer.connections {
            connection.link.keep.store(false, Relaxed);
        }
        peer.agent = agent;
        peer.standing = Standing::Foreign {
            error: Box::new(error.clone()),
            until: Instant::now() + FOREIGN_GRACE,
        };
        self.unroute(&id);
        self.publish(id);
        for waiter in waiters {
            waiter.tell(Err(error.clone()));
        }
    }

    pub(super) fn heard(&mut self, id: PeerId, connection: ConnectionId, rtt: Duration) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Some(c) = peer
            .connections
            .iter_mut()
            .find(|c| c.link.id == connection)
        {
            c.heard = Instant::now();
            // Rises as RFC 6298 smooths, by an eighth, and falls by a half: the first sample pays
            // for the stream's negotiation and whatever else goes on while connecting.
            c.rtt = Some(c.rtt.map_or(rtt, |old| {
                if rtt < old {
                    (old + rtt) / 2
                } else {
                    (old * 7 + rtt) / 8
                }
            }));
            self.publish(id);
        }
    }

    /// Copies what callers may see of a peer into the shared table.
    pub(super) fn publish(&self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let Some(best) = peer.best() else { return };
        let info = PeerInfo {
            peer: id,
            path: best.link.path(),
            transport: best.link.transport,
            rtt: best.rtt,
            agent: peer.agent.clone(),
            addresses: peer.usable().map(|c| c.link.remote.clone()).collect(),
            connections: peer.usable().count(),
            since: peer
                .connections
                .iter()
                .map(|c| c.since)
                .min()
                .unwrap_or(best.since),
            received: peer
                .connections
                .iter()
                .map(|c| c.link.meter.received())
                .sum(),
            sent: peer.connections.iter().map(|c| c.link.meter.sent()).sum(),
            relay: best.link.relay,
            membership: peer.membership(),
        };
        self.shared.peers().insert(id, info);
    }
}
