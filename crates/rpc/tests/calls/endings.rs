//! How serving ends.

use polymath_proto::v1::Payload;
use polymath_rpc::failure;
use polymath_types::ErrorKind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    lab::{BOTH, Lab, payload, soon},
    raw::{Kind, Raw},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_finishes_its_calls_and_takes_no_more() {
    for transport in BOTH {
        let lab = Lab::start().await;
        let guest = lab.guest(transport).await;
        let mut client = guest.client().await;
        let (sender, messages) = mpsc::channel(1);
        let call = client.both(ReceiverStream::new(messages));
        let mut replies = soon("a call", call).await.unwrap().into_inner();
        sender.send(payload(b"a")).await.unwrap();
        assert!(
            soon("an answer", replies.message())
                .await
                .unwrap()
                .is_some()
        );
        let mut raw = Raw::open(&guest).await;
        raw.hello().await;
        raw.call(1, "/polymath.v1.Echo/Unary", &[("do", "wait")], None)
            .await;
        raw.data(1, &[0; 5], true).await;
        lab.probe.begun(2).await;

        lab.stop.cancel();
        assert_eq!(raw.next().await.unwrap().kind, Kind::GoAway);
        // One that does not listen to that is refused, and its own call is not lost for it.
        raw.call(2, "/polymath.v1.Echo/Unary", &[], None).await;
        let refused = raw.next().await.unwrap();
        assert_eq!((refused.kind, refused.call), (Kind::End, 2));
        let begun = lab.probe.counts().begun;
        let refused = soon("a refusal", client.unary(payload(b"late"))).await;
        assert_eq!(failure(&refused.unwrap_err()).kind, ErrorKind::Unavailable);
        assert_eq!(lab.probe.counts().begun, begun);

        assert!(!lab.served.is_finished());
        sender.send(payload(b"b")).await.unwrap();
        let answer = soon("an answer", replies.message()).await.unwrap();
        assert_eq!(answer.unwrap().data, "b");
        drop(sender);
        assert!(soon("the end", replies.message()).await.unwrap().is_none());
        raw.cancel(1).await;
        soon("the server's end", lab.served).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_reply_of_a_server_that_stops_arrives_whole() {
    for transport in BOTH {
        for _ in 0..10 {
            let lab = Lab::start().await;
            let guest = lab.guest(transport).await;
            let mut client = guest.client().await;
            let message = Payload {
                reply_bytes: Some(3 << 20),
                delay_ms: 20,
                ..Payload::default()
            };
            let call = tokio::spawn(async move { client.unary(message).await });
            lab.probe.begun(1).await;
            lab.stop.cancel();
            let reply = soon("the reply", call).await.unwrap().unwrap();
            assert_eq!(reply.into_inner().data.len(), 3 << 20);
            soon("the server's end", lab.served).await.unwrap();
        }
    }
}
