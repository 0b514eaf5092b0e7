//! Starting swarms and waiting for what they do.

use std::{future::Future, time::Duration};

use futures::StreamExt;
use polymath_net::{
    Incoming, Membership, MeshStream, Multiaddr, Net, NetConfig, NetLimits, PeerId, Role,
};
use polymath_types::{Genesis, NodeKey};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

/// Longer than anything here takes; only a hang reaches it.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// A mesh to start nodes of.
pub(crate) struct Mesh(pub(crate) Genesis);

impl Mesh {
    pub(crate) fn new(name: &str) -> Self {
        Self(Genesis::new(name, &NodeKey::generate().keypair().public()).unwrap())
    }

    pub(crate) fn config(&self, listen: &[&str]) -> NetConfig {
        let listen = listen.iter().map(|a| addr(a)).collect();
        NetConfig::new(NodeKey::generate(), self.0.clone(), listen)
    }

    pub(crate) async fn node(&self, listen: &[&str]) -> Net {
        Net::start(self.config(listen)).await.unwrap()
    }

    pub(crate) async fn limited(&self, change: impl FnOnce(&mut NetLimits)) -> Net {
        let mut config = self.config(&[TCP]);
        change(&mut config.limits);
        Net::start(config).await.unwrap()
    }

    pub(crate) async fn guest(&self) -> Net {
        let mut config = self.config(&[]);
        config.role = Role::Client;
        Net::start(config).await.unwrap()
    }
}

pub(crate) fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

/// The address of a node that listens once.
pub(crate) fn addr_of(net: &Net) -> Multiaddr {
    net.listen_addrs().borrow()[0].clone()
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// Asks again until the answer is yes. For states that have no event of their own.
pub(crate) async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !check().await {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub(crate) fn is_member(net: &Net, peer: PeerId) -> bool {
    net.peers()
        .iter()
        .any(|p| p.peer == peer && p.membership == Membership::Member)
}

/// Sends everything back, on as many streams as come.
pub(crate) fn serve_echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(stream) = incoming.next().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
}

/// Sends `bytes`, closes its side, and reads what comes back meanwhile.
pub(crate) async fn echo(stream: MeshStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut back = Vec::new();
    let send = async {
        write.write_all(bytes).await?;
        write.shutdown().await
    };
    let (sent, received) = tokio::join!(send, read.read_to_end(&mut back));
    sent?;
    received?;
    Ok(back)
}
