//! Neighbouring meshes never mix, and say so.

use futures::StreamExt;
use libp2p::{
    SwarmBuilder, identify,
    identity::Keypair,
    noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use polymath_net::{DialError, HelloError, Membership, NetEvent, OpenError};
use polymath_types::ErrorKind;

use crate::support::{
    Mesh, QUIC, SOON, TCP, addr, addr_of, echo, is_member, serve_echo, soon, until,
};

#[tokio::test]
async fn a_peer_of_another_mesh_is_told_apart_and_kept_out() {
    let (ours, theirs) = (Mesh::new("ours"), Mesh::new("theirs"));
    let (us, them) = (ours.node(&[TCP]).await, theirs.node(&[TCP]).await);
    serve_echo(them.accept("echo").unwrap());
    them.provide(b"secret").await.unwrap();
    let mut their_events = them.events();

    let hello = us.hello(addr_of(&them), SOON).await.unwrap();
    assert_eq!((hello.peer, &hello.genesis), (them.local_peer(), &theirs.0));
    assert_eq!(hello.genesis.id(), them.mesh());
    assert!(hello.agent.starts_with("polymath/"));

    let error = us.dial(addr_of(&them), SOON).await.unwrap_err();
    assert!(matches!(error, DialError::WrongMesh { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let text = error.to_string();
    assert!(
        text.contains(&them.mesh().short()) && text.contains(&us.mesh().short()),
        "{text}"
    );

    us.add_addresses(them.local_peer(), vec![addr_of(&them)]);
    let error = us.open(them.local_peer(), "echo", SOON).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Dial(DialError::WrongMesh { .. })),
        "{error}"
    );

    // They notice too, and a third node that asks us learns nothing of them.
    soon("them to notice", async {
        while !matches!(their_events.recv().await.unwrap(), NetEvent::Foreign { peer, .. } if peer == us.local_peer()) {}
    })
    .await;
    let third = ours.guest().await;
    third.dial(addr_of(&us), SOON).await.unwrap();
    assert!(third.providers(b"secret", SOON).await.unwrap().is_empty());
    let error = third
        .open(them.local_peer(), "echo", SOON)
        .await
        .unwrap_err();
    assert_eq!(
        error,
        OpenError::Dial(DialError::NoAddress {
            peer: them.local_peer()
        })
    );
    // The stranger is sent away.
    until("the foreign connection to be closed", async || {
        us.peers().iter().all(|p| p.peer != them.local_peer())
    })
    .await;
    assert!(is_member(&us, third.local_peer()));
}

#[tokio::test]
async fn the_hello_of_our_own_mesh_leaves_a_connection_to_use() {
    let mesh = Mesh::new("ours");
    let (a, b) = (mesh.node(&[QUIC]).await, mesh.node(&[QUIC]).await);
    serve_echo(a.accept("echo").unwrap());
    let hello = b.hello(addr_of(&a), SOON).await.unwrap();
    assert_eq!(hello.genesis, *b.genesis());
    let stream = b.open(hello.peer, "echo", SOON).await.unwrap();
    assert_eq!(
        soon("echo", echo(stream, b"joined")).await.unwrap(),
        b"joined"
    );
}

#[derive(NetworkBehaviour)]
struct Stranger {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// What a stranger encrypts TCP with.
#[derive(Clone, Copy)]
enum Cipher {
    Noise,
    Tls,
}

fn stranger(protocol_version: &str, cipher: Cipher) -> libp2p::Swarm<Stranger> {
    let behaviour = |key: &Keypair| Stranger {
        identify: identify::Behaviour::new(identify::Config::new(
            protocol_version.into(),
            key.public(),
        )),
        ping: ping::Behaviour::default(),
    };
    let (plain, mux) = (tcp::Config::default(), yamux::Config::default);
    let swarm = SwarmBuilder::with_new_identity().with_tokio();
    match cipher {
        Cipher::Noise => swarm
            .with_tcp(plain, noise::Config::new, mux)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .build(),
        Cipher::Tls => swarm
            .with_tcp(plain, libp2p_tls::Config::new, mux)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .build(),
    }
}

#[tokio::test]
async fn a_stranger_that_is_no_polymath_node_does_no_harm() {
    does_no_harm(Cipher::Noise).await;
}

#[tokio::test]
async fn nor_does_one_that_speaks_tls_and_no_noise() {
    does_no_harm(Cipher::Tls).await;
}

async fn does_no_harm(cipher: Cipher) {
    let mesh = Mesh::new("ours");
    let (us, guest) = (mesh.node(&[TCP]).await, mesh.guest().await);
    serve_echo(us.accept("echo").unwrap());
    let mut events = us.events();
    let mut swarm = stranger("ipfs/1.0.0", cipher);
    let id = *swarm.local_peer_id();
    swarm.dial(addr_of(&us)).unwrap();
    swarm.listen_on(addr(TCP)).unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut tell = Some(tell);
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await
                && let Some(tell) = tell.take()
            {
                tell.send(address).unwrap();
            }
        }
    });
    soon("the stranger to be recognised", async {
        while !matches!(events.recv().await.unwrap(), NetEvent::Foreign { peer, .. } if peer == id)
        {
        }
    })
    .await;
    assert!(
        us.peers()
            .iter()
            .any(|p| p.peer == id && p.membership == Membership::Foreign)
    );
    // The mesh goes on as if nothing were.
    let peer = guest.dial(addr_of(&us), SOON).await.unwrap();
    let stream = guest.open(peer, "echo", SOON).await.unwrap();
    assert_eq!(
        soon("echo", echo(stream, b"unharmed")).await.unwrap(),
        b"unharmed"
    );

    let address = told.await.unwrap();
    let error = guest.dial(address.clone(), SOON).await.unwrap_err();
    assert!(matches!(error, DialError::NotPolymath { .. }), "{error}");
    let error = guest.hello(address, SOON).await.unwrap_err();
    assert!(matches!(error, HelloError::NoAnswer { .. }), "{error}");
    until("the stranger to be sent away", async || {
        us.peers().iter().all(|p| p.peer != id)
    })
    .await;
}

#[tokio::test]
async fn another_version_is_named_with_ours() {
    let mesh = Mesh::new("ours");
    let us = mesh.node(&[TCP]).await;
    let mut swarm = stranger(&format!("/polymath/{}/7", us.mesh().short()), Cipher::Noise);
    swarm.listen_on(addr(TCP)).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    let error = us.dial(address, SOON).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch);
    assert!(
        error.to_string().contains("version 7") && error.to_string().contains("version 1"),
        "{error}"
    );
}
