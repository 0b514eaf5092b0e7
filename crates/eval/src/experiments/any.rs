//! Any set of graded answers: routed, beside its baselines.

use std::path::{Path, PathBuf};

use polymath_figures::Row;

use crate::{
    DataError, Entry,
    baseline::{self, Baseline},
    bootstrap,
    figures::{above_zero, beside, noted, percent},
    load,
    study::{Study, folds},
};

/// Most files of a folder that are looked at.
const MOST_FILES: usize = 256;

/// Files of graded answers, by name.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = |source| DataError::Read {
        path: folder.into(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)?.take(MOST_FILES) {
        let path = entry.map_err(read)?.path();
        let name = path.to_string_lossy();
        if name.ends_with(".jsonl") || name.ends_with(".jsonl.gz") {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

pub(super) fn run(path: &Path, policy: Entry) -> Result<Vec<Row>, DataError> {
    let name = path
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let study = Study::with(load(path, None)?, policy);
    let all: Vec<usize> = (0..study.table.rows.len()).collect();
    let (test, train): (Vec<usize>, Vec<usize>) =
        all.iter().partition(|r| study.table.rows[**r].test);
    let parts = if test.is_empty() || train.is_empty() {
        folds(&all, 5, 5)
    } else {
        vec![(train, test)]
    };
    Ok(routed(&name, &study, &parts))
}

/// Each part is (train, test); rewards of all tests stand together.
pub(super) fn routed(name: &str, study: &Study, parts: &[(Vec<usize>, Vec<usize>)]) -> Vec<Row> {
    let mut baselines: Vec<Baseline> = Vec::new();
    let mut ours = Vec::new();
    let mut penalties = Vec::new();
    for (train, test) in parts {
        let penalty = study.penalty(train, |e, rows| study.routed(e, rows));
        penalties.push(penalty);
        ours.extend(study.routes(&*study.fit(penalty, train), test));
        for (at, part) in baseline::all(&study.table, train, test)
            .into_iter()
            .enumerate()
        {
            match baselines.get_mut(at) {
                Some(known) => known.rewards.extend(part.rewards),
                None => baselines.push(part),
            }
        }
    }
    let single = baselines
        .iter()
        .find(|b| b.name == "best single")
        .map(|b| b.rewards.clone());
    let gain: Vec<f64> = ours
        .iter()
        .zip(single.unwrap_or_default())
        .map(|(a, b)| a - b)
        .collect();
    let mut rows = beside(name, &baselines, &[("routed".into(), ours)]);
    let interval = bootstrap::mean(&gain);
    let row = percent(
        format!("{name}: routed less best single, paired"),
        "gain",
        interval,
    );
    rows.push(noted(
        above_zero(row, interval),
        format!("penalties {penalties:?}"),
    ));
    rows
}
