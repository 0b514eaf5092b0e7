//! Data sets on disk.
//!
//! A set of graded answers is a file of JSON objects, one a line, plain or gzip ([`FORMAT`]). Any file of that
//! form is read, whatever its name; unknown fields are ignored.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;

pub(crate) mod utterances;

pub use utterances::{Utterance, Utterances};

/// The form of a set of graded answers, for people.
pub const FORMAT: &str = "\
A data set is a file *.jsonl or *.jsonl.gz with a JSON object a line:
  query    the question's text
  scores   expert to the grade of its answer, 0 to 1; or instead of it
  answers  expert to the letter it chose, or null where it gave none, with
  truth    the right letter
  task     the question's subject; may be absent
  split    train or test; may be absent, five folds are made then
For example: {\"query\": \"2 + 2?\", \"task\": \"sums\", \"scores\": {\"small\": 0, \"large\": 1}}
Compared are the experts that every line grades. Other fields are ignored. Lines have at most 4 MiB, files
1,048,576 lines and 1 GiB unpacked, sets 4,096 experts.";

/// Longest line, and most rows, experts and bytes of a file: the reader is bounded by these.
const LONGEST_LINE: u64 = 4 << 20;
const MOST_ROWS: usize = 1 << 20;
const MOST_EXPERTS: usize = 4096;
/// Bytes of one file, unpacked.
pub(crate) const MOST_BYTES: u64 = 1 << 30;

/// Why a data set cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; give --data the folder that holds it")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not of the form.
    #[error("{path}, line {line}: {why}; `polymath route eval --help` describes the form")]
    Form {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1; 0 for the whole file.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// There is no experiment of that name.
    #[error("there is no experiment '{name}'; there are {known}")]
    Unknown {
        /// Which.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No experiment's file is there.
    #[error("{folder} holds no data set; `cargo xtask data` fetches those of the suite")]
    Nothing {
        /// Where.
        folder: PathBuf,
    },
}

/// One query with the grade of each expert's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Graded {
    /// Its text.
    pub query: String,
    /// Its subject.
    pub task: String,
    /// Whether it is in the set's own test split.
    pub test: bool,
    /// In the order of [`Table::experts`].
    pub scores: Vec<f64>,
    /// What was answered, where the set has that.
    pub answered: Option<Answered>,
}

/// Letters of a multiple-choice question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// In the order of [`Table::experts`].
    pub letters: Vec<Option<char>>,
    /// The right one.
    pub truth: char,
}

/// Queries and how every expert answered each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Names, sorted.
    pub experts: Vec<String>,
    /// In the order of the file.
    pub rows: Vec<Graded>,
}

#[derive(Deserialize)]
struct Line {
    query: String,
    #[serde(default)]
    task: String,
    #[serde(default)]
    split: String,
    #[serde(default)]
    scores: BTreeMap<String, f64>,
    #[serde(default)]
    answers: BTreeMap<String, Option<String>>,
    truth: Option<String>,
}

/// What takes a line, and its number from 1.
type Take<'a> = dyn FnMut(&[u8], usize) -> Result<(), DataError> + 'a;

