//! Peers that die, are slow, or fall silent: what becomes of the questions that they had.
//!
//! Real daemons; for volume scripted experts stand in for models. The small sizes run with all tests. The
//! large ones print what they measured; `POLYMATH_FAILURES` says how many questions are asked:
//!
//! ```text
//! POLYMATH_FAILURES=10000 cargo nextest run --release --workspace --run-ignored only \
//!     --no-capture -E 'test(in_full)'
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use polymath_testkit::{Lab, Node, eventually};
use polymath_tests::{
    asker::{Asker, End, Outcome},
    script::Line,
};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, block_in_place},
    time::{Instant, sleep},
};

/// What a deadline may be missed by in telling: the machine runs a dozen daemons on few cores.
const TELLING: Duration = Duration::from_secs(1);

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How many questions the large sizes ask.
fn questions() -> u64 {
    std::env::var("POLYMATH_FAILURES").map_or(10_000, |n| n.parse().unwrap())
}

/// Which transport the peers listen on; both, as `polymath up` does, unless told otherwise.
fn listen() -> String {
    let both = "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/udp/0/quic-v1";
    std::env::var("POLYMATH_TEST_LISTEN").unwrap_or_else(|_| both.into())
}

/// Peers in pairs: both of a pair serve the same expert.
struct Mesh {
    lab: Arc<Lab>,
    _door: Node,
    asker: Node,
    asking: Arc<Asker>,
    peers: Vec<Option<Node>>,
    ids: Vec<String>,
}

impl Mesh {
    /// `slowness` of each peer, one after the other.
    async fn new(slowness: &[u32], replicas: usize, most: usize) -> Self {
        let (lab, door, asker, peers) = block_in_place(|| {
            let lab = Lab::new();
            let door = lab.up("door", &[]);
            let peers: Vec<Node> = slowness
                .iter()
                .enumerate()
                .map(|(n, slow)| {
                    lab.join(&format!("p{n}"), &door);
                    start(&lab, n, replicas, *slow)
                })
                .collect();
            lab.join("asker", &door);
            let asker = lab.up("asker", &["--client"]);
            let experts = slowness.len() / replicas;
            eventually("all replicas are known", || {
                let known = asker.cli(&["experts", "--json"]).run().ok().json();
                let known = known["experts"].as_array()?.clone();
                let whole = known
                    .iter()
                    .filter(|e| e["peers"].as_array().map(Vec::len) == Some(replicas));
                (whole.count() == experts).then_some(())
            });
            (lab, door, asker, peers)
        });
        let asking = Asker::new(&lab.home("asker"), most).await;
        Self {
            lab: Arc::new(lab),
            _door: door,
            asker,
            asking,
            ids: peers.iter().map(Node::peer).collect(),
            peers: peers.into_iter().map(Some).collect(),
        }
    }

    fn counters(&self) -> String {
        let status = block_in_place(|| self.asker.status());
        ["made", "won", "over_budget", "pointless"]
            .map(|name| format!("{} {name}", status["counters"][format!("hedges_{name}")]))
            .join(", ")
    }
}

fn expert(n: usize) -> String {
    format!("scripted-{n}")
}

/// Peer `n` on its home.
fn start(lab: &Lab, n: usize, replicas: usize, slowness: u32) -> Node {
    let program = Path::new(env!("CARGO_BIN_EXE_scripted-peer"));
    let (slowness, expert) = (slowness.to_string(), expert(n / replicas));
    lab.run(program, &format!("p{n}"), &[&listen(), &slowness, &expert])
}

/// Questions, and what each asks for.
#[derive(Clone, Copy)]
struct Load {
    questions: u64,
    at_once: usize,
    tokens: u32,
    first: Duration,
    every: Duration,
    deadline: Duration,
}

impl Load {
    fn line(&self, id: u64) -> Line {
        // Half as long to one and a half times as long, the same in each run.
        let part = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        Line {
            id,
            tokens: self.tokens,
            first: self.first / 2 + self.first * u32::try_from(part).unwrap() / 1024,
            every: self.every,
        }
    }

