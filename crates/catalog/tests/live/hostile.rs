//! What strangers try.

use std::time::Duration;

use polymath_catalog::live::{LIVE_FRAME_BYTES, Live, LiveFrameError, LiveRefusal, Standing};
use polymath_proto::v1::{LiveFrame, LiveMessage, LiveStatus, live_statement::What};
use polymath_types::{LoadReport, MeshId, NodeKey, PeerId};

use crate::scene::{config, frame, mesh, signed, status, suspicion};

const NOW: Duration = Duration::from_secs(10);

/// One node, and a peer of it that is hostile.
fn node() -> (Live, PeerId) {
    let mut live = Live::new(config(&NodeKey::generate(), 1));
    let peer = NodeKey::generate().peer_id();
    let _ = live.peer_connected(NOW, peer, false);
    (live, peer)
}

fn hear(
    live: &mut Live,
    now: Duration,
    peer: PeerId,
    messages: impl IntoIterator<Item = LiveMessage>,
) {
    let _ = live.receive(now, peer, frame(messages)).unwrap();
}

fn standing(live: &Live, of: &NodeKey) -> Option<Standing> {
    live.view(NOW, &of.peer_id()).map(|v| v.standing)
}

#[test]
fn what_its_author_did_not_sign_for_this_mesh_is_refused_and_its_bringer_cut_off() {
    let (mut live, peer) = node();
    let (author, other) = (NodeKey::generate(), NodeKey::generate());
    let mut forged = status(&author, 1, 1);
    forged.signature = status(&other, 1, 1).signature;
    let mut altered = status(&author, 1, 1);
    altered.statement = status(&author, 1, 2).statement;
    let what = LiveStatus {
        incarnation: 1,
        ..LiveStatus::default()
    };
    let elsewhere = signed(&author, MeshId::from_bytes([8; 32]), What::Status(what));
    hear(&mut live, NOW, peer, [forged.clone(), altered, elsewhere]);
    assert_eq!(live.counters().refused(LiveRefusal::Signature), 3);
    assert_eq!(live.authors(), 0);
    let mut ended = None;
    for _ in 0..40 {
        ended = live.receive(NOW, peer, frame([forged.clone()])).err();
    }
    assert!(
        matches!(ended, Some(LiveFrameError::Misbehaving { .. })),
        "{ended:?}"
    );
    live.peer_disconnected(&peer);
    assert!(
        live.peer_connected(NOW, peer, false).is_empty(),
        "a new connection wipes out nothing"
    );
}

#[test]
fn frames_too_large_or_of_strangers_or_of_another_version_end_their_stream() {
    let (mut live, peer) = node();
    let author = NodeKey::generate();
    let large = vec![status(&author, 1, 1); LIVE_FRAME_BYTES / 100];
    assert!(matches!(
        live.receive(NOW, peer, frame(large)),
        Err(LiveFrameError::TooLarge { .. })
    ));
    let stranger = PeerId::random();
    assert_eq!(
        live.receive(NOW, stranger, frame([])),
        Err(LiveFrameError::NotConnected)
    );
    let later = LiveFrame {
        version: 99,
        messages: Vec::new(),
    };
    assert!(matches!(
        live.receive(NOW, peer, later),
        Err(LiveFrameError::Version(_))
    ));
}

#[test]
fn an_old_status_never_wins_and_never_prolongs() {
    let (mut live, peer) = node();
    let author = NodeKey::generate();
    hear(&mut live, NOW, peer, [status(&author, 1, 5)]);
    let before = live.view(NOW, &author.peer_id()).unwrap();
    let later = NOW + Duration::from_secs(50);
    hear(
        &mut live,
        later,
        peer,
        [status(&author, 1, 5), status(&author, 1, 4)],
    );
    assert_eq!(live.view(later, &author.peer_id()), Some(before));
    assert_eq!(live.counters().refused(LiveRefusal::Repeat), 1);
    assert_eq!(live.counters().refused(LiveRefusal::Stale), 1);
}

#[test]
fn no_number_locks_an_author_out() {
    let (mut live, peer) = node();
    let author = NodeKey::generate();
    for last in [u64::MAX / 2, u64::MAX - 1, u64::MAX] {
        hear(&mut live, NOW, peer, [status(&author, last, u64::MAX)]);
        let next = status(&author, last.wrapping_add(1), 1);
        hear(&mut live, NOW, peer, [next]);
    }
    assert_eq!(live.counters().statuses, 6);
}

#[test]
fn a_node_steps_over_what_others_hold_of_it_whatever_the_number() {
    let key = NodeKey::generate();
    let mut live = Live::new(config(&key, 5));
    let peer = NodeKey::generate().peer_id();
    let _ = live.peer_connected(NOW, peer, false);
    let mut now = NOW;
    // Distances below half a circle: beyond it, it is later already.
    for held in [7, u64::MAX / 2, u64::MAX - 9, u64::MAX] {
        hear(&mut live, now, peer, [status(&key, held, u64::MAX)]);
        now += Duration::from_secs(2);
        let actions = live.tick(now, LoadReport::default());
        let told = actions.iter().find_map(|a| match a {
            polymath_catalog::live::LiveAction::Send { frame, .. } => {
                frame.messages.iter().find_map(crate::scene::status_in)
            }
            _ => None,
        });
        let told = told.unwrap().incarnation;
        assert!(told.wrapping_sub(held).cast_signed() > 0, "{held}: {told}");
    }
}

