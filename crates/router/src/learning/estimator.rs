//! How good an expert's answer to a query will be, by all that is known.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use polymath_types::ExpertId;

use super::{
    Codebook, Sparse,
    cells::{Belief, Cell, Cells, Layout, Members, Sources, descend},
    exchange::Reported,
    ridge::Ridges,
};
use crate::Random;

/// Constants of an [`Estimator`]. The defaults were chosen by cross-validation inside the training folds of
/// `polymath route eval`; how, is said in `crates/eval/src/study.rs`.
#[derive(Debug, Clone, PartialEq)]
pub struct EstimatorConfig {
    /// Places of the encoder's vector that are learnt from; higher ones are folded in.
    pub dimensions: usize,
    /// Mass of the prior of an expert never asked, observations.
    pub prior_mass: f32,
    /// Mass of each level as the prior of the next, coarse ones first; the last counts for all further ones.
    pub level_masses: Vec<f32>,
    /// Penalty of the regression: the variance of an outcome over that of what words explain.
    pub penalty: f32,
    /// Scale of the words in the regression.
    pub words: f32,
    /// Scale of the cues.
    pub cues: f32,
    /// Scale of the products of cues.
    pub products: f32,
    /// Own observations kept for the regression; the oldest go first.
    pub max_observations: usize,
    /// Experts of which anything is kept; the longest unused go first.
    pub max_experts: usize,
    /// Older observations visited again with each new one.
    pub revisits: usize,
    /// What own counts of an expert are multiplied by with each new outcome of it.
    pub discount: f32,
}

impl Default for EstimatorConfig {
    fn default() -> Self {
        Self {
            dimensions: 1 << 14,
            prior_mass: 4.0,
            level_masses: vec![20.0, 20.0],
            penalty: 50.0,
            words: 1.0,
            cues: 0.5,
            products: 0.1,
            max_observations: 4096,
            max_experts: 256,
            revisits: 8,
            discount: 0.9995,
        }
    }
}

/// Cues that are looked at; an encoder has fewer.
const MOST_CUES: usize = 24;

/// Words, cues and their products.
const fn design_dimensions(config: &EstimatorConfig) -> usize {
    config.dimensions + MOST_CUES + MOST_CUES * (MOST_CUES + 1) / 2
}

/// A query as the estimator sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    members: Members,
    /// Words, cues and products of cues, scaled.
    design: Sparse,
    square: f32,
}

/// How good an answer will be.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Expected reward, 0 to 1.
    pub mean: f64,
    /// Observations that stand behind it: the posterior is about `Beta(mean·mass, (1 − mean)·mass)`.
    pub mass: f64,
    /// The mean after each level: global, then each size of codebook.
    pub levels: Vec<f64>,
    /// What the query's own words and cues add to the last level.
    pub local: f64,
}

impl Estimate {
    /// The mean before it is held between 0 and 1: for ranking.
    pub fn unbounded(&self) -> f64 {
        let last = self.levels.last();
        last.map_or(self.mean, |level| level + self.local)
    }

    /// Standard deviation of the posterior.
    pub fn deviation(&self) -> f64 {
        (self.mean * (1.0 - self.mean) / (self.mass + 1.0))
            .max(0.0)
            .sqrt()
    }
}

#[derive(Debug)]
struct Expert {
    own: Cells,
    others: Option<Cells>,
    /// Its column of the regression.
    ridge: Option<usize>,
    used: u64,
}

impl Expert {
    fn new(layout: &Layout) -> Self {
        Self {
            own: Cells::new(layout),
            others: None,
            ridge: None,
            used: 0,
        }
    }

    const fn sources(&self) -> Sources<'_> {
        Sources {
            own: Some(&self.own),
            others: self.others.as_ref(),
        }
    }
}

#[derive(Debug)]
struct Observation {
    expert: ExpertId,
    seen: Arc<Seen>,
    prior: f32,
    reward: f32,
    dual: f32,
}

/// See the module [`learning`](super).
#[derive(Debug)]
pub struct Estimator {
    config: EstimatorConfig,
    books: Arc<[Codebook]>,
    layout: Arc<Layout>,
    experts: HashMap<ExpertId, Expert>,
    ridges: Ridges,
    /// Columns that are nobody's: those that were given back, and where the others begin.
    free: Vec<usize>,
    fresh: usize,
    observations: VecDeque<Observation>,
    random: Random,
    ticks: u64,
}

