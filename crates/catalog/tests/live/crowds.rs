//! Keys cost nothing: what one peer that has hundreds of them can do to the others.

use std::time::Duration;

use polymath_catalog::live::{Live, LiveAction, LiveRefusal, Standing};
use polymath_proto::v1::{LiveMessage, LiveStatus};
use polymath_types::{LoadReport, NodeKey, PeerId};

use crate::scene::{config, frame, status, status_in, suspicion};

const TICK: Duration = Duration::from_millis(250);
const SECOND: Duration = Duration::from_secs(1);

/// A node, and the peer that brings it whatever it likes.
fn node(run: u64) -> (Live, PeerId) {
    let mut live = Live::new(config(&NodeKey::generate(), run));
    let peer = NodeKey::generate().peer_id();
    let _ = live.peer_connected(Duration::ZERO, peer, false);
    (live, peer)
}

/// Lets time pass; how often the node spoke.
fn run(live: &mut Live, now: &mut Duration, time: Duration) -> u64 {
    let (before, until) = (live.counters().published, *now + time);
    while *now < until {
        *now += TICK;
        let _ = live.tick(*now, LoadReport::default());
    }
    live.counters().published - before
}

#[test]
fn a_crowd_brought_by_one_peer_slows_nobodys_voice() {
    let (mut live, peer) = node(3);
    let mut now = SECOND;
    for _ in 0..2000 {
        let crowd: Vec<_> = (0..4).map(|_| status(&NodeKey::generate(), 1, 1)).collect();
        let _ = live.receive(now, peer, frame(crowd)).unwrap();
        let _ = live.tick(now, LoadReport::default());
        now += TICK;
    }
    assert!(live.authors() > 7000, "{}", live.authors());
    let spoken = run(&mut live, &mut now, SECOND * 3600);
    assert!(spoken >= 59, "{spoken} statuses in an hour");
}

#[test]
fn what_one_peer_brings_in_numbers_keeps_out_nothing_that_others_bring() {
    let (mut live, hostile) = node(3);
    let (honest, listener) = (NodeKey::generate().peer_id(), NodeKey::generate().peer_id());
    for peer in [honest, listener] {
        let _ = live.peer_connected(Duration::ZERO, peer, false);
    }
    let keys: Vec<NodeKey> = (0..64).map(|_| NodeKey::generate()).collect();
    let author = NodeKey::generate();
    let (mut now, mut told, mut bytes) = (SECOND, 0, 0);
    for sequence in 1..=120 {
        let crowd = keys.iter().map(|key| status(key, 1, sequence));
        let _ = live.receive(now, hostile, frame(crowd)).unwrap();
        let own = frame([status(&author, 1, sequence)]);
        let _ = live.receive(now, honest, own).unwrap();
        for action in live.tick(now, LoadReport::default()) {
            if let LiveAction::Send { peer, frame } = action
                && peer == listener
            {
                bytes += prost::Message::encoded_len(&frame);
                let id = author.peer_id().to_bytes();
                told += frame.messages.iter().filter(|m| m.author == id).count();
            }
        }
        now += SECOND;
    }
    assert!(
        told >= 118,
        "{told} of 120 of the honest one were passed on"
    );
    assert!(bytes < 120 * 8 * 1024, "{bytes}");
    assert!(live.counters().unsaid > 1000);
}

