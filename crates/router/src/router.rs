//! Puts the parts of a decision together.

use std::{sync::Arc, time::Duration};

use polymath_types::{ExpertId, ExpertKind, Index, IndexedExpert, PeerId, Preference, WeightsId};

use crate::{
    Candidate, Decision, Descriptor, Expectation, Outcome, PeerState, Policy, Question, Request,
    RouterConfig, Term,
    decision::{Reason, Tally},
    failure, filter,
    hedge::Hedges,
    learning::{Codebook, Estimate, EstimatorConfig, LEAST_PRIOR, Learner},
    reason,
    replica::{Seat, View, describe},
    statistics::Statistics,
};

/// How good the answer of the closest expert is expected to be, before anything is learnt of it.
const CLOSEST_PRIOR: f64 = 0.6;
/// Experts among which the policy may choose an experiment.
const MOST_TRIED: usize = 8;

type Descriptors<'a> = &'a dyn Fn(&ExpertId) -> Option<Arc<Descriptor>>;

/// Chooses experts and replicas, and learns from the outcomes of calls.
#[derive(Debug)]
pub struct Router {
    pub(crate) config: RouterConfig,
    seed: u64,
    decisions: u64,
    pub(crate) statistics: Statistics,
    pub(crate) hedges: Hedges,
    policy: Box<dyn Policy>,
}

/// An expert with what the query makes of it.
#[derive(Debug)]
pub(crate) struct Ranked<'a> {
    pub(crate) expert: &'a IndexedExpert,
    /// `None` when query and card cannot be compared.
    pub(crate) quality: Option<f64>,
    /// The card states languages, the query's is not among them.
    pub(crate) foreign: bool,
    /// How good an answer is expected without anything learnt, 0 to 1.
    pub(crate) prior: f64,
    /// By how much more than that is expected by what was learnt, and answers that stand behind it.
    pub(crate) learned: Option<(f64, f64)>,
    /// Quality (0 where unknown) less the language penalty.
    pub(crate) subject: f64,
    /// The same, and what was learnt.
    pub(crate) content: f64,
}

impl Ranked<'_> {
    /// What is expected of its answer.
    pub(crate) fn expected(&self) -> f64 {
        self.prior + self.learned.map_or(0.0, |(more, _)| more)
    }

    fn learn(&mut self, estimate: &Estimate) {
        let more = estimate.mean - self.prior;
        // What rounding leaves is nothing learnt.
        if more.is_finite() && more.abs() > 1e-6 {
            self.learned = Some((more, estimate.mass));
            self.content = self.subject + more;
        }
    }
}

/// An expert with the replicas that may be asked, best first.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) ranked: Ranked<'a>,
    pub(crate) seats: Vec<Seat>,
    /// How many may be asked, those beyond the bound among them.
    pub(crate) replicas: usize,
    pub(crate) score: f64,
    /// With what chance it was put first.
    pub(crate) propensity: f64,
}

impl Router {
    /// With nothing observed yet, and the policy that learns ([`Learner`]). Routers with equal seeds and equal
    /// histories decide alike.
    pub fn new(config: RouterConfig, seed: u64) -> Self {
        let books = Codebook::defaults().into();
        let learner = Learner::new(EstimatorConfig::default(), books, seed);
        Self::with_policy(config, seed, Box::new(learner))
    }

    /// With another policy.
    pub fn with_policy(config: RouterConfig, seed: u64, policy: Box<dyn Policy>) -> Self {
        let statistics = Statistics::new(config.max_statistics);
        let hedges = Hedges::new(config.max_statistics);
        Self {
            config,
            seed,
            decisions: 0,
            statistics,
            hedges,
            policy,
        }
    }

    /// What says how good answers will be.
    pub fn policy(&self) -> &dyn Policy {
        self.policy.as_ref()
    }

    /// The same, to be told of grades.
    pub fn policy_mut(&mut self) -> &mut dyn Policy {
        self.policy.as_mut()
    }

