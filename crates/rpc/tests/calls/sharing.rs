//! Which calls share a lane.

use polymath_proto::v1::Payload;
use tokio::task::JoinSet;

use crate::lab::{BOTH, Guest, Lab, asks, payload, soon, until};

/// `n` more calls that wait, once they are being answered.
async fn waiting(lab: &Lab, guest: &Guest, calls: &mut JoinSet<()>, n: usize) {
    let (client, before) = (guest.client().await, lab.probe.counts().begun);
    for _ in 0..n {
        let mut client = client.clone();
        calls.spawn(async move {
            let _ = client.unary(asks("wait", payload(b"x"))).await;
        });
    }
    lab.probe.begun(before + n).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_first_calls_share_a_lane() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut calls = JoinSet::new();
        for _ in 0..60 {
            let (clients, server) = (guest.clients.clone(), guest.server);
            calls.spawn(async move {
                let channel = clients.channel(server, crate::lab::SOON).await.unwrap();
                let mut client = polymath_proto::v1::echo_client::EchoClient::new(channel);
                client.unary(payload(b"x")).await.unwrap();
            });
        }
        soon("all", calls.join_all()).await;
        assert_eq!(lab.admission.lanes(), 1);
        guest.clients.forget(&guest.server);
        until("it to end", || lab.admission.lanes() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_grow_with_their_calls_to_four_and_no_further() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut calls = JoinSet::new();
        waiting(&lab, &guest, &mut calls, 64).await;
        assert_eq!(lab.admission.lanes(), 1);
        // The first of these finds it filled, and has another opened for those after it.
        waiting(&lab, &guest, &mut calls, 1).await;
        until("another lane", || lab.admission.lanes() == 2).await;
        soon("the others", async {
            while lab.admission.lanes() < 4 {
                waiting(&lab, &guest, &mut calls, 10).await;
            }
        })
        .await;
        assert!((130..=300).contains(&calls.len()), "{} calls", calls.len());
        waiting(&lab, &guest, &mut calls, 600).await;
        assert_eq!(lab.admission.lanes(), 4);
        calls.shutdown().await;
        lab.probe.idle().await;
        guest.clients.forget(&guest.server);
        until("all lanes to end", || lab.admission.lanes() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_have_a_lane_of_their_own() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        guest.is_served().await;
        assert_eq!(lab.admission.lanes(), 1);
        let mut client = guest.client().await;
        let large = payload(&vec![0; 100 << 10]);
        soon("an answer", client.unary(large)).await.unwrap();
        assert_eq!(lab.admission.lanes(), 2);
        guest.clients.forget(&guest.server);
        until("both to end", || lab.admission.lanes() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_left_finishes_its_calls() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        let call = client.repeat(asks("endless", Payload::default()));
        let mut replies = soon("a call", call).await.unwrap().into_inner();
        guest.clients.forget(&guest.server);
        guest.is_served().await;
        assert_eq!(lab.admission.lanes(), 2);
        for _ in 0..50 {
            assert!(soon("more", replies.message()).await.unwrap().is_some());
        }
        drop(replies);
        until("the old one to end", || lab.admission.lanes() == 1).await;
        guest.clients.forget(&guest.server);
        until("the new one too", || lab.admission.lanes() == 0).await;
    }
}
