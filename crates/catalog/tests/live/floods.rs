//! Keys cost nothing: whoever has many, and one connection, keeps nobody from being heard.

use std::time::Duration;

use polymath_catalog::live::Standing::Suspended;
use polymath_proto::v1::{LiveMessage, LiveStatus, live_statement::What};
use polymath_types::{NodeKey, PeerId};

use crate::scene::{Scene, frame, mesh, signed, status};

const NODES: usize = 40;

/// A status of another run each time.
fn anew(key: &NodeKey, run: u64) -> LiveMessage {
    let status = LiveStatus {
        incarnation: run,
        sequence: 1,
        run,
        valid_s: 60,
        ..LiveStatus::default()
    };
    signed(key, mesh(), What::Status(status))
}

/// Connected with the first node alone.
fn hostile(scene: &mut Scene) -> PeerId {
    let hostile = NodeKey::generate().peer_id();
    let now = scene.now;
    let _ = scene.nodes[0].live.peer_connected(now, hostile, false);
    hostile
}

fn tell(scene: &mut Scene, from: PeerId, messages: Vec<LiveMessage>) {
    let now = scene.now;
    let heard = scene.nodes[0].live.receive(now, from, frame(messages));
    scene.obey(0, heard.unwrap());
}

#[test]
fn two_keys_that_speak_all_the_time_silence_nobody() {
    let mut scene = Scene::new(NODES);
    let from = hostile(&mut scene);
    let keys = [NodeKey::generate(), NodeKey::generate()];
    for second in 1..=300 {
        let said = keys.iter().map(|key| status(key, 1, second)).collect();
        tell(&mut scene, from, said);
        scene.run(Duration::from_secs(1));
    }
    for of in 0..NODES {
        let id = scene.nodes[of].id;
        for node in (0..NODES).filter(|node| *node != of) {
            let view = scene.nodes[node].live.view(scene.now, &id).unwrap();
            assert!(view.fresh_until > scene.now, "{of} is silent for {node}");
        }
    }
}

#[test]
fn keys_that_start_anew_all_the_time_delay_no_suspicion() {
    let mut scene = Scene::new(NODES);
    let from = hostile(&mut scene);
    // Those that come first in any order of ids.
    let mut keys: Vec<NodeKey> = (0..640).map(|_| NodeKey::generate()).collect();
    keys.sort_by_key(NodeKey::peer_id);
    keys.truncate(32);
    let mut run = 1;
    let mut flood = |scene: &mut Scene| {
        run += 1;
        tell(scene, from, keys.iter().map(|key| anew(key, run)).collect());
        scene.run(Duration::from_secs(1));
    };
    for _ in 0..60 {
        flood(&mut scene);
    }
    let victim = NODES - 1;
    scene.down.insert(victim);
    for witness in 0..4 {
        scene.lose(witness, victim);
    }
    let begun = scene.bytes;
    for _ in 0..10 {
        flood(&mut scene);
    }
    assert_eq!(scene.agreed(victim), Some(Suspended));
    let sent = (scene.bytes - begun) / 10;
    assert!(sent < NODES as u64 * 16 * 1024, "{sent} bytes a second");
}