    /// Decides for one query.
    ///
    /// `now` is any monotonic reading, the same one in every call. `descriptors` gives the vectors
    /// of a card under the encoder of `request.features`; an expert without any counts as
    /// unrelated. `peers` tells how a peer can be reached; it is asked for the peers of the
    /// closest experts only.
    pub fn decide(
        &mut self,
        now: Duration,
        request: &Request<'_>,
        index: &Index,
        descriptors: &dyn Fn(&ExpertId) -> Option<Arc<Descriptor>>,
        peers: &dyn Fn(&PeerId) -> PeerState,
    ) -> Decision {
        self.decisions = self.decisions.wrapping_add(1);
        let salt = self.seed ^ self.decisions.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let config = &self.config.steered(request.query.constraints.prefer);
        let mut tally = Tally::new(config.max_excluded);
        let mut filtered = filter::experts(request, index, &mut tally);
        let shortlisted = self.shortlist(request, &mut filtered.fitting, descriptors);
        let elsewhere = self.closest_of_all(request, index, descriptors);
        let mut view = View {
            probing: false,
            now,
            config,
            statistics: &self.statistics,
            request,
            index,
            peers,
            salt,
        };

        let (near, far) = filtered.fitting.split_at(shortlisted);
        let mut groups = self.groups(
            &view,
            self.rank(request, near, descriptors, elsewhere),
            &mut tally,
        );
        if groups.is_empty() && !far.is_empty() {
            groups = self.groups(
                &view,
                self.rank(request, far, descriptors, elsewhere),
                &mut tally,
            );
        }
        // Those who are thought dead are tried before the caller is told that nobody answers.
        if groups.is_empty() && tally.count(Reason::Suspended) > 0 {
            view.probing = true;
            let mut again = Tally::new(0);
            let all = self.rank(request, &filtered.fitting, descriptors, elsewhere);
            groups = self.groups(&view, all, &mut again);
        }
        let failure = groups
            .is_empty()
            .then(|| failure::explain(request, index, &filtered, &tally));
        let vector_spaces = tally.count(Reason::VectorSpace) > 0;
        let mut reason = match &failure {
            Some(failure) => failure.message.clone(),
            None => reason::explain(request.query, &filtered, &groups, vector_spaces),
        };
        // Vectors and labels of another card with the same vector space or labels are as good.
        if request.query.kind == ExpertKind::Generate && request.query.constraints.model.is_none() {
            self.drop_unrelated(&mut groups, &mut tally);
        }
        if let Some(first) = groups.first_mut() {
            first.propensity = 1.0;
        }
        let explored = self.explore(request, &mut groups);
        if explored {
            reason = reason::experiment(&groups);
        }
        let mut candidates = Vec::with_capacity(config.max_candidates.min(64));
        for group in &groups {
            let room = config.max_candidates.max(1) - candidates.len();
            if room == 0 {
                break;
            }
            // Hashed from the card's files: once an expert, not once a replica.
            let weights = group.ranked.expert.card.model.weights_id();
            let seats = group.seats.iter().take(room);
            candidates.extend(seats.map(|seat| candidate(config, group, weights, seat)));
        }
        Decision {
            candidates,
            excluded_counts: tally.counts(),
            excluded: tally.into_excluded(),
            reason,
            encoder: request.features.encoder.clone(),
            explored,
            failure,
        }
    }

    /// A call begins. Every call begun must be followed by one [`Self::observe`].
    pub fn started(&mut self, now: Duration, expert: ExpertId, peer: PeerId) {
        self.statistics.started(now, expert, peer);
        self.hedges.called();
    }

    /// A call ended; a caller's own cancellation is told as [`polymath_types::ErrorKind::Cancelled`].
    pub fn observe(&mut self, now: Duration, outcome: &Outcome) {
        self.statistics.observe(now, outcome, &self.config);
        if let Ok(served) = &outcome.result {
            self.hedges.took(now, outcome.expert, served.ttft);
        }
    }

    /// Why calls to this replica do not pass now, if they do not: for people.
    pub fn left_alone(&self, now: Duration, expert: ExpertId, peer: PeerId) -> Option<String> {
        let checked = self.statistics.check(now, expert, peer, &self.config);
        checked.err().map(describe)
    }

    /// Moves the experts worth a full comparison to the front and says how many they are.
    fn shortlist(
        &self,
        request: &Request<'_>,
        fitting: &mut Vec<&IndexedExpert>,
        descriptors: Descriptors<'_>,
    ) -> usize {
        let wanted = self.config.shortlist.max(1);
        if fitting.len() <= wanted {
            return fitting.len();
        }
        let vector = &request.features.vector;
        let mut coarse: Vec<(f32, &IndexedExpert)> = fitting
            .iter()
            .map(|e| {
                let value = descriptors(&e.id).and_then(|d| d.coarse(vector));
                (value.filter(|v| v.is_finite()).unwrap_or(0.0), *e)
            })
            .collect();
        coarse.select_nth_unstable_by(wanted, |a, b| b.0.total_cmp(&a.0).then(a.1.id.cmp(&b.1.id)));
        fitting.clear();
        fitting.extend(coarse.into_iter().map(|(_, e)| e));
        wanted
    }

