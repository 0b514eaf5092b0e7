//! LLMRouter's nine experts: trained on its training split, tested on its test split.
//!
//! A hundred of its test questions are in its training split too; those are left out of training.

use std::{collections::HashSet, path::Path};

use polymath_figures::Row;

use super::any;
use crate::{
    DataError, Table,
    figures::{goal, noted},
    load,
    study::Study,
};

pub(super) fn run(path: &Path) -> Result<Vec<Row>, DataError> {
    let study = Study::new(load(path, None)?);
    let (train, test) = split(&study.table);
    let mut rows = any::routed("LLMRouter", &study, &[(train, test)]);
    if let Some(gain) = rows.pop() {
        // The lower end of the interval is what counts.
        let low = gain
            .note
            .as_deref()
            .and_then(|n| n.split(' ').nth(3)?.parse::<f64>().ok());
        let lower = Row::new(
            "LLMRouter: lower end of that interval",
            "gain",
            low.unwrap_or(f64::NAN),
            "%",
        );
        rows.push(gain);
        rows.push(goal(lower, f64::MIN_POSITIVE));
    }
    let first = rows.first().cloned();
    if let Some(row) = first {
        rows[0] = noted(
            row,
            "119 training questions that are test questions too were left out",
        );
    }
    Ok(rows)
}

/// Training rows that are no test questions, and test rows.
pub(super) fn split(table: &Table) -> (Vec<usize>, Vec<usize>) {
    let tested: HashSet<&str> = table
        .rows
        .iter()
        .filter(|r| r.test)
        .map(|r| r.query.as_str())
        .collect();
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (at, row) in table.rows.iter().enumerate() {
        if row.test {
            test.push(at);
        } else if !tested.contains(row.query.as_str()) {
            train.push(at);
        }
    }
    (train, test)
}
