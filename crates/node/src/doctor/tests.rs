#![allow(clippy::unwrap_used)]

use polymath_net::{
    AddressReport, AddressSource, Filtering, Mapping, PeerId, RelayReport, RelayState, Scope,
    TransportReport, UpnpReport, Verdict,
};

use super::*;

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
    n.report.addresses = vec![global(own, Verdict::Confirmed(PeerId::random()))];
    let d = diagnose(n);
    is(&d, Area::Ipv6, State::Ok, &["answers from outside"]);
    assert_eq!(d.reach, Reach::Direct);
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
fn a_clock_is_judged_by_the_median_of_members() {
    let clock = |offsets: &[i64]| {
        on(Machine {
            offsets_ms: offsets.to_vec(),
            ..machine()
        })
    };
    is(&clock(&[]), Area::Clock, State::Ok, &["no member"]);
    is(&clock(&[29_000]), Area::Clock, State::Ok, &["1 member"]);
    is(
        &clock(&[31_000, 32_000, 33_000]),
        Area::Clock,
        State::Warning,
        &["32 s behind", "3 members"],
    );
    is(
        &clock(&[-400_000]),
        Area::Clock,
        State::Failing,
        &["6 min ahead of", "timedatectl"],
    );
    // One that lies does not sway two that do not.
    is(&clock(&[0, 10, 9_000_000]), Area::Clock, State::Ok, &[]);
    let old = on(Machine {
        now: Duration::from_secs(1),
        ..machine()
    });
    is(&old, Area::Clock, State::Failing, &["before"]);
    let back = on(Machine {
        offsets_ms: Vec::new(),
        last_written: Some(machine().now + Duration::from_secs(7200)),
        ..machine()
    });
    is(&back, Area::Clock, State::Warning, &["set back", "2 h"]);
}

#[test]
fn names_are_resolved_where_addresses_have_some() {
    let dns = |names: &[(&str, Result<usize, &str>)]| {
        let own = |(name, found): &(&str, Result<usize, &str>)| {
            ((*name).to_owned(), found.map_err(str::to_owned))
        };
        on(Machine {
            names: names.iter().map(own).collect(),
            ..machine()
        })
    };
    is(&dns(&[]), Area::Dns, State::Ok, &["not needed"]);
    is(
        &dns(&[("a.test", Ok(2))]),
        Area::Dns,
        State::Ok,
        &["a.test has 2 addresses"],
    );
    let broken = dns(&[("a.test", Err("no answer within 2s"))]);
    is(
        &broken,
        Area::Dns,
        State::Failing,
        &["a.test", "192.0.2.53", "--bootstrap /ip4/"],
    );
    assert!(broken.fails());
    let half = dns(&[("a.test", Ok(1)), ("b.test", Err("unknown"))]);
    is(&half, Area::Dns, State::Warning, &["b.test"]);
    assert!(!half.fails());
}

#[test]
fn disks_fill_up_in_two_steps() {
    let disk = |free: Result<u64, String>| {
        on(Machine {
            disks: vec![Disk {
                what: "models",
                path: "/srv/models".into(),
                free,
            }],
            ..machine()
        })
    };
    is(&disk(Ok(2 << 30)), Area::Disk, State::Ok, &["/srv/models"]);
    is(
        &disk(Ok(500 << 20)),
        Area::Disk,
        State::Warning,
        &["524 MB", "models.dir"],
    );
    is(
        &disk(Ok(1 << 20)),
        Area::Disk,
        State::Failing,
        &["free some space"],
    );
    is(
        &disk(Err("no such device".into())),
        Area::Disk,
        State::Unknown,
        &["no such device"],
    );
}

