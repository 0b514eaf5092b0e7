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
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{self, HeaderMap, Request, Response},
};
use tower::Service;

use crate::{
    body::{Outgoing, ReplyBody, broken, too_late},
    frame::{self, LARGEST_HEAD},
    lane::{Call, LeadIn},
    pool::{Class, Peer},
    status::{TIMEOUT, parse_timeout},
};

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
            // A unary request is complete at the first look.
            let (mut first, last) = first_message(&mut body).await?;
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
        let (headers, end) = match lead_in {
            LeadIn::Head(head) => {
                let headers = frame::headers(head.metadata);
                (headers.map_err(|e| broken(e.into()))?, None)
            }
            LeadIn::Over(over) => (HeaderMap::new(), Some(over)),
        };
        let mut response = Response::new(ReplyBody::new(call, end, deadline, place));
        *response.headers_mut() = headers;
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
        loop {
            let lane = self.peer.lane(class).await?;
            // One that ended since it was chosen has seen nothing of the call: another is taken.
            if let Ok(call) = lane.enter() {
                let call = Outgoing(call);
                call.0.begin(head, first, last);
                return Ok(call);
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

/// What there is of the request at the first look, and whether that is all. Waits for the first
/// message only.
async fn first_message(body: &mut Body) -> Result<(Bytes, bool), Status> {
    let Some(first) = next(body).await.transpose()? else {
        return Ok((Bytes::new(), true));
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
        if poll_fn(|cx| call.poll_send(&mut data, last, cx))
            .await
            .is_err()
            || last
        {
            return;
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
            Some(Err(_)) => return call.cancel(Code::Cancelled),
        }
    }
}

fn call_head(
    parts: &http::request::Parts,
    deadline: Option<Instant>,
) -> Result<v1::CallHead, Status> {
    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
    let head = v1::CallHead {
        method: parts.uri.path().to_owned(),
        metadata: frame::metadata(&parts.headers),
        timeout_us: left.map(|l| u64::try_from(l.as_micros()).unwrap_or(u64::MAX)),
    };
    if head.encoded_len() > LARGEST_HEAD {
        return Err(Status::invalid_argument(format!(
            "the call's metadata is too long: {} bytes, at most {LARGEST_HEAD} are sent",
            head.encoded_len()
        )));
    }
    Ok(head)
}
