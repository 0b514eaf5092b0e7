//! The operator's limit on what is written to peers. Times are looked at from below only: a limit that
//! holds makes a transfer last at least so long, on however slow a machine.

use std::time::{Duration, Instant};

use futures::future::join_all;
use polymath_net::Net;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Mesh, QUIC, SOON, TCP, addr_of, echo, serve_echo, soon};

const RATE: u64 = 256 << 10;
/// What may go at once after a silence, and the first turn beyond it.
const BURST: u64 = RATE / 4 + (16 << 10);

async fn slow(mesh: &Mesh, listen: &str, rate: u64) -> Net {
    let mut config = mesh.config(&[listen]);
    config.limits.upload = Some(rate);
    Net::start(config).await.unwrap()
}

async fn two_peers_share_the_rate(listen: &str) {
    let mesh = Mesh::new("upload");
    let server = slow(&mesh, listen, RATE).await;
    serve_echo(server.accept("echo").unwrap());
    let clients = [mesh.guest().await, mesh.guest().await];
    for client in &clients {
        soon("dial", client.dial(addr_of(&server), SOON))
            .await
            .unwrap();
    }
    let payload = vec![7; 256 << 10];
    let begun = Instant::now();
    let calls = clients.iter().map(|client| async {
        let stream = client.open(server.local_peer(), "echo", SOON).await;
        echo(stream.unwrap(), &payload).await.unwrap()
    });
    let back = soon("both echoes", join_all(calls)).await;
    assert!(back.iter().all(|b| *b == payload));
    let least = Duration::from_millis((2 * (256 << 10) - BURST) * 1000 / RATE);
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    let counters = server.counters();
    assert!(counters.uploads_delayed > 10, "{counters:?}");
    assert!(clients.iter().all(|c| c.counters().uploads_delayed == 0));
}

#[tokio::test]
async fn answers_keep_to_the_limit_over_tcp() {
    two_peers_share_the_rate(TCP).await;
}

#[tokio::test]
async fn answers_keep_to_the_limit_over_quic() {
    two_peers_share_the_rate(QUIC).await;
}

#[tokio::test]
async fn upkeep_does_not_wait_behind_a_transfer() {
    let mesh = Mesh::new("upkeep");
    // The transfer below would take a minute.
    let server = slow(&mesh, TCP, 16 << 10).await;
    let mut incoming = server.accept("pour").unwrap();
    tokio::spawn(async move {
        use futures::StreamExt;
        while let Some(mut stream) = incoming.next().await {
            let _ = stream.write_all(&vec![7; 1 << 20]).await;
        }
    });
    let client = mesh.node(&[TCP]).await;
    client.dial(addr_of(&server), SOON).await.unwrap();
    let peer = server.local_peer();
    let mut stream = client.open(peer, "pour", SOON).await.unwrap();
    stream.write_all(b"please").await.unwrap();
    stream.read_exact(&mut [0; 4096]).await.unwrap();
    // The DHT writes, and pings are answered, while the stream waits for its turn.
    client.provide(b"key").await.unwrap();
    let found = soon("a look-up", server.providers(b"key", SOON)).await;
    assert_eq!(found.unwrap(), [client.local_peer()]);
    assert!(server.counters().uploads_delayed > 0);
    assert_eq!(server.counters().connections_silent, 0);
}
