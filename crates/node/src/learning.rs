//! What the router learns by: each decision is noted with what came of it, a grade of the answer is told to the
//! router's policy, and both outlast a restart. No text is kept, but hashed words, in which whoever guesses a word
//! can find it: they stay in the home.
//!
//! A grade is on the disk before it is acknowledged. What the policy has counted is written every so many
//! grades and at the end, with the number of the last grade in it: a start counts those that follow, and
//! recalls the others. How peers fail is not the policy's matter: breakers and latencies see to that.

mod exchange;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

pub(crate) use exchange::exchange;
use polymath_encoder::ENCODER_ID;
use polymath_proto::v1::{self, Learned, RoutedExpert, RoutedOutcome, RoutedQuery};
use polymath_router::{Decision, Features, Policy, Question, learning::Sparse};
use polymath_types::{ErrorKind, ExpertId, Failure, Privacy, Query};
use prost::Message;
use tokio::sync::{Notify, watch};

use crate::{
    AGENT, Node,
    records::{Changes, RecordStore, Records},
};

/// Decisions kept that nobody has graded yet.
const MOST_OPEN: usize = 1024;
/// Graded ones: as many as the policy recalls.
const MOST_GRADED: usize = 4096;
/// Experts noted of a decision.
const MOST_EXPERTS: usize = 8;
/// Places of a vector: a longer text has no more.
const MOST_PLACES: usize = polymath_encoder::DIMENSIONS;
/// Grades after which what was counted is written again.
const COUNTED_EVERY: u64 = 32;
const COUNTS: &str = "counts";
const QUERY: &str = "query-";

/// The decisions, and where they are kept.
#[derive(Debug)]
pub(crate) struct Learning {
    log: Mutex<Log>,
    /// None for whoever is here for one question.
    store: Option<Arc<Mutex<RecordStore>>>,
    /// There is a grade that the catalog has not heard of.
    graded: Notify,
    /// Whether the catalog has heard of any: who tells what it has seen says who it is, too.
    telling: watch::Sender<bool>,
    writing: tokio::sync::Mutex<()>,
    /// What was written last failed: told once.
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Log {
    /// By number.
    open: VecDeque<RoutedQuery>,
    /// By grade.
    graded: VecDeque<RoutedQuery>,
    last_number: u64,
    last_grade: u64,
    /// Grades in what was counted when it was written last.
    counted: u64,
    /// What the policy has heard by now.
    learned: Learned,
    /// Records that differ from the disk's.
    unwritten: Changes,
    /// The request id of the latest answer, noted or not.
    last_answer: String,
}

fn name(number: u64) -> String {
    format!("{QUERY}{number:020}")
}

impl Log {
    fn keep(&mut self, routed: &RoutedQuery) {
        let bytes = routed.encode_to_vec();
        self.unwritten
            .insert(name(routed.number), Some(bytes.into()));
    }

    fn drop(&mut self, routed: &RoutedQuery) {
        self.unwritten.insert(name(routed.number), None);
    }

    fn add(&mut self, mut routed: RoutedQuery) -> u64 {
        self.last_number += 1;
        routed.number = self.last_number;
        if self.open.len() >= MOST_OPEN
            && let Some(oldest) = self.open.pop_front()
        {
            self.drop(&oldest);
        }
        self.open.push_back(routed);
        self.last_number
    }

    fn open_mut(&mut self, number: u64) -> Option<&mut RoutedQuery> {
        let at = self.open.binary_search_by_key(&number, |r| r.number).ok()?;
        self.open.get_mut(at)
    }

