//! Doors for the fuzzer to what reads a stranger's bytes.

use std::{sync::Arc, task::Context};

use bytes::BytesMut;
use futures::FutureExt as _;
use polymath_proto::v1;

use crate::{
    frame::{self, Frame},
    lane::{Call, Driver, Lane, LaneError, Role, Windows},
    status::parse_timeout,
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
    let lane = Lane::new();
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
