//! How many calls a node makes to one peer at once.

use tokio::task::JoinSet;

use crate::lab::{Lab, asks, payload, soon};

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_a_thousand_wait_for_the_end_of_others() {
    let lab = Lab::start().await;
    let guest = lab.guest("quic").await;
    let client = guest.client().await;
    let mut calls = JoinSet::new();
    for _ in 0..1024 {
        let mut client = client.clone();
        calls.spawn(async move {
            let _ = client.unary(asks("wait", payload(b"x"))).await;
        });
    }
    lab.probe.begun(1024).await;
    let mut one_more = client.clone();
    let mut one_more = tokio::spawn(async move { one_more.unary(payload(b"x")).await });
    // Another peer's calls have their own places.
    for _ in 0..20 {
        lab.guest("tcp").await.is_served().await;
    }
    assert!(!one_more.is_finished());
    assert_eq!(lab.admission.calls_refused(), 0, "it waits on this side");
    calls.abort_all();
    soon("its turn", &mut one_more).await.unwrap().unwrap();
    soon("all", async { while calls.join_next().await.is_some() {} }).await;
    lab.nothing_left().await;
}
