//! What is right and wrong with the node's place in the network, and how others reach it.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use polymath_net::{
    AddressReport, AddressSource, Filtering, Mapping, Multiaddr, PeerId, RelayState, Scope,
    TransportReport, UpnpReport, Verdict,
};
use polymath_types::{PathKind, Transport};

use super::{
    Area, Finding, Member, Network, Remedy, State,
    machine::count,
    place::{self, scope},
};

mod reached;

pub(super) use reached::verdict;
use reached::{dial_back, relay, upnp};

const ANCHOR: &str = "start an anchor on a machine with a public address (`polymath up --anchor`) and join through it: `polymath join ADDR`";
/// What a node has not learnt by then, nobody is there to tell it.
const SETTLED: Duration = Duration::from_secs(30);

pub(super) fn examine(network: &Network) -> Vec<Finding> {
    let mut findings = vec![
        peers(network),
        outgoing(network),
        address(network),
        ipv6(network),
    ];
    findings.extend(network.catalog.as_deref().map(catalog));
    findings.extend(listening(network));
    findings.extend(network.report.transports.iter().map(|t| nat(network, t)));
    if !network.client {
        findings.extend([dial_back(network), upnp(network), relay(network)]);
    }
    findings
}

/// What this node knows must outlast it before others hear of it.
fn catalog(trouble: &str) -> Finding {
    let found = format!(
        "the catalog's store cannot be written, and nothing is exchanged with peers: {trouble}"
    );
    let fix = "make room or repair the disk under the home; it is tried again every 30 s";
    Finding::new(Area::Disk, State::Failing, found, fix).of("catalog")
}

/// What is still on its way, in words: worth waiting for.
pub fn pending(network: &Network) -> Vec<&'static str> {
    let report = &network.report;
    let mut waiting = Vec::new();
    let young = network.uptime < SETTLED;
    let met = !network.members.is_empty();
    // Who was told to bring another invite, or to ask an admin, is not let in by waiting.
    let refusal = network.refusal.as_ref();
    let refused = refusal.is_some_and(|r| r.remedy != Remedy::Patience);
    let known = !network.bootstrap.is_empty() || network.offers > 0;
    if !met && young && known && !refused {
        waiting.push("a first peer");
    }
    if report.upnp == UpnpReport::Searching {
        waiting.push("the gateway's answer");
    }
    if report.relays.iter().any(|r| r.state == RelayState::Asked) && !network.reserved() {
        waiting.push("a relay's answer");
    }
    if met && young {
        let untested = |a: &AddressReport| a.verdict == Verdict::Untested;
        if network.global().any(untested) && !network.confirmed() {
            waiting.push("a dial-back");
        }
        if report
            .transports
            .iter()
            .any(|t| t.peers > 0 && t.observed.is_empty())
        {
            waiting.push("what peers see of this node");
        }
    }
    waiting
}

impl Network {
    /// Own addresses of the whole internet.
    fn global(&self) -> impl Iterator<Item = &AddressReport> {
        let global = |a: &&AddressReport| a.scope == Scope::Global;
        self.report.addresses.iter().filter(global)
    }

    /// Whether strangers have got in from outside, or must.
    fn confirmed(&self) -> bool {
        self.filtered(Filtering::Open)
            || self.global().any(|a| {
                // What a NAT has made of earlier traffic may lead back its destinations alone.
                matches!(a.verdict, Verdict::Confirmed(_)) && a.source != AddressSource::Observed
            })
    }

    /// Whether peers have got in that this node had dialled before, and nobody else yet.
    fn lets_contacts_in(&self) -> bool {
        !self.confirmed() && self.filtered(Filtering::Contacts)
    }

    fn filtered(&self, filtering: Filtering) -> bool {
        let transports = &self.report.transports;
        transports.iter().any(|t| t.filtering == filtering)
    }

    /// Whether a relay has granted a place.
    fn reserved(&self) -> bool {
        let relays = &self.report.relays;
        relays.iter().any(|r| r.state == RelayState::Reserved)
    }

    fn mapping(&self, mapping: Mapping) -> bool {
        self.report.transports.iter().any(|t| t.mapping == mapping)
    }

