//! What a decision says.

use polymath_types::{ExpertCard, ExpertId, Failure, PeerId, WeightsId};
use serde::Serialize;

/// Who is asked, in which order, why, and who is not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Best first: the replicas of the best expert, then those of the next. Each (expert, peer)
    /// pair appears once.
    pub candidates: Vec<Candidate>,
    /// Who was excluded and why, bounded; the telling ones first.
    pub excluded: Vec<Excluded>,
    /// How many exclusions there were for each reason, those not listed among them.
    pub excluded_counts: Vec<(Reason, usize)>,
    /// Why the first candidate is first, or why there is none; one line for people.
    pub reason: String,
    /// Which encoder the query was compared under.
    pub encoder: String,
    /// Whether the first is an experiment: another was expected to do best.
    pub explored: bool,
    #[serde(skip)]
    pub(crate) failure: Option<Failure>,
}

impl Decision {
    /// What to tell the caller when there is no candidate; `None` when there is one.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

/// One expert on one peer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The expert.
    pub expert: ExpertId,
    /// Its name.
    pub name: String,
    /// Its model's name.
    pub model: String,
    /// Its weights; equal weights can carry on each other's answers.
    pub weights: WeightsId,
    /// The peer.
    pub peer: PeerId,
    /// Sum of the terms; an expert ranks by the score of its first replica.
    pub score: f64,
    /// What the score is made of.
    pub terms: Vec<Term>,
    /// What is expected of its answer.
    pub expected: Expectation,
    /// Expected seconds to the whole answer, times own calls in flight on that peer plus one:
    /// replicas of one expert are ordered by it, those within 10 % count as equal.
    pub cost: f64,
}

/// What is expected of an expert's answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Expectation {
    /// Without anything learnt, 0 to 1: how close the query is to the card.
    pub prior: f64,
    /// By all that was learnt, 0 to 1.
    pub quality: f64,
    /// Graded answers that stand behind it; 0 where nothing was learnt.
    pub evidence: f64,
    /// With what chance this decision put the expert first.
    pub propensity: f64,
}

/// One part of a score: it contributes `value × weight`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Term {
    /// `quality`, `learned`, `language`, `latency`, `load`, `path`, `cost` or `trust`.
    pub name: &'static str,
    /// The measured value: a cosine for `quality`, for `learned` by how much more than that is expected by what
    /// was learnt, 0 to 1 for the others.
    pub value: f64,
    /// What it is worth.
    pub weight: f64,
}

/// An expert, or one replica of it, that is not asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Excluded {
    /// The expert.
    pub expert: ExpertId,
    /// Its name.
    pub name: String,
    /// The peer, where only that replica is excluded.
    pub peer: Option<PeerId>,
    /// Why, for machines.
    pub reason: Reason,
    /// Why, for people.
    pub detail: String,
}

/// Why an expert or a replica is excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// It does something else.
    Kind,
    /// Another name was asked for.
    Model,
    /// It takes no labels, or needs some.
    Labels,
    /// It would have been acceptable, were the query in one of its languages.
    Language,
    /// Prompt and answer do not fit its context.
    Context,
    /// Its vectors cannot be compared with those of the embedder everyone uses.
    VectorSpace,
    /// Its subject is too far from the question.
    Quality,
    /// The caller requires another peer.
    PeerRequired,
    /// The caller excluded the peer.
    PeerExcluded,
    /// The query must not leave the circle of peers that the caller set.
    Privacy,
    /// The peer lacks a label that the caller requires.
    PeerLabels,
    /// The peer asks more than the caller pays.
    Price,
    /// The peer says that the expert takes no calls now.
    NotAccepting,
    /// The peer cannot be reached.
    Unreachable,
    /// Others have lost the peer, or it has been silent for long.
    Suspended,
    /// The peer says that it leaves.
    Leaving,
    /// It failed lately and is left alone for a while.
    BreakerOpen,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 17] = [
        Self::Kind,
        Self::Model,
        Self::Labels,
        Self::Language,
        Self::Context,
        Self::VectorSpace,
        Self::Quality,
        Self::PeerRequired,
        Self::PeerExcluded,
        Self::Privacy,
        Self::PeerLabels,
        Self::Price,
        Self::NotAccepting,
        Self::Unreachable,
        Self::Suspended,
        Self::Leaving,
        Self::BreakerOpen,
    ];

    /// Its stable name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Model => "model",
            Self::Labels => "labels",
            Self::Language => "language",
            Self::Context => "context",
            Self::VectorSpace => "vector_space",
            Self::Quality => "quality",
            Self::PeerRequired => "peer_required",
            Self::PeerExcluded => "peer_excluded",
            Self::Privacy => "privacy",
            Self::PeerLabels => "peer_labels",
            Self::Price => "price",
            Self::NotAccepting => "not_accepting",
            Self::Unreachable => "unreachable",
            Self::Suspended => "suspended",
            Self::Leaving => "leaving",
            Self::BreakerOpen => "breaker_open",
        }
    }

    /// Whether the expert was never meant by the query: such exclusions are listed last.
    pub(crate) const fn off_topic(self) -> bool {
        matches!(self, Self::Kind | Self::Model | Self::PeerRequired)
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// Collects exclusions within a bound; their texts are only made for those that are told.
#[derive(Debug)]
pub(crate) struct Tally {
    limit: usize,
    telling: Vec<Excluded>,
    off_topic: Vec<Excluded>,
    counts: [usize; Reason::ALL.len()],
}

impl Tally {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            telling: Vec::new(),
            off_topic: Vec::new(),
            counts: [0; Reason::ALL.len()],
        }
    }

    pub(crate) fn add(
        &mut self,
        expert: (ExpertId, &ExpertCard),
        peer: Option<PeerId>,
        reason: Reason,
        detail: impl FnOnce() -> String,
    ) {
        self.count_all(reason, 1);
        self.tell(expert, peer, reason, detail);
    }

    /// So many more are excluded.
    pub(crate) const fn count_all(&mut self, reason: Reason, more: usize) {
        self.counts[reason.index()] += more;
    }

    /// Lists one that is counted already, if there is room.
    pub(crate) fn tell(
        &mut self,
        (expert, card): (ExpertId, &ExpertCard),
        peer: Option<PeerId>,
        reason: Reason,
        detail: impl FnOnce() -> String,
    ) {
        let list = if reason.off_topic() {
            &mut self.off_topic
        } else {
            &mut self.telling
        };
        if list.len() < self.limit {
            list.push(Excluded {
                expert,
                name: card.name.clone(),
                peer,
                reason,
                detail: detail(),
            });
        }
    }

    /// How many of so many telling exclusions, and of so many others, are still listed.
    pub(crate) fn room(&self, telling: usize, off_topic: usize) -> (usize, usize) {
        let room = |list: &[Excluded]| self.limit.saturating_sub(list.len());
        let (for_telling, for_others) = (room(&self.telling), room(&self.off_topic));
        (telling.min(for_telling), off_topic.min(for_others))
    }

    pub(crate) fn count(&self, reason: Reason) -> usize {
        self.counts[reason.index()]
    }

    pub(crate) fn counts(&self) -> Vec<(Reason, usize)> {
        Reason::ALL
            .into_iter()
            .map(|r| (r, self.count(r)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    pub(crate) fn first(&self, reason: Reason) -> Option<&Excluded> {
        self.telling
            .iter()
            .chain(&self.off_topic)
            .find(|e| e.reason == reason)
    }

    pub(crate) fn into_excluded(self) -> Vec<Excluded> {
        let mut all = self.telling;
        all.extend(self.off_topic);
        all.truncate(self.limit);
        all
    }
}
