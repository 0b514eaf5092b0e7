//! Two places and the way between them.

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
    let answered = global(OUTSIDE_TCP, Verdict::Confirmed(PeerId::random()));
    report.addresses = vec![answered.clone()];
    let place = Place::own(&report, &network().listen);
    assert!(!place.open && place.relayed, "its NAT may let contacts in");
    report.addresses = vec![AddressReport {
        source: AddressSource::Upnp,
        ..answered
    }];
    assert!(Place::own(&report, &network().listen).open);
}
