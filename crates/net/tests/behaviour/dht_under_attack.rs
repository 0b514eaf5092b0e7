//! What hostile members can do to the DHT: fill it, poison it, mislead those who ask.

use futures::StreamExt;
use polymath_net::{MeshStream, Multiaddr, Net, PeerId, Role};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Mesh, SOON, TCP, addr, addr_of, is_member, soon, until};

/// The DHT's own protocol, which members may speak by hand as well.
const KAD: &str = "kad";
/// Kademlia message types (libp2p specs, kad-dht).
const ADD_PROVIDER: u8 = 2;
const GET_PROVIDERS: u8 = 3;
/// Numbers of its fields.
const KEY: u8 = 2;
const CLOSER: u8 = 8;
const PROVIDERS: u8 = 9;

fn varint(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// A protobuf field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![number << 3 | 2], varint(bytes.len()), bytes.to_vec()].concat()
}

fn peer(id: PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    let mut bytes = field(1, &id.to_bytes());
    for address in addresses {
        bytes.extend(field(2, &address.to_vec()));
    }
    bytes
}

/// A message with its length before it.
fn message(kind: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    let body = [vec![1 << 3, kind], fields.concat()].concat();
    [varint(body.len()), body].concat()
}

fn announcement(key: &[u8], by: PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    message(
        ADD_PROVIDER,
        &[field(KEY, key), field(PROVIDERS, &peer(by, addresses))],
    )
}

async fn kad_to(from: &Net, to: &Net) -> MeshStream {
    from.dial(addr_of(to), SOON).await.unwrap();
    from.open(to.local_peer(), KAD, SOON).await.unwrap()
}

