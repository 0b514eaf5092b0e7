//! Starting, being used from both sides at once, running full, stopping.

use futures::StreamExt;
use polymath_net::{DialError, Net, NetEvent, StartError};
use polymath_types::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Mesh, QUIC, SOON, TCP, addr, addr_of, echo, is_member, serve_echo, soon, until,
};

#[tokio::test]
async fn an_occupied_port_is_refused_with_advice() {
    let mesh = Mesh::new("ports");
    for listen in [TCP, QUIC] {
        let first = mesh.node(&[listen]).await;
        let taken = addr_of(&first).to_string();
        let error = Net::start(mesh.config(&[&taken])).await.unwrap_err();
        assert!(
            matches!(&error, StartError::Listen { addr, .. } if addr.to_string() == taken),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("another port"), "{error}");
    }
    let error = Net::start(mesh.config(&["/memory/1"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[tokio::test]
async fn both_families_may_listen_on_one_port() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let mesh = Mesh::new("families");
    let first = mesh
        .node(&["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"])
        .await;
    let same: Vec<_> = ["/ip4/127.0.0.1/tcp", "/ip4/127.0.0.1/udp"]
        .iter()
        .map(|start| {
            let listen = first.listen_addrs();
            let known = listen.borrow();
            let mut texts = known.iter().map(ToString::to_string);
            texts
                .find(|a| a.starts_with(start))
                .unwrap()
                .replace("/ip4/127.0.0.1", "/ip6/::")
        })
        .collect();
    let second = mesh
        .node(&same.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    let error = Net::start(mesh.config(&[&same[0]])).await.unwrap_err();
    assert!(error.to_string().contains("another port"), "{error}");
    soon("shutdown", second.shutdown()).await;
    // The first still has the port in the other family.
    mesh.node(&same.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
}

#[tokio::test]
async fn shutdown_frees_the_ports_and_ends_everything() {
    let mesh = Mesh::new("ports");
    let (node, other) = (mesh.node(&[TCP, QUIC]).await, mesh.guest().await);
    let mut incoming = node.accept("echo").unwrap();
    let listen = node.listen_addrs().borrow().clone();
    assert_eq!(listen.len(), 2);
    for address in &listen {
        other.dial(address.clone(), SOON).await.unwrap();
    }
    soon("shutdown", node.shutdown()).await;
    assert!(soon("the acceptor to end", incoming.next()).await.is_none());
    assert!(node.peers().is_empty());
    assert_eq!(
        node.dial(listen[0].clone(), SOON).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    soon("a second shutdown", node.shutdown()).await;

    let again: Vec<_> = listen.iter().map(ToString::to_string).collect();
    let again = mesh
        .node(&again.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    assert_eq!(*again.listen_addrs().borrow(), listen);
}

#[tokio::test]
async fn dropping_the_last_handle_stops_the_swarm() {
    let mesh = Mesh::new("drop");
    let (node, other) = (mesh.node(&[TCP]).await, mesh.guest().await);
    let peer = other.dial(addr_of(&node), SOON).await.unwrap();
    let mut events = other.events();
    drop(node);
    soon("the other side to notice", async {
        while events.recv().await.unwrap() != (NetEvent::Disconnected { peer }) {}
    })
    .await;
}

#[tokio::test]
async fn both_sides_may_dial_at_once() {
    let mesh = Mesh::new("both");
    let (a, b) = (mesh.node(&[TCP, QUIC]).await, mesh.node(&[TCP, QUIC]).await);
    serve_echo(a.accept("echo").unwrap());
    serve_echo(b.accept("echo").unwrap());
    let (to_a, to_b) = (
        a.listen_addrs().borrow().clone(),
        b.listen_addrs().borrow().clone(),
    );
    let dials = soon("four dials", async {
        tokio::join!(
            a.dial(to_b[0].clone(), SOON),
            b.dial(to_a[0].clone(), SOON),
            a.dial(to_b[1].clone(), SOON),
            b.dial(to_a[1].clone(), SOON),
        )
    })
    .await;
    let (ida, idb) = (a.local_peer(), b.local_peer());
    assert_eq!(dials, (Ok(idb), Ok(ida), Ok(idb), Ok(ida)));
    let info = a.peers().into_iter().find(|p| p.peer == idb).unwrap();
    assert!((1..=4).contains(&info.connections), "{info:?}");
    for (from, to) in [(&a, idb), (&b, ida)] {
        let stream = from.open(to, "echo", SOON).await.unwrap();
        assert_eq!(soon("echo", echo(stream, b"hi")).await.unwrap(), b"hi");
    }
    until("round trips to be known", async || {
        a.peers().iter().all(|p| p.rtt.is_some())
    })
    .await;
}

#[tokio::test]
async fn a_full_node_closes_idle_connections_and_keeps_busy_ones() {
    let mesh = Mesh::new("full");
    let node = mesh.limited(|l| l.connections = 16).await;
    serve_echo(node.accept("echo").unwrap());
    let busy = mesh.guest().await;
    let peer = busy.dial(addr_of(&node), SOON).await.unwrap();
    let mut held = busy.open(peer, "echo", SOON).await.unwrap();
    held.write_all(b"x").await.unwrap();
    held.read_u8().await.unwrap();
    // Twelve inbound ones are let in; four places are for connections the node opens itself. All knock at
    // once, before an idle one is closed to make room.
    let mut guests = Vec::new();
    for _ in 0..16 {
        guests.push(mesh.guest().await);
    }
    let knocks = guests.iter().map(|g| g.dial(addr_of(&node), SOON));
    let knocks = futures::future::join_all(knocks).await;
    assert!(knocks.iter().any(Result::is_err), "all were let in");
    until("the refusal to be counted", async || {
        node.counters().connections_refused > 0
    })
    .await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let other = mesh.node(&[TCP]).await;
        node.dial(addr_of(&other), SOON).await.unwrap();
        others.push(other);
    }
    until("idle connections to be closed", async || {
        node.counters().connections_trimmed >= 2
    })
    .await;
    assert!(
        is_member(&node, busy.local_peer()),
        "the busy one must stay"
    );
    assert_eq!(soon("echo", echo(held, b"still")).await.unwrap(), b"still");
}

#[tokio::test]
async fn a_peer_is_connected_by_whichever_of_its_addresses_answers() {
    let mesh = Mesh::new("addresses");
    let (us, them) = (mesh.guest().await, mesh.node(&[TCP]).await);
    let peer = them.local_peer();
    let unknown = soon("connect", us.connect(peer, SOON)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound, "{unknown}");
    // Nobody listens on port 1; at other addresses somebody else does, or we do.
    let (us, other, third) = (
        mesh.node(&[TCP]).await,
        mesh.node(&[TCP]).await,
        mesh.node(&[QUIC]).await,
    );
    let wrong = vec![addr_of(&us), addr_of(&other), addr_of(&third)];
    us.add_addresses(peer, wrong.clone());
    let error = soon("connect", us.connect(peer, SOON)).await.unwrap_err();
    assert!(matches!(error, DialError::WrongPeer { .. }), "{error}");
    us.add_addresses(peer, vec![addr("/ip4/127.0.0.1/tcp/1"), addr_of(&them)]);
    us.add_addresses(peer, wrong);
    soon("connect", us.connect(peer, SOON)).await.unwrap();
    assert!(is_member(&us, peer));
    // One more call finds the connection that stands.
    soon("connect", us.connect(peer, SOON)).await.unwrap();
}

#[tokio::test]
async fn wildcards_are_expanded_and_told() {
    let mesh = Mesh::new("wild");
    let node = mesh.node(&["/ip4/0.0.0.0/tcp/0"]).await;
    let listen = node.listen_addrs();
    until("loopback among the addresses", async || {
        listen
            .borrow()
            .iter()
            .any(|a| a.to_string().starts_with("/ip4/127.0.0.1/tcp/"))
    })
    .await;
    assert!(
        listen
            .borrow()
            .iter()
            .all(|a| !a.to_string().contains("0.0.0.0") && !a.to_string().contains("p2p"))
    );
    assert!(!listen.borrow().contains(&addr("/ip4/127.0.0.1/tcp/0")));
}

#[tokio::test]
async fn telling_a_peer_of_a_change_leaves_what_is_known_of_it_alone() {
    let mesh = Mesh::new("push");
    let start = async |agent: &str| {
        let mut config = mesh.config(&[TCP]);
        config.agent = agent.to_owned();
        Net::start(config).await.unwrap()
    };
    let (a, b) = (start("first").await, start("second").await);
    let mut events = b.events();
    a.dial(addr_of(&b), SOON).await.unwrap();
    until("both to know each other", async || {
        is_member(&b, a.local_peer())
    })
    .await;
    // A new protocol is told to connected peers.
    serve_echo(a.accept("echo").unwrap());
    let stream = b.open(a.local_peer(), "echo", SOON).await.unwrap();
    assert_eq!(soon("echo", echo(stream, b"hi")).await.unwrap(), b"hi");
    soon("the news", async {
        for _ in 0..2 {
            while !matches!(events.recv().await.unwrap(), NetEvent::Identified { .. }) {}
        }
    })
    .await;
    let agent = |of: &Net| of.peers()[0].agent.clone();
    assert_eq!(
        (agent(&a).as_str(), agent(&b).as_str()),
        ("second", "first")
    );
}
