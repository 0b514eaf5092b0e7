//! Keys cost nothing and own evidence is published: crowds that copy it, and lie where there is none.

use super::*;

/// Of clusters 0 to 2 this node has seen thirty outcomes, of 3 to 5 three, of 6 and 7 none.
fn own_outcomes(cluster: u16) -> u32 {
    match cluster {
        0..=2 => 30,
        3..=5 => 3,
        _ => 0,
    }
}

/// What the crowd says of a cluster besides copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crowd {
    /// There is none.
    None,
    /// It copies own evidence where it was told, and turns all else around.
    Copies,
    /// It turns the first cluster around too.
    CopiesAndLies,
    /// It copies nothing.
    Lies,
}

struct Scene {
    truth: Vec<Vec<f64>>,
    own: Observations,
    honest: Vec<PeerId>,
    observers: Observers,
}

fn scene(seed: u64, crowd: Crowd, size: usize) -> Scene {
    let mut dice = Dice(seed);
    let truth = truth(&mut dice);
    let mut cells = Vec::new();
    for (e, of_expert) in (0..).zip(&truth) {
        for (cluster, mean) in (0..).zip(of_expert) {
            let count = own_outcomes(cluster);
            if count > 0 {
                cells.push((cell(e, cluster), drawn(&mut dice, count, *mean)));
            }
        }
    }
    let own: Observations = cells.into_iter().collect();
    let mut observers = Observers::default();
    observers.use_codebooks([book()], ALL);
    observers.know(own.clone(), ALL);
    let mut all = Vec::new();
    let mut honest_peers = Vec::new();
    for _ in 0..10 {
        let said = honest(&mut dice, &truth, |dice| 5 + (dice.next() % 10) as u32);
        honest_peers.push(dice.peer());
        all.push((honest_peers[honest_peers.len() - 1], said));
    }
    let mut crowd_says = Vec::new();
    for (e, of_expert) in (0..).zip(&truth) {
        for (cluster, mean) in (0..).zip(of_expert) {
            let place = cell(e, cluster);
            let told = own.get(&place).filter(|own| own.count >= 5);
            let lies = crowd == Crowd::Lies || (crowd == Crowd::CopiesAndLies && cluster == 0);
            let lie = drawn(&mut dice, 10_000, 1.0 - mean);
            crowd_says.push((place, told.filter(|_| !lies).unwrap_or(lie)));
        }
    }
    let crowd_says: Observations = crowd_says.into_iter().collect();
    if crowd != Crowd::None {
        all.extend((0..size).map(|_| (dice.peer(), crowd_says.clone())));
    }
    for (peer, said) in all {
        observers.set(peer, Arc::new(said), Standing::default(), ALL);
    }
    settle(&mut observers);
    Scene {
        truth,
        own,
        honest: honest_peers,
        observers,
    }
}

/// Weighs everybody again.
fn settle(observers: &mut Observers) {
    for _ in 0..=observers.of.len() / REWEIGHED_A_TICK {
        observers.tick(ALL);
    }
}

fn in_cell(observers: &Observers, own: &Observations, e: u8, cluster: u16) -> Weighed {
    let tally = observers.tallies.get(&expert(e));
    let books = tally.map(|t| t.weighed(|book| own.of(book, &expert(e))));
    let books = books.unwrap_or_default();
    let cells = books.first().map_or(&[][..], |(_, cells)| cells);
    let found = cells.iter().find(|(c, _)| *c == cluster);
    found.map(|(_, w)| *w).unwrap_or_default()
}

/// The mean reward of choosing what looks best in these clusters, the farthest that what comes out is from
/// the truth in a cell, and the most mass of a cell.
fn come_out(scene: &Scene, clusters: std::ops::Range<u16>) -> (f64, f64, f64) {
    let (mut gain, mut off, mut mass) = (0.0, 0.0f64, 0.0f64);
    for cluster in clusters.clone() {
        let looks = |e: u8| {
            let said = in_cell(&scene.observers, &scene.own, e, cluster);
            let own = scene.own.get(&cell(e, cluster)).unwrap_or_default();
            let good = 2.5 + said.count() * said.mean() + f64::from(own.count) * own.mean();
            good / (5.0 + said.count() + f64::from(own.count))
        };
        for e in 0..EXPERTS {
            let said = in_cell(&scene.observers, &scene.own, e, cluster);
            mass = mass.max(said.count());
            if said.mass > 0 {
                off = off
                    .max((said.mean() - scene.truth[usize::from(e)][usize::from(cluster)]).abs());
            }
        }
        let best = (0..EXPERTS).max_by(|a, b| looks(*a).total_cmp(&looks(*b)));
        gain += scene.truth[usize::from(best.unwrap())][usize::from(cluster)];
    }
    (gain / f64::from(clusters.end - clusters.start), off, mass)
}

/// The same, of ten scenes: the mean gain, the rest at its worst.
fn on_the_whole(crowd: Crowd, size: usize, clusters: std::ops::Range<u16>) -> (f64, f64, f64) {
    (0..10).fold((0.0, 0.0, 0.0), |(gain, off, mass), seed| {
        let (g, o, m) = come_out(&scene(seed, crowd, size), clusters.clone());
        (gain + g / 10.0, f64::max(off, o), f64::max(mass, m))
    })
}

