//! Everything that depends on time: silent peers, unwelcome guests, too many connections.

use std::{collections::HashSet, sync::Arc, time::Duration};

use libp2p::{PeerId, kad};
use tokio::time::Instant;

use super::{
    Manager,
    dials::Waiter,
    paths,
    table::{Connection, Standing},
};
use crate::{
    config::{CONNECT_TIMEOUT, HOUSEKEEPING, REFUSALS_TOLD, SILENCE},
    link::Link,
    peers::{GivenUp, NetEvent},
};

/// A late wake-up of our own must not make every peer look silent.
const LATE: Duration = Duration::from_secs(1);
/// A query is done with a connection by then; the side that opened it closes it first.
const ERRAND: Duration = Duration::from_secs(10);
const VISIT: Duration = Duration::from_secs(20);
/// A member has said who it is by then, if room is short.
const HELLO: Duration = Duration::from_secs(3);
/// As many as a bucket of the DHT holds.
const NEIGHBOURS: usize = 20;

/// A connection that may be closed.
struct Idle {
    class: Class,
    peer: PeerId,
    link: Arc<Link>,
    inbound: bool,
    settled: bool,
}

/// In the order in which idle connections are closed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Spare,
    Unknown,
    /// Its age.
    Errand(Duration),
    /// When it was last used.
    Kept(Instant),
    Needed,
}

/// Whether nothing runs on it: no stream of ours, no circuit of others.
fn is_idle(c: &Connection) -> bool {
    c.link.streams() == 0 && c.link.meter.circuits() == 0
}

/// Whether it has lasted long enough to be one of those that are kept.
fn is_settled(c: &Connection, now: Instant) -> bool {
    let patience = if c.is_errand() { ERRAND } else { VISIT };
    now.saturating_duration_since(c.since) > patience
}

impl Manager {
    /// Everything that depends on time.
    pub(super) fn keep_house(&mut self, now: Instant) {
        let late = now
            .saturating_duration_since(self.kept_house)
            .saturating_sub(HOUSEKEEPING);
        self.kept_house = now;
        let abroad = {
            let reach = self.shared.reach();
            reach.abroad() && !reach.is_lab()
        };
        self.swarm.behaviour_mut().kad.how.abroad = abroad;
        self.look_after_connections(now, if late > LATE { late } else { Duration::ZERO });
        self.trim(now);
        self.report_refusals(now);
        self.forget_callers();
        self.keep_dials(now);
        self.keep_relays(now);
        self.keep_observers(now);
        self.keep_paths(now);
        self.tell_all();
        self.publish_report();
        self.dial_local(now);
        self.keep_dht(now);
    }

