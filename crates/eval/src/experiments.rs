//! One module an experiment; each says what it reads, what it trains on, and what it is held against.

use std::{collections::BTreeSet, path::Path};

use polymath_figures::{Report, Row};
use serde_json::json;

use crate::DataError;

mod any;
mod choices;
mod drift;
mod experts;
mod intents;
mod newcomers;
mod sharing;
pub mod strong_weak;

/// An experiment of the suite: its name, the file it needs, and what runs it.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// As `--only` names it.
    pub name: &'static str,
    /// Present, or the experiment is left out.
    pub file: &'static str,
    run: fn(&Path) -> Result<Vec<Row>, DataError>,
}

/// The suite.
pub const SUITE: [Experiment; 9] = [
    Experiment {
        name: "mmlu",
        file: "routellm_mmlu.jsonl.gz",
        run: strong_weak::mmlu,
    },
    Experiment {
        name: "gsm8k",
        file: "routellm_gsm8k.jsonl.gz",
        run: strong_weak::gsm8k,
    },
    Experiment {
        name: "experts",
        file: "llmrouter.jsonl.gz",
        run: experts::run,
    },
    Experiment {
        name: "newcomers",
        file: "llmrouter.jsonl.gz",
        run: newcomers::run,
    },
    Experiment {
        name: "choices",
        file: "mmlu_pro.jsonl.gz",
        run: choices::run,
    },
    Experiment {
        name: "clinc",
        file: "clinc150.json.gz",
        run: intents::clinc,
    },
    Experiment {
        name: "banking",
        file: "banking77_train.csv.gz",
        run: intents::banking,
    },
    Experiment {
        name: "sharing",
        file: "llmrouter.jsonl.gz",
        run: sharing::run,
    },
    Experiment {
        name: "drift",
        file: "llmrouter.jsonl.gz",
        run: drift::run,
    },
];

/// Runs the experiments whose data lie in `folder`, or those named by `only`; any further file of graded
/// answers there (`*.jsonl`, `*.jsonl.gz`) is routed by its own split, or by five folds where it has none.
pub fn evaluate(folder: &Path, only: &[String]) -> Result<Report, DataError> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    let mut rows = Vec::new();
    for experiment in SUITE {
        let path = folder.join(experiment.file);
        if wanted(experiment.name) && path.exists() {
            rows.extend((experiment.run)(&path)?);
        }
    }
    let known: BTreeSet<&str> = SUITE.iter().map(|e| e.file).collect();
    if wanted("any") {
        for path in any::files(folder)? {
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if !known.contains(name) {
                rows.extend(any::run(&path)?);
            }
        }
    }
    let conditions = json!({
        "encoder": polymath_encoder::ENCODER_ID,
        "intervals": "percentile bootstrap over queries",
        "policy": "hierarchical shrinkage and ridge; the penalty by cross-validation inside training rows",
    });
    Ok(Report::new("route eval", conditions, rows))
}
