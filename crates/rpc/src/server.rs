//! Answering peers' calls with tonic's services.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Context, time::Duration};

use futures::{FutureExt, StreamExt};
use http_body::Body as _;
use polymath_net::{AcceptError, Net};
use polymath_proto::v1;
use polymath_types::{Format, PathKind, PeerId, Transport};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{
        HeaderMap, HeaderValue, Method, Request, Uri, Version,
        header::{CONTENT_TYPE, TE},
    },
    service::Routes,
};
use tower::Service as _;

use crate::{
    admission::{Admission, CallPlace, Place},
    body::{RequestBody, too_late},
    frame::{self, Frame, Kind},
    lane::{Call, Driver, Lane, LaneError, Role, Windows},
    methods::takes_a_stream,
    pool::{REPLY_WINDOW, REQUEST_WINDOW},
    status::{TIMEOUT, timeout_value},
};

/// Name of the stream protocol that carries calls.
pub const CALLS: &str = "calls";

/// Longest name of a method.
const LONGEST_METHOD: usize = 256;
/// Longest call, whatever its caller says. What an answer may take is the service's to say, and shorter.
const LONGEST: Duration = Duration::from_secs(900);
/// A caller that takes nothing of its reply for this long has left its place to others.
const UNREAD: Duration = Duration::from_secs(60);
/// A lane on which nobody has said hello.
const MUTE: Duration = Duration::from_secs(10);
/// A lane without calls is ended from this side after this, well after the other should have.
const IDLE: Duration = Duration::from_secs(300);

/// Who is on the other side of a call, as the connection's handshake proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The peer.
    pub peer: PeerId,
    /// How it is connected.
    pub path: PathKind,
    /// The transport under the connection.
    pub transport: Transport,
}