async fn finds(net: &Net, key: &[u8], provider: PeerId) {
    until("the provider to be found", async || {
        let mut found = net.look_up(key).await.unwrap();
        while let Some(peer) = found.next().await {
            if peer == provider {
                return true;
            }
        }
        false
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_made_up_keys_is_bounded_and_look_ups_go_on() {
    let mesh = Mesh::new("flood");
    let (victim, honest) = (mesh.node(&[TCP]).await, mesh.node(&[TCP]).await);
    let (flooder, asker) = (mesh.guest().await, mesh.guest().await);
    honest.provide(b"chef").await.unwrap();
    honest.dial(addr_of(&victim), SOON).await.unwrap();
    asker.dial(addr_of(&victim), SOON).await.unwrap();
    finds(&asker, b"chef", honest.local_peer()).await;

    let mut stream = kad_to(&flooder, &victim).await;
    let me = flooder.local_peer();
    let flood = tokio::spawn(async move {
        for n in 0..50_000u64 {
            let key = [n.to_be_bytes(); 4].concat();
            let told = announcement(&key, me, &[addr("/ip4/127.0.0.1/tcp/9")]);
            stream.write_all(&told).await.unwrap();
        }
        stream.flush().await.unwrap();
        stream
    });
    // Meanwhile the node answers, and takes in what others announce.
    let mut n = 0u32;
    while !flood.is_finished() {
        n += 1;
        honest
            .provide(format!("poet {}", n % 8).as_bytes())
            .await
            .unwrap();
        finds(&asker, b"chef", honest.local_peer()).await;
    }
    let _stream = flood.await.unwrap();
    until("every announcement to be judged", async || {
        victim.counters().provider_records_peer_full >= 50_000 - 2048
    })
    .await;
    finds(&asker, b"poet 1", honest.local_peer()).await;
    assert!(victim.counters().provider_records_kept < 2048 + 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn sybils_at_one_address_cannot_hide_a_provider_at_another() {
    let mesh = Mesh::new("sybils");
    let victim = mesh.limited(|l| l.providers_per_key = 24).await;
    let mut sybils = Vec::new();
    for _ in 0..60 {
        let sybil = mesh.guest().await;
        sybil.provide(b"chef").await.unwrap();
        sybil.dial(addr_of(&victim), SOON).await.unwrap();
        sybils.push(sybil);
    }
    until("the key to be full", async || {
        victim.counters().provider_records_no_room > 0
    })
    .await;
    // Dialled there, for its own dials would come from where the sybils' come from.
    let honest = mesh.node(&["/ip4/127.0.0.2/tcp/0"]).await;
    honest.provide(b"chef").await.unwrap();
    victim.dial(addr_of(&honest), SOON).await.unwrap();
    until("a sybil to make room", async || {
        victim.counters().provider_records_evicted == 1
    })
    .await;
    let asker = mesh.guest().await;
    asker.dial(addr_of(&victim), SOON).await.unwrap();
    finds(&asker, b"chef", honest.local_peer()).await;
}

#[tokio::test]
async fn addresses_nobody_could_dial_are_refused_and_counted() {
    let mesh = Mesh::new("addresses");
    let (victim, liar) = (mesh.node(&[TCP]).await, mesh.guest().await);
    let mut stream = kad_to(&liar, &victim).await;
    let told: Vec<Multiaddr> = ["/ip4/0.0.0.0/tcp/1", "/memory/7", "/ip4/224.0.0.1/tcp/1"]
        .map(addr)
        .into_iter()
        .chain((1..=12).map(|port| addr(&format!("/ip4/127.0.0.1/tcp/{port}"))))
        .collect();
    let told = announcement(&[7; 32], liar.local_peer(), &told);
    stream.write_all(&told).await.unwrap();
    // In another's name, and under a key that is none: both in vain.
    let theirs = announcement(&[7; 32], PeerId::random(), &[]);
    stream.write_all(&theirs).await.unwrap();
    let odd = announcement(&[7; 40_000], liar.local_peer(), &[]);
    stream.write_all(&odd).await.unwrap();
    stream.flush().await.unwrap();
    until("all of it to be judged", async || {
        victim.counters().provider_records_malformed == 1
    })
    .await;
    let counters = victim.counters();
    assert_eq!(counters.provider_records_kept, 1);
    assert_eq!(counters.addresses_undialable, 3);
    assert_eq!(counters.addresses_too_many, 4);
}

/// Answers every question with peers that do not exist, at an address that never answers.
async fn mislead(net: Net, nowhere: Multiaddr) {
    let mut questions = net.accept(KAD).unwrap();
    while let Some(mut stream) = questions.next().await {
        let nowhere = nowhere.clone();
        tokio::spawn(async move {
            let _ = stream.read_u8().await;
            let made_up = |_| {
                field(
                    CLOSER,
                    &peer(PeerId::random(), std::slice::from_ref(&nowhere)),
                )
            };
            let answer: Vec<_> = (0..200).map(made_up).collect();
            let _ = stream.write_all(&message(GET_PROVIDERS, &answer)).await;
            let _ = stream.shutdown().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_answer_with_made_up_ones_do_not_stop_a_look_up() {
    let mesh = Mesh::new("mislead");
    // Accepted by the kernel, and never by anybody else.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let nowhere = addr(&format!("/ip4/127.0.0.1/tcp/{port}"));
    // It knows who keeps the record, and keeps none itself.
    let guide = mesh.limited(|l| l.provider_records = 0).await;
    let provider = mesh.node(&[TCP]).await;
    provider.provide(b"chef").await.unwrap();
    provider.dial(addr_of(&guide), SOON).await.unwrap();
    until("the guide to know the provider", async || {
        is_member(&guide, provider.local_peer())
    })
    .await;
    let asker = mesh.guest().await;
    for _ in 0..3 {
        let mut config = mesh.config(&[TCP]);
        config.role = Role::Client;
        let liar = Net::start(config).await.unwrap();
        tokio::spawn(mislead(liar.clone(), nowhere.clone()));
        until("the liar to offer the DHT", async || {
            liar.accept(KAD).is_err()
        })
        .await;
        asker.dial(addr_of(&liar), SOON).await.unwrap();
    }
    asker.dial(addr_of(&guide), SOON).await.unwrap();
    let mut found = asker.look_up(b"chef").await.unwrap();
    let first = soon("the provider", found.next()).await;
    assert_eq!(first, Some(provider.local_peer()));
}
