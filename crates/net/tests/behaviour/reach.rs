//! Reaching peers that cannot be dialled: dial-backs, relays, and leaving a relay for a direct path.
//! Loopback stands for the internet here.

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Swarm, SwarmBuilder, identify,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use polymath_net::{
    AddressSource, Net, NetConfig, NetEvent, OpenError, RelayState, Role, UpnpReport, Verdict,
};
use polymath_types::PathKind;
use tokio::time::{sleep, timeout};

use crate::support::{
    Mesh, QUIC, SOON, TCP, addr, addr_of, echo, is_member, serve_echo, soon, until,
};

fn lab(mesh: &Mesh, listen: &[&str], change: impl FnOnce(&mut NetConfig)) -> NetConfig {
    let mut config = mesh.config(listen);
    config.loopback_is_internet = true;
    change(&mut config);
    config
}

pub(crate) async fn anchor(mesh: &Mesh) -> Net {
    Net::start(lab(mesh, &[TCP, QUIC], |c| c.anchor = true))
        .await
        .unwrap()
}

/// A node that nobody can dial.
pub(crate) async fn hidden(mesh: &Mesh) -> Net {
    Net::start(lab(mesh, &[], |_| {})).await.unwrap()
}

pub(crate) fn circuits(net: &Net) -> Vec<libp2p::Multiaddr> {
    let mut all = net.announced().borrow().clone();
    all.retain(|a| a.iter().any(|p| p == Protocol::P2pCircuit));
    all
}

#[tokio::test]
async fn an_address_is_announced_once_another_peer_has_dialled_it_back_and_not_before() {
    let mesh = Mesh::new("dial back");
    let anchor = anchor(&mesh).await;
    let node = Net::start(lab(&mesh, &[TCP, QUIC], |_| {})).await.unwrap();
    node.dial(addr_of(&anchor), SOON).await.unwrap();
    let mut announced = node.announced();
    soon(
        "both addresses to be confirmed",
        announced.wait_for(|a| {
            a.len() == 2
                && a.iter()
                    .all(|a| a.iter().all(|p| p != Protocol::P2pCircuit))
        }),
    )
    .await
    .unwrap();
    until("the report to say so", async || {
        node.report().addresses.iter().all(|a| a.announced)
    })
    .await;
    let report = node.report();
    for row in &report.addresses {
        assert_eq!(
            row.verdict,
            Verdict::Confirmed(anchor.local_peer()),
            "{row:?}"
        );
        assert_eq!(row.source, AddressSource::Listen);
        assert!(row.announced);
    }
    // The connections dialled back are closed behind it: one over each transport may stay, by which
    // the anchor sees the node.
    assert!(anchor.counters().dial_backs >= 2);
    until("a connection over each transport at most", async || {
        let count = |net: &Net| net.peers().iter().map(|p| p.connections).sum::<usize>();
        count(&anchor) <= 2 && count(&node) <= 2
    })
    .await;
    // And gone for good, not only hidden: their limits count them.
    sleep(Duration::from_secs(6)).await;
    let open = anchor.report().connections;
    assert!(open <= 2, "dial-backs leak: {open} connections are open");
}

#[tokio::test]
async fn a_port_that_nobody_answers_on_is_not_announced() {
    let mesh = Mesh::new("closed port");
    let anchor = anchor(&mesh).await;
    // Nothing listens on what others see: the connection leaves from a port of its own.
    let node = hidden(&mesh).await;
    node.dial(addr_of(&anchor), SOON).await.unwrap();
    until("a reservation instead", async || {
        !circuits(&node).is_empty()
    })
    .await;
    let announced = node.announced().borrow().clone();
    assert_eq!(announced, circuits(&node), "circuits alone");
}

