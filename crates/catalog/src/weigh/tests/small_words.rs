//! Crowds whose every word is of so few outcomes that chance would explain it.

use super::*;

/// How many lie, with how many outcomes a cell, how far off; and whether they copy own evidence in all clusters
/// but the first.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    size: usize,
    count: u32,
    off: f64,
    copies: bool,
}

const NOBODY: Crowd = Crowd {
    size: 0,
    count: 5,
    off: 0.0,
    copies: false,
};

#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    /// The mean reward of choosing what looks best in the first cluster.
    gain: f64,
    /// How far the crowd moved what is believed of an expert at most.
    moved: f64,
}

/// What comes out in a scene of own evidence everywhere and ten honest observers, or none.
fn scene(seed: u64, crowd: Crowd, own_count: u32, honest_observers: usize) -> Outcome {
    let mut dice = Dice(seed);
    let truth = truth(&mut dice);
    let own = honest(&mut dice, &truth, |_| own_count);
    let mut observers = Observers::default();
    observers.use_codebooks([book()], ALL);
    observers.know(own.clone(), ALL);
    for _ in 0..honest_observers {
        let said = honest(&mut dice, &truth, |dice| 5 + (dice.next() % 10) as u32);
        observers.set(dice.peer(), Arc::new(said), Standing::default(), ALL);
    }
    let mean = |e: u8, c: u16| own.get(&cell(e, c)).unwrap_or_default().mean();
    let mut lie = Vec::new();
    for cluster in 0..CLUSTERS {
        let best = (0..EXPERTS).max_by(|a, b| mean(*a, cluster).total_cmp(&mean(*b, cluster)));
        for e in 0..EXPERTS {
            let place = cell(e, cluster);
            let up = if Some(e) == best { -1.0 } else { 1.0 };
            let said = (mean(e, cluster) + up * crowd.off).clamp(0.0, 1.0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let evidence = Evidence {
                count: crowd.count,
                reward: (f64::from(crowd.count) * 1000.0 * said) as u32,
            };
            let copied = own.get(&place).filter(|_| crowd.copies && cluster > 0);
            lie.push((place, copied.unwrap_or(evidence)));
        }
    }
    let lie: Arc<Observations> = Arc::new(lie.into_iter().collect());
    for _ in 0..crowd.size {
        let said = Arc::clone(&lie);
        observers.set(dice.peer(), said, Standing::default(), ALL);
    }
    for _ in 0..=observers.of.len() / REWEIGHED_A_TICK {
        observers.tick(ALL);
    }
    let looks = |e: u8| {
        let place = cell(e, 0);
        let said = observers.tallies.get(&expert(e));
        let said = said.map(|t| t.weighed(|book| own.of(book, &expert(e))));
        let said = said.and_then(|books| Some(books.first()?.1.iter().find(|(c, _)| *c == 0)?.1));
        let (said, own) = (
            said.unwrap_or_default(),
            own.get(&place).unwrap_or_default(),
        );
        let alone = (2.5 + f64::from(own.count) * own.mean()) / (5.0 + f64::from(own.count));
        let all = 5.0 + said.count() + f64::from(own.count);
        let good = 2.5 + said.count() * said.mean() + f64::from(own.count) * own.mean();
        (good / all, (good / all - alone).abs())
    };
    let best = (0..EXPERTS).max_by(|a, b| looks(*a).0.total_cmp(&looks(*b).0));
    Outcome {
        gain: truth[usize::from(best.unwrap())][0],
        moved: (0..EXPERTS).map(|e| looks(e).1).fold(0.0, f64::max),
    }
}

/// The mean gain of twenty scenes, and what was moved most.
fn on_the_whole(crowd: Crowd, own_count: u32, honest_observers: usize) -> Outcome {
    (0..20).fold(Outcome::default(), |sum, seed| {
        let one = scene(seed, crowd, own_count, honest_observers);
        Outcome {
            gain: sum.gain + one.gain / 20.0,
            moved: sum.moved.max(one.moved),
        }
    })
}

#[test]
fn many_words_of_few_outcomes_leave_a_node_what_it_has_seen_itself() {
    for own_count in [10, 30] {
        let alone = on_the_whole(NOBODY, own_count, 0);
        for honest_observers in [0, 10] {
            let without = on_the_whole(NOBODY, own_count, honest_observers);
            for (size, count, off, copies) in [
                (100, 1, 0.48, false),
                (100, 5, 0.24, false),
                (300, 5, 0.33, true),
                (300, 10, 0.15, false),
                (300, 20, 0.2, true),
            ] {
                let crowd = Crowd {
                    size,
                    count,
                    off,
                    copies,
                };
                let with = on_the_whole(crowd, own_count, honest_observers);
                println!(
                    "{own_count} own, {honest_observers} honest, {crowd:?}: {:.3} of {:.3}, alone {:.3}, moved {:.2}",
                    with.gain, without.gain, alone.gain, with.moved
                );
                // Of ten outcomes chance explains more, of which a crowd makes use.
                let less = if own_count >= 30 { 0.06 } else { 0.25 };
                let least = alone.gain - less;
                assert!(with.gain > least, "{crowd:?}: {with:?} of {alone:?}");
            }
        }
    }
}
