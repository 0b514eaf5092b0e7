//! AutoNAT v2 (libp2p specs, autonat/autonat-v2.md), both sides: asking others to dial an address of
//! this node back, and doing so for them.
//!
//! Our own because the server of `libp2p-autonat` 0.16 never closes the connections it dials back
//! (rust-libp2p 6528) and dials as much as it is asked to (6611), and its client confirms private
//! addresses and never tries a failed one again. Here a dial-back is one connection on which one stream
//! is opened, and then it is closed; how many there are at once, and where to, is bounded; candidates and
//! their retries are [`crate::reach`]'s.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::{
    address::{ip_of, is_dialable, split_peer},
    net::{Net, WeakNet},
    report::Scope,
    streams::{Incoming, MeshStream},
};

/// Asks a server for a dial-back.
pub(crate) const REQUEST: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-request");
/// Carries the nonce on the connection dialled back.
pub(crate) const BACK: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-back");

/// Longest message, bytes (as in `libp2p-autonat`).
const MAX_MESSAGE: usize = 4104;
/// Data a client must send before an address that is not its own is dialled, so that nobody can have
/// others flooded for little: bytes, and how many in one message.
const DATA: u64 = 30_000;
const MOST_DATA: u64 = 100_000;
const DATA_CHUNK: usize = 4096;
/// Dial-backs under way at once, in all and for one peer.
const CONCURRENT: usize = 32;
const PER_PEER: usize = 2;
/// One dial-back with everything around it.
const TIMEOUT: Duration = Duration::from_secs(12);
/// Of that, the dial.
const DIAL: Duration = Duration::from_secs(5);
/// Addresses looked at in one request.
const MOST_ADDRESSES: usize = 16;

/// `Message` of the specification.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Body {
    #[prost(message, tag = "1")]
    Request(DialRequest),
    #[prost(message, tag = "2")]
    Response(DialResponse),
    #[prost(message, tag = "3")]
    DataRequest(DataRequest),
    #[prost(message, tag = "4")]
    Data(Data),
}

#[derive(Clone, PartialEq, Message)]
struct DialRequest {
    #[prost(bytes = "vec", repeated, tag = "1")]
    addrs: Vec<Vec<u8>>,
    #[prost(fixed64, tag = "2")]
    nonce: u64,
}

