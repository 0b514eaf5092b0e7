//! What the observations of others are worth, together.
//!
//! Sans state of anybody else: observers and their documents go in, sums by cell come out. The rules,
//! after "Trust" in Polymath's research on routing:
//!
//! * nobody's word on an expert it serves itself counts;
//! * of one observer at most [`MASS`] outcomes count in a cell, so volume buys nothing;
//! * an observer's word is weighed by exp(-(d/σ)²), d being how far it is from what is known otherwise
//!   ([`agreement`]): this node's own evidence, and the middle of all observers, one vote each;
//! * whoever agreed with enough of this node's own evidence, or holds a role in the mesh, is proven; all
//!   others together count as much as own evidence in a cell, or as [`MASS`] outcomes.
//!
//! Votes do not depend on weights, so what comes out depends on the documents alone and not on the order
//! they came in, once every observer was weighed again ([`Observers::tick`]). Sums are integers: what was
//! added is taken out exactly. No rule helps against a majority that lies where a node knows nothing
//! itself: there the last rule bounds the damage.

pub(crate) mod agreement;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use agreement::Agreement;
use polymath_types::{CodebookId, Evidence, ExpertId, Observations, PeerId, Seen, WeighedExpert};
use tally::Tally;

use crate::limits::{CODEBOOKS, REWEIGHED_A_TICK};

/// Outcomes of one observer that count in a cell, and of all that are not proven.
pub(crate) const MASS: u32 = 100;

/// What there is to know of an observer besides what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Experts it serves, in order.
    pub(crate) serves: Arc<[ExpertId]>,
    /// It holds a role in the mesh.
    pub(crate) trusted: bool,
}

/// What an observer's word counts for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Weights {
    /// By group of what it said: of 1000 by cell, or none where it does not count and has no vote.
    groups: Box<[Option<Box<[u16]>>]>,
    proven: bool,
}

#[derive(Debug)]
struct Observer {
    said: Arc<Observations>,
    standing: Standing,
    weights: Weights,
}

/// All observers but this node, and what comes of them.
#[derive(Debug, Default)]
pub(crate) struct Observers {
    of: BTreeMap<PeerId, Observer>,
    tallies: BTreeMap<ExpertId, Tally>,
    /// Codebooks that are weighed at all.
    used: BTreeSet<CodebookId>,
    /// What this node has seen itself.
    own: Observations,
    /// Experts of whom something else comes out than was last told.
    changed: BTreeSet<ExpertId>,
    /// Who was weighed again last.
    last: Option<PeerId>,
}

impl Observers {
    /// This node has seen this itself, and uses these codebooks besides.
    pub(crate) fn know(&mut self, own: Observations) {
        let experts = |o: &Observations| o.seen().iter().map(|s| s.expert).collect::<Vec<_>>();
        // The share of the unproven follows own evidence.
        for expert in [experts(&self.own), experts(&own)].concat() {
            if self.tallies.contains_key(&expert) {
                self.changed.insert(expert);
            }
        }
        let books: BTreeSet<CodebookId> = own.seen().iter().map(|s| s.codebook).collect();
        self.own = own;
        self.use_codebooks(books);
    }

    /// What is said of these codebooks is weighed too, as far as there is room.
    pub(crate) fn use_codebooks(&mut self, books: impl IntoIterator<Item = CodebookId>) {
        let before = self.used.len();
        for book in books {
            if self.used.len() < CODEBOOKS {
                self.used.insert(book);
            }
        }
        if self.used.len() > before {
            let all: Vec<PeerId> = self.of.keys().copied().collect();
            for peer in all {
                self.again(&peer);
            }
        }
    }

    /// `peer` says this from now on.
    pub(crate) fn set(&mut self, peer: PeerId, said: Arc<Observations>, standing: Standing) {
        let before = self.of.get(&peer);
        if before.is_some_and(|b| Arc::ptr_eq(&b.said, &said) && b.standing == standing) {
            return;
        }
        self.remove(&peer);
        if said.is_empty() {
            return;
        }
        let observer = Observer {
            said,
            standing,
            weights: Weights::default(),
        };
        self.of.insert(peer, observer);
        self.add(&peer);
    }

