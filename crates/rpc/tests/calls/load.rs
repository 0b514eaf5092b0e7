//! How busy the server is, every call's end tells.

use polymath_proto::v1::{DescribeRequest, Payload};
use tonic::Code;

use crate::lab::{BOTH, LOAD, Lab, asks, payload, soon};

#[tokio::test]
async fn every_end_of_a_call_carries_the_load() {
    for transport in BOTH {
        let lab = Lab::start().await;
        let mut guest = lab.guest(transport).await;
        let expected = Some((guest.server, LOAD));
        assert_eq!(*guest.heard.borrow(), None);

        // An answer, a stream of them, and a refusal.
        let mut client = guest.client().await;
        client.unary(asks("", payload(b"x"))).await.unwrap();
        assert_eq!(*guest.heard.borrow_and_update(), expected);

        let request = Payload {
            times: 2,
            ..payload(b"x")
        };
        let mut replies = client.repeat(asks("", request)).await.unwrap().into_inner();
        while replies.message().await.unwrap().is_some() {}
        assert!(guest.heard.has_changed().unwrap());
        assert_eq!(*guest.heard.borrow_and_update(), expected);

        let expert = guest.clients.expert(guest.server, crate::lab::SOON).await;
        let mut expert = expert.unwrap();
        let call = expert.describe(DescribeRequest::default()).await;
        assert_eq!(call.unwrap_err().code(), Code::Unimplemented);
        soon("the load of a refusal", guest.heard.changed())
            .await
            .unwrap();
        assert_eq!(*guest.heard.borrow(), expected);
    }
}
