//! What a peer may do that does not keep to the protocol.

#![allow(clippy::unwrap_used)]

use std::future::Future;

use futures::FutureExt;
use quinn::{Connection, ConnectionError, VarInt};

use super::{admission::hand_in, *};

const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap()
}

fn endpoint(change: impl FnOnce(&mut BulkLimits)) -> Bulk {
    let mut limits = BulkLimits::default();
    change(&mut limits);
    let mesh = MeshId::from_bytes([7; 32]);
    let addr = SocketAddr::from(([127, 0, 0, 1], 0));
    Bulk::bind(&NodeKey::generate(), mesh, addr, limits, ShutOut::default()).unwrap()
}

/// A connection that `from` does with as it likes, before any ticket is shown.
async fn raw(from: &Bulk, to: &Bulk) -> Result<Connection, ConnectionError> {
    let config = from.shared.identity.client(to.local_peer()).unwrap();
    let endpoint = &from.shared.endpoint;
    let addr = to.local_addr().unwrap();
    soon(endpoint.connect_with(config, addr, "l").unwrap()).await
}

async fn admitted(from: &Bulk, to: &Bulk) -> (Connection, BulkConnection) {
    let ticket = to.ticket(from.local_peer()).unwrap();
    let connection = raw(from, to).await.unwrap();
    soon(hand_in(&connection, &ticket)).await.unwrap();
    (connection, soon(to.accept()).await.unwrap())
}

/// The end of a stream on which exactly these bytes are sent: what the peer makes of it.
async fn verdict(connection: &Connection, bytes: &[u8]) -> Result<Vec<u8>, quinn::ReadToEndError> {
    let (mut write, mut read) = connection.open_bi().await.unwrap();
    // The peer may have stopped it by then.
    let _ = write.write_all(bytes).await;
    let _ = write.finish();
    read.read_to_end(1).await
}

fn reset(code: VarInt) -> Result<Vec<u8>, quinn::ReadToEndError> {
    Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code)))
}

fn transfer(kind: u8, header: u32, length: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(header.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

async fn read_all(connection: &BulkConnection) -> Result<u64, TransferError> {
    let BulkArrival::Transfer(mut receiver) = connection.accept().await.unwrap() else {
        panic!("a call");
    };
    let mut read = 0;
    while let Some(chunk) = receiver.read_chunk().await? {
        read += chunk.len() as u64;
    }
    Ok(read)
}

#[tokio::test]
async fn malformed_heads_are_refused_one_by_one_and_the_connection_goes_on() {
    let (a, b) = (endpoint(|_| {}), endpoint(|_| {}));
    let (raw, taker) = admitted(&a, &b).await;
    let sending = async {
        // A header of 4 GiB, which is not there to be read or room made for.
        let endless = verdict(&raw, &transfer(0, u32::MAX, 0, b"")).await;
        assert_eq!(endless, reset(close::HEADER_TOO_LONG));
        let body = verdict(&raw, &transfer(0, 0, u64::MAX, b"x")).await;
        assert_eq!(body, reset(close::BODY_TOO_LONG));
        let kind = verdict(&raw, &transfer(7, 0, 0, b"")).await;
        assert_eq!(kind, reset(close::MALFORMED));
        for short in [&b""[..], b"\0", b"\0\0\0\0\x05head"] {
            assert_eq!(verdict(&raw, short).await, reset(close::NOT_AS_SAID));
        }
        let good = verdict(&raw, &transfer(0, 0, 4, b"good")).await;
        assert_eq!(good, Ok(vec![frame::TAKEN]));
    };
    let ((), read) = soon(async { tokio::join!(sending, read_all(&taker)) }).await;
    assert_eq!(read, Ok(4));
    let counted = b.counters();
    assert_eq!(counted.transfers_refused, 2);
    assert_eq!(counted.transfers_broken, 4);
    assert_eq!(counted.transfers_received, 1);
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_said_is_no_body() {
    let (a, b) = (endpoint(|_| {}), endpoint(|_| {}));
    let (raw, taker) = admitted(&a, &b).await;
    for (body, expected) in [
        (&b"abc"[..], TransferError::Truncated { said: 4, found: 3 }),
        (b"abcde", TransferError::Excess { said: 4 }),
    ] {
        let bytes = transfer(0, 0, 4, body);
        let both = async { tokio::join!(verdict(&raw, &bytes), read_all(&taker)) };
        let (told, read) = soon(both).await;
        assert_eq!(told, reset(close::NOT_AS_SAID));
        assert_eq!(read, Err(expected));
    }
    assert_eq!(b.counters().transfers_received, 0);
}

#[tokio::test]
async fn whoever_shows_no_ticket_is_sent_away_in_time() {
    let a = endpoint(|_| {});
    let b = endpoint(|limits| limits.handshake = Duration::from_millis(200));
    b.ticket(a.local_peer()).unwrap();
    let connection = raw(&a, &b).await.unwrap();
    soon(connection.closed()).await;
    assert_eq!(b.counters().handshakes_failed, 1);
}

#[tokio::test]
async fn before_its_ticket_is_seen_a_peer_may_open_one_stream_and_send_little() {
    let (a, b) = (endpoint(|_| {}), endpoint(|_| {}));
    b.ticket(a.local_peer()).unwrap();
    let connection = raw(&a, &b).await.unwrap();
    let (mut write, _read) = soon(connection.open_bi()).await.unwrap();
    // Neither is granted, so neither is ever ready.
    assert!(connection.open_bi().now_or_never().is_none());
    assert!(connection.open_uni().now_or_never().is_none());
    let much = vec![0; 2 * limits::STRANGERS_WINDOW as usize];
    // Short of the 32 bytes of a ticket is all that is read; what is beyond it is a ticket refused.
    let _ = write.write_all(&much).await;
    let closed = soon(connection.closed()).await;
    let ConnectionError::ApplicationClosed(close) = closed else {
        panic!("{closed}");
    };
    assert_eq!(close.error_code, close::TICKET_REFUSED);
    assert_eq!(b.counters().tickets_refused, 1);
}

#[tokio::test]
async fn in_a_crowd_addresses_must_be_proven_and_one_source_has_a_share() {
    let a = endpoint(|_| {});
    let b = endpoint(|limits| {
        limits.handshakes = 4;
        limits.handshakes_per_source = 3;
    });
    let ticket = b.ticket(a.local_peer()).unwrap();
    // Two that show no ticket; from the third on half of the places are taken.
    let _first = raw(&a, &b).await.unwrap();
    let _second = raw(&a, &b).await.unwrap();
    let connection = raw(&a, &b).await.unwrap();
    let refused = raw(&a, &b).await.unwrap_err();
    assert!(
        matches!(refused, ConnectionError::ConnectionClosed(_)),
        "{refused}"
    );
    soon(hand_in(&connection, &ticket)).await.unwrap();
    assert!(soon(b.accept()).await.is_some());
    assert_eq!(b.counters().handshakes_refused, 1);
}
