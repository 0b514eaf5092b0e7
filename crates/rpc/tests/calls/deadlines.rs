//! Deadlines travel as the time that is left.

use std::time::Duration;

use polymath_proto::v1::{Payload, ReplyEnd};
use prost::Message as _;
use tokio::time::Instant;
use tonic::Code;

use crate::{
    lab::{BOTH, Lab, asks, payload, soon},
    raw::{Kind, Raw},
};

/// Short, and long enough for a call to arrive.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_told_the_time_that_is_left() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let mut client = lab.guest(transport).await.client().await;
        let mut request = asks("timeout", payload(b""));
        request.set_timeout(Duration::from_secs(10));
        let reply = soon("an answer", client.unary(request)).await.unwrap();
        let told = String::from_utf8(reply.into_inner().data.to_vec()).unwrap();
        let micros: u64 = told.strip_suffix('u').unwrap().parse().unwrap();
        assert!((1..10_000_000).contains(&micros), "{told}");
        let reply = soon("an answer", client.unary(asks("timeout", payload(b"")))).await;
        assert!(reply.unwrap().into_inner().data.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_past_its_deadline_ends_on_both_sides_in_every_state() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        let begun = lab.probe.counts().begun;
        // Before the reply.
        let mut request = asks("wait", payload(b""));
        request.set_timeout(SHORT);
        let late = soon("the deadline", client.unary(request))
            .await
            .unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
        // While the reply comes.
        let mut request = asks("wait later", Payload::default());
        request.set_timeout(SHORT);
        let call = soon("a call", client.repeat(request)).await.unwrap();
        let mut replies = call.into_inner();
        assert!(soon("one", replies.message()).await.unwrap().is_some());
        let late = soon("the deadline", replies.message()).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
        // While it comes without an end, and nobody is slow.
        let mut request = asks("endless", Payload::default());
        request.set_timeout(SHORT);
        let call = soon("a call", client.repeat(request)).await.unwrap();
        let mut replies = call.into_inner();
        let late = soon("the deadline", async {
            loop {
                if let Err(late) = replies.message().await {
                    return late;
                }
            }
        });
        assert_eq!(late.await.code(), Code::DeadlineExceeded);
        // While the request is sent, and nobody reads it.
        let endless = futures::stream::repeat_with(|| payload(&[1; 60_000]));
        let mut request = asks("wait", endless);
        request.set_timeout(SHORT);
        let late = soon("the deadline", client.collect(request)).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        // While nobody reads the reply: the handler does not wait for that.
        let mut request = asks("endless", Payload::default());
        request.set_timeout(SHORT);
        let unread = soon("a call", client.repeat(request)).await.unwrap();
        lab.probe.begun(begun + 5).await;
        lab.probe.idle().await;
        drop(unread);
        guest.is_served().await;
    }
    lab.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_the_deadline_of_a_caller_that_does_not() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut raw = Raw::open(&guest).await;
        raw.hello().await;
        raw.call(
            1,
            "/polymath.v1.Echo/Unary",
            &[("do", "wait")],
            Some(50_000),
        )
        .await;
        raw.data(1, &[0, 0, 0, 0, 0], true).await;
        // What is past before it arrives does not begin.
        raw.call(2, "/polymath.v1.Echo/Unary", &[], Some(0)).await;
        let begun = lab.probe.counts().begun;
        let mut ended = Vec::new();
        for _ in 0..2 {
            let frame = raw.next().await.unwrap();
            assert_eq!(frame.kind, Kind::End);
            let end = ReplyEnd::decode(frame.payload.as_slice()).unwrap();
            assert_eq!(end.code, Code::DeadlineExceeded as u32);
            ended.push(frame.call);
        }
        assert_eq!(ended, [2, 1]);
        lab.probe.idle().await;
        assert!(lab.probe.counts().begun <= begun + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_time_is_over_is_not_sent() {
    let lab = Lab::start().await;
    let mut client = lab.guest("tcp").await.client().await;
    let mut request = asks("", payload(b""));
    request.set_timeout(Duration::ZERO);
    let start = Instant::now();
    let late = soon("a refusal", client.unary(request)).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert_eq!(lab.probe.counts().begun, 0, "after {:?}", start.elapsed());
}
