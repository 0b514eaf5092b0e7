//! This node's own addresses: where each comes from, whether it answers, and who may be told.
//!
//! Sans-IO. A global address is announced only after another peer has dialled it back, or on the word
//! of whoever runs the node; a private one is told only to peers of its scope. What peers observe tells
//! how the NAT on the way maps ports (RFC 4787), and gives the candidates for dial-backs and for hole
//! punching. libp2p's identify would replace an observed port by a listened one, which no NAT that
//! translates ports has ever mapped; here it is kept as it was seen.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};
use polymath_types::Transport;
use tokio::time::Instant;

use crate::{
    address::{ip_of, is_container_bridge, scope_of, transport_of},
    report::{AddressReport, AddressSource, Filtering, Mapping, Scope, TransportReport, Verdict},
};

/// Candidates kept; the one seen longest ago goes first.
const MOST_CANDIDATES: usize = 32;
/// Observations kept of one transport.
const MOST_OBSERVED: usize = 16;
/// Addresses of hosts this node has dialled.
const MOST_CONTACTS: usize = 4096;
/// A candidate that failed is tried again after this, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(30);
const LONGEST_RETRY: Duration = Duration::from_secs(30 * 60);
/// A confirmed one is dialled back anew after this: a forwarded port or a NAT's mapping may be gone.
const REPROVE: Duration = Duration::from_secs(10 * 60);
/// So many dial-backs in a row must fail before a confirmed address is given up.
const DOUBTS: u32 = 2;
/// A dial-back must have come by then.
pub(crate) const PROBE: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct Candidate {
    source: AddressSource,
    verdict: Verdict,
    failures: u32,
    /// When to ask for a dial-back.
    due: Instant,
    seen: Instant,
}

#[derive(Debug)]
struct Observation {
    observer: PeerId,
    from: IpAddr,
    seen: Multiaddr,
}

/// Own addresses and what is known of them.
#[derive(Debug)]
pub(crate) struct Reach {
    /// Loopback stands for the internet: for tests on one machine.
    lab: bool,
    anchor: bool,
    listen: Vec<Multiaddr>,
    announce: Vec<Multiaddr>,
    circuits: Vec<Multiaddr>,
    candidates: HashMap<Multiaddr, Candidate>,
    observed: HashMap<Transport, Vec<Observation>>,
    /// Hosts and peers dialled from here: a NAT may let them in for that. A peer dialled by name has a
    /// host nobody here knows.
    contacts: HashSet<IpAddr>,
    known: HashSet<PeerId>,
    /// Somebody got in whom nobody here had ever dialled.
    unsolicited: bool,
    /// The widest scope a member was met in.
    world: Option<Scope>,
}

impl Reach {
    pub(crate) fn new(anchor: bool, lab: bool, announce: Vec<Multiaddr>) -> Self {
        Self {
            lab,
            anchor,
            listen: Vec::new(),
            announce,
            circuits: Vec::new(),
            candidates: HashMap::new(),
            observed: HashMap::new(),
            contacts: HashSet::new(),
            known: HashSet::new(),
            unsolicited: false,
            world: None,
        }
    }

    /// Whether loopback stands for the internet.
    pub(crate) fn is_lab(&self) -> bool {
        self.lab
    }

    pub(crate) fn scope(&self, address: &Multiaddr) -> Scope {
        match scope_of(address) {
            Scope::Loopback if self.lab => Scope::Global,
            scope => scope,
        }
    }

    /// What is listened on now. New interfaces mean a new network: what failed before may succeed.
    pub(crate) fn set_listen(&mut self, addresses: Vec<Multiaddr>, now: Instant) {
        let listen: Vec<_> = addresses
            .into_iter()
            .filter(|a| !is_container_bridge(a) && scope_of(a) != Scope::Circuit)
            .collect();
        if self.listen == listen {
            return;
        }
        if !self.listen.is_empty() {
            self.observed.clear();
            self.unsolicited = false;
            // The gateway tells a mapping once, and renews it silently.
            self.candidates
                .retain(|_, c| c.source == AddressSource::Upnp);
            for mapped in self.candidates.values_mut() {
                (mapped.verdict, mapped.failures, mapped.due) = (Verdict::Untested, 0, now);
            }
        }
        self.listen = listen;
        let global: Vec<_> = self
            .listen
            .iter()
            .filter(|a| self.scope(a) == Scope::Global)
            .cloned()
            .collect();
        for address in global {
            self.candidate(address, AddressSource::Listen, now);
        }
    }

