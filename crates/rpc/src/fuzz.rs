//! Doors for the fuzzer to what reads a stranger's bytes.

use std::{pin::Pin, sync::Arc, task::Context};

use bytes::BytesMut;
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use polymath_net::PeerId;
use polymath_proto::v1::{
    self, Payload,
    echo_server::{Echo, EchoServer},
};
use polymath_types::{PathKind, Transport};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming, service::Routes};

use crate::{
    Admission, Caller, convert,
    frame::{self, Frame},
    lane::{Call, Driver, Lane, LaneError, Role, Windows},
    server::Answerer,
    status::{failure, parse_timeout},
};

/// Frames, with all that can be in them.
pub fn frames(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(found)) = frame::take(&mut buffer) {
        let payload = found.payload;
        let _ = frame::number(&payload);
        let _ = frame::head::<v1::Hello>(payload.clone());
        if let Ok(head) = frame::head::<v1::CallHead>(payload.clone()) {
            let _ = frame::headers(head.metadata);
        }
        if let Ok(head) = frame::head::<v1::ReplyHead>(payload.clone()) {
            let _ = frame::headers(head.metadata);
        }
        if let Ok(end) = frame::head::<v1::ReplyEnd>(payload)
            && let Ok(trailers) = frame::trailers(end)
        {
            // What has been read once goes on as it came.
            assert!(frame::end(&trailers).is_some());
            if let Some(status) = Status::from_header_map(&trailers) {
                let text = failure(&status).message;
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
        }
    }
}

/// A deadline in metadata.
pub fn timeout(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = parse_timeout(text);
    }
}

/// Frames in whatever order, to both sides of a lane.
pub fn lane(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let Ok(runtime) = runtime else { return };
    let _inside = runtime.enter();
    drive(bytes, Side::<true>);
    drive(bytes, Side::<false>);
}

/// Enters every call; nobody reads them.
struct Side<const ANSWERS: bool>;

fn call(lane: &Arc<Lane>, id: frame::CallId) -> Result<(), LaneError> {
    let windows = Windows {
        theirs: 64 << 10,
        ours: 64 << 10,
    };
    lane.enter(&Call::new(lane, id, windows))
}

impl<const ANSWERS: bool> Role for Side<ANSWERS> {
    const ANSWERS: bool = ANSWERS;

    fn frame(&mut self, lane: &Arc<Lane>, frame: Frame) -> Result<(), LaneError> {
        call(lane, frame.call)
    }

    fn may_end(&mut self, _: &Arc<Lane>, _: std::time::Duration) -> bool {
        false
    }

    fn poll(&mut self, _: &Arc<Lane>, _: &mut Context<'_>) -> Result<(), LaneError> {
        Ok(())
    }
}

fn drive(bytes: &[u8], side: impl Role) {
    let lane = Lane::new(PeerId::random());
    for id in 0..3 {
        let _ = call(&lane, id);
    }
    let stream = tokio::io::join(std::io::Cursor::new(bytes.to_vec()), tokio::io::sink());
    let mut driver = Driver::new(Arc::clone(&lane), stream, side);
    // It reads to the end, which is an error, or stops at what makes no sense.
    for _ in 0..=bytes.len() {
        if (&mut driver).now_or_never().is_some() {
            break;
        }
    }
    drop(driver);
    assert_eq!(lane.calls(), 0);
}

/// Whatever a peer may send an answering node, with services of every shape behind it. What comes back are
/// frames, and no call and no place is left when the peer has gone.
pub fn server(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let (admission, tasks) = (Admission::default(), TaskTracker::new());
        let peer = PeerId::random();
        let Some(place) = admission.admit(peer) else {
            return;
        };
        let caller = Caller {
            peer,
            path: PathKind::Direct,
            transport: Transport::Tcp,
        };
        let routes = Routes::new(EchoServer::new(Shapes)).prepare();
        let cancel = CancellationToken::new();
        let answerer = Answerer::new(caller, &routes, &admission, &tasks, &cancel, place);
        let (near, far) = tokio::io::duplex(64 << 10);
        let driver = tokio::spawn(Driver::new(Lane::new(peer), far, answerer));
        let (mut replies, mut requests) = tokio::io::split(near);
        let asks = async {
            // In pieces, so that services work between them.
            for piece in bytes.chunks(997) {
                if requests.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = requests.shutdown().await;
        };
        let reads = async {
            let mut buffer = BytesMut::new();
            while replies.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                let mut next = frame::take(&mut buffer);
                while let Ok(Some(_)) = next {
                    next = frame::take(&mut buffer);
                }
                assert!(next.is_ok(), "the server writes frames: {next:?}");
            }
        };
        tokio::join!(asks, reads);
        let ended = driver.await;
        assert!(ended.is_ok(), "the driver panicked");
        tasks.close();
        tasks.wait().await;
        assert_eq!((admission.lanes(), admission.calls()), (0, 0));
    });
}

/// What peers ask an expert, as far as it is read before anybody works on it.
pub fn requests(bytes: &[u8]) {
    if let Ok(request) = v1::GenerateRequest::decode(bytes) {
        let messages = convert::messages_from_proto(request.messages);
        if let Ok(messages) = messages {
            // What has been read once goes on as it came.
            let again = convert::messages_from_proto(convert::messages_to_proto(&messages));
            assert_eq!(again.ok(), Some(messages));
        }
        if let Ok(sampling) = convert::sampling_from_proto(request.sampling) {
            let again = convert::sampling_from_proto(Some(convert::sampling_to_proto(&sampling)));
            assert_eq!(again.ok(), Some(sampling));
        }
    }
    if let Ok(event) = v1::GenerateEvent::decode(bytes)
        && let Some(v1::generate_event::Event::Finished(end)) = event.event
    {
        let _ = convert::finish_reason(end.reason());
        let _ = convert::usage_from_proto(end.usage);
        let _ = convert::load_from_proto(end.load);
    }
    let _ = v1::EmbedRequest::decode(bytes);
    let _ = v1::ClassifyRequest::decode(bytes);
    let _ = v1::DescribeResponse::decode(bytes);
    let _ = v1::HaveFilesRequest::decode(bytes);
    let _ = v1::ReadFileRequest::decode(bytes);
}

/// Every shape of call, with nothing in it that takes time.
struct Shapes;

type Replies = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Shapes {
    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn collect(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Payload>, Status> {
        let mut messages = request.into_inner();
        let mut last = Payload::default();
        while let Some(message) = messages.message().await? {
            last = message;
        }
        Ok(Response::new(last))
    }

    type RepeatStream = Replies;
    async fn repeat(&self, request: Request<Payload>) -> Result<Response<Replies>, Status> {
        let answer = request.into_inner();
        let times = answer.times.min(64) as usize;
        let answers = stream::iter(std::iter::repeat_n(Ok(answer), times));
        Ok(Response::new(answers.boxed()))
    }

    type BothStream = Replies;
    async fn both(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Replies>, Status> {
        Ok(Response::new(request.into_inner().boxed()))
    }
}