    /// Whether something shows that outsiders do not get in by dialling.
    fn shut(&self) -> bool {
        !self.confirmed()
            && !self.lets_contacts_in()
            && (self.mapping(Mapping::EndpointIndependent)
                || self.mapping(Mapping::EndpointDependent)
                || self.filtered(Filtering::Restricted)
                || self
                    .global()
                    .any(|a| matches!(a.verdict, Verdict::Failed(_))))
    }

    /// Whether this node listens on its own machine only.
    fn alone(&self) -> bool {
        !self.listen.is_empty() && self.listen.iter().all(|a| scope(a) == Scope::Loopback)
    }

    /// An address that should lead here from outside, though nobody has said yet that it does.
    fn promised(&self) -> bool {
        let given = |a: &AddressReport| {
            matches!(a.source, AddressSource::Announced | AddressSource::Upnp)
                && matches!(a.verdict, Verdict::Untested)
        };
        self.global().any(given) || matches!(self.report.upnp, UpnpReport::Mapped(_))
    }

    /// The ports listened on, for advice: `port 4040 (TCP and UDP)`.
    fn ports(&self) -> String {
        let of = |protocol: &str| -> BTreeSet<u16> {
            self.listen
                .iter()
                .filter_map(|a| port(a, protocol))
                .collect()
        };
        let (tcp, udp) = (of("tcp"), of("udp"));
        let list = |ports: &BTreeSet<u16>| {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            ports.join(", ")
        };
        match (tcp.is_empty(), udp.is_empty()) {
            (true, true) => "the port it listens on (TCP and UDP)".into(),
            (false, true) => format!("TCP port {}", list(&tcp)),
            (true, false) => format!("UDP port {}", list(&udp)),
            _ if tcp == udp => format!("port {} (TCP and UDP)", list(&tcp)),
            _ => format!("TCP port {} and UDP port {}", list(&tcp), list(&udp)),
        }
    }

    /// How to open the router by hand.
    fn forward(&self) -> String {
        let port = self
            .listen
            .iter()
            .find_map(|a| port(a, "tcp").or_else(|| port(a, "udp")))
            .map_or_else(|| "PORT".to_owned(), |p| p.to_string());
        format!(
            "forward {} on the router to this machine and say so: `polymath up --announce /ip4/PUBLIC-IP/tcp/{port} --announce /ip4/PUBLIC-IP/udp/{port}/quic-v1`",
            self.ports()
        )
    }
}

fn port(address: &Multiaddr, protocol: &str) -> Option<u16> {
    let text = address.to_string();
    let mut parts = text.split('/').skip_while(|p| *p != protocol);
    parts.nth(1)?.parse().ok()
}

fn peers(network: &Network) -> Finding {
    let met = &network.members;
    if !met.is_empty() {
        let kinds = [PathKind::Direct, PathKind::HolePunched, PathKind::Relayed];
        let ways: Vec<String> = kinds
            .into_iter()
            .map(|kind| (kind, met.iter().filter(|p| p.path == kind).count()))
            .filter(|(_, n)| *n > 0)
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        return Finding::ok(
            Area::Peers,
            format!(
                "{} connected: {}",
                count(met.len(), "member"),
                ways.join(", ")
            ),
        )
        .with("connected", met.len());
    }
    // One peer has many addresses.
    let peers: BTreeSet<&str> = network
        .bootstrap
        .iter()
        .map(|(address, _)| {
            address
                .rsplit_once("/p2p/")
                .map_or(&**address, |(_, id)| id)
        })
        .collect();
    let tried = peers.len() + network.offers;
    let finding = if let Some(refusal) = &network.refusal {
        Finding::new(
            Area::Peers,
            State::Failing,
            format!("a member answered and refused this node: {}", refusal.why),
            match refusal.remedy {
                Remedy::Invite => {
                    "ask a member for a new invite (`polymath mesh invite`) and join by it: `polymath join INVITE`"
                }
                Remedy::Patience => {
                    "leave this node running, it tries again; or join by an invite of another member: `polymath join INVITE`"
                }
                Remedy::Admin => {
                    "ask an admin of the mesh to let it in again, and leave this node running: it tries again"
                }
            },
        )
    } else if tried > 0 {
        let why = network.bootstrap.iter().find_map(|(_, why)| why.as_ref());
        let why = why.map_or(String::new(), |why| format!("; {why}"));
        Finding::new(
            Area::Peers,
            State::Failing,
            format!("nobody answers of {} known here{why}", count(tried, "peer")),
            "check that they run; join through another: `polymath join ADDR`, ADDR as `polymath status` prints it there",
        )
    } else if network.founded_here {
        Finding::new(
            Area::Peers,
            State::Unknown,
            "nobody has joined this mesh yet: nobody can tell what of this node is seen from outside",
            "let another machine join by the address that `polymath status` prints",
        )
    } else {
        Finding::new(
            Area::Peers,
            State::Failing,
            "no address of any peer is known",
            "join again through a peer that runs: `polymath join ADDR`, or name one with --bootstrap ADDR",
        )
    };
    finding.with("connected", 0)
}