#[tokio::test]
async fn two_hidden_nodes_reach_each_other_through_an_anchor() {
    let mesh = Mesh::new("relayed");
    let anchor = anchor(&mesh).await;
    let (a, b) = (hidden(&mesh).await, hidden(&mesh).await);
    serve_echo(b.accept("echo").unwrap());
    for node in [&a, &b] {
        node.dial(addr_of(&anchor), SOON).await.unwrap();
        until("a circuit", async || !circuits(node).is_empty()).await;
    }
    until("the report to say so", async || {
        let relays = b.report().relays;
        relays
            .iter()
            .any(|r| r.peer == anchor.local_peer() && r.state == RelayState::Reserved)
    })
    .await;
    a.add_addresses(b.local_peer(), circuits(&b));

    // Far beyond the 128 KiB that libp2p's relay lets through by default.
    let stream = a.open(b.local_peer(), "echo", SOON).await.unwrap();
    assert_eq!(stream.path(), PathKind::Relayed);
    let body = vec![7; 3 << 20];
    let back = soon("several megabytes both ways", echo(stream, &body))
        .await
        .unwrap();
    assert!(back == body);
    let peer = a
        .peers()
        .into_iter()
        .find(|p| p.peer == b.local_peer())
        .unwrap();
    assert_eq!(
        (peer.path, peer.relay),
        (PathKind::Relayed, Some(anchor.local_peer()))
    );
    until("bytes are counted", async || {
        let peer = a
            .peers()
            .into_iter()
            .find(|p| p.peer == b.local_peer())
            .unwrap();
        peer.received > 3 << 20 && peer.sent > 3 << 20
    })
    .await;
    assert!(
        anchor.counters().relayed_bytes > 12 << 20,
        "in and out, both ways"
    );
    assert!(anchor.counters().circuits_granted > 0);
}

#[tokio::test]
async fn what_an_anchor_relays_keeps_to_its_limit_on_upload() {
    const RATE: u64 = 256 << 10;
    let mesh = Mesh::new("slow anchor");
    let anchor = Net::start(lab(&mesh, &[TCP], |c| {
        c.anchor = true;
        c.limits.upload = Some(RATE);
    }))
    .await
    .unwrap();
    let (a, b) = (hidden(&mesh).await, hidden(&mesh).await);
    serve_echo(b.accept("echo").unwrap());
    for node in [&a, &b] {
        node.dial(addr_of(&anchor), SOON).await.unwrap();
        until("a circuit", async || !circuits(node).is_empty()).await;
    }
    a.add_addresses(b.local_peer(), circuits(&b));
    let stream = a.open(b.local_peer(), "echo", SOON).await.unwrap();
    assert_eq!(stream.path(), PathKind::Relayed);
    let body = vec![7; 256 << 10];
    let begun = std::time::Instant::now();
    let back = soon("both ways", echo(stream, &body)).await.unwrap();
    assert!(back == body);
    // Both ways leave the anchor; a quarter of a second and a turn may go at once.
    let least = Duration::from_millis((2 * (256 << 10) - RATE / 4 - (16 << 10)) * 1000 / RATE);
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    assert!(anchor.counters().uploads_delayed > 0);
}

#[tokio::test]
async fn a_peer_that_has_used_up_its_allowance_is_relayed_for_no_longer() {
    let mesh = Mesh::new("quota");
    let anchor = Net::start(lab(&mesh, &[TCP], |c| {
        c.anchor = true;
        c.limits.relayed_bytes_per_hour = 1 << 20;
    }))
    .await
    .unwrap();
    let (a, b) = (hidden(&mesh).await, hidden(&mesh).await);
    serve_echo(b.accept("echo").unwrap());
    for node in [&a, &b] {
        node.dial(addr_of(&anchor), SOON).await.unwrap();
        until("a circuit", async || !circuits(node).is_empty()).await;
    }
    a.add_addresses(b.local_peer(), circuits(&b));
    let stream = a.open(b.local_peer(), "echo", SOON).await.unwrap();
    let echoed = soon("an end", echo(stream, &vec![0; 3 << 20])).await;
    assert!(echoed.map_or(true, |back| back.len() < 3 << 20));
    until("it is counted", async || {
        anchor.counters().circuits_over_quota > 0
    })
    .await;
    // The anchor itself stays reachable for both.
    assert!(is_member(&a, anchor.local_peer()) && is_member(&b, anchor.local_peer()));
}

