//! What one peer may keep open, and that our own clients stay far below it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use polymath_net::{Net, NetConfig, PeerId, Role};
use polymath_proto::v1::DescribeRequest;
use polymath_rpc::{Admission, Clients, GRPC, serve};
use polymath_types::{Genesis, NodeKey};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, service::Routes};

/// Longer than anything here takes; only a hang reaches it.
const SOON: Duration = Duration::from_secs(20);
/// What a client says first: the preface and empty settings (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

struct Server {
    net: Net,
    admission: Admission,
    cancel: CancellationToken,
    tasks: TaskTracker,
    genesis: Genesis,
}

impl Server {
    /// One that serves no service: it answers every call with `Unimplemented`.
    async fn start() -> Self {
        let key = NodeKey::generate();
        let genesis = Genesis::new("rpc", &key.keypair().public()).unwrap();
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let net = Net::start(NetConfig::new(key, genesis.clone(), listen))
            .await
            .unwrap();
        let (admission, cancel) = (Admission::default(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let (served, places, stop) = (net.clone(), admission.clone(), cancel.clone());
        tasks.spawn(async move {
            serve(&served, Routes::default(), places, stop)
                .await
                .unwrap();
        });
        Self {
            net,
            admission,
            cancel,
            tasks,
            genesis,
        }
    }

    fn peer(&self) -> PeerId {
        self.net.local_peer()
    }

    async fn guest(&self) -> Net {
        let mut config = NetConfig::new(NodeKey::generate(), self.genesis.clone(), Vec::new());
        config.role = Role::Client;
        let guest = Net::start(config).await.unwrap();
        let addr = self.net.listen_addrs().borrow()[0].clone();
        guest.dial(addr, SOON).await.unwrap();
        guest
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.net.shutdown().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A stream on which the other side has begun to speak HTTP/2, or nothing if it was refused.
async fn stream(guest: &Net, peer: PeerId) -> Option<polymath_net::MeshStream> {
    let mut stream = guest.open(peer, GRPC, SOON).await.unwrap();
    stream.write_all(PREFACE).await.ok()?;
    stream.flush().await.ok()?;
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.ok()?;
    Some(stream)
}

#[tokio::test]
async fn a_peer_keeps_eight_streams_open_and_no_more() {
    let test = async {
        let server = Server::start().await;
        let (greedy, modest) = (server.guest().await, server.guest().await);
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(stream(&greedy, server.peer()).await.unwrap());
        }
        assert!(stream(&greedy, server.peer()).await.is_none());
        assert_eq!(server.admission.refused(), 1);
        // Another peer's places are its own.
        assert!(stream(&modest, server.peer()).await.is_some());
        held.pop();
        // That a stream has ended has no event on this side.
        while stream(&greedy, server.peer()).await.is_none() {
            sleep(Duration::from_millis(20)).await;
        }
        server.stop().await;
    };
    timeout(SOON, test).await.unwrap();
}

#[tokio::test]
async fn many_first_calls_at_once_share_one_stream() {
    let test = async {
        let server = Server::start().await;
        let clients = Clients::new(server.guest().await);
        let calls = (0..32).map(|_| async {
            let mut client = clients.expert(server.peer(), SOON).await.unwrap();
            let answer = client.describe(DescribeRequest::default()).await;
            answer.unwrap_err().code()
        });
        let codes = futures::future::join_all(calls).await;
        assert_eq!(codes, [Code::Unimplemented; 32]);
        assert_eq!(server.admission.refused(), 0);
        server.stop().await;
    };
    timeout(SOON, test).await.unwrap();
}