impl Estimator {
    /// With nothing learnt yet; `books` all of one encoder, best [`Codebook::defaults`].
    pub fn new(config: EstimatorConfig, books: Arc<[Codebook]>, seed: u64) -> Self {
        Self {
            layout: Arc::new(Layout::new(&books)),
            ridges: Ridges::new(design_dimensions(&config)),
            config,
            books,
            experts: HashMap::new(),
            free: Vec::new(),
            fresh: 0,
            observations: VecDeque::new(),
            random: Random::new(seed),
            ticks: 0,
        }
    }

    /// Whether anything was learnt, of this node's own answers or of others'.
    pub fn knows(&self) -> bool {
        !self.experts.is_empty()
    }

    /// Whether any answer was graded here.
    pub fn has_graded(&self) -> bool {
        self.experts.values().any(|known| !known.own.is_empty())
    }

    /// Its books.
    pub fn books(&self) -> &[Codebook] {
        &self.books
    }

    /// Prepares a query: once, for all experts.
    pub fn see(&self, vector: &Sparse, cues: &[f32]) -> Seen {
        let c = &self.config;
        let cues = &cues[..cues.len().min(MOST_CUES)];
        let members: Members = if vector.is_empty() {
            Box::default()
        } else {
            self.books.iter().map(|b| b.assign(vector, cues)).collect()
        };
        let mut design = Sparse::default();
        let mut place = 0u32;
        for (at, value) in vector.iter() {
            design.push((at % c.dimensions) as u32, value * c.words);
        }
        place += c.dimensions as u32;
        for cue in cues {
            design.push(place, cue * c.cues);
            place += 1;
        }
        for (i, a) in cues.iter().enumerate() {
            for b in &cues[i..] {
                design.push(place, a * b * c.products);
                place += 1;
            }
        }
        let square = design.square();
        Seen {
            members,
            design,
            square,
        }
    }

    /// What is expected of an expert; `prior` is what is known of it without any outcome, 0 to 1.
    pub fn estimate(&self, expert: &ExpertId, seen: &Seen, prior: f64) -> Estimate {
        let known = self.experts.get(expert);
        let local = self.local(known, seen);
        self.estimated(known, seen, prior, local)
    }

    /// The same of several, each with its prior.
    pub fn estimates(&self, experts: &[(ExpertId, f64)], seen: &Seen) -> Vec<Estimate> {
        // A line of the cache holds sixteen weights of a place: reading one costs as much as all.
        const WORTH: usize = 16;
        let all = experts.len() > 1 && experts.len() * WORTH >= self.fresh;
        let locals = all.then(|| self.ridges.predict_all(&seen.design));
        let one = |(expert, prior): &(ExpertId, f64)| {
            let known = self.experts.get(expert);
            let local = match &locals {
                Some(all) => {
                    let column = known.and_then(|k| k.ridge);
                    column.and_then(|c| all.get(c)).copied().unwrap_or(0.0)
                }
                None => self.local(known, seen),
            };
            self.estimated(known, seen, *prior, local)
        };
        experts.iter().map(one).collect()
    }

    /// What a query's own words and cues add.
    fn local(&self, known: Option<&Expert>, seen: &Seen) -> f32 {
        let column = known.and_then(|k| k.ridge);
        column.map_or(0.0, |c| self.ridges.predict(c, &seen.design))
    }

    fn estimated(&self, known: Option<&Expert>, seen: &Seen, prior: f64, local: f32) -> Estimate {
        let mut levels = Vec::with_capacity(4);
        let belief = self.belief(known, &seen.members, prior, |b| levels.push(b.mean));
        let local = f64::from(local);
        Estimate {
            mean: (belief.mean + local).clamp(0.0, 1.0),
            mass: belief.mass,
            levels,
            local,
        }
    }

    /// The mean alone, not held between 0 and 1: for ranking.
    pub fn score(&self, expert: &ExpertId, seen: &Seen, prior: f64) -> f64 {
        let known = self.experts.get(expert);
        let local = f64::from(self.local(known, seen));
        self.belief(known, &seen.members, prior, |_| ()).mean + local
    }

    fn belief(
        &self,
        known: Option<&Expert>,
        members: &Members,
        prior: f64,
        visit: impl FnMut(Belief),
    ) -> Belief {
        let sources = known.map(Expert::sources).unwrap_or_default();
        let prior = Belief {
            mean: prior,
            mass: f64::from(self.config.prior_mass),
        };
        descend(
            &self.layout,
            sources,
            members,
            prior,
            &self.config.level_masses,
            visit,
        )
    }

