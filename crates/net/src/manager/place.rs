//! This node's place in the network: what is announced, what each member is told, what others are
//! offered, and what members say of themselves.

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    dcutr, identify, relay,
    swarm::{FromSwarm, NetworkBehaviour, NewExternalAddrCandidate},
    upnp,
};
use polymath_types::{PathKind, Transport};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{Manager, table::Standing};
use crate::{
    address::{ip_of, is_dialable, path_of, split_peer, transport_of},
    config::{MAX_ADDRESSES, Role},
    dialback::{self, Unconfirmed},
    report::{AddressSource, NetReport, Scope, UpnpReport},
    streams::OpenRequest,
    vetting::{Distance, vet},
    whereabouts::{self, Whereabouts},
};

/// What a peer has said of itself.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Where it can be dialled from here.
    pub(super) addresses: Vec<Multiaddr>,
    /// Where others have seen it.
    pub(super) candidates: Vec<Multiaddr>,
    /// It sits behind the same public address as this node.
    neighbour: bool,
    /// What we have told it last.
    last: Option<Whereabouts>,
}

/// One telling must be done by then.
const TELLING: std::time::Duration = std::time::Duration::from_secs(10);
/// Public members that are to see this node over every transport it listens on, and when one that
/// could not be reached so is tried again.
const OBSERVERS: usize = 3;
const OBSERVE_AGAIN: std::time::Duration = std::time::Duration::from_secs(120);
/// Announced addresses for each relay that has granted a reservation.
const CIRCUITS_PER_RELAY: usize = 4;

impl Manager {
    /// A peer's view of us, from its identify message.
    pub(super) fn observed_by(
        &mut self,
        id: PeerId,
        connection: libp2p::swarm::ConnectionId,
        info: &identify::Info,
    ) {
        let Some(link) = self.swarm.behaviour().streams.link(connection) else {
            return;
        };
        if link.is_relayed() || link.is_passing() {
            return;
        }
        let (seen, _) = split_peer(info.observed_addr.clone());
        if !is_dialable(&seen) {
            return;
        }
        let inbound = self
            .peers
            .get(&id)
            .is_some_and(|p| p.is_inbound(connection));
        if !inbound && !link.from_listen_port {
            return;
        }
        let now = Instant::now();
        self.shared
            .reach()
            .observed(id, &link.remote, &seen, !inbound, now);
        self.offer_candidates();
        self.place_changed();
    }

