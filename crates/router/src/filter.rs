//! Which experts could answer a query at all, whoever serves them: the rules, whichever way the cards are gone
//! through ([`crate::roster`], [`crate::walk`]).

use std::collections::BTreeMap;

use polymath_types::{ExpertCard, ExpertId, ExpertKind, LabelSet, WeightsId};

use crate::{Descriptor, Request, decision::Reason};

/// One who fits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender<'a> {
    pub(crate) id: ExpertId,
    pub(crate) descriptor: Option<&'a Descriptor>,
}

/// How many passed, and what the message needs when nobody did.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Filtered {
    pub(crate) fitting: usize,
    /// How many experts are of the wanted kind.
    pub(crate) of_kind: usize,
    /// How many of those have the wanted name; all of them when none was given.
    pub(crate) named: usize,
    /// What another expert of the wanted name does.
    pub(crate) other_kind: Option<ExpertKind>,
}

/// Why an expert is excluded, for people.
pub(crate) fn detail(reason: Reason, card: &ExpertCard, request: &Request<'_>) -> String {
    match reason {
        Reason::Kind => {
            let asked = noun(request.query.kind);
            format!("is {}, {asked} was asked for", noun(card.kind))
        }
        Reason::Model => "has another name".into(),
        Reason::Labels => match &card.labels {
            LabelSet::Fixed(labels) => format!("knows its own {} labels only", labels.len()),
            _ => "needs labels to choose from".into(),
        },
        Reason::Context => format!(
            "at least {} tokens are needed, its context has {}",
            tokens_wanted(request),
            card.model.context_length
        ),
        Reason::PeerRequired => "is not on the required peer".into(),
        Reason::PeerExcluded => "is on none of the peers that the request allows".into(),
        Reason::VectorSpace => format!(
            "more peers serve another embedder; name {} to use it",
            card.model.name
        ),
        other => other.as_str().to_owned(),
    }
}

/// Tokens that must fit the context; 0 where the expert alone can tell.
///
/// Only a length the caller asked for is reserved: a card's default may end at the context's end.
/// Texts to embed or classify are taken one by one, and refused by their model where they are too long.
pub(crate) fn tokens_wanted(request: &Request<'_>) -> u64 {
    if request.query.kind != ExpertKind::Generate {
        return 0;
    }
    let answer = request.query.sampling.max_tokens.unwrap_or(1).max(1);
    u64::from(request.features.prompt_tokens) + u64::from(answer)
}

/// Vectors of different weights must never meet under one name, so all nodes with equal indices
/// take the same weights: among the embedders the name allows, those most peers serve, reachable
/// or not; then the lowest id. `replicas` has the weights and peers of each of these embedders.
pub(crate) fn vector_space(
    replicas: impl Iterator<Item = (WeightsId, usize)>,
) -> Option<WeightsId> {
    let mut served: BTreeMap<WeightsId, usize> = BTreeMap::new();
    for (weights, peers) in replicas {
        *served.entry(weights).or_default() += peers;
    }
    // The last of equal maxima is taken: falling by id, that is the lowest.
    let rising = served.into_iter().rev();
    rising.max_by_key(|(_, peers)| *peers).map(|(id, _)| id)
}

/// What an expert of this kind is called.
pub(crate) const fn noun(kind: ExpertKind) -> &'static str {
    match kind {
        ExpertKind::Generate => "a generating expert",
        ExpertKind::Embed => "an embedder",
        ExpertKind::Classify => "a classifier",
    }
}
