//! A service with every shape of call.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt, stream};
use polymath_proto::v1::{Payload, echo_server::Echo};
use tonic::{Request, Response, Status, Streaming};

/// Answers what it is asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parrot;

pub(crate) type Replies = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

fn reply(request: Payload) -> Payload {
    let data = match request.reply_bytes {
        None => request.data,
        Some(n) => vec![7; n as usize].into(),
    };
    Payload {
        data,
        ..Payload::default()
    }
}

#[tonic::async_trait]
impl Echo for Parrot {
    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let request = request.into_inner();
        if request.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(request.delay_ms.into())).await;
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
