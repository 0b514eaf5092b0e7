#![allow(clippy::unwrap_used)]
use super::*;

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

const LAN: &str = "/ip4/192.168.1.5/tcp/4001";
const OUTER: &str = "/ip4/11.1.1.1/tcp/4001";

fn behind_nat(now: Instant) -> Reach {
    let mut reach = Reach::new(false, false, Vec::new());
    let listen = [LAN, "/ip4/127.0.0.1/tcp/4001", "/ip4/172.17.0.1/tcp/4001"];
    reach.set_listen(listen.map(addr).to_vec(), now);
    reach
}

/// Somebody nobody knows dials this node at `local`.
fn called(reach: &mut Reach, from: &str, local: &str, now: Instant) {
    reach.dialled_from(PeerId::random(), &addr(from), &addr(local), now);
}

#[test]
fn a_global_address_is_announced_only_after_a_dial_back() {
    let now = Instant::now();
    let mut reach = behind_nat(now);
    let anchor = addr("/ip4/11.0.0.1/tcp/4040");
    reach.met(&anchor);
    reach.observed(PeerId::random(), &anchor, &addr(OUTER), true, now);
    assert!(reach.announced().is_empty() && reach.needs_relay());
    assert_eq!(reach.due(now), Some(addr(OUTER)));
    assert_eq!(reach.due(now), None, "one probe at a time");
    reach.failed(&addr(OUTER), "refused".into(), now);
    assert_eq!(
        reach.due(now + FIRST_RETRY),
        Some(addr(OUTER)),
        "a failed one is tried again"
    );
    reach.confirmed(&addr(OUTER), PeerId::random(), now);
    assert_eq!(reach.announced(), [addr(OUTER)]);
    // One that only lets those in whom it has contacted needs a relay, and is none.
    assert!(reach.needs_relay() && !reach.serves());
    reach.contacted(None, &anchor);
    called(&mut reach, "/ip4/11.0.0.1/tcp/50000", LAN, now);
    assert!(!reach.serves());
    called(&mut reach, "/ip4/11.9.9.9/tcp/50000", LAN, now);
    assert!(reach.serves() && !reach.needs_relay());
}

#[test]
fn private_addresses_are_told_to_peers_of_their_scope_only() {
    let now = Instant::now();
    let mut reach = behind_nat(now);
    reach.met(&addr("/ip4/192.168.1.7/tcp/1"));
    assert_eq!(
        reach.announced(),
        [addr(LAN)],
        "a private world; no container bridge, no loopback"
    );
    reach.met(&addr("/ip4/11.0.0.1/tcp/4040"));
    assert!(reach.announced().is_empty());
    assert!(reach.told_to(Scope::Global, false).is_empty());
    assert!(reach.told_to(Scope::Circuit, false).is_empty());
    assert_eq!(reach.told_to(Scope::Private, false), [addr(LAN)]);
    assert_eq!(
        reach.told_to(Scope::Circuit, true),
        [addr(LAN)],
        "behind the same NAT"
    );
    assert_eq!(reach.told_to(Scope::Loopback, false).len(), 2);
}

#[test]
fn two_observers_tell_how_ports_are_mapped() {
    let now = Instant::now();
    let seen_as = |a: &str, b: &str| {
        let mut reach = behind_nat(now);
        for (from, seen) in [("/ip4/11.0.0.1/tcp/1", a), ("/ip4/11.0.0.2/tcp/1", b)] {
            assert_eq!(reach.mapping(Transport::Tcp), Mapping::Unknown);
            reach.observed(PeerId::random(), &addr(from), &addr(seen), true, now);
        }
        (reach.mapping(Transport::Tcp), reach.due(now).is_some())
    };
    assert_eq!(seen_as(OUTER, OUTER), (Mapping::EndpointIndependent, true));
    assert_eq!(
        seen_as(OUTER, "/ip4/11.1.1.1/tcp/777"),
        (Mapping::EndpointDependent, false),
        "an address that only one peer sees is not worth a dial-back"
    );
    let mut public = Reach::new(false, false, Vec::new());
    public.set_listen(vec![addr(OUTER)], now);
    public.observed(
        PeerId::random(),
        &addr("/ip4/11.0.0.1/tcp/1"),
        &addr(OUTER),
        true,
        now,
    );
    assert_eq!(public.mapping(Transport::Tcp), Mapping::None);
}

#[test]
fn an_anchor_is_taken_at_its_word_and_a_new_network_starts_afresh() {
    let now = Instant::now();
    let mut reach = Reach::new(true, false, vec![addr("/dns4/a.example/tcp/443/tls/ws")]);
    reach.set_listen(vec![addr(OUTER), addr(LAN)], now);
    reach.met(&addr("/ip4/11.0.0.1/tcp/4040"));
    assert_eq!(
        reach.announced(),
        [addr(OUTER), addr("/dns4/a.example/tcp/443/tls/ws")]
    );
    assert!(reach.serves() && reach.serves_dht());

    let mut moved = behind_nat(now);
    moved.met(&addr("/ip4/11.0.0.1/tcp/4040"));
    moved.observed(
        PeerId::random(),
        &addr("/ip4/11.0.0.1/tcp/1"),
        &addr(OUTER),
        true,
        now,
    );
    moved.confirmed(&addr(OUTER), PeerId::random(), now);
    moved.set_listen(vec![addr("/ip4/10.0.0.9/tcp/4001")], now);
    assert!(moved.announced().is_empty() && !moved.is_public());
}

