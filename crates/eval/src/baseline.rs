//! What any router is held against.

use std::collections::HashMap;

use crate::Table;

/// Rewards of one way to choose, one a test row.
#[derive(Debug, Clone)]
pub struct Baseline {
    /// What it is called in a report.
    pub name: &'static str,
    /// In the order of the test rows.
    pub rewards: Vec<f64>,
}

/// Random, best single, category table, best single on the test rows, dataset oracle and oracle. The first
/// three use what `train` tells; the last three look at the answers, and bound what is possible.
pub fn all(table: &Table, train: &[usize], test: &[usize]) -> Vec<Baseline> {
    let everyone = totals(table, train.iter());
    let best = argmax(&everyone);
    let by_task = |rows: &[usize]| -> HashMap<&str, usize> {
        let mut groups: HashMap<&str, Vec<usize>> = HashMap::new();
        for row in rows {
            groups.entry(&table.rows[*row].task).or_default().push(*row);
        }
        groups
            .into_iter()
            .map(|(t, rows)| (t, argmax(&totals(table, rows.iter()))))
            .collect()
    };
    let (category, oracle_category) = (by_task(train), by_task(test));
    let hindsight = argmax(&totals(table, test.iter()));
    let rewards = |choose: &dyn Fn(usize) -> f64| test.iter().map(|r| choose(*r)).collect();
    let score = |row: usize, expert: usize| table.rows[row].scores[expert];
    let task = |row: usize| table.rows[row].task.as_str();
    let n = table.experts.len().max(1) as f64;
    vec![
        Baseline {
            name: "random",
            rewards: rewards(&|r| table.rows[r].scores.iter().sum::<f64>() / n),
        },
        Baseline {
            name: "best single",
            rewards: rewards(&|r| score(r, best)),
        },
        Baseline {
            name: "category table",
            rewards: rewards(&|r| score(r, *category.get(task(r)).unwrap_or(&best))),
        },
        Baseline {
            name: "best single in hindsight",
            rewards: rewards(&|r| score(r, hindsight)),
        },
        Baseline {
            name: "dataset oracle",
            rewards: rewards(&|r| score(r, *oracle_category.get(task(r)).unwrap_or(&best))),
        },
        Baseline {
            name: "oracle",
            rewards: rewards(&|r| table.rows[r].scores.iter().copied().fold(0.0, f64::max)),
        },
    ]
}

/// Sum of the rewards of each expert.
pub fn totals<'a>(table: &Table, rows: impl Iterator<Item = &'a usize>) -> Vec<f64> {
    let mut sums = vec![0.0; table.experts.len()];
    for row in rows {
        sums.iter_mut()
            .zip(&table.rows[*row].scores)
            .for_each(|(s, v)| *s += v);
    }
    sums
}

/// The first of the greatest.
pub fn argmax(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}