    fn look_after_connections(&mut self, now: Instant, forgiven: Duration) {
        let (mut silent, mut unwelcome, mut mute) = (Vec::new(), Vec::new(), Vec::new());
        let mut replaced = Vec::new();
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
            let direct = peer.has_direct();
            // Of several circuits, each opened for another round of hole punching, the oldest stays.
            let circuits = peer.connections.iter().filter(|c| c.link.is_relayed());
            let oldest = circuits.min_by_key(|c| c.since).map(|c| c.link.id);
            for c in &peer.connections {
                let unused = c.link.streams() == 0
                    && now.saturating_duration_since(c.used_at.max(c.since)) > paths::LINGER;
                let spare = c.link.is_relayed() && (direct || Some(c.link.id) != oldest);
                if unused && (c.link.is_passing() || spare) {
                    replaced.push((*id, c.link.clone()));
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
            let why = GivenUp::Silent;
            self.shared.emit(NetEvent::GivenUp { peer: id, why });
            self.give_up(id, &link);
        }
        for (id, link) in replaced {
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
    pub(super) fn give_up(&mut self, id: PeerId, link: &Link) {
        link.lost.cancel();
        self.swarm.close_connection(link.id);
        self.disconnected(id, link.id);
    }

    /// Members' connections are kept while there is room. From seven eighths of a limit on, idle ones are
    /// closed: of all, of the inbound ones, which have a limit of their own, and of those kept for their own
    /// sake. Among these a connection counts only after a while: the many that a DHT query opens shall end
    /// without displacing one that has proven to last.
    fn trim(&mut self, now: Instant) {
        let limits = &self.shared.limits;
        let (all, inbound) = (limits.connections as usize, limits.inbound() as usize);
        let kept = limits.idle_connections as usize;
        let connections = || self.peers.values().flat_map(|p| &p.connections);
        let excess = |count: usize, limit: usize| count.saturating_sub(limit - limit / 8);
        let counts = |c: &&Connection| is_idle(c) && is_settled(c, now);
        let too_idle = connections().filter(counts).count().saturating_sub(kept);
        let mut of_all = excess(connections().count(), all);
        let mut of_inbound = excess(connections().filter(|c| c.inbound).count(), inbound);
        let mut of_idle = too_idle;
        if of_all == 0 && of_inbound == 0 && of_idle == 0 {
            return;
        }
        for idle in self.idle(now) {
            if of_all == 0 && !(idle.inbound && of_inbound > 0) && !(idle.settled && of_idle > 0) {
                continue;
            }
            of_all = of_all.saturating_sub(1);
            of_inbound = of_inbound.saturating_sub(usize::from(idle.inbound));
            of_idle = of_idle.saturating_sub(usize::from(idle.settled));
            self.shared.counters.connections_trimmed.up();
            let (peer, why) = (idle.peer, GivenUp::NoRoom);
            self.shared.emit(NetEvent::GivenUp { peer, why });
            self.give_up(idle.peer, &idle.link);
        }
    }

    /// Connections without streams, those to be spared for longest last: first go those beside a better one
    /// with the same peer, by an order on which both sides agree; then those of peers that have not said who
    /// they are; then those of DHT queries, the newest first; then the others, unused for longest first; and
    /// last those by which nodes are reached through relays, and those with this node's neighbours in the
    /// DHT, by whom its look-ups come to an end.
    fn idle(&self, now: Instant) -> Vec<Idle> {
        let neighbours = self.neighbours();
        let mut idle = Vec::new();
        for (id, peer) in &self.peers {
            let rank = |c: &Connection| (c.link.is_relayed(), c.since);
            let first = peer.connections.iter().map(rank).min();
            let unknown = matches!(
                peer.standing,
                Standing::Unidentified | Standing::Foreign { .. }
            );
            for c in peer.connections.iter().filter(|c| is_idle(c)) {
                let class = if first.is_some_and(|first| rank(c) > first) {
                    Class::Spare
                } else if unknown && now.saturating_duration_since(c.since) > HELLO {
                    Class::Unknown
                } else if self.relays.need(id) || neighbours.contains(id) {
                    Class::Needed
                } else if c.is_errand() {
                    Class::Errand(now.saturating_duration_since(c.since))
                } else {
                    Class::Kept(c.used_at)
                };
                idle.push(Idle {
                    class,
                    peer: *id,
                    link: c.link.clone(),
                    inbound: c.inbound,
                    settled: is_settled(c, now),
                });
            }
        }
        idle.sort_by_key(|i| i.class);
        idle
    }

    /// The connected servers of the DHT that are nearest to this node in its metric.
    fn neighbours(&self) -> HashSet<PeerId> {
        let own = kad::KBucketKey::from(self.shared.local);
        let servers = self.peers.iter().filter(|(_, p)| p.serves_dht);
        let mut servers: Vec<_> = servers
            .map(|(id, _)| (kad::KBucketKey::from(*id).distance(&own), *id))
            .collect();
        servers.sort_unstable();
        servers
            .into_iter()
            .take(NEIGHBOURS)
            .map(|(_, id)| id)
            .collect()
    }

    /// Says, now and then, that connections are refused: whoever runs the node cannot see it else.
    fn report_refusals(&mut self, now: Instant) {
        let refused = self.shared.counters.snapshot().connections_refused;
        if refused > self.refused_told && now >= self.tell_refused_at {
            tracing::warn!(
                "{} connections were refused by a limit since the last such line",
                refused - self.refused_told
            );
            (self.refused_told, self.tell_refused_at) = (refused, now + REFUSALS_TOLD);
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
