//! libp2p's own request-response in swarms of its own: a substream for each call, and a codec of ours that
//! adds nothing but lengths.

use std::{collections::HashMap, io, net::IpAddr};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, swarm::SwarmEvent};
use libp2p_request_response::{
    Behaviour, Codec, Config, Event, Message, OutboundRequestId, ProtocolSupport,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    CALL, Failure, LARGEST, PATIENCE,
    cases::{Load, Transport},
    echo::check,
    failed,
    load::{Call, Side},
    mesh::CUBIC,
    plain_swarm,
};
use crate::kernel_congestion_control;

const NAME: &str = "libp2p request-response";
const PROTOCOL: StreamProtocol = StreamProtocol::new("/bench/echo/1");
/// Calls that wait for the swarm's task.
const QUEUE: usize = 256;

/// A length, the size of the reply, and the body; of a reply the length and the body.
#[derive(Debug, Clone, Default)]
struct Lengths;

#[derive(Debug, Clone)]
struct Question {
    reply: u32,
    body: Bytes,
}

async fn read_number(io: &mut (impl AsyncRead + Unpin)) -> io::Result<u32> {
    let mut number = [0; 4];
    io.read_exact(&mut number).await?;
    Ok(u32::from_be_bytes(number))
}

async fn read_body(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let length = read_number(io).await? as usize;
    if length > LARGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    Ok(body.into())
}

/// A short body leaves with what stands before it.
async fn write(io: &mut (impl AsyncWrite + Unpin), head: &[u32], body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let numbers = head.iter().chain([&length]);
    let mut first: Vec<u8> = numbers.flat_map(|n| n.to_be_bytes()).collect();
    let (with, rest) = body.split_at(body.len().min(16 << 10));
    first.extend_from_slice(with);
    io.write_all(&first).await?;
    io.write_all(rest).await
}

impl Codec for Lengths {
    type Protocol = StreamProtocol;
    type Request = Question;
    type Response = Bytes;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Question>
    where
        T: AsyncRead + Unpin + Send,
    {
        let reply = read_number(io).await?;
        let body = read_body(io).await?;
        Ok(Question { reply, body })
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_body(io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        question: Question,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &[question.reply], &question.body).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: Bytes,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &[], &answer).await
    }
}

fn swarm() -> Result<Swarm<Behaviour<Lengths>>, Failure> {
    let config = Config::default()
        .with_request_timeout(CALL)
        .with_max_concurrent_streams(QUEUE);
    let protocols = [(PROTOCOL, ProtocolSupport::Full)];
    plain_swarm::swarm(Behaviour::with_codec(Lengths, protocols, config))
}

pub(super) async fn side(server: (&Handle, IpAddr), transport: Transport) -> Result<Side, Failure> {
    let (on, at) = server;
    let starting = on.spawn(async move {
        let mut swarm = swarm()?;
        let address = plain_swarm::listen(&mut swarm, at, transport).await?;
        let peer = *swarm.local_peer_id();
        tokio::spawn(serve(swarm));
        Ok::<_, Failure>((peer, address))
    });
    let (peer, address) = starting.await.map_err(|e| failed(NAME, e))??;
    let swarm = dial(peer, address).await?;
    let (questions, inbox) = mpsc::channel(QUEUE);
    tokio::spawn(ask(swarm, peer, inbox));
    let control = match transport {
        Transport::Quic => CUBIC.to_owned(),
        _ => kernel_congestion_control(),
    };
    let callers = move |load: Load| {
        let question = Question {
            reply: u32::try_from(load.reply).unwrap_or(u32::MAX),
            body: Bytes::from(vec![1; load.request]),
        };
        let callers = (0..load.callers).map(|_| Asking {
            questions: questions.clone(),
            question: question.clone(),
            reply: load.reply,
        });
        let callers: Vec<_> = callers.collect();
        async move { Ok(callers) }
    };
    Ok(Side::new(NAME, transport, control, callers))
}

async fn serve(mut swarm: Swarm<Behaviour<Lengths>>) {
    loop {
        if let SwarmEvent::Behaviour(Event::Message {
            message: Message::Request {
                request, channel, ..
            },
            ..
        }) = swarm.select_next_some().await
        {
            let size = (request.reply as usize).min(LARGEST);
            let answer = if size == request.body.len() {
                request.body
            } else {
                vec![7; size].into()
            };
            // Whoever went away needs no answer.
            let _ = swarm.behaviour_mut().send_response(channel, answer);
        }
    }
}

async fn dial(peer: PeerId, address: Multiaddr) -> Result<Swarm<Behaviour<Lengths>>, Failure> {
    let mut swarm = swarm()?;
    swarm.dial(address).map_err(|e| failed(NAME, e))?;
    let connected = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == peer => {
                    return Ok(());
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => {
                    return Err(failed(NAME, error));
                }
                _ => {}
            }
        }
    };
    let connected = timeout(PATIENCE, connected).await;
    connected.map_err(|e| failed(NAME, e))??;
    Ok(swarm)
}

type Answer = oneshot::Sender<Result<usize, String>>;

/// The task that owns the swarm: as many calls wait as there are callers.
async fn ask(
    mut swarm: Swarm<Behaviour<Lengths>>,
    peer: PeerId,
    mut inbox: mpsc::Receiver<(Question, Answer)>,
) {
    let mut waiting: HashMap<OutboundRequestId, Answer> = HashMap::new();
    loop {
        tokio::select! {
            asked = inbox.recv() => {
                let Some((question, answer)) = asked else { return };
                waiting.insert(swarm.behaviour_mut().send_request(&peer, question), answer);
            }
            event = swarm.select_next_some() => {
                let (id, outcome) = match event {
                    SwarmEvent::Behaviour(Event::Message {
                        message: Message::Response { request_id, response }, ..
                    }) => (request_id, Ok(response.len())),
                    SwarmEvent::Behaviour(Event::OutboundFailure { request_id, error, .. }) => {
                        (request_id, Err(error.to_string()))
                    }
                    _ => continue,
                };
                if let Some(answer) = waiting.remove(&id) {
                    let _ = answer.send(outcome);
                }
            }
        }
    }
}

struct Asking {
    questions: mpsc::Sender<(Question, Answer)>,
    question: Question,
    reply: usize,
}

impl Call for Asking {
    async fn call(&mut self) -> Result<(), Failure> {
        let (sender, answer) = oneshot::channel();
        let asked = self.questions.send((self.question.clone(), sender)).await;
        asked.map_err(|_| failed(NAME, "its swarm is gone"))?;
        let answered = answer.await.map_err(|e| failed(NAME, e))?;
        check(answered.map_err(|e| failed(NAME, e))?, self.reply)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::io::Cursor;

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_and_a_length_over_the_bound_is_refused() {
        let mut wire = Cursor::new(Vec::new());
        let body = Bytes::from(vec![3; 40_000]);
        let question = Question { reply: 5, body };
        Lengths
            .write_request(&PROTOCOL, &mut wire, question.clone())
            .await
            .unwrap();
        let mut read = Cursor::new(wire.into_inner());
        let got = Lengths.read_request(&PROTOCOL, &mut read).await.unwrap();
        assert_eq!((got.reply, got.body), (question.reply, question.body));
        let mut evil = Cursor::new(u32::MAX.to_be_bytes());
        let refused = Lengths.read_response(&PROTOCOL, &mut evil).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