    /// Asks all of it; `choose` says which expert, `done` counts the ends.
    async fn run(
        self,
        asker: Arc<Asker>,
        choose: impl Fn(u64) -> usize,
        done: Arc<AtomicUsize>,
    ) -> Vec<Outcome> {
        let places = Arc::new(Semaphore::new(self.at_once));
        let mut all = JoinSet::new();
        for id in 0..self.questions {
            let place = Arc::clone(&places).acquire_owned().await.unwrap();
            let (asker, line, expert) = (Arc::clone(&asker), self.line(id), expert(choose(id)));
            let done = Arc::clone(&done);
            all.spawn(async move {
                let outcome = asker.ask(line, &expert, self.deadline).await;
                drop(place);
                done.fetch_add(1, Relaxed);
                outcome
            });
        }
        all.join_all().await
    }
}

/// A time without a peer.
struct Absence {
    peer: usize,
    from: Instant,
    to: Option<Instant>,
    /// The questions it was answering.
    working: Vec<u64>,
}

/// Whether one peer or another was away at each moment of a question.
fn without_a_replica(outcome: &Outcome, absences: &[Absence], replicas: usize) -> bool {
    let (from, to) = (outcome.asked, outcome.asked + outcome.took);
    let pair = (0..usize::MAX)
        .find(|n| expert(*n) == outcome.expert)
        .unwrap();
    (pair * replicas..(pair + 1) * replicas).all(|peer| {
        let mut of = absences.iter().filter(|a| a.peer == peer);
        of.any(|a| a.from <= from && a.to.is_none_or(|back| back >= to))
    })
}

struct Kills {
    load: Load,
    pairs: usize,
    /// How far apart they are.
    each: Duration,
    /// How long a killed one stays away.
    away: Duration,
    /// Questions that it is answering when it dies, at least.
    working: usize,
}

