#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_secs(600);

fn bounds(waiting: usize, slots: usize, peers: Option<usize>) -> Bounds {
    Bounds {
        waiting,
        places: [slots, 2, 2],
        peers,
        bytes: 1 << 20,
    }
}

/// The same few peers in every test; none is known by its order.
fn peer(n: u8) -> Caller {
    let key = polymath_types::PeerId::from_bytes(
        &[&[0, 36, 8, 1, 18, 32][..], &[n.wrapping_mul(37); 32]].concat(),
    );
    Caller::Peer(key.unwrap())
}

fn question(caller: Caller) -> Call {
    Call {
        caller,
        lane: Lane::Generate,
        class: Class::Interactive,
        bytes: 100,
    }
}

fn batch(caller: Caller) -> Call {
    Call {
        lane: Lane::Encode,
        class: Class::Batch,
        ..question(caller)
    }
}

/// Takes a call in and says whether it begins at once.
fn enter(queue: &mut Queue, call: Call) -> (CallId, bool) {
    let (id, evicted) = queue.enter(call, LONG).unwrap();
    assert_eq!(evicted, None);
    (id, queue.next() == Some(id))
}

/// Ends a call and says who is next.
fn end(queue: &mut Queue, id: CallId, took: Duration) -> Option<CallId> {
    queue.leave(id, took, true);
    queue.next()
}

#[test]
fn one_place_is_kept_for_this_machines_user() {
    let mut queue = Queue::new(bounds(4, 2, None));
    assert!(enter(&mut queue, question(peer(1))).1);
    assert!(!enter(&mut queue, question(peer(2))).1);
    assert_eq!(queue.free_for_peers(), 0);
    assert!(enter(&mut queue, question(Caller::Own)).1);
    // The only place there is goes to whoever comes.
    let mut queue = Queue::new(bounds(4, 1, None));
    assert!(enter(&mut queue, question(peer(1))).1);
}

#[test]
fn peers_get_as_many_places_as_the_operator_says() {
    for (most, expected) in [(1, 1), (3, 3), (4, 4), (9, 4)] {
        let mut queue = Queue::new(bounds(16, 4, Some(most)));
        let begun = (0..8).filter(|n| enter(&mut queue, question(peer(*n))).1);
        assert_eq!(begun.count(), expected, "{most}");
    }
    // In all lanes together.
    let mut queue = Queue::new(bounds(16, 4, Some(1)));
    assert!(enter(&mut queue, question(peer(1))).1);
    assert!(!enter(&mut queue, batch(peer(2))).1);
}

#[test]
fn own_calls_come_first_and_find_room_in_a_full_queue() {
    let mut queue = Queue::new(bounds(2, 1, None));
    let (running, _) = enter(&mut queue, question(peer(1)));
    let (early, _) = enter(&mut queue, question(peer(2)));
    let (late, _) = enter(&mut queue, question(peer(2)));
    let (own, evicted) = queue.enter(question(Caller::Own), LONG).unwrap();
    assert_eq!(evicted, Some(late));
    assert_eq!(end(&mut queue, running, Duration::ZERO), Some(own));
    assert_eq!(end(&mut queue, own, Duration::ZERO), Some(early));
}

#[test]
fn peers_take_turns_however_many_calls_each_has() {
    let mut queue = Queue::new(bounds(16, 1, None));
    let (mut running, _) = enter(&mut queue, question(peer(9)));
    let greedy: Vec<_> = (0..5)
        .map(|_| enter(&mut queue, question(peer(1))).0)
        .collect();
    let modest = [2, 3].map(|n| enter(&mut queue, question(peer(n))).0);
    let mut order = Vec::new();
    while let Some(next) = end(&mut queue, running, Duration::ZERO) {
        order.push(next);
        running = next;
    }
    assert_eq!(order[..3], [greedy[0], modest[0], modest[1]]);
    assert_eq!(order[3..], greedy[1..]);
}

#[test]
fn a_peer_at_work_comes_after_one_that_is_not() {
    let mut queue = Queue::new(bounds(16, 3, None));
    let (first, _) = enter(&mut queue, question(peer(1)));
    let (_second, _) = enter(&mut queue, question(peer(1)));
    let (_mine, _) = enter(&mut queue, question(peer(1)));
    let (theirs, _) = enter(&mut queue, question(peer(2)));
    assert_eq!(end(&mut queue, first, Duration::ZERO), Some(theirs));
}

#[test]
fn a_full_queue_makes_room_at_the_cost_of_whoever_has_most_in_it() {
    let mut queue = Queue::new(bounds(4, 1, None));
    enter(&mut queue, question(peer(9)));
    let greedy: Vec<_> = (0..4)
        .map(|_| enter(&mut queue, question(peer(1))).0)
        .collect();
    let full = queue.enter(question(peer(1)), LONG).unwrap_err();
    assert_eq!((full.why, full.waiting), (Why::Full, 4));
    let (_, first) = queue.enter(question(peer(2)), LONG).unwrap();
    let (_, second) = queue.enter(question(peer(2)), LONG).unwrap();
    assert_eq!((first, second), (Some(greedy[3]), Some(greedy[2])));
    // Two and two: nobody has a right to more.
    for n in [1, 2] {
        let full = queue.enter(question(peer(n)), LONG).unwrap_err();
        assert_eq!(full.why, Why::Full);
    }
}

