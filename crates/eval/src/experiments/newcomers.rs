//! Each of LLMRouter's experts held out in turn: only its description and its price are known.
//!
//! The other eight are learnt from the training split. Against ignoring the newcomer stand: trusting the prior
//! alone, and what a router does in service, where the newcomer's own graded answers to the test stream are
//! learnt from as they come (mean of several orders of the stream). The cost of trying it is in the figure.

use std::{collections::BTreeMap, path::Path};

use polymath_figures::Row;
use polymath_router::{
    Random,
    learning::{Explorer, Newcomer, Sparse},
};
use serde::Deserialize;

use super::experts::split;
use crate::{DataError, Entry, baseline::argmax, bootstrap, figures::percent, load, study::Study};

const ORDERS: u64 = 5;

#[derive(Deserialize)]
struct Described {
    feature: String,
    input_price: f64,
    output_price: f64,
}

fn described(path: &Path, experts: &[String]) -> Result<Vec<Newcomer>, DataError> {
    let form = |line, why| DataError::Form {
        path: path.into(),
        line,
        why,
    };
    let file = std::io::BufReader::new(crate::data::open(path)?);
    let all: BTreeMap<String, Described> =
        serde_json::from_reader(file).map_err(|e| form(e.line(), e.to_string()))?;
    let one = |name: &String| {
        let known = all
            .get(name)
            .ok_or_else(|| form(0, format!("{name} is not described")))?;
        let encoding = polymath_encoder::encode(&known.feature);
        Ok(Newcomer {
            description: Sparse::new(&encoding.places, &encoding.values),
            price: known.input_price + known.output_price,
        })
    };
    experts.iter().map(one).collect()
}

pub(super) fn run(path: &Path, _: Entry) -> Result<Vec<Row>, DataError> {
    let study = Study::new(load(path, None)?);
    let described = described(
        &path.with_file_name("llmrouter_experts.json"),
        &study.table.experts,
    )?;
    let (train, test) = split(&study.table);
    let penalty = study.penalty(&train, |e, rows| study.routed(e, rows));
    let (mut prior_gain, mut served_gain) = (vec![0.0; test.len()], vec![0.0; test.len()]);
    let mut rows = Vec::new();
    let experts = study.ids.len();
    for held in 0..experts {
        let others: Vec<usize> = (0..experts).filter(|e| *e != held).collect();
        let known = Study::new(study.table.only(&others));
        let mut e = known.estimator(penalty, &train);
        let likeness: Vec<f64> = others
            .iter()
            .map(|o| described[held].likeness(&described[*o]))
            .collect();
        let id = study.ids[held];
        let reward = |row: usize, expert: usize| study.table.rows[row].scores[expert];

        let mut gains = vec![0.0; test.len()];
        let mut served = vec![0.0; test.len()];
        for (at, row) in test.iter().enumerate() {
            let scores = known.estimated(&e, *row);
            let best = argmax(&scores);
            if Newcomer::prior(&likeness, &scores) > scores[best] {
                gains[at] = reward(*row, held) - reward(*row, others[best]);
            }
        }
        for order in 0..ORDERS {
            let mut stream: Vec<usize> = (0..test.len()).collect();
            Random::new(order + 1).shuffle(&mut stream);
            let mut explorer = Explorer::new(0.05, 20.0, order);
            for at in stream {
                let (row, seen) = (test[at], &study.seen[test[at]]);
                let mut estimates: Vec<_> = known
                    .ids
                    .iter()
                    .map(|id| e.estimate(id, seen, crate::study::PRIOR))
                    .collect();
                let scores: Vec<f64> = estimates.iter().map(|e| e.mean).collect();
                let best = argmax(&scores);
                let prior = Newcomer::prior(&likeness, &scores);
                estimates.push(e.estimate(&id, seen, prior));
                // The eight are known well: only the newcomer is worth exploring.
                let pair = [estimates[best].clone(), estimates[others.len()].clone()];
                let pick = explorer.pick(&pair, |_, quality| quality);
                if pick.is_some_and(|p| p.chosen == 1) {
                    let earned = reward(row, held);
                    served[at] += (earned - reward(row, others[best])) / ORDERS as f64;
                    e.observe(id, seen, prior, earned);
                }
            }
            e.soften(&id, 0.0);
        }
        let name = &study.table.experts[held];
        rows.push(percent(
            format!("newcomer {name}: by prior alone"),
            "gain",
            bootstrap::mean(&gains),
        ));
        rows.push(percent(
            format!("newcomer {name}: in service"),
            "gain",
            bootstrap::mean(&served),
        ));
        let share = 1.0 / experts as f64;
        prior_gain
            .iter_mut()
            .zip(&gains)
            .for_each(|(sum, g)| *sum += share * g);
        served_gain
            .iter_mut()
            .zip(&served)
            .for_each(|(sum, g)| *sum += share * g);
    }
    let mean = |case: &str, gains: &[f64]| {
        let case = format!("newcomers, mean over all experts, over ignoring them: {case}");
        let row = percent(case, "gain", bootstrap::mean(gains));
        let met = row.value > 0.0;
        row.asked("more than 0", met)
    };
    rows.push(mean("by prior alone", &prior_gain));
    rows.push(mean("in service", &served_gain));
    Ok(rows)
}