    /// Whether something of `peer` counts.
    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.of.contains_key(peer)
    }

    /// Nothing that `peer` said counts any more.
    pub(crate) fn remove(&mut self, peer: &PeerId) {
        self.take_out(peer);
        self.of.remove(peer);
    }

    /// Weighs some observers again, since what is known otherwise has changed meanwhile.
    pub(crate) fn tick(&mut self) {
        let from = self.last.take();
        let after = self
            .of
            .keys()
            .filter(|peer| from.is_none_or(|f| **peer > f));
        let next: Vec<PeerId> = after.take(REWEIGHED_A_TICK).copied().collect();
        if next.len() == REWEIGHED_A_TICK {
            self.last = next.last().copied();
        }
        for peer in next {
            let Some(observer) = self.of.get(&peer) else {
                continue;
            };
            if self.weights(observer) != observer.weights {
                self.again(&peer);
            }
        }
    }

    /// What comes out of those experts for whom it changed since the last time.
    pub(crate) fn news(&mut self) -> Vec<(ExpertId, WeighedExpert)> {
        let changed = std::mem::take(&mut self.changed);
        let weighed = changed.into_iter().map(|expert| {
            let tally = self.tallies.get(&expert);
            let own = |book: &CodebookId| self.own.of(book, &expert);
            (expert, tally.map(|t| t.weighed(own)).unwrap_or_default())
        });
        weighed.collect()
    }

    fn again(&mut self, peer: &PeerId) {
        self.take_out(peer);
        self.add(peer);
    }

    /// Whether a group counts at all.
    fn counts(&self, seen: &Seen, standing: &Standing) -> bool {
        self.used.contains(&seen.codebook) && standing.serves.binary_search(&seen.expert).is_err()
    }

    /// Votes first: weights depend on them.
    fn add(&mut self, peer: &PeerId) {
        let Some(mut observer) = self.of.remove(peer) else {
            return;
        };
        let groups = observer.said.seen().iter().map(|seen| {
            self.counts(seen, &observer.standing).then(|| {
                let tally = self.tallies.entry(seen.expert).or_default();
                tally.vote(&seen.codebook, &seen.cells);
                vec![0; seen.cells.len()].into()
            })
        });
        observer.weights.groups = groups.collect();
        observer.weights = self.weights(&observer);
        let Weights { groups, proven } = &observer.weights;
        for (seen, weights) in observer.said.seen().iter().zip(groups) {
            if let (Some(weights), Some(tally)) = (weights, self.tallies.get_mut(&seen.expert)) {
                for ((cluster, evidence), weight) in seen.cells.iter().zip(weights) {
                    let part = part(*evidence, *weight);
                    tally.add(&seen.codebook, *cluster, part, *proven);
                }
                self.changed.insert(seen.expert);
            }
        }
        self.of.insert(*peer, observer);
    }

    fn take_out(&mut self, peer: &PeerId) {
        let Some(observer) = self.of.get_mut(peer) else {
            return;
        };
        let Weights { groups, proven } = std::mem::take(&mut observer.weights);
        for (seen, weights) in observer.said.seen().iter().zip(groups) {
            let (Some(weights), Some(tally)) = (weights, self.tallies.get_mut(&seen.expert)) else {
                continue;
            };
            for ((cluster, evidence), weight) in seen.cells.iter().zip(weights) {
                let part = part(*evidence, weight);
                tally.subtract(&seen.codebook, *cluster, *evidence, part, proven);
            }
            if tally.is_empty() {
                self.tallies.remove(&seen.expert);
            }
            self.changed.insert(seen.expert);
        }
    }

    /// What an observer that has voted counts for. Whoever is right about all but one expert, or of one
    /// expert in all but one cluster, is still wrong there.
    fn weights(&self, observer: &Observer) -> Weights {
        let groups = observer.said.seen().iter();
        let agreements = groups.zip(&observer.weights.groups).map(|(seen, voted)| {
            voted.as_ref()?;
            let own = self.own.of(&seen.codebook, &seen.expert);
            let tally = self.tallies.get(&seen.expert)?;
            Some(tally.agreements(&seen.codebook, &seen.cells, own))
        });
        let agreements: Vec<Option<Vec<Agreement>>> = agreements.collect();
        let whole: Agreement = agreements.iter().flatten().flatten().copied().sum();
        let groups = agreements.iter().map(|cells| {
            let cells = cells.as_ref()?;
            let of_expert: Agreement = cells.iter().copied().sum();
            let most = whole.of_thousand().min(of_expert.of_thousand());
            Some(
                cells
                    .iter()
                    .map(|cell| most.min(cell.of_thousand()))
                    .collect(),
            )
        });
        Weights {
            groups: groups.collect(),
            proven: observer.standing.trusted || whole.is_proof(),
        }
    }
}

/// What is counted of one observer in a cell: (mass, reward), in thousandths.
fn part(evidence: Evidence, of_thousand: u16) -> (u32, u32) {
    let mass = evidence.count.min(MASS) * u32::from(of_thousand);
    // A mean is at most 1, so the reward is at most the mass.
    let whole = 1000 * u64::from(evidence.count.max(1));
    let reward = u64::from(mass) * u64::from(evidence.reward) / whole;
    (mass, u32::try_from(reward).unwrap_or(mass))
}

#[cfg(test)]
mod tests;
