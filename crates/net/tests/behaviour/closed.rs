//! A closed mesh: a stranger who knows its genesis, its protocols and its members' addresses, but
//! not its secret, gets nothing, whichever way it comes.

use std::time::Duration;

use libp2p::multiaddr::Protocol;
use polymath_net::{Door, Multiaddr, Net, PeerId};
use polymath_types::{Access, Genesis, MeshSecret, NodeKey};
use tokio::time::sleep;

use crate::support::{Mesh, QUIC, SOON, TCP, addr_of, echo, is_member, serve_echo, soon, until};

/// For what must not happen.
const NEVER: Duration = Duration::from_secs(3);

fn closed() -> Mesh {
    let founder = NodeKey::generate().keypair().public();
    Mesh(Genesis::found("vault", &founder, Access::Closed).unwrap())
}

fn door(mesh: &Mesh, secret: u8) -> Door {
    let secret = MeshSecret::from_bytes([secret; 32]);
    Door::member(mesh.0.id(), secret, None)
}

async fn node(mesh: &Mesh, door: Option<Door>, listen: &[&str], local_discovery: bool) -> Net {
    let mut config = mesh.config(listen);
    config.door = door;
    config.local_discovery = local_discovery;
    Net::start(config).await.unwrap()
}

/// A member that serves streams and has a provider record to tell.
async fn member(mesh: &Mesh, listen: &str) -> Net {
    let member = node(mesh, Some(door(mesh, 1)), &[listen], false).await;
    serve_echo(member.accept("echo").unwrap());
    member.provide(b"treasure").await.unwrap();
    member
}

/// Strangers of every kind: one that does not know of doors, and one with another secret.
async fn strangers(mesh: &Mesh) -> [Net; 2] {
    [
        node(mesh, None, &[], false).await,
        node(mesh, Some(door(mesh, 2)), &[], false).await,
    ]
}

/// Whether `stranger` gets anything at all from `peer` at `address`.
async fn gets_nothing(stranger: &Net, peer: PeerId, address: &Multiaddr) {
    let named = address.clone().with(Protocol::P2p(peer));
    for address in [address.clone(), named] {
        stranger.dial(address.clone(), NEVER).await.unwrap_err();
        stranger.hello(address, NEVER).await.unwrap_err();
    }
    stranger.add_addresses(peer, vec![address.clone()]);
    stranger.open(peer, "echo", NEVER).await.unwrap_err();
    let found = stranger.providers(b"treasure", NEVER).await;
    assert!(found.unwrap_or_default().is_empty());
    assert!(!is_member(stranger, peer));
}

async fn nobody_but_members_by(listen: &str) {
    let mesh = closed();
    let inside = member(&mesh, listen).await;
    let address = addr_of(&inside);
    let friend = node(&mesh, Some(door(&mesh, 1)), &[], false).await;
    friend.dial(address.clone(), SOON).await.unwrap();
    let stream = friend
        .open(inside.local_peer(), "echo", SOON)
        .await
        .unwrap();
    assert_eq!(
        soon("echo", echo(stream, b"hello")).await.unwrap(),
        b"hello"
    );
    let found = friend.providers(b"treasure", SOON).await.unwrap();
    assert_eq!(found, [inside.local_peer()]);

    for stranger in strangers(&mesh).await {
        gets_nothing(&stranger, inside.local_peer(), &address).await;
        let known = inside.peers();
        assert!(known.iter().all(|p| p.peer != stranger.local_peer()));
        soon("shutdown", stranger.shutdown()).await;
    }
    // All of that was nothing to those inside.
    let stream = friend
        .open(inside.local_peer(), "echo", SOON)
        .await
        .unwrap();
    assert_eq!(
        soon("echo", echo(stream, b"still")).await.unwrap(),
        b"still"
    );
}

#[tokio::test]
async fn nobody_but_members_by_tcp() {
    nobody_but_members_by(TCP).await;
}

#[tokio::test]
async fn nobody_but_members_by_quic() {
    nobody_but_members_by(QUIC).await;
}

/// The member that relays would have to let the stranger in before it could carry anything.
#[tokio::test]
async fn nobody_but_members_through_a_circuit() {
    let mesh = closed();
    let (relay, inside) = (member(&mesh, TCP).await, member(&mesh, TCP).await);
    inside.dial(addr_of(&relay), SOON).await.unwrap();
    let circuit = addr_of(&relay)
        .with(Protocol::P2p(relay.local_peer()))
        .with(Protocol::P2pCircuit);
    for stranger in strangers(&mesh).await {
        gets_nothing(&stranger, inside.local_peer(), &circuit).await;
    }
}

/// Announcements on the local network are public; what they lead to is not.
#[tokio::test]
async fn nobody_but_members_by_local_discovery() {
    const ANYWHERE: &str = "/ip4/0.0.0.0/tcp/0";
    let mesh = closed();
    let (a, b) = (
        node(&mesh, Some(door(&mesh, 1)), &[ANYWHERE], true).await,
        node(&mesh, Some(door(&mesh, 1)), &[ANYWHERE], true).await,
    );
    until("members to find each other", async || {
        is_member(&a, b.local_peer()) && is_member(&b, a.local_peer())
    })
    .await;
    for stranger_door in [None, Some(door(&mesh, 2))] {
        let stranger = node(&mesh, stranger_door, &[ANYWHERE], true).await;
        until("the stranger to hear of members", async || {
            stranger.counters().local_members_heard > 0
        })
        .await;
        sleep(NEVER).await;
        let met: Vec<_> = stranger.peers();
        assert!(
            met.iter()
                .all(|p| p.peer != a.local_peer() && p.peer != b.local_peer()),
            "{met:?}"
        );
        soon("shutdown", stranger.shutdown()).await;
    }
}