    /// What relays have granted.
    pub(crate) fn set_circuits(&mut self, circuits: Vec<Multiaddr>) {
        self.circuits = circuits;
    }

    /// A host was dialled, with success or without: its NAT may be open to it now.
    pub(crate) fn contacted(&mut self, peer: Option<PeerId>, address: &Multiaddr) {
        if self.contacts.len() < MOST_CONTACTS {
            self.contacts.extend(ip_of(address));
        }
        if self.known.len() < MOST_CONTACTS {
            self.known.extend(peer);
        }
    }

    /// Somebody got in over a direct connection, unaided, at this node's address `local`.
    pub(crate) fn dialled_from(
        &mut self,
        peer: PeerId,
        remote: &Multiaddr,
        local: &Multiaddr,
        now: Instant,
    ) {
        let Some(ip) = ip_of(remote).filter(|_| self.scope(remote) == Scope::Global) else {
            return;
        };
        // Once nobody can say any more who was dialled, nobody counts as a stranger.
        let full = self.contacts.len() >= MOST_CONTACTS || self.known.len() >= MOST_CONTACTS;
        let met = full || self.contacts.contains(&ip) || self.known.contains(&peer);
        if !self.lab && (met || self.is_near(ip)) {
            return;
        }
        self.unsolicited = true;
        // The socket it came to is no claim of the peer's.
        if self.listen.contains(local) {
            self.confirmed(local, peer, now);
        }
    }

    /// Whether a host is in a network of this node's own, as neighbours with public addresses are: what
    /// it reaches, strangers may not.
    pub(crate) fn is_near(&self, ip: IpAddr) -> bool {
        let mut own = self.listen.iter().filter_map(ip_of);
        own.any(|own| match (own, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => own.octets()[..3] == ip.octets()[..3],
            (IpAddr::V6(own), IpAddr::V6(ip)) => own.octets()[..6] == ip.octets()[..6],
            _ => false,
        })
    }

    /// A member was met at `remote`.
    pub(crate) fn met(&mut self, remote: &Multiaddr) {
        let scope = match self.scope(remote) {
            Scope::Circuit => Scope::Global,
            scope => scope,
        };
        let wider = match (self.world, scope) {
            (None, _) => true,
            (Some(Scope::Loopback), _) => scope != Scope::Loopback,
            (Some(Scope::Private), _) => scope == Scope::Global,
            _ => false,
        };
        if wider {
            self.world = Some(scope);
        }
    }

    /// A peer at `from` sees this node as `seen`; `dialled`: on a connection opened from here, from the
    /// port that is listened on.
    pub(crate) fn observed(
        &mut self,
        observer: PeerId,
        from: &Multiaddr,
        seen: &Multiaddr,
        dialled: bool,
        now: Instant,
    ) {
        let (Some(from), Scope::Global) = (ip_of(from), self.scope(seen)) else {
            return;
        };
        // Where it came to is known better than it says.
        if !dialled {
            return;
        }
        let transport = transport_of(seen);
        let heard = self.listen.iter().any(|a| {
            transport_of(a) == transport
                && ip_of(a).map(|i| i.is_ipv4()) == ip_of(seen).map(|i| i.is_ipv4())
        });
        if heard {
            self.candidate(seen.clone(), AddressSource::Observed, now);
        }
        let of_transport = self.observed.entry(transport).or_default();
        of_transport.retain(|o| o.observer != observer);
        if of_transport.len() >= MOST_OBSERVED {
            of_transport.remove(0);
        }
        of_transport.push(Observation {
            observer,
            from,
            seen: seen.clone(),
        });
    }

    /// An address that may lead here.
    pub(crate) fn candidate(&mut self, address: Multiaddr, source: AddressSource, now: Instant) {
        if self.scope(&address) != Scope::Global {
            return;
        }
        if let Some(known) = self.candidates.get_mut(&address) {
            known.seen = now;
            return;
        }
        if self.candidates.len() >= MOST_CANDIDATES {
            let oldest = self
                .candidates
                .iter()
                .filter(|(_, c)| !matches!(c.verdict, Verdict::Confirmed(_)))
                .min_by_key(|(_, c)| c.seen)
                .map(|(a, _)| a.clone());
            match oldest {
                Some(oldest) => self.candidates.remove(&oldest),
                None => return,
            };
        }
        self.candidates.insert(
            address,
            Candidate {
                source,
                verdict: Verdict::Untested,
                failures: 0,
                due: now,
                seen: now,
            },
        );
    }

