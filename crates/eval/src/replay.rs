//! Live decisions decided again: what `polymath route log export` wrote, held against what the same policy says of
//! the same questions after the same grades.
//!
//! A daemon's policy begins each run anew: it takes what was counted up to some grade, recalls the graded answers
//! up to there, and learns from those after it. The log says of each decision, and of each grade, in which run it
//! was made and what had been counted then, so that all of it happens here in the same order with the same draws.
//! What is compared is what the policy answers for: quality and evidence. The other terms of a score (latency, load,
//! price) are of the moment and stand in the log as they were.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use polymath_figures::{Report, Row};
use polymath_router::{Policy, Question, by_name, learning::Sparse};
use polymath_types::ExpertId;
use serde::Deserialize;
use serde_json::json;

use crate::{DataError, data};

/// Two computations of one number may differ by so much: numbers are written as decimals.
const SAME: f64 = 1e-9;
/// What the router leaves out as nothing learnt.
const NOTHING: f64 = 1e-6;

/// A line of the log.
#[derive(Debug, Deserialize)]
struct Decided {
    number: u64,
    encoder: String,
    places: Vec<u32>,
    values: Vec<f32>,
    cues: Vec<f32>,
    experts: Vec<Expected>,
    outcome: Option<Outcome>,
    reward: Option<f64>,
    #[serde(default)]
    grade: u64,
    learned: Option<Moment>,
    graded_at: Option<Moment>,
}

#[derive(Debug, Deserialize)]
struct Expected {
    expert: ExpertId,
    prior: f64,
    quality: f64,
    evidence: f64,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    expert: Option<ExpertId>,
}

/// In which run, and what the policy had heard by then.
#[derive(Debug, Clone, Deserialize)]
struct Moment {
    seed: String,
    counted: u64,
    grades: u64,
    others: u64,
    policy: String,
}

/// A graded answer as a policy is told of it; one that taught nothing has no lesson.
#[derive(Debug)]
struct Grade {
    vector: Sparse,
    cues: Vec<f32>,
    lesson: Option<((ExpertId, f64), f64)>,
}

/// What came of decisions decided again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replayed {
    /// Decided again.
    pub compared: usize,
    /// Of those, all experts with the same quality and evidence.
    pub identical: usize,
    /// The greatest difference in quality.
    pub furthest: f64,
    /// Not decided again, by reason.
    pub left_out: BTreeMap<&'static str, usize>,
}

const OTHERS: &str = "others' word was in it, which the log does not carry";
const GRADES: &str = "not all grades before it are in the log";
const VERSION: &str = "of a version that did not note what was learnt, or of another encoder";
const POLICY: &str = "of a policy that is not built in";

/// Decides the log at `path` again.
pub fn replay(path: &Path) -> Result<Replayed, DataError> {
    let mut decided: Vec<Decided> = Vec::new();
    data::lines(path, &mut |text, line| {
        let read = serde_json::from_slice(text).map_err(|e| DataError::Form {
            path: path.into(),
            line,
            why: format!("it is no line of `polymath route log export`: {e}"),
        })?;
        decided.push(read);
        Ok(())
    })?;
    Ok(Replay::new(&decided).run(&decided))
}

/// The same as a table.
pub fn report(path: &Path) -> Result<Report, DataError> {
    let replayed = replay(path)?;
    let Replayed {
        compared,
        identical,
        ..
    } = replayed;
    let share = Row::new("replay", "identical", identical as f64, "decisions").asked(
        format!("all of {compared}"),
        identical == compared && compared > 0,
    );
    let mut rows = vec![
        Row::new("replay", "decided again", compared as f64, "decisions"),
        share,
        Row::new("replay", "furthest", replayed.furthest, "of quality"),
    ];
    for (why, count) in replayed.left_out {
        let mut row = Row::new(why, "left out", count as f64, "decisions");
        row.note = Some(why.into());
        rows.push(row);
    }
    let conditions = json!({ "log": path.display().to_string() });
    Ok(Report::new("route eval --replay", conditions, rows))
}

struct Replay {
    /// By number, from 1; up to the first that is missing.
    grades: Vec<Grade>,
    /// Grades after which what was counted began a later run.
    wanted: BTreeSet<u64>,
    saved: BTreeMap<u64, Vec<u8>>,
    policy: Option<Box<dyn Policy>>,
    /// Of which run the policy is, by its seed, and of which name.
    run: (String, String),
    /// Grades it has heard of.
    heard: u64,
}

impl Replay {
    fn new(decided: &[Decided]) -> Self {
        let graded = decided.iter().filter(|d| d.grade > 0);
        let graded: BTreeMap<u64, &Decided> = graded.map(|d| (d.grade, d)).collect();
        let grades = (1..).map_while(|n| graded.get(&n).map(|d| grade(d)));
        let moments = decided.iter().flat_map(|d| [&d.learned, &d.graded_at]);
        Self {
            grades: grades.collect(),
            wanted: moments.flatten().map(|m| m.counted).collect(),
            saved: BTreeMap::new(),
            policy: None,
            run: Default::default(),
            heard: 0,
        }
    }

