//! Two lanes over a pipe, with little patience.

#![allow(clippy::unwrap_used)]

use std::{future::poll_fn, sync::Weak};

use bytes::Bytes;
use http_body::Body as _;
use polymath_proto::v1;
use polymath_types::PeerId;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, interval_at, sleep, timeout},
};
use tonic::Code;

use super::{driver::Patience, *};
use crate::{
    admission::Admission,
    body::{self, RequestBody},
    frame::{Frame, LARGEST},
    pool::{Caller, REPLY_WINDOW, REQUEST_WINDOW},
};

/// Longer than anything here takes; only a hang reaches it.
const NEVER: Duration = Duration::from_secs(20);
/// Of lanes whose patience is tried.
const LITTLE: Patience = Patience {
    tick: Duration::from_millis(10),
    stalled: Duration::from_millis(200),
};
const IDLE: Duration = Duration::from_millis(100);

const CALLS: Windows = Windows {
    theirs: REPLY_WINDOW,
    ours: REQUEST_WINDOW,
};
const ANSWERS: Windows = Windows {
    theirs: REQUEST_WINDOW,
    ours: REPLY_WINDOW,
};

/// Hands out the calls that come.
struct Taker(mpsc::Sender<(String, Arc<Call>)>);

impl Role for Taker {
    const ANSWERS: bool = true;

    fn frame(&mut self, lane: &Arc<Lane>, frame: Frame) -> Result<(), LaneError> {
        let call = Call::new(lane, frame.call, ANSWERS);
        lane.enter(&call)?;
        let head: v1::CallHead = frame::head(frame.payload)?;
        self.0.try_send((head.method, call)).unwrap();
        Ok(())
    }

    fn may_end(&mut self, _: &Arc<Lane>, _: Duration) -> bool {
        false
    }

    fn poll(&mut self, _: &Arc<Lane>, _: &mut Context<'_>) -> Result<(), LaneError> {
        Ok(())
    }
}

type Ended = JoinHandle<Result<(), LaneError>>;

fn caller(pipe: DuplexStream) -> (Arc<Lane>, Ended) {
    let lane = Lane::new(PeerId::random());
    let driver = Driver::new(Arc::clone(&lane), pipe, Caller { idle: NEVER });
    (lane, tokio::spawn(driver))
}

fn impatient(pipe: DuplexStream) -> (Arc<Lane>, Ended) {
    let lane = Lane::new(PeerId::random());
    let driver = Driver::with(LITTLE, Arc::clone(&lane), pipe, Caller { idle: IDLE });
    (lane, tokio::spawn(driver))
}

type Taken = mpsc::Receiver<(String, Arc<Call>)>;

fn taker(pipe: DuplexStream) -> (Arc<Lane>, Ended, Taken) {
    let (sender, calls) = mpsc::channel(1024);
    let lane = Lane::new(PeerId::random());
    let driver = Driver::new(Arc::clone(&lane), pipe, Taker(sender));
    (lane, tokio::spawn(driver), calls)
}

fn head(method: &str) -> v1::CallHead {
    v1::CallHead {
        method: method.to_owned(),
        ..v1::CallHead::default()
    }
}

async fn begin(lane: &Arc<Lane>, id: CallId, method: &str, data: &[u8], last: bool) -> Arc<Call> {
    let call = Call::new(lane, id, CALLS);
    lane.enter(&call).unwrap();
    let (head, mut data) = (head(method), Bytes::copy_from_slice(data));
    poll_fn(|cx| call.poll_begin(&head, &mut data, last, cx))
        .await
        .unwrap();
    if !data.is_empty() {
        send(&call, data, last).await.unwrap();
    }
    call
}

async fn send(call: &Call, mut data: Bytes, last: bool) -> Result<(), LaneError> {
    if data.is_empty() && !last {
        return Ok(());
    }
    poll_fn(|cx| call.poll_send(&mut data, last, cx)).await
}

async fn input(call: &Call) -> Result<Input, LaneError> {
    timeout(NEVER, poll_fn(|cx| call.poll_input(cx)))
        .await
        .unwrap()
}

/// All bytes until something else comes.
async fn all(call: &Call) -> (Vec<u8>, Result<Input, LaneError>) {
    let mut all = Vec::new();
    loop {
        match poll_fn(|cx| call.poll_input(cx)).await {
            Ok(Input::Data(data)) => all.extend_from_slice(&data),
            other => return (all, other),
        }
    }
}