#[derive(Clone, PartialEq, Message)]
struct DataRequest {
    #[prost(uint32, tag = "1")]
    addr_idx: u32,
    #[prost(uint64, tag = "2")]
    num_bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
struct DialResponse {
    /// 0 internal error, 100 rejected, 101 refused, 200 ok.
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(uint32, tag = "2")]
    addr_idx: u32,
    /// 0 unused, 100 dial error, 101 dial-back error, 200 ok.
    #[prost(int32, tag = "3")]
    dial_status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Data {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct DialBack {
    #[prost(fixed64, tag = "1")]
    nonce: u64,
}

#[derive(Clone, PartialEq, Message)]
struct DialBackResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const OK: i32 = 200;
const REJECTED: i32 = 100;
const REFUSED: i32 = 101;
const DIAL_FAILED: i32 = 100;
const BACK_FAILED: i32 = 101;

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

async fn read<M: Message + Default>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<M> {
    let mut length = 0usize;
    for shift in [0, 7, 14] {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if length > MAX_MESSAGE {
        return Err(bad("a message over the limit"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    M::decode(&*bytes).map_err(|e| bad(&e.to_string()))
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    stream
        .write_all(&message.encode_length_delimited_to_vec())
        .await?;
    stream.flush().await
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), body: Body) -> io::Result<()> {
    write(stream, &Envelope { body: Some(body) }).await
}

/// Whether these bytes are a message: the fuzzer's door.
pub(crate) async fn is_message(mut bytes: &[u8]) -> bool {
    receive(&mut bytes).await.is_ok()
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Body> {
    let envelope: Envelope = read(stream).await?;
    envelope.body.ok_or_else(|| bad("an empty message"))
}

/// Dial-backs this node waits for, by nonce.
#[derive(Debug, Default)]
pub(crate) struct Expected(Mutex<HashMap<u64, oneshot::Sender<()>>>);

impl Expected {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an address was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unconfirmed {
    /// The server tried in vain.
    Unreachable,
    /// No statement about the address: try another server.
    NoVerdict(String),
}

/// Asks the server at the other end of `stream` to dial `address` back.
pub(crate) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &Multiaddr,
    expected: &Expected,
) -> Result<(), Unconfirmed> {
    let nonce = nonce();
    let (came, back) = oneshot::channel();
    expected.lock().insert(nonce, came);
    let asked = timeout(TIMEOUT, exchange(stream, address, nonce)).await;
    expected.lock().remove(&nonce);
    match asked {
        Err(_) => Err(Unconfirmed::NoVerdict(format!(
            "no answer within {TIMEOUT:?}"
        ))),
        Ok(Err(e)) => Err(Unconfirmed::NoVerdict(e.to_string())),
        Ok(Ok(false)) => Err(Unconfirmed::Unreachable),
        // A server may claim what it likes: the nonce must have come.
        Ok(Ok(true)) => match { back }.try_recv() {
            Ok(()) => Ok(()),
            Err(_) => Err(Unconfirmed::NoVerdict(
                "it claims a dial-back that never came".into(),
            )),
        },
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &Multiaddr,
    nonce: u64,
) -> io::Result<bool> {
    let addrs = vec![address.to_vec()];
    send(&mut stream, Body::Request(DialRequest { addrs, nonce })).await?;
    let response = match receive(&mut stream).await? {
        Body::DataRequest(wanted) if wanted.num_bytes <= MOST_DATA => {
            let mut left = usize::try_from(wanted.num_bytes).unwrap_or(0);
            while left > 0 {
                let data = vec![0; left.min(DATA_CHUNK)];
                left -= data.len();
                send(&mut stream, Body::Data(Data { data })).await?;
            }
            receive(&mut stream).await?
        }
        other => other,
    };
    match response {
        Body::Response(DialResponse {
            status: OK,
            dial_status: OK,
            ..
        }) => Ok(true),
        Body::Response(DialResponse {
            status: OK,
            dial_status: DIAL_FAILED | BACK_FAILED,
            ..
        }) => Ok(false),
        Body::Response(refused) => {
            Err(io::Error::other(format!("it refused ({})", refused.status)))
        }
        _ => Err(bad("an answer out of turn")),
    }
}

fn nonce() -> u64 {
    // Drawn by the keypair's own generator: 64 bits nobody can guess.
    let key = libp2p::identity::Keypair::generate_ed25519()
        .public()
        .encode_protobuf();
    let hash = blake3::hash(&key);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(bytes)
}

/// Receives what servers dial back.
pub(crate) async fn receive_all(
    mut incoming: Incoming,
    expected: Arc<Expected>,
    tasks: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(CONCURRENT));
    while let Ok(permit) = room.clone().acquire_owned().await {
        let Some(stream) = incoming.next().await else {
            return;
        };
        let expected = expected.clone();
        tasks.spawn(async move {
            let _ = timeout(TIMEOUT, take(stream, &expected)).await;
            drop(permit);
        });
    }
}

async fn take(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    expected: &Expected,
) -> io::Result<()> {
    let DialBack { nonce } = read(&mut stream).await?;
    let Some(came) = expected.lock().remove(&nonce) else {
        return Err(bad("a nonce nobody waits for"));
    };
    let _ = came.send(());
    write(&mut stream, &DialBackResponse { status: 0 }).await?;
    stream.shutdown().await
}

/// Dials back whoever asks, within bounds, until `incoming` is dropped or the swarm ends.
pub(crate) async fn serve(mut incoming: Incoming, net: WeakNet, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(CONCURRENT));
    let busy: Arc<Mutex<HashMap<PeerId, usize>>> = Arc::default();
    while let Some(stream) = incoming.next().await {
        let peer = stream.peer();
        let Some(net) = net.upgrade() else { return };
        // Without room the stream is reset: whoever asked tries another.
        let Ok(permit) = room.clone().try_acquire_owned() else {
            net.count_dial_back(false);
            continue;
        };
        let of_peer = {
            let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
            let of_peer = busy.entry(peer).or_default();
            *of_peer += 1;
            *of_peer
        };
        let busy = busy.clone();
        tasks.spawn(async move {
            let admitted = of_peer <= PER_PEER;
            let _ = timeout(TIMEOUT, answer(stream, peer, &net, admitted)).await;
            drop(permit);
            let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(n) = busy.get_mut(&peer) {
                *n -= 1;
                if *n == 0 {
                    busy.remove(&peer);
                }
            }
        });
    }
}

async fn answer(mut stream: MeshStream, peer: PeerId, net: &Net, admitted: bool) -> io::Result<()> {
    let Body::Request(request) = receive(&mut stream).await? else {
        return respond(&mut stream, REJECTED, 0, 0).await;
    };
    let observed = stream.remote().clone();
    let chosen = choose(&request, peer, &observed, net).filter(|_| admitted);
    let Some((index, address)) = chosen else {
        net.count_dial_back(false);
        return respond(&mut stream, REFUSED, 0, 0).await;
    };
    net.count_dial_back(true);
    if ip_of(&address) != ip_of(&observed) {
        let wanted = DataRequest {
            addr_idx: index,
            num_bytes: DATA,
        };
        send(&mut stream, Body::DataRequest(wanted)).await?;
        let mut left = DATA;
        while left > 0 {
            match receive(&mut stream).await? {
                Body::Data(data) if !data.data.is_empty() => {
                    left = left.saturating_sub(data.data.len() as u64);
                }
                _ => return respond(&mut stream, REJECTED, 0, 0).await,
            }
        }
    }
    let dial_status = match timeout(DIAL, net.dial_back(peer, address)).await {
        Ok(Ok(back)) => match call_back(back, request.nonce).await {
            Ok(()) => OK,
            Err(_) => BACK_FAILED,
        },
        _ => DIAL_FAILED,
    };
    respond(&mut stream, OK, index, dial_status).await?;
    stream.shutdown().await
}

async fn respond(
    stream: &mut MeshStream,
    status: i32,
    addr_idx: u32,
    dial_status: i32,
) -> io::Result<()> {
    send(
        stream,
        Body::Response(DialResponse {
            status,
            addr_idx,
            dial_status,
        }),
    )
    .await
}

async fn call_back(mut stream: MeshStream, nonce: u64) -> io::Result<()> {
    write(&mut stream, &DialBack { nonce }).await?;
    let _: DialBackResponse = read(&mut stream).await?;
    stream.shutdown().await
}

/// The first address worth dialling: global, or private for a peer that is met in that scope itself.
fn choose(
    request: &DialRequest,
    peer: PeerId,
    from: &Multiaddr,
    net: &Net,
) -> Option<(u32, Multiaddr)> {
    let scope = net.scope(from);
    request
        .addrs
        .iter()
        .take(MOST_ADDRESSES)
        .enumerate()
        .filter_map(|(i, bytes)| {
            Some((
                u32::try_from(i).ok()?,
                Multiaddr::try_from(bytes.clone()).ok()?,
            ))
        })
        .map(|(i, address)| (i, split_peer(address)))
        .find(|(_, (address, named))| {
            let at = net.scope(address);
            named.is_none_or(|n| n == peer)
                && is_dialable(address)
                // A name may lead anywhere, into this machine's own network too.
                && ip_of(address).is_some()
                && at != Scope::Circuit
                && (at == Scope::Global || at == scope)
        })
        .map(|(i, (address, _))| (i, address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::duplex;

    use super::*;

    fn address() -> Multiaddr {
        "/ip4/11.0.0.1/tcp/1".parse().unwrap()
    }

    #[tokio::test]
    async fn a_claim_without_the_nonce_confirms_nothing() {
        let (near, mut far) = duplex(64 * 1024);
        let expected = Expected::default();
        let server = async {
            let Body::Request(request) = receive(&mut far).await.unwrap() else {
                panic!("a request comes first");
            };
            assert_eq!(request.addrs, [super::tests::address().to_vec()]);
            let ok = DialResponse {
                status: OK,
                addr_idx: 0,
                dial_status: OK,
            };
            send(&mut far, Body::Response(ok)).await.unwrap();
        };
        let address = address();
        let (asked, ()) = tokio::join!(ask(near, &address, &expected), server);
        assert!(matches!(asked, Err(Unconfirmed::NoVerdict(_))), "{asked:?}");
        assert!(expected.lock().is_empty());
    }

    #[tokio::test]
    async fn data_is_sent_as_asked_and_the_nonce_confirms() {
        let (near, mut far) = duplex(256 * 1024);
        let expected = Expected::default();
        let server = async {
            let Body::Request(request) = receive(&mut far).await.unwrap() else {
                panic!("a request comes first");
            };
            let wanted = DataRequest {
                addr_idx: 0,
                num_bytes: DATA,
            };
            send(&mut far, Body::DataRequest(wanted)).await.unwrap();
            let mut got = 0;
            while got < DATA {
                let Body::Data(data) = receive(&mut far).await.unwrap() else {
                    panic!("data comes next");
                };
                got += data.data.len() as u64;
            }
            let (back, mut calling) = duplex(1024);
            write(
                &mut calling,
                &DialBack {
                    nonce: request.nonce,
                },
            )
            .await
            .unwrap();
            take(back, &expected).await.unwrap();
            let ok = DialResponse {
                status: OK,
                addr_idx: 0,
                dial_status: OK,
            };
            send(&mut far, Body::Response(ok)).await.unwrap();
        };
        let address = address();
        let (asked, ()) = tokio::join!(ask(near, &address, &expected), server);
        assert_eq!(asked, Ok(()));
    }

    #[tokio::test]
    async fn absurd_lengths_are_refused_before_allocating() {
        let (mut near, mut far) = duplex(64);
        near.write_all(&[0xff, 0xff, 0x7f]).await.unwrap();
        assert!(read::<Envelope>(&mut far).await.is_err());
    }
}