impl Kills {
    async fn run(self) {
        let Self {
            load,
            pairs,
            each,
            away,
            working,
        } = self;
        let mut mesh = Mesh::new(&vec![1; 2 * pairs], 2, load.at_once).await;
        let (done, hot) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let choosing = Arc::clone(&hot);
        // Most questions go where the next peer will die, so that many are on it then.
        let choose = move |id| match id % 10 {
            0 => usize::try_from(id / 10).unwrap() % pairs,
            _ => choosing.load(Relaxed),
        };
        let begun = Instant::now();
        let asked = load.run(Arc::clone(&mesh.asking), choose, Arc::clone(&done));
        let asked = tokio::spawn(asked);
        let mut absences: Vec<Absence> = Vec::new();
        let back = Arc::new(Mutex::new(Vec::new()));
        let mut next = begun + each;
        for n in 0.. {
            let (pair, peer) = (n % pairs, 2 * (n % pairs) + n / pairs % 2);
            hot.store(pair, Relaxed);
            // Until it is time, and as many questions are there.
            let id = mesh.ids[peer].clone();
            while !asked.is_finished()
                && (Instant::now() < next || mesh.asking.working_at(&id).len() < working)
            {
                sleep(millis(20)).await;
            }
            for (peer, node, at) in back.lock().unwrap().drain(..) {
                mesh.peers[peer] = Some(node);
                let absence = absences.iter_mut().rfind(|a: &&mut Absence| a.peer == peer);
                absence.unwrap().to = Some(at);
            }
            if asked.is_finished() {
                break;
            }
            let Some(node) = mesh.peers[peer].take() else {
                continue;
            };
            next = Instant::now() + each;
            absences.push(Absence {
                peer,
                from: Instant::now(),
                to: None,
                working: mesh.asking.working_at(&id),
            });
            block_in_place(|| node.kill());
            let (lab, back) = (Arc::clone(&mesh.lab), Arc::clone(&back));
            tokio::spawn(async move {
                sleep(away).await;
                let node = tokio::task::spawn_blocking(move || start(&lab, peer, 2, 1));
                let node = node.await.unwrap();
                back.lock().unwrap().push((peer, node, Instant::now()));
            });
        }
        let outcomes = asked.await.unwrap();
        let took = begun.elapsed();
        let (apart, counted): (Vec<_>, Vec<_>) = outcomes
            .iter()
            .partition(|o| without_a_replica(o, &absences, 2));
        let is_answered = |o: &&&Outcome| matches!(o.end, End::Answered { .. });
        let answered = counted.iter().filter(is_answered).count();
        let on_the_dying: HashSet<u64> = absences.iter().flat_map(|a| a.working.clone()).collect();
        let theirs = counted.iter().filter(|o| on_the_dying.contains(&o.line.id));
        let saved = theirs.clone().filter(is_answered).count();
        let at_each: Vec<usize> = absences.iter().map(|a| a.working.len()).collect();
        println!(
            "{} questions in {took:.1?}, at most {} at once, answers of {:.1?} and more; {} peers in pairs, {} killed, away {away:?}; on the dying one at each kill {at_each:?}",
            outcomes.len(),
            load.at_once,
            load.first / 2 + load.every * (load.tokens - 1),
            2 * pairs,
            absences.len(),
        );
        println!(
            "answered in full, each token once: {answered} of {} ({:.3} %); of those on a peer as it died: {saved} of {}; without any live replica throughout: {}",
            counted.len(),
            100.0 * answered as f64 / counted.len() as f64,
            theirs.count(),
            apart.len(),
        );
        println!("hedges: {}", mesh.counters());
        for o in &counted {
            if !matches!(o.end, End::Answered { .. }) {
                println!(
                    "{} on {:?} after {:.1?}: {:?}",
                    o.line.id, o.peers, o.took, o.end
                );
            }
        }
        for o in &outcomes {
            assert_ne!(o.end, End::Hung, "{o:?}");
            assert!(!matches!(o.end, End::Wrong(_)), "{o:?}");
        }
        assert!(
            !absences.is_empty(),
            "the questions ended before the first kill"
        );
        assert!(at_each.iter().all(|n| *n >= working), "{at_each:?}");
        assert!(1000 * (counted.len() - answered) <= counted.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_on_peers_that_are_killed_are_answered_by_others_no_token_lost_or_doubled() {
    Kills {
        load: Load {
            questions: 1000,
            at_once: 100,
            tokens: 25,
            first: millis(200),
            every: millis(80),
            deadline: secs(40),
        },
        pairs: 2,
        each: secs(5),
        away: secs(2),
        working: 20,
    }
    .run()
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and many daemons"]
async fn questions_on_peers_that_are_killed_in_full() {
    Kills {
        load: Load {
            questions: questions(),
            at_once: 750,
            tokens: 100,
            first: millis(400),
            every: millis(200),
            deadline: secs(120),
        },
        pairs: 5,
        // One in ten each minute.
        each: secs(60),
        away: secs(10),
        working: 300,
    }
    .run()
    .await;
}

/// The time below which so many percent lie.
fn percentile(outcomes: &[Outcome], percent: usize) -> Duration {
    let mut times: Vec<Duration> = outcomes.iter().map(|o| o.took).collect();
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100) - 1]
}

/// Asks two replicas, or three of which the last is ten times slower.
async fn beside_a_slow_one(load: Load, slowness: &[u32]) -> (Vec<Outcome>, usize) {
    let mesh = Mesh::new(slowness, slowness.len(), load.at_once).await;
    let done = Arc::default();
    let outcomes = load.run(Arc::clone(&mesh.asking), |_| 0, done).await;
    let by_last = |o: &&Outcome| o.peers.last() == mesh.ids.last();
    let by_the_slow = match slowness.last() {
        Some(1) => 0,
        _ => outcomes.iter().filter(by_last).count(),
    };
    println!(
        "{} replicas: p50 {:.2?}, p99 {:.2?}, longest {:.2?}; answered by the slow one {}; hedges: {}",
        slowness.len(),
        percentile(&outcomes, 50),
        percentile(&outcomes, 99),
        percentile(&outcomes, 100),
        by_the_slow,
        mesh.counters(),
    );
    for o in &outcomes {
        assert!(matches!(o.end, End::Answered { .. }), "{o:?}");
    }
    (outcomes, by_the_slow)
}

const BESIDE_A_SLOW_ONE: Load = Load {
    questions: 1500,
    at_once: 30,
    tokens: 5,
    first: millis(200),
    every: millis(20),
    deadline: secs(30),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_ten_times_slower_gets_few_questions_and_second_calls_stay_within_the_budget() {
    let (outcomes, by_the_slow) = beside_a_slow_one(BESIDE_A_SLOW_ONE, &[1, 1, 10]).await;
    assert!(by_the_slow * 10 < outcomes.len(), "{by_the_slow}");
    let hedged = |o: &&Outcome| matches!(o.end, End::Answered { hedged: true, .. });
    let hedged = outcomes.iter().filter(hedged).count();
    // The first ones cannot know; and doubled is one in twenty at most, and four more.
    assert!(hedged * 20 <= outcomes.len() + 20 * 5, "{hedged}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "asserts times, for a machine without other work"]
async fn beside_a_replica_ten_times_slower_in_full() {
    let load = Load {
        questions: questions(),
        at_once: 60,
        ..BESIDE_A_SLOW_ONE
    };
    let without = percentile(&beside_a_slow_one(load, &[1, 1]).await.0, 99);
    let with = percentile(&beside_a_slow_one(load, &[1, 1, 10]).await.0, 99);
    println!(
        "p99 {:.2} times that without it",
        with.as_secs_f64() / without.as_secs_f64()
    );
    assert!(with.as_secs_f64() <= 1.3 * without.as_secs_f64());
}

/// Half of eight peers fall silent: one of each of the first two pairs, and the third pair.
async fn half_fall_silent(load: Load) {
    let mesh = Mesh::new(&[1; 8], 2, load.at_once).await;
    let done = Arc::new(AtomicUsize::new(0));
    let choose = |id| usize::try_from(id).unwrap() % 4;
    let asked = load.run(Arc::clone(&mesh.asking), choose, Arc::clone(&done));
    let asked = tokio::spawn(asked);
    while done.load(Relaxed) < usize::try_from(load.questions / 5).unwrap() {
        sleep(millis(10)).await;
    }
    let stopped = Instant::now();
    let silent = [0, 2, 4, 5].map(|n| mesh.peers[n].as_ref().unwrap());
    block_in_place(|| silent.iter().for_each(|peer| peer.signal("STOP")));
    let outcomes = asked.await.unwrap();
    block_in_place(|| silent.iter().for_each(|peer| peer.signal("CONT")));
    let answered = |o: &&Outcome| matches!(o.end, End::Answered { .. });
    let alone = |o: &&Outcome| o.expert == expert(2) && o.asked + o.took >= stopped;
    let (apart, counted): (Vec<_>, Vec<_>) = outcomes.iter().partition(alone);
    let longest = outcomes.iter().map(|o| o.took).max().unwrap();
    println!(
        "{} questions, deadline {:?}; half of 8 peers silent from {:.1?} on: answered {} of {} with a replica that lived, {} of {} without; longest {longest:.2?}; hedges: {}",
        outcomes.len(),
        load.deadline,
        outcomes
            .iter()
            .map(|o| stopped.saturating_duration_since(o.asked))
            .max()
            .unwrap(),
        counted.iter().copied().filter(answered).count(),
        counted.len(),
        apart.iter().copied().filter(answered).count(),
        apart.len(),
        mesh.counters(),
    );
    for o in &outcomes {
        match &o.end {
            End::Answered { total, .. } => assert!(*total <= load.deadline, "{o:?}"),
            End::Failed(_) => {}
            End::Wrong(_) | End::Hung => panic!("{o:?}"),
        }
        assert!(o.took <= load.deadline + TELLING, "{o:?}");
    }
    for o in counted {
        assert!(matches!(o.end, End::Answered { .. }), "{o:?}");
    }
}

const HALF_SILENT: Load = Load {
    questions: 400,
    at_once: 40,
    tokens: 20,
    first: millis(200),
    every: millis(50),
    deadline: secs(15),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_half_the_peers_silent_every_question_ends_within_its_deadline() {
    half_fall_silent(HALF_SILENT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn with_half_the_peers_silent_in_full() {
    half_fall_silent(Load {
        questions: questions(),
        at_once: 300,
        ..HALF_SILENT
    })
    .await;
}
