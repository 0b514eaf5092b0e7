#![allow(clippy::unwrap_used)]

use polymath_net::{
    AddressReport, AddressSource, Filtering, Mapping, PeerId, RelayReport, RelayState, Scope,
    TransportReport, UpnpReport, Verdict,
};

use super::*;

mod between;
mod on_the_machine;

fn machine() -> Machine {
    Machine {
        home: "/home/ada/polymath".into(),
        home_error: None,
        identity: IdentityFile::Good,
        config_error: None,
        disks: vec![Disk {
            what: "home",
            path: "/home/ada/polymath".into(),
            free: Ok(50 << 30),
        }],
        now: Duration::from_secs(1_800_000_000),
        last_written: None,
        offsets_ms: vec![120, -40, 900],
        name_servers: vec!["192.0.2.53".into()],
        names: Vec::new(),
        ports: Vec::new(),
    }
}

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn member(transport: Transport, address: &str) -> Member {
    Member {
        path: PathKind::Direct,
        transport,
        addresses: vec![addr(address)],
    }
}

const OUTSIDE_TCP: &str = "/ip4/198.51.100.1/tcp/4040";
const OUTSIDE_QUIC: &str = "/ip4/198.51.100.2/udp/4040/quic-v1";

/// A node behind a router that has met two members outside, one over each transport.
fn network() -> Network {
    Network {
        listen: vec![
            addr("/ip4/192.168.1.7/tcp/4040"),
            addr("/ip4/192.168.1.7/udp/4040/quic-v1"),
        ],
        members: vec![
            member(Transport::Tcp, OUTSIDE_TCP),
            member(Transport::Quic, OUTSIDE_QUIC),
        ],
        bootstrap: vec![(OUTSIDE_TCP.into(), None)],
        uptime: Duration::from_secs(120),
        ..Network::default()
    }
}

fn transport(transport: Transport, mapping: Mapping, filtering: Filtering) -> TransportReport {
    let seen = match transport {
        Transport::Quic => "/ip4/203.0.113.5/udp/61000/quic-v1",
        _ => "/ip4/203.0.113.5/tcp/61000",
    };
    TransportReport {
        transport,
        observed: vec![(addr(seen), PeerId::random())],
        mapping,
        filtering,
        peers: 1,
    }
}

fn both(mapping: Mapping, filtering: Filtering) -> Vec<TransportReport> {
    [Transport::Tcp, Transport::Quic]
        .map(|t| transport(t, mapping, filtering))
        .to_vec()
}

fn global(address: &str, verdict: Verdict) -> AddressReport {
    AddressReport {
        address: addr(address),
        scope: Scope::Global,
        source: AddressSource::Observed,
        announced: matches!(verdict, Verdict::Confirmed(_)),
        verdict,
    }
}

fn relayed(state: RelayState) -> Vec<RelayReport> {
    vec![RelayReport {
        peer: PeerId::random(),
        state,
    }]
}

fn diagnose(network: Network) -> Diagnosis {
    let diagnosis = examine(&Facts {
        machine: machine(),
        network: Ok(network),
    });
    sound(&diagnosis);
    diagnosis
}

fn on(machine: Machine) -> Diagnosis {
    let network = Err(NoNetwork::NoMesh);
    let diagnosis = examine(&Facts { machine, network });
    sound(&diagnosis);
    diagnosis
}

/// Laws of every diagnosis.
fn sound(d: &Diagnosis) {
    for f in &d.findings {
        let bad = matches!(f.state, State::Failing | State::Warning);
        assert!(!bad || !f.fix.is_empty(), "no fix: {f:?}");
        assert!(f.state != State::Ok || f.fix.is_empty(), "needless: {f:?}");
        assert!(!f.found.contains('\n') && !f.fix.contains('\n'), "{f:?}");
    }
    assert!(d.reach != Reach::None || d.fails(), "{d:?}");
    assert!(d.findings.is_sorted_by_key(|f| f.area));
}

#[track_caller]
fn finding<'a>(d: &'a Diagnosis, area: Area, subject: &str) -> &'a Finding {
    let mut found = d.findings.iter();
    found
        .find(|f| f.area == area && f.subject == subject)
        .unwrap()
}

#[track_caller]
fn is(d: &Diagnosis, area: Area, state: State, words: &[&str]) {
    let found: Vec<_> = d.findings.iter().filter(|f| f.area == area).collect();
    let told = |f: &&&Finding| {
        let text = format!("{} {}", f.found, f.fix);
        f.state == state && words.iter().all(|w| text.contains(w))
    };
    assert!(
        found.iter().any(|f| told(&f)),
        "not {state:?} {words:?}: {found:#?}"
    );
}