#[test]
fn ports_home_key_and_settings_each_have_their_line() {
    let port = |taken: Option<&str>| Port {
        address: "/ip4/0.0.0.0/tcp/4040".into(),
        protocol: "tcp",
        socket: "0.0.0.0:4040".into(),
        taken: taken.map(str::to_owned),
    };
    let ports = |ports| on(Machine { ports, ..machine() });
    is(
        &ports(vec![port(None)]),
        Area::Ports,
        State::Ok,
        &["free: tcp 0.0.0.0:4040"],
    );
    is(
        &ports(vec![port(Some("address in use"))]),
        Area::Ports,
        State::Failing,
        &["0.0.0.0:4040", "address in use", "grep 4040", "--listen"],
    );
    let api = Port {
        address: "api".into(),
        ..port(Some("address in use"))
    };
    is(&ports(vec![api]), Area::Ports, State::Failing, &["--api"]);

    let bad = on(Machine {
        home_error: Some("read-only file system".into()),
        identity: IdentityFile::Open { mode: 0o644 },
        config_error: Some("config.toml, line 3: unknown field".into()),
        ..machine()
    });
    is(
        &bad,
        Area::Home,
        State::Failing,
        &["read-only", "--home DIR"],
    );
    is(&bad, Area::Identity, State::Failing, &["0644", "chmod 600"]);
    is(
        &bad,
        Area::Config,
        State::Failing,
        &["line 3", "polymath config validate"],
    );
    let damaged = on(Machine {
        identity: IdentityFile::Bad("it is damaged".into()),
        ..machine()
    });
    is(&damaged, Area::Identity, State::Failing, &["backup"]);
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

/// Two places and the way between them.
mod between {
    use super::{Filtering::*, Mapping::*, *};

    fn behind(mapping: Mapping, filtering: Filtering, relayed: bool) -> Place {
        Place {
            nats: [Transport::Tcp, Transport::Quic]
                .map(|transport| Nat {
                    transport,
                    mapping,
                    filtering,
                })
                .to_vec(),
            open: false,
            relayed,
            private: true,
            loopback: false,
        }
    }

    fn open() -> Place {
        Place {
            open: true,
            ..Place::default()
        }
    }

    #[test]
    fn the_nat_matrix() {
        let (easy, hard) = (EndpointIndependent, EndpointDependent);
        // Own mapping, the other's, whether the other has a relay.
        for (own, other, relayed, way) in [
            (easy, easy, true, Way::HolePunching),
            (easy, hard, true, Way::Relayed),
            (hard, easy, true, Way::Relayed),
            (hard, hard, true, Way::Relayed),
            (Mapping::None, easy, true, Way::HolePunching),
            (easy, easy, false, Way::None),
            (easy, hard, false, Way::None),
            (hard, hard, false, Way::None),
        ] {
            let found = reachability(
                &behind(own, Restricted, false),
                &behind(other, Restricted, relayed),
            );
            assert_eq!(found.way, way, "{own:?} {other:?} {relayed}: {found:?}");
            assert!(!found.fix.is_empty());
        }
    }

    #[test]
    fn a_filter_that_lets_everybody_in_makes_up_for_the_other_sides_mapping() {
        let found = reachability(
            &behind(EndpointDependent, Restricted, false),
            &behind(EndpointIndependent, Open, true),
        );
        assert_eq!(found.way, Way::HolePunching);
    }

    #[test]
    fn whoever_is_open_is_dialled_and_can_be_dialled_back() {
        let hidden = behind(EndpointDependent, Restricted, true);
        assert_eq!(reachability(&hidden, &open()).way, Way::Direct);
        assert_eq!(reachability(&open(), &hidden).way, Way::HolePunching);
        let mute = behind(EndpointDependent, Restricted, false);
        let found = reachability(&open(), &mute);
        assert_eq!(found.way, Way::None);
        assert!(found.why.contains("only it can dial"), "{found:?}");
    }

    #[test]
    fn of_others_one_knows_what_they_tell() {
        let relay = format!(
            "/ip4/198.51.100.1/tcp/1/p2p/{}/p2p-circuit",
            PeerId::random()
        );
        for (addresses, way, word) in [
            (vec!["/ip4/198.51.100.1/tcp/1"], Way::Direct, "public"),
            (vec!["/dns4/peer.test/tcp/1"], Way::Direct, "public"),
            (
                vec![relay.as_str(), "/ip4/10.0.0.7/tcp/1"],
                Way::Relayed,
                "relay",
            ),
            (vec!["/ip4/10.0.0.7/tcp/1"], Way::Unknown, "private network"),
            (
                vec!["/ip6/fd00::7/udp/1/quic-v1"],
                Way::Unknown,
                "private network",
            ),
            (
                vec!["/ip4/100.64.0.7/tcp/1"],
                Way::Unknown,
                "private network",
            ),
            (vec!["/ip4/127.0.0.1/tcp/1"], Way::Unknown, "own machine"),
            (vec!["nonsense"], Way::Unknown, "no address"),
        ] {
            let found = reachability(&Place::default(), &Place::told(&addresses));
            assert_eq!(found.way, way, "{addresses:?}: {found:?}");
            assert!(found.why.contains(word), "{addresses:?}: {found:?}");
        }
    }

    #[test]
    fn on_one_machine_loopback_is_no_obstacle() {
        let here = Place::own(&NetReport::default(), &[addr("/ip4/127.0.0.1/tcp/1")]);
        let found = reachability(&here, &Place::told(["/ip4/127.0.0.1/tcp/2"]));
        assert_eq!(found.way, Way::Direct);
        assert!(found.why.contains("down"), "{found:?}");
    }

    #[test]
    fn the_own_place_is_read_off_the_report() {
        let mut report = NetReport::default();
        report.transports = both(EndpointIndependent, Restricted);
        report.relays = relayed(RelayState::Asked);
        let place = Place::own(&report, &network().listen);
        assert_eq!(
            (place.open, place.relayed, place.nats.len()),
            (false, false, 2)
        );
        report.relays = relayed(RelayState::Reserved);
        report.addresses = vec![global(OUTSIDE_TCP, Verdict::Confirmed(PeerId::random()))];
        let place = Place::own(&report, &network().listen);
        assert!(place.open && place.relayed);
    }
}
