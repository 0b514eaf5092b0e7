//! Twenty observers, six of whom lie, each with fifty times the volume.
#![allow(clippy::unwrap_used)]

use polymath_types::{Cell, NodeKey, Weighed};
use proptest::prelude::*;

use super::*;

mod copycats;
mod small_words;

/// Somebody offers whatever there is.
const ALL: Offered<'static> = &|_| true;

const EXPERTS: u8 = 9;
const CLUSTERS: u16 = 8;
const HONEST: usize = 14;
const LIARS: usize = 6;
const VOLUME: u32 = 50;

fn book() -> CodebookId {
    CodebookId::from_bytes([1; 32])
}

fn expert(n: u8) -> ExpertId {
    ExpertId::from_bytes([n; 32])
}

fn cell(e: u8, cluster: u16) -> Cell {
    Cell {
        codebook: book(),
        expert: expert(e),
        cluster,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[allow(clippy::cast_precision_loss)]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn peer(&mut self) -> PeerId {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.next().to_be_bytes());
        polymath_types::Keypair::ed25519_from_bytes(seed)
            .unwrap()
            .public()
            .to_peer_id()
    }
}

/// How good each expert is in each cluster: one is much better in each.
fn truth(dice: &mut Dice) -> Vec<Vec<f64>> {
    let mut all: Vec<Vec<f64>> = (0..EXPERTS)
        .map(|_| (0..CLUSTERS).map(|_| 0.2 + 0.4 * dice.unit()).collect())
        .collect();
    for cluster in 0..CLUSTERS {
        let best = (dice.next() % u64::from(EXPERTS)) as usize;
        all[best][usize::from(cluster)] = 0.75 + 0.15 * dice.unit();
    }
    all
}

/// Outcomes that are as good as `mean` says.
fn drawn(dice: &mut Dice, count: u32, mean: f64) -> Evidence {
    let good = (0..count).filter(|_| dice.unit() < mean).count();
    let reward = 1000 * u32::try_from(good).unwrap();
    Evidence { count, reward }
}

fn honest(dice: &mut Dice, truth: &[Vec<f64>], count: impl Fn(&mut Dice) -> u32) -> Observations {
    let mut cells = Vec::new();
    for (e, of_expert) in (0..).zip(truth) {
        for (cluster, mean) in (0..).zip(of_expert) {
            let count = count(dice);
            if count > 0 {
                cells.push((cell(e, cluster), drawn(dice, count, *mean)));
            }
        }
    }
    cells.into_iter().collect()
}

#[derive(Debug, Clone, Copy)]
enum Lie {
    PraiseTheWorst,
    DamnTheBest,
    Invert,
    Random,
    /// All liars praise one expert, and tell the truth of the others.
    Collude,
    /// All of everything is worthless.
    DamnAll,
}

const LIES: [Lie; 6] = [
    Lie::PraiseTheWorst,
    Lie::DamnTheBest,
    Lie::Invert,
    Lie::Random,
    Lie::Collude,
    Lie::DamnAll,
];

fn lied(dice: &mut Dice, truth: &[Vec<f64>], lie: Lie) -> Observations {
    let count = 10 * VOLUME;
    let mut cells = Vec::new();
    for cluster in 0..CLUSTERS {
        let at = usize::from(cluster);
        let place = |best: bool| {
            let order = |a: &usize, b: &usize| truth[*a][at].total_cmp(&truth[*b][at]);
            let all = 0..usize::from(EXPERTS);
            if best {
                all.max_by(order)
            } else {
                all.min_by(order)
            }
        };
        for e in 0..EXPERTS {
            let (n, mean) = (usize::from(e), truth[usize::from(e)][at]);
            let said = match lie {
                Lie::PraiseTheWorst if place(false) == Some(n) => 1.0,
                Lie::DamnTheBest if place(true) == Some(n) => 0.0,
                Lie::Invert => 1.0 - mean,
                Lie::Random => dice.unit(),
                Lie::Collude if e == 3 => 1.0,
                Lie::DamnAll => 0.0,
                _ => mean,
            };
            cells.push((cell(e, cluster), drawn(dice, count, said)));
        }
    }
    cells.into_iter().collect()
}