#[tokio::test]
async fn new_calls_leave_a_relay_as_soon_as_there_is_a_direct_path_and_old_ones_finish() {
    let mesh = Mesh::new("upgrade");
    let anchor = anchor(&mesh).await;
    let (a, b) = (
        hidden(&mesh).await,
        Net::start(lab(&mesh, &[TCP], |_| {})).await.unwrap(),
    );
    serve_echo(b.accept("echo").unwrap());
    b.dial(addr_of(&anchor), SOON).await.unwrap();
    a.dial(addr_of(&anchor), SOON).await.unwrap();
    // As if it had not been confirmed yet: only a circuit is known.
    until("a circuit of a", async || !circuits(&a).is_empty()).await;
    b.add_addresses(a.local_peer(), circuits(&a));
    serve_echo(a.accept("echo").unwrap());
    let mut events = b.events();
    let old = b.open(a.local_peer(), "echo", SOON).await.unwrap();
    assert_eq!(old.path(), PathKind::Relayed);
    // a learns over the circuit where b is, and dials it.
    soon("a direct path", async {
        while events.recv().await.unwrap()
            != (NetEvent::PathChanged {
                peer: a.local_peer(),
            })
        {}
    })
    .await;
    let new = b.open(a.local_peer(), "echo", SOON).await.unwrap();
    assert_ne!(new.path(), PathKind::Relayed);
    assert_eq!(echo(new, b"new").await.unwrap(), b"new");
    assert_eq!(echo(old, b"old").await.unwrap(), b"old");
    // Nothing uses the circuit any more: it is given up.
    until("one connection", async || {
        b.peers()
            .iter()
            .any(|p| p.peer == a.local_peer() && p.connections == 1)
    })
    .await;
}

#[tokio::test]
async fn the_death_of_a_relay_leaves_a_node_reachable_through_another() {
    let mesh = Mesh::new("two relays");
    let (first, second) = (anchor(&mesh).await, anchor(&mesh).await);
    let (a, b) = (hidden(&mesh).await, hidden(&mesh).await);
    serve_echo(b.accept("echo").unwrap());
    for node in [&a, &b] {
        for relay in [&first, &second] {
            node.dial(addr_of(relay), SOON).await.unwrap();
        }
    }
    until("circuits through both", async || {
        let report = b.report();
        report
            .relays
            .iter()
            .filter(|r| r.state == RelayState::Reserved)
            .count()
            == 2
    })
    .await;
    a.add_addresses(b.local_peer(), circuits(&b));
    let stream = a.open(b.local_peer(), "echo", SOON).await.unwrap();
    let carrier = a
        .peers()
        .into_iter()
        .find(|p| p.peer == b.local_peer())
        .unwrap()
        .relay
        .unwrap();
    let (dead, alive) = if carrier == first.local_peer() {
        (first, second)
    } else {
        (second, first)
    };
    dead.shutdown().await;
    soon("the stream to end", async {
        let mut stream = stream;
        let mut rest = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
    })
    .await;
    let stream = a.open(b.local_peer(), "echo", SOON).await.unwrap();
    assert_eq!(echo(stream, b"still there").await.unwrap(), b"still there");
    until("the other relay carries it", async || {
        let peers = a.peers();
        let b = peers.iter().find(|p| p.peer == b.local_peer());
        // Whichever of the two has opened the circuit, and however the relay was dialled.
        b.is_some_and(|p| p.relay == Some(alive.local_peer()))
    })
    .await;
    // With the last relay gone the error says so at once.
    let peer = b.local_peer();
    alive.shutdown().await;
    until("the circuit to be gone", async || a.peers().is_empty()).await;
    let within = Duration::from_secs(10);
    let error = timeout(SOON, a.open(peer, "echo", within))
        .await
        .unwrap()
        .unwrap_err();
    let named = matches!(error, OpenError::Dial(_) | OpenError::Timeout { .. });
    assert!(named, "{error}");
}

