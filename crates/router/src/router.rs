//! Puts the parts of a decision together.

use std::{sync::Arc, time::Duration};

use polymath_types::{ExpertId, ExpertKind, Index, IndexedExpert, PeerId, WeightsId};

use crate::{
    Candidate, Decision, Descriptor, Outcome, PeerState, Request, RouterConfig, Term,
    decision::{Reason, Tally},
    failure, filter,
    hedge::Hedges,
    reason,
    replica::{Seat, View, describe},
    statistics::Statistics,
};

type Descriptors<'a> = &'a dyn Fn(&ExpertId) -> Option<Arc<Descriptor>>;

/// Chooses experts and replicas, and learns from the outcomes of calls.
#[derive(Debug)]
pub struct Router {
    pub(crate) config: RouterConfig,
    seed: u64,
    decisions: u64,
    pub(crate) statistics: Statistics,
    pub(crate) hedges: Hedges,
}

/// An expert with what the query makes of it.
#[derive(Debug)]
pub(crate) struct Ranked<'a> {
    pub(crate) expert: &'a IndexedExpert,
    /// `None` when query and card cannot be compared.
    pub(crate) quality: Option<f64>,
    /// The card states languages, the query's is not among them.
    pub(crate) foreign: bool,
    /// Quality (0 where unknown) less the language penalty.
    pub(crate) content: f64,
}

/// An expert with the replicas that may be asked, best first.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) ranked: Ranked<'a>,
    pub(crate) seats: Vec<Seat>,
    /// How many may be asked, those beyond the bound among them.
    pub(crate) replicas: usize,
    pub(crate) score: f64,
}

impl Router {
    /// With nothing observed yet. Routers with equal seeds and equal histories decide alike.
    pub fn new(config: RouterConfig, seed: u64) -> Self {
        let statistics = Statistics::new(config.max_statistics);
        let hedges = Hedges::new(config.max_statistics);
        Self {
            config,
            seed,
            decisions: 0,
            statistics,
            hedges,
        }
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
        let config = &self.config;
        let mut tally = Tally::new(config.max_excluded);
        let mut filtered = filter::experts(request, index, &mut tally);
        let shortlisted = self.shortlist(request, &mut filtered.fitting, descriptors);
        let mut view = View {
            probing: false,
            now,
            config,
            statistics: &self.statistics,
            request,
            peers,
            salt,
        };

        let (near, far) = filtered.fitting.split_at(shortlisted);
        let mut groups = self.groups(&view, self.rank(request, near, descriptors), &mut tally);
        if groups.is_empty() && !far.is_empty() {
            groups = self.groups(&view, self.rank(request, far, descriptors), &mut tally);
        }
        // Those who are thought dead are tried before the caller is told that nobody answers.
        if groups.is_empty() && tally.count(Reason::Suspended) > 0 {
            view.probing = true;
            let mut again = Tally::new(0);
            let all = self.rank(request, &filtered.fitting, descriptors);
            groups = self.groups(&view, all, &mut again);
        }
        let failure = groups
            .is_empty()
            .then(|| failure::explain(request, index, &filtered, &tally));
        let vector_spaces = tally.count(Reason::VectorSpace) > 0;
        let reason = match &failure {
            Some(failure) => failure.message.clone(),
            None => reason::explain(request.query, &filtered, &groups, vector_spaces),
        };
        // Vectors and labels of another card with the same vector space or labels are as good.
        if request.query.kind == ExpertKind::Generate && request.query.constraints.model.is_none() {
            self.drop_unrelated(&mut groups, &mut tally);
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
            candidates.extend(seats.map(|seat| self.candidate(group, weights, seat)));
        }
        Decision {
            candidates,
            excluded_counts: tally.counts(),
            excluded: tally.into_excluded(),
            reason,
            encoder: request.features.encoder.clone(),
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

    /// Best content first; equal content by id, so that the order never depends on the index's.
    fn rank<'a>(
        &self,
        request: &Request<'_>,
        experts: &[&'a IndexedExpert],
        descriptors: Descriptors<'_>,
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
                Ranked {
                    expert,
                    quality,
                    foreign,
                    content: quality.unwrap_or(0.0) - penalty,
                }
            })
            .collect();
        ranked.sort_unstable_by(|a, b| {
            b.content
                .total_cmp(&a.content)
                .then(a.expert.id.cmp(&b.expert.id))
        });
        ranked
    }

    /// Walks down the ranking until there are candidates enough and speed can change nothing.
    fn groups<'a>(
        &self,
        view: &View<'_>,
        ranking: Vec<Ranked<'a>>,
        tally: &mut Tally,
    ) -> Vec<Group<'a>> {
        let config = &self.config;
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
            let taken: f64 = first.terms(config).iter().map(|t| t.value * t.weight).sum();
            found += seats.len();
            groups.push(Group {
                score: ranked.content + taken,
                ranked,
                seats,
                replicas,
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
            .map(|g| g.ranked.content)
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
                content,
            } = group.ranked;
            if place == 1 || content >= least {
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

    fn candidate(&self, group: &Group<'_>, weights: WeightsId, seat: &Seat) -> Candidate {
        let Ranked {
            expert,
            quality,
            foreign,
            ..
        } = group.ranked;
        let mut terms = Vec::with_capacity(5);
        terms.push(Term {
            name: "quality",
            value: quality.unwrap_or(0.0),
            weight: 1.0,
        });
        terms.push(Term {
            name: "language",
            value: f64::from(u8::from(foreign)),
            weight: -self.config.language_penalty,
        });
        terms.extend(seat.terms(&self.config));
        Candidate {
            expert: expert.id,
            name: expert.card.name.clone(),
            model: expert.card.model.name.clone(),
            weights,
            peer: seat.peer,
            score: terms.iter().map(|t| t.value * t.weight).sum(),
            terms,
            cost: seat.cost,
        }
    }
}