    /// Moves what is meant to the graded ones.
    fn grade(&mut self, id: &str, reward: f64) -> Result<RoutedQuery, Failure> {
        let answered = |r: &RoutedQuery| r.outcome.as_ref().is_some_and(|o| !o.expert.is_empty());
        let latest = self.last_answer.clone();
        let id = if id.is_empty() { &latest } else { id };
        if id.is_empty() {
            let what = "no answer is known since this node started: ask something first, or name a request id";
            return Err(Failure::new(ErrorKind::NotFound, what));
        }
        if let Some(before) = self.graded.iter().find(|r| r.request_id == *id) {
            let reward = before.reward.unwrap_or_default();
            return Err(Failure::new(
                ErrorKind::FailedPrecondition,
                format!("the answer to {id} was rated {reward} before; a rating counts once"),
            ));
        }
        let Some(at) = self.open.iter().rposition(|r| r.request_id == *id) else {
            let what = format!(
                "nothing can be learnt from the answer to '{id}': there was no choice among experts, the question was not to leave your own nodes, or it is none of the latest {MOST_OPEN}"
            );
            return Err(Failure::new(ErrorKind::NotFound, what));
        };
        if !answered(&self.open[at]) {
            return Err(Failure::new(
                ErrorKind::FailedPrecondition,
                "that question was not answered, or not yet: there is nothing to rate",
            ));
        }
        let Some(mut routed) = self.open.remove(at) else {
            return Err(Failure::new(ErrorKind::Internal, "the log is broken"));
        };
        routed.graded_at = Some(self.learned.clone());
        self.last_grade += 1;
        self.learned.grades = self.last_grade;
        routed.reward = Some(reward);
        routed.grade = self.last_grade;
        self.keep(&routed);
        if self.graded.len() >= MOST_GRADED
            && let Some(oldest) = self.graded.pop_front()
        {
            self.drop(&oldest);
        }
        self.graded.push_back(routed.clone());
        Ok(routed)
    }
}

/// Whose answer was graded, as the policy is told.
fn lesson(routed: &RoutedQuery) -> Option<(Sparse, (ExpertId, f64), f64)> {
    let outcome = routed.outcome.as_ref()?;
    let expert = routed.experts.iter().find(|e| e.expert == outcome.expert)?;
    let id = ExpertId::from_bytes(expert.expert.as_ref().try_into().ok()?);
    let prior = expert.expected.as_ref()?.prior;
    let words = Sparse::new(&routed.places, &routed.values);
    Some((words, (id, prior), routed.reward?))
}

impl Learning {
    /// Nothing is kept.
    pub(crate) fn passing() -> Self {
        Self {
            log: Mutex::default(),
            store: None,
            graded: Notify::new(),
            telling: watch::Sender::new(false),
            writing: tokio::sync::Mutex::default(),
            failing: AtomicBool::new(false),
        }
    }

    /// Opens what an earlier run has left in `dir`, and tells `policy`, made with `seed`, of it.
    pub(crate) fn open(dir: &Path, policy: &mut dyn Policy, seed: u64) -> Result<Self, Failure> {
        let (store, records) = RecordStore::open(dir)?;
        let mut log = Log::read(records, policy);
        log.learned = Learned {
            seed,
            counted: log.counted,
            grades: log.last_grade,
            others: 0,
            policy: policy.name().to_owned(),
        };
        Ok(Self {
            log: Mutex::new(log),
            store: Some(Arc::new(Mutex::new(store))),
            ..Self::passing()
        })
    }

