//! Peers that answer as nobody should: their callers get a status, and nobody else notices.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures::StreamExt;
use polymath_proto::v1::{Metadata, Payload, ReplyEnd, ReplyHead};
use polymath_rpc::failure;
use polymath_types::ErrorKind;
use prost::Message as _;
use tokio::sync::Mutex;
use tonic::{Code, Status};

use crate::{
    lab::{BOTH, Guest, asks, node, payload, soon},
    raw::{Kind, Raw, frame},
};

const LAST: u8 = 0x80;

/// A server that answers the first call of each lane with `bytes`, made for its number, and holds the
/// lane.
struct Liar {
    net: polymath_net::Net,
    genesis: polymath_types::Genesis,
    answer: Arc<Mutex<Answer>>,
    /// That have come.
    calls: Arc<AtomicUsize>,
}

type Answer = Box<dyn Fn(u32) -> Vec<u8> + Send>;

impl Liar {
    async fn start() -> Self {
        let (net, genesis) = node().await;
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(|_| Vec::new())));
        let calls = Arc::new(AtomicUsize::new(0));
        let mut incoming = net.accept(polymath_rpc::CALLS).unwrap();
        tokio::spawn({
            let (answer, calls) = (Arc::clone(&answer), Arc::clone(&calls));
            async move {
                while let Some(stream) = incoming.next().await {
                    let (answer, calls) = (Arc::clone(&answer), Arc::clone(&calls));
                    tokio::spawn(async move {
                        let mut raw = Raw::of(stream);
                        while let Some(frame) = raw.try_next().await {
                            if frame.kind == Kind::Call {
                                calls.fetch_add(1, Relaxed);
                                let bytes = answer.lock().await(frame.call);
                                let _ = raw.write(&bytes).await;
                            }
                        }
                    });
                }
            }
        });
        Self {
            net,
            genesis,
            answer,
            calls,
        }
    }

    async fn answers(&self, answer: impl Fn(u32) -> Vec<u8> + Send + 'static) {
        *self.answer.lock().await = Box::new(answer);
    }
}

fn end(call: u32) -> Vec<u8> {
    frame(Kind::End as u8, call, b"")
}

fn data(call: u32, bytes: &[u8]) -> Vec<u8> {
    frame(Kind::Data as u8, call, bytes)
}

