//! The hello: the one protocol that crosses meshes. It tells a stranger which mesh a node belongs
//! to, so that a newcomer can join it.
//!
//! On the wire, integers big-endian. Request: `version: u32`. Answer: `version: u32`, and, if the
//! request's version was the answerer's own, `length: u32` and the canonical genesis, `length:
//! u16` and the agent.

use std::{io, sync::Arc, time::Duration};

use futures::StreamExt;
use libp2p::PeerId;
use polymath_types::{Format, Genesis};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::{
    config::MAX_AGENT,
    error::HelloError,
    streams::{Incoming, MeshStream},
    swarm,
};

/// Hellos answered at once; more wait in the bounded queue.
const CONCURRENT: usize = 32;
/// One hello, from its first byte to its last.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a peer says of itself when greeted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Hello {
    /// Who answered.
    pub peer: PeerId,
    /// What its mesh was founded on.
    pub genesis: Genesis,
    /// Its program and version, as it says.
    pub agent: String,
}

/// Answers every hello until the swarm ends, each in a task of `tasks`.
pub(crate) async fn serve(
    mut incoming: Incoming,
    genesis: Genesis,
    agent: String,
    tasks: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(CONCURRENT));
    let answer: Arc<[u8]> = answer(&genesis, &agent).into();
    while let Ok(permit) = room.clone().acquire_owned().await {
        let Some(stream) = incoming.next().await else {
            return;
        };
        let answer = answer.clone();
        tasks.spawn(async move {
            // A stranger's failure to ask properly concerns nobody.
            let _ = timeout(TIMEOUT, reply(stream, &answer)).await;
            drop(permit);
        });
    }
}

fn answer(genesis: &Genesis, agent: &str) -> Vec<u8> {
    let genesis = genesis.to_bytes();
    let mut bytes = Vec::with_capacity(genesis.len() + agent.len() + 6);
    bytes.extend((genesis.len() as u32).to_be_bytes());
    bytes.extend(genesis);
    bytes.extend((agent.len() as u16).to_be_bytes());
    bytes.extend(agent.as_bytes());
    bytes
}

async fn reply(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> io::Result<()> {
    let version = stream.read_u32().await?;
    stream.write_u32(Format::Wire.current()).await?;
    if Format::Wire.check(version).is_ok() {
        stream.write_all(answer).await?;
    }
    stream.shutdown().await
}

/// Greets the peer at the other end of `stream`.
pub(crate) async fn ask(stream: MeshStream) -> Result<Hello, HelloError> {
    let peer = stream.peer();
    exchange(peer, stream).await
}

pub(crate) async fn exchange(
    peer: PeerId,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<Hello, HelloError> {
    let silent = |e: io::Error| HelloError::NoAnswer {
        peer,
        reason: e.to_string(),
    };
    stream
        .write_u32(Format::Wire.current())
        .await
        .map_err(silent)?;
    stream.flush().await.map_err(silent)?;
    let version = stream.read_u32().await.map_err(silent)?;
    Format::Wire
        .check(version)
        .map_err(|mismatch| HelloError::Version { peer, mismatch })?;

    let length = stream.read_u32().await.map_err(silent)?;
    let genesis = read_bounded(peer, &mut stream, length, Genesis::MAX_BYTES).await?;
    let genesis =
        Genesis::from_bytes(&genesis).map_err(|source| HelloError::Genesis { peer, source })?;
    let length = stream.read_u16().await.map_err(silent)?;
    let agent = read_bounded(peer, &mut stream, length.into(), MAX_AGENT).await?;
    Ok(Hello {
        peer,
        genesis,
        agent: swarm::agent(&String::from_utf8_lossy(&agent)),
    })
}

/// Reads `length` bytes after checking that they are at most `limit`.
async fn read_bounded(
    peer: PeerId,
    stream: &mut (impl AsyncRead + Unpin),
    length: u32,
    limit: usize,
) -> Result<Vec<u8>, HelloError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > limit {
        let reason = format!("it announced {length} bytes where at most {limit} are allowed");
        return Err(HelloError::NoAnswer { peer, reason });
    }
    let mut bytes = vec![0; length];
    stream
        .read_exact(&mut bytes)
        .await
        .map_err(|e| HelloError::NoAnswer {
            peer,
            reason: e.to_string(),
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polymath_types::{ErrorKind, NodeKey};
    use tokio::io::duplex;

    use super::*;

    async fn answered_with(bytes: &[u8]) -> Result<Hello, HelloError> {
        let (mut far, near) = duplex(64 * 1024);
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        exchange(PeerId::random(), near).await
    }

    #[tokio::test]
    async fn both_sides_understand_each_other() {
        let genesis = Genesis::new("home", &NodeKey::generate().keypair().public()).unwrap();
        let (far, near) = duplex(64 * 1024);
        let bytes = answer(&genesis, "polymath/1");
        let (served, asked) = tokio::join!(reply(far, &bytes), exchange(PeerId::random(), near));
        served.unwrap();
        let hello = asked.unwrap();
        assert_eq!(
            (hello.genesis, hello.agent.as_str()),
            (genesis, "polymath/1")
        );
    }

    #[tokio::test]
    async fn another_version_is_answered_with_ours_alone_and_named() {
        let (mut near, far) = duplex(64);
        near.write_u32(9).await.unwrap();
        reply(far, b"secret").await.unwrap();
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, Format::Wire.current().to_be_bytes());

        let error = answered_with(&9u32.to_be_bytes()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VersionMismatch);
        assert!(
            error.to_string().contains('9') && error.to_string().contains("version 1"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn absurd_lengths_are_refused_before_allocating() {
        let mut bytes = Format::Wire.current().to_be_bytes().to_vec();
        bytes.extend(u32::MAX.to_be_bytes());
        let error = answered_with(&bytes).await.unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
        assert!(answered_with(b"").await.is_err());
    }
}