    /// Whether this node tells others what it has seen.
    pub(crate) fn telling(&self) -> watch::Receiver<bool> {
        self.telling.subscribe()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the policy has heard by now: to be read while it cannot hear more.
    pub(crate) fn learned(&self) -> Learned {
        self.log().learned.clone()
    }

    /// Others' word has changed, or `false`: there is none, as before.
    fn heard(&self, any: bool) {
        let others = &mut self.log().learned.others;
        *others += u64::from(any || *others > 0);
    }

    /// Notes a decision, if there was a choice. Returns its number.
    pub(crate) fn note(
        &self,
        query: &Query,
        features: &Features,
        learned: Learned,
        decision: &Decision,
    ) -> Option<u64> {
        let mut experts: Vec<RoutedExpert> = Vec::new();
        for candidate in &decision.candidates {
            let id = candidate.expert.as_bytes();
            if experts.len() < MOST_EXPERTS && !experts.iter().any(|e| e.expert == id[..]) {
                experts.push(RoutedExpert {
                    expert: id.to_vec().into(),
                    score: candidate.score,
                    expected: Some(expectation(&candidate.expected)),
                });
            }
        }
        // What must not travel leaves no trace, not even hashed.
        let stays = query.constraints.privacy < Privacy::Mesh;
        if features.words.is_empty() || experts.is_empty() || stays {
            return None;
        }
        let (places, values) = features
            .words
            .iter()
            .take(MOST_PLACES)
            .map(|(place, value)| (u32::try_from(place).unwrap_or(u32::MAX), value))
            .unzip();
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        Some(self.log().add(RoutedQuery {
            request_id: query.id.to_string(),
            at_ms: u64::try_from(at.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
            kind: query.kind.as_str().to_owned(),
            policy: learned.policy.clone(),
            learned: Some(learned),
            agent: AGENT.to_owned(),
            encoder: ENCODER_ID.to_owned(),
            places,
            values,
            cues: features.cues.clone(),
            experts,
            explored: decision.explored,
            ..RoutedQuery::default()
        }))
    }

    /// What came of it.
    pub(crate) fn ended(&self, id: &str, number: Option<u64>, outcome: RoutedOutcome) {
        let mut log = self.log();
        if !outcome.expert.is_empty() {
            id.clone_into(&mut log.last_answer);
        }
        let Some(routed) = number.and_then(|n| log.open_mut(n)) else {
            return;
        };
        routed.outcome = Some(outcome);
        let routed = routed.clone();
        log.keep(&routed);
    }

    /// The decisions, by number.
    pub(crate) fn all(&self) -> Vec<RoutedQuery> {
        let log = self.log();
        let mut all: Vec<_> = log.open.iter().chain(&log.graded).cloned().collect();
        all.sort_unstable_by_key(|r| r.number);
        all
    }

    /// Writes what is not on the disk yet; what fails is tried again next time. Not to be broken off.
    pub(crate) async fn write(&self) -> Result<(), Failure> {
        let Some(store) = self.store.clone() else {
            return Ok(());
        };
        // One after the other, so that what is older never comes later.
        let _writing = self.writing.lock().await;
        let changes = std::mem::take(&mut self.log().unwritten);
        if changes.is_empty() {
            return Ok(());
        }
        let written = tokio::task::spawn_blocking(move || {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let written = store.write(&changes);
            written.map_err(|e| (changes, e.to_string()))
        });
        let (changes, why) = match written.await {
            Ok(Ok(())) => {
                self.failing.store(false, Ordering::Relaxed);
                return Ok(());
            }
            Ok(Err(failed)) => failed,
            Err(e) => (Changes::new(), e.to_string()),
        };
        let mut log = self.log();
        for (name, change) in changes {
            log.unwritten.entry(name).or_insert(change);
        }
        drop(log);
        let what = format!("what was learnt cannot be written: {why}");
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!("{what}");
        }
        Err(Failure::new(ErrorKind::Unavailable, what))
    }

    /// Writes what `policy` has counted, too.
    pub(crate) fn count(&self, policy: &dyn Policy) {
        let mut log = self.log();
        if log.counted == log.last_grade {
            return;
        }
        let mut bytes = log.last_grade.to_le_bytes().to_vec();
        bytes.extend(policy.save());
        log.counted = log.last_grade;
        log.unwritten.insert(COUNTS.into(), Some(bytes.into()));
    }
}

impl Log {
    fn read(records: Records, policy: &mut dyn Policy) -> Self {
        let mut log = Self::default();
        let mut graded = Vec::new();
        let mut open = Vec::new();
        for (name, bytes) in records {
            if name == COUNTS {
                let (counted, saved) = bytes.split_at_checked(8).unwrap_or((&[0; 8], &[]));
                if policy.restore(saved) {
                    log.counted = u64::from_le_bytes(counted.try_into().unwrap_or_default());
                } else {
                    tracing::warn!(
                        "what an earlier version counted of experts is not readable: the latest grades are counted anew"
                    );
                }
                continue;
            }
            match RoutedQuery::decode(&bytes[..]) {
                // Vectors of another encoder mean something else.
                Ok(routed) if routed.encoder == ENCODER_ID => match routed.grade {
                    0 => open.push(routed),
                    _ => graded.push(routed),
                },
                _ => {
                    log.unwritten.insert(name, None);
                }
            }
        }
        open.sort_unstable_by_key(|r: &RoutedQuery| r.number);
        graded.sort_unstable_by_key(|r: &RoutedQuery| r.grade);
        for routed in &graded {
            let Some((words, expert, reward)) = lesson(routed) else {
                continue;
            };
            let question = Question {
                vector: &words,
                cues: &routed.cues,
            };
            if routed.grade > log.counted {
                policy.observe(question, expert, reward);
            } else {
                policy.recall(question, expert, reward);
            }
        }
        let numbers = open.iter().chain(&graded).map(|r| r.number);
        log.last_number = numbers.max().unwrap_or(0);
        log.last_grade = graded.last().map_or(0, |r| r.grade).max(log.counted);
        log.open = open.into();
        log.graded = graded.into();
        log
    }
}

/// What is expected of an answer, as it is told.
pub(crate) fn expectation(expected: &polymath_router::Expectation) -> v1::Expectation {
    v1::Expectation {
        prior: expected.prior,
        quality: expected.quality,
        evidence: expected.evidence,
        propensity: expected.propensity,
    }
}

impl Node {
    /// Says how good the answer to a question was, from 0 to 1; of the latest answer where `id` is empty.
    pub async fn rate(&self, id: &str, reward: f64) -> Result<v1::RateResponse, Failure> {
        if !(0.0..=1.0).contains(&reward) {
            return Err(Failure::new(
                ErrorKind::InvalidInput,
                format!("a rating is a number from 0 (bad) to 1 (good), not {reward}"),
            ));
        }
        let routed = self.learn(id, reward)?;
        self.inner.learning.graded.notify_one();
        let node = self.clone();
        // Whoever asked may go away meanwhile; the writing must not be broken off.
        let written = tokio::spawn(async move { node.inner.learning.write().await });
        let written = written.await;
        written
            .unwrap_or_else(|e| Err(Failure::new(ErrorKind::Internal, e.to_string())))
            .map_err(|f| {
                let what = format!("the rating counts, but is not on the disk yet: {f}");
                Failure::new(f.kind, what)
            })?;
        let outcome = routed.outcome.unwrap_or_default();
        let expert = <[u8; 32]>::try_from(outcome.expert.as_ref()).map(ExpertId::from_bytes);
        let index = self.index();
        let known = expert.ok().and_then(|id| index.expert(&id));
        let peer = polymath_types::PeerId::from_bytes(&outcome.peer);
        Ok(v1::RateResponse {
            request_id: routed.request_id,
            expert_id: expert.map(|id| id.to_string()).unwrap_or_default(),
            expert: known.map(|e| e.card.name.clone()).unwrap_or_default(),
            peer: peer.map(|p| p.to_string()).unwrap_or_default(),
        })
    }

    /// Tells the policy of a grade.
    fn learn(&self, id: &str, reward: f64) -> Result<RoutedQuery, Failure> {
        let learning = &self.inner.learning;
        // Held throughout: what is counted is never behind what is graded.
        let mut router = self.router();
        let routed = learning.log().grade(id, reward)?;
        if let Some((words, expert, reward)) = lesson(&routed) {
            let question = Question {
                vector: &words,
                cues: &routed.cues,
            };
            router.policy_mut().observe(question, expert, reward);
            let uncounted = {
                let log = learning.log();
                log.last_grade - log.counted
            };
            if uncounted >= COUNTED_EVERY {
                learning.count(router.policy());
            }
        }
        Ok(routed)
    }

    /// Writes what was learnt, before the node ends.
    pub(crate) async fn write_learnt(&self) {
        let learning = &self.inner.learning;
        learning.count(self.router().policy());
        let _ = learning.write().await;
    }
}

#[cfg(test)]
mod tests;