#[test]
fn candidates_are_bounded_and_the_proven_stay() {
    let now = Instant::now();
    let mut reach = behind_nat(now);
    reach.candidate(addr(OUTER), AddressSource::Upnp, now);
    reach.confirmed(&addr(OUTER), PeerId::random(), now);
    for port in 1..200 {
        let later = now + Duration::from_millis(port);
        reach.candidate(
            addr(&format!("/ip4/11.1.1.1/tcp/{port}")),
            AddressSource::Observed,
            later,
        );
    }
    assert_eq!(reach.candidates.len(), MOST_CANDIDATES);
    assert!(reach.is_public());
}

#[test]
fn a_dial_back_by_a_contact_does_not_show_that_strangers_get_in() {
    let now = Instant::now();
    let mut reach = behind_nat(now);
    let anchor = addr("/ip4/11.0.0.1/tcp/4040");
    let filtering = |reach: &Reach| reach.filtering(Transport::Tcp);
    reach.met(&anchor);
    reach.contacted(None, &anchor);
    reach.observed(PeerId::random(), &anchor, &addr(OUTER), true, now);
    assert_eq!(filtering(&reach), Filtering::Unknown);
    reach.failed(&addr(OUTER), "refused".into(), now);
    assert_eq!(filtering(&reach), Filtering::Restricted);
    reach.confirmed(&addr(OUTER), PeerId::random(), now);
    assert_eq!(filtering(&reach), Filtering::Contacts);
    called(&mut reach, "/ip4/11.9.9.9/tcp/50000", LAN, now);
    assert_eq!(filtering(&reach), Filtering::Open);
    // A port that the gateway forwards owes nothing to earlier traffic.
    let mut forwarded = behind_nat(now);
    forwarded.candidate(addr(OUTER), AddressSource::Upnp, now);
    forwarded.confirmed(&addr(OUTER), PeerId::random(), now);
    assert_eq!(filtering(&forwarded), Filtering::Open);
}

/// Of a node with an address of the whole internet.
const V6: &str = "/ip6/2a01:db8:7:1::5/tcp/4001";

#[test]
fn neighbours_and_acquaintances_are_no_strangers() {
    let now = Instant::now();
    let mut reach = Reach::new(false, false, Vec::new());
    reach.set_listen(vec![addr(V6)], now);
    reach.met(&addr("/ip4/11.0.0.1/tcp/4040"));
    // On the same network, where the router's firewall does not stand between.
    called(&mut reach, "/ip6/2a01:db8:7:2::9/tcp/5", V6, now);
    assert!(!reach.serves() && !reach.is_public());
    // A peer that was dialled by name comes from a host that nobody here has dialled.
    let anchor = PeerId::random();
    reach.contacted(Some(anchor), &addr("/dns4/anchor.example/tcp/443/tls/ws"));
    reach.dialled_from(anchor, &addr("/ip6/2b01::1/tcp/5"), &addr(V6), now);
    assert!(!reach.serves() && !reach.is_public());
    // What a peer says of where it came to proves nothing.
    reach.observed(
        PeerId::random(),
        &addr("/ip6/2b01::1/tcp/5"),
        &addr(V6),
        false,
        now,
    );
    assert!(!reach.is_public());
    called(&mut reach, "/ip6/2b01::2/tcp/5", V6, now);
    assert!(reach.serves() && reach.announced() == [addr(V6)]);
}

#[test]
fn when_no_more_contacts_can_be_kept_nobody_counts_as_a_stranger() {
    let now = Instant::now();
    let mut reach = Reach::new(false, false, Vec::new());
    reach.set_listen(vec![addr(V6)], now);
    for _ in 0..MOST_CONTACTS + 1 {
        reach.contacted(Some(PeerId::random()), &addr(V6));
    }
    called(&mut reach, "/ip6/2b01::2/tcp/5", V6, now);
    assert!(!reach.serves());
}

#[test]
fn what_was_confirmed_is_proven_anew_and_given_up_when_it_fails_twice() {
    let now = Instant::now();
    let mut reach = behind_nat(now);
    reach.met(&addr("/ip4/11.0.0.1/tcp/4040"));
    reach.candidate(addr(OUTER), AddressSource::Upnp, now);
    reach.confirmed(&addr(OUTER), PeerId::random(), now);
    called(&mut reach, "/ip4/11.9.9.9/tcp/50000", LAN, now);
    assert!(reach.serves());
    assert_eq!(reach.due(now), None);
    let later = now + REPROVE;
    assert_eq!(reach.due(later), Some(addr(OUTER)));
    reach.failed(&addr(OUTER), "no answer".into(), later);
    assert!(reach.serves(), "one server may be wrong");
    let later = later + FIRST_RETRY;
    assert_eq!(reach.due(later), Some(addr(OUTER)));
    reach.failed(&addr(OUTER), "no answer".into(), later);
    assert!(!reach.is_public() && !reach.serves() && reach.needs_relay());
}

#[test]
fn what_the_gateway_forwards_outlives_a_new_interface() {
    let now = Instant::now();
    let mut reach = behind_nat(now);
    reach.candidate(addr(OUTER), AddressSource::Upnp, now);
    reach.confirmed(&addr(OUTER), PeerId::random(), now);
    reach.set_listen(vec![addr(LAN), addr("/ip4/10.8.0.2/tcp/4001")], now);
    assert!(!reach.is_public(), "it must be proven anew");
    assert_eq!(reach.due(now), Some(addr(OUTER)));
}