#[test]
fn batches_are_shed_before_questions() {
    let mut queue = Queue::new(bounds(4, 1, None));
    enter(&mut queue, question(peer(8)));
    enter(&mut queue, batch(peer(8)));
    let (waits, _) = enter(&mut queue, batch(peer(1)));
    enter(&mut queue, question(peer(2)));
    // Half full.
    let shed = queue.enter(batch(peer(3)), LONG).unwrap_err();
    assert_eq!(shed.why, Why::Batch);
    enter(&mut queue, batch(Caller::Own));
    enter(&mut queue, question(peer(2)));
    enter(&mut queue, question(peer(4)));
    let (_, evicted) = queue.enter(question(peer(5)), LONG).unwrap();
    assert_eq!(evicted, Some(waits), "own batches stay");
}

#[test]
fn a_call_that_could_not_begin_in_time_is_refused_at_once_with_the_wait() {
    let mut queue = Queue::new(bounds(16, 1, None));
    let (id, _) = enter(&mut queue, question(peer(1)));
    // Nothing was measured: nobody can tell.
    let short = Duration::from_millis(1);
    let (guessed, _) = queue.enter(question(peer(2)), short).unwrap();
    let (second, took) = (end(&mut queue, id, Duration::from_secs(4)), 4);
    assert_eq!(
        (second, queue.service().unwrap().as_secs()),
        (Some(guessed), took)
    );
    // One is at work: four seconds; one more waits of another, and then one of mine: twelve.
    enter(&mut queue, question(peer(1)));
    enter(&mut queue, question(peer(3)));
    let late = queue.enter(question(peer(3)), Duration::from_secs(9));
    let late = late.unwrap_err();
    assert_eq!(late.why, Why::Late(Duration::from_secs(12)));
    assert_eq!(late.retry_after, Duration::from_secs(3));
    assert!(
        queue
            .enter(question(peer(3)), Duration::from_secs(12))
            .is_ok()
    );
    // Own calls wait for the one at work only.
    assert!(
        queue
            .enter(question(Caller::Own), Duration::from_secs(4))
            .is_ok()
    );
}

#[test]
fn callers_who_hang_up_early_do_not_make_answers_look_short() {
    let mut queue = Queue::new(bounds(4, 1, None));
    let (id, _) = enter(&mut queue, question(peer(1)));
    queue.leave(id, Duration::from_secs(8), true);
    let (id, _) = enter(&mut queue, question(peer(1)));
    queue.leave(id, Duration::from_millis(1), false);
    assert_eq!(queue.service(), Some(Duration::from_secs(8)));
    // Longer than the average it was at any rate.
    let (id, _) = enter(&mut queue, question(peer(1)));
    queue.leave(id, Duration::from_secs(16), false);
    assert_eq!(queue.service(), Some(Duration::from_secs(9)));
}

#[test]
fn held_texts_have_a_bound_of_which_a_quarter_is_own() {
    let mut queue = Queue::new(bounds(64, 1, None));
    let long = |caller| Call {
        bytes: 256 << 10,
        ..question(caller)
    };
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(enter(&mut queue, long(peer(1))).0);
    }
    let full = queue.enter(question(peer(2)), LONG).unwrap_err();
    assert_eq!(full.why, Why::Bytes);
    enter(&mut queue, long(Caller::Own));
    queue.leave(ids[2], Duration::ZERO, false);
    enter(&mut queue, question(peer(2)));
}

#[test]
fn a_pause_turns_away_whoever_waits_and_nobody_at_work() {
    let mut queue = Queue::new(bounds(8, 1, None));
    enter(&mut queue, question(peer(1)));
    let waiting: Vec<_> = (1..4)
        .map(|n| enter(&mut queue, question(peer(n))).0)
        .collect();
    enter(&mut queue, question(Caller::Own));
    let mut dropped = queue.drop_peers();
    dropped.sort_unstable();
    assert_eq!(dropped, waiting);
    assert_eq!((queue.waiting(), queue.at_work()), (1, 1));
}

#[derive(Debug, Clone)]
enum Step {
    Enter(u8, bool, bool, u64),
    /// Of the calls that are here, which, and whether it completed.
    Leave(prop::sample::Index, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..5, any::<bool>(), any::<bool>(), 0u64..40)
            .prop_map(|(who, encode, batch, budget)| Step::Enter(who, encode, batch, budget)),
        2 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(which, completed)| Step::Leave(which, completed)),
    ]
}

fn waits_of(queue: &Queue, caller: Caller) -> usize {
    match caller {
        Caller::Own => queue.own.len(),
        Caller::Peer(peer) => queue.peers.get(&peer).map_or(0, |l| l.waiting.len()),
    }
}