#[tokio::test]
async fn web_sockets_inside_tls_carry_streams() {
    let mesh = Mesh::new("443");
    let host = Net::start(lab(&mesh, &["/ip4/127.0.0.1/tcp/0/tls/ws"], |_| {}))
        .await
        .unwrap();
    serve_echo(host.accept("echo").unwrap());
    let guest = mesh.guest().await;
    let address = addr_of(&host);
    assert!(address.to_string().ends_with("/tls/ws"), "{address}");
    let peer = guest.dial(address, SOON).await.unwrap();
    let stream = guest.open(peer, "echo", SOON).await.unwrap();
    assert_eq!(stream.transport().to_string(), "wss");
    let body = vec![3; 1 << 20];
    assert!(echo(stream, &body).await.unwrap() == body);
}

#[tokio::test]
async fn only_nodes_that_strangers_can_reach_offer_to_relay() {
    let mesh = Mesh::new("offer");
    let anchor = anchor(&mesh).await;
    let node = Net::start(lab(&mesh, &[TCP], |_| {})).await.unwrap();
    node.dial(addr_of(&anchor), SOON).await.unwrap();
    until("it serves too", async || node.report().anchor).await;
    let guest = hidden(&mesh).await;
    guest.dial(addr_of(&node), SOON).await.unwrap();
    until("a circuit through it", async || {
        circuits(&guest)
            .iter()
            .any(|a| a.iter().any(|p| p == Protocol::P2p(node.local_peer())))
    })
    .await;
    assert!(!guest.report().anchor);
    assert_eq!(guest.report().upnp, UpnpReport::Off);
}

#[tokio::test]
async fn without_an_invitation_to_roam_private_addresses_stay_private() {
    let mesh = Mesh::new("scopes");
    // No lab: loopback is loopback here.
    let (a, b) = (mesh.node(&[TCP]).await, mesh.node(&[TCP]).await);
    a.dial(addr_of(&b), SOON).await.unwrap();
    until("it learns where b is", async || {
        is_member(&a, b.local_peer())
    })
    .await;
    until("a world of one machine", async || {
        *b.announced().borrow() == [addr_of(&b)]
    })
    .await;
    // A foreign peer is told by identify, and identify tells nothing private.
    let mut stranger = foreign();
    stranger.dial(addr_of(&b)).unwrap();
    let told = soon("identify", async {
        loop {
            if let SwarmEvent::Behaviour(ForeignEvent::Identify(identify::Event::Received {
                info,
                ..
            })) = stranger.select_next_some().await
            {
                return info.listen_addrs;
            }
        }
    })
    .await;
    assert!(told.is_empty(), "{told:?}");
}

#[derive(NetworkBehaviour)]
struct Foreign {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay: relay::client::Behaviour,
}

/// A libp2p peer that is none of ours.
fn foreign() -> Swarm<Foreign> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key, relay| Foreign {
            identify: identify::Behaviour::new(identify::Config::new(
                "foreign/1".into(),
                key.public(),
            )),
            ping: ping::Behaviour::default(),
            relay,
        })
        .unwrap()
        .build()
}

#[tokio::test]
async fn a_guest_asks_for_no_reservation() {
    let mesh = Mesh::new("guest");
    let anchor = anchor(&mesh).await;
    let guest = Net::start(lab(&mesh, &[], |c| c.role = Role::Client))
        .await
        .unwrap();
    guest.dial(addr_of(&anchor), SOON).await.unwrap();
    until("it is a member", async || {
        is_member(&guest, anchor.local_peer())
    })
    .await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(anchor.counters().reservations_granted, 0);
    assert!(addr("/ip4/127.0.0.1/tcp/1").iter().count() == 2);
}
