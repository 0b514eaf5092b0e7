//! Which experts could answer a query at all, whoever serves them.

use std::collections::BTreeMap;

use polymath_types::{ExpertKind, Index, IndexedExpert, LabelSet, WeightsId};

use crate::{Request, decision::Reason, decision::Tally};

/// What passed, and what the message needs when nothing did.
#[derive(Debug, Default)]
pub(crate) struct Filtered<'a> {
    pub(crate) fitting: Vec<&'a IndexedExpert>,
    /// How many experts are of the wanted kind.
    pub(crate) of_kind: usize,
    /// How many of those have the wanted name; all of them when none was given.
    pub(crate) named: usize,
    /// Has the wanted name but does something else.
    pub(crate) other_kind: Option<&'a IndexedExpert>,
    /// The longest context among experts excluded for theirs, tokens.
    pub(crate) longest_context: u32,
}

/// Applies every filter that needs no peer.
pub(crate) fn experts<'a>(
    request: &Request<'_>,
    index: &'a Index,
    tally: &mut Tally,
) -> Filtered<'a> {
    let query = request.query;
    let mut out = Filtered::default();
    for expert in index.experts() {
        let card = &expert.card;
        let named = query
            .constraints
            .model
            .as_deref()
            .map(|name| Index::names(expert, name));
        if card.kind != query.kind {
            if named == Some(true) {
                out.other_kind = Some(expert);
            }
            tally.add(expert, None, Reason::Kind, || {
                format!("is {}, {} was asked for", noun(card.kind), noun(query.kind))
            });
            continue;
        }
        out.of_kind += 1;
        if named == Some(false) {
            tally.add(expert, None, Reason::Model, || "has another name".into());
            continue;
        }
        out.named += 1;
        match (&card.labels, query.labels.is_empty()) {
            (LabelSet::Fixed(labels), false) => {
                tally.add(expert, None, Reason::Labels, || {
                    format!("knows its own {} labels only", labels.len())
                });
                continue;
            }
            (LabelSet::Open, true) => {
                tally.add(expert, None, Reason::Labels, || {
                    "needs labels to choose from".into()
                });
                continue;
            }
            _ => {}
        }
        let wanted = tokens_wanted(request);
        if card.model.context_length > 0 && wanted > u64::from(card.model.context_length) {
            out.longest_context = out.longest_context.max(card.model.context_length);
            tally.add(expert, None, Reason::Context, || {
                format!(
                    "at least {wanted} tokens are needed, its context has {}",
                    card.model.context_length
                )
            });
            continue;
        }
        if let Some(peer) = query.constraints.peer
            && !expert.replicas.iter().any(|r| r.peer == peer)
        {
            tally.add(expert, None, Reason::PeerRequired, || {
                "is not on the required peer".into()
            });
            continue;
        }
        out.fitting.push(expert);
    }
    if query.kind == ExpertKind::Embed {
        one_vector_space(index, request, &mut out, tally);
    }
    out
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
/// or not; then the lowest id.
fn one_vector_space(
    index: &Index,
    request: &Request<'_>,
    out: &mut Filtered<'_>,
    tally: &mut Tally,
) {
    let mut served: BTreeMap<WeightsId, usize> = BTreeMap::new();
    for expert in index.of_kind(ExpertKind::Embed) {
        let name = request.query.constraints.model.as_deref();
        if name.is_none_or(|name| Index::names(expert, name)) {
            *served.entry(expert.card.model.weights_id()).or_default() += expert.replicas.len();
        }
    }
    // The last of equal maxima is taken: falling by id, that is the lowest.
    let chosen = served
        .into_iter()
        .rev()
        .max_by_key(|(_, n)| *n)
        .map(|(id, _)| id);
    out.fitting.retain(|expert| {
        let same = Some(expert.card.model.weights_id()) == chosen;
        if !same {
            tally.add(expert, None, Reason::VectorSpace, || {
                format!(
                    "more peers serve another embedder; name {} to use it",
                    expert.card.model.name
                )
            });
        }
        same
    });
}

/// What an expert of this kind is called.
pub(crate) const fn noun(kind: ExpertKind) -> &'static str {
    match kind {
        ExpertKind::Generate => "a generating expert",
        ExpertKind::Embed => "an embedder",
        ExpertKind::Classify => "a classifier",
    }
}
