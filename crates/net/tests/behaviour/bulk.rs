//! The bulk lane: who gets in, and that a transfer is whole or an error on both sides.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use polymath_net::{
    Bulk, BulkArrival, BulkConnectError, BulkConnection, BulkLimits, BulkReceiver, BulkReply,
    PeerId, ShutOut, Ticket, TicketError, TransferError,
};
use polymath_types::{MeshId, NodeKey};

use crate::support::{SOON, soon, until};

const MESH: MeshId = MeshId::from_bytes([7; 32]);
const MEGABYTE: usize = 1 << 20;

fn bound(mesh: MeshId, change: impl FnOnce(&mut BulkLimits)) -> Bulk {
    let mut limits = BulkLimits::default();
    change(&mut limits);
    opened(mesh, limits, ShutOut::default())
}

fn opened(mesh: MeshId, limits: BulkLimits, shut_out: ShutOut) -> Bulk {
    let addr = SocketAddr::from(([127, 0, 0, 1], 0));
    Bulk::bind(&NodeKey::generate(), mesh, addr, limits, shut_out).unwrap()
}

fn endpoint() -> Bulk {
    bound(MESH, |_| {})
}

async fn knock(from: &Bulk, at: &Bulk, ticket: Ticket) -> Result<BulkConnection, BulkConnectError> {
    let addr = at.local_addr().unwrap();
    soon("knock", from.connect(at.local_peer(), addr, ticket, SOON)).await
}

/// Both ends of a connection from `a` to `b`.
async fn between(a: &Bulk, b: &Bulk) -> (BulkConnection, BulkConnection) {
    let ticket = b.ticket(a.local_peer()).unwrap();
    let (near, far) = tokio::join!(knock(a, b, ticket), soon("accept", b.accept()));
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!((near.peer(), far.peer()), (b.local_peer(), a.local_peer()));
    (near, far)
}

/// The next plain transfer.
async fn taken(from: &BulkConnection) -> BulkReceiver {
    match soon("accept", from.accept()).await.unwrap() {
        BulkArrival::Transfer(receiver) => receiver,
        BulkArrival::Call(..) => panic!("a call"),
    }
}

/// The next call.
async fn asked(from: &BulkConnection) -> (BulkReceiver, BulkReply) {
    match soon("accept", from.accept()).await.unwrap() {
        BulkArrival::Call(question, reply) => (question, reply),
        BulkArrival::Transfer(_) => panic!("no call"),
    }
}