#[test]
fn no_crowd_of_copies_harms_where_there_is_own_evidence() {
    let (without, ..) = on_the_whole(Crowd::None, 0, 0..3);
    for size in [100, 1000] {
        for crowd in [Crowd::Copies, Crowd::CopiesAndLies, Crowd::Lies] {
            let (gain, off, mass) = on_the_whole(crowd, size, 0..3);
            println!("{size} {crowd:?}, own: {gain:.3} of {without:.3}, {off:.2} off, mass {mass}");
            assert!(gain > without - 0.02, "{crowd:?}: {gain} of {without}");
            assert!(mass <= 120.0, "four times own outcomes: {mass}");
        }
    }
}

#[test]
fn a_crowd_of_copies_counts_a_hundred_outcomes_at_most_where_there_is_little() {
    for clusters in [3..6, 6..8] {
        let (without, ..) = on_the_whole(Crowd::None, 0, clusters.clone());
        for size in [100, 1000] {
            for crowd in [Crowd::Copies, Crowd::CopiesAndLies, Crowd::Lies] {
                let (gain, off, mass) = on_the_whole(crowd, size, clusters.clone());
                println!(
                    "{size} {crowd:?}, {clusters:?}: {gain:.3} of {without:.3}, {off:.2} off, mass {mass}"
                );
                assert!(mass <= 100.0, "{crowd:?}: {mass}");
                // Who copies nothing is judged by those who are proven.
                assert!(
                    crowd != Crowd::Lies || gain > without - 0.02,
                    "{gain} of {without}"
                );
            }
        }
    }
}

/// What an honest observer counts for in the cells of which this node has seen enough.
fn in_own_cells(scene: &Scene, peer: &PeerId) -> Vec<u16> {
    let observer = &scene.observers.of[peer];
    let groups = observer.said.seen().iter().zip(&observer.weights.groups);
    let cells = groups.flat_map(|(seen, weights)| {
        let weights = weights.as_ref().unwrap().iter();
        seen.cells.iter().zip(weights)
    });
    let own = cells.filter(|((cluster, _), _)| own_outcomes(*cluster) >= 5);
    own.map(|(_, weight)| *weight).collect()
}

#[test]
fn honest_observers_stay_proven_whatever_a_crowd_says() {
    let without = scene(1, Crowd::None, 0);
    for crowd in [Crowd::Copies, Crowd::CopiesAndLies, Crowd::Lies] {
        let scene = scene(1, crowd, 1000);
        for peer in &scene.honest {
            assert_eq!(scene.observers.of[peer].weights.rank, Rank::Proven);
            let weights = in_own_cells(&scene, peer);
            assert_eq!(weights, in_own_cells(&without, peer), "{crowd:?}");
            assert!(weights.iter().filter(|w| **w > 500).count() > 18);
        }
    }
}

#[test]
fn five_own_outcomes_undo_what_a_crowd_of_copies_said() {
    let mut scene = scene(1, Crowd::Copies, 1000);
    let best = |truth: &[Vec<f64>]| {
        let of = |e: &u8| truth[usize::from(*e)][7];
        (0..EXPERTS).max_by(|a, b| of(a).total_cmp(&of(b))).unwrap()
    };
    let e = best(&scene.truth);
    let before = in_cell(&scene.observers, &scene.own, e, 7);
    assert!(before.mean() < 0.3 && before.mass == 100_000, "{before:?}");
    let five = Evidence {
        count: 5,
        reward: 4000,
    };
    let own: Observations = scene.own.iter().chain([(cell(e, 7), five)]).collect();
    scene.observers.know(own.clone(), ALL);
    settle(&mut scene.observers);
    let after = in_cell(&scene.observers, &own, e, 7);
    println!("{before:?} {after:?}");
    assert!(after.mean() > 0.6 && after.mass > 30_000, "{after:?}");
}

#[test]
fn three_with_a_role_outvote_any_crowd_of_copies() {
    let mut scene = scene(1, Crowd::Copies, 1000);
    let roles: Vec<(PeerId, Arc<Observations>)> = scene.honest[..4]
        .iter()
        .map(|peer| (*peer, Arc::clone(&scene.observers.of[peer].said)))
        .collect();
    for (peer, said) in roles {
        let standing = Standing {
            trusted: true,
            ..Standing::default()
        };
        scene.observers.set(peer, said, standing, ALL);
    }
    settle(&mut scene.observers);
    let (gain, ..) = come_out(&scene, 6..8);
    let (without, ..) = come_out(&self::scene(1, Crowd::None, 0), 6..8);
    println!("{gain} of {without}");
    assert!(gain > without - 0.05, "{gain} of {without}");
}

#[test]
fn twenty_honest_nodes_together_know_more_than_each_alone() {
    let (mut alone, mut together) = (0.0, 0.0);
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let truth = truth(&mut dice);
        let own = honest(&mut dice, &truth, |dice| (dice.next() % 8) as u32);
        let mut observers = Observers::default();
        observers.use_codebooks([book()], ALL);
        observers.know(own.clone(), ALL);
        alone += gained(&mut observers, &own, &truth) / 20.0;
        for _ in 0..19 {
            let said = honest(&mut dice, &truth, |dice| 5 + (dice.next() % 10) as u32);
            observers.set(dice.peer(), Arc::new(said), Standing::default(), ALL);
        }
        settle(&mut observers);
        together += gained(&mut observers, &own, &truth) / 20.0;
    }
    println!("{together:.3} together, {alone:.3} alone");
    assert!(together > alone + 0.05, "{together} of {alone}");
}