#[test]
fn an_open_node_is_reached_directly() {
    let mut n = network();
    n.report.transports = both(Mapping::None, Filtering::Open);
    n.report.addresses = vec![global(
        "/ip4/203.0.113.5/tcp/4040",
        Verdict::Confirmed(PeerId::random()),
    )];
    let d = diagnose(n);
    assert_eq!(d.reach, Reach::Direct);
    assert_eq!(d.verdict, "others reach this node directly");
    assert!(d.findings.iter().all(|f| f.state == State::Ok), "{d:#?}");
    is(&d, Area::DialBack, State::Ok, &["203.0.113.5", "answered"]);
    is(&d, Area::Relay, State::Ok, &["not needed"]);
    is(&d, Area::Nat, State::Ok, &["no NAT"]);
}

#[test]
fn a_dial_back_through_a_nat_is_no_proof_that_strangers_get_in() {
    let mut n = network();
    n.report.transports = both(Mapping::EndpointIndependent, Filtering::Contacts);
    n.report.addresses = vec![global(
        "/ip4/203.0.113.5/tcp/61000",
        Verdict::Confirmed(PeerId::random()),
    )];
    n.report.anchors = 1;
    let d = diagnose(n.clone());
    assert_eq!((d.reach, d.fails()), (Reach::Unknown, false));
    is(
        &d,
        Area::DialBack,
        State::Ok,
        &["which this node had dialled before"],
    );
    assert_eq!(
        finding(&d, Area::Nat, "tcp").values["filtering"],
        "contacts"
    );
    n.report.relays = relayed(RelayState::Reserved);
    let d = diagnose(n.clone());
    assert_eq!(d.reach, Reach::HolePunching);
    is(&d, Area::Nat, State::Ok, &["first contact with others"]);
    n.report.transports = both(Mapping::EndpointIndependent, Filtering::Open);
    assert_eq!(diagnose(n).reach, Reach::Direct);
}

#[test]
fn anchors_that_have_not_dialled_back_are_counted() {
    let mut n = network();
    n.report.addresses = vec![global("/ip4/203.0.113.5/tcp/4040", Verdict::Untested)];
    n.report.anchors = 2;
    let d = diagnose(n);
    is(&d, Area::DialBack, State::Unknown, &["2 anchors connected"]);
}

#[test]
fn a_symmetric_nat_without_a_relay_is_not_reached_at_all() {
    let mut n = network();
    n.report.transports = both(Mapping::EndpointDependent, Filtering::Restricted);
    n.report.upnp = UpnpReport::NoGateway;
    let d = diagnose(n);
    assert_eq!(d.reach, Reach::None);
    assert!(d.fails());
    assert!(d.verdict.contains("symmetric"), "{}", d.verdict);
    is(
        &d,
        Area::Nat,
        State::Warning,
        &[
            "symmetric",
            "port 4040 (TCP and UDP)",
            "--announce /ip4/PUBLIC-IP/tcp/4040",
        ],
    );
    is(
        &d,
        Area::Relay,
        State::Failing,
        &["polymath up --anchor", "polymath join"],
    );
    is(&d, Area::Upnp, State::Warning, &["UPnP", "forward"]);
    assert_eq!(
        finding(&d, Area::Nat, "tcp").values["mapping"],
        "endpoint-dependent"
    );
    assert_eq!(
        finding(&d, Area::Nat, "quic").values["filtering"],
        "restricted"
    );
}

#[test]
fn a_symmetric_nat_with_a_relay_is_reached_only_through_it() {
    let mut n = network();
    n.report.transports = both(Mapping::EndpointDependent, Filtering::Restricted);
    n.report.relays = relayed(RelayState::Reserved);
    let d = diagnose(n);
    assert_eq!((d.reach, d.fails()), (Reach::Relay, false));
    assert_eq!(d.verdict, "others reach this node only through relays");
    is(&d, Area::Relay, State::Ok, &["reserved at …"]);
}

