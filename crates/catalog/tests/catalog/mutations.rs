//! Altered bytes, signed again by their own author: Automerge's weak spot.

use std::collections::BTreeMap;

use polymath_proto::v1::SignedChange;
use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use prost::Message as _;

use crate::scene::{actor, body, chunk, crafted, quiet_sandbox, scene, valid_root};

#[test]
fn an_envelope_altered_anywhere_changes_nothing() {
    let scene = scene();
    let bytes = scene.first.encode_to_vec();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80] {
            let mut altered = bytes.clone();
            altered[at] ^= flip;
            let Ok(change) = SignedChange::decode(altered.as_slice()) else {
                continue;
            };
            let node = scene.attack(vec![change]);
            assert!(
                !node
                    .catalog
                    .index()
                    .peers()
                    .contains_key(&scene.hostile.peer_id()),
                "byte {at}"
            );
        }
    }
}

#[test]
fn changes_altered_at_every_position_by_their_own_author_harm_no_one_else() {
    quiet_sandbox();
    let scene = scene();
    let mut tried = 0;
    for (sequence, original) in [(1, &scene.first), (2, &scene.second)] {
        let body = body(&original.change);
        for at in 0..body.len() {
            for flip in [0x01, 0x02, 0x40, 0x80, 0xff] {
                let mut altered = body.to_vec();
                altered[at] ^= flip;
                let forged = scene.sign(1, sequence, chunk(1, &altered));
                let before = if sequence == 2 {
                    vec![scene.first.clone()]
                } else {
                    Vec::new()
                };
                let node = scene.attack(before.into_iter().chain([forged]).collect());
                // What the author said before stands, or is replaced by an offer that is well formed.
                let offer = node
                    .catalog
                    .index()
                    .peers()
                    .get(&scene.hostile.peer_id())
                    .cloned();
                assert!(sequence == 1 || offer.is_some());
                tried += 1;
            }
        }
    }
    assert!(tried > 2000, "{tried}");
}

#[test]
fn random_mutations_by_their_own_author_harm_no_one_else() {
    quiet_sandbox();
    let scene = scene();
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let mut outcomes = BTreeMap::<String, u32>::new();
    for _ in 0..4000 {
        let second = rng.next_u32().is_multiple_of(2);
        let original = if second { &scene.second } else { &scene.first };
        let mut bytes = body(&original.change).to_vec();
        for _ in 0..=rng.next_u32() % 4 {
            let at = rng.next_u32() as usize % bytes.len();
            match rng.next_u32() % 4 {
                0 => bytes[at] = rng.next_u32() as u8,
                1 => bytes.insert(at, rng.next_u32() as u8),
                2 => {
                    bytes.remove(at);
                }
                _ => bytes[at] = bytes[at].wrapping_add(1),
            }
        }
        let mut forged = if second {
            vec![scene.first.clone()]
        } else {
            Vec::new()
        };
        forged.push(scene.sign(1, if second { 2 } else { 1 }, chunk(1, &bytes)));
        // Whatever came of it, the author's next epoch is taken as if nothing had been.
        let renewed = crafted(actor(&scene.hostile.peer_id(), 2), |tx| {
            valid_root(tx);
        });
        forged.push(scene.sign(2, 1, renewed));
        let node = scene.attack(forged);
        assert_eq!(
            node.catalog.index().peers()[&scene.hostile.peer_id()].epoch,
            2
        );
        let taken = node.catalog.counters().changes - u64::from(second) - 1;
        *outcomes.entry(format!("taken {taken}")).or_default() += 1;
        for (refusal, n) in node.catalog.counters().refusals() {
            *outcomes.entry(refusal.to_string()).or_default() += n as u32;
        }
    }
    // The mutations reach every stage of the checks, not only the first.
    println!("{outcomes:?}");
    for stage in ["taken 1", "chunk", "continuity", "schema"] {
        assert!(outcomes.contains_key(stage), "{stage}: {outcomes:?}");
    }
}
