//! Metadata, both ways.

use polymath_proto::v1::Payload;
use tonic::{Code, Request, metadata::MetadataValue};

use crate::{
    lab::{BOTH, Lab, asks, payload, soon},
    probe::is_refusal,
};

#[tokio::test(flavor = "multi_thread")]
async fn metadata_goes_both_ways_whole_and_in_order() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let mut client = lab.guest(transport).await.client().await;
        let mut request = asks("metadata", payload(b""));
        let sent = request.metadata_mut();
        sent.append("word", "one".parse().unwrap());
        sent.append("word", "two, three".parse().unwrap());
        sent.insert("empty", "".parse().unwrap());
        for raw in [&[0, 255, 10, 13][..], b"", b"text"] {
            sent.append_bin("raw-bin", MetadataValue::from_bytes(raw));
        }
        let reply = soon("an answer", client.unary(request)).await.unwrap();
        let got = reply.metadata();
        let words: Vec<_> = got.get_all("word").iter().collect();
        assert_eq!(words, ["one", "two, three"]);
        assert_eq!(got.get("empty").unwrap(), "");
        let raw = got.get_all_bin("raw-bin").iter();
        let raw: Vec<_> = raw.map(|v| v.to_bytes().unwrap()).collect();
        assert_eq!(raw, [&[0, 255, 10, 13][..], b"", b"text"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_arrives_with_details_and_metadata_at_any_point_of_a_call() {
    let lab = Lab::start().await;
    for transport in BOTH {
        let mut client = lab.guest(transport).await.client().await;
        let refused = soon("unary", client.unary(asks("refuse", payload(b"")))).await;
        is_refusal(&refused.unwrap_err());
        let refused = soon("repeat", client.repeat(asks("refuse", Payload::default()))).await;
        is_refusal(&refused.err().unwrap());
        let call = client.repeat(asks("refuse later", Payload::default()));
        let mut replies = soon("repeat", call).await.unwrap().into_inner();
        for word in ["1", "2"] {
            let message = soon("a message", replies.message()).await.unwrap();
            assert_eq!(message.unwrap().data, word);
        }
        is_refusal(&soon("the end", replies.message()).await.unwrap_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_too_long_for_the_wire_fails_its_call_alone() {
    let lab = Lab::start().await;
    let guest = lab.guest("tcp").await;
    let mut client = guest.client().await;
    let waiting = tokio::spawn({
        let mut client = client.clone();
        async move { client.unary(asks("wait", Payload::default())).await }
    });
    lab.probe.begun(1).await;
    let mut long = Request::new(payload(b""));
    let value = "x".repeat(20 << 10).parse().unwrap();
    long.metadata_mut().insert("long", value);
    let refused = soon("a refusal", client.unary(long)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut many = Request::new(payload(b""));
    for _ in 0..200 {
        many.metadata_mut().append("many", "x".parse().unwrap());
    }
    let refused = soon("a refusal", client.unary(many)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for what in ["too much metadata", "too long a refusal"] {
        let refused = soon("an answer", client.unary(asks(what, payload(b"")))).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::Internal);
        assert!(
            refused.message().contains("too long for the wire"),
            "{refused}"
        );
    }
    assert!(!waiting.is_finished());
    assert_eq!(lab.admission.lanes(), 1, "all on one lane");
    waiting.abort();
}