/// Gives each line of a file that is not blank, with its number from 1.
pub(crate) fn lines(path: &Path, take: &mut Take<'_>) -> Result<(), DataError> {
    let (mut taken, mut line) = (0, 0);
    let mut reader = BufReader::new(open(path)?);
    loop {
        let mut text = Vec::new();
        let read = (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut text);
        let bytes = read.map_err(|source| DataError::Read {
            path: path.into(),
            source,
        })?;
        if bytes == 0 {
            return Ok(());
        }
        line += 1;
        let form = |why: String| DataError::Form {
            path: path.into(),
            line,
            why,
        };
        if bytes as u64 == LONGEST_LINE && text.last() != Some(&b'\n') {
            return Err(form(format!("longer than {LONGEST_LINE} bytes")));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        if taken == MOST_ROWS {
            return Err(form(format!("more than {MOST_ROWS} rows")));
        }
        take(&text, line)?;
        taken += 1;
    }
}

/// Reads a file of graded answers. Experts are those that answered every query, or those named by `only`;
/// a row that lacks one of `only` is left out.
pub fn load(path: &Path, only: Option<&[&str]>) -> Result<Table, DataError> {
    let mut rows = Vec::new();
    lines(path, &mut |text, line| {
        let form = |why: String| DataError::Form {
            path: path.into(),
            line,
            why,
        };
        let row: Line = serde_json::from_slice(text).map_err(|e| form(e.to_string()))?;
        if row.scores.values().any(|s| !(0.0..=1.0).contains(s)) {
            return Err(form("a score is from 0 to 1".into()));
        }
        if row.scores.is_empty() && row.answers.is_empty() {
            return Err(form("neither `scores` nor `answers` of any expert".into()));
        }
        if !row.answers.is_empty() && row.truth.is_none() {
            return Err(form(
                "`answers` without the `truth` to grade them by".into(),
            ));
        }
        if !matches!(row.split.as_str(), "" | "train" | "test") {
            return Err(form(format!(
                "the split '{}' is neither train nor test",
                row.split
            )));
        }
        rows.push(row);
        Ok(())
    })?;
    let table = table(&rows, only);
    if table.rows.is_empty() || table.experts.is_empty() || table.experts.len() > MOST_EXPERTS {
        let why = format!("no row that all of 1 to {MOST_EXPERTS} experts answered");
        return Err(DataError::Form {
            path: path.into(),
            line: 0,
            why,
        });
    }
    Ok(table)
}

fn table(lines: &[Line], only: Option<&[&str]>) -> Table {
    let has = |l: &Line, e: &str| l.scores.contains_key(e) || l.answers.contains_key(e);
    let mut experts: Vec<String> = match only {
        Some(only) => only.iter().map(|e| (*e).to_owned()).collect(),
        None => {
            let first = lines
                .iter()
                .take(1)
                .flat_map(|l| l.scores.keys().chain(l.answers.keys()));
            first
                .filter(|e| lines.iter().all(|l| has(l, e)))
                .cloned()
                .collect()
        }
    };
    experts.sort_unstable();
    experts.dedup();
    let letter = |text: Option<&String>| text.and_then(|t| t.chars().next());
    let rows = lines
        .iter()
        .filter(|l| experts.iter().all(|e| has(l, e)))
        .map(|l| {
            let truth = letter(l.truth.as_ref());
            let letters: Vec<Option<char>> = experts
                .iter()
                .map(|e| letter(l.answers.get(e).and_then(Option::as_ref)))
                .collect();
            let scores = experts.iter().zip(&letters).map(|(e, given)| {
                let right = f64::from(u8::from(given.is_some() && *given == truth));
                l.scores.get(e).copied().unwrap_or(right)
            });
            Graded {
                query: l.query.clone(),
                task: l.task.clone(),
                test: l.split == "test",
                scores: scores.collect(),
                answered: truth.map(|truth| Answered {
                    letters: letters.clone(),
                    truth,
                }),
            }
        })
        .collect();
    Table { experts, rows }
}

/// Opens a file, unpacking it if its name ends in `.gz`.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let file = File::open(path).map_err(|source| DataError::Read {
        path: path.into(),
        source,
    })?;
    let packed = path.extension().is_some_and(|e| e == "gz");
    Ok(if packed {
        Box::new(flate2::read::GzDecoder::new(file).take(MOST_BYTES))
    } else {
        Box::new(file.take(MOST_BYTES))
    })
}

impl Table {
    /// Index of an expert.
    pub fn expert(&self, name: &str) -> Option<usize> {
        self.experts.iter().position(|e| e == name)
    }

    /// The same rows with some experts only, in the given order of indices.
    pub fn only(&self, experts: &[usize]) -> Self {
        let rows = self.rows.iter().map(|r| Graded {
            scores: experts.iter().map(|e| r.scores[*e]).collect(),
            answered: r.answered.as_ref().map(|a| Answered {
                letters: experts.iter().map(|e| a.letters[*e]).collect(),
                truth: a.truth,
            }),
            ..r.clone()
        });
        Self {
            experts: experts.iter().map(|e| self.experts[*e].clone()).collect(),
            rows: rows.collect(),
        }
    }
}
