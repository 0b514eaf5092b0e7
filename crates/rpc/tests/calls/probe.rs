//! A service that does what the metadata `do` asks for, and tells how many handlers are at work.

use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures::{Stream, StreamExt, stream};
use polymath_proto::v1::{Payload, echo_server::Echo};
use polymath_rpc::{Caller, Parrot};
use tokio::sync::watch;
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{KeyAndValueRef, MetadataMap, MetadataValue},
};

use crate::lab::{payload, soon};

type Replies = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

/// Handlers so far, with the streams they answered with.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) begun: usize,
    pub(crate) ended: usize,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Probe {
    counts: Arc<watch::Sender<Counts>>,
    /// Messages of endless replies.
    pub(crate) sent: Arc<AtomicUsize>,
}

/// A handler at work.
struct Present(Arc<watch::Sender<Counts>>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.send_modify(|c| c.ended += 1);
    }
}

/// A reply whose handler is at work until it is dropped.
struct Kept(Replies, #[allow(dead_code)] Present);

impl Stream for Kept {
    type Item = Result<Payload, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// What a refusing handler answers.
pub(crate) fn refusal() -> Status {
    let mut status = Status::with_details(
        Code::FailedPrecondition,
        "not today: ünter 100 %\n",
        b"\x00details\xff".to_vec().into(),
    );
    let metadata = status.metadata_mut();
    metadata.append("why", "one".parse().unwrap());
    metadata.append("why", "two".parse().unwrap());
    metadata.insert_bin("raw-bin", MetadataValue::from_bytes(&[0, 1, 255]));
    status
}

/// Whether the refusal arrived whole.
pub(crate) fn is_refusal(status: &Status) {
    let sent = refusal();
    assert_eq!(
        (status.code(), status.message()),
        (sent.code(), sent.message())
    );
    assert_eq!(status.details(), sent.details());
    let why: Vec<_> = status.metadata().get_all("why").iter().collect();
    assert_eq!(why, ["one", "two"]);
    let raw = status.metadata().get_bin("raw-bin").unwrap();
    assert_eq!(raw.to_bytes().unwrap(), &[0, 1, 255][..]);
}

impl Probe {
    pub(crate) fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    pub(crate) async fn wait(&self, what: &str, mut is: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.counts.subscribe();
        let found = soon(what, counts.wait_for(|c| is(c))).await;
        *found.unwrap()
    }

    /// Until so many handlers have begun.
    pub(crate) async fn begun(&self, n: usize) {
        self.wait("handlers to begin", |c| c.begun >= n).await;
    }

    /// Until no handler is at work.
    pub(crate) async fn idle(&self) {
        self.wait("handlers to end", |c| c.begun == c.ended).await;
    }

    fn present(&self) -> Present {
        self.counts.send_modify(|c| c.begun += 1);
        Present(Arc::clone(&self.counts))
    }
}

fn what<T>(request: &Request<T>) -> String {
    let what = request.metadata().get("do").map(|v| v.to_str().unwrap());
    what.unwrap_or_default().to_owned()
}

/// By which path the caller is connected.
fn path<T>(request: &Request<T>) -> Payload {
    let caller = request.extensions().get::<Caller>().unwrap();
    payload(format!("{:?}", caller.path).as_bytes())
}

/// The request's metadata, to be sent back.
fn mirrored(metadata: &MetadataMap) -> MetadataMap {
    let mut back = MetadataMap::new();
    for entry in metadata.iter() {
        match entry {
            KeyAndValueRef::Ascii(key, value) => {
                back.append(key, value.clone());
            }
            KeyAndValueRef::Binary(key, value) => {
                back.append_bin(key, value.clone());
            }
        }
    }
    back
}

#[tonic::async_trait]
impl Echo for Probe {
    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let _present = self.present();
        let mut response = Response::new(payload(b""));
        match what(&request).as_str() {
            "wait" => pending().await,
            "panic" => panic!("a handler that fails, as a test wants"),
            "refuse" => Err(refusal()),
            "metadata" => {
                *response.metadata_mut() = mirrored(request.metadata());
                Ok(response)
            }
            "too much metadata" => {
                let long = "x".repeat(20 << 10).parse().unwrap();
                response.metadata_mut().insert("long", long);
                Ok(response)
            }
            "too long a refusal" => Err(Status::internal("x".repeat(20 << 10))),
            "path" => Ok(Response::new(path(&request))),
            "timeout" => {
                let timeout = request.metadata().get("grpc-timeout");
                let text = timeout.map_or("", |t| t.to_str().unwrap());
                Ok(Response::new(payload(text.as_bytes())))
            }
            _ => Parrot.unary(request).await,
        }
    }

    async fn collect(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Payload>, Status> {
        let _present = self.present();
        match what(&request).as_str() {
            "wait" => pending().await,
            // The request is held and not read; the reply comes at once.
            "deaf" => Ok(Response::new(payload(b"heard nothing"))),
            "refuse" => Err(refusal()),
            _ => Parrot.collect(request).await,
        }
    }

    type RepeatStream = Replies;
    async fn repeat(&self, request: Request<Payload>) -> Result<Response<Replies>, Status> {
        let present = self.present();
        let replies = match what(&request).as_str() {
            "endless" => {
                let (sent, data) = (Arc::clone(&self.sent), payload(&[7; 64 << 10]));
                stream::repeat_with(move || {
                    sent.fetch_add(1, Relaxed);
                    Ok(data.clone())
                })
                .boxed()
            }
            "refuse" => return Err(refusal()),
            "refuse later" => {
                let two = stream::iter([Ok(payload(b"1")), Ok(payload(b"2"))]);
                two.chain(stream::iter([Err(refusal())])).boxed()
            }
            "panic later" => {
                let one = stream::iter([Ok(payload(b"1"))]);
                // Later, so that what came before has gone out.
                let fails = stream::once(async {
                    tokio::task::yield_now().await;
                    panic!("a reply that fails, as a test wants")
                });
                one.chain(fails).boxed()
            }
            "wait later" => {
                let one = stream::iter([Ok(payload(b"1"))]);
                one.chain(stream::pending()).boxed()
            }
            _ => Parrot.repeat(request).await?.into_inner(),
        };
        Ok(Response::new(Kept(replies, present).boxed()))
    }

    type BothStream = Replies;
    async fn both(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Replies>, Status> {
        let present = self.present();
        let (what, path) = (what(&request), path(&request));
        let echoed = Parrot.both(request).await?.into_inner();
        let replies = match what.as_str() {
            // The server has the first word.
            "greet" => stream::iter([Ok(payload(b"welcome"))])
                .chain(echoed)
                .boxed(),
            "path" => stream::iter([Ok(path)]).chain(echoed).boxed(),
            "only one" => echoed.take(1).boxed(),
            _ => echoed,
        };
        Ok(Response::new(Kept(replies, present).boxed()))
    }
}