    /// An answer was graded: `reward` from 0 to 1. `prior` as at the estimate.
    pub fn observe(&mut self, expert: ExpertId, seen: &Arc<Seen>, prior: f64, reward: f64) {
        if !reward.is_finite() {
            return;
        }
        let reward = reward.clamp(0.0, 1.0) as f32;
        let (layout, discount) = (Arc::clone(&self.layout), self.config.discount);
        let known = self.touch(expert);
        known.own.fade(discount);
        known.own.observe(&layout, &seen.members, prior, reward);
        self.keep(expert, seen, prior, reward);
    }

    /// Keeps an answer that is counted already: of an earlier run, whose counts were restored.
    pub fn recall(&mut self, expert: ExpertId, seen: &Arc<Seen>, prior: f64, reward: f64) {
        if reward.is_finite() && self.experts.contains_key(&expert) {
            self.keep(expert, seen, prior, reward.clamp(0.0, 1.0) as f32);
        }
    }

    fn keep(&mut self, expert: ExpertId, seen: &Arc<Seen>, prior: f64, reward: f32) {
        if self.config.max_observations == 0 {
            return;
        }
        while self.observations.len() >= self.config.max_observations {
            self.drop_oldest();
        }
        self.observations.push_back(Observation {
            expert,
            seen: Arc::clone(seen),
            prior: prior as f32,
            reward,
            dual: 0.0,
        });
        self.visit(self.observations.len() - 1);
        for _ in 0..self.config.revisits {
            let at = self.random.below(self.observations.len());
            self.visit(at);
        }
    }

    /// Visits every kept observation `passes` times: after a load from disk, or in idle time. The regression
    /// is exact in the limit; fifteen are plenty.
    pub fn settle(&mut self, passes: usize) {
        let mut order: Vec<usize> = (0..self.observations.len()).collect();
        for _ in 0..passes {
            self.random.shuffle(&mut order);
            for at in &order {
                self.visit(*at);
            }
        }
    }

    fn visit(&mut self, at: usize) {
        let Some(observation) = self.observations.get_mut(at) else {
            return;
        };
        let Some(known) = self.experts.get_mut(&observation.expert) else {
            return;
        };
        let seen = &observation.seen;
        let prior = Belief {
            mean: f64::from(observation.prior),
            mass: f64::from(self.config.prior_mass),
        };
        let masses = &self.config.level_masses;
        let belief = descend(
            &self.layout,
            known.sources(),
            &seen.members,
            prior,
            masses,
            |_| (),
        );
        let target = observation.reward - belief.mean as f32;
        let (free, fresh) = (&mut self.free, &mut self.fresh);
        let column = *known.ridge.get_or_insert_with(|| {
            free.pop().unwrap_or_else(|| {
                *fresh += 1;
                *fresh - 1
            })
        });
        self.ridges.reserve(column);
        self.ridges.step(
            column,
            &seen.design,
            seen.square,
            &mut observation.dual,
            target,
            self.config.penalty,
        );
    }

    fn drop_oldest(&mut self) {
        if let Some(old) = self.observations.pop_front()
            && let Some(column) = self.experts.get(&old.expert).and_then(|k| k.ridge)
        {
            self.ridges.forget(column, &old.seen.design, old.dual);
        }
    }

    /// What others measured replaces what they said before, as the catalog weighed it. Whoever
    /// this node has graded itself gives way to none of whom there is hearsay alone.
    pub fn share(&mut self, cells: &[Reported]) {
        for known in self.experts.values_mut() {
            known.others = None;
        }
        let (ridges, free) = (&mut self.ridges, &mut self.free);
        self.experts.retain(|_, known| {
            let stays = !known.own.is_empty();
            if let Some(column) = known.ridge.filter(|_| !stays) {
                ridges.clear(column);
                free.push(column);
            }
            stays
        });
        for told in cells {
            let cell = match told.cluster {
                None => Some(0),
                Some(cluster) => self.layout.cell(told.book, cluster),
            };
            let Some(cell) = cell else { continue };
            if self.experts.len() >= self.config.max_experts.max(1)
                && !self.experts.contains_key(&told.expert)
            {
                continue;
            }
            let layout = &self.layout;
            let known = self.experts.entry(told.expert);
            let known = known.or_insert_with(|| Expert::new(layout));
            let others = known.others.get_or_insert_with(|| Cells::new(layout));
            others.add(
                cell,
                Cell {
                    count: told.count,
                    reward: told.reward,
                    expected: 0.0,
                },
            );
        }
    }