/// Serves `routes` to every peer of the mesh until `cancel`; calls in flight are then finished.
/// Streams for which `admission` has no place are dropped.
pub async fn serve(
    net: &Net,
    routes: Routes,
    admission: Admission,
    cancel: CancellationToken,
) -> Result<(), ServeError> {
    let routes = routes.prepare();
    let mut incoming = net.accept(CALLS)?;
    let tasks = TaskTracker::new();
    while let Some(Some(stream)) = cancel.run_until_cancelled(incoming.next()).await {
        let Some(place) = admission.admit(stream.peer()) else {
            continue;
        };
        let caller = Caller {
            peer: stream.peer(),
            path: stream.path(),
            transport: stream.transport(),
        };
        let peer = caller.peer;
        let answerer = Answerer::new(caller, &routes, &admission, &tasks, &cancel, place);
        let driver = Driver::new(Lane::new(peer), stream, answerer);
        tasks.spawn(async move {
            if let Err(why) = driver.await {
                tracing::trace!(%peer, "a peer's calls ended: {why}");
            }
        });
    }
    drop(incoming);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Why peers cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The mesh does not hand us streams.
    #[error("cannot accept calls from peers: {0}")]
    Accept(#[from] AcceptError),
}

/// The answering side of a lane.
pub(crate) struct Answerer {
    caller: Caller,
    routes: Routes,
    admission: Admission,
    tasks: TaskTracker,
    greeted: bool,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    stopping: bool,
    _place: Place,
}

impl Answerer {
    pub(crate) fn new(
        caller: Caller,
        routes: &Routes,
        admission: &Admission,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
        place: Place,
    ) -> Self {
        Self {
            caller,
            routes: routes.clone(),
            admission: admission.clone(),
            tasks: tasks.clone(),
            greeted: false,
            stop: Box::pin(cancel.clone().cancelled_owned()),
            stopping: false,
            _place: place,
        }
    }

    fn begin(&self, lane: &Arc<Lane>, frame: Frame) -> Result<(), LaneError> {
        let id = frame.call;
        let windows = Windows {
            theirs: REQUEST_WINDOW,
            ours: REPLY_WINDOW,
        };
        let call = Call::new(lane, id, windows);
        if lane.is_taken(id) {
            return Err(LaneError::protocol("a call that exists already"));
        }
        lane.enter(&call)?;
        match self.request(&call, frame) {
            Err(refusal) => {
                let end = frame::of_status(&refusal);
                call.finish(&self.admission.with_load(end));
            }
            Ok((request, timeout, place)) => {
                let answering = Answering {
                    call: Arc::clone(&call),
                    admission: self.admission.clone(),
                    _place: place,
                };
                let answer = answer(answering, self.routes.clone(), request, timeout);
                call.answered_by(self.tasks.spawn(answer).abort_handle());
            }
        }
        Ok(())
    }

    /// The request as tonic's services take it, or why it is refused.
    fn request(
        &self,
        call: &Arc<Call>,
        frame: Frame,
    ) -> Result<(Request<Body>, Option<Duration>, CallPlace), Status> {
        if self.stopping {
            return Err(Status::unavailable("the peer is shutting down"));
        }
        let head: v1::CallHead =
            frame::head(frame.payload).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let timeout = head
            .timeout_us
            .map(|us| Duration::from_micros(us).min(LONGEST));
        if timeout == Some(Duration::ZERO) {
            return Err(too_late());
        }
        let uri = (head.method.len() <= LONGEST_METHOD && head.method.starts_with('/'))
            .then(|| Uri::try_from(head.method).ok())
            .flatten()
            .ok_or_else(|| Status::unimplemented("that is no method's name"))?;
        let place = self.admission.begin(self.caller.peer)?;
        let mut headers =
            frame::headers(head.metadata).map_err(|e| Status::invalid_argument(e.to_string()))?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(timeout) = timeout {
            headers.insert(TIMEOUT, timeout_value(timeout));
        }
        // The catalog's exchange is one long stream of small messages: silence is its nature.
        let lasting = uri.path().starts_with("/polymath.v1.Catalog/");
        let streams = takes_a_stream(uri.path());
        let timeout = timeout.or((!lasting).then_some(LONGEST));
        let body = RequestBody::new(
            Arc::clone(call),
            streams,
            self.admission.clone(),
            self.caller.peer,
        );
        let mut request = Request::new(Body::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        request.extensions_mut().insert(self.caller);
        Ok((request, timeout, place))
    }
}

impl Role for Answerer {
    const ANSWERS: bool = true;

    fn frame(&mut self, lane: &Arc<Lane>, frame: Frame) -> Result<(), LaneError> {
        match frame.kind {
            Kind::Hello if !self.greeted => {
                let hello: v1::Hello = frame::head(frame.payload)?;
                let version = Format::Wire.check(hello.version);
                version.map_err(|e| LaneError::Protocol(e.to_string().into()))?;
                self.greeted = true;
                Ok(())
            }
            Kind::Call if self.greeted => self.begin(lane, frame),
            _ => Err(LaneError::protocol("a frame where it has no meaning")),
        }
    }

    fn may_end(&mut self, _: &Arc<Lane>, idle: Duration) -> bool {
        self.stopping || idle >= if self.greeted { IDLE } else { MUTE }
    }

    fn poll(&mut self, lane: &Arc<Lane>, cx: &mut Context<'_>) -> Result<(), LaneError> {
        if !self.stopping && self.stop.as_mut().poll(cx).is_ready() {
            self.stopping = true;
            lane.put(|out| frame::put(out, Kind::GoAway, false, 0, &[]));
        }
        Ok(())
    }
}

/// A call being answered. However its task ends, the caller is told.
struct Answering {
    call: Arc<Call>,
    admission: Admission,
    _place: CallPlace,
}

impl Drop for Answering {
    fn drop(&mut self) {
        // Only a handler that panicked has not said how the call ended.
        let failed = Status::internal("the call's handler failed");
        self.call.finish(&frame::of_status(&failed));
    }
}

async fn answer(
    answering: Answering,
    mut routes: Routes,
    request: Request<Body>,
    timeout: Option<Duration>,
) {
    let call = &answering.call;
    let work = async {
        let Ok(response) = routes.call(request).await;
        let (parts, mut body) = response.into_parts();
        // A status without messages comes as headers.
        if let Some(end) = frame::end(&parts.headers) {
            return Some(end);
        }
        let mut next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never();
        let metadata = frame::metadata(&parts.headers);
        if next.is_none() || !metadata.is_empty() {
            let head = v1::ReplyHead { metadata };
            if !frame::fits(&head, &head.metadata) {
                return Some(frame::of_status(&Status::internal(
                    "the reply's metadata is too long for the wire",
                )));
            }
            call.reply(&head);
        }
        loop {
            let frame = match next.take() {
                Some(frame) => frame,
                None => poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await,
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => {
                        loop {
                            let left = data.len();
                            let sent = poll_fn(|cx| call.poll_send(&mut data, false, cx));
                            match tokio::time::timeout(UNREAD, sent).await {
                                Ok(Ok(())) => break,
                                // Nobody takes it any more: the call is over.
                                Ok(Err(_)) => return None,
                                Err(_) if data.len() < left => {}
                                Err(_) => return Some(frame::of_status(&unread())),
                            }
                        }
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_else(|_| HeaderMap::new());
                        return Some(frame::end(&trailers).unwrap_or_else(no_status));
                    }
                },
                Some(Err(status)) => return Some(frame::of_status(&status)),
                None => return Some(no_status()),
            }
        }
    };
    let end = match timeout {
        None => work.await,
        Some(timeout) => match tokio::time::timeout(timeout, work).await {
            Ok(end) => end,
            Err(_) => Some(frame::of_status(&too_late())),
        },
    };
    if let Some(end) = end {
        call.finish(&answering.admission.with_load(end));
    }
}

fn unread() -> Status {
    Status::aborted(format!("nothing of the reply was taken for {UNREAD:?}"))
}

fn no_status() -> v1::ReplyEnd {
    frame::of_status(&Status::new(Code::Unknown, "the service named no status"))
}
