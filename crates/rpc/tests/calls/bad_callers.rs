//! Peers that call as nobody should. Each harms itself alone.

use std::sync::atomic::Ordering::Relaxed;

use polymath_proto::v1::{Hello, ReplyEnd};
use prost::Message as _;
use tonic::Code;

use crate::{
    lab::{BOTH, Lab, until},
    raw::{Kind, Raw, frame, head, hello},
};

const UNARY: &str = "/polymath.v1.Echo/Unary";
const WAIT: &[(&str, &str)] = &[("do", "wait")];
const LAST: u8 = 0x80;

fn call(id: u32, metadata: &[(&str, &str)]) -> Vec<u8> {
    frame(Kind::Call as u8, id, &head(UNARY, metadata, None))
}

fn data(id: u32, bytes: &[u8], last: bool) -> Vec<u8> {
    let kind = Kind::Data as u8 | if last { LAST } else { 0 };
    frame(kind, id, bytes)
}

/// A call that waits, and then this.
fn after_a_call(bytes: &[u8]) -> Vec<u8> {
    [&hello(), &call(1, WAIT), bytes].concat()
}

/// What ends the lane it comes on.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let version = Hello { version: 99 }.encode_to_vec();
    let too_long = |kind: u8, length: u32| {
        let mut header = vec![kind];
        header.extend_from_slice(&length.to_be_bytes()[1..]);
        header.extend_from_slice(&[0, 0, 0, 1]);
        header
    };
    // Of a handler that reads nothing.
    let collect = head("/polymath.v1.Echo/Collect", WAIT, None);
    let deaf = [
        hello(),
        frame(Kind::Call as u8, 1, &collect),
        data(1, &[0; 64 << 10], false).repeat(5),
    ]
    .concat();
    vec![
        ("garbage", vec![0xff; 100]),
        ("what is not for us", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("no hello", call(1, &[])),
        ("another version", frame(Kind::Hello as u8, 0, &version)),
        (
            "a hello that is none",
            frame(Kind::Hello as u8, 0, &[0xff; 20]),
        ),
        ("hello twice", [hello(), hello()].concat()),
        ("an unknown kind", after_a_call(&frame(42, 1, b""))),
        ("kind nought", after_a_call(&frame(0, 1, b""))),
        (
            "a frame too long",
            after_a_call(&too_long(Kind::Data as u8, 0xff_ffff)),
        ),
        (
            "a head too long",
            after_a_call(&too_long(Kind::Call as u8, (16 << 10) + 1)),
        ),
        (
            "a credit too long",
            after_a_call(&too_long(Kind::Credit as u8, 5)),
        ),
        (
            "a credit too short",
            after_a_call(&frame(Kind::Credit as u8, 1, &[0; 3])),
        ),
        (
            "a cancel too short",
            after_a_call(&frame(Kind::Cancel as u8, 1, &[])),
        ),
        ("a call twice", after_a_call(&call(1, WAIT))),
        (
            "data after the last",
            after_a_call(&[data(1, b"", true), data(1, b"x", false)].concat()),
        ),
        (
            "last twice",
            after_a_call(&[data(1, b"", true), data(1, b"", true)].concat()),
        ),
        ("more than the window", deaf),
        ("a reply", after_a_call(&frame(Kind::Reply as u8, 1, b""))),
        ("an end", after_a_call(&frame(Kind::End as u8, 1, b""))),
        (
            "an end of no call",
            after_a_call(&frame(Kind::End as u8, 9, b"")),
        ),
        (
            "going away",
            after_a_call(&frame(Kind::GoAway as u8, 0, b"")),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_ends_its_lane_alone() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let (bad, good) = (lab.guest(transport).await, lab.guest(transport).await);
        good.is_served().await;
        for (what, bytes) in broken() {
            println!("{transport}: {what}");
            let mut raw = Raw::open(&bad).await;
            // It may end before all is written.
            let _ = raw.write(&bytes).await;
            raw.is_ended().await;
            good.is_served().await;
        }
        bad.is_served().await;
        lab.probe.idle().await;
        until("their lanes to go", || lab.admission.lanes() <= 4).await;
    }
    lab.nothing_left().await;
}

/// What ends a call of this number, and with what.
fn refused(id: u32) -> Vec<(&'static str, Vec<u8>, Code)> {
    let named = |method: &str| frame(Kind::Call as u8, id, &head(method, &[], None));
    let with = |metadata: &[(&str, &str)]| call(id, metadata);
    let long = format!("/polymath.v1.Echo/{}", "x".repeat(300));
    let many = vec![("a", "b"); 129];
    let (control, nested) = ([("a", "b\r\nc: d")], [("a b", "c")]);
    let asked = |message: &[u8]| [call(id, &[]), data(id, message, true)].concat();
    vec![
        (
            "a head that is none",
            frame(Kind::Call as u8, id, &[0xff; 50]),
            Code::InvalidArgument,
        ),
        ("no method", named(""), Code::Unimplemented),
        (
            "no slash",
            named("polymath.v1.Echo/Unary"),
            Code::Unimplemented,
        ),
        ("a space", named("/a b/c"), Code::Unimplemented),
        (
            "another host",
            named("//example.org/x"),
            Code::Unimplemented,
        ),
        (
            "no such service",
            named("/polymath.v1.Nobody/Unary"),
            Code::Unimplemented,
        ),
        (
            "no such method",
            named("/polymath.v1.Echo/Nothing"),
            Code::Unimplemented,
        ),
        ("a long name", named(&long), Code::Unimplemented),
        ("much metadata", with(&many), Code::InvalidArgument),
        (
            "a line's end in metadata",
            with(&control),
            Code::InvalidArgument,
        ),
        ("a space in a key", with(&nested), Code::InvalidArgument),
        ("an empty key", with(&[("", "x")]), Code::InvalidArgument),
        ("no message", asked(b""), Code::Internal),
        ("half a message", asked(&[0, 0, 0, 0, 9, 1]), Code::Internal),
        (
            "a message that is none",
            asked(&[0, 0, 0, 0, 2, 0xff, 0xff]),
            Code::Internal,
        ),
        (
            "an unknown compression",
            asked(&[9, 0, 0, 0, 0]),
            Code::Internal,
        ),
        (
            "compressed without leave",
            asked(&[1, 0, 0, 0, 0]),
            Code::Internal,
        ),
        (
            "a message too long",
            asked(&[0, 0xff, 0xff, 0xff, 0xff]),
            Code::OutOfRange,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_makes_no_sense_is_refused_alone() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let bad = lab.guest(transport).await;
        let mut raw = Raw::open(&bad).await;
        raw.hello().await;
        raw.call(1000, UNARY, WAIT, None).await;
        for n in 0..refused(0).len() {
            // A number is used once.
            let id = n as u32 + 1;
            let (what, bytes, code) = refused(id).swap_remove(n);
            raw.write(&bytes).await.unwrap();
            let end = loop {
                let frame = raw
                    .next()
                    .await
                    .unwrap_or_else(|| panic!("{what}: the lane ended"));
                match frame.kind {
                    Kind::End => break frame,
                    Kind::Credit => {}
                    other => panic!("{what}: {other:?}"),
                }
            };
            assert_eq!(end.call, id, "{what}");
            let end = ReplyEnd::decode(end.payload.as_slice()).unwrap();
            assert_eq!(
                Code::from_i32(end.code as i32),
                code,
                "{what}: {}",
                end.message
            );
        }
        raw.cancel(1000).await;
        lab.probe.idle().await;
    }
    lab.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_no_call_is_no_fault() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let bad = lab.guest(transport).await;
        let mut raw = Raw::open(&bad).await;
        let credit = frame(Kind::Credit as u8, 1, &u32::MAX.to_be_bytes());
        let cancel = frame(Kind::Cancel as u8, 1, &1_u32.to_be_bytes());
        let strange = [
            hello(),
            data(7, b"nobody's", true),
            frame(Kind::Credit as u8, 8, &[0xff; 4]),
            frame(Kind::Cancel as u8, 9, &[0xff; 4]),
            // All the credit in the world, again and again; given up twice.
            call(1, WAIT),
            vec![credit; 100].concat(),
            cancel.clone(),
            cancel,
            data(1, b"late", true),
            // Its number once more, once it is over.
            call(2, &[]),
            data(2, &[0, 0, 0, 0, 0], true),
        ];
        raw.write(&strange.concat()).await.unwrap();
        let reply = raw.next().await.unwrap();
        assert_eq!((reply.kind, reply.call), (Kind::Data, 2));
        let end = raw.next().await.unwrap();
        assert_eq!((end.kind, end.call), (Kind::End, 2));
        lab.probe.idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_calls_begun_and_given_up_leave_nothing() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let (bad, good) = (lab.guest(transport).await, lab.guest(transport).await);
        let mut raw = Raw::open(&bad).await;
        raw.hello().await;
        for round in 0..50 {
            let mut bytes = Vec::new();
            for id in round * 200..(round + 1) * 200 {
                bytes.extend(call(id, WAIT));
                bytes.extend(data(id, &[0; 5], true));
                bytes.extend(frame(Kind::Cancel as u8, id, &1_u32.to_be_bytes()));
            }
            raw.write(&bytes).await.unwrap();
        }
        good.is_served().await;
        // The last of all, so all before it are over.
        raw.write(&[call(999_999, &[]), data(999_999, &[0; 5], true)].concat())
            .await
            .unwrap();
        while raw.next().await.unwrap().call != 999_999 {}
        lab.probe.idle().await;
        until("all to be over", || lab.admission.calls() == 0).await;
        bad.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_of_one_peer_leave_others_their_places() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let (bad, good) = (lab.guest(transport).await, lab.guest(transport).await);
        let before = lab.admission.calls_refused();
        let mut raw = Raw::open(&bad).await;
        raw.hello().await;
        let (begin, mut refused) = (0..10_000_u32, 0);
        for id in begin {
            raw.write(&call(id, WAIT)).await.unwrap();
            if id >= 2048 {
                let end = raw.next().await.unwrap();
                let end = ReplyEnd::decode(end.payload.as_slice()).unwrap();
                assert_eq!(end.code, Code::ResourceExhausted as u32);
                refused += 1;
            }
            if id % 1000 == 0 {
                good.is_served().await;
            }
        }
        assert_eq!(lab.admission.calls(), 2048);
        assert_eq!(lab.admission.calls_refused() - before, refused);
        drop(raw);
        lab.probe.idle().await;
        until("all to be over", || lab.admission.calls() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_of_one_peer_leave_others_their_places() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let (bad, good) = (lab.guest(transport).await, lab.guest(transport).await);
        let mut held = Vec::new();
        for n in 0..10_000 {
            // The connection has a bound of its own; what goes beyond fails at the opener.
            let opened = bad
                .net
                .open(bad.server, polymath_rpc::CALLS, crate::lab::SOON);
            if let Ok(stream) = opened.await {
                let mut raw = Raw::of(stream);
                let _ = raw.write(&hello()).await;
                held.push(raw);
            }
            if n % 1000 == 0 {
                good.is_served().await;
            }
        }
        println!("{transport}: {} streams were opened", held.len());
        good.is_served().await;
        assert!(lab.admission.lanes() <= 24 + 2, "{}", lab.admission.lanes());
        drop(held);
        until("them to go", || lab.admission.lanes() <= 2).await;
        bad.is_served().await;
    }
    assert!(lab.admission.refused() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_nothing_slows_its_own_replies() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let (bad, good) = (lab.guest(transport).await, lab.guest(transport).await);
        let before = lab.probe.sent.load(Relaxed);
        let mut raw = Raw::open(&bad).await;
        raw.hello().await;
        let endless = head("/polymath.v1.Echo/Repeat", &[("do", "endless")], None);
        for id in 0..200 {
            let calls = [
                frame(Kind::Call as u8, id, &endless),
                data(id, &[0; 5], true),
                frame(Kind::Credit as u8, id, &u32::MAX.to_be_bytes()),
            ];
            raw.write(&calls.concat()).await.unwrap();
        }
        until("handlers", || lab.admission.calls() == 200).await;
        for _ in 0..100 {
            good.is_served().await;
        }
        // What each handler holds, what the lane does, and what the connection does.
        let sent = (lab.probe.sent.load(Relaxed) - before) * (64 << 10);
        println!("{transport}: {} KiB went", sent >> 10);
        assert!(sent < 48 << 20);
        drop(raw);
        lab.probe.idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_by_the_byte_is_served_and_holds_nobody_up() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let (bad, good) = (lab.guest(transport).await, lab.guest(transport).await);
        let mut raw = Raw::open(&bad).await;
        let bytes = [hello(), call(1, &[]), data(1, &[0; 5], true)].concat();
        for byte in bytes {
            raw.write(&[byte]).await.unwrap();
            good.is_served().await;
        }
        assert_eq!(raw.next().await.unwrap().kind, Kind::Data);
        assert_eq!(raw.next().await.unwrap().kind, Kind::End);
    }
}
