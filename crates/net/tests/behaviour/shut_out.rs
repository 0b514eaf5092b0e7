//! Peers that are shut out: cut off at once, kept out by every path, told why, and back when they may be.

use std::{
    collections::HashSet,
    io::ErrorKind as Io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use libp2p::multiaddr::Protocol;
use polymath_net::{
    DialError, Door, Doorkeeper, GivenUp, Net, NetEvent, OpenError, PeerId, Refused,
};
use polymath_types::{Access, ErrorKind, Genesis, InviteClaims, MeshSecret, NodeKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    reach::{anchor, circuits, hidden},
    support::{Mesh, QUIC, SOON, TCP, addr_of, echo, is_member, serve_echo, soon, until},
};

/// For what must not happen.
const NEVER: Duration = Duration::from_secs(3);

fn only(net: &Net) -> Arc<HashSet<PeerId>> {
    Arc::new(HashSet::from([net.local_peer()]))
}

fn nobody() -> Arc<HashSet<PeerId>> {
    Arc::default()
}

async fn echoes(from: &Net, to: &Net) {
    let stream = from.open(to.local_peer(), "echo", SOON).await.unwrap();
    let back = soon("echo", echo(stream, b"hello")).await.unwrap();
    assert_eq!(back, b"hello");
}

#[tokio::test]
async fn a_connected_peer_is_cut_off_cannot_return_and_is_back_once_it_may_be() {
    for listen in [TCP, QUIC] {
        let mesh = Mesh::new("out");
        let (us, them) = (mesh.node(&[listen]).await, mesh.node(&[listen]).await);
        serve_echo(us.accept("echo").unwrap());
        serve_echo(them.accept("echo").unwrap());
        them.dial(addr_of(&us), SOON).await.unwrap();
        until("both to know each other", async || {
            is_member(&us, them.local_peer())
        })
        .await;
        let mut streams = [
            us.open(them.local_peer(), "echo", SOON).await.unwrap(),
            them.open(us.local_peer(), "echo", SOON).await.unwrap(),
        ];
        for stream in &mut streams {
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            soon("echo", stream.read_exact(&mut [0])).await.unwrap();
        }
        let [mut ours, mut theirs] = streams;
        let mut events = us.events();

        us.shut_out(only(&them));
        let error = soon("our stream to end", ours.read(&mut [0])).await;
        assert_eq!(error.unwrap_err().kind(), Io::PermissionDenied);
        let error = ours.write_all(b"y").await.unwrap_err();
        assert!(error.to_string().contains("shut out"), "{error}");
        let ended = soon("their stream to end", theirs.read(&mut [0])).await;
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
        let peer = them.local_peer();
        let cut = NetEvent::GivenUp {
            peer,
            why: GivenUp::ShutOut,
        };
        for wanted in [cut, NetEvent::Disconnected { peer }] {
            soon("the event", async {
                while events.recv().await.unwrap() != wanted {}
            })
            .await;
        }
        assert!(us.peers().is_empty());
        until("them to see it", async || them.peers().is_empty()).await;

        // Neither in, and they are told why.
        let by = us.local_peer();
        let named = addr_of(&us).with(Protocol::P2p(by));
        for address in [addr_of(&us), named] {
            let error = them.dial(address, SOON).await.unwrap_err();
            assert_eq!(error, DialError::TurnedAway { by }, "over {listen}");
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(them.shut_out_by(), Some(by));
        }
        assert!(us.counters().shut_out_refused >= 2);
        // Nor out.
        let out = DialError::ShutOut { peer };
        let named = addr_of(&them).with(Protocol::P2p(peer));
        for address in [addr_of(&them), named] {
            assert_eq!(us.dial(address, SOON).await, Err(out.clone()));
        }
        let error = us.open(peer, "echo", SOON).await.unwrap_err();
        assert_eq!(error, OpenError::Dial(out));
        assert!(us.peers().is_empty());

        us.shut_out(nobody());
        them.dial(addr_of(&us), SOON).await.unwrap();
        assert_eq!(them.shut_out_by(), None);
        until("us to know them again", async || is_member(&us, peer)).await;
        echoes(&us, &them).await;
        echoes(&them, &us).await;
    }
}

#[tokio::test]
async fn who_is_shut_out_from_the_start_is_never_connected_and_hinders_nobody_else() {
    let mesh = Mesh::new("from the start");
    let (them, other) = (mesh.node(&[TCP]).await, mesh.node(&[TCP]).await);
    let config = mesh.config(&[TCP]);
    config.shut_out.set(only(&them));
    let us = Net::start(config).await.unwrap();
    let mut events = us.events();
    them.dial(addr_of(&us), SOON).await.unwrap_err();
    other.dial(addr_of(&us), SOON).await.unwrap();
    let peer = other.local_peer();
    let first = soon("the first event", events.recv()).await.unwrap();
    assert_eq!(first, NetEvent::Connected { peer });
}

#[tokio::test]
async fn what_it_announced_and_its_place_in_the_table_are_gone() {
    let mesh = Mesh::new("records");
    let (us, them) = (mesh.node(&[TCP]).await, mesh.node(&[TCP]).await);
    them.provide(b"treasure").await.unwrap();
    them.dial(addr_of(&us), SOON).await.unwrap();
    until("the record, and the place", async || {
        let found = us.providers(b"treasure", SOON).await.unwrap();
        found == [them.local_peer()] && us.report().routed == 1
    })
    .await;
    us.shut_out(only(&them));
    until("both to be gone", async || us.report().routed == 0).await;
    let found = us.providers(b"treasure", SOON).await.unwrap();
    assert!(found.is_empty());
}

#[tokio::test]
async fn no_relay_leads_around_it() {
    let mesh = Mesh::new("around");
    let anchor = anchor(&mesh).await;
    let (us, them) = (hidden(&mesh).await, hidden(&mesh).await);
    serve_echo(us.accept("echo").unwrap());
    serve_echo(them.accept("echo").unwrap());
    for node in [&us, &them] {
        node.dial(addr_of(&anchor), SOON).await.unwrap();
        until("a circuit", async || !circuits(node).is_empty()).await;
    }
    them.add_addresses(us.local_peer(), circuits(&us));
    us.add_addresses(them.local_peer(), circuits(&them));
    echoes(&them, &us).await;

    us.shut_out(only(&them));
    until("them to see it", async || {
        them.peer(&us.local_peer()).is_none()
    })
    .await;
    assert!(us.peer(&them.local_peer()).is_none());
    let opened = them.open(us.local_peer(), "echo", NEVER).await;
    opened.unwrap_err();
    assert_eq!(them.shut_out_by(), Some(us.local_peer()));
    let opened = us.open(them.local_peer(), "echo", SOON).await;
    assert!(matches!(
        opened,
        Err(OpenError::Dial(DialError::ShutOut { .. }))
    ));
    us.shut_out(nobody());
    echoes(&them, &us).await;

    // And a relay that shuts it out relays for it no longer.
    anchor.shut_out(only(&them));
    until("its reservation to end", async || {
        circuits(&them).is_empty() && anchor.peer(&them.local_peer()).is_none()
    })
    .await;
    until("the circuit to break", async || {
        us.peer(&them.local_peer()).is_none()
    })
    .await;
    us.open(them.local_peer(), "echo", NEVER).await.unwrap_err();
    anchor.shut_out(nobody());
    them.dial(addr_of(&anchor), SOON).await.unwrap();
    until("a circuit again", async || !circuits(&them).is_empty()).await;
    echoes(&us, &them).await;
}

/// Lets everybody in, and counts them.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

impl Doorkeeper for Counting {
    fn admit(&self, _: PeerId, _: InviteClaims) -> BoxFuture<'static, Result<(), Refused>> {
        self.0.fetch_add(1, SeqCst);
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn the_door_of_a_closed_mesh_says_so_and_no_invite_is_used_up() {
    for listen in [TCP, QUIC] {
        let founder = NodeKey::generate().keypair().public();
        let mesh = Mesh(Genesis::found("vault", &founder, Access::Closed).unwrap());
        let (id, secret) = (mesh.0.id(), MeshSecret::from_bytes([1; 32]));
        let keeper = Arc::new(Counting::default());
        let mut config = mesh.config(&[listen]);
        config.door = Some(Door::member(id, secret.clone(), Some(keeper.clone())));
        let claims = InviteClaims {
            id: [7; 16],
            issuer: config.key.peer_id(),
            expires: None,
            uses: Some(1),
        };
        let us = Net::start(config).await.unwrap();
        let node = async |door: &Door| {
            let mut config = mesh.config(&[]);
            config.door = Some(door.clone());
            Net::start(config).await.unwrap()
        };
        let key = claims.key(id, &secret);
        let member = Door::member(id, secret, None);
        let guest = Door::guest(id, claims, key, None);
        for door in [&member, &guest] {
            let them = node(door).await;
            us.shut_out(only(&them));
            let error = them.dial(addr_of(&us), SOON).await.unwrap_err();
            let by = us.local_peer();
            assert_eq!(door.refusal(), Some((by, Refused::Revoked)), "{error}");
            assert_eq!(them.shut_out_by(), Some(by));
            assert!(error.to_string().contains("revoked"), "{error}");
            assert!(us.peers().is_empty());
            assert_eq!(keeper.0.load(SeqCst), 0);

            us.shut_out(nobody());
            them.dial(addr_of(&us), SOON).await.unwrap();
            assert_eq!(them.shut_out_by(), None);
            soon("shutdown", them.shutdown()).await;
            until("them to be gone", async || us.peers().is_empty()).await;
        }
        assert_eq!(keeper.0.load(SeqCst), 1);
    }
}