fn ok() -> v1::ReplyEnd {
    v1::ReplyEnd::default()
}

fn stalled<T: std::fmt::Debug>(ended: Result<T, LaneError>) -> bool {
    matches!(ended, Err(LaneError::Stalled(_)))
}

#[tokio::test]
async fn an_idle_lane_ends_and_one_with_a_call_does_not() {
    let (a, b) = duplex(4096);
    let (lane, ended) = impatient(a);
    let (_other, _, mut calls) = taker(b);
    let call = begin(&lane, 1, "/a/b", b"", true).await;
    let (_, answer) = calls.recv().await.unwrap();
    // Nothing is to happen.
    sleep(IDLE * 4).await;
    assert!(lane.is_open() && !ended.is_finished());
    answer.finish(&ok());
    assert!(matches!(input(&call).await, Ok(Input::End(_))));
    timeout(NEVER, ended).await.unwrap().unwrap().unwrap();
    assert!(!lane.is_open());
}

/// A message of the wire, of so many bytes.
fn message(length: u32) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.extend(vec![7; length as usize]);
    message
}

async fn next(body: &mut RequestBody) -> Option<Result<Bytes, tonic::Status>> {
    let next = poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await;
    next.map(|frame| frame.map(|f| f.into_data().unwrap()))
}

fn request(call: Arc<Call>, streams: bool) -> RequestBody {
    RequestBody::new(call, streams, Admission::default(), PeerId::random())
}

#[tokio::test]
async fn the_only_message_is_handed_on_when_nothing_more_can_come() {
    const PATIENCE: body::Patience = body::Patience {
        message: Duration::from_millis(50),
        first: NEVER,
    };
    let (a, b) = duplex(4096);
    let (lane, _ended) = caller(a);
    let (_other, _, mut calls) = taker(b);
    let whole = begin(&lane, 1, "/a/b", &message(9), false).await;
    let (_, answer) = calls.recv().await.unwrap();
    let mut body = request(answer, false);
    // Nothing is to happen.
    let longer = PATIENCE.message * 2;
    assert!(timeout(longer, next(&mut body)).await.is_err());
    poll_fn(|cx| whole.poll_send(&mut Bytes::new(), true, cx))
        .await
        .unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), message(9));
    assert!(body.is_end_stream() && next(&mut body).await.is_none());

    let _unended = begin(&lane, 2, "/a/b", &message(9), false).await;
    let (_, answer) = calls.recv().await.unwrap();
    let mut body = request(answer, false).with_patience(PATIENCE);
    let late = next(&mut body).await.unwrap().unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);

    let two = begin(&lane, 3, "/a/b", &message(9), false).await;
    let (_, answer) = calls.recv().await.unwrap();
    let mut body = request(answer, false);
    assert!(timeout(longer, next(&mut body)).await.is_err());
    send(&two, message(1).into(), true).await.unwrap();
    let refused = next(&mut body).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_request_may_be_silent_between_its_messages_and_not_within_one() {
    const PATIENCE: body::Patience = body::Patience {
        message: Duration::from_millis(50),
        first: Duration::from_millis(50),
    };
    let impatient = |call| request(call, true).with_patience(PATIENCE);
    let (a, b) = duplex(4096);
    let (lane, _ended) = caller(a);
    let (_other, _, mut calls) = taker(b);
    let call = begin(&lane, 1, "/a/b", &message(3), false).await;
    let (_, answer) = calls.recv().await.unwrap();
    let mut body = impatient(answer);
    for length in [2, 0] {
        assert!(next(&mut body).await.unwrap().is_ok());
        // Nothing is to happen.
        let longer = PATIENCE.message * 4;
        assert!(timeout(longer, next(&mut body)).await.is_err());
        send(&call, message(length).into(), false).await.unwrap();
    }
    assert_eq!(next(&mut body).await.unwrap().unwrap(), message(0));
    let begun = message(9)[..8].to_vec();
    send(&call, begun.clone().into(), false).await.unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), begun);
    let late = next(&mut body).await.unwrap().unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);

    let _silent = begin(&lane, 2, "/a/b", b"", false).await;
    let (_, answer) = calls.recv().await.unwrap();
    let late = next(&mut impatient(answer)).await.unwrap().unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_request_that_ends_within_a_message_is_no_whole_one() {
    let (a, b) = duplex(4096);
    let (lane, _ended) = caller(a);
    let (_other, _, mut calls) = taker(b);
    let _call = begin(&lane, 1, "/a/b", &message(9)[..8], true).await;
    let (_, answer) = calls.recv().await.unwrap();
    let mut body = request(answer, true);
    assert_eq!(next(&mut body).await.unwrap().unwrap(), message(9)[..8]);
    assert!(!body.is_end_stream());
    let cut = next(&mut body).await.unwrap().unwrap_err();
    assert_eq!(cut.code(), Code::Internal);
}

