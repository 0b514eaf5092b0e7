//! What a policy is: it says how good each expert's answer will be, and is told how good it was.
//!
//! Filters, replicas, breakers and the order of candidates are the router's own; a policy fills in quality
//! alone, so that one of another make can take the place of [`Learner`] without knowing of peers.
//! `examples/own_policy.rs` is one that lives outside this crate.

mod baselines;

use std::fmt::Debug;

use polymath_types::{Cell, CodebookId, Evidence, ExpertId, Weighed};

use baselines::{BestSingle, Dice};

use crate::learning::{Codebook, Estimate, EstimatorConfig, Learner, Sparse};

/// A query as a policy sees it: no text.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The encoder's vector, of length 1; empty where there is none.
    pub vector: &'a Sparse,
    /// The encoder's cues.
    pub cues: &'a [f32],
}

/// A choice that may have been an experiment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Choice {
    /// The place of whom to ask.
    pub chosen: usize,
    /// With what chance each was chosen.
    pub propensities: Vec<f64>,
}

/// See the module. Calls are made under the router's lock: none may wait or take long.
pub trait Policy: Debug + Send {
    /// As `--policy` names it.
    fn name(&self) -> &'static str;

    /// What is expected of each expert, in their order. With each comes its prior: what is thought of it
    /// without any outcome, 0 to 1.
    fn estimate(&self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Vec<Estimate>;

    /// Whether it says anything but the priors. Where it does not, it is not asked.
    fn knows(&self) -> bool {
        true
    }

    /// Which of `experts` to ask, where exploring is allowed; nothing where it does not want to. The default
    /// asks the best.
    fn choose(&mut self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Option<Choice> {
        let estimates = self.estimate(question, experts);
        let best = estimates
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
        best.map(|(chosen, _)| {
            let mut propensities = vec![0.0; experts.len()];
            propensities[chosen] = 1.0;
            Choice {
                chosen,
                propensities,
            }
        })
    }

    /// An expert's answer was graded, 0 to 1.
    fn observe(&mut self, question: Question<'_>, expert: (ExpertId, f64), reward: f64);

    /// Several experts' answers to one question were graded.
    fn observe_all(&mut self, question: Question<'_>, graded: &[((ExpertId, f64), f64)]) {
        for (expert, reward) in graded {
            self.observe(question, *expert, *reward);
        }
    }

    /// There is time to go over what was learnt, so many times.
    fn settle(&mut self, passes: usize) {
        let _ = passes;
    }

    /// An answer that was graded in an earlier run: what [`Self::restore`] took counts it already.
    fn recall(&mut self, question: Question<'_>, expert: (ExpertId, f64), reward: f64) {
        let _ = (question, expert, reward);
    }

    /// What a later run needs besides the latest graded answers.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes what an earlier run saved; what it cannot read it leaves, and says so.
    fn restore(&mut self, saved: &[u8]) -> bool {
        saved.is_empty()
    }

    /// The codebooks under which others' counts are of use.
    fn codebooks(&self) -> Vec<CodebookId> {
        Vec::new()
    }

    /// Own counts as the catalog carries them: nothing of questions.
    fn published(&self) -> Vec<(Cell, Evidence)> {
        Vec::new()
    }

    /// What others have seen, in place of what they had seen before.
    fn share(&mut self, seen: &mut dyn Iterator<Item = (Cell, Weighed)>) {
        let _ = seen;
    }
}

impl Policy for Learner {
    fn name(&self) -> &'static str {
        "learned"
    }

    fn estimate(&self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Vec<Estimate> {
        let seen = self.see(question);
        self.estimator().estimates(experts, &seen)
    }

    fn knows(&self) -> bool {
        self.estimator().knows()
    }

    fn choose(&mut self, question: Question<'_>, experts: &[(ExpertId, f64)]) -> Option<Choice> {
        // Where nobody grades, an experiment teaches nothing.
        if !self.estimator().has_graded() {
            return None;
        }
        let seen = self.see(question);
        let (pick, propensities) = self.draw(experts, &seen)?;
        Some(Choice {
            chosen: pick.chosen,
            propensities,
        })
    }

    fn observe(&mut self, question: Question<'_>, (expert, prior): (ExpertId, f64), reward: f64) {
        let seen = self.see(question);
        Self::observe(self, expert, &seen, prior, reward);
    }

    fn settle(&mut self, passes: usize) {
        self.estimator_mut().settle(passes);
    }

    fn recall(&mut self, question: Question<'_>, (expert, prior): (ExpertId, f64), reward: f64) {
        let seen = self.see(question);
        self.estimator_mut().recall(expert, &seen, prior, reward);
    }

    fn save(&self) -> Vec<u8> {
        self.estimator().save()
    }

    fn restore(&mut self, saved: &[u8]) -> bool {
        self.estimator_mut().restore(saved)
    }

    fn codebooks(&self) -> Vec<CodebookId> {
        self.estimator().codebooks()
    }

    fn published(&self) -> Vec<(Cell, Evidence)> {
        // What few answers tell stays here all the same: that is the catalog's rule, and it weighs others
        // by all of it.
        self.estimator().published(1)
    }

    fn share(&mut self, seen: &mut dyn Iterator<Item = (Cell, Weighed)>) {
        self.estimator_mut().share_weighed(seen);
    }
}

/// The policy that learns, with nothing learnt.
pub(crate) fn learned(seed: u64) -> Box<dyn Policy> {
    let books = Codebook::defaults().into();
    Box::new(Learner::new(EstimatorConfig::default(), books, seed))
}

/// The policy of a name, with nothing learnt.
pub fn by_name(name: &str, seed: u64) -> Option<Box<dyn Policy>> {
    match name {
        "learned" => Some(learned(seed)),
        "likeness" => Some(Box::new(Likeness)),
        "best-single" => Some(Box::<BestSingle>::default()),
        "random" => Some(Box::new(Dice)),
        _ => None,
    }
}

/// The policies that [`by_name`] knows.
pub const POLICIES: [&str; 4] = ["learned", "likeness", "best-single", "random"];

/// Takes likeness of question and card alone for quality, and learns nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Likeness;

impl Policy for Likeness {
    fn name(&self) -> &'static str {
        "likeness"
    }

    fn knows(&self) -> bool {
        false
    }

    fn estimate(&self, _: Question<'_>, experts: &[(ExpertId, f64)]) -> Vec<Estimate> {
        let one = |(_, prior): &(ExpertId, f64)| Estimate {
            mean: *prior,
            mass: 1.0,
            levels: Vec::new(),
            local: 0.0,
        };
        experts.iter().map(one).collect()
    }

    fn observe(&mut self, _: Question<'_>, _: (ExpertId, f64), _: f64) {}
}
