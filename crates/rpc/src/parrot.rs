//! A service with every shape of call, for benchmarks and tests of transports.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt, stream};
use polymath_proto::v1::{Payload, echo_server::Echo};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

/// Answers what it is asked: the same bytes, or as many as the request wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parrot;

/// Metadata of a request whose delay is to be spent computing.
pub const COMPUTE: &str = "compute";

/// Largest reply made up on request.
const LARGEST: u32 = 64 << 20;

type Replies = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

fn reply(request: Payload) -> Payload {
    let data = match request.reply_bytes {
        None => request.data,
        Some(n) => vec![7; n.min(LARGEST) as usize].into(),
    };
    Payload {
        data,
        ..Payload::default()
    }
}

#[tonic::async_trait]
impl Echo for Parrot {
    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let computes = request.metadata().contains_key(COMPUTE);
        let request = request.into_inner();
        let delay = Duration::from_millis(request.delay_ms.into());
        if computes {
            // As an engine does: on a thread of its own, at full load.
            let until = Instant::now() + delay;
            let work = move || while Instant::now() < until {};
            let worked = tokio::task::spawn_blocking(work).await;
            worked.map_err(|e| Status::internal(e.to_string()))?;
        } else if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Ok(Response::new(reply(request)))
    }

    async fn collect(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Payload>, Status> {
        let (mut messages, mut all) = (request.into_inner(), Vec::new());
        while let Some(message) = messages.message().await? {
            all.extend_from_slice(&message.data);
        }
        Ok(Response::new(Payload {
            data: all.into(),
            ..Payload::default()
        }))
    }

    type RepeatStream = Replies;
    async fn repeat(&self, request: Request<Payload>) -> Result<Response<Replies>, Status> {
        let request = request.into_inner();
        let (times, delay) = (request.times, request.delay_ms);
        let answer = reply(request);
        let replies = stream::iter(0..times).then(move |_| {
            let answer = answer.clone();
            async move {
                if delay > 0 {
                    tokio::time::sleep(Duration::from_millis(delay.into())).await;
                }
                Ok(answer)
            }
        });
        Ok(Response::new(replies.boxed()))
    }

    type BothStream = Replies;
    async fn both(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Replies>, Status> {
        let replies = request.into_inner().map(|r| r.map(reply));
        Ok(Response::new(replies.boxed()))
    }
}