    fn run(mut self, decided: &[Decided]) -> Replayed {
        let mut replayed = Replayed::default();
        // Grades happen between decisions: each after those that were made before it.
        let mut events: Vec<(u64, bool, u64, &Decided)> = Vec::new();
        for d in decided {
            let learned = d.learned.as_ref().map_or(u64::MAX, |m| m.grades);
            events.push((learned, true, d.number, d));
            if d.grade > 0 {
                events.push((d.grade, false, d.number, d));
            }
        }
        events.sort_by_key(|(grades, decision, number, _)| (*grades, *decision, *number));
        for (_, decision, _, d) in events {
            let moment = if decision { &d.learned } else { &d.graded_at };
            let reached = match moment {
                Some(m) if d.encoder == polymath_encoder::ENCODER_ID => {
                    self.reach(m, if decision { m.grades } else { d.grade })
                }
                _ => Err(VERSION),
            };
            if !decision {
                continue;
            }
            match (reached, &self.policy) {
                (Ok(()), Some(policy)) => compare(policy.as_ref(), d, &mut replayed),
                (Err(why), _) => *replayed.left_out.entry(why).or_default() += 1,
                (Ok(()), None) => {}
            }
        }
        replayed
    }

    /// Brings the policy to where it was.
    fn reach(&mut self, moment: &Moment, grades: u64) -> Result<(), &'static str> {
        if moment.others > 0 {
            return Err(OTHERS);
        }
        if grades > self.grades.len() as u64 {
            return Err(GRADES);
        }
        let run = (moment.seed.clone(), moment.policy.clone());
        if self.run != run || self.policy.is_none() || self.heard > grades {
            let seed = u64::from_str_radix(&moment.seed, 16).map_err(|_| VERSION)?;
            let mut policy = by_name(&moment.policy, seed).ok_or(POLICY)?;
            if moment.counted > 0 {
                let saved = self.saved.get(&moment.counted).ok_or(GRADES)?;
                if !policy.restore(saved) {
                    return Err(GRADES);
                }
            }
            let counted = usize::try_from(moment.counted).unwrap_or(usize::MAX);
            for grade in self.grades.iter().take(counted) {
                if let Some((expert, reward)) = grade.lesson {
                    policy.recall(grade.question(), expert, reward);
                }
            }
            (self.policy, self.run, self.heard) = (Some(policy), run, moment.counted);
        }
        let Some(policy) = &mut self.policy else {
            return Ok(());
        };
        while self.heard < grades {
            let next = usize::try_from(self.heard).unwrap_or(usize::MAX);
            if let Some(grade) = self.grades.get(next)
                && let Some((expert, reward)) = grade.lesson
            {
                policy.observe(grade.question(), expert, reward);
            }
            self.heard += 1;
            if self.wanted.contains(&self.heard) {
                self.saved.insert(self.heard, policy.save());
            }
        }
        Ok(())
    }
}

impl Grade {
    fn question(&self) -> Question<'_> {
        Question {
            vector: &self.vector,
            cues: &self.cues,
        }
    }
}

fn grade(d: &Decided) -> Grade {
    let answerer = d.outcome.as_ref().and_then(|o| o.expert);
    let expert = d.experts.iter().find(|e| Some(e.expert) == answerer);
    let lesson = expert.and_then(|e| Some(((e.expert, e.prior), d.reward?)));
    Grade {
        vector: Sparse::new(&d.places, &d.values),
        cues: d.cues.clone(),
        lesson,
    }
}

fn compare(policy: &dyn Policy, d: &Decided, replayed: &mut Replayed) {
    let vector = Sparse::new(&d.places, &d.values);
    let question = Question {
        vector: &vector,
        cues: &d.cues,
    };
    let experts: Vec<_> = d.experts.iter().map(|e| (e.expert, e.prior)).collect();
    let estimates = if policy.knows() {
        policy.estimate(question, &experts)
    } else {
        Vec::new()
    };
    let mut same = true;
    for (at, noted) in d.experts.iter().enumerate() {
        let (more, evidence) = match estimates.get(at) {
            Some(e) if (e.mean - noted.prior).abs() > NOTHING => (e.mean - noted.prior, e.mass),
            _ => (0.0, 0.0),
        };
        let apart = (noted.prior + more - noted.quality).abs();
        replayed.furthest = replayed.furthest.max(apart);
        same &= apart <= SAME && (evidence - noted.evidence).abs() <= SAME * evidence.max(1.0);
    }
    replayed.compared += 1;
    replayed.identical += usize::from(same);
}