    /// How close the closest expert is where the caller left no choice: one that was named is not thought
    /// fit for all it is asked.
    fn closest_of_all(
        &self,
        request: &Request<'_>,
        index: &Index,
        descriptors: Descriptors<'_>,
    ) -> f64 {
        let constraints = &request.query.constraints;
        if constraints.model.is_none() && constraints.peer.is_none() {
            return f64::NEG_INFINITY;
        }
        let all = index.of_kind(request.query.kind);
        let vector = &request.features.vector;
        all.take(self.config.shortlist)
            .filter_map(|e| descriptors(&e.id)?.quality(vector, self.config.blend))
            .map(f64::from)
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// Best content first; equal content by id, so that the order never depends on the index's.
    fn rank<'a>(
        &self,
        request: &Request<'_>,
        experts: &[&'a IndexedExpert],
        descriptors: Descriptors<'_>,
        elsewhere: f64,
    ) -> Vec<Ranked<'a>> {
        let features = request.features;
        let mut ranked: Vec<Ranked<'a>> = experts
            .iter()
            .map(|expert| {
                let quality = descriptors(&expert.id)
                    .and_then(|d| d.quality(&features.vector, self.config.blend))
                    .map(f64::from);
                let foreign = features.language.as_deref().is_some_and(|spoken| {
                    let stated = &expert.card.languages;
                    !stated.is_empty() && !stated.iter().any(|l| l.eq_ignore_ascii_case(spoken))
                });
                let penalty = if foreign {
                    self.config.language_penalty
                } else {
                    0.0
                };
                let subject = quality.unwrap_or(0.0) - penalty;
                Ranked {
                    expert,
                    quality,
                    foreign,
                    prior: 0.0,
                    learned: None,
                    subject,
                    content: subject,
                }
            })
            .collect();
        let best_first = |a: &Ranked<'_>, b: &Ranked<'_>| {
            let by_content = b.content.total_cmp(&a.content);
            by_content.then(a.expert.id.cmp(&b.expert.id))
        };
        ranked.sort_unstable_by(best_first);
        // Cosines of different encoders and queries lie anywhere: what counts is how far behind the closest
        // an expert is.
        let closest = ranked.first().map_or(0.0, |r| r.subject).max(elsewhere);
        for ranked in &mut ranked {
            let behind = closest - ranked.subject;
            ranked.prior = (CLOSEST_PRIOR - behind).clamp(LEAST_PRIOR, 1.0);
        }
        if self.policy.knows() {
            let judged = ranked.len().min(self.config.judged);
            self.judge(request, &mut ranked[..judged]);
            ranked.sort_unstable_by(best_first);
        }
        ranked
    }