    /// Own counts, for publishing: cells with at least `least` graded answers, so that none tells of a
    /// single question. Ordered by expert, book and cluster.
    pub fn own_counts(&self, least: f32) -> Vec<Reported> {
        let mut all = Vec::new();
        for (expert, known) in &self.experts {
            let mut add = |cell: usize, book: usize, cluster: Option<u16>| {
                let Cell { count, reward, .. } = known.own.get(cell);
                if count >= least && count > 0.0 {
                    all.push(Reported {
                        book,
                        cluster,
                        expert: *expert,
                        count,
                        reward,
                    });
                }
            };
            add(0, 0, None);
            for (cell, book, cluster) in self.layout.places() {
                add(cell, book, Some(cluster));
            }
        }
        all.sort_unstable_by_key(|c| (c.expert, c.book, c.cluster));
        all
    }

    /// Own cells of each expert of which anything was counted.
    pub(super) fn counted(&self) -> impl Iterator<Item = (ExpertId, &[Cell])> {
        let counted = self.experts.iter().filter(|(_, k)| !k.own.is_empty());
        counted.map(|(id, known)| (*id, known.own.all()))
    }

    /// How many cells an expert has.
    pub(super) fn cells(&self) -> usize {
        Cells::new(&self.layout).all().len()
    }

    /// These are an expert's own cells from now on.
    pub(super) fn count(&mut self, expert: ExpertId, cells: &[Cell]) {
        let mut own = Cells::new(&self.layout);
        for (at, cell) in cells.iter().enumerate() {
            own.add(at, *cell);
        }
        self.touch(expert).own = own;
    }

    /// The expert changed: of what was learnt of it only `keep` (0 to 1) still counts, others' word included.
    pub fn soften(&mut self, expert: &ExpertId, keep: f32) {
        let Some(known) = self.experts.get_mut(expert) else {
            return;
        };
        known.own.fade(keep);
        if let Some(others) = &mut known.others {
            others.fade(keep);
        }
        if let Some(column) = known.ridge {
            self.ridges.clear(column);
        }
        self.observations.retain(|o| o.expert != *expert);
    }

    /// Something changed somewhere: counts are worth `keep` (0 to 1) of what they were, so that all are tried
    /// again. What the regressions learnt of words stays.
    pub fn doubt(&mut self, keep: f32) {
        for known in self.experts.values_mut() {
            known.own.fade(keep);
        }
    }

    /// A new version starts from `keep` of what was learnt of its parent.
    pub fn inherit(&mut self, parent: &ExpertId, child: ExpertId, keep: f32) {
        let Some(known) = self.experts.get(parent) else {
            return;
        };
        let (mut own, mut others) = (known.own.clone(), known.others.clone());
        own.fade(keep);
        if let Some(others) = &mut others {
            others.fade(keep);
        }
        let fresh = self.touch(child);
        fresh.own = own;
        fresh.others = others;
    }

    fn touch(&mut self, expert: ExpertId) -> &mut Expert {
        self.ticks += 1;
        if self.experts.len() >= self.config.max_experts.max(1)
            && !self.experts.contains_key(&expert)
        {
            let oldest = self
                .experts
                .iter()
                .min_by_key(|(_, k)| k.used)
                .map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                let gone = self.experts.remove(&oldest);
                if let Some(column) = gone.and_then(|known| known.ridge) {
                    self.ridges.clear(column);
                    self.free.push(column);
                }
                self.observations.retain(|o| o.expert != oldest);
            }
        }
        let (layout, ticks) = (Arc::clone(&self.layout), self.ticks);
        let known = self.experts.entry(expert);
        let known = known.or_insert_with(|| Expert::new(&layout));
        known.used = ticks;
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPERT: ExpertId = ExpertId::from_bytes([1; 32]);
    const OTHER: ExpertId = ExpertId::from_bytes([2; 32]);

    fn estimator(config: EstimatorConfig) -> Estimator {
        Estimator::new(config, Codebook::defaults().into(), 1)
    }

    /// Two subjects: places of their words.
    fn query(e: &Estimator, subject: u32, n: u32) -> Arc<Seen> {
        let places = [
            subject * 1000,
            subject * 1000 + 1,
            subject * 1000 + 10 + n % 50,
        ];
        Arc::new(e.see(&Sparse::new(&places, &[0.6, 0.6, 0.53]), &[]))
    }

