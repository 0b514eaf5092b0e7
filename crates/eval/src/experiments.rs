//! One module an experiment; each says what it reads, what it trains on, and what it is held against.

use std::{collections::BTreeSet, path::Path};

use polymath_figures::{Report, Row};
use serde_json::json;

use crate::{DataError, Entry, policies::LEARNED};

pub(crate) mod any;
mod choices;
mod drift;
pub(crate) mod experts;
mod intents;
mod newcomers;
pub mod sharing;
pub mod strong_weak;

/// An experiment of the suite: its name, the file it needs, and what runs it.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// As `--only` names it.
    pub name: &'static str,
    /// Present, or the experiment is left out.
    pub file: &'static str,
    /// Looks into the learned policy, so that it says nothing of others.
    pub inner: bool,
    run: fn(&Path, Entry) -> Result<Vec<Row>, DataError>,
}

/// The suite.
pub const SUITE: [Experiment; 9] = [
    Experiment {
        name: "mmlu",
        file: "routellm_mmlu.jsonl.gz",
        inner: false,
        run: strong_weak::mmlu,
    },
    Experiment {
        name: "gsm8k",
        file: "routellm_gsm8k.jsonl.gz",
        inner: false,
        run: strong_weak::gsm8k,
    },
    Experiment {
        name: "experts",
        file: "llmrouter.jsonl.gz",
        inner: false,
        run: experts::run,
    },
    Experiment {
        name: "newcomers",
        file: "llmrouter.jsonl.gz",
        inner: true,
        run: newcomers::run,
    },
    Experiment {
        name: "choices",
        file: "mmlu_pro.jsonl.gz",
        inner: false,
        run: choices::run,
    },
    Experiment {
        name: "clinc",
        file: "clinc150.json.gz",
        inner: false,
        run: intents::clinc,
    },
    Experiment {
        name: "banking",
        file: "banking77_train.csv.gz",
        inner: false,
        run: intents::banking,
    },
    Experiment {
        name: "sharing",
        file: "llmrouter.jsonl.gz",
        inner: true,
        run: sharing::run,
    },
    Experiment {
        name: "drift",
        file: "llmrouter.jsonl.gz",
        inner: true,
        run: drift::run,
    },
];

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Experiments by name, and `any` for files that belong to none; all where it is empty.
    pub only: Vec<String>,
    /// Which policy.
    pub policy: Entry,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            policy: LEARNED,
        }
    }
}

/// Names the experiment for files that belong to no other.
const ANY: &str = "any";

/// Runs the experiments whose data lie in `folder`, or those named; any further file of graded answers there
/// (`*.jsonl`, `*.jsonl.gz`) is routed by its own split, or by five folds where it has none. `progress` is told
/// what begins and what is left out.
pub fn evaluate(
    folder: &Path,
    options: &Options,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, DataError> {
    let names = || SUITE.iter().map(|e| e.name).chain([ANY]);
    if let Some(unknown) = options.only.iter().find(|o| names().all(|n| n != *o)) {
        return Err(DataError::Unknown {
            name: unknown.clone(),
            known: names().collect::<Vec<_>>().join(", "),
        });
    }
    let named = |name: &str| options.only.iter().any(|o| o == name);
    let other = options.policy.name != LEARNED.name;
    let mut rows = Vec::new();
    for experiment in SUITE {
        let Experiment {
            name, file, inner, ..
        } = experiment;
        let path = folder.join(file);
        if !options.only.is_empty() && !named(name) {
            continue;
        }
        if inner && other {
            progress(&format!(
                "{name}: left out, it looks into the learned policy alone"
            ));
        } else if named(name) || path.exists() {
            progress(&format!("{name}: {file}"));
            rows.extend((experiment.run)(&path, options.policy)?);
        } else {
            progress(&format!("{name}: left out, there is no {file}"));
        }
    }
    let known: BTreeSet<&str> = SUITE.iter().map(|e| e.file).collect();
    if options.only.is_empty() || named(ANY) {
        for path in any::files(folder)? {
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if !known.contains(name) {
                progress(&format!("{ANY}: {name}"));
                rows.extend(any::run(&path, options.policy)?);
            }
        }
    }
    if rows.is_empty() {
        return Err(DataError::Nothing {
            folder: folder.into(),
        });
    }
    let conditions = json!({
        "encoder": polymath_encoder::ENCODER_ID,
        "intervals": "percentile bootstrap over queries",
        "policy": options.policy.name,
        "constants": "by cross-validation inside training rows",
    });
    Ok(Report::new("route eval", conditions, rows))
}
