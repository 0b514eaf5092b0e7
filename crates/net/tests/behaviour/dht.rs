//! Provider records: what is announced is found by peers that were never told.

use std::time::Duration;

use polymath_net::Net;

use crate::support::{Mesh, QUIC, SOON, TCP, addr_of, echo, is_member, serve_echo, soon, until};

async fn finds(net: &Net, key: &[u8], provider: &Net) {
    until("the provider to be found", async || {
        net.providers(key, SOON)
            .await
            .unwrap()
            .contains(&provider.local_peer())
    })
    .await;
}

async fn a_stranger_is_found_and_reached(listen: &str, announce_first: bool) {
    let mesh = Mesh::new("dht");
    let (a, b, c) = (
        mesh.node(&[listen]).await,
        mesh.node(&[listen]).await,
        mesh.guest().await,
    );
    serve_echo(a.accept("echo").unwrap());
    if announce_first {
        // Nobody is there to be told; the first to come must be.
        a.provide(b"chef").await.unwrap();
    }
    b.dial(addr_of(&a), SOON).await.unwrap();
    until("both to know each other", async || {
        is_member(&a, b.local_peer())
    })
    .await;
    if !announce_first {
        a.provide(b"chef").await.unwrap();
    }
    // C knows B alone, and A's name not at all.
    c.dial(addr_of(&b), SOON).await.unwrap();
    finds(&c, b"chef", &a).await;
    let stream = soon(
        "a stream to a stranger",
        c.open(a.local_peer(), "echo", SOON),
    )
    .await
    .unwrap();
    assert_eq!(
        soon("echo", echo(stream, b"hello")).await.unwrap(),
        b"hello"
    );
    assert!(c.providers(b"poet", SOON).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_key_announced_to_nobody_reaches_the_first_to_come() {
    a_stranger_is_found_and_reached(TCP, true).await;
}

#[tokio::test]
async fn a_key_announced_later_is_found() {
    a_stranger_is_found_and_reached(QUIC, false).await;
}

#[tokio::test]
async fn a_peer_is_reached_by_its_id_alone() {
    let mesh = Mesh::new("routing");
    let (a, b, c) = (
        mesh.node(&[TCP]).await,
        mesh.node(&[TCP]).await,
        mesh.guest().await,
    );
    serve_echo(a.accept("echo").unwrap());
    a.dial(addr_of(&b), SOON).await.unwrap();
    until("B to know A", async || is_member(&b, a.local_peer())).await;
    c.dial(addr_of(&b), SOON).await.unwrap();
    let stream = soon("open", c.open(a.local_peer(), "echo", SOON))
        .await
        .unwrap();
    assert_eq!(
        soon("echo", echo(stream, b"found")).await.unwrap(),
        b"found"
    );
}

#[tokio::test]
async fn the_address_book_leads_to_a_peer_without_the_dht() {
    let mesh = Mesh::new("book");
    let (a, c) = (mesh.node(&[TCP]).await, mesh.guest().await);
    serve_echo(a.accept("echo").unwrap());
    c.add_addresses(a.local_peer(), vec![addr_of(&a)]);
    let stream = soon("open", c.open(a.local_peer(), "echo", SOON))
        .await
        .unwrap();
    assert_eq!(
        soon("echo", echo(stream, b"hinted")).await.unwrap(),
        b"hinted"
    );
}

#[tokio::test]
async fn what_is_no_longer_provided_is_not_announced_to_newcomers() {
    let mesh = Mesh::new("stop");
    let (a, b) = (mesh.node(&[TCP]).await, mesh.node(&[TCP]).await);
    a.provide(b"gone").await.unwrap();
    a.provide(b"kept").await.unwrap();
    a.stop_providing(b"gone").await;
    b.dial(addr_of(&a), SOON).await.unwrap();
    finds(&b, b"kept", &a).await;
    assert!(b.providers(b"gone", SOON).await.unwrap().is_empty());
}

#[tokio::test]
async fn leases_are_renewed_and_end() {
    let mesh = Mesh::new("leases");
    let lease = Duration::from_millis(1500);
    let node = async |listen: &[&str]| {
        let mut config = mesh.config(listen);
        config.lease = lease;
        Net::start(config).await.unwrap()
    };
    let (holder, a, b) = (node(&[TCP]).await, node(&[TCP]).await, mesh.guest().await);
    a.provide(b"stays").await.unwrap();
    a.provide(b"ends").await.unwrap();
    a.dial(addr_of(&holder), SOON).await.unwrap();
    b.dial(addr_of(&holder), SOON).await.unwrap();
    finds(&b, b"stays", &a).await;
    finds(&b, b"ends", &a).await;
    a.stop_providing(b"ends").await;
    // The holder forgets the one, and has been told of the other again.
    until("the lease to end", async || {
        b.providers(b"ends", SOON).await.unwrap().is_empty()
    })
    .await;
    let renewed = holder.counters().provider_records_kept;
    until("two more renewals", async || {
        holder.counters().provider_records_kept >= renewed + 2
    })
    .await;
    finds(&b, b"stays", &a).await;
}

#[tokio::test]
async fn a_node_that_provides_too_much_is_told() {
    let mesh = Mesh::new("many");
    let node = mesh.limited(|l| l.provided_keys = 2).await;
    node.provide(b"1").await.unwrap();
    node.provide(b"2").await.unwrap();
    node.provide(b"2").await.unwrap();
    let error = node.provide(b"3").await.unwrap_err();
    assert!(error.to_string().contains('2'), "{error}");
    node.stop_providing(b"1").await;
    node.provide(b"3").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_nodes_find_what_any_of_them_provides() {
    let mesh = Mesh::new("thirty");
    let first = mesh.node(&[TCP]).await;
    let mut nodes = Vec::new();
    for i in 0..30u8 {
        let node = mesh.node(&[TCP]).await;
        node.provide(&[i]).await.unwrap();
        node.dial(addr_of(&first), SOON).await.unwrap();
        nodes.push(node);
    }
    let guest = mesh.guest().await;
    guest.dial(addr_of(&first), SOON).await.unwrap();
    for (i, node) in nodes.iter().enumerate() {
        finds(&guest, &[i as u8], node).await;
    }
}

/// Whereabouts, identify's pushes and announcements are sent on streams of which nothing is read, and whose
/// sender is gone before the listener has answered. Every node must know those that know it.
#[tokio::test]
async fn what_is_told_without_waiting_for_an_answer_arrives_over_tcp_and_quic() {
    for listen in [TCP, QUIC] {
        let mesh = Mesh::new("told");
        let first = mesh.node(&[listen]).await;
        let mut others = Vec::new();
        for key in 1..=3u8 {
            let other = mesh.node(&[listen]).await;
            other.provide(&[key]).await.unwrap();
            other.dial(addr_of(&first), SOON).await.unwrap();
            others.push(other);
        }
        until("the first to have them in its table", async || {
            first.report().routed == others.len()
        })
        .await;
        until("the first to hold what they announced", async || {
            first.counters().provider_records_kept >= others.len() as u64
        })
        .await;
        until("them to have found each other by it", async || {
            others.iter().all(|o| o.report().routed == others.len())
        })
        .await;
    }
}