    #[test]
    fn words_tell_subjects_apart_within_a_cluster_and_evidence_outgrows_the_prior() {
        let mut e = estimator(EstimatorConfig::default());
        assert!((e.estimate(&EXPERT, &query(&e, 1, 0), 0.8).mean - 0.8).abs() < 1e-6);
        for n in 0..300 {
            let seen = query(&e, n % 2, n);
            e.observe(EXPERT, &seen, 0.8, f64::from(n % 2));
        }
        let (good, bad) = (
            e.estimate(&EXPERT, &query(&e, 1, 7), 0.8),
            e.estimate(&EXPERT, &query(&e, 0, 7), 0.8),
        );
        assert!(good.mean > 0.8 && bad.mean < 0.2, "{good:?} {bad:?}");
        assert!(good.mass > 50.0 && good.deviation() < 0.1);
        e.soften(&EXPERT, 0.0);
        assert!((e.estimate(&EXPERT, &query(&e, 0, 7), 0.8).mean - 0.8).abs() < 1e-3);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let config = EstimatorConfig {
            max_observations: 10,
            max_experts: 4,
            ..EstimatorConfig::default()
        };
        let mut e = estimator(config);
        let seen = query(&e, 0, 0);
        for n in 0..100u8 {
            e.observe(ExpertId::from_bytes([n; 32]), &seen, 0.5, 1.0);
            e.observe(ExpertId::from_bytes([n; 32]), &seen, 0.5, f64::NAN);
            assert!(e.observations.len() <= 10 && e.experts.len() <= 4);
        }
    }

    #[test]
    fn what_was_dropped_from_the_window_leaves_no_trace_in_the_weights() {
        let config = EstimatorConfig {
            max_observations: 5,
            ..EstimatorConfig::default()
        };
        let mut e = estimator(config);
        for n in 0..50 {
            let seen = query(&e, 1, n);
            e.observe(EXPERT, &seen, 0.5, 1.0);
        }
        let elsewhere = query(&e, 9, 0);
        for _ in 0..5 {
            e.observe(EXPERT, &Arc::clone(&elsewhere), 0.5, 0.5);
        }
        let local = e.estimate(&EXPERT, &query(&e, 1, 3), 0.5).local;
        assert!(local.abs() < 1e-4, "{local}");
    }

    #[test]
    fn few_counts_are_not_published_and_those_of_others_replace_one_another() {
        let mut e = estimator(EstimatorConfig {
            discount: 1.0,
            ..EstimatorConfig::default()
        });
        let seen = query(&e, 1, 0);
        for n in 0..6 {
            e.observe(EXPERT, &seen, 0.5, f64::from(n % 2));
        }
        e.observe(OTHER, &seen, 0.5, 1.0);
        let counts = e.own_counts(5.0);
        assert!(
            counts
                .iter()
                .all(|c| c.expert == EXPERT && c.count == 6.0 && c.reward == 3.0)
        );
        assert_eq!(
            counts.len(),
            1 + e.books().len(),
            "the global cell and one in each book"
        );

        let mut fresh = estimator(EstimatorConfig::default());
        let told: Vec<Reported> = counts
            .iter()
            .map(|c| Reported {
                count: 100.0,
                reward: 100.0,
                ..*c
            })
            .collect();
        fresh.share(&told);
        assert!(fresh.estimate(&EXPERT, &seen, 0.5).mean > 0.9);
        assert!(
            fresh.own_counts(1.0).is_empty(),
            "hearsay is not passed on as one's own"
        );
        fresh.share(&[]);
        assert!((fresh.estimate(&EXPERT, &seen, 0.5).mean - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_new_version_inherits_at_a_discount() {
        let mut e = estimator(EstimatorConfig::default());
        let seen = query(&e, 1, 0);
        for _ in 0..40 {
            e.observe(EXPERT, &seen, 0.5, 1.0);
        }
        e.inherit(&EXPERT, OTHER, 0.25);
        let (parent, child) = (
            e.estimate(&EXPERT, &seen, 0.5),
            e.estimate(&OTHER, &seen, 0.5),
        );
        assert!(child.mean > 0.6 && child.mean < parent.mean, "{child:?}");
        assert!(child.mass < parent.mass, "{child:?} {parent:?}");
    }
}
