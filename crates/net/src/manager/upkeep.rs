//! Everything that depends on time: silent peers, unwelcome guests, too many connections.

use std::time::Duration;

use libp2p::PeerId;
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
};

/// A late wake-up of our own must not make every peer look silent.
const LATE: Duration = Duration::from_secs(1);
impl Manager {
    /// Everything that depends on time.
    pub(super) fn keep_house(&mut self, now: Instant) {
        let late = now
            .saturating_duration_since(self.kept_house)
            .saturating_sub(HOUSEKEEPING);
        self.kept_house = now;
        self.look_after_connections(now, if late > LATE { late } else { Duration::ZERO });
        self.trim();
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
            for c in &peer.connections {
                let unused = c.link.streams() == 0
                    && now.saturating_duration_since(c.used_at) > paths::LINGER;
                if unused && (c.link.is_passing() || (direct && c.link.is_relayed())) {
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
    fn give_up(&mut self, id: PeerId, link: &Link) {
        link.lost.cancel();
        self.swarm.close_connection(link.id);
        self.disconnected(id, link.id);
    }

    /// Members' connections are kept while there is room. From seven eighths of a limit on, the ones
    /// unused for longest are closed: of all, and of the inbound ones, which have a limit of their own.
    /// First go those beside a better one with the same peer, by an order on which both sides agree.
    fn trim(&mut self) {
        let limits = &self.shared.limits;
        let (all, inbound) = (limits.connections as usize, limits.inbound() as usize);
        let connections = || self.peers.values().flat_map(|p| &p.connections);
        let excess = |count: usize, limit: usize| count.saturating_sub(limit - limit / 8);
        let idle = connections().filter(|c| c.link.streams() == 0).count();
        let too_idle = idle.saturating_sub(limits.idle_connections as usize);
        let mut of_all = excess(connections().count(), all).max(too_idle);
        let mut of_inbound = excess(connections().filter(|c| c.inbound).count(), inbound);
        if of_all == 0 && of_inbound == 0 {
            return;
        }
        let mut idle: Vec<_> = self
            .peers
            .iter()
            .flat_map(|(id, p)| {
                let rank = |c: &Connection| (c.link.is_relayed(), c.since);
                let first = p.connections.iter().map(rank).min();
                let spare = move |c| first.is_some_and(|first| rank(c) > first);
                p.connections.iter().map(move |c| (c, spare(c), *id))
            })
            .filter(|(c, ..)| c.link.streams() == 0)
            .map(|(c, spare, id)| ((!spare, c.used_at), id, c.link.clone(), c.inbound))
            .collect();
        idle.sort_by_key(|(order, ..)| *order);
        for (_, id, link, inbound) in idle {
            if of_all == 0 && !(inbound && of_inbound > 0) {
                continue;
            }
            of_all = of_all.saturating_sub(1);
            of_inbound = of_inbound.saturating_sub(usize::from(inbound));
            self.shared.counters.connections_trimmed.up();
            self.give_up(id, &link);
        }
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