/// The mean reward of choosing, in each cluster, the expert that looks best; own evidence of five
/// outcomes at 0.5 stands behind all.
fn gained(observers: &mut Observers, own: &Observations, truth: &[Vec<f64>]) -> f64 {
    let weighed: BTreeMap<ExpertId, WeighedExpert> = {
        observers.changed = observers.tallies.keys().copied().collect();
        observers.news().into_iter().collect()
    };
    let mut sum = 0.0;
    for cluster in 0..CLUSTERS {
        let looks = |e: u8| {
            let said = weighed.get(&expert(e)).and_then(|books| {
                let (_, cells) = books.first()?;
                Some(cells.iter().find(|(c, _)| *c == cluster)?.1)
            });
            let said = said.unwrap_or_default();
            let own = own.get(&cell(e, cluster)).unwrap_or_default();
            let good = 2.5 + said.count() * said.mean() + f64::from(own.count) * own.mean();
            good / (5.0 + said.count() + f64::from(own.count))
        };
        let best = (0..EXPERTS).max_by(|a, b| looks(*a).total_cmp(&looks(*b)));
        sum += truth[usize::from(best.unwrap())][usize::from(cluster)];
    }
    sum / f64::from(CLUSTERS)
}

/// What twenty observers come to, six of whom lie or are not there.
fn merged(seed: u64, lie: Option<Lie>, own_count: u32) -> f64 {
    let mut dice = Dice(seed);
    let truth = truth(&mut dice);
    let own = honest(&mut dice, &truth, |_| own_count);
    let mut observers = Observers::default();
    observers.use_codebooks([book()], ALL);
    observers.know(own.clone(), ALL);
    let mut all: Vec<Observations> = (0..HONEST)
        .map(|_| honest(&mut dice, &truth, |dice| 5 + (dice.next() % 10) as u32))
        .collect();
    if let Some(lie) = lie {
        // Liars are first.
        let liars: Vec<_> = (0..LIARS).map(|_| lied(&mut dice, &truth, lie)).collect();
        all.splice(0..0, liars);
    }
    for said in all {
        let peer = dice.peer();
        observers.set(peer, Arc::new(said), Standing::default(), ALL);
    }
    observers.tick(ALL);
    gained(&mut observers, &own, &truth)
}

#[test]
fn six_liars_of_twenty_with_fifty_times_the_volume_do_no_harm() {
    for own in [0, 1, 10] {
        for lie in LIES {
            let (mut with, mut without) = (0.0, 0.0);
            for seed in 0..20 {
                with += merged(seed, Some(lie), own) / 20.0;
                without += merged(seed, None, own) / 20.0;
            }
            println!("own {own:>2}, {lie:?}: {with:.4} of {without:.4}");
            assert!(with > without - 0.01, "{lie:?}: {with} of {without}");
        }
    }
}

#[test]
fn no_volume_of_one_observer_counts_more_than_a_hundred_outcomes() {
    let mut observers = Observers::default();
    observers.use_codebooks([book()], ALL);
    let loud = Evidence {
        count: 1_000_000,
        reward: 500_000_000,
    };
    let said: Observations = [(cell(1, 1), loud)].into_iter().collect();
    let peer = NodeKey::generate().peer_id();
    observers.set(peer, Arc::new(said), Standing::default(), ALL);
    let news = observers.news();
    let (_, weighed) = news[0].1[0].1[0];
    assert_eq!((weighed.mass, weighed.reward), (100_000, 50_000));
}

#[test]
fn all_that_are_not_proven_count_as_one_and_roles_make_a_difference() {
    let mut observers = Observers::default();
    observers.use_codebooks([book()], ALL);
    let evidence = Evidence {
        count: 80,
        reward: 40_000,
    };
    let said: Arc<Observations> = Arc::new([(cell(1, 1), evidence)].into_iter().collect());
    for n in 0..50 {
        let trusted = n < 3;
        let standing = Standing {
            trusted,
            ..Standing::default()
        };
        observers.set(
            NodeKey::generate().peer_id(),
            Arc::clone(&said),
            standing,
            ALL,
        );
    }
    let (_, weighed) = observers.news()[0].1[0].1[0];
    assert_eq!(weighed.mass, 3 * 80_000 + 100_000);
    assert_eq!(weighed.reward, weighed.mass / 2);
}

#[test]
fn nobodys_word_on_itself_counts_and_it_has_no_vote() {
    let mut observers = Observers::default();
    observers.use_codebooks([book()], ALL);
    let evidence = Evidence {
        count: 50,
        reward: 50_000,
    };
    let said: Observations = [(cell(1, 1), evidence), (cell(2, 1), evidence)]
        .into_iter()
        .collect();
    let said = Arc::new(said);
    let peer = NodeKey::generate().peer_id();
    let serves = |experts: &[u8]| Standing {
        serves: experts.iter().map(|n| expert(*n)).collect(),
        trusted: true,
    };
    observers.set(peer, Arc::clone(&said), serves(&[1]), ALL);
    let told: Vec<ExpertId> = observers.news().into_iter().map(|(e, _)| e).collect();
    assert_eq!(told, [expert(2)]);
    // Served from now on, or no longer.
    observers.set(peer, Arc::clone(&said), serves(&[2]), ALL);
    let news: BTreeMap<_, _> = observers.news().into_iter().collect();
    assert!(news[&expert(2)].is_empty() && !news[&expert(1)].is_empty());
    observers.remove(&peer);
    assert!(observers.tallies.is_empty());
}