#[test]
fn a_suspicion_counts_only_about_the_status_that_is_held() {
    let (mut live, peer) = node();
    let (subject, one, two) = (
        NodeKey::generate(),
        NodeKey::generate(),
        NodeKey::generate(),
    );
    let id = subject.peer_id();
    hear(
        &mut live,
        NOW,
        peer,
        [status(&one, 1, 1), status(&two, 1, 1)],
    );
    hear(
        &mut live,
        NOW,
        peer,
        [suspicion(&one, id, (1, 5)), suspicion(&two, id, (1, 5))],
    );
    assert_eq!(standing(&live, &subject), None, "nobody heard of it");
    hear(&mut live, NOW, peer, [status(&subject, 1, 5)]);
    let far = (u64::MAX / 2, u64::MAX);
    hear(
        &mut live,
        NOW,
        peer,
        [suspicion(&one, id, far), suspicion(&two, id, far)],
    );
    assert_eq!(standing(&live, &subject), Some(Standing::Alive));
    assert_eq!(live.counters().refused(LiveRefusal::Unproven), 4);
    hear(
        &mut live,
        NOW,
        peer,
        [suspicion(&one, id, (1, 5)), suspicion(&two, id, (1, 5))],
    );
    assert_eq!(standing(&live, &subject), Some(Standing::Suspended));
    hear(&mut live, NOW, peer, [status(&subject, 1, 6)]);
    assert_eq!(standing(&live, &subject), Some(Standing::Alive));
    hear(
        &mut live,
        NOW,
        peer,
        [suspicion(&one, id, (1, 5)), suspicion(&two, id, (1, 5))],
    );
    assert_eq!(standing(&live, &subject), Some(Standing::Alive), "replayed");
}

#[test]
fn one_witness_counts_once_and_nobody_is_witness_against_itself() {
    let (mut live, peer) = node();
    let (subject, one) = (NodeKey::generate(), NodeKey::generate());
    let id = subject.peer_id();
    hear(
        &mut live,
        NOW,
        peer,
        [status(&subject, 1, 5), status(&one, 1, 1)],
    );
    hear(
        &mut live,
        NOW,
        peer,
        [
            suspicion(&one, id, (1, 5)),
            suspicion(&one, id, (1, 5)),
            suspicion(&subject, id, (1, 5)),
        ],
    );
    assert_eq!(standing(&live, &subject), Some(Standing::Alive));
}

#[test]
fn a_suspicion_that_ran_out_does_not_come_back() {
    let (mut live, peer) = node();
    let (subject, one, two) = (
        NodeKey::generate(),
        NodeKey::generate(),
        NodeKey::generate(),
    );
    let id = subject.peer_id();
    let both = || [suspicion(&one, id, (1, 5)), suspicion(&two, id, (1, 5))];
    let statuses = [
        status(&subject, 1, 5),
        status(&one, 1, 1),
        status(&two, 1, 1),
    ];
    hear(&mut live, NOW, peer, statuses);
    hear(&mut live, NOW, peer, both());
    assert_eq!(standing(&live, &subject), Some(Standing::Suspended));
    let later = NOW + Duration::from_secs(601);
    let _ = live.tick(later, LoadReport::default());
    hear(&mut live, later, peer, both());
    let view = live.view(later, &id).unwrap();
    assert_eq!(view.standing, Standing::Alive);
    assert!(view.fresh_until < later, "it is silent");
}

#[test]
fn a_flood_of_authors_is_bounded_and_displaces_nobody_who_is_connected() {
    let key = NodeKey::generate();
    let mut live = Live::new(polymath_catalog::live::LiveConfig {
        authors: 50,
        ..config(&key, 1)
    });
    let friends: Vec<NodeKey> = (0..10).map(|_| NodeKey::generate()).collect();
    for friend in &friends {
        let peer = friend.peer_id();
        let _ = live.peer_connected(NOW, peer, false);
        hear(&mut live, NOW, peer, [status(friend, 1, 1)]);
    }
    let hostile = NodeKey::generate().peer_id();
    let _ = live.peer_connected(NOW, hostile, false);
    for second in 0..30 {
        let now = NOW + Duration::from_secs(second);
        let flood = (0..60).map(|_| status(&NodeKey::generate(), 1, 1));
        hear(&mut live, now, hostile, flood.collect::<Vec<_>>());
        let _ = live.tick(now, LoadReport::default());
        assert!(live.authors() <= 50 && live.waiting() <= 51);
    }
    for friend in &friends {
        assert_eq!(standing(&live, friend), Some(Standing::Alive));
    }
    // A member that is known to others only still gets in.
    let late = NodeKey::generate();
    hear(
        &mut live,
        NOW + Duration::from_secs(40),
        friends[0].peer_id(),
        [status(&late, 1, 1)],
    );
    assert_eq!(standing(&live, &late), Some(Standing::Alive));
}

#[test]
fn garbage_is_no_message() {
    let (mut live, peer) = node();
    let good = status(&NodeKey::generate(), 1, 1);
    let mut long = good.clone();
    long.statement = vec![0; 300].into();
    let mut short = good.clone();
    short.signature = vec![0; 63].into();
    let mut nobody = good;
    nobody.author = vec![0; 38].into();
    hear(
        &mut live,
        NOW,
        peer,
        [long, short, nobody, LiveMessage::default()],
    );
    assert_eq!(live.counters().refused(LiveRefusal::Form), 4);
    assert_eq!(mesh(), mesh());
}
