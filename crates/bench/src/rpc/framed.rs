//! Messages with their length before them, one at a time on each of some long-lived mesh streams: the
//! least a call could be, without names, deadlines, admission or cancellation.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use polymath_net::{MeshStream, Net, PeerId};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream},
    runtime::Handle,
};

use super::mesh::Guest;
use super::{Failure, LARGEST, PATIENCE, cases::Load, echo::check, failed, load::Call, load::Side};

const NAME: &str = "framed stream";
/// Name of the streams.
const PROTOCOL: &str = "bench-framed";
/// A short message leaves in one write with its length.
const BUFFER: usize = 16 << 10;

type Stream = BufStream<MeshStream>;

/// Long-lived streams that nobody uses just now; no more than there were callers at once.
type Pool = Arc<Mutex<Vec<Stream>>>;

pub(super) fn serve(on: &Handle, net: &Net) -> Result<(), Failure> {
    let mut streams = net.accept(PROTOCOL).map_err(|e| failed("streams", e))?;
    let spawn = on.clone();
    on.spawn(async move {
        while let Some(stream) = streams.next().await {
            // Ends with its stream.
            spawn.spawn(answer(BufStream::with_capacity(BUFFER, BUFFER, stream)));
        }
    });
    Ok(())
}

/// A request: the size of its reply, then a message.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut body = Vec::new();
    loop {
        let reply = stream.read_u32().await? as usize;
        read_message(&mut stream, &mut body).await?;
        if reply > LARGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // As long as asked for; an echo keeps what it is.
        body.resize(reply, 7);
        write_message(&mut stream, &body).await?;
    }
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin), body: &mut Vec<u8>) -> io::Result<()> {
    let length = stream.read_u32().await? as usize;
    if length > LARGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    body.resize(length, 0);
    stream.read_exact(body).await.map(drop)
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_u32(length).await?;
    stream.write_all(body).await?;
    stream.flush().await
}

pub(super) fn side(guest: &Guest) -> Side {
    let (net, server, pool) = (guest.net.clone(), guest.server, Pool::default());
    let callers = move |load| open(net.clone(), server, pool.clone(), load);
    Side::new(NAME, guest.transport, guest.control(), callers)
}

/// One caller with a stream that is nobody else's.
pub(super) async fn caller(guest: &Guest, load: Load) -> Result<impl Call + use<>, Failure> {
    let opened = open(guest.net.clone(), guest.server, Pool::default(), load).await?;
    let first = opened.into_iter().next();
    first.ok_or_else(|| failed("a stream", "nobody calls"))
}

async fn open(net: Net, server: PeerId, pool: Pool, load: Load) -> Result<Vec<Framed>, Failure> {
    let request: Arc<[u8]> = vec![1; load.request].into();
    let mut callers = Vec::new();
    for _ in 0..load.callers {
        let free = locked(&pool).pop();
        let stream = match free {
            Some(stream) => stream,
            None => {
                let opened = net.open(server, PROTOCOL, PATIENCE).await;
                let stream = opened.map_err(|e| failed("a stream", e))?;
                BufStream::with_capacity(BUFFER, BUFFER, stream)
            }
        };
        callers.push(Framed {
            stream: Some(stream),
            pool: pool.clone(),
            request: request.clone(),
            reply: load.reply,
            answer: Vec::new(),
        });
    }
    Ok(callers)
}

fn locked(pool: &Pool) -> std::sync::MutexGuard<'_, Vec<Stream>> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A caller with a stream of its own for a while.
struct Framed {
    stream: Option<Stream>,
    pool: Pool,
    request: Arc<[u8]>,
    reply: usize,
    /// Used again for every answer.
    answer: Vec<u8>,
}

impl Call for Framed {
    async fn call(&mut self) -> Result<(), Failure> {
        // Taken: a stream that failed in the middle of a message is not used again.
        let stream = self.stream.take();
        let mut stream = stream.ok_or_else(|| failed("a stream", "it has failed before"))?;
        let reply = u32::try_from(self.reply).unwrap_or(u32::MAX);
        let exchanged = async {
            stream.write_u32(reply).await?;
            write_message(&mut stream, &self.request).await?;
            read_message(&mut stream, &mut self.answer).await
        };
        exchanged.await.map_err(|e| failed("a stream", e))?;
        self.stream = Some(stream);
        check(self.answer.len(), self.reply)
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        locked(&self.pool).extend(self.stream.take());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_message_comes_back_as_long_as_it_was_asked_for() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let answering = tokio::spawn(answer(far));
        let (mut near, mut got) = (near, Vec::new());
        for reply in [0_u32, 5, 70_000] {
            near.write_u32(reply).await.unwrap();
            write_message(&mut near, b"hello").await.unwrap();
            read_message(&mut near, &mut got).await.unwrap();
            assert_eq!(got.len(), reply as usize);
        }
        drop(near);
        answering.await.unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn a_length_over_the_bound_is_refused_before_anything_is_allocated() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_u32(0).await.unwrap();
        near.write_u32(u32::MAX).await.unwrap();
        let refused = answer(far).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
