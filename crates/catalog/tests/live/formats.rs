//! A frame as version 1 wrote it. `POLYMATH_WRITE_GOLDEN=1` writes the file anew; that is right only
//! together with a new version.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use polymath_catalog::live::{Live, Standing};
use polymath_proto::v1::{LiveFrame, LiveStatus, live_statement::What};
use polymath_types::{Keypair, NodeKey};
use prost::Message as _;

use crate::scene::{config, frame, mesh, signed, suspicion};

fn key(seed: u8) -> NodeKey {
    let pair = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    let text = STANDARD.encode(pair.to_protobuf_encoding().unwrap());
    NodeKey::from_text(&format!("polymath-identity 1\n{text}\n")).unwrap()
}

#[test]
fn the_frame_is_what_version_1_wrote() {
    let (author, witnesses) = (key(1), [key(2), key(3)]);
    let status = LiveStatus {
        incarnation: 300,
        sequence: 70_000,
        leaving: false,
        run: u64::MAX,
        started: 1_795_000_000,
        rival: u64::MAX,
        valid_s: 100_000,
        queue_depth: 100,
        active: 4,
        free_slots: 4,
        service_ms: 12_000,
        resident_experts: 4,
    };
    let known = (status.incarnation, status.sequence);
    let status = signed(&author, mesh(), What::Status(status));
    // What the pace of a node reckons with.
    assert!(status.encoded_len() <= 180 + 12, "{}", status.encoded_len());
    let doubts = witnesses.map(|w| suspicion(&w, author.peer_id(), known));
    let made = frame([status].into_iter().chain(doubts)).encode_to_vec();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/live_frame_v1.bin");
    if std::env::var_os("POLYMATH_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    assert_eq!(made, kept);
    let mut live = Live::new(config(&NodeKey::generate(), 1));
    let (peer, now) = (key(9).peer_id(), Duration::from_secs(1));
    let _ = live.peer_connected(now, peer, false);
    let known = [2, 3].map(|n| crate::scene::status(&key(n), 1, 1));
    let _ = live.receive(now, peer, frame(known)).unwrap();
    let kept = LiveFrame::decode(kept.as_slice()).unwrap();
    let _ = live.receive(now, peer, kept).unwrap();
    let view = live.view(now, &author.peer_id()).unwrap();
    assert_eq!(
        (view.standing, view.load.queue_depth),
        (Standing::Suspended, 100)
    );
}
