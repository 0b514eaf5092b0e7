//! The order of experts: by what is expected of their answers, then by what their replicas cost.

use polymath_types::{ExpertId, ExpertKind, Index, IndexedExpert, Preference, WeightsId};

use crate::{
    Blend, Candidate, Descriptor, Expectation, Question, Request, Router, RouterConfig, Term,
    decision::{Reason, Tally},
    filter::Contender,
    learning::{Estimate, LEAST_PRIOR},
    replica::{Seat, View},
    vectors::Probes,
};

/// How good the answer of the closest expert is expected to be, before anything is learnt of it.
const CLOSEST_PRIOR: f64 = 0.6;
/// Experts among which the policy may choose an experiment.
const MOST_TRIED: usize = 8;

/// The query as it is compared with cards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'a> {
    pub(crate) probes: Option<&'a Probes>,
    /// How close somebody is whom the caller does not let be asked.
    pub(crate) elsewhere: f64,
}

impl Sight<'_> {
    /// `None` when query and card cannot be compared.
    pub(crate) fn quality(&self, descriptor: Option<&Descriptor>, blend: Blend) -> Option<f64> {
        descriptor?.quality(self.probes?, blend).map(f64::from)
    }
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
    /// Best content first; equal content by id, so that the order never depends on the index's.
    pub(crate) fn rank<'a>(
        &self,
        request: &Request<'_>,
        index: &'a Index,
        contenders: &[Contender<'_>],
        sight: Sight<'_>,
    ) -> Vec<Ranked<'a>> {
        let features = request.features;
        let mut ranked: Vec<Ranked<'a>> = contenders
            .iter()
            .filter_map(|c| Some((index.expert(&c.id)?, c.descriptor)))
            .map(|(expert, descriptor)| {
                let quality = sight.quality(descriptor, self.config.blend);
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
        let closest = ranked
            .first()
            .map_or(0.0, |r| r.subject)
            .max(sight.elsewhere);
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
    pub(crate) fn explore(&mut self, request: &Request<'_>, groups: &mut [Group<'_>]) -> bool {
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
    pub(crate) fn groups<'a>(
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
    pub(crate) fn drop_unrelated(&self, groups: &mut Vec<Group<'_>>, tally: &mut Tally) {
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
            tally.add((expert.id, &expert.card), None, reason, || match reason {
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

pub(crate) fn candidate(
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
