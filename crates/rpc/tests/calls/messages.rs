//! Every shape of call, with messages of every size.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures::{StreamExt, stream};
use polymath_proto::v1::{Payload, echo_client::EchoClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, codec::CompressionEncoding};

use crate::lab::{BOTH, Lab, SOON, asks, payload, soon, until};

/// What gRPC and the message's field put before so many bytes, below 2 MiB.
const AROUND: usize = 5 + 1 + 3;

/// Around a frame's payload, both windows, and several megabytes.
fn sizes() -> impl Iterator<Item = usize> {
    let edges = [64 << 10, 256 << 10, 1 << 20].into_iter();
    let edges =
        edges.flat_map(|n: usize| [n - AROUND, n].into_iter().flat_map(|n| [n - 1, n, n + 1]));
    [0, 1].into_iter().chain(edges).chain([3 << 20, 7 << 20])
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_any_size_goes_both_ways() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        for n in sizes() {
            let data = bytes(n);
            let reply = soon("unary", client.unary(payload(&data))).await.unwrap();
            assert!(reply.into_inner().data == data, "unary, {n} bytes");
            let twice = stream::iter([payload(&data), payload(&data)]);
            if 2 * n < 8 << 20 {
                let reply = soon("collect", client.collect(twice.clone()))
                    .await
                    .unwrap();
                assert!(reply.into_inner().data == [&data[..], &data[..]].concat());
            }
            let times = Payload {
                times: 2,
                ..payload(&data)
            };
            let replies = soon("repeat", client.repeat(times)).await.unwrap();
            let got: Vec<_> = soon("replies", replies.into_inner().collect()).await;
            assert_eq!(got.len(), 2);
            assert!(got.into_iter().all(|m| m.unwrap().data == data));
            let replies = soon("both", client.both(twice)).await.unwrap();
            let got: Vec<_> = soon("replies", replies.into_inner().collect()).await;
            assert_eq!(got.len(), 2);
            assert!(got.into_iter().all(|m| m.unwrap().data == data));
        }
    }
    lab.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_may_be_empty() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let mut client = lab.guest(transport).await.client().await;
        let reply = soon("collect", client.collect(stream::empty())).await;
        assert!(reply.unwrap().into_inner().data.is_empty());
        let replies = soon("repeat", client.repeat(payload(b"never"))).await;
        let mut replies = replies.unwrap().into_inner();
        assert!(soon("the end", replies.message()).await.unwrap().is_none());
        let replies = soon("both", client.both(stream::empty())).await.unwrap();
        let mut replies = replies.into_inner();
        assert!(soon("the end", replies.message()).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_have_the_first_word() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let mut client = lab.guest(transport).await.client().await;
        let (sender, messages) = mpsc::channel(1);
        let call = client.both(asks("greet", ReceiverStream::new(messages)));
        let mut replies = soon("a call without messages", call)
            .await
            .unwrap()
            .into_inner();
        let first = soon("the first word", replies.message()).await.unwrap();
        assert_eq!(first.unwrap().data, "welcome");
        for word in ["a", "b"] {
            sender.send(payload(word.as_bytes())).await.unwrap();
            let reply = soon("an answer", replies.message()).await.unwrap();
            assert_eq!(reply.unwrap().data, word);
        }
        drop(sender);
        assert!(soon("the end", replies.message()).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_the_next_call_is_not() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let large = payload(&bytes(100 << 10));
        let channel = guest.clients.channel(guest.server, SOON).await.unwrap();
        let mut careful = EchoClient::new(channel.clone()).max_decoding_message_size(1000);
        let refused = soon("a reply", careful.unary(large.clone()))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        // What cannot be sent fails with the reason, in the middle of a stream too.
        let mut terse = EchoClient::new(channel.clone()).max_encoding_message_size(1000);
        let refused = soon("a reply", terse.unary(large.clone()))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        let (sender, messages) = mpsc::channel(1);
        let call = tokio::spawn(async move { terse.collect(ReceiverStream::new(messages)).await });
        sender.send(payload(b"short")).await.unwrap();
        lab.probe.wait("a handler", |c| c.begun > c.ended).await;
        sender.send(large.clone()).await.unwrap();
        let refused = soon("a reply", call).await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
        lab.probe.idle().await;
        // And what the server does not take.
        let mut bold = EchoClient::new(channel).max_encoding_message_size(16 << 20);
        let huge = Request::new(payload(&vec![0; 9 << 20]));
        let refused = soon("a reply", bold.unary(huge)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
        guest.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_packed_arrives_whole_and_a_bomb_bursts_at_the_limit() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let channel = guest.clients.channel(guest.server, SOON).await.unwrap();
        let mut client = EchoClient::new(channel)
            .send_compressed(CompressionEncoding::Gzip)
            .max_encoding_message_size(1 << 30);
        let text = bytes(100 << 10);
        let reply = soon("a reply", client.unary(payload(&text))).await.unwrap();
        assert_eq!(reply.into_inner().data, text);
        // 64 MiB in some 64 KiB.
        let bomb = payload(&vec![0; 64 << 20]);
        let refused = soon("a reply", client.unary(bomb)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        guest.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_answers_without_reading_ends_its_callers_stream() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let mut client = lab.guest(transport).await.client().await;
        // More than the window: the sender waits when the answer comes.
        let endless = stream::repeat_with(|| payload(&[1; 60_000]));
        let call = client.collect(asks("deaf", endless));
        let reply = soon("an answer", call).await.unwrap();
        assert_eq!(reply.into_inner().data, "heard nothing");
        let call = client.collect(asks(
            "refuse",
            stream::repeat_with(|| payload(&[1; 60_000])),
        ));
        crate::probe::is_refusal(&soon("a refusal", call).await.unwrap_err());
        let (sender, messages) = mpsc::channel(1);
        let call = client.both(asks("only one", ReceiverStream::new(messages)));
        let mut replies = soon("a call", call).await.unwrap().into_inner();
        sender.send(payload(b"x")).await.unwrap();
        assert!(soon("one", replies.message()).await.unwrap().is_some());
        assert!(soon("the end", replies.message()).await.unwrap().is_none());
        // The source of messages is let go, though it had no more to say.
        soon("the stream's end", sender.closed()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_reads_slowly_slows_the_handler() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        let before = lab.probe.sent.load(Relaxed);
        let call = client.repeat(asks("endless", payload(b"")));
        let mut replies = soon("a call", call).await.unwrap().into_inner();
        // The window's worth and no more, however long nobody reads: others are served meanwhile.
        let sent = || lab.probe.sent.load(Relaxed) - before;
        until("a window's worth", || sent() >= 15).await;
        for _ in 0..200 {
            guest.is_served().await;
        }
        assert!(sent() <= 40, "{} messages of 64 KiB", sent());
        for _ in 0..100 {
            let message = soon("a message", replies.message()).await.unwrap();
            assert_eq!(message.unwrap().data.len(), 64 << 10);
        }
        // Its window may have widened meanwhile: it took all that came.
        assert!((100..260).contains(&sent()), "{}", sent());
        drop(replies);
        lab.probe.idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_reads_nothing_slows_the_caller() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        let given = Arc::new(AtomicUsize::new(0));
        let messages = stream::repeat_with({
            let given = Arc::clone(&given);
            move || {
                given.fetch_add(1, Relaxed);
                payload(&[1; 60_000])
            }
        });
        let call = tokio::spawn(async move { client.collect(asks("wait", messages)).await });
        until("a window's worth", || given.load(Relaxed) >= 4).await;
        for _ in 0..200 {
            guest.is_served().await;
        }
        assert!(
            given.load(Relaxed) <= 12,
            "{} messages",
            given.load(Relaxed)
        );
        call.abort();
        lab.probe.idle().await;
    }
}