#[test]
fn what_is_said_of_codebooks_that_nobody_here_uses_is_not_weighed() {
    let mut observers = Observers::default();
    let evidence = Evidence {
        count: 50,
        reward: 50_000,
    };
    let said: Observations = [(cell(1, 1), evidence)].into_iter().collect();
    observers.set(
        NodeKey::generate().peer_id(),
        Arc::new(said),
        Standing::default(),
        ALL,
    );
    assert!(observers.news().is_empty() && observers.tallies.is_empty());
    observers.use_codebooks([book()], ALL);
    assert_eq!(observers.news().len(), 1);
    // As many as there may be, instead of those named before.
    observers.use_codebooks((2..200).map(|n| CodebookId::from_bytes([n; 32])), ALL);
    assert_eq!(observers.used.len(), CODEBOOKS);
    assert!(observers.tallies.is_empty());
    observers.use_codebooks([book()], ALL);
    assert!(!observers.tallies.is_empty());
}

#[test]
fn what_is_said_of_experts_that_nobody_offers_takes_no_room_until_somebody_does() {
    let evidence = Evidence {
        count: 50,
        reward: 50_000,
    };
    let said: Observations = (1..=200).map(|e| (cell(e, 1), evidence)).collect();
    let said = Arc::new(said);
    let some = |id: &ExpertId| id.as_bytes()[0] <= 2;
    let mut observers = Observers::default();
    observers.use_codebooks([book()], &some);
    for _ in 0..3 {
        let peer = NodeKey::generate().peer_id();
        observers.set(peer, Arc::clone(&said), Standing::default(), &some);
    }
    assert_eq!(observers.tallies.len(), 2);
    // This node has tried one that is gone.
    let own: Observations = [(cell(9, 1), evidence)].into_iter().collect();
    observers.know(own, &some);
    assert_eq!(observers.tallies.len(), 3);
    observers.tick(&|id| id.as_bytes()[0] <= 5);
    assert_eq!(observers.tallies.len(), 6);
    observers.news();
    observers.tick(&|_| false);
    assert_eq!(observers.tallies.len(), 1);
    let news: BTreeMap<_, _> = observers.news().into_iter().collect();
    assert!((1..=5).all(|e| news[&expert(e)].is_empty()));
}

fn observations() -> impl Strategy<Value = Observations> {
    let cell = (0..4u8, 0..3u16, 1..300u32, 0..=1000u32);
    prop::collection::vec(cell, 0..8).prop_map(|cells| {
        let cells = cells.into_iter().map(|(e, c, count, mean)| {
            let reward = count * mean;
            (cell_of(e, c), Evidence { count, reward })
        });
        cells.collect()
    })
}

fn cell_of(e: u8, c: u16) -> Cell {
    cell(e, c)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Documents that come, change and go in any order leave what they would leave in one go.
    #[test]
    fn what_comes_out_depends_on_the_documents_alone(
        steps in prop::collection::vec((0..6u64, observations(), any::<bool>()), 1..30),
        own in observations(),
    ) {
        let peers: Vec<PeerId> = (0..6).map(|n| Dice(n).peer()).collect();
        let mut kept = Observers::default();
        kept.use_codebooks([book()], ALL);
        let mut last = BTreeMap::new();
        let mut told = BTreeMap::new();
        for (n, said, trusted) in steps {
            let standing = Standing { trusted, ..Standing::default() };
            let said = Arc::new(said);
            kept.set(peers[n as usize], Arc::clone(&said), standing.clone(), ALL);
            last.insert(n, (said, standing));
            told.extend(kept.news());
        }
        kept.know(own.clone(), ALL);
        let mut anew = Observers::default();
        anew.use_codebooks([book()], ALL);
        anew.know(own, ALL);
        for (n, (said, standing)) in last.into_iter().rev() {
            anew.set(peers[n as usize], said, standing, ALL);
        }
        kept.tick(ALL);
        anew.tick(ALL);
        told.extend(kept.news());
        told.retain(|_, weighed| !weighed.is_empty());
        let all: BTreeMap<_, _> = anew.news().into_iter().filter(|(_, w)| !w.is_empty()).collect();
        prop_assert_eq!(told, all);
    }
}
