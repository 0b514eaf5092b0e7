//! LLMRouter's nine experts: trained on its training split, tested on its test split.
//!
//! A hundred of its test questions are in its training split too; those are left out of training.

use std::{collections::HashSet, path::Path};

use polymath_figures::Row;

use super::any;
use crate::{DataError, Entry, Table, figures::noted, load, study::Study};

pub(super) fn run(path: &Path, policy: Entry) -> Result<Vec<Row>, DataError> {
    let study = Study::with(load(path, None)?, policy);
    let (train, test) = split(&study.table);
    let rows = study.table.rows.iter().enumerate();
    let published: Vec<usize> = rows.filter(|(_, r)| !r.test).map(|(at, _)| at).collect();
    let repeated = published.len() - train.len();
    let mut rows = Vec::new();
    for (set, train) in [
        ("LLMRouter", train),
        ("LLMRouter, split as published", published),
    ] {
        rows.extend(any::routed(set, &study, &[(train, test.clone())]));
    }
    if let Some(first) = rows.first().cloned() {
        let left_out =
            format!("{repeated} training questions that are test questions too were left out");
        rows[0] = noted(first, left_out);
    }
    Ok(rows)
}

/// Training rows that are no test questions, and test rows.
pub(crate) fn split(table: &Table) -> (Vec<usize>, Vec<usize>) {
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
