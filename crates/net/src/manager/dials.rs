//! Connections being made and who waits for them.

use std::{error::Error as _, sync::Arc, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    connection_limits::Exceeded,
    swarm::{
        self, ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use polymath_types::{PathKind, Transport};
use tokio::{sync::oneshot, time::Instant};

use super::{Manager, Need, place::circuits_through};
use crate::{
    address::{is_dialable, path_of, relay_of, split_peer},
    config::WAITERS_PER_PEER,
    error::DialError,
    link::Link,
    peers::NetEvent,
    shut_out::IsShutOut,
};

/// Connected relays asked for a peer whose own relays are not known.
const LIKELY_RELAYS: usize = 3;
/// How long direct addresses have before a relay is asked as well.
const HEAD_START: Duration = Duration::from_millis(300);

/// After so many failures in a row a peer leaves the routing table.
const UNROUTE_AFTER: u32 = 3;

/// A connection being made.
pub(super) struct Dial {
    peer: Option<PeerId>,
    /// The address or peer, for error messages.
    target: String,
    pub(super) waiters: Vec<Waiter>,
    /// Circuits to try if this has not succeeded by then.
    circuits: Option<(Instant, Vec<Multiaddr>)>,
    /// Who wants this very connection, for a dial-back.
    back: Option<oneshot::Sender<Result<Arc<Link>, DialError>>>,
    why: Why,
}

/// What a connection is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Somebody waits for it, or it was thought of here.
    Wanted,
    /// A behaviour dials, the DHT for a query.
    Behaviour,
    /// To find a direct path beside a circuit.
    PastRelay(Transport),
    /// To a member that announced itself on the local network.
    Local,
}

impl Dial {
    /// One that nobody waits for, to a peer that is connected through a relay.
    pub(super) fn past_relay(peer: PeerId, over: Transport) -> Self {
        Self {
            why: Why::PastRelay(over),
            ..Self::unasked(peer)
        }
    }

    /// One that nobody waits for, to a member announced on the local network.
    pub(super) fn local(peer: PeerId) -> Self {
        Self {
            why: Why::Local,
            ..Self::unasked(peer)
        }
    }

    /// One that nobody waits for.
    pub(super) fn unasked(peer: PeerId) -> Self {
        Self {
            peer: Some(peer),
            target: peer.to_string(),
            waiters: Vec::new(),
            circuits: None,
            back: None,
            why: Why::Wanted,
        }
    }
}

/// Somebody who waits for a peer.
pub(super) struct Waiter {
    pub(super) need: Need,
    pub(super) reply: oneshot::Sender<Result<PeerId, DialError>>,
    /// What came of the address it asked for, while it waits for another dial of the same peer.
    pub(super) failed: Option<DialError>,
}

impl Waiter {
    pub(super) fn new(need: Need, reply: oneshot::Sender<Result<PeerId, DialError>>) -> Self {
        Self {
            need,
            reply,
            failed: None,
        }
    }

    pub(super) fn tell(self, outcome: Result<PeerId, DialError>) {
        let _ = self.reply.send(outcome);
    }

    /// The dial it waited for has failed. What came of its own address tells it more than what came
    /// of somebody else's.
    fn give_up(mut self, error: &DialError) {
        let own = self.failed.take();
        self.tell(Err(own.unwrap_or_else(|| error.clone())));
    }

    pub(super) fn needs_member(&self) -> bool {
        self.need == Need::Identified
    }

    pub(super) fn still_waits(&self) -> bool {
        !self.reply.is_closed()
    }
}

impl Manager {
    /// Connects to an address, whoever is there.
    pub(super) fn dial(&mut self, addr: Multiaddr, waiter: Waiter) {
        let target = addr.to_string();
        let (bare, named) = split_peer(addr);
        // Port reuse would make a socket connect to itself, which fails in odd ways.
        let own = named == Some(self.shared.local) || self.shared.listen.borrow().contains(&bare);
        if own {
            return waiter.tell(Err(DialError::Own { target }));
        }
        if let Some(peer) = named.filter(|p| self.shared.shut_out.contains(p)) {
            return waiter.tell(Err(DialError::ShutOut { peer }));
        }
        let connected = self
            .peers
            .iter()
            .find(|(id, peer)| {
                named.is_none_or(|n| n == **id) && (named.is_some() || peer.is_at(&bare))
            })
            .map(|(id, _)| *id);
        if let Some(id) = connected {
            return self.await_standing(id, waiter);
        }
        let opts = match named {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(vec![bare])
                .build(),
            None => DialOpts::unknown_peer_id().address(bare).build(),
        };
        self.start(opts, named, target, vec![waiter]);
    }

    /// Connects to a member, wherever it is known to be.
    pub(super) fn connect(&mut self, peer: PeerId, waiter: Waiter) {
        let target = peer.to_string();
        if peer == self.shared.local {
            return waiter.tell(Err(DialError::Own { target }));
        }
        if self.shared.shut_out.contains(&peer) {
            return waiter.tell(Err(DialError::ShutOut { peer }));
        }
        if self.peers.contains_key(&peer) {
            return self.await_standing(peer, waiter);
        }
        if let Some(dial) = self.dials.values_mut().find(|d| d.peer == Some(peer)) {
            if dial.waiters.len() < WAITERS_PER_PEER {
                dial.waiters.push(waiter);
            } else {
                self.shared.counters.callers_refused.up();
                let reason = format!("{WAITERS_PER_PEER} callers already wait for it");
                waiter.tell(Err(DialError::Busy { target, reason }));
            }
            return;
        }
        let mut addresses = self.shared.addresses(&peer);
        // Loopback of another machine may be told; here it is ours. A circuit through this very node
        // leads nowhere.
        let me = self.shared.local;
        addresses.retain(|a| !self.shared.listen.borrow().contains(a) && relay_of(a) != Some(me));
        let (mut circuits, mut direct): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|a| path_of(a) == PathKind::Relayed);
        direct.extend(
            self.dht_addresses(peer)
                .into_iter()
                .map(|a| split_peer(a).0)
                .filter(|a| path_of(a) == PathKind::Direct && is_dialable(a) && !direct.contains(a))
                .collect::<Vec<_>>(),
        );
        // A relay that is connected is used as it is: one address of it is enough.
        let mut seen = std::collections::HashSet::new();
        circuits
            .retain(|a| relay_of(a).is_none_or(|r| seen.insert(r) || !self.peers.contains_key(&r)));
        if circuits.is_empty() {
            circuits = self.likely_circuits();
        }
        if direct.is_empty() {
            self.start(to(peer, circuits, false), Some(peer), target, vec![waiter]);
            return;
        }
        let behind_nat = !circuits.is_empty();
        let dial = self.start(
            to(peer, direct, behind_nat),
            Some(peer),
            target,
            vec![waiter],
        );
        if let Some(dial) = dial.filter(|_| behind_nat) {
            dial.circuits = Some((Instant::now() + HEAD_START, circuits));
        }
    }

    /// A peer whose circuits are not known may have a reservation with a relay that is connected here:
    /// nodes of one mesh share their anchors.
    fn likely_circuits(&self) -> Vec<Multiaddr> {
        let relays = self.peers.iter().filter(|(_, p)| p.relays && p.is_member());
        relays
            .filter_map(|(id, p)| circuits_through(*id, &p.dialable()).into_iter().next())
            .take(LIKELY_RELAYS)
            .collect()
    }

    /// Opens circuits to peers whose direct addresses have not answered in time.
    pub(super) fn keep_dials(&mut self, now: Instant) {
        let late: Vec<_> = self
            .dials
            .values_mut()
            .filter(|d| d.circuits.as_ref().is_some_and(|(at, _)| *at <= now))
            .filter_map(|d| Some((d.peer?, d.circuits.take()?.1)))
            .collect();
        for (peer, circuits) in late {
            if !self.peers.contains_key(&peer) {
                self.start(
                    to(peer, circuits, false),
                    Some(peer),
                    peer.to_string(),
                    Vec::new(),
                );
            }
        }
    }

    /// Dials an address of a connected peer, from the port that is listened on.
    pub(super) fn dial_beside(&mut self, peer: PeerId, address: Multiaddr) {
        let target = address.to_string();
        self.start(
            to(peer, vec![address], false),
            Some(peer),
            target,
            Vec::new(),
        );
    }

    /// Dials exactly this address, from a fresh port, beside whatever connections there are.
    pub(super) fn dial_back(
        &mut self,
        peer: PeerId,
        address: Multiaddr,
        reply: oneshot::Sender<Result<Arc<Link>, DialError>>,
    ) {
        let target = address.to_string();
        let opts = to(peer, vec![address], true);
        if let Some(dial) = self.start(opts, Some(peer), target, Vec::new()) {
            dial.back = Some(reply);
        }
    }

    pub(super) fn is_dial_back(&self, connection: ConnectionId) -> bool {
        self.dials
            .get(&connection)
            .is_some_and(|d| d.back.is_some())
    }

    /// Direct dials beside circuits that are under way: to this peer over this transport, and in all.
    pub(super) fn dials_past_relay(&self, peer: PeerId, over: Transport) -> (usize, usize) {
        let (mut of_peer, mut all) = (0, 0);
        for dial in self.dials.values() {
            if let Why::PastRelay(dialled) = dial.why {
                all += 1;
                of_peer += usize::from(dial.peer == Some(peer) && dialled == over);
            }
        }
        (of_peer, all)
    }

    /// Whether a behaviour dialled so, and nobody else waits for it.
    pub(super) fn is_unwanted(&self, connection: ConnectionId) -> bool {
        let dial = self.dials.get(&connection);
        dial.is_some_and(|d| d.why == Why::Behaviour && d.waiters.is_empty())
    }

    fn start(
        &mut self,
        opts: DialOpts,
        peer: Option<PeerId>,
        target: String,
        waiters: Vec<Waiter>,
    ) -> Option<&mut Dial> {
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                let dial = Dial {
                    peer,
                    target,
                    waiters,
                    circuits: None,
                    back: None,
                    why: Why::Wanted,
                };
                Some(self.dials.entry(id).insert_entry(dial).into_mut())
            }
            Err(error) => {
                let explained = self.explain(error, peer, &target);
                for waiter in waiters {
                    waiter.give_up(&explained);
                }
                None
            }
        }
    }

    /// A behaviour, the DHT, dials on its own account: others may wait for that too.
    pub(super) fn dialling(&mut self, peer: Option<PeerId>, connection: ConnectionId) {
        if let Some(peer) = peer {
            self.dials.entry(connection).or_insert_with(|| Dial {
                why: Why::Behaviour,
                ..Dial::unasked(peer)
            });
        }
    }

    pub(super) fn dial_succeeded(&mut self, connection: ConnectionId, link: &Arc<Link>) {
        let peer = link.peer;
        let done = self.dials.remove(&connection);
        if done.as_ref().is_some_and(|d| d.why == Why::Local) {
            self.shared.emit(NetEvent::MetLocally { peer });
        }
        let (mut waiters, back) = done.map(|d| (d.waiters, d.back)).unwrap_or_default();
        if let Some(reply) = back {
            let _ = reply.send(Ok(link.clone()));
            return;
        }
        for dial in self.dials.values_mut().filter(|d| d.peer == Some(peer)) {
            waiters.append(&mut dial.waiters);
        }
        for waiter in waiters {
            self.await_standing(peer, waiter);
        }
    }

    pub(super) fn dial_failed(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        error: swarm::DialError,
    ) {
        tracing::debug!(peer = peer.map(tracing::field::display), %error, "dial failed");
        if let swarm::DialError::Transport(tried) = &error {
            // An answer to it may still get in.
            let mut reach = self.shared.reach();
            for (address, _) in tried {
                reach.contacted(peer, address);
            }
        }
        if matches!(error, swarm::DialError::Transport(_))
            && let Some(peer) = peer
            && !self.peers.contains_key(&peer)
            && self.shared.book().failed(&peer) >= UNROUTE_AFTER
        {
            self.unroute(&peer);
        }
        let Some(mut dial) = self.dials.remove(&connection) else {
            return;
        };
        if let Some(reply) = dial.back {
            let _ = reply.send(Err(self.explain(error, dial.peer, &dial.target)));
            return;
        }
        if let (
            Some(peer),
            swarm::DialError::WrongPeerId { address, .. }
            | swarm::DialError::LocalPeerId { address },
        ) = (dial.peer, &error)
        {
            self.disown(peer, split_peer(address.clone()).0);
        }
        let denied = matches!(error, swarm::DialError::Denied { .. });
        let explained = self.explain(error, dial.peer, &dial.target);
        if let Some(peer) = dial.peer.filter(|p| !self.peers.contains_key(p)) {
            // Another way is being tried: whoever waits, waits for that.
            if let Some((_, circuits)) = dial.circuits.take() {
                let waiters = std::mem::take(&mut dial.waiters);
                self.start(
                    to(peer, circuits, false),
                    Some(peer),
                    dial.target.clone(),
                    waiters,
                );
            } else if let Some(other) = self.dials.values_mut().find(|d| d.peer == Some(peer)) {
                for waiter in &mut dial.waiters {
                    waiter.failed.get_or_insert_with(|| explained.clone());
                }
                other.waiters.append(&mut dial.waiters);
            }
        }
        for waiter in dial.waiters {
            match peer.filter(|p| denied && self.peers.contains_key(p)) {
                // One connection too many with a peer we are connected to is as good as a success.
                Some(peer) => self.await_standing(peer, waiter),
                None => waiter.give_up(&explained),
            }
        }
    }

    /// Somebody else answers at an address of `peer`: it must not be dialled again before the others.
    fn disown(&mut self, peer: PeerId, address: Multiaddr) {
        self.shared.book().disown(&peer, &address);
        let kad = &mut self.swarm.behaviour_mut().kad;
        if kad.remove_address(&peer, &address).is_some() {
            self.unroute(&peer);
        }
    }

    fn explain(&self, error: swarm::DialError, peer: Option<PeerId>, target: &str) -> DialError {
        let target = target.to_owned();
        match error {
            swarm::DialError::LocalPeerId { address } => match peer {
                Some(expected) => DialError::WrongPeer {
                    expected,
                    found: self.shared.local,
                    address: split_peer(address).0,
                },
                None => DialError::Own { target },
            },
            swarm::DialError::NoAddresses => match peer {
                Some(peer) => DialError::NoAddress { peer },
                None => DialError::Unreachable {
                    target,
                    reason: "no address".into(),
                },
            },
            swarm::DialError::WrongPeerId { obtained, address } => match peer {
                Some(expected) => DialError::WrongPeer {
                    expected,
                    found: obtained,
                    address: split_peer(address).0,
                },
                None => DialError::Unreachable {
                    target,
                    reason: format!("peer {obtained} answers there"),
                },
            },
            swarm::DialError::Denied { cause } => {
                let cause = match cause.downcast::<IsShutOut>() {
                    Ok(IsShutOut(peer)) => return DialError::ShutOut { peer },
                    Err(cause) => cause,
                };
                self.shared.counters.connections_refused.up();
                let reason = match cause.downcast::<Exceeded>() {
                    Ok(exceeded) => exceeded.to_string(),
                    Err(cause) => cause.to_string(),
                };
                DialError::Busy { target, reason }
            }
            swarm::DialError::Transport(tried) => {
                let more = tried.len().saturating_sub(4);
                let mut reasons: Vec<_> = tried
                    .iter()
                    .take(4)
                    .map(|(address, e)| format!("{}: {}", split_peer(address.clone()).0, root(e)))
                    .collect();
                if more > 0 {
                    reasons.push(format!("and {more} more"));
                }
                DialError::Unreachable {
                    target,
                    reason: reasons.join(", "),
                }
            }
            swarm::DialError::Aborted => DialError::Unreachable {
                target,
                reason: "the attempt was aborted".into(),
            },
            swarm::DialError::DialPeerConditionFalse(_) => DialError::Busy {
                target,
                reason: "it is being dialled already".into(),
            },
        }
    }
}

/// `addresses` of `peer`; `Always`, since the swarm may still count a connection that was given up.
///
/// A fresh port is for peers behind a NAT: on the port that is listened on, a dial that still waits
/// would be in the way of a hole punched between the same two ports.
fn to(peer: PeerId, addresses: Vec<Multiaddr>, fresh_port: bool) -> DialOpts {
    let opts = DialOpts::peer_id(peer)
        .condition(PeerCondition::Always)
        .addresses(addresses);
    if fresh_port {
        opts.allocate_new_port().build()
    } else {
        opts.build()
    }
}

/// The innermost cause, in one line.
fn root(error: &libp2p::TransportError<std::io::Error>) -> String {
    let libp2p::TransportError::Other(error) = error else {
        return "no transport for this address".into();
    };
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text.replace('\n', " ")
}
