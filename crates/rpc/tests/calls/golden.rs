//! The frames of a call keep their bytes, both ways: what changes here no longer speaks to older
//! peers. `POLYMATH_WRITE_GOLDEN=1` writes the golden files anew, which is a new version.

use std::{fs, path::PathBuf};

use futures::StreamExt;
use tonic::metadata::MetadataValue;

use crate::{
    lab::{Guest, Lab, asks, node, payload, soon},
    raw::Raw,
};

/// What is committed under this name; `found` where it is to be written.
fn golden(name: &str, found: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("POLYMATH_WRITE_GOLDEN").is_some() {
        fs::write(&path, found()).unwrap();
    }
    fs::read(&path).unwrap()
}

async fn frames(raw: &mut Raw, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.extend(soon("a frame", raw.next_bytes()).await.unwrap());
    }
    all
}

/// Hello, the call with metadata, and its message, as a caller writes them.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_writes_what_it_always_wrote() {
    let (net, genesis) = node().await;
    let mut incoming = net.accept(polymath_rpc::CALLS).unwrap();
    let guest = Guest::of(&net, &genesis, "tcp").await;
    let mut client = guest.client().await;
    let mut request = asks("metadata", payload(b"hello"));
    let metadata = request.metadata_mut();
    metadata.append("word", "one".parse().unwrap());
    metadata.append_bin("raw-bin", MetadataValue::from_bytes(&[0, 255]));
    let call = tokio::spawn(async move { client.unary(request).await });
    let mut raw = Raw::of(soon("a lane", incoming.next()).await.unwrap());
    let found = frames(&mut raw, 3).await;
    assert_eq!(found, golden("call_frames_v1.bin", || found.clone()));
    call.abort();
}

/// Head, message and end, as a server answers those.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_what_it_always_answered() {
    let lab = Lab::start().await;
    let guest = lab.guest("tcp").await;
    let mut raw = Raw::open(&guest).await;
    let request = include_bytes!("../golden/call_frames_v1.bin");
    raw.write(request).await.unwrap();
    let found = frames(&mut raw, 3).await;
    assert_eq!(found, golden("reply_frames_v1.bin", || found.clone()));
}