#[tokio::test]
async fn a_lane_with_calls_only_between_its_looks_is_in_use() {
    let (a, b) = duplex(4096);
    let (lane, ended) = impatient(a);
    let (_other, _, mut calls) = taker(b);
    // Halfway between looks.
    let mut between = interval_at(Instant::now() + LITTLE.tick / 2, LITTLE.tick);
    for id in 1..50 {
        between.tick().await;
        let call = begin(&lane, id, "/a/b", b"", true).await;
        calls.recv().await.unwrap().1.finish(&ok());
        assert!(matches!(input(&call).await, Ok(Input::End(_))));
    }
    assert!(lane.is_open() && !ended.is_finished());
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_given_up_though_it_goes_on_sending() {
    let (a, mut b) = duplex(64);
    let (lane, mut ended) = impatient(a);
    let call = begin(&lane, 1, "/a/b", &[0; 1000], true).await;
    let mut credit = BytesMut::new();
    frame::put(&mut credit, Kind::Credit, false, 1, &[0; 4]);
    let giving_up = async {
        loop {
            tokio::select! {
                ended = &mut ended => break ended.unwrap(),
                () = sleep(LITTLE.tick) => b.write_all(&credit).await.unwrap(),
            }
        }
    };
    assert!(stalled(timeout(NEVER, giving_up).await.unwrap()));
    assert!(stalled(input(&call).await));
}

#[tokio::test]
async fn a_frame_is_not_waited_for_without_end() {
    let (a, mut b) = duplex(4096);
    let (lane, ended) = impatient(a);
    let call = begin(&lane, 1, "/a/b", b"", true).await;
    b.write_all(&[Kind::Data as u8, 0, 0, 9, 0, 0, 0, 1, 7])
        .await
        .unwrap();
    assert!(stalled(timeout(NEVER, ended).await.unwrap().unwrap()));
    assert!(stalled(input(&call).await));
}

#[tokio::test]
async fn a_call_given_up_after_its_request_ends_alone() {
    let (a, b) = duplex(4096);
    let (lane, ended) = caller(a);
    let (other, _, mut calls) = taker(b);
    let first = begin(&lane, 1, "/a/b", b"x", true).await;
    let second = begin(&lane, 2, "/a/b", b"y", true).await;
    let one = calls.recv().await.unwrap().1;
    assert_eq!(input_bytes(&one).await, "x");
    assert!(matches!(input(&one).await, Ok(Input::Last)));
    first.cancel(Code::Cancelled);
    let two = calls.recv().await.unwrap().1;
    assert_eq!(input_bytes(&two).await, "y");
    // Read after what came of the second, so the cancel has arrived.
    while other.calls() > 1 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(input(&one).await, Ok(Input::Cancelled(_))));
    two.finish(&ok());
    assert!(matches!(input(&second).await, Ok(Input::End(_))));
    assert!(!ended.is_finished() && lane.is_open());
}

