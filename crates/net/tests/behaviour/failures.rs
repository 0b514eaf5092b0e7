//! Peers that are gone, frozen, silent or someone else: every call ends, before its deadline.

use std::time::Duration;

use libp2p::multiaddr::Protocol;
use polymath_net::{DialError, NetEvent, OpenError, PeerId};
use polymath_types::ErrorKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};

use crate::support::{Mesh, SOON, TCP, addr, addr_of, echo, serve_echo, soon, until};

const SHORT: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn a_peer_that_accepts_and_never_answers_costs_the_deadline_and_no_more() {
    let mesh = Mesh::new("silent");
    let us = mesh.guest().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = addr(&format!("/ip4/127.0.0.1/tcp/{port}"));
    let error = soon("dial", us.dial(silent.clone(), SHORT))
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::Timeout { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    let error = soon("hello", us.hello(silent.clone(), SHORT))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    let peer = PeerId::random();
    us.add_addresses(peer, vec![silent]);
    let error = soon("open", us.open(peer, "echo", SHORT))
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn one_host_with_many_unfinished_connections_does_not_lock_others_out() {
    let mesh = Mesh::new("crowd");
    let (us, them) = (mesh.guest().await, mesh.node(&[TCP]).await);
    let port = match addr_of(&them).iter().nth(1) {
        Some(Protocol::Tcp(port)) => port,
        other => panic!("{other:?}"),
    };
    // More than the swarm has places for unfinished connections; none of them says a word.
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let target = format!("127.0.0.1:{port}").parse().unwrap();
        crowd.push(soon("the crowd", socket.connect(target)).await.unwrap());
    }
    until("the crowd is refused", async || {
        them.counters().connections_refused > 0
    })
    .await;
    us.dial(addr_of(&them), SOON).await.unwrap();
}

#[tokio::test]
async fn one_host_has_a_share_of_the_connections_and_no_more() {
    let mesh = Mesh::new("share");
    let them = mesh.limited(|l| l.connections_per_source = 2).await;
    let guests = [mesh.guest().await, mesh.guest().await, mesh.guest().await];
    for guest in &guests[..2] {
        guest.dial(addr_of(&them), SOON).await.unwrap();
    }
    guests[2].dial(addr_of(&them), SOON).await.unwrap_err();
    assert!(them.counters().connections_refused > 0);
    // A place that becomes free is there for the next.
    guests[0].shutdown().await;
    until("the third gets in", async || {
        guests[2].dial(addr_of(&them), SOON).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_unreachable_at_once() {
    let mesh = Mesh::new("nobody");
    let us = mesh.guest().await;
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let nowhere = addr(&format!("/ip4/127.0.0.1/tcp/{port}"));
    let error = soon("dial", us.dial(nowhere.clone(), SOON))
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::Unreachable { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&nowhere.to_string()) && text.contains("refused"),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text}");

    let unknown = PeerId::random();
    let error = soon("open", us.open(unknown, "echo", SOON))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        OpenError::Dial(DialError::NoAddress { peer: unknown })
    );
    let error = us.dial(addr("/memory/5"), SOON).await.unwrap_err();
    assert!(matches!(error, DialError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn another_peer_at_the_address_is_not_taken_for_the_one_wanted() {
    let mesh = Mesh::new("wrong");
    let (us, them) = (mesh.guest().await, mesh.node(&[TCP]).await);
    let wanted = PeerId::random();
    let address = addr(&format!("{}/p2p/{wanted}", addr_of(&them)));
    let error = us.dial(address, SOON).await.unwrap_err();
    assert!(
        matches!(error, DialError::WrongPeer { expected, found, .. } if expected == wanted && found == them.local_peer()),
        "{error}"
    );
    let itself = addr(&format!("{}/p2p/{}", addr_of(&them), them.local_peer()));
    assert!(matches!(
        them.dial(itself.clone(), SOON).await,
        Err(DialError::Own { .. })
    ));
    assert!(matches!(
        them.dial(addr_of(&them), SOON).await,
        Err(DialError::Own { .. })
    ));
    assert_eq!(us.dial(itself, SOON).await, Ok(them.local_peer()));
}

#[tokio::test]
async fn a_peer_that_left_is_noticed_and_opening_to_it_fails_before_the_deadline() {
    let mesh = Mesh::new("gone");
    let (us, them) = (mesh.node(&[TCP]).await, mesh.node(&[TCP]).await);
    serve_echo(them.accept("echo").unwrap());
    let peer = us.dial(addr_of(&them), SOON).await.unwrap();
    let mut stream = us.open(peer, "echo", SOON).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut byte = [0];
    soon("echo", stream.read_exact(&mut byte)).await.unwrap();
    let mut events = us.events();
    them.shutdown().await;

    let ended = soon("the open stream to end", stream.read(&mut byte)).await;
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    soon("the event", async {
        while events.recv().await.unwrap() != (NetEvent::Disconnected { peer }) {}
    })
    .await;
    assert!(us.peers().is_empty());
    let error = soon("open", us.open(peer, "echo", SOON)).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Dial(DialError::Unreachable { .. })),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_frozen_peer_is_given_up_and_its_streams_end() {
    let mesh = Mesh::new("frozen");
    let us = mesh.node(&[TCP]).await;
    let config = mesh.config(&[TCP]);
    let (freeze, frozen) = std::sync::mpsc::sync_channel::<()>(1);
    let (tell, told) = tokio::sync::oneshot::channel();
    // A node on a runtime of its own, whose only thread then blocks: its sockets stay open and
    // nobody serves them, as under SIGSTOP.
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let them = polymath_net::Net::start(config).await.unwrap();
            serve_echo(them.accept("echo").unwrap());
            let mut events = them.events();
            tell.send(addr_of(&them)).unwrap();
            while !matches!(events.recv().await.unwrap(), NetEvent::Identified { .. }) {}
            // Serves until the other side has used it, then blocks the thread for good.
            while frozen.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let _ = frozen.recv();
        });
    });
    let peer = us.dial(told.await.unwrap(), SOON).await.unwrap();
    let mut stream = us.open(peer, "echo", SOON).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut byte = [0];
    soon("echo", stream.read_exact(&mut byte)).await.unwrap();

    let mut events = us.events();
    freeze.send(()).unwrap();
    let ended = soon("the stream to end", stream.read(&mut byte)).await;
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    soon("the event", async {
        while events.recv().await.unwrap() != (NetEvent::Disconnected { peer }) {}
    })
    .await;
    assert_eq!(us.counters().connections_silent, 1);
    let error = soon("open", us.open(peer, "echo", SHORT))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::DeadlineExceeded | ErrorKind::Unavailable
        ),
        "{error}"
    );
    drop(freeze);
    thread.join().unwrap();
}

#[tokio::test]
async fn a_disconnected_peer_is_dialled_again_when_needed() {
    let mesh = Mesh::new("again");
    let (us, them) = (mesh.node(&[TCP]).await, mesh.node(&[TCP]).await);
    serve_echo(them.accept("echo").unwrap());
    let peer = us.dial(addr_of(&them), SOON).await.unwrap();
    let mut events = us.events();
    us.disconnect(peer).await;
    soon("the event", async {
        while events.recv().await.unwrap() != (NetEvent::Disconnected { peer }) {}
    })
    .await;
    let stream = soon("open", us.open(peer, "echo", SOON)).await.unwrap();
    assert_eq!(soon("echo", echo(stream, b"back")).await.unwrap(), b"back");
}
