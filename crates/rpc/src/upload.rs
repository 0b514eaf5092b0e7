//! Requests must arrive: a peer that begins a message and never ends it would hold its memory here.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, Bytes, http},
};

/// Time until the one message of a call is there.
const PATIENCE: Duration = Duration::from_secs(15);

/// Puts a deadline on the request's body.
pub(crate) fn with_deadline(request: http::Request<Body>) -> http::Request<Body> {
    // The catalog's exchange is one long stream of small frames: silence is its nature.
    if request.uri().path().starts_with("/polymath.v1.Catalog/") {
        return request;
    }
    request.map(|body| Body::new(Upload::new(body, PATIENCE)))
}

struct Upload {
    body: Body,
    late: Pin<Box<Sleep>>,
}

impl Upload {
    fn new(body: Body, patience: Duration) -> Self {
        Self {
            body,
            late: Box::pin(sleep(patience)),
        }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.late.as_mut().poll(cx));
        Poll::Ready(Some(Err(Status::deadline_exceeded(
            "the request was not complete in time",
        ))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use tonic::Code;

    use super::*;

    /// A body that announces more and never sends it.
    struct Endless;

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_message_that_never_ends_is_given_up() {
        let mut upload = Upload::new(Body::new(Endless), Duration::from_millis(1));
        let frame = poll_fn(|cx| Pin::new(&mut upload).poll_frame(cx)).await;
        assert_eq!(frame.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
        let mut whole = Upload::new(Body::empty(), Duration::from_secs(60));
        assert!(
            poll_fn(|cx| Pin::new(&mut whole).poll_frame(cx))
                .await
                .is_none()
        );
    }
}
