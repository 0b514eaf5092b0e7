//! Two experts swap their skills in service: how soon is the router as good as before?
//!
//! A stream of LLMRouter's training questions, one expert asked each, its grade alone learnt from. After
//! [`BEFORE`] questions the best expert answers as the worst did, and the other way round. Recovered: the mean
//! of the last [`WINDOW`] questions, over all repeats, is again 95 % of what it was before the swap.

use std::path::Path;

use polymath_figures::Row;
use polymath_router::{
    Random,
    learning::{Codebook, EstimatorConfig, Learner},
};

use super::experts::split;
use crate::{
    DataError, Entry,
    baseline::{argmax, totals},
    figures::noted,
    load,
    study::{PRIOR, Study},
};

const BEFORE: usize = 1500;
const AFTER: usize = 1500;
const WINDOW: usize = 100;
const REPEATS: u64 = 20;

pub(super) fn run(path: &Path, _: Entry) -> Result<Vec<Row>, DataError> {
    let study = Study::new(load(path, None)?);
    let (train, _) = split(&study.table);
    let sums = totals(&study.table, train.iter());
    let best = argmax(&sums);
    let worst = argmax(&sums.iter().map(|s| -s).collect::<Vec<_>>());
    let swapped = |expert: usize| match expert {
        e if e == best => worst,
        e if e == worst => best,
        e => e,
    };
    let experts: Vec<_> = study.ids.iter().map(|id| (*id, PRIOR)).collect();
    let mut curve = vec![0.0; BEFORE + AFTER];
    let mut found = 0;
    for repeat in 0..REPEATS {
        let mut random = Random::new(repeat + 1);
        let mut learner = Learner::new(
            EstimatorConfig::default(),
            Codebook::defaults().into(),
            repeat,
        );
        for (at, sum) in curve.iter_mut().enumerate() {
            let row = train[random.below(train.len())];
            let seen = &study.seen[row];
            let Some(pick) = learner.pick(&experts, seen) else {
                continue;
            };
            let real = if at < BEFORE {
                pick.chosen
            } else {
                swapped(pick.chosen)
            };
            let reward = study.table.rows[row].scores[real];
            *sum += reward / REPEATS as f64;
            found += usize::from(learner.observe(study.ids[pick.chosen], seen, PRIOR, reward));
        }
    }
    let mean = |from: usize, to: usize| curve[from..to].iter().sum::<f64>() / (to - from) as f64;
    let before = mean(BEFORE - 500, BEFORE);
    let recovered =
        (WINDOW..=AFTER).find(|t| mean(BEFORE + t - WINDOW, BEFORE + t) >= 0.95 * before);
    let set = "best and worst expert swap skills";
    let row = Row::new(
        format!("{set}: recovered after"),
        "questions",
        recovered.map_or(f64::NAN, |t| t as f64),
        "questions",
    );
    let met = recovered.is_some_and(|t| t <= 500);
    let figure =
        |case: &str, value: f64| Row::new(format!("{set}: {case}"), "reward", 100.0 * value, "%");
    Ok(vec![
        figure("500 questions before", before),
        figure("first 100 after", mean(BEFORE, BEFORE + 100)),
        figure("101 to 500 after", mean(BEFORE + 100, BEFORE + 500)),
        figure("501 to 1,000 after", mean(BEFORE + 500, BEFORE + 1000)),
        noted(row, format!("{found} alarms in {REPEATS} runs")).asked("at most 500", met),
    ])
}