/// What holds between any two events.
fn check(queue: &Queue) {
    let bounds = &queue.bounds;
    assert!(queue.waiting() <= bounds.waiting);
    let waiting = queue.calls.values().filter(|h| !h.at_work);
    assert_eq!(waiting.clone().count(), queue.waiting());
    for lane in [Lane::Generate, Lane::Encode, Lane::Outside] {
        let [total, peers] = queue.in_lane(lane);
        assert!(total <= bounds.places[lane as usize]);
        assert!(peers <= queue.peer_places(lane));
    }
    assert!(bounds.peers.is_none_or(|n| queue.peers_at_work() <= n));
    // No place stays empty while somebody waits who may have it.
    assert!(waiting.clone().all(|h| !queue.may_start(&h.call)));
    assert!(queue.peers.values().all(|l| !l.waiting.is_empty()));
}

fn pump(queue: &mut Queue) -> Vec<CallId> {
    let mut begun = Vec::new();
    loop {
        let own: Vec<_> = queue.own.iter().copied().collect();
        let Some(id) = queue.next() else {
            return begun;
        };
        let call = queue.calls[&id].call;
        // No peer overtakes this machine's user on a lane.
        let overtaken = |o: &CallId| queue.calls[o].call.lane == call.lane;
        assert!(call.caller == Caller::Own || !own.iter().any(overtaken));
        begun.push(id);
    }
}

proptest! {
    #[test]
    fn whatever_happens_bounds_and_shares_hold(
        waiting in 1usize..8,
        slots in 1usize..5,
        peers in prop::option::of(1usize..6),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut queue = Queue::new(bounds(waiting, slots, peers));
        let mut here: Vec<CallId> = Vec::new();
        for step in steps {
            match step {
                Step::Enter(who, encode, batch, budget) => {
                    let caller = if who == 0 { Caller::Own } else { peer(who) };
                    let call = Call {
                        caller,
                        lane: if encode { Lane::Encode } else { Lane::Generate },
                        class: if batch { Class::Batch } else { Class::Interactive },
                        bytes: 10,
                    };
                    let mine = waits_of(&queue, caller);
                    let most = queue.peers.values().map(|l| l.waiting.len()).max().unwrap_or(0);
                    let before: BTreeMap<_, _> = queue.calls.iter().map(|(id, h)| (*id, h.call)).collect();
                    match queue.enter(call, Duration::from_secs(budget)) {
                        Ok((id, evicted)) => {
                            here.push(id);
                            if let Some(victim) = evicted {
                                here.retain(|h| *h != victim);
                                let lost = before[&victim];
                                prop_assert!(lost.caller != Caller::Own);
                                let by_class = call.class == Class::Interactive && lost.class == Class::Batch;
                                prop_assert!(by_class || caller == Caller::Own || most >= mine + 2);
                            }
                        }
                        Err(refusal) => match refusal.why {
                            Why::Full if caller == Caller::Own => prop_assert_eq!(queue.peers.len(), 0),
                            Why::Full => prop_assert!(most <= mine + 1),
                            Why::Batch => prop_assert!(batch && caller != Caller::Own),
                            Why::Late(wait) => prop_assert!(wait > Duration::from_secs(budget)),
                            Why::Bytes | Why::Evicted => prop_assert!(false, "{refusal:?}"),
                        },
                    }
                }
                Step::Leave(which, completed) => {
                    if !here.is_empty() {
                        let id = here.swap_remove(which.index(here.len()));
                        queue.leave(id, Duration::from_secs(3), completed);
                    }
                }
            }
            pump(&mut queue);
            check(&queue);
        }
        // Everybody who is still here gets a turn.
        let mut begun: Vec<CallId> = queue.calls.iter().filter(|(_, h)| h.at_work).map(|(id, _)| *id).collect();
        while let Some(id) = begun.pop() {
            queue.leave(id, Duration::from_secs(1), true);
            begun.extend(pump(&mut queue));
            check(&queue);
        }
        prop_assert!(queue.calls.is_empty() && queue.peers.is_empty() && queue.at_work.is_empty());
    }

    #[test]
    fn a_lone_question_waits_for_one_turn_of_each_other_peer_at_most(
        crowd in prop::collection::vec(0usize..6, 1..6),
    ) {
        let mut queue = Queue::new(bounds(64, 1, None));
        let (mut running, _) = enter(&mut queue, question(peer(200)));
        for (n, calls) in crowd.iter().enumerate() {
            for _ in 0..*calls {
                enter(&mut queue, question(peer(n as u8 + 1)));
            }
        }
        let (lone, _) = enter(&mut queue, question(peer(100)));
        let mut turns = 0;
        loop {
            running = end(&mut queue, running, Duration::ZERO).unwrap();
            if running == lone {
                break;
            }
            turns += 1;
        }
        prop_assert!(turns <= crowd.iter().filter(|n| **n > 0).count());
    }
}