/// Of so many minutes, the part in which `keys` that one peer owns have suspended a peer that answers all they say.
fn suspended(keys: usize, minutes: u64) -> f64 {
    let key = NodeKey::generate();
    let subject_id = key.peer_id();
    let mut subject = Live::new(config(&key, 11));
    let (mut observer, liar) = node(13);
    let _ = subject.peer_connected(Duration::ZERO, liar, false);
    let witnesses: Vec<NodeKey> = (0..keys).map(|_| NodeKey::generate()).collect();
    let mut now = SECOND;
    // They are known for long.
    for all in witnesses.chunks(50) {
        let statuses = || frame(all.iter().map(|key| status(key, 1, 1)));
        let _ = observer.receive(now, liar, statuses()).unwrap();
        let _ = subject.receive(now, liar, statuses()).unwrap();
        now += SECOND * 5;
    }
    // What is on its way: to the subject or to the observer, 50 ms a hop.
    let mut wire: Vec<(Duration, bool, LiveMessage)> = Vec::new();
    let hop = TICK / 5;
    let (mut total, mut bad, mut next, mut accused) = (0u32, 0u32, 0, None::<LiveStatus>);
    let until = now + SECOND * 60 * u32::try_from(minutes).unwrap();
    while now < until {
        let mut actions = subject.tick(now, LoadReport::default());
        let _ = observer.tick(now, LoadReport::default());
        let (due, rest): (Vec<_>, Vec<_>) = wire.into_iter().partition(|(at, ..)| *at <= now);
        wire = rest;
        for (_, to_subject, message) in due {
            let node = if to_subject {
                &mut subject
            } else {
                &mut observer
            };
            let more = node.receive(now, liar, frame([message])).unwrap();
            actions.extend(more.into_iter().filter(|_| to_subject));
        }
        for action in actions {
            let LiveAction::Send { frame, .. } = action else {
                continue;
            };
            for message in frame.messages {
                let own = message.author == subject_id.to_bytes();
                let Some(said) = status_in(&message).filter(|_| own) else {
                    continue;
                };
                wire.push((now + hop, false, message));
                if accused
                    .as_ref()
                    .is_some_and(|a| a.sequence >= said.sequence)
                {
                    continue;
                }
                // As many as it takes, each in its turn.
                for _ in 0..8.min(keys) {
                    let known = (said.incarnation, said.sequence);
                    let word = suspicion(&witnesses[next % keys], subject_id, known);
                    next += 1;
                    wire.push((now + 2 * hop, false, word.clone()));
                    wire.push((now + 2 * hop, true, word));
                }
                accused = Some(said);
            }
        }
        total += 1;
        let view = observer.view(now, &subject_id);
        bad += u32::from(view.is_some_and(|v| v.standing == Standing::Suspended));
        now += hop;
    }
    f64::from(bad) / f64::from(total)
}

#[test]
fn hundreds_of_keys_suspend_a_peer_that_lives_for_moments_only() {
    for keys in [2, 20, 400] {
        let part = suspended(keys, 20);
        println!("{keys} keys: suspended {:.1} % of the time", 100.0 * part);
        assert!(part < 0.03, "{keys} keys: {part}");
    }
}

#[test]
fn a_witness_nobody_has_heard_of_is_not_heard() {
    let (mut live, peer) = node(3);
    let (subject, one, two) = (
        NodeKey::generate(),
        NodeKey::generate(),
        NodeKey::generate(),
    );
    let id = subject.peer_id();
    let mut now = SECOND;
    let _ = live
        .receive(now, peer, frame([status(&subject, 1, 5)]))
        .unwrap();
    now += SECOND * 60;
    let both = || [suspicion(&one, id, (1, 5)), suspicion(&two, id, (1, 5))];
    let _ = live.receive(now, peer, frame(both())).unwrap();
    let statuses = [status(&one, 1, 1), status(&two, 1, 1)];
    let _ = live.receive(now, peer, frame(statuses)).unwrap();
    let _ = live.receive(now, peer, frame(both())).unwrap();
    assert_eq!(live.counters().refused(LiveRefusal::Unheard), 4);
    assert_eq!(live.view(now, &id).unwrap().standing, Standing::Alive);
    now += SECOND * 10;
    let _ = live.receive(now, peer, frame(both())).unwrap();
    assert_eq!(live.view(now, &id).unwrap().standing, Standing::Suspended);
}

#[test]
fn one_old_suspicion_that_is_repeated_makes_nobody_speak() {
    let key = NodeKey::generate();
    let mut live = Live::new(config(&key, 3));
    let liar = NodeKey::generate();
    let peer = liar.peer_id();
    let mut now = SECOND;
    let _ = live.peer_connected(now, peer, false);
    let crowd: Vec<_> = (0..100)
        .map(|_| status(&NodeKey::generate(), 1, 1))
        .collect();
    let _ = live.receive(now, peer, frame(crowd)).unwrap();
    // Until the crowd has fallen silent.
    run(&mut live, &mut now, SECOND * 600);
    let undisturbed = run(&mut live, &mut now, SECOND * 600);
    let old = suspicion(&liar, key.peer_id(), (1, 0));
    let mut spoken = 0;
    for _ in 0..600 {
        let _ = live.receive(now, peer, frame([old.clone()])).unwrap();
        spoken += run(&mut live, &mut now, SECOND);
    }
    assert!(spoken <= undisturbed + 1, "{spoken} of {undisturbed}");
}
