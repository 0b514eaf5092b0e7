//! Who is connected: their connections, whether they belong here, whether they still live.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use polymath_types::PathKind;
use tokio::time::Instant;

use super::{
    Manager,
    dials::{Dial, Waiter},
};
use crate::{
    address::{ip_of, is_dialable, is_loopback, split_peer},
    config::{
        CONNECT_TIMEOUT, FOREIGN_GRACE, HOUSEKEEPING, MAX_ADDRESSES, SILENCE, WAITERS_PER_PEER,
    },
    error::{DialError, OpenError, OpenRefusal},
    link::Link,
    names::{Belongs, HELLO},
    peers::{Membership, NetEvent, PeerInfo},
    streams::OpenRequest,
    swarm::agent,
};

/// A late wake-up of our own must not make every peer look silent.
const LATE: Duration = Duration::from_secs(1);
/// A member found on the local network that cannot be reached is tried again after this.
const LOCAL_RETRY: Duration = Duration::from_secs(30);
/// Both sides discover each other at once; the one with the greater id leaves the other so long.
const LOCAL_COURTESY: Duration = Duration::from_secs(3);

pub(super) struct Peer {
    connections: Vec<Connection>,
    standing: Standing,
    agent: String,
    /// Callers that wait for it to identify itself.
    pub(super) waiters: Vec<Waiter>,
}

struct Connection {
    link: Arc<Link>,
    remote: Multiaddr,
    since: Instant,
    /// Last pong.
    heard: Instant,
    rtt: Option<Duration>,
    /// Streams opened on it when last looked at, and when that number last grew.
    used: u64,
    used_at: Instant,
}

enum Standing {
    Unidentified,
    Member,
    /// What callers are told, and until when it may stay.
    Foreign {
        error: Box<DialError>,
        until: Instant,
    },
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
    fn best(&self) -> Option<&Connection> {
        self.connections.iter().min_by_key(|c| {
            (
                c.link.path == PathKind::Relayed,
                c.rtt.unwrap_or(Duration::MAX),
                c.since,
            )
        })
    }

    pub(super) fn is_at(&self, address: &Multiaddr) -> bool {
        self.connections.iter().any(|c| c.remote == *address)
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
        let (remote, _) = split_peer(endpoint.get_remote_address().clone());
        if endpoint.is_dialer() {
            self.shared.learn(id, [remote.clone()]);
        }
        self.shared.book().reached(&id);
        let now = Instant::now();
        let first = !self.peers.contains_key(&id);
        let peer = self.peers.entry(id).or_insert_with(|| Peer {
            connections: Vec::new(),
            standing: Standing::Unidentified,
            agent: String::new(),
            waiters: Vec::new(),
        });
        link.keep
            .store(matches!(peer.standing, Standing::Member), Relaxed);
        peer.connections.push(Connection {
            link,
            remote,
            since: now,
            heard: now,
            rtt: None,
            used: 0,
            used_at: now,
        });
        self.publish(id);
        if first {
            self.shared.emit(NetEvent::Connected { peer: id });
        }
        self.dial_succeeded(connection, id);
    }