async fn status_of(guest: &Guest, what: &str) -> Status {
    println!("{what}");
    let mut client = guest.client().await;
    let call = async {
        let replies = client.repeat(asks("", Payload::default())).await?;
        let mut replies = replies.into_inner();
        while replies.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    soon("an end", call).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_the_protocol_is_unavailable() {
    type Case = (&'static str, fn(u32) -> Vec<u8>);
    let cases: [Case; 15] = [
        ("garbage", |_| vec![0xff; 100]),
        ("kind nought", |id| frame(0, id, b"")),
        ("hello", |_| frame(Kind::Hello as u8, 0, b"")),
        ("a call", |id| frame(Kind::Call as u8, id, b"")),
        ("a head that is none", |id| {
            frame(Kind::Reply as u8, id, &[0xff; 9])
        }),
        ("an end that is none", |id| {
            frame(Kind::End as u8, id, &[0xff; 9])
        }),
        ("two heads", |id| {
            [
                frame(Kind::Reply as u8, id, b""),
                frame(Kind::Reply as u8, id, b""),
            ]
            .concat()
        }),
        ("a head after data", |id| {
            [data(id, b"x"), frame(Kind::Reply as u8, id, b"")].concat()
        }),
        ("a frame too long", |id| {
            let mut header = frame(Kind::Data as u8, id, b"");
            header[1] = 0xff;
            header
        }),
        ("no status", |id| frame(Kind::Data as u8 | LAST, id, b"")),
        ("more after the last", |id| {
            [frame(Kind::Data as u8 | LAST, id, b""), data(id, b"x")].concat()
        }),
        ("a credit too short", |id| {
            frame(Kind::Credit as u8, id, &[1])
        }),
        ("bad metadata", |id| {
            let bad = Metadata {
                key: "a b".into(),
                value: b"\n"[..].into(),
            };
            let head = ReplyHead {
                metadata: vec![bad],
            };
            frame(Kind::Reply as u8, id, &head.encode_to_vec())
        }),
        ("bad metadata at the end", |id| {
            let bad = Metadata {
                key: String::new(),
                value: b"x"[..].into(),
            };
            let end = ReplyEnd {
                metadata: vec![bad],
                ..ReplyEnd::default()
            };
            frame(Kind::End as u8, id, &end.encode_to_vec())
        }),
        ("metadata without end", |id| {
            let one = Metadata {
                key: "a".into(),
                value: b"x"[..].into(),
            };
            let head = ReplyHead {
                metadata: vec![one; 200],
            };
            frame(Kind::Reply as u8, id, &head.encode_to_vec())
        }),
    ];
    let liar = Liar::start().await;
    for transport in BOTH {
        let guest = Guest::of(&liar.net, &liar.genesis, transport).await;
        for (what, bytes) in cases {
            liar.answers(bytes).await;
            let status = status_of(&guest, what).await;
            let kind = failure(&status).kind;
            assert_eq!(
                kind,
                ErrorKind::Unavailable,
                "{transport}, {what}: {status:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_badly_gets_a_status_for_it() {
    type Case = (&'static str, fn(u32) -> Vec<u8>, Code);
    let cases: [Case; 5] = [
        (
            "a code of its own",
            |id| {
                let end = ReplyEnd {
                    code: 4711,
                    ..ReplyEnd::default()
                };
                frame(Kind::End as u8, id, &end.encode_to_vec())
            },
            Code::Unknown,
        ),
        (
            "a code beyond all",
            |id| {
                let end = ReplyEnd {
                    code: u32::MAX,
                    ..ReplyEnd::default()
                };
                frame(Kind::End as u8, id, &end.encode_to_vec())
            },
            Code::Unknown,
        ),
        (
            "given up",
            |id| {
                frame(
                    Kind::Cancel as u8,
                    id,
                    &(Code::Aborted as u32).to_be_bytes(),
                )
            },
            Code::Aborted,
        ),
        (
            "a message that is none",
            |id| [data(id, &[0, 0, 0, 0, 1, 0xff]), end(id)].concat(),
            Code::Internal,
        ),
        (
            "a message too long",
            |id| [data(id, &[0, 0xff, 0, 0, 0]), end(id)].concat(),
            Code::OutOfRange,
        ),
    ];
    let liar = Liar::start().await;
    for transport in BOTH {
        let guest = Guest::of(&liar.net, &liar.genesis, transport).await;
        for (what, bytes, code) in cases {
            liar.answers(bytes).await;
            let status = status_of(&guest, what).await;
            assert_eq!(status.code(), code, "{transport}, {what}: {status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_up_call_that_says_it_went_well_did_not() {
    let liar = Liar::start().await;
    liar.answers(|id| frame(Kind::Cancel as u8, id, &0_u32.to_be_bytes()))
        .await;
    let guest = Guest::of(&liar.net, &liar.genesis, "tcp").await;
    let mut client = guest.client().await;
    let replies = soon("a reply", client.repeat(Payload::default())).await;
    let ended = match replies {
        Ok(replies) => soon("the end", replies.into_inner().message())
            .await
            .map(|_| ()),
        Err(status) => Err(status),
    };
    assert_ne!(ended.unwrap_err().code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_more_than_the_window_is_unavailable() {
    let liar = Liar::start().await;
    // The first call is held, the second gets too much.
    let flood = |id| match id {
        1 => Vec::new(),
        _ => data(id, &[0; 64 << 10]).repeat(17),
    };
    liar.answers(flood).await;
    for transport in BOTH {
        let guest = Guest::of(&liar.net, &liar.genesis, transport).await;
        let mut client = guest.client().await;
        liar.calls.store(0, Relaxed);
        let held = tokio::spawn({
            let mut client = client.clone();
            async move { client.unary(payload(b"")).await }
        });
        soon("the first call", async {
            while liar.calls.load(Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let call = client.repeat(asks("", Payload::default()));
        let mut unread = soon("a call", call).await.unwrap().into_inner();
        // Nobody reads: what the lane's end is to its other call says that it was noticed.
        let lost = soon("an end", held).await.unwrap().unwrap_err();
        assert_eq!(failure(&lost).kind, ErrorKind::Unavailable, "{lost:?}");
        let lost = soon("an end", async {
            loop {
                if let Err(lost) = unread.message().await {
                    return lost;
                }
            }
        });
        assert_eq!(failure(&lost.await).kind, ErrorKind::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_left_at_the_deadline() {
    let liar = Liar::start().await;
    for transport in BOTH {
        let guest = Guest::of(&liar.net, &liar.genesis, transport).await;
        let mut client = guest.client().await;
        let mut request = asks("", payload(b""));
        request.set_timeout(std::time::Duration::from_millis(200));
        let late = soon("the deadline", client.unary(request)).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        // And for the rest of a reply that it has begun.
        liar.answers(|id| data(id, &[0, 0, 0, 0, 0])).await;
        let mut request = asks("", payload(b""));
        request.set_timeout(std::time::Duration::from_millis(200));
        let late = soon("the deadline", client.unary(request)).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        liar.answers(|_| Vec::new()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_calls_that_are_over_are_no_fault() {
    let liar = Liar::start().await;
    liar.answers(|id| {
        [
            data(id + 1000, b"nobody's"),
            end(id + 1000),
            frame(Kind::Credit as u8, id, &u32::MAX.to_be_bytes()),
            frame(Kind::Credit as u8, id, &u32::MAX.to_be_bytes()),
            data(id, &[0, 0, 0, 0, 0]),
            end(id),
            end(id),
            data(id, b"late"),
        ]
        .concat()
    })
    .await;
    for transport in BOTH {
        let guest = Guest::of(&liar.net, &liar.genesis, transport).await;
        let mut client = guest.client().await;
        for _ in 0..10 {
            soon("a reply", client.unary(payload(b""))).await.unwrap();
        }
    }
}