#[test]
fn an_endpoint_independent_nat_needs_a_relay_for_first_contact() {
    let mut n = network();
    n.report.transports = both(Mapping::EndpointIndependent, Filtering::Restricted);
    let d = diagnose(n.clone());
    assert_eq!(d.reach, Reach::None);
    is(
        &d,
        Area::Nat,
        State::Ok,
        &["hole punching works, a relay is needed for first contact"],
    );
    is(&d, Area::Relay, State::Failing, &["anchor"]);
    assert!(d.verdict.contains("first contact"), "{}", d.verdict);

    n.report.relays = relayed(RelayState::Reserved);
    let d = diagnose(n.clone());
    assert_eq!((d.reach, d.fails()), (Reach::HolePunching, false));
    assert!(d.verdict.contains("hole punching"), "{}", d.verdict);

    // One transport suffices.
    n.report.transports[0].mapping = Mapping::EndpointDependent;
    assert_eq!(diagnose(n).reach, Reach::HolePunching);
}

#[test]
fn a_relay_that_was_asked_is_waited_for_and_one_that_refused_is_told() {
    let mut n = network();
    n.report.transports = both(Mapping::EndpointIndependent, Filtering::Restricted);
    n.report.relays = relayed(RelayState::Asked);
    assert_eq!(pending(&n), ["a relay's answer"]);
    let d = diagnose(n.clone());
    assert_eq!((d.reach, d.fails()), (Reach::Unknown, false));
    n.report.relays = relayed(RelayState::Failed("all its places are taken".into()));
    assert_eq!(pending(&n), [""; 0]);
    let d = diagnose(n);
    assert_eq!((d.reach, d.fails()), (Reach::None, true));
    is(
        &d,
        Area::Relay,
        State::Failing,
        &["all its places are taken", "anchor"],
    );
}

#[test]
fn where_quic_is_seen_by_nobody_outside_while_tcp_is_udp_is_blocked() {
    let mut n = network();
    n.members = vec![member(Transport::Tcp, OUTSIDE_TCP)];
    n.report.transports = vec![
        transport(
            Transport::Tcp,
            Mapping::EndpointIndependent,
            Filtering::Restricted,
        ),
        TransportReport {
            observed: Vec::new(),
            peers: 0,
            ..transport(Transport::Quic, Mapping::Unknown, Filtering::Unknown)
        },
    ];
    n.report.relays = relayed(RelayState::Reserved);
    let d = diagnose(n.clone());
    is(
        &d,
        Area::Outgoing,
        State::Warning,
        &["UDP seems to be blocked", "let UDP out"],
    );
    assert_eq!(finding(&d, Area::Outgoing, "").values["udp"], "false");
    assert_eq!(d.reach, Reach::HolePunching);
    // Among neighbours one transport is as good as two.
    n.members = vec![member(Transport::Tcp, "/ip4/192.168.1.9/tcp/4040")];
    is(
        &diagnose(n),
        Area::Outgoing,
        State::Ok,
        &["QUIC was not needed"],
    );
}

#[test]
fn where_only_port_443_answers_it_is_said() {
    let mut n = network();
    n.members = vec![member(Transport::Tcp, "/ip4/198.51.100.1/tcp/443/tls/ws")];
    n.bootstrap = vec![(OUTSIDE_TCP.into(), Some("no connection within 10s".into()))];
    let d = diagnose(n.clone());
    is(
        &d,
        Area::Outgoing,
        State::Warning,
        &["only port 443", "/tcp/443/tls/ws", "--proxy HOST:PORT"],
    );
    n.members.push(member(Transport::Tcp, OUTSIDE_TCP));
    is(&diagnose(n), Area::Outgoing, State::Warning, &["UDP"]);
}

#[test]
fn carrier_grade_nat_is_told_from_the_gateway_or_from_the_own_address() {
    let mut n = network();
    n.report.transports = both(Mapping::EndpointIndependent, Filtering::Restricted);
    n.report.upnp = UpnpReport::NotPublic;
    let d = diagnose(n.clone());
    is(
        &d,
        Area::Address,
        State::Warning,
        &["carrier-grade", "203.0.113.5", "IPv6"],
    );
    is(&d, Area::Upnp, State::Warning, &["no public address"]);
    n.report.upnp = UpnpReport::Off;
    n.listen = vec![
        addr("/ip4/100.64.3.4/tcp/4040"),
        addr("/ip4/100.64.3.4/udp/4040/quic-v1"),
    ];
    is(
        &diagnose(n.clone()),
        Area::Address,
        State::Warning,
        &["100.64.0.0/10"],
    );
    // 100.128 is somebody's real address.
    n.listen = vec![
        addr("/ip4/100.128.3.4/tcp/4040"),
        addr("/ip4/100.128.3.4/udp/4040/quic-v1"),
    ];
    is(
        &diagnose(n),
        Area::Address,
        State::Ok,
        &["203.0.113.5, as seen by 2 peers"],
    );
}

