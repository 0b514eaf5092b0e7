//! The same search by looking at every card in turn: what the [`roster`](crate::roster) is tested and measured
//! against.

use polymath_types::{ExpertKind, Index, IndexedExpert, LabelSet};

use crate::{
    Descriptors, Request,
    decision::{Reason, Tally},
    filter::{self, Contender, Filtered},
    roster::usable,
    vectors::Probes,
};

/// An index as one query sees it.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    index: &'a Index,
    descriptors: &'a Descriptors,
    probes: Option<&'a Probes>,
    fitting: Vec<&'a IndexedExpert>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        index: &'a Index,
        descriptors: &'a Descriptors,
        probes: Option<&'a Probes>,
        request: &Request<'_>,
        tally: &mut Tally,
    ) -> (Self, Filtered) {
        let mut filtered = Filtered::default();
        let mut fitting = Vec::new();
        for expert in index.experts() {
            match excluded(request, expert, &mut filtered) {
                Some(reason) => tell(tally, request, expert, reason),
                None => fitting.push(expert),
            }
        }
        if request.query.kind == ExpertKind::Embed {
            let name = request.query.constraints.model.as_deref();
            let embedders = index.of_kind(ExpertKind::Embed);
            let meant = embedders.filter(|e| name.is_none_or(|name| Index::names(e, name)));
            let served = meant.map(|e| (e.card.model.weights_id(), e.replicas.len()));
            let chosen = filter::vector_space(served);
            fitting.retain(|expert| {
                let same = Some(expert.card.model.weights_id()) == chosen;
                if !same {
                    tell(tally, request, expert, Reason::VectorSpace);
                }
                same
            });
        }
        filtered.fitting = fitting.len();
        let walk = Self {
            index,
            descriptors,
            probes,
            fitting,
        };
        (walk, filtered)
    }

    pub(crate) fn closest(&self, wanted: usize) -> Vec<Contender<'a>> {
        self.select(self.fitting.iter().copied(), wanted)
    }

    pub(crate) fn closest_of(&self, kind: ExpertKind, wanted: usize) -> Vec<Contender<'a>> {
        self.select(self.index.of_kind(kind), wanted)
    }

    fn select(
        &self,
        experts: impl Iterator<Item = &'a IndexedExpert>,
        wanted: usize,
    ) -> Vec<Contender<'a>> {
        let mut all: Vec<(f32, Contender<'a>)> = experts
            .map(|e| {
                let descriptor = self.descriptors.get(&e.id);
                let coarse = |d: &crate::Descriptor| d.coarse(self.probes?);
                let value = descriptor.and_then(coarse).map_or(0.0, usable);
                let id = e.id;
                (value, Contender { id, descriptor })
            })
            .collect();
        all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.id.cmp(&b.1.id)));
        all.truncate(wanted);
        all.into_iter().map(|(_, contender)| contender).collect()
    }
}

fn tell(tally: &mut Tally, request: &Request<'_>, expert: &IndexedExpert, reason: Reason) {
    tally.add((expert.id, &expert.card), None, reason, || {
        filter::detail(reason, &expert.card, request)
    });
}

/// The first filter that an expert does not pass.
fn excluded(
    request: &Request<'_>,
    expert: &IndexedExpert,
    filtered: &mut Filtered,
) -> Option<Reason> {
    let (query, constraints) = (request.query, &request.query.constraints);
    let card = &expert.card;
    let name = constraints.model.as_deref();
    let named = name.map(|name| Index::names(expert, name));
    if card.kind != query.kind {
        if named == Some(true) {
            filtered.other_kind = Some(card.kind);
        }
        return Some(Reason::Kind);
    }
    filtered.of_kind += 1;
    if named == Some(false) {
        return Some(Reason::Model);
    }
    filtered.named += 1;
    match (&card.labels, query.labels.is_empty()) {
        (LabelSet::Fixed(_), false) | (LabelSet::Open, true) => return Some(Reason::Labels),
        _ => {}
    }
    let (stated, wanted) = (card.model.context_length, filter::tokens_wanted(request));
    if stated > 0 && wanted > u64::from(stated) {
        return Some(Reason::Context);
    }
    let served_by = |wanted: &polymath_types::PeerId| {
        let mut replicas = expert.replicas.iter();
        replicas.any(|r| r.peer == *wanted)
    };
    if !constraints.peer.as_ref().is_none_or(served_by) {
        return Some(Reason::PeerRequired);
    }
    if !constraints.allow.is_empty() && !constraints.allow.iter().any(served_by) {
        return Some(Reason::PeerExcluded);
    }
    None
}
