//! Puts the parts of a decision together.

use std::time::Duration;

use polymath_types::{ExpertId, ExpertKind, Index, PeerId};

use crate::{
    Decision, Descriptors, Outcome, PeerState, Policy, Request, RouterConfig,
    decision::{Reason, Tally},
    failure,
    filter::Contender,
    hedge::Hedges,
    policy,
    ranking::{Group, Sight, candidate},
    reason,
    replica::{View, describe},
    roster::{Field, Roster},
    statistics::Statistics,
    vectors::Probes,
    walk::Walk,
};

/// Chooses experts and replicas, and learns from the outcomes of calls.
#[derive(Debug)]
pub struct Router {
    pub(crate) config: RouterConfig,
    seed: u64,
    decisions: u64,
    pub(crate) statistics: Statistics,
    pub(crate) hedges: Hedges,
    pub(crate) policy: Box<dyn Policy>,
    roster: Roster,
}

/// Finds who fits and is closest.
enum Search<'a> {
    Roster(Field<'a>),
    Walk(Walk<'a>),
}

impl<'a> Search<'a> {
    fn closest(&self, wanted: usize) -> Vec<Contender<'a>> {
        match self {
            Self::Roster(field) => field.closest(wanted),
            Self::Walk(walk) => walk.closest(wanted),
        }
    }

    fn all(&self) -> Vec<Contender<'a>> {
        match self {
            Self::Roster(field) => field.all(),
            Self::Walk(walk) => walk.closest(usize::MAX),
        }
    }

    fn closest_of(&self, kind: ExpertKind, wanted: usize) -> Vec<Contender<'a>> {
        match self {
            Self::Roster(field) => field.closest_of(kind, wanted),
            Self::Walk(walk) => walk.closest_of(kind, wanted),
        }
    }
}

impl Router {
    /// With nothing observed yet, and the policy that learns ([`crate::learning::Learner`]). Routers with equal
    /// seeds and equal histories decide alike.
    pub fn new(config: RouterConfig, seed: u64) -> Self {
        Self::with_policy(config, seed, policy::learned(seed))
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
            roster: Roster::default(),
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
    /// `now` is any monotonic reading, the same one in every call. `descriptors` has the vectors of cards under
    /// the encoder of `request.features`; an expert without any counts as unrelated. `peers` tells how a peer
    /// can be reached; it is asked for the peers of the closest experts only.
    ///
    /// What this costs grows with the cards that are compared, and with what changed of the index and of
    /// `descriptors` since the last time: give copies of what is kept up to date, not tables made anew.
    pub fn decide(
        &mut self,
        now: Duration,
        request: &Request<'_>,
        index: &Index,
        descriptors: &Descriptors,
        peers: &dyn Fn(&PeerId) -> PeerState,
    ) -> Decision {
        let encoder = &request.features.encoder;
        self.roster.update(index.cards(), encoder, descriptors);
        self.decide_by(None, now, request, index, peers)
    }

    /// The same decision by looking at every card: what [`Self::decide`] is tested and measured against.
    #[doc(hidden)]
    pub fn decide_by_walk(
        &mut self,
        now: Duration,
        request: &Request<'_>,
        index: &Index,
        descriptors: &Descriptors,
        peers: &dyn Fn(&PeerId) -> PeerState,
    ) -> Decision {
        self.decide_by(Some(descriptors), now, request, index, peers)
    }

    fn decide_by(
        &mut self,
        walked: Option<&Descriptors>,
        now: Duration,
        request: &Request<'_>,
        index: &Index,
        peers: &dyn Fn(&PeerId) -> PeerState,
    ) -> Decision {
        self.decisions = self.decisions.wrapping_add(1);
        let salt = self.seed ^ self.decisions.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let config = &self.config.steered(request.query.constraints.prefer);
        let mut tally = Tally::new(config.max_excluded);
        let probes = Probes::new(&request.features.vector);
        let probes = probes.as_ref();
        let (search, filtered) = match walked {
            Some(given) => {
                let (walk, filtered) = Walk::new(index, given, probes, request, &mut tally);
                (Search::Walk(walk), filtered)
            }
            None => {
                let (field, filtered) =
                    Field::new(&self.roster, probes, request, index, &mut tally);
                (Search::Roster(field), filtered)
            }
        };
        let sight = Sight {
            probes,
            elsewhere: self.closest_of_all(request, &search, probes),
        };
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
        let mut groups = self.look(&view, index, &search, filtered.fitting, sight, &mut tally);
        // Those who are thought dead are tried before the caller is told that nobody answers.
        if groups.is_empty() && tally.count(Reason::Suspended) > 0 {
            view.probing = true;
            let mut again = Tally::new(0);
            groups = self.look(&view, index, &search, filtered.fitting, sight, &mut again);
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
            let expert = group.ranked.expert;
            let weights = self.roster.weights(&expert.id);
            let weights = weights.unwrap_or_else(|| expert.card.model.weights_id());
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

    /// Whoever of the closest can be asked, best first; where none can, of ever more of the others.
    fn look<'a>(
        &self,
        view: &View<'_>,
        index: &'a Index,
        search: &Search<'_>,
        fitting: usize,
        sight: Sight<'_>,
        tally: &mut Tally,
    ) -> Vec<Group<'a>> {
        let mut many = self.config.shortlist.max(1);
        let near = search.closest(many);
        let mut groups = self.groups(view, self.rank(view.request, index, &near, sight), tally);
        if !groups.is_empty() || near.len() >= fitting {
            return groups;
        }
        let all = search.all();
        let mut rest = all.get(near.len()..).unwrap_or_default();
        while groups.is_empty() && !rest.is_empty() {
            many = many.saturating_mul(2);
            let (next, further) = rest.split_at(many.min(rest.len()));
            groups = self.groups(view, self.rank(view.request, index, next, sight), tally);
            rest = further;
        }
        groups
    }

    /// How close the closest expert is where the caller left no choice: one that was named is not thought
    /// fit for all it is asked.
    fn closest_of_all(
        &self,
        request: &Request<'_>,
        search: &Search<'_>,
        probes: Option<&Probes>,
    ) -> f64 {
        let constraints = &request.query.constraints;
        let mut closest = f64::NEG_INFINITY;
        if constraints.model.is_none() && constraints.peer.is_none() {
            return closest;
        }
        let sight = Sight {
            probes,
            elsewhere: closest,
        };
        for contender in search.closest_of(request.query.kind, self.config.shortlist.max(1)) {
            let quality = sight.quality(contender.descriptor, self.config.blend);
            closest = closest.max(quality.unwrap_or(closest));
        }
        closest
    }

    /// A call begins. Every call begun must be followed by one [`Self::observe`].
    pub fn started(&mut self, now: Duration, expert: ExpertId, peer: PeerId) {
        self.statistics.started(now, expert, peer);
        self.hedges.called();
    }

    /// A call has brought the first of its answer.
    pub fn spoke(&mut self, now: Duration, expert: ExpertId, peer: PeerId) {
        self.statistics.spoke(now, expert, peer);
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
        let checked = self.statistics.seen(expert, peer).check(now, &self.config);
        checked.err().map(describe)
    }
}
