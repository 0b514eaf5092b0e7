//! What members tell each other of where they are.
//!
//! libp2p's identify tells every peer the same, so it can carry only what is meant for all. This tells
//! each member what it may know: announced addresses, private ones if it is in their scope, and where
//! holes can be punched to. It is sent once a connection's peer is known as a member, and again whenever
//! the answer changes.
//!
//! On the wire: one message on a stream of its own, at most [`MAX_BYTES`], then the end of the stream.

use std::io;

use libp2p::Multiaddr;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::config::MAX_ADDRESSES;

/// The protocol's name within a mesh.
pub(crate) const NAME: &str = "whereabouts";
/// Longest message, bytes.
pub(crate) const MAX_BYTES: u64 = 16 * 1024;

/// The message, as on the wire.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(crate) struct Whereabouts {
    /// Where the sender can be dialled, best first; binary multiaddresses.
    #[prost(bytes = "vec", repeated, tag = "1")]
    addresses: Vec<Vec<u8>>,
    /// Where others have seen it: for punching holes, not for dialling.
    #[prost(bytes = "vec", repeated, tag = "2")]
    candidates: Vec<Vec<u8>>,
}

impl Whereabouts {
    pub(crate) fn new(addresses: &[Multiaddr], candidates: &[Multiaddr]) -> Self {
        let binary = |all: &[Multiaddr]| {
            all.iter()
                .take(MAX_ADDRESSES)
                .map(Multiaddr::to_vec)
                .collect()
        };
        Self {
            addresses: binary(addresses),
            candidates: binary(candidates),
        }
    }

    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        read(&self.addresses)
    }

    pub(crate) fn candidates(&self) -> Vec<Multiaddr> {
        read(&self.candidates)
    }
}

/// Those that are multiaddresses, up to a bound.
fn read(all: &[Vec<u8>]) -> Vec<Multiaddr> {
    all.iter()
        .take(MAX_ADDRESSES)
        .filter_map(|bytes| Multiaddr::try_from(bytes.clone()).ok())
        .collect()
}

pub(crate) async fn send(
    mut stream: impl AsyncWrite + Unpin,
    message: &Whereabouts,
) -> io::Result<()> {
    stream.write_all(&message.encode_to_vec()).await?;
    stream.shutdown().await
}

pub(crate) async fn receive(stream: impl AsyncRead + Unpin) -> io::Result<Whereabouts> {
    let mut bytes = Vec::new();
    stream.take(MAX_BYTES).read_to_end(&mut bytes).await?;
    Whereabouts::decode(&*bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_is_told_arrives_and_rubbish_does_not() {
        let address: Multiaddr = "/ip4/11.0.0.1/udp/1/quic-v1".parse().unwrap();
        let told = Whereabouts::new(&vec![address.clone(); 40], &[]);
        let (near, far) = tokio::io::duplex(64 * 1024);
        send(near, &told).await.unwrap();
        let heard = receive(far).await.unwrap();
        assert_eq!(heard.addresses(), vec![address; MAX_ADDRESSES]);
        assert!(receive(&[0xff; 64][..]).await.is_err());
        let odd = Whereabouts {
            addresses: vec![vec![0xff; 9]],
            candidates: Vec::new(),
        };
        assert!(odd.addresses().is_empty());
    }
}
