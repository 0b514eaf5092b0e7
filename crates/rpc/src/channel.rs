//! A peer as tonic's generated clients see it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http_body::Body as _;
use polymath_proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::{
    Status,
    body::Body,
    codegen::http::{self, HeaderMap, Request, Response},
};
use tower::Service;

use crate::{
    body::{Outgoing, ReplyBody, broken, given_up, too_late, without_status},
    frame,
    lane::{Call, Input, LeadIn},
    pool::{Class, Peer},
    status::{TIMEOUT, parse_timeout},
};

/// Lanes that may end under a call before it has begun until it fails.
const TRIES: usize = 3;

/// Calls to one peer; cheap to clone. Implements tonic's `GrpcService`.
#[derive(Debug, Clone)]
pub struct Channel {
    peer: Arc<Peer>,
}

impl Channel {
    pub(crate) const fn new(peer: Arc<Peer>) -> Self {
        Self { peer }
    }

    async fn call(self, request: Request<Body>) -> Result<Response<ReplyBody>, Status> {
        let (mut parts, mut body) = request.into_parts();
        let timeout = take_timeout(&mut parts.headers);
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let begun = async {
            let (mut first, last) = first_look(&mut body)?;
            let class = Class::of(parts.uri.path(), first.len());
            let place = self.peer.place().await?;
            let head = call_head(&parts, deadline)?;
            let call = self.begin(class, &head, &mut first, last).await?;
            if !last || !first.is_empty() {
                tokio::spawn(pump(Arc::clone(&call.0), first, last, body));
            }
            let lead_in = poll_fn(|cx| call.0.poll_head(cx)).await.map_err(broken)?;
            Ok::<_, Status>((call, lead_in, place))
        };
        let (call, lead_in, place) = match deadline {
            None => begun.await?,
            Some(deadline) => timeout_at(deadline, begun)
                .await
                .map_err(|_| too_late())??,
        };
        let (headers, over) = match lead_in {
            LeadIn::Head(head) => (frame::headers(head.metadata), false),
            // As in HTTP/2, a status without messages comes as headers.
            LeadIn::Over(Input::End(end)) => {
                self.peer.heard(end.load);
                (frame::trailers(end), true)
            }
            LeadIn::Over(Input::Cancelled(code)) => return Err(given_up(code)),
            LeadIn::Over(_) => return Err(broken(without_status())),
        };
        let mut response = Response::new(ReplyBody::new(call, over, deadline, self.peer, place));
        *response.headers_mut() = headers.map_err(|e| broken(e.into()))?;
        Ok(response)
    }

    /// Begins a call on a lane that takes it.
    async fn begin(
        &self,
        class: Class,
        head: &v1::CallHead,
        first: &mut Bytes,
        last: bool,
    ) -> Result<Outgoing, Status> {
        let mut tries = TRIES;
        loop {
            let lane = self.peer.lane(class).await?;
            match lane.enter() {
                Ok(call) => {
                    let call = Outgoing(call);
                    let begun = poll_fn(|cx| call.0.poll_begin(head, first, last, cx));
                    begun.await.map_err(broken)?;
                    return Ok(call);
                }
                // A lane that ended since it was chosen has seen nothing of the call.
                Err(why) if tries == 0 => return Err(broken(why)),
                Err(_) => tries -= 1,
            }
        }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<ReplyBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().call(request))
    }
}

fn take_timeout(headers: &mut HeaderMap) -> Option<Duration> {
    let timeout = headers.remove(TIMEOUT)?;
    parse_timeout(timeout.to_str().ok()?)
}

/// What there is of the request at the first look, and whether that is all, as of a unary one. A call
/// begins whether or not its caller has something to say yet: it may want to hear first.
fn first_look(body: &mut Body) -> Result<(Bytes, bool), Status> {
    let first = match next(body).now_or_never() {
        None => return Ok((Bytes::new(), false)),
        Some(None) => return Ok((Bytes::new(), true)),
        Some(Some(first)) => first?,
    };
    match next(body).now_or_never() {
        None => Ok((first, false)),
        Some(None) => Ok((first, true)),
        Some(Some(second)) => Ok((join(&first, &second?), false)),
    }
}

fn join(first: &[u8], more: &[u8]) -> Bytes {
    let mut joined = BytesMut::with_capacity(first.len() + more.len());
    joined.extend_from_slice(first);
    joined.extend_from_slice(more);
    joined.freeze()
}

async fn next(body: &mut Body) -> Option<Result<Bytes, Status>> {
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        match frame {
            Err(e) => return Some(Err(e)),
            // A client's request has no trailers in gRPC.
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
        }
    }
}

/// Sends the rest of a request, as fast as the other side takes it.
async fn pump(call: Arc<Call>, mut data: Bytes, mut last: bool, mut body: Body) {
    loop {
        if last || !data.is_empty() {
            let sent = poll_fn(|cx| call.poll_send(&mut data, last, cx)).await;
            if sent.is_err() || last {
                return;
            }
        }
        // Nobody may be left who wants the answer while the request's source is silent.
        let message = {
            let over = poll_fn(|cx| call.poll_over(cx));
            tokio::select! {
                biased;
                () = over => return,
                message = next(&mut body) => message,
            }
        };
        match message {
            Some(Ok(message)) => data = message,
            None => last = true,
            Some(Err(why)) => return call.fail(&why),
        }
    }
}

fn call_head(
    parts: &http::request::Parts,
    deadline: Option<Instant>,
) -> Result<v1::CallHead, Status> {
    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
    if left == Some(Duration::ZERO) {
        return Err(too_late());
    }
    let head = v1::CallHead {
        method: parts.uri.path().to_owned(),
        metadata: frame::metadata(&parts.headers),
        timeout_us: left.map(|l| u64::try_from(l.as_micros()).unwrap_or(u64::MAX)),
    };
    if !frame::fits(&head, &head.metadata) {
        return Err(Status::invalid_argument(
            "the call's metadata is too long: 16 KiB and 128 entries are sent at most",
        ));
    }
    Ok(head)
}