    pub(super) fn disconnected(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.connections.retain(|c| c.link.id != connection);
        if !peer.connections.is_empty() {
            self.publish(id);
            return;
        }
        if let Some(peer) = self.peers.remove(&id) {
            for waiter in peer.waiters {
                waiter.tell(Err(DialError::Closed { peer: id }));
            }
        }
        self.shared.peers().remove(&id);
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
            let agent = "it does not identify itself".to_owned();
            self.foreign(
                id,
                String::new(),
                DialError::NotPolymath { peer: id, agent },
            );
        }
    }

    fn member(&mut self, id: PeerId, agent: String, info: identify::Info) {
        let here: Vec<_> = self
            .shared
            .listen
            .borrow()
            .iter()
            .filter_map(ip_of)
            .collect();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.standing = Standing::Member;
        peer.agent.clone_from(&agent);
        // Loopback means this machine only if that is where the peer is.
        let same_machine = peer
            .connections
            .iter()
            .filter_map(|c| ip_of(&c.remote))
            .any(|ip| ip.is_loopback() || here.contains(&ip));
        for connection in &peer.connections {
            connection.link.keep.store(true, Relaxed);
        }
        let waiters = std::mem::take(&mut peer.waiters);
        let addresses: Vec<_> = info
            .listen_addrs
            .into_iter()
            .map(|a| split_peer(a).0)
            .filter(|a| is_dialable(a) && (same_machine || !is_loopback(a)))
            .take(MAX_ADDRESSES)
            .collect();
        self.shared.learn(id, addresses.clone());
        self.route(id, &addresses, &info.protocols);
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
            // RFC 6298's smoothing: one eighth of the new sample.
            c.rtt = Some(c.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
            self.publish(id);
        }
    }

    /// Copies what callers may see of a peer into the shared table.
    fn publish(&self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let Some(best) = peer.best() else { return };
        let info = PeerInfo {
            peer: id,
            path: best.link.path,
            transport: best.link.transport,
            rtt: best.rtt,
            agent: peer.agent.clone(),
            addresses: peer.connections.iter().map(|c| c.remote.clone()).collect(),
            connections: peer.connections.len(),
            since: peer
                .connections
                .iter()
                .map(|c| c.since)
                .min()
                .unwrap_or(best.since),
            membership: peer.membership(),
        };
        self.shared.peers().insert(id, info);
    }

    /// A member announced itself on the local network.
    pub(super) fn discovered(&mut self, id: PeerId, addresses: Vec<Multiaddr>) {
        if id == self.shared.local {
            return;
        }
        if !self.local.contains_key(&id) && self.local.len() >= self.shared.limits.local_peers {
            self.shared.counters.local_announcements_ignored.up();
            return;
        }
        self.shared.learn(id, addresses);
        let courtesy = if self.shared.local < id {
            Duration::ZERO
        } else {
            LOCAL_COURTESY
        };
        let now = Instant::now();
        let due = self.local.entry(id).or_insert(now + courtesy);
        *due = (*due).min(now + courtesy);
        self.dial_local(now);
    }

    fn dial_local(&mut self, now: Instant) {
        let due: Vec<_> = self
            .local
            .iter_mut()
            .filter(|(id, due)| **due <= now && !self.peers.contains_key(id))
            .map(|(id, due)| {
                *due = now + LOCAL_RETRY;
                *id
            })
            .collect();
        for id in due {
            let opts = DialOpts::peer_id(id)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(self.shared.addresses(&id))
                .build();
            let connection = opts.connection_id();
            if self.swarm.dial(opts).is_ok() {
                self.dials.insert(connection, Dial::unasked(id));
            }
        }
    }

    /// Everything that depends on time.
    pub(super) fn keep_house(&mut self, now: Instant) {
        let late = now
            .saturating_duration_since(self.kept_house)
            .saturating_sub(HOUSEKEEPING);
        self.kept_house = now;
        self.look_after_connections(now, if late > LATE { late } else { Duration::ZERO });
        self.trim();
        self.forget_callers();
        self.dial_local(now);
        self.keep_dht(now);
    }

    fn look_after_connections(&mut self, now: Instant, forgiven: Duration) {
        let (mut silent, mut unwelcome, mut mute) = (Vec::new(), Vec::new(), Vec::new());
        for (id, peer) in &mut self.peers {
            for c in &mut peer.connections {
                c.heard += forgiven;
                if now.saturating_duration_since(c.heard) > SILENCE {
                    silent.push((*id, c.link.clone()));
                }
                let used = c.link.used();
                if used != c.used || c.link.streams() > 0 {
                    (c.used, c.used_at) = (used, now);
                }
            }
            match &peer.standing {
                Standing::Foreign { until, .. } if *until <= now => unwelcome.push(*id),
                Standing::Unidentified
                    if peer
                        .connections
                        .iter()
                        .all(|c| now.saturating_duration_since(c.since) > CONNECT_TIMEOUT) =>
                {
                    mute.push(*id);
                }
                _ => {}
            }
        }
        for (id, link) in silent {
            tracing::debug!(peer = %id, "no pong for {SILENCE:?}: connection given up");
            self.shared.counters.connections_silent.up();
            self.give_up(id, &link);
        }
        for id in unwelcome {
            let _ = self.swarm.disconnect_peer_id(id);
        }
        for id in mute {
            self.not_identified(id);
        }
    }

    /// Forgets a connection now. Its orderly close may take long, or for ever, with a frozen peer.
    fn give_up(&mut self, id: PeerId, link: &Link) {
        link.lost.cancel();
        self.swarm.close_connection(link.id);
        self.disconnected(id, link.id);
    }

    /// Members' connections are kept while there is room. From seven eighths of the limit on, the
    /// ones unused for longest are closed.
    fn trim(&mut self) {
        let limit = self.shared.limits.connections as usize;
        let total: usize = self.peers.values().map(|p| p.connections.len()).sum();
        let excess = total.saturating_sub(limit - limit / 8);
        if excess == 0 {
            return;
        }
        let mut idle: Vec<_> = self
            .peers
            .iter()
            .flat_map(|(id, p)| p.connections.iter().map(move |c| (c, *id)))
            .filter(|(c, _)| c.link.streams() == 0)
            .map(|(c, id)| (c.used_at, id, c.link.clone()))
            .collect();
        idle.sort_by_key(|(used_at, ..)| *used_at);
        for (_, id, link) in idle.into_iter().take(excess) {
            self.shared.counters.connections_trimmed.up();
            self.give_up(id, &link);
        }
    }

    /// Callers whose deadline has passed make room for others.
    fn forget_callers(&mut self) {
        for peer in self.peers.values_mut() {
            peer.waiters.retain(Waiter::still_waits);
        }
        for dial in self.dials.values_mut() {
            dial.waiters.retain(Waiter::still_waits);
        }
    }
}