#[test]
fn a_gateway_that_forwards_is_believed_until_somebody_has_dialled() {
    let mut n = network();
    let mapped = addr("/ip4/203.0.113.5/tcp/4040");
    n.report.transports = both(Mapping::EndpointIndependent, Filtering::Unknown);
    n.report.upnp = UpnpReport::Mapped(vec![mapped]);
    let d = diagnose(n);
    assert_eq!((d.reach, d.fails()), (Reach::Unknown, false));
    assert!(d.verdict.contains("should reach"), "{}", d.verdict);
    is(
        &d,
        Area::Upnp,
        State::Ok,
        &["forwards /ip4/203.0.113.5/tcp/4040"],
    );
}

#[test]
fn an_announced_address_that_does_not_answer_is_a_fault() {
    let mut n = network();
    n.report.addresses = vec![AddressReport {
        source: AddressSource::Announced,
        ..global(
            "/ip4/203.0.113.5/tcp/4040",
            Verdict::Failed("timed out".into()),
        )
    }];
    let d = diagnose(n);
    assert_eq!(d.reach, Reach::None);
    is(
        &d,
        Area::DialBack,
        State::Warning,
        &["timed out", "forward port 4040"],
    );
}

#[test]
fn a_firewall_without_a_nat_is_told_as_such() {
    let mut n = network();
    n.report.transports = both(Mapping::None, Filtering::Restricted);
    let d = diagnose(n.clone());
    assert_eq!(d.reach, Reach::None);
    is(
        &d,
        Area::Nat,
        State::Warning,
        &["firewall", "let port 4040 (TCP and UDP) in"],
    );
    n.report.relays = relayed(RelayState::Reserved);
    assert_eq!(diagnose(n).reach, Reach::HolePunching);
}

#[test]
fn without_an_anchor_nobody_dials_back() {
    let mut n = network();
    n.report.transports = both(Mapping::None, Filtering::Unknown);
    n.report.addresses = vec![global("/ip4/203.0.113.5/tcp/4040", Verdict::Untested)];
    n.uptime = Duration::from_secs(1);
    assert_eq!(pending(&n), ["a dial-back"]);
    n.uptime = Duration::from_secs(120);
    assert_eq!(pending(&n), [""; 0], "nobody will come");
    let d = diagnose(n);
    assert_eq!((d.reach, d.fails()), (Reach::Unknown, false));
    is(
        &d,
        Area::DialBack,
        State::Unknown,
        &["no anchor", "polymath up --anchor"],
    );
}

#[test]
fn ipv6_is_there_or_not_and_may_have_a_firewall_of_its_own() {
    is(
        &diagnose(network()),
        Area::Ipv6,
        State::Ok,
        &["no public IPv6"],
    );
    let mut n = network();
    let own = "/ip6/2001:db8::7/tcp/4040";
    n.listen.push(addr(own));
    is(
        &diagnose(n.clone()),
        Area::Ipv6,
        State::Ok,
        &["2001:db8::7"],
    );
    n.report.addresses = vec![global(own, Verdict::Failed("timed out".into()))];
    is(
        &diagnose(n.clone()),
        Area::Ipv6,
        State::Warning,
        &["IPv6 firewall"],
    );
    n.report.addresses = vec![AddressReport {
        source: AddressSource::Listen,
        ..global(own, Verdict::Confirmed(PeerId::random()))
    }];
    let d = diagnose(n);
    is(&d, Area::Ipv6, State::Ok, &["answers from outside"]);
    assert_eq!(d.reach, Reach::Direct);
}

#[test]
fn whoever_refuses_has_answered() {
    let mut n = network();
    n.members.clear();
    n.refusal = Some(Refusal {
        why: "the invite is used up".into(),
        remedy: Remedy::Invite,
    });
    let d = diagnose(n.clone());
    let words = ["answered and refused", "used up", "a new invite"];
    is(&d, Area::Peers, State::Failing, &words);
    let peers = d.findings.iter().find(|f| f.area == Area::Peers).unwrap();
    assert!(!peers.found.contains("nobody answers") && !peers.fix.contains("check that"));
    for (remedy, word) in [
        (Remedy::Patience, "of another member"),
        (Remedy::Admin, "ask an admin"),
    ] {
        let refusal = n.refusal.take();
        n.refusal = refusal.map(|refusal| Refusal { remedy, ..refusal });
        let words = [word, "tries again"];
        is(&diagnose(n.clone()), Area::Peers, State::Failing, &words);
    }
}