    /// An address the gateway no longer forwards.
    pub(crate) fn withdrawn(&mut self, address: &Multiaddr) {
        self.candidates.remove(address);
    }

    /// A candidate to ask a dial-back for; it is not named again before [`PROBE`] has passed.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Multiaddr> {
        // What every destination sees differently is of no use to a third.
        let useless: Vec<_> = [Transport::Tcp, Transport::Quic]
            .into_iter()
            .filter(|t| self.mapping(*t) == Mapping::EndpointDependent)
            .collect();
        let (address, candidate) = self
            .candidates
            .iter_mut()
            .filter(|(a, c)| {
                c.due <= now
                    && !(c.source == AddressSource::Observed && useless.contains(&transport_of(a)))
            })
            .min_by_key(|(_, c)| {
                let proven = matches!(c.verdict, Verdict::Confirmed(_));
                (proven, c.failures, std::cmp::Reverse(c.seen))
            })?;
        candidate.due = now + PROBE;
        Some(address.clone())
    }

    pub(crate) fn confirmed(&mut self, address: &Multiaddr, by: PeerId, now: Instant) {
        if let Some(c) = self.candidates.get_mut(address) {
            (c.verdict, c.failures, c.seen) = (Verdict::Confirmed(by), 0, now);
            c.due = now + REPROVE;
        }
    }

    pub(crate) fn failed(&mut self, address: &Multiaddr, reason: String, now: Instant) {
        let Some(c) = self.candidates.get_mut(address) else {
            return;
        };
        c.due = now + (FIRST_RETRY * 2u32.pow(c.failures.min(8))).min(LONGEST_RETRY);
        c.failures += 1;
        if !matches!(c.verdict, Verdict::Confirmed(_)) || c.failures >= DOUBTS {
            c.verdict = Verdict::Failed(reason);
        }
        if !self.is_public() {
            self.unsolicited = false;
        }
    }

    fn confirmed_addresses(&self) -> impl Iterator<Item = &Multiaddr> {
        let taken_at_word = self.anchor;
        let own = self
            .listen
            .iter()
            .filter(move |a| taken_at_word && self.scope(a) == Scope::Global);
        let proven = self
            .candidates
            .iter()
            .filter(|(_, c)| matches!(c.verdict, Verdict::Confirmed(_)))
            .map(|(a, _)| a);
        self.announce.iter().chain(own).chain(proven)
    }

    /// Whether strangers can reach this node unaided.
    pub(crate) fn is_public(&self) -> bool {
        self.confirmed_addresses().next().is_some()
    }

    /// Whether this node can be of use to strangers: relay for them, dial them back.
    pub(crate) fn serves(&self) -> bool {
        self.anchor || (self.is_public() && self.unsolicited)
    }

    /// Whether it can keep a part of the DHT: it is public, or nobody here is.
    pub(crate) fn serves_dht(&self) -> bool {
        self.serves() || !self.announce.is_empty() || !self.abroad()
    }

    /// Whether members beyond this machine and its network were met.
    pub(crate) fn abroad(&self) -> bool {
        self.world == Some(Scope::Global)
    }

    /// Whether circuits are needed for others to get here. A dial-back is no proof that they are not:
    /// it comes from a host that was contacted, and some NATs let those in on every port.
    pub(crate) fn needs_relay(&self) -> bool {
        self.abroad() && !self.serves()
    }

    /// What strangers may be told: proven global addresses and granted circuits; in a world that is
    /// all private, private addresses too. Before anybody was met nobody knows what world it is.
    pub(crate) fn announced(&self) -> Vec<Multiaddr> {
        let mut all: Vec<_> = self.confirmed_addresses().cloned().collect();
        all.sort_by_key(|a| (transport_of(a) == Transport::Wss, a.to_string()));
        all.dedup();
        all.extend(self.circuits.iter().cloned());
        if matches!(self.world, Some(Scope::Loopback | Scope::Private)) {
            all.extend(self.of_scope(Scope::Private));
        }
        if self.world == Some(Scope::Loopback) {
            all.extend(self.of_scope(Scope::Loopback));
        }
        all
    }

    fn of_scope(&self, scope: Scope) -> Vec<Multiaddr> {
        let of = |a: &&Multiaddr| self.scope(a) == scope;
        self.listen.iter().filter(of).cloned().collect()
    }

    /// What a peer met at an address of `scope` may be told besides what is announced to all;
    /// `neighbour`: it sits behind the same public address.
    pub(crate) fn told_to(&self, scope: Scope, neighbour: bool) -> Vec<Multiaddr> {
        let mut all = self.announced();
        if neighbour || matches!(scope, Scope::Loopback | Scope::Private) {
            all.extend(self.of_scope(Scope::Private));
        }
        if scope == Scope::Loopback {
            all.extend(self.of_scope(Scope::Loopback));
        }
        let mut seen = HashSet::new();
        all.retain(|a| seen.insert(a.clone()));
        all
    }

    /// Addresses under which peers have seen this node lately: where holes can be punched to.
    pub(crate) fn punchable(&self) -> Vec<Multiaddr> {
        let mut newest: Vec<_> = self.candidates.iter().collect();
        newest.sort_by_key(|(_, c)| std::cmp::Reverse(c.seen));
        newest.into_iter().map(|(a, _)| a.clone()).take(8).collect()
    }

    /// The public hosts this node is seen as.
    pub(crate) fn public_ips(&self) -> BTreeSet<IpAddr> {
        self.candidates.keys().filter_map(ip_of).collect()
    }

    pub(crate) fn mapping(&self, transport: Transport) -> Mapping {
        let Some(observed) = self.observed.get(&transport) else {
            return Mapping::Unknown;
        };
        let own: HashSet<_> = self.listen.iter().filter_map(ip_of).collect();
        if observed
            .iter()
            .any(|o| ip_of(&o.seen).is_some_and(|ip| own.contains(&ip)))
        {
            return Mapping::None;
        }
        let v4 = |o: &&Observation| o.from.is_ipv4();
        let observers: HashSet<_> = observed.iter().filter(v4).map(|o| o.from).collect();
        let outer: HashSet<_> = observed.iter().filter(v4).map(|o| &o.seen).collect();
        match (observers.len(), outer.len()) {
            (0 | 1, _) => Mapping::Unknown,
            (_, 1) => Mapping::EndpointIndependent,
            _ => Mapping::EndpointDependent,
        }
    }

    fn filtering(&self, transport: Transport) -> Filtering {
        let of = |(a, _): &(&Multiaddr, &Candidate)| transport_of(a) == transport;
        let mut filtering = Filtering::Unknown;
        for (address, candidate) in self.candidates.iter().filter(of) {
            match candidate.verdict {
                // What a NAT made of earlier traffic may let in nobody but those whom it went to.
                Verdict::Confirmed(_)
                    if self.unsolicited
                        || candidate.source != AddressSource::Observed
                        || self.listen.contains(address) =>
                {
                    return Filtering::Open;
                }
                Verdict::Confirmed(_) => filtering = Filtering::Contacts,
                Verdict::Failed(_) if filtering == Filtering::Unknown => {
                    filtering = Filtering::Restricted;
                }
                _ => {}
            }
        }
        filtering
    }

    pub(crate) fn transports(&self, peers: impl Fn(Transport) -> usize) -> Vec<TransportReport> {
        [Transport::Tcp, Transport::Quic, Transport::Wss]
            .into_iter()
            .map(|transport| TransportReport {
                transport,
                observed: self
                    .observed
                    .get(&transport)
                    .into_iter()
                    .flatten()
                    .map(|o| (o.seen.clone(), o.observer))
                    .collect(),
                mapping: self.mapping(transport),
                filtering: self.filtering(transport),
                peers: peers(transport),
            })
            .collect()
    }

    pub(crate) fn addresses(&self) -> Vec<AddressReport> {
        let announced: HashSet<_> = self.announced().into_iter().collect();
        let mut rows = Vec::new();
        let mut row = |address: &Multiaddr, source, verdict| {
            rows.push(AddressReport {
                address: address.clone(),
                scope: scope_of(address),
                source,
                verdict,
                announced: announced.contains(address),
            });
        };
        for a in &self.announce {
            row(a, AddressSource::Announced, Verdict::NotNeeded);
        }
        for (a, c) in &self.candidates {
            row(a, c.source, c.verdict.clone());
        }
        for a in self
            .listen
            .iter()
            .filter(|a| !self.candidates.contains_key(a))
        {
            row(a, AddressSource::Listen, Verdict::NotNeeded);
        }
        for a in &self.circuits {
            row(a, AddressSource::Relay, Verdict::NotNeeded);
        }
        rows.sort_by_key(|r| r.address.to_string());
        rows
    }
}

#[cfg(test)]
mod tests;