/// Which traffic leaves this network.
fn outgoing(network: &Network) -> Finding {
    let used = |transport| {
        let over = |p: &Member| p.transport == transport && p.path != PathKind::Relayed;
        network.members.iter().any(over)
            || network
                .report
                .transports
                .iter()
                .any(|t| t.transport == transport && (t.peers > 0 || !t.observed.is_empty()))
    };
    let (tcp, quic) = (used(Transport::Tcp), used(Transport::Quic));
    let finding = if !tcp && !quic {
        let fix = if network.bootstrap.is_empty() {
            ""
        } else {
            "where only web traffic gets out: `polymath up --proxy HOST:PORT`, or join an anchor that listens on port 443"
        };
        Finding::new(
            Area::Outgoing,
            State::Unknown,
            "nothing has left this network yet",
            fix,
        )
    } else if quic && tcp {
        Finding::ok(Area::Outgoing, "TCP and UDP both leave this network")
    } else if quic {
        Finding::ok(
            Area::Outgoing,
            "UDP leaves this network; TCP was not needed",
        )
    } else if network.members.iter().all(near) {
        Finding::ok(
            Area::Outgoing,
            "TCP works; QUIC was not needed, and nobody outside is connected",
        )
    } else if web_only(network) {
        Finding::new(
            Area::Outgoing,
            State::Warning,
            "only port 443 seems to leave this network",
            "reach others by anchors that listen there (`polymath up --anchor --listen /ip4/0.0.0.0/tcp/443/tls/ws`), or through a proxy: `polymath up --proxy HOST:PORT`",
        )
    } else {
        Finding::new(
            Area::Outgoing,
            State::Warning,
            "no peer is seen over QUIC, all over TCP: UDP seems to be blocked",
            format!(
                "let UDP out, and in to {}, in the firewall; TCP carries everything meanwhile",
                network.ports()
            ),
        )
    };
    finding.with("tcp", tcp).with("udp", quic)
}

/// Whether it is on this network.
fn near(member: &Member) -> bool {
    let global = |a: &Multiaddr| scope(a) == Scope::Global;
    member.path != PathKind::Relayed && !member.addresses.iter().any(global)
}

/// Whether every connection runs to port 443 while other addresses were tried in vain.
fn web_only(network: &Network) -> bool {
    let web = |address: &Multiaddr| port(address, "tcp") == Some(443);
    let others_fail = network
        .bootstrap
        .iter()
        .filter(|(_, failure)| failure.is_some())
        .any(|(address, _)| address.parse().is_ok_and(|a| !web(&a)));
    let mut remote = network
        .members
        .iter()
        .filter(|p| p.path != PathKind::Relayed)
        .flat_map(|p| &p.addresses)
        .peekable();
    others_fail && remote.peek().is_some() && remote.all(web)
}