    /// Tells hole punching where others have seen this node.
    pub(super) fn offer_candidates(&mut self) {
        let candidates = self.shared.reach().punchable();
        // The least recent first: its table keeps the last.
        for addr in candidates.iter().rev() {
            let event = FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr });
            self.swarm.behaviour_mut().dcutr.inner.on_swarm_event(event);
        }
    }

    /// A connection was established with somebody.
    pub(super) fn met(&mut self, id: PeerId, endpoint: &ConnectedPoint, punched: bool) {
        if endpoint.is_relayed() {
            return;
        }
        let mut reach = self.shared.reach();
        match endpoint {
            ConnectedPoint::Dialer { address, .. } => reach.contacted(Some(id), address),
            ConnectedPoint::Listener { .. } if punched => {}
            ConnectedPoint::Listener {
                local_addr,
                send_back_addr,
            } => reach.dialled_from(id, send_back_addr, local_addr, Instant::now()),
        }
    }

    pub(super) fn on_upnp(&mut self, event: upnp::Event) {
        let now = Instant::now();
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                self.shared
                    .reach()
                    .candidate(external_addr.clone(), AddressSource::Upnp, now);
                match &mut self.upnp {
                    UpnpReport::Mapped(all) if all.contains(&external_addr) => {}
                    UpnpReport::Mapped(all) if all.len() < MAX_ADDRESSES => all.push(external_addr),
                    UpnpReport::Mapped(_) => {}
                    state => *state = UpnpReport::Mapped(vec![external_addr]),
                }
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => {
                self.shared.reach().withdrawn(&external_addr);
                if let UpnpReport::Mapped(all) = &mut self.upnp {
                    all.retain(|a| *a != external_addr);
                }
            }
            upnp::Event::GatewayNotFound => self.upnp = UpnpReport::NoGateway,
            upnp::Event::NonRoutableGateway => self.upnp = UpnpReport::NotPublic,
        }
        self.place_changed();
    }

    /// Keeps a connection over each transport that is listened on with a few members that are public:
    /// only so is known how the NAT maps it, and where holes can be punched.
    pub(super) fn keep_observers(&mut self, now: Instant) {
        if self.role == Role::Client || !self.shared.reach().needs_relay() {
            return;
        }
        let listened: Vec<Transport> = {
            let listen = self.shared.listen.borrow();
            [Transport::Tcp, Transport::Quic]
                .into_iter()
                .filter(|t| listen.iter().any(|a| transport_of(a) == *t))
                .collect()
        };
        self.observers.retain(|_, at| now - *at < OBSERVE_AGAIN);
        let mut missing = Vec::new();
        let public = self
            .peers
            .iter()
            .filter(|(_, p)| p.dials_back && p.is_member());
        for (id, peer) in public.take(OBSERVERS) {
            for transport in &listened {
                let has = peer
                    .usable()
                    .any(|c| !c.link.is_relayed() && c.link.transport == *transport);
                let there = |a: &&Multiaddr| {
                    transport_of(a) == *transport && path_of(a) == PathKind::Direct
                };
                if !has
                    && !self.observers.contains_key(&(*id, *transport))
                    && let Some(address) = peer.told.addresses.iter().find(there)
                {
                    missing.push((*id, *transport, address.clone()));
                }
            }
        }
        for (id, transport, address) in missing {
            self.observers.insert((id, transport), now);
            self.dial_beside(id, address);
        }
    }

    /// An address to have dialled back now, and who is asked to.
    pub(super) fn next_probe(&mut self) -> Option<(PeerId, Multiaddr)> {
        // What a neighbour reaches, strangers may not.
        let near = |p: &super::table::Peer| {
            let reach = self.shared.reach();
            let hosts = p.usable().filter_map(|c| ip_of(&c.link.remote));
            !reach.is_lab() && hosts.into_iter().any(|ip| reach.is_near(ip))
        };
        let servers: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, p)| p.dials_back && p.is_member() && p.has_direct() && !near(p))
            .map(|(id, _)| *id)
            .collect();
        if servers.is_empty() {
            return None;
        }
        let address = self.shared.reach().due(Instant::now())?;
        self.turn = self.turn.wrapping_add(1);
        Some((servers[self.turn % servers.len()], address))
    }

    pub(super) fn probed(
        &mut self,
        server: PeerId,
        address: &Multiaddr,
        outcome: Result<(), Unconfirmed>,
    ) {
        let now = Instant::now();
        tracing::debug!(%server, %address, ?outcome, "dial-back");
        {
            let mut reach = self.shared.reach();
            match outcome {
                Ok(()) => reach.confirmed(address, server, now),
                Err(Unconfirmed::Unreachable) => {
                    reach.failed(address, format!("{server} could not dial it"), now);
                }
                // No verdict: it is due again by itself.
                Err(Unconfirmed::NoVerdict(_)) => {}
            }
        }
        self.place_changed();
    }

    /// Brings everything in line with what is known of our own addresses.
    pub(super) fn place_changed(&mut self) {
        let (announced, serves, serves_dht) = {
            let mut reach = self.shared.reach();
            reach.set_circuits(self.relays.circuits(&self.peers));
            (reach.announced(), reach.serves(), reach.serves_dht())
        };
        let listening = !self.shared.listen.borrow().is_empty();
        self.serve_dht(serves_dht && listening);
        self.serve_strangers(serves && self.role == Role::Server);
        let external = if self.role == Role::Server {
            announced.clone()
        } else {
            Vec::new()
        };
        if external != self.external {
            for old in self.external.iter().filter(|a| !external.contains(a)) {
                self.swarm.remove_external_address(old);
            }
            for new in external.iter().filter(|a| !self.external.contains(a)) {
                self.swarm.add_external_address(new.clone());
            }
            self.external = external;
        }
        self.shared.announced.send_if_modified(|known| {
            let changed = *known != announced;
            if changed {
                *known = announced;
            }
            changed
        });
        self.to_tell = true;
    }

    /// Offers strangers, or no longer, to relay for them and to dial them back.
    fn serve_strangers(&mut self, serves: bool) {
        if self.serves == serves {
            return;
        }
        self.serves = serves;
        let status = if serves {
            relay::Status::Enable
        } else {
            relay::Status::Disable
        };
        if let Some(relay) = self.swarm.behaviour_mut().relay_server.as_mut() {
            relay.inner.set_status(Some(status));
        }
        // The registry holds whether dial-backs are offered.
        let _ = self.shared.serving.send_replace(serves);
        if serves {
            tracing::info!("this node can be reached by all: it relays and dials back for others");
        }
    }

    /// Tells every member whose answer has changed where this node is.
    pub(super) fn tell_all(&mut self) {
        if !std::mem::take(&mut self.to_tell) {
            return;
        }
        let members: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, p)| p.is_member())
            .map(|(id, _)| *id)
            .collect();
        for id in members {
            self.tell(id);
        }
    }

    /// Tells one member where this node is, unless it knows.
    pub(super) fn tell(&mut self, id: PeerId) {
        if self.role == Role::Client {
            return;
        }
        let Some(protocol) = self.shared.names.stream(whereabouts::NAME) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(link) = peer.best().map(|c| c.link.clone()) else {
            return;
        };
        let message = {
            let reach = self.shared.reach();
            let scope = if link.is_relayed() {
                Scope::Circuit
            } else {
                peer.scope(&reach)
            };
            Whereabouts::new(
                &reach.told_to(scope, peer.told.neighbour),
                &reach.punchable(),
            )
        };
        if peer.told.last.as_ref() == Some(&message) {
            return;
        }
        peer.told.last = Some(message.clone());
        let (reply, opened) = oneshot::channel();
        self.swarm
            .behaviour_mut()
            .streams
            .open(&link, OpenRequest { protocol, reply });
        self.tasks.spawn(async move {
            let _ = timeout(TELLING, async {
                if let Ok(Ok(stream)) = opened.await {
                    let _ = whereabouts::send(stream, &message).await;
                }
            })
            .await;
        });
    }

    /// A member told where it is.
    pub(super) fn told(&mut self, id: PeerId, message: &Whereabouts) {
        let (addresses, candidates) = (message.addresses(), message.candidates());
        let here = self.distance(&id);
        let closed = self.closed;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let (neighbour, candidates) = {
            let reach = self.shared.reach();
            let ours = reach.public_ips();
            let bare = candidates.into_iter().map(|a| split_peer(a).0);
            let candidates: Vec<_> = bare
                .filter(|a| is_dialable(a) && reach.scope(a) == Scope::Global)
                .collect();
            let same = |ip| ours.contains(&ip);
            // Who has the mesh's secret is believed. A stranger that repeats our address would be told,
            // and would have dialled, what is none of its business.
            let shown = peer
                .usable()
                .filter_map(|c| ip_of(&c.link.remote))
                .any(same);
            let claimed = closed && candidates.iter().filter_map(ip_of).any(same);
            (shown || claimed, candidates)
        };
        let distance = if neighbour {
            here.min(Distance::SamePrivateNetwork)
        } else {
            here
        };
        let bare = addresses.into_iter().map(|a| split_peer(a).0);
        let usable = vet(bare, distance, MAX_ADDRESSES, &self.shared.counters);
        let news = neighbour && !peer.told.neighbour;
        peer.told.neighbour = neighbour;
        let moved = peer.told.addresses != usable || peer.told.candidates != candidates;
        peer.told.addresses.clone_from(&usable);
        peer.told.candidates = candidates;
        self.shared.learn(id, usable);
        self.route_told(id);
        if news {
            self.tell(id);
        }
        if moved {
            self.better_path(id);
        }
    }

    /// Writes down what this node knows of its own place.
    pub(super) fn publish_report(&self) {
        let report = self.report();
        *self
            .shared
            .report
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = report;
    }

    fn report(&self) -> NetReport {
        let members = |t: Transport| {
            let over = |p: &&super::table::Peer| {
                p.is_member() && p.best().is_some_and(|c| c.link.transport == t)
            };
            self.peers.values().filter(over).count()
        };
        let reach = self.shared.reach();
        NetReport {
            transports: reach.transports(members),
            addresses: reach.addresses(),
            relays: self.relays.report(),
            upnp: self.upnp.clone(),
            anchor: self.serves,
            dht_server: self.dht_server,
            routed: self.routed(),
            connections: self
                .swarm
                .network_info()
                .connection_counters()
                .num_established() as usize,
            anchors: self
                .peers
                .values()
                .filter(|p| p.is_member() && (p.relays || p.dials_back))
                .count(),
        }
    }

    /// Outcome of a hole punch by DCUtR.
    pub(super) fn on_punched(&mut self, event: dcutr::Event) {
        let id = event.remote_peer_id;
        match event.result {
            Ok(connection) => {
                self.shared.counters.holes_punched.up();
                if let Some(link) = self.swarm.behaviour().streams.link(connection) {
                    link.punched();
                }
                self.publish(id);
            }
            Err(error) => {
                self.shared.counters.punches_failed.up();
                tracing::debug!(peer = %id, %error, "no hole punched");
                self.punch_failed(id);
            }
        }
    }

    pub(super) fn on_relay_server(&mut self, event: &relay::Event) {
        let counters = &self.shared.counters;
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, .. } => {
                counters.reservations_granted.up();
                self.relays.granted(*src_peer_id);
            }
            relay::Event::ReservationTimedOut { src_peer_id }
            | relay::Event::ReservationClosed { src_peer_id } => self.relays.left(src_peer_id),
            relay::Event::ReservationReqDenied { .. } => counters.reservations_refused.up(),
            relay::Event::CircuitReqAccepted { .. } => counters.circuits_granted.up(),
            relay::Event::CircuitReqDenied { .. } => counters.circuits_refused.up(),
            _ => {}
        }
    }
}

/// Circuit addresses through a relay that is known at `addresses`.
pub(super) fn circuits_through(relay: PeerId, addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    use libp2p::multiaddr::Protocol;
    addresses
        .iter()
        .filter(|a| crate::address::path_of(a) == polymath_types::PathKind::Direct)
        .take(CIRCUITS_PER_RELAY)
        .map(|a| {
            a.clone()
                .with(Protocol::P2p(relay))
                .with(Protocol::P2pCircuit)
        })
        .collect()
}

impl super::table::Peer {
    pub(super) fn is_member(&self) -> bool {
        matches!(self.standing, Standing::Member)
    }
}

/// Protocols that tell what a peer does for others.
pub(super) fn dials_back(info: &identify::Info) -> bool {
    info.protocols.contains(&dialback::REQUEST)
}

pub(super) fn relays(info: &identify::Info) -> bool {
    info.protocols.contains(&relay::HOP_PROTOCOL_NAME)
}