#[test]
fn a_peer_with_two_addresses_is_one_peer() {
    let mut n = network();
    n.members.clear();
    let peer = PeerId::random();
    let at = |address: &str| (format!("{address}/p2p/{peer}"), None);
    n.bootstrap = vec![at(OUTSIDE_TCP), at(OUTSIDE_QUIC)];
    is(
        &diagnose(n.clone()),
        Area::Peers,
        State::Failing,
        &["of 1 peer known"],
    );
    n.bootstrap.push((OUTSIDE_TCP.into(), None));
    is(
        &diagnose(n),
        Area::Peers,
        State::Failing,
        &["of 2 peers known"],
    );
}

#[test]
fn a_node_that_nobody_answers_says_what_was_tried() {
    let mut n = network();
    n.members.clear();
    n.bootstrap = vec![(OUTSIDE_TCP.into(), Some("connection refused".into()))];
    let d = diagnose(n.clone());
    assert!(d.fails());
    is(
        &d,
        Area::Peers,
        State::Failing,
        &["1 peer", "connection refused", "polymath join"],
    );
    is(&d, Area::Outgoing, State::Unknown, &["--proxy", "443"]);
    assert_eq!(d.reach, Reach::Unknown);
    n.bootstrap.clear();
    is(
        &diagnose(n.clone()),
        Area::Peers,
        State::Failing,
        &["no address of any peer", "--bootstrap"],
    );
    // Whoever has founded a mesh is alone at first.
    n.founded_here = true;
    let d = diagnose(n);
    is(&d, Area::Peers, State::Unknown, &["nobody has joined"]);
    assert!(!d.fails());
}

#[test]
fn a_node_on_loopback_and_one_that_only_asks_need_no_way_in() {
    let mut n = network();
    n.listen = vec![
        addr("/ip4/127.0.0.1/tcp/4040"),
        addr("/ip4/127.0.0.1/udp/4040/quic-v1"),
    ];
    let d = diagnose(n.clone());
    assert_eq!((d.reach, d.fails()), (Reach::Local, false));
    is(
        &d,
        Area::Ports,
        State::Warning,
        &["this machine alone", "--listen"],
    );
    n.listen.clear();
    n.client = true;
    let d = diagnose(n);
    assert_eq!((d.reach, d.fails()), (Reach::AsksOnly, false));
}

#[test]
fn listening_on_one_transport_only_is_told() {
    let mut n = network();
    n.listen = vec![addr("/ip4/192.168.1.7/tcp/4040")];
    is(
        &diagnose(n.clone()),
        Area::Ports,
        State::Warning,
        &["not on QUIC", "quic-v1"],
    );
    n.listen = vec![addr("/ip4/192.168.1.7/udp/4040/quic-v1")];
    is(&diagnose(n), Area::Ports, State::Warning, &["not on TCP"]);
}

#[test]
fn a_report_that_is_empty_leads_to_no_fault() {
    let d = diagnose(network());
    assert_eq!((d.reach, d.fails()), (Reach::Unknown, false));
    assert_eq!(pending(&Network::default()), [""; 0]);
}

#[test]
fn what_could_not_be_looked_at_is_said() {
    let facts = |network| Facts {
        machine: machine(),
        network: Err(network),
    };
    let none = examine(&facts(NoNetwork::NoMesh));
    assert!(!none.fails());
    is(
        &none,
        Area::Node,
        State::Unknown,
        &["polymath up", "polymath join"],
    );
    let failed = examine(&facts(NoNetwork::Failed("the port is taken".into())));
    assert!(failed.fails());
    is(&failed, Area::Node, State::Failing, &["the port is taken"]);
}

#[test]
fn a_diagnosis_crosses_the_wire_whole() {
    let mut n = network();
    n.report.transports = both(Mapping::EndpointDependent, Filtering::Restricted);
    let d = diagnose(n);
    let sent = d.to_proto();
    assert_eq!((sent.reach.as_str(), &sent.verdict), ("none", &d.verdict));
    assert_eq!(sent.findings.len(), d.findings.len());
    let nat = sent.findings.iter().find(|f| f.subject == "quic").unwrap();
    assert_eq!((nat.area.as_str(), nat.state.as_str()), ("nat", "warning"));
    assert_eq!(nat.values["observed"], "/ip4/203.0.113.5/udp/61000/quic-v1");
}