fn body(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

async fn read_all(receiver: &mut BulkReceiver) -> Result<Vec<u8>, TransferError> {
    let mut all = Vec::new();
    while let Some(chunk) = receiver.read_chunk().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

async fn transfer(from: &BulkConnection, to: &BulkConnection, sent: Bytes) {
    let send = async {
        let mut sender = from.send("tensor".into(), sent.len() as u64).await?;
        sender.write_chunk(sent.clone()).await?;
        sender.finish().await
    };
    let receive = async {
        let mut receiver = taken(to).await;
        assert_eq!(receiver.header(), "tensor");
        assert_eq!(receiver.length(), sent.len() as u64);
        read_all(&mut receiver).await
    };
    let (done, got) = soon("transfer", async { tokio::join!(send, receive) }).await;
    done.unwrap();
    assert!(got.unwrap() == sent, "other bytes arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_megabytes_arrive_as_they_were_sent_both_ways() {
    let (a, b) = (endpoint(), endpoint());
    let (near, far) = between(&a, &b).await;
    let sent = body(16 * MEGABYTE);
    transfer(&near, &far, sent.clone()).await;
    transfer(&far, &near, sent.clone()).await;
    for end in [&a, &b] {
        let counted = end.counters();
        let size = sent.len() as u64;
        assert_eq!((counted.bytes_sent, counted.bytes_received), (size, size));
        assert_eq!((counted.transfers_sent, counted.transfers_received), (1, 1));
        assert_eq!(counted.transfers_broken, 0);
    }
    assert_eq!(b.counters().connections_accepted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_side_by_side_and_empty_ones_are_whole() {
    let (a, b) = (endpoint(), endpoint());
    let (near, far) = between(&a, &b).await;
    transfer(&near, &far, Bytes::new()).await;
    let sizes = [1, 1000, MEGABYTE, 3 * MEGABYTE + 7];
    let send = futures::future::join_all(sizes.map(|size| {
        let near = near.clone();
        async move {
            let header = Bytes::from(size.to_string());
            let mut sender = near.send(header, size as u64).await.unwrap();
            for chunk in body(size).chunks(100_000) {
                sender
                    .write_chunk(Bytes::copy_from_slice(chunk))
                    .await
                    .unwrap();
            }
            sender.finish().await.unwrap();
        }
    }));
    let receive = async {
        for _ in sizes {
            let mut receiver = taken(&far).await;
            let size: usize = str::from_utf8(receiver.header()).unwrap().parse().unwrap();
            assert!(read_all(&mut receiver).await.unwrap() == body(size));
        }
    };
    soon("four transfers", async { tokio::join!(send, receive) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_with_a_body() {
    let (a, b) = (endpoint(), endpoint());
    let (near, far) = between(&a, &b).await;
    let serve = async {
        let (question, reply) = asked(&far).await;
        assert_eq!(question.header(), "weights 3");
        let mut sender = reply.send("found".into(), MEGABYTE as u64).await.unwrap();
        sender.write_chunk(body(MEGABYTE)).await.unwrap();
        sender.finish().await.unwrap();
    };
    let ask = async {
        let mut answer = near.ask("weights 3".into()).await.unwrap();
        assert_eq!(answer.header(), "found");
        read_all(&mut answer).await.unwrap()
    };
    let ((), got) = soon("call", async { tokio::join!(serve, ask) }).await;
    assert!(got == body(MEGABYTE));

    // Whoever is not answered hears of it.
    let deaf = async { drop(asked(&far).await) };
    let ask = near.ask("weights 4".into());
    let ((), refused) = soon("no answer", async { tokio::join!(deaf, ask) }).await;
    assert!(
        matches!(refused, Err(TransferError::Ended { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_in_the_handshake() {
    let (a, b, stranger) = (endpoint(), endpoint(), endpoint());
    // Nobody is expected.
    let refused = knock(&stranger, &b, Ticket::from_bytes([1; 32]))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, BulkConnectError::NobodyExpected { .. }),
        "{refused}"
    );
    // Somebody else is.
    let ticket = b.ticket(a.local_peer()).unwrap();
    let refused = knock(&stranger, &b, Ticket::from_bytes([1; 32]))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, BulkConnectError::Stranger { .. }),
        "{refused}"
    );
    // Not even with the other's ticket.
    let refused = knock(&stranger, &b, ticket.clone()).await.unwrap_err();
    assert!(
        matches!(refused, BulkConnectError::Stranger { .. }),
        "{refused}"
    );
    let counted = b.counters();
    assert_eq!(
        (counted.handshakes_refused, counted.strangers_refused),
        (1, 2)
    );
    assert_eq!(
        (counted.tickets_refused, counted.connections_accepted),
        (0, 0)
    );
    // Which is still good for the one it was issued to.
    knock(&a, &b, ticket).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_used_before_or_of_another_peer_is_refused() {
    // Room for connections of whose end `b` has not heard yet.
    let (a, other) = (endpoint(), endpoint());
    let b = bound(MESH, |limits| limits.inbound_per_peer = 16);
    let used = b.ticket(a.local_peer()).unwrap();
    let _kept = knock(&a, &b, used.clone()).await.unwrap();
    let theirs = b.ticket(other.local_peer()).unwrap();
    for ticket in [used, theirs, Ticket::from_bytes([0; 32])] {
        // Expected, so that it is the ticket that is looked at.
        let good = b.ticket(a.local_peer()).unwrap();
        let refused = knock(&a, &b, ticket).await.unwrap_err();
        assert!(
            matches!(refused, BulkConnectError::TicketRefused { .. }),
            "{refused}"
        );
        // No ticket of its own was used up by that.
        drop(knock(&a, &b, good).await.unwrap());
    }
    assert_eq!(b.counters().tickets_refused, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_ticket_is_refused() {
    let a = endpoint();
    let b = bound(MESH, |limits| limits.ticket_life = Duration::ZERO);
    let ticket = b.ticket(a.local_peer()).unwrap();
    let refused = knock(&a, &b, ticket).await.unwrap_err();
    assert!(
        matches!(refused, BulkConnectError::NobodyExpected { .. }),
        "{refused}"
    );
    assert_eq!(b.counters().tickets_expired, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_mesh_shakes_no_hands() {
    let (a, b) = (bound(MeshId::from_bytes([8; 32]), |_| {}), endpoint());
    let ticket = b.ticket(a.local_peer()).unwrap();
    let refused = knock(&a, &b, ticket).await.unwrap_err();
    assert!(
        matches!(refused, BulkConnectError::AnotherMesh { .. }),
        "{refused}"
    );
    until("the failure is counted", async || {
        b.counters().handshakes_failed == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_peer_at_the_address_is_found_out() {
    let (a, b) = (endpoint(), endpoint());
    let ticket = b.ticket(a.local_peer()).unwrap();
    let addr = b.local_addr().unwrap();
    let refused = a
        .connect(PeerId::random(), addr, ticket.clone(), SOON)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, BulkConnectError::WrongPeer { .. }),
        "{refused}"
    );
    // The ticket was not shown to whoever it was.
    knock(&a, &b, ticket).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_address_is_an_error_in_time() {
    let a = endpoint();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let within = Duration::from_millis(50);
    let addr = silent.local_addr().unwrap();
    let failed = a
        .connect(PeerId::random(), addr, Ticket::from_bytes([0; 32]), within)
        .await;
    let failed = failed.unwrap_err();
    assert!(
        matches!(failed, BulkConnectError::Timeout { .. }),
        "{failed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_bounded_and_given_back() {
    let a = bound(MESH, |limits| limits.outbound = 2);
    let b = bound(MESH, |limits| limits.inbound_per_peer = 1);
    let (near, far) = between(&a, &b).await;
    let ticket = b.ticket(a.local_peer()).unwrap();
    let refused = knock(&a, &b, ticket.clone()).await.unwrap_err();
    assert!(
        matches!(refused, BulkConnectError::PeerFull { .. }),
        "{refused}"
    );
    assert_eq!(b.counters().connections_refused, 1);
    near.close();
    soon("the far end hears of it", far.closed()).await;
    // The same ticket: it was not used up.
    let mut connected = None;
    until("there is a place again", async || {
        connected = knock(&a, &b, ticket.clone()).await.ok();
        connected.is_some()
    })
    .await;

    let c = endpoint();
    let _second = between(&a, &c).await;
    let ticket = c.ticket(a.local_peer()).unwrap();
    let refused = knock(&a, &c, ticket).await.unwrap_err();
    assert!(
        matches!(refused, BulkConnectError::Full { limit: 2 }),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_too_many_is_not_issued() {
    let b = endpoint();
    let peer = PeerId::random();
    for _ in 0..8 {
        b.ticket(peer).unwrap();
    }
    let refused = b.ticket(peer).unwrap_err();
    assert!(
        matches!(refused, TicketError::PeerFull { limit: 8, .. }),
        "{refused}"
    );
    for _ in 8..256 {
        b.ticket(PeerId::random()).unwrap();
    }
    let refused = b.ticket(PeerId::random()).unwrap_err();
    assert!(
        matches!(refused, TicketError::Full { limit: 256, .. }),
        "{refused}"
    );
    assert_eq!(b.counters().tickets_denied, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_bodies_over_the_bounds_are_refused_and_the_next_transfer_goes_on() {
    let a = endpoint();
    let b = bound(MESH, |limits| {
        limits.header_bytes = 1000;
        limits.body_bytes = 1000;
    });
    let (near, far) = between(&a, &b).await;
    // What the wire does not allow is not sent at all.
    let refused = near.send(body(64 * 1024 + 1), 0).await.unwrap_err();
    assert!(
        matches!(refused, TransferError::HeaderTooLong { limit: 65_536, .. }),
        "{refused}"
    );

    let receive = taken(&far);
    let send = async {
        let long_header = near.send(body(1001), 1).await.unwrap().finish_with(1).await;
        let long_body = near
            .send("".into(), 1001)
            .await
            .unwrap()
            .finish_with(1001)
            .await;
        let mut good = near.send("good".into(), 4).await.unwrap();
        good.write_chunk("good".into()).await.unwrap();
        (long_header, long_body, good)
    };
    let ((long_header, long_body, good), received) =
        soon("three transfers", async { tokio::join!(send, receive) }).await;
    let mut received = received;
    assert_eq!(received.header(), "good");
    let (sent, got) = soon("the good one", async {
        tokio::join!(good.finish(), read_all(&mut received))
    })
    .await;
    sent.unwrap();
    assert_eq!(got.unwrap(), b"good");
    for refused in [long_header, long_body] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, TransferError::Ended { .. }), "{refused}");
        assert!(refused.to_string().contains("of this length"), "{refused}");
    }
    assert_eq!(b.counters().transfers_refused, 2);
}

trait FinishWith {
    async fn finish_with(self, length: usize) -> Result<(), TransferError>;
}

impl FinishWith for polymath_net::BulkSender {
    /// Writes so much, and finishes.
    async fn finish_with(mut self, length: usize) -> Result<(), TransferError> {
        self.write_chunk(body(length)).await?;
        self.finish().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_is_an_error_on_both_sides() {
    let (a, b) = (endpoint(), endpoint());
    let (near, far) = between(&a, &b).await;
    // Finished early, and dropped.
    for finish in [true, false] {
        let mut sender = near.send("".into(), 1000).await.unwrap();
        sender.write_chunk(body(999)).await.unwrap();
        let mut receiver = taken(&far).await;
        if finish {
            let failed = sender.finish().await.unwrap_err();
            assert_eq!(
                failed,
                TransferError::Truncated {
                    said: 1000,
                    found: 999
                }
            );
        } else {
            drop(sender);
        }
        let failed = soon("read", read_all(&mut receiver)).await.unwrap_err();
        assert!(matches!(failed, TransferError::Ended { .. }), "{failed}");
    }
    assert_eq!(a.counters().transfers_broken, 2);
    assert_eq!(b.counters().transfers_broken, 2);
    assert_eq!(b.counters().transfers_received, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_longer_than_said_is_an_error_on_both_sides() {
    let (a, b) = (endpoint(), endpoint());
    let (near, far) = between(&a, &b).await;
    let mut sender = near.send("".into(), 1000).await.unwrap();
    let mut receiver = taken(&far).await;
    let failed = sender.write_chunk(body(1001)).await.unwrap_err();
    assert_eq!(failed, TransferError::Excess { said: 1000 });
    let failed = soon("read", read_all(&mut receiver)).await.unwrap_err();
    assert!(matches!(failed, TransferError::Ended { .. }), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_stops_early_stops_the_sender() {
    let (a, b) = (endpoint(), endpoint());
    let (near, far) = between(&a, &b).await;
    let send = async {
        let mut sender = near.send("".into(), 1 << 35).await.unwrap();
        let chunk = body(MEGABYTE);
        loop {
            if let Err(error) = sender.write_chunk(chunk.clone()).await {
                return error;
            }
        }
    };
    let receive = async {
        let mut receiver = taken(&far).await;
        receiver.read_chunk().await.unwrap();
    };
    let (stopped, ()) = soon("stop", async { tokio::join!(send, receive) }).await;
    assert!(matches!(stopped, TransferError::Ended { .. }), "{stopped}");
    assert!(
        stopped.to_string().contains("gave the transfer up"),
        "{stopped}"
    );
    // The connection goes on.
    transfer(&near, &far, body(1000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_slows_its_sender_down() {
    const WINDOW: u64 = 256 * 1024;
    const CHUNK: usize = 16 * 1024;
    let small = |limits: &mut BulkLimits| {
        limits.receive_window = WINDOW as u32;
        limits.stream_window = WINDOW as u32;
        limits.send_window = WINDOW;
    };
    let (a, b) = (bound(MESH, small), bound(MESH, small));
    let (near, far) = between(&a, &b).await;
    let length = 32 * WINDOW;
    let send = tokio::spawn(async move {
        let mut sender = near.send("".into(), length).await.unwrap();
        for _ in 0..length / CHUNK as u64 {
            sender.write_chunk(body(CHUNK)).await.unwrap();
        }
        sender.finish().await.unwrap();
    });
    let mut receiver = taken(&far).await;
    let mut read = 0;
    let mut ahead = 0;
    while let Some(chunk) = soon("read", receiver.read_chunk()).await.unwrap() {
        read += chunk.len() as u64;
        // Give the sender every chance to run ahead.
        tokio::task::yield_now().await;
        let sent = a.counters().bytes_sent;
        ahead = ahead.max(sent.saturating_sub(read));
    }
    assert_eq!(read, length);
    soon("the sender", send).await.unwrap();
    // What lies in the two windows, and the chunk at hand.
    let bound = 2 * WINDOW + CHUNK as u64;
    assert!(ahead <= bound, "{ahead} bytes ahead, {bound} allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_connection_is_closed_and_a_used_one_is_not() {
    let a = endpoint();
    let b = bound(MESH, |limits| limits.idle = Duration::from_millis(200));
    let (near, far) = between(&a, &b).await;
    let sender = near.send("held".into(), 1).await.unwrap();
    let receiver = taken(&far).await;
    // One that is used less, and was opened later.
    let (unused, _far) = between(&a, &b).await;
    let reason = soon("closed as idle", unused.closed()).await;
    assert!(reason.contains("idle"), "{reason}");
    assert!(!near.is_closed(), "closed although in use");
    drop((sender, receiver));
    let reason = soon("closed as idle", near.closed()).await;
    assert!(reason.contains("idle"), "{reason}");
    assert_eq!(b.counters().connections_idle, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_nothing_is_given_up() {
    let a = bound(MESH, |limits| limits.stall = Duration::from_millis(100));
    let b = endpoint();
    let (near, far) = between(&a, &b).await;
    let _silent = far.send("".into(), 1000).await.unwrap();
    let mut receiver = taken(&near).await;
    let failed = soon("read", receiver.read_chunk()).await.unwrap_err();
    assert!(matches!(failed, TransferError::Stalled { .. }), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_ends_connections_on_both_sides_and_frees_the_port() {
    let (a, b) = (endpoint(), endpoint());
    let (near, far) = between(&a, &b).await;
    let addr = b.local_addr().unwrap();
    soon("shutdown", b.shutdown()).await;
    soon("near", near.closed()).await;
    assert!(far.is_closed() && b.accept().await.is_none());
    let failed = far.send("".into(), 0).await.unwrap_err();
    assert!(failed.is_lost(), "{failed}");
    drop((b, far));
    until("the port is free", async || {
        std::net::UdpSocket::bind(addr).is_ok()
    })
    .await;
    assert!(matches!(
        near.send("".into(), 0).await,
        Err(TransferError::Lost { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_ends_when_its_peer_is_shut_out_which_gets_no_other() {
    let list = ShutOut::default();
    let (a, b) = (
        endpoint(),
        opened(MESH, BulkLimits::default(), list.clone()),
    );
    let (near, far) = between(&a, &b).await;
    let unused = b.ticket(a.local_peer()).unwrap();
    let mut sender = near.send("tensor".into(), 8 << 20).await.unwrap();
    sender.write_chunk(body(MEGABYTE)).await.unwrap();
    let mut receiver = taken(&far).await;
    soon("the first bytes", receiver.read_chunk())
        .await
        .unwrap();

    list.set(Arc::new(HashSet::from([a.local_peer()])));
    let got = soon("the receiver to end", read_all(&mut receiver)).await;
    let peer = a.local_peer();
    assert_eq!(got.unwrap_err(), TransferError::ShutOut { peer });
    let ended = soon("the sender to end", async {
        loop {
            if let Err(error) = sender.write_chunk(body(1000)).await {
                break error;
            }
        }
    })
    .await;
    assert!(
        ended.is_lost() && ended.to_string().contains("revoked"),
        "{ended}"
    );
    let reason = soon("the connection to end", near.closed()).await;
    assert!(reason.contains("revoked"), "{reason}");

    let refused = b.ticket(peer).unwrap_err();
    assert_eq!(refused, TicketError::ShutOut { peer });
    knock(&a, &b, unused).await.unwrap_err();
    let theirs = a.ticket(b.local_peer()).unwrap();
    let refused = knock(&b, &a, theirs).await.unwrap_err();
    assert!(
        matches!(refused, BulkConnectError::ShutOut { .. }),
        "{refused}"
    );

    list.set(Arc::default());
    let (near, far) = between(&a, &b).await;
    transfer(&near, &far, body(MEGABYTE)).await;
}