    /// Adds what was learnt.
    fn judge(&self, request: &Request<'_>, ranked: &mut [Ranked<'_>]) {
        let priors = priors(ranked.iter());
        let estimates = self.policy.estimate(question(request), &priors);
        for (ranked, estimate) in ranked.iter_mut().zip(&estimates) {
            ranked.learn(estimate);
        }
    }

    /// Lets the policy try another than the expected best, where none is asked for by name. Says whether it did.
    fn explore(&mut self, request: &Request<'_>, groups: &mut [Group<'_>]) -> bool {
        let constraints = &request.query.constraints;
        // Whoever prefers something has no use for an experiment.
        let free = request.query.kind == ExpertKind::Generate
            && constraints.model.is_none()
            && constraints.prefer == Preference::Balanced;
        let foreign = groups.first().is_none_or(|g| g.ranked.foreign);
        let tried = groups.iter().take_while(|g| g.ranked.foreign == foreign);
        let priors = priors(tried.take(MOST_TRIED).map(|g| &g.ranked));
        if !request.explore || !free || priors.len() < 2 || !self.policy.knows() {
            return false;
        }
        // Where speed or price has put another first than the one expected to do best, the policy's chances
        // would not be those of the decision.
        let means = groups[..priors.len()].iter().map(|g| g.ranked.expected());
        if means.fold(f64::NEG_INFINITY, f64::max) > groups[0].ranked.expected() {
            return false;
        }
        let Some(choice) = self.policy.choose(question(request), &priors) else {
            return false;
        };
        let Some(tried) = groups.get_mut(..priors.len()) else {
            return false;
        };
        for (group, propensity) in tried.iter_mut().zip(choice.propensities) {
            group.propensity = propensity;
        }
        if let Some(rest) = tried.get_mut(..=choice.chosen) {
            rest.rotate_right(1);
        }
        choice.chosen > 0
    }

    /// Walks down the ranking until there are candidates enough and speed can change nothing.
    fn groups<'a>(
        &self,
        view: &View<'_>,
        ranking: Vec<Ranked<'a>>,
        tally: &mut Tally,
    ) -> Vec<Group<'a>> {
        let config = view.config;
        let mut groups: Vec<Group<'a>> = Vec::new();
        let mut found = 0;
        for ranked in ranking {
            let best = groups
                .first()
                .map_or(f64::NEG_INFINITY, |g| g.ranked.content);
            let decided = ranked.content < best - config.near_tie();
            // Where hardly anything fits, very many are nearly tied: speed decides among some.
            let enough = if decided {
                config.max_candidates
            } else {
                config.max_candidates.saturating_mul(4)
            };
            if found >= enough {
                break;
            }
            let mut seats = view.seats(ranked.expert, tally);
            let replicas = seats.len();
            seats.truncate(config.max_replicas.max(1));
            let Some(first) = seats.first() else {
                continue;
            };
            let taken: f64 = first
                .terms(view.config)
                .iter()
                .map(|t| t.value * t.weight)
                .sum();
            found += seats.len();
            groups.push(Group {
                score: ranked.content + taken,
                ranked,
                seats,
                replicas,
                propensity: 0.0,
            });
        }
        groups.sort_by(|a, b| {
            b.score
                .total_cmp(&a.score)
                .then(a.ranked.expert.id.cmp(&b.ranked.expert.id))
        });
        groups
    }

    /// An expert far off the subject is no fallback for one that fits, unless it was named.
    fn drop_unrelated(&self, groups: &mut Vec<Group<'_>>, tally: &mut Tally) {
        let best = groups
            .iter()
            .map(|g| g.ranked.subject)
            .fold(f64::NEG_INFINITY, f64::max);
        if best <= 0.0 {
            return;
        }
        let least = best * self.config.fallback_ratio.min(1.0);
        // The first stays whatever the constants: it is the choice, not a fallback.
        let mut place = 0;
        groups.retain(|group| {
            place += 1;
            let Ranked {
                expert,
                quality,
                foreign,
                subject,
                ..
            } = group.ranked;
            if place == 1 || subject >= least {
                return true;
            }
            let quality = quality.unwrap_or(0.0);
            let reason = if foreign && quality >= least {
                Reason::Language
            } else {
                Reason::Quality
            };
            tally.add(expert, None, reason, || match reason {
                Reason::Language => format!("states {} only", expert.card.languages.join(", ")),
                _ => {
                    format!("is too far from the question ({quality:.2}, {least:.2} is the least)")
                }
            });
            false
        });
    }
}

fn question<'a>(request: &Request<'a>) -> Question<'a> {
    Question {
        vector: &request.features.words,
        cues: &request.features.cues,
    }
}

fn priors<'a, 'b: 'a>(ranked: impl Iterator<Item = &'a Ranked<'b>>) -> Vec<(ExpertId, f64)> {
    ranked.map(|r| (r.expert.id, r.prior)).collect()
}

fn candidate(
    config: &RouterConfig,
    group: &Group<'_>,
    weights: WeightsId,
    seat: &Seat,
) -> Candidate {
    let ranked = &group.ranked;
    let (more, evidence) = ranked.learned.unwrap_or_default();
    let mut terms = Vec::with_capacity(8);
    terms.push(Term {
        name: "quality",
        value: ranked.quality.unwrap_or(0.0),
        weight: 1.0,
    });
    terms.push(Term {
        name: "learned",
        value: more,
        weight: 1.0,
    });
    terms.push(Term {
        name: "language",
        value: f64::from(u8::from(ranked.foreign)),
        weight: -config.language_penalty,
    });
    terms.extend(seat.terms(config));
    let card = &ranked.expert.card;
    Candidate {
        expert: ranked.expert.id,
        name: card.name.clone(),
        model: card.model.name.clone(),
        weights,
        peer: seat.peer,
        score: terms.iter().map(|t| t.value * t.weight).sum(),
        terms,
        expected: Expectation {
            prior: ranked.prior,
            quality: ranked.expected(),
            evidence,
            propensity: group.propensity,
        },
        cost: seat.cost,
    }
}