async fn input_bytes(call: &Call) -> Bytes {
    match input(call).await.unwrap() {
        Input::Data(data) => data,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whoever_waits_for_a_request_hears_that_the_call_is_over() {
    let (a, b) = duplex(4096);
    let (lane, _) = caller(a);
    let (_other, _, mut calls) = taker(b);
    let _call = begin(&lane, 1, "/a/b", b"", false).await;
    let answer = calls.recv().await.unwrap().1;
    let reading = tokio::spawn({
        let answer = Arc::clone(&answer);
        // Without a timeout of its own, which would look again.
        async move { poll_fn(|cx| answer.poll_input(cx)).await }
    });
    tokio::task::yield_now().await;
    answer.finish(&ok());
    let read = timeout(NEVER, reading).await.unwrap().unwrap();
    assert!(matches!(read, Ok(Input::Cancelled(_))));
}

#[tokio::test]
async fn an_end_is_written_before_a_retired_lane_goes() {
    for _ in 0..100 {
        let (a, b) = duplex(64);
        let (lane, ended) = caller(a);
        let (_other, server, mut calls) = taker(b);
        let call = begin(&lane, 1, "/a/b", b"", true).await;
        let answer = calls.recv().await.unwrap().1;
        lane.retire();
        answer.finish(&ok());
        assert!(matches!(input(&call).await, Ok(Input::End(_))));
        ended.await.unwrap().unwrap();
        assert!(matches!(server.await.unwrap(), Err(LaneError::Lost(_))));
        let late = Call::new(&lane, 2, CALLS);
        assert!(matches!(lane.enter(&late), Err(LaneError::Closing)));
    }
}

#[tokio::test]
async fn calls_begin_no_faster_than_the_peer_reads() {
    let (a, _b) = duplex(64);
    let (lane, _) = caller(a);
    let (head, mut waiting) = (head("/a/b"), 0);
    for id in 1..=100 {
        let call = Call::new(&lane, id, CALLS);
        lane.enter(&call).unwrap();
        let mut data = Bytes::from(vec![0; LARGEST]);
        // Polled often, as in a select of its caller.
        for _ in 0..10 {
            let begun = poll_fn(|cx| {
                std::task::Poll::Ready(call.poll_begin(&head, &mut data, true, cx).is_ready())
            });
            if begun.await {
                break;
            }
            waiting += 1;
        }
        tokio::task::yield_now().await;
    }
    assert!(waiting > 500);
    let outbox = lane.outbox();
    assert!(outbox.bytes.len() <= OUTBOX + LARGEST + 100);
    assert!(outbox.waiting.len() <= 100);
}

/// What is held for a call's reader, and for how many pieces.
fn held(call: &Call) -> (usize, usize) {
    call.held()
}

#[tokio::test]
async fn a_window_of_single_bytes_is_held_in_few_pieces() {
    let (a, mut b) = duplex(1 << 20);
    let (lane, ended) = caller(a);
    let call = begin(&lane, 1, "/a/b", b"", true).await;
    let mut wire = BytesMut::new();
    let count = REPLY_WINDOW / 4;
    for n in 0..count {
        frame::put(&mut wire, Kind::Data, false, 1, &[n as u8]);
    }
    b.write_all(&wire).await.unwrap();
    while held(&call).0 < count {
        tokio::task::yield_now().await;
    }
    assert!(held(&call).1 <= 256, "{:?}", held(&call));
    // And in order.
    let mut n = 0_usize;
    while n < count {
        for byte in input_bytes(&call).await {
            assert_eq!(byte, n as u8);
            n += 1;
        }
    }
    // More than the window.
    wire.clear();
    for _ in 0..=REPLY_WINDOW / LARGEST {
        frame::put(&mut wire, Kind::Data, false, 1, &[0; LARGEST]);
    }
    let _ = b.write_all(&wire).await;
    assert!(matches!(ended.await.unwrap(), Err(LaneError::Protocol(_))));
}

#[tokio::test]
async fn refusals_for_a_peer_that_reads_nothing_do_not_pile_up() {
    /// Refuses all.
    struct Refuser;
    impl Role for Refuser {
        const ANSWERS: bool = true;
        fn frame(&mut self, lane: &Arc<Lane>, frame: Frame) -> Result<(), LaneError> {
            let call = Call::new(lane, frame.call, ANSWERS);
            lane.enter(&call)?;
            call.finish(&frame::of_status(&tonic::Status::internal("x".repeat(500))));
            Ok(())
        }
        fn may_end(&mut self, _: &Arc<Lane>, _: Duration) -> bool {
            false
        }
        fn poll(&mut self, _: &Arc<Lane>, _: &mut Context<'_>) -> Result<(), LaneError> {
            Ok(())
        }
    }
    let (mut a, b) = duplex(4096);
    let lane = Lane::new(PeerId::random());
    let driver = Driver::with(LITTLE, Arc::clone(&lane), b, Refuser);
    let ended = tokio::spawn(driver);
    let mut wire = BytesMut::new();
    for id in 1..100_000 {
        frame::put(&mut wire, Kind::Call, false, id, b"");
    }
    // It takes no more long before the end, and gives up.
    assert!(a.write_all(&wire).await.is_err());
    assert!(stalled(ended.await.unwrap()));

    // One that reads late gets all.
    let (a, b) = duplex(4096);
    let lane = Lane::new(PeerId::random());
    let _driver = tokio::spawn(Driver::new(Arc::clone(&lane), b, Refuser));
    let (mut read, mut write) = tokio::io::split(a);
    let writing = tokio::spawn(async move { write.write_all(&wire).await });
    while !lane.is_crowded() {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(lane.outbox().bytes.len() < CROWDED + (1 << 20));
    let (mut got, mut ends) = (BytesMut::new(), 0);
    while ends < 99_999 {
        let n = timeout(NEVER, read.read_buf(&mut got)).await.unwrap();
        assert!(n.unwrap() > 0);
        while let Some(frame) = frame::take(&mut got).unwrap() {
            assert_eq!(frame.kind, Kind::End);
            ends += 1;
        }
    }
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn frames_of_the_other_side_end_the_lane() {
    let reply = |kind| {
        let mut wire = BytesMut::new();
        frame::put(&mut wire, Kind::Call, false, 1, b"");
        frame::put(&mut wire, kind, false, 1, b"");
        wire
    };
    for kind in [Kind::Reply, Kind::End] {
        let (mut a, b) = duplex(4096);
        let (_lane, ended, _calls) = taker(b);
        a.write_all(&reply(kind)).await.unwrap();
        assert!(matches!(ended.await.unwrap(), Err(LaneError::Protocol(_))));
    }
    for kind in [Kind::Call, Kind::Hello] {
        let (mut a, b) = duplex(4096);
        let (lane, ended) = caller(b);
        let call = begin(&lane, 1, "/a/b", b"", true).await;
        let mut wire = BytesMut::new();
        frame::put(&mut wire, kind, false, 1, b"");
        a.write_all(&wire).await.unwrap();
        assert!(matches!(ended.await.unwrap(), Err(LaneError::Protocol(_))));
        assert!(matches!(input(&call).await, Err(LaneError::Protocol(_))));
    }
}

/// What becomes of one call.
#[derive(Debug, Clone)]
struct Script {
    request: Vec<usize>,
    reply: Vec<usize>,
    /// The caller gives up after so many bytes of the reply.
    caller_ends: Option<usize>,
    /// The server ends after so many bytes of the request.
    server_ends: Option<usize>,
}

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let size = || prop_oneof![0_usize..3, 0_usize..5000, Just(LARGEST), 0_usize..400_000];
    let sizes = || prop::collection::vec(size(), 0..4);
    let ends = || prop::option::weighted(0.3, 0_usize..100_000);
    let script = (sizes(), sizes(), ends(), ends()).prop_map(
        |(request, reply, caller_ends, server_ends)| Script {
            request,
            reply,
            caller_ends,
            server_ends,
        },
    );
    prop::collection::vec(script, 1..12)
}

fn bytes(sizes: &[usize]) -> Vec<u8> {
    let total: usize = sizes.iter().sum();
    (0..total).map(|n| (n % 251) as u8).collect()
}

async fn send_all(call: &Call, sizes: &[usize], ends: bool) -> Result<(), LaneError> {
    let mut all = Bytes::from(bytes(sizes));
    for (i, n) in sizes.iter().enumerate() {
        send(call, all.split_to(*n), ends && i + 1 == sizes.len()).await?;
    }
    Ok(())
}

/// Reads up to so many bytes, or all.
async fn read(call: &Call, most: Option<usize>) -> (Vec<u8>, Option<Result<Input, LaneError>>) {
    let mut got = Vec::new();
    loop {
        if most.is_some_and(|most| got.len() >= most) {
            return (got, None);
        }
        match poll_fn(|cx| call.poll_input(cx)).await {
            Ok(Input::Data(data)) => got.extend_from_slice(&data),
            other => return (got, Some(other)),
        }
    }
}

async fn play_caller(lane: Arc<Lane>, id: CallId, script: Script) -> Weak<Call> {
    let name = format!("{}", id - 1);
    let call = begin(&lane, id, &name, b"", script.request.is_empty()).await;
    let sending = send_all(&call, &script.request, true);
    let reading = async {
        let (got, end) = read(&call, script.caller_ends).await;
        assert!(bytes(&script.reply).starts_with(&got));
        match end {
            None => call.cancel(Code::Cancelled),
            Some(Ok(Input::End(end))) => {
                let early = end.code == Code::Aborted as u32;
                assert!(early || got == bytes(&script.reply));
            }
            other => panic!("{other:?}"),
        }
    };
    let _ = tokio::join!(sending, reading);
    Arc::downgrade(&call)
}

async fn play_server(call: Arc<Call>, script: Script) -> Weak<Call> {
    let (got, end) = read(&call, script.server_ends).await;
    assert!(bytes(&script.request).starts_with(&got));
    match end {
        None => call.finish(&v1::ReplyEnd {
            code: Code::Aborted as u32,
            ..ok()
        }),
        Some(Ok(Input::Last)) => {
            assert_eq!(got, bytes(&script.request));
            if send_all(&call, &script.reply, false).await.is_ok() {
                call.finish(&ok());
            }
        }
        Some(Ok(Input::Cancelled(_))) => {}
        other => panic!("{other:?}"),
    }
    Arc::downgrade(&call)
}

async fn play(scripts: Vec<Script>, pipe: usize) {
    let (a, b) = duplex(pipe);
    let (lane, ended) = caller(a);
    let (other, server, mut calls) = taker(b);
    let mut parts = JoinSet::new();
    for (i, script) in scripts.iter().enumerate() {
        parts.spawn(play_caller(Arc::clone(&lane), i as u32 + 1, script.clone()));
    }
    for _ in 0..scripts.len() {
        let (name, call) = calls.recv().await.unwrap();
        let script = scripts[name.parse::<usize>().unwrap()].clone();
        parts.spawn(play_server(call, script));
    }
    let left = timeout(NEVER * 2, parts.join_all()).await.unwrap();
    // What was cancelled may still be under way to the server.
    lane.retire();
    ended.await.unwrap().unwrap();
    assert!(matches!(server.await.unwrap(), Err(LaneError::Lost(_))));
    assert_eq!((lane.calls(), other.calls()), (0, 0));
    assert!(left.iter().all(|call| call.strong_count() == 0));
    assert_eq!(
        (Arc::strong_count(&lane), Arc::strong_count(&other)),
        (1, 1)
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn calls_in_any_order_end_with_their_bytes_and_leave_nothing(
        scripts in scripts(),
        pipe in prop_oneof![1_usize..64, 64_usize..100_000],
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().unwrap();
        runtime.block_on(play(scripts, pipe));
    }
}

#[tokio::test]
async fn a_reader_that_keeps_up_may_have_more_under_way() {
    let (a, b) = duplex(1 << 20);
    let (lane, _ended) = caller(a);
    let (_other, _, mut calls) = taker(b);
    let call = begin(&lane, 1, "/a/b", b"", true).await;
    let (_, answer) = calls.recv().await.unwrap();
    let sending = tokio::spawn(async move {
        let sent = send(&answer, Bytes::from(vec![1; 32 << 20]), false).await;
        answer.finish(&ok());
        sent
    });
    let (got, _) = timeout(NEVER, all(&call)).await.unwrap();
    assert_eq!(got.len(), 32 << 20);
    sending.await.unwrap().unwrap();
    let window = call.window();
    assert!(window > REPLY_WINDOW && window <= room::WIDEST, "{window}");
}

#[tokio::test]
async fn a_slow_reader_slows_its_sender_and_nobody_else() {
    let (a, b) = duplex(1 << 16);
    let (lane, _) = caller(a);
    let (other, _, mut calls) = taker(b);
    let slow = begin(&lane, 1, "/slow", b"", true).await;
    let quick = begin(&lane, 2, "/quick", b"", true).await;
    let first = calls.recv().await.unwrap().1;
    let second = calls.recv().await.unwrap().1;
    let sending = tokio::spawn(async move {
        let sent = send(&first, Bytes::from(vec![1; 8 << 20]), false).await;
        first.finish(&ok());
        sent
    });
    while held(&slow).0 < REPLY_WINDOW {
        tokio::task::yield_now().await;
    }
    let other_sending = tokio::spawn(async move {
        let sent = send(&second, Bytes::from(vec![2; 2 << 20]), false).await;
        second.finish(&ok());
        sent
    });
    let (got, _) = timeout(NEVER, all(&quick)).await.unwrap();
    other_sending.await.unwrap().unwrap();
    assert_eq!(got.len(), 2 << 20);
    assert!(!sending.is_finished());
    assert_eq!(held(&slow).0, REPLY_WINDOW);
    assert!(other.outbox().bytes.len() <= OUTBOX + LARGEST);
    let (got, end) = timeout(NEVER, all(&slow)).await.unwrap();
    assert_eq!(got.len(), 8 << 20);
    assert!(matches!(end, Ok(Input::End(_))));
    sending.await.unwrap().unwrap();
}