/// A node that listens where nobody outside is.
fn listening(network: &Network) -> Vec<Finding> {
    const OPEN: &str =
        "`polymath up --listen /ip4/0.0.0.0/tcp/0 --listen /ip4/0.0.0.0/udp/0/quic-v1`";
    if network.client {
        return vec![Finding::ok(
            Area::Ports,
            "none is listened on: this node only asks",
        )];
    }
    if network.listen.is_empty() {
        return vec![Finding::new(
            Area::Ports,
            State::Failing,
            "nothing is listened on",
            OPEN,
        )];
    }
    let listened = format!("listening on {}", network.ports());
    if network.alone() {
        return vec![Finding::new(
            Area::Ports,
            State::Warning,
            format!("{listened}, for this machine alone"),
            format!("to let others in: {OPEN}"),
        )];
    }
    let lacks = |protocol| network.listen.iter().all(|a| port(a, protocol).is_none());
    let missing = match (lacks("tcp"), lacks("udp")) {
        (true, _) => Some(("TCP", "--listen /ip4/0.0.0.0/tcp/0")),
        (_, true) => Some(("QUIC", "--listen /ip4/0.0.0.0/udp/0/quic-v1")),
        _ => None,
    };
    vec![match missing {
        Some((what, flag)) => Finding::new(
            Area::Ports,
            State::Warning,
            format!("{listened}, not on {what}"),
            format!(
                "`polymath up` with {flag} too: networks that block the one may pass the other"
            ),
        ),
        None => Finding::ok(Area::Ports, listened),
    }]
}

fn nat(network: &Network, t: &TransportReport) -> Finding {
    let (mapping, filtering) = (mapping_name(t.mapping), filtering_name(t.filtering));
    let (state, found, fix) = match (t.mapping, t.filtering) {
        (Mapping::Unknown, Filtering::Open) => {
            (State::Ok, "strangers get in".to_owned(), String::new())
        }
        (Mapping::Unknown, _) if t.observed.is_empty() => (
            State::Unknown,
            "no peer has told how it sees this node".into(),
            String::new(),
        ),
        (Mapping::Unknown, _) => (
            State::Unknown,
            "mapping not known: too few peers on different addresses have seen this node".into(),
            "connect to a second peer outside: --bootstrap ADDR".into(),
        ),
        (Mapping::None, Filtering::Restricted) => (
            State::Warning,
            "no NAT, but a firewall lets no stranger in".into(),
            format!("let {} in, in the firewall", network.ports()),
        ),
        (Mapping::None, Filtering::Open) => {
            (State::Ok, "no NAT, strangers get in".into(), String::new())
        }
        (Mapping::None, Filtering::Contacts) => (
            State::Ok,
            "no NAT, peers this node has dialled get in".into(),
            String::new(),
        ),
        (Mapping::None, Filtering::Unknown) => (State::Ok, "no NAT".into(), String::new()),
        (Mapping::EndpointIndependent, Filtering::Open) => (
            State::Ok,
            "a NAT with endpoint-independent mapping that lets strangers in".into(),
            String::new(),
        ),
        (Mapping::EndpointIndependent, Filtering::Contacts) => (
            State::Ok,
            "a NAT with endpoint-independent mapping that lets in peers this node has dialled; a relay is needed for the first contact with others".into(),
            String::new(),
        ),
        (Mapping::EndpointIndependent, _) => (
            State::Ok,
            "a NAT with endpoint-independent mapping: hole punching works, a relay is needed for first contact".into(),
            String::new(),
        ),
        (Mapping::EndpointDependent, Filtering::Open) => (
            State::Ok,
            "a NAT with endpoint-dependent mapping that lets strangers in".into(),
            String::new(),
        ),
        (Mapping::EndpointDependent, _) => (
            State::Warning,
            "a symmetric NAT (endpoint-dependent mapping): no hole can be punched to most peers behind NATs".into(),
            network.forward(),
        ),
    };
    let observed: Vec<String> = t.observed.iter().map(|(a, _)| a.to_string()).collect();
    let mut observed: Vec<&str> = observed.iter().map(String::as_str).collect();
    observed.sort_unstable();
    observed.dedup();
    Finding::new(Area::Nat, state, found, fix)
        .of(t.transport.to_string())
        .with("mapping", mapping)
        .with("filtering", filtering)
        .with("observed", observed.join(" "))
        .with("peers", t.peers)
}

