//! Opening and accepting streams.

use futures::{StreamExt, future::join_all};
use polymath_net::{AcceptError, OpenError};
use polymath_types::{ErrorKind, PathKind, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Mesh, QUIC, SOON, TCP, addr_of, echo, serve_echo, soon};

async fn two_hundred_at_once(listen: &str, transport: Transport) {
    let mesh = Mesh::new("many");
    let (server, client) = (mesh.node(&[listen]).await, mesh.node(&[listen]).await);
    serve_echo(server.accept("echo").unwrap());
    let peer = soon("dial", client.dial(addr_of(&server), SOON))
        .await
        .unwrap();
    assert_eq!(peer, server.local_peer());

    let payload = vec![7u8; 10_000];
    let opens = (0..200).map(|_| async {
        let stream = client.open(peer, "echo", SOON).await?;
        assert_eq!(
            (stream.peer(), stream.path(), stream.transport()),
            (peer, PathKind::Direct, transport)
        );
        Ok::<_, OpenError>(echo(stream, &payload).await)
    });
    let outcomes = soon("200 streams", join_all(opens)).await;
    let (mut whole, mut refused) = (0, 0);
    for outcome in outcomes {
        match outcome.expect("every open succeeds: the limit is 256") {
            Ok(back) if back == payload => whole += 1,
            // Reset by the far side because its queue was full: an error, or an early end.
            Ok(back) => {
                assert!(back.is_empty(), "{} bytes came back", back.len());
                refused += 1;
            }
            Err(_) => refused += 1,
        }
    }
    let counters = server.counters();
    assert_eq!(
        counters.streams_refused_queue_full + counters.streams_refused_peer_full,
        refused
    );
    assert_eq!(whole + refused, 200);
    assert!(
        whole >= 64,
        "only {whole} streams went through, fewer than may wait"
    );
    // The storm over, all is as before.
    let stream = client.open(peer, "echo", SOON).await.unwrap();
    assert_eq!(
        soon("echo", echo(stream, b"still here")).await.unwrap(),
        b"still here"
    );
    println!("{transport}: {whole} of 200 went through, {refused} were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_streams_at_once_over_tcp_all_end() {
    two_hundred_at_once(TCP, Transport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_streams_at_once_over_quic_all_end() {
    two_hundred_at_once(QUIC, Transport::Quic).await;
}

#[tokio::test]
async fn a_megabyte_goes_both_ways_over_a_split_stream() {
    let mesh = Mesh::new("bulk");
    let (server, client) = (mesh.node(&[TCP]).await, mesh.guest().await);
    serve_echo(server.accept("echo").unwrap());
    let peer = client.dial(addr_of(&server), SOON).await.unwrap();
    let stream = client.open(peer, "echo", SOON).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let payload: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
    let sent = payload.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    soon("echo", read.read_to_end(&mut back)).await.unwrap();
    writer.await.unwrap();
    assert!(back == payload);
}

#[tokio::test]
async fn a_full_queue_resets_and_counts() {
    let mesh = Mesh::new("full");
    let server = mesh
        .limited(|l| {
            l.inbound_queue = 5;
            l.inbound_queue_per_peer = 3;
        })
        .await;
    let mut incoming = server.accept("slow").unwrap();
    let mut refused = 0;
    let mut held = Vec::new();
    for client in [mesh.guest().await, mesh.guest().await] {
        let peer = client.dial(addr_of(&server), SOON).await.unwrap();
        for _ in 0..4 {
            let arrived = || {
                let c = server.counters();
                let refused = c.streams_refused_peer_full + c.streams_refused_queue_full;
                (c.streams_accepted, refused)
            };
            let before = arrived();
            let mut stream = client.open(peer, "slow", SOON).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            soon("the stream to arrive", async {
                while arrived() == before {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            if arrived().0 == before.0 {
                refused += 1;
                let mut byte = [0];
                let ended = soon("the reset", stream.read(&mut byte)).await;
                assert!(!matches!(ended, Ok(1..)), "{ended:?}");
            } else {
                held.push(stream);
            }
        }
        held.push(client.open(peer, "slow", SOON).await.unwrap());
        std::mem::forget(client);
    }
    // Three of the first peer and two of the second fit; each tried four.
    assert_eq!(refused, 3);
    let counters = server.counters();
    assert_eq!(
        (
            counters.streams_refused_peer_full,
            counters.streams_refused_queue_full
        ),
        (1, 2)
    );
    for _ in 0..5 {
        soon("a waiting stream", incoming.next()).await.unwrap();
    }
}

#[tokio::test]
async fn more_streams_than_a_connection_may_carry_are_refused_with_a_clear_error() {
    let mesh = Mesh::new("limit");
    let (server, client) = (
        mesh.node(&[TCP]).await,
        mesh.limited(|l| l.streams_per_connection = 2).await,
    );
    serve_echo(server.accept("echo").unwrap());
    let peer = client.dial(addr_of(&server), SOON).await.unwrap();
    let first = client.open(peer, "echo", SOON).await.unwrap();
    let _second = client.open(peer, "echo", SOON).await.unwrap();
    let error = client.open(peer, "echo", SOON).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert_eq!(client.counters().opens_refused, 1);
    drop(first);
    client.open(peer, "echo", SOON).await.unwrap();
}

#[tokio::test]
async fn a_protocol_nobody_accepts_fails_at_the_first_read() {
    let mesh = Mesh::new("unknown");
    let (server, client) = (mesh.node(&[TCP]).await, mesh.guest().await);
    let peer = client.dial(addr_of(&server), SOON).await.unwrap();
    let stream = client.open(peer, "nothing", SOON).await.unwrap();
    assert!(soon("echo", echo(stream, b"hello?")).await.is_err());
}

#[tokio::test]
async fn a_protocol_is_accepted_once_and_again_after_its_acceptor_is_gone() {
    let mesh = Mesh::new("once");
    let (server, client) = (mesh.node(&[TCP]).await, mesh.guest().await);
    let first = server.accept("echo").unwrap();
    assert_eq!(
        server.accept("echo").unwrap_err(),
        AcceptError::Taken("echo".into())
    );
    assert!(matches!(
        server.accept("No Name"),
        Err(AcceptError::Name(_))
    ));
    drop(first);
    serve_echo(server.accept("echo").unwrap());
    let peer = client.dial(addr_of(&server), SOON).await.unwrap();
    let stream = client.open(peer, "echo", SOON).await.unwrap();
    assert_eq!(
        soon("echo", echo(stream, b"again")).await.unwrap(),
        b"again"
    );
    assert!(matches!(
        client.open(peer, "No Name", SOON).await,
        Err(OpenError::Name(_))
    ));
}

#[tokio::test]
async fn streams_run_both_ways_over_one_connection() {
    let mesh = Mesh::new("both");
    let (server, guest) = (mesh.node(&[TCP]).await, mesh.guest().await);
    serve_echo(server.accept("echo").unwrap());
    serve_echo(guest.accept("echo").unwrap());
    let peer = guest.dial(addr_of(&server), SOON).await.unwrap();
    let there = guest.open(peer, "echo", SOON).await.unwrap();
    // The guest listens nowhere: only its own connection leads to it.
    let back = server.open(guest.local_peer(), "echo", SOON).await.unwrap();
    let (a, b) = soon("echoes", async {
        tokio::join!(echo(there, b"there"), echo(back, b"back"))
    })
    .await;
    assert_eq!(
        (a.unwrap(), b.unwrap()),
        (b"there".to_vec(), b"back".to_vec())
    );
}
