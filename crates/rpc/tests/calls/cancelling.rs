//! Calls that are given up, and connections that break under them.

use futures::stream;
use polymath_proto::v1::Payload;
use polymath_rpc::failure;
use polymath_types::ErrorKind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::lab::{BOTH, Lab, asks, payload, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_ends_its_handler_in_every_state() {
    let lab = Lab::start().await;
    let mut guests = Vec::new();
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        let mut begun = lab.probe.counts().begun;
        // The request is complete, and the answer waited for.
        let call = tokio::spawn({
            let mut client = client.clone();
            async move { client.unary(asks("wait", payload(b"x"))).await }
        });
        begun += 1;
        lab.probe.begun(begun).await;
        call.abort();
        lab.probe.idle().await;
        // In the middle of the answer, with some of it unread and without.
        for what in ["endless", "wait later"] {
            let call = client.repeat(asks(what, Payload::default()));
            let mut replies = soon("a call", call).await.unwrap().into_inner();
            assert!(soon("one", replies.message()).await.unwrap().is_some());
            drop(replies);
            begun += 1;
            lab.probe.begun(begun).await;
            lab.probe.idle().await;
        }
        // While the request is being sent: all of the window is used, or its source is silent.
        let (sender, silent) = mpsc::channel::<Payload>(1);
        let endless = stream::repeat_with(|| payload(&[1; 60_000]));
        let mut other = client.clone();
        let calls = [
            tokio::spawn(async move { client.collect(asks("wait", endless)).await }),
            tokio::spawn(async move {
                let silent = ReceiverStream::new(silent);
                other.collect(asks("", silent)).await
            }),
        ];
        lab.probe.begun(begun + 2).await;
        for call in calls {
            call.abort();
        }
        lab.probe.idle().await;
        soon("the source to be let go", sender.closed()).await;
        guest.is_served().await;
        guests.push(guest);
    }
    lab.nothing_left().await;
    assert_eq!(lab.admission.lanes(), 4, "two a guest: none was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_given_up_leaves_those_beside_it_alone() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        let beside = client.repeat(asks("endless", Payload::default()));
        let mut beside = soon("a call", beside).await.unwrap().into_inner();
        for _ in 0..100 {
            let begun = lab.probe.counts().begun;
            let call = tokio::spawn({
                let mut client = client.clone();
                async move { client.unary(asks("wait", payload(b"x"))).await }
            });
            lab.probe.begun(begun + 1).await;
            call.abort();
            assert!(soon("more", beside.message()).await.unwrap().is_some());
        }
        lab.probe
            .wait("all but one to end", |c| c.begun == c.ended + 1)
            .await;
        drop(beside);
        lab.probe.idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_fails_its_call_alone() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        let beside = client.repeat(asks("wait later", Payload::default()));
        let mut beside = soon("a call", beside).await.unwrap().into_inner();
        assert!(soon("one", beside.message()).await.unwrap().is_some());
        let failed = soon("an end", client.unary(asks("panic", payload(b"")))).await;
        assert_eq!(failed.unwrap_err().code(), Code::Internal);
        let call = client.repeat(asks("panic later", Payload::default()));
        let mut replies = soon("a call", call).await.unwrap().into_inner();
        assert!(soon("one", replies.message()).await.unwrap().is_some());
        let failed = soon("an end", replies.message()).await.unwrap_err();
        assert_eq!(failed.code(), Code::Internal);
        guest.is_served().await;
        tokio::select! {
            biased;
            message = beside.message() => panic!("{message:?}"),
            () = std::future::ready(()) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_is_told_as_unavailable_in_every_state() {
    for transport in BOTH {
        let lab = Lab::start().await;
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        let call = client.repeat(asks("wait later", Payload::default()));
        let mut replies = soon("a call", call).await.unwrap().into_inner();
        assert!(soon("one", replies.message()).await.unwrap().is_some());
        let waiting = tokio::spawn({
            let mut client = client.clone();
            async move { client.unary(asks("wait", payload(b"x"))).await }
        });
        let endless = stream::repeat_with(|| payload(&[1; 60_000]));
        let sending = tokio::spawn(async move { client.collect(asks("wait", endless)).await });
        lab.probe.begun(3).await;
        guest.net.disconnect(guest.server).await;
        let lost = [
            soon("an end", replies.message()).await.unwrap_err(),
            soon("an end", waiting).await.unwrap().unwrap_err(),
            soon("an end", sending).await.unwrap().unwrap_err(),
        ];
        for status in lost {
            assert_eq!(failure(&status).kind, ErrorKind::Unavailable, "{status:?}");
        }
        // The server hears of it too.
        lab.probe.idle().await;
        soon("lanes to go", async {
            while lab.admission.lanes() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