const fn mapping_name(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::Unknown => "unknown",
        Mapping::None => "none",
        Mapping::EndpointIndependent => "endpoint-independent",
        Mapping::EndpointDependent => "endpoint-dependent",
    }
}

const fn filtering_name(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::Unknown => "unknown",
        Filtering::Open => "open",
        Filtering::Contacts => "contacts",
        Filtering::Restricted => "restricted",
    }
}

/// The public address.
fn address(network: &Network) -> Finding {
    let own: BTreeSet<IpAddr> = network
        .global()
        .filter_map(|a| place::ip(&a.address))
        .collect();
    let seen: BTreeSet<IpAddr> = network
        .report
        .transports
        .iter()
        .flat_map(|t| &t.observed)
        .filter(|(a, _)| scope(a) == Scope::Global)
        .filter_map(|(a, _)| place::ip(a))
        .collect();
    let observers: BTreeSet<&PeerId> = network
        .report
        .transports
        .iter()
        .flat_map(|t| t.observed.iter().map(|(_, by)| by))
        .collect();
    let all: Vec<String> = own.union(&seen).map(IpAddr::to_string).collect();
    let provider_nat = network.report.upnp == UpnpReport::NotPublic
        || network
            .listen
            .iter()
            .filter_map(place::ip)
            .any(place::shared);
    let list = all.join(", ");
    if provider_nat && !network.confirmed() {
        let seen = if all.is_empty() {
            String::new()
        } else {
            format!("{list}, but ")
        };
        return Finding::new(
            Area::Address,
            State::Warning,
            format!("{seen}the provider shares it among customers (carrier-grade NAT, 100.64.0.0/10): no port can be forwarded"),
            "ask the provider for a public IPv4 address or for IPv6; until then others come through a relay",
        )
        .with("addresses", list);
    }
    let finding = if !seen.is_empty() {
        let by = count(observers.len(), "peer");
        Finding::ok(Area::Address, format!("{list}, as seen by {by}"))
    } else if !own.is_empty() {
        Finding::ok(Area::Address, list.clone())
    } else if !network.members.is_empty() {
        Finding::new(
            Area::Address,
            State::Unknown,
            "none is known: all peers are on this network",
            "",
        )
    } else {
        Finding::new(
            Area::Address,
            State::Unknown,
            "not known: no peer outside has seen this node",
            "",
        )
    };
    finding.with("addresses", list)
}

fn ipv6(network: &Network) -> Finding {
    let ours = |a: &&AddressReport| matches!(place::ip(&a.address), Some(IpAddr::V6(_)));
    let addresses: Vec<&AddressReport> = network.global().filter(ours).collect();
    let listened = network
        .listen
        .iter()
        .filter(|a| scope(a) == Scope::Global)
        .find_map(|a| place::ip(a).filter(IpAddr::is_ipv6));
    let Some(first) = addresses
        .iter()
        .find_map(|a| place::ip(&a.address))
        .or(listened)
    else {
        return Finding::ok(Area::Ipv6, "no public IPv6 address here: IPv4 is used")
            .with("present", false);
    };
    let failed = |a: &&AddressReport| matches!(a.verdict, Verdict::Failed(_));
    let confirmed = |a: &&AddressReport| matches!(a.verdict, Verdict::Confirmed(_));
    let finding = if addresses.iter().any(confirmed) {
        Finding::ok(Area::Ipv6, format!("{first} answers from outside"))
    } else if addresses.iter().any(failed) {
        Finding::new(
            Area::Ipv6,
            State::Warning,
            format!("{first} does not answer from outside: a firewall lets no stranger in"),
            format!(
                "let {} in to this machine in the router's IPv6 firewall",
                network.ports()
            ),
        )
    } else {
        Finding::ok(Area::Ipv6, first.to_string())
    };
    finding.with("present", true)
}

/// The end of a peer's id: it tells peers apart, the beginning does not.
fn short(peer: &PeerId) -> String {
    let text = peer.to_string();
    let from = text.len().saturating_sub(8);
    format!("…{}", text.get(from..).unwrap_or(&text))
}
