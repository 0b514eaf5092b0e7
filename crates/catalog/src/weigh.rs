//! What the observations of others are worth, together.
//!
//! Sans state of anybody else: observers and their documents go in, sums by cell come out. The rules,
//! after "Trust" in Polymath's research on routing:
//!
//! * nobody's word on an expert it serves itself counts, nor any on experts that nobody offers and of whom
//!   this node has seen nothing;
//! * of one observer at most [`MASS`] outcomes count in a cell, so volume buys nothing;
//! * whoever agreed with enough of this node's own evidence is proven. That is judged by own evidence alone,
//!   and so is how far an observer's word as a whole is believed: no crowd can shake either;
//! * in each cell a word is weighed by exp(-(d/σ)²), d being how far it is from own evidence there, or, where
//!   there is little, from the middle of those who know best, one vote each: of holders of a role, else of the
//!   proven too, else of all ([`agreement`]). Below [`LEAST`] it does not count. No crowd judges who holds a
//!   role;
//! * keys cost nothing, and own evidence is published: whoever copies it is proven. So all observers without a
//!   role together count in a cell as [`MASS`] outcomes, or [`FREE`] times own ones. The proven come first,
//!   and the rest has at most [`MASS`] outcomes, or as many as own ones, of what they leave;
//! * a word of few outcomes is excused by chance, a crowd of them is not: what the proven say together, and
//!   the rest together, is held against own evidence by cell and by expert, or where there is none against
//!   those of a higher rank, and counts as few outcomes as its distance leaves it (a variance between
//!   sources is added to that of its mean). A crowd can so take away what honest observers of its rank add to
//!   own evidence, and move it by less than two standard deviations, not more.
//!
//! Proof does not depend on votes, nor votes on weights, so what comes out depends on the documents alone and
//! not on the order they came in, once every observer was weighed again ([`Observers::tick`]). Sums are
//! integers: what was added is taken out exactly. No rule helps where a majority that proved itself with copies
//! lies, and neither this node nor three holders of a role have seen anything: there the last rule bounds the
//! damage to [`MASS`] outcomes in a cell, until five own ones refute it.

pub(crate) mod agreement;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use agreement::Agreement;
use polymath_types::{CodebookId, Evidence, ExpertId, Observations, PeerId, Seen, WeighedExpert};
use tally::{Rank, Tally};

use crate::limits::{CODEBOOKS, REWEIGHED_A_TICK};

/// Outcomes of one observer that count in a cell, and of all without a role where own ones are few.
pub(crate) const MASS: u32 = 100;
/// How many times own outcomes those of all observers without a role count.
const FREE: u32 = 4;
/// Weight, of 1000, below which a word does not count: what is left of a lie would else be summed over as
/// many keys as the liar likes.
const LEAST: u16 = 500;

/// Whether somebody offers an expert.
pub(crate) type Offered<'a> = &'a dyn Fn(&ExpertId) -> bool;

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
    rank: Rank,
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
    /// Codebooks that the caller uses.
    asked: BTreeSet<CodebookId>,
    /// Codebooks that are weighed at all: those, and those of own evidence.
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
    pub(crate) fn know(&mut self, own: Observations, offered: Offered<'_>) {
        let experts = |o: &Observations| o.seen().iter().map(|s| s.expert).collect::<Vec<_>>();
        // The share of those without a role follows own evidence.
        for expert in [experts(&self.own), experts(&own)].concat() {
            if self.tallies.contains_key(&expert) {
                self.changed.insert(expert);
            }
        }
        self.own = own;
        self.choose(offered);
    }

    /// What is said of these codebooks is weighed too, and of those named before no longer.
    pub(crate) fn use_codebooks(
        &mut self,
        books: impl IntoIterator<Item = CodebookId>,
        offered: Offered<'_>,
    ) {
        self.asked.clear();
        for book in books {
            if self.asked.len() == CODEBOOKS {
                break;
            }
            self.asked.insert(book);
        }
        self.choose(offered);
    }

    fn choose(&mut self, offered: Offered<'_>) {
        self.used.clone_from(&self.asked);
        for seen in self.own.seen() {
            if self.used.len() == CODEBOOKS {
                break;
            }
            self.used.insert(seen.codebook);
        }
        let all: Vec<PeerId> = self.of.keys().copied().collect();
        self.place(&all, offered);
    }

    /// `peer` says this from now on.
    pub(crate) fn set(
        &mut self,
        peer: PeerId,
        said: Arc<Observations>,
        standing: Standing,
        offered: Offered<'_>,
    ) {
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
        self.add(&peer, offered);
    }

    /// Nothing that `peer` said counts any more.
    pub(crate) fn remove(&mut self, peer: &PeerId) {
        self.take_out(peer);
        self.of.remove(peer);
    }

    /// Weighs some observers again, since what is known otherwise, and what is offered, has changed
    /// meanwhile. Votes first: weights depend on them.
    pub(crate) fn tick(&mut self, offered: Offered<'_>) {
        let from = self.last.take();
        let after = self
            .of
            .keys()
            .filter(|peer| from.is_none_or(|f| **peer > f));
        let next: Vec<PeerId> = after.take(REWEIGHED_A_TICK).copied().collect();
        if next.len() == REWEIGHED_A_TICK {
            self.last = next.last().copied();
        }
        self.place(&next, offered);
        for peer in next {
            let Some(observer) = self.of.get(&peer) else {
                continue;
            };
            if self.weights(observer) != observer.weights {
                self.again(&peer, offered);
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

    /// What comes out of every expert of whom anything does.
    pub(crate) fn all(&self) -> impl Iterator<Item = (ExpertId, WeighedExpert)> + '_ {
        self.tallies.iter().map(|(expert, tally)| {
            let own = |book: &CodebookId| self.own.of(book, expert);
            (*expert, tally.weighed(own))
        })
    }

    /// Lets those vote anew who have risen or fallen, or whose word counts of other experts than before.
    fn place(&mut self, peers: &[PeerId], offered: Offered<'_>) {
        for peer in peers {
            let moved = self.of.get(peer).is_some_and(|observer| {
                let Weights { groups, rank } = &observer.weights;
                let mut said = observer.said.seen().iter().zip(groups);
                let counts = |seen: &Seen| self.counts(seen, &observer.standing, offered);
                *rank != self.rank(observer, offered)
                    || said.any(|(seen, voted)| counts(seen) != voted.is_some())
            });
            if moved {
                self.again(peer, offered);
            }
        }
    }

    fn again(&mut self, peer: &PeerId, offered: Offered<'_>) {
        self.take_out(peer);
        self.add(peer, offered);
    }

    /// Whether a group counts at all. Sums of experts that nobody can ask would only take room.
    fn counts(&self, seen: &Seen, standing: &Standing, offered: Offered<'_>) -> bool {
        self.used.contains(&seen.codebook)
            && standing.serves.binary_search(&seen.expert).is_err()
            && (!self.own.of(&seen.codebook, &seen.expert).is_empty() || offered(&seen.expert))
    }

    /// By own evidence alone.
    fn rank(&self, observer: &Observer, offered: Offered<'_>) -> Rank {
        if observer.standing.trusted {
            return Rank::Role;
        }
        let said = observer.said.seen().iter();
        let counted = said.filter(|seen| self.counts(seen, &observer.standing, offered));
        let whole: Agreement = counted.flat_map(|seen| self.with_own(seen)).sum();
        if whole.is_proof() {
            Rank::Proven
        } else {
            Rank::Other
        }
    }

    /// How a group agrees with own evidence, by cell.
    fn with_own<'a>(&'a self, seen: &'a Seen) -> impl Iterator<Item = Agreement> + 'a {
        let own = self.own.of(&seen.codebook, &seen.expert);
        // Of most groups this node has seen nothing.
        let cells: &[_] = if own.is_empty() { &[] } else { &seen.cells };
        cells
            .iter()
            .map(move |(cluster, said)| Agreement::with_own(*said, tally::of(own, *cluster)))
    }

    /// Votes first: weights depend on them.
    fn add(&mut self, peer: &PeerId, offered: Offered<'_>) {
        let Some(mut observer) = self.of.remove(peer) else {
            return;
        };
        let rank = self.rank(&observer, offered);
        observer.weights.rank = rank;
        let groups = observer.said.seen().iter().map(|seen| {
            self.counts(seen, &observer.standing, offered).then(|| {
                let tally = self.tallies.entry(seen.expert).or_default();
                tally.vote(&seen.codebook, &seen.cells, rank);
                vec![0; seen.cells.len()].into()
            })
        });
        observer.weights.groups = groups.collect();
        observer.weights = self.weights(&observer);
        let groups = &observer.weights.groups;
        for (seen, weights) in observer.said.seen().iter().zip(groups) {
            if let (Some(weights), Some(tally)) = (weights, self.tallies.get_mut(&seen.expert)) {
                for ((cluster, evidence), weight) in seen.cells.iter().zip(weights) {
                    let part = part(*evidence, *weight);
                    tally.add(&seen.codebook, *cluster, part, rank);
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
        let Weights { groups, rank } = std::mem::take(&mut observer.weights);
        for (seen, weights) in observer.said.seen().iter().zip(groups) {
            let (Some(weights), Some(tally)) = (weights, self.tallies.get_mut(&seen.expert)) else {
                continue;
            };
            for ((cluster, evidence), weight) in seen.cells.iter().zip(weights) {
                let part = part(*evidence, weight);
                tally.subtract(&seen.codebook, *cluster, *evidence, part, rank);
            }
            if tally.is_empty() {
                self.tallies.remove(&seen.expert);
            }
            self.changed.insert(seen.expert);
        }
    }

    /// What an observer that has voted counts for. Whoever is right about all but one expert, or of one
    /// expert in all but one cluster, is still wrong there; the crowd has a say on single cells only.
    fn weights(&self, observer: &Observer) -> Weights {
        let Weights { groups, rank } = &observer.weights;
        let groups = observer.said.seen().iter().zip(groups);
        let counted = groups.clone().filter(|(_, voted)| voted.is_some());
        let whole: Agreement = counted.flat_map(|(seen, _)| self.with_own(seen)).sum();
        let groups = groups.map(|(seen, voted)| {
            voted.as_ref()?;
            let of_expert: Agreement = self.with_own(seen).sum();
            let most = whole.of_thousand().min(of_expert.of_thousand());
            let own = self.own.of(&seen.codebook, &seen.expert);
            let tally = self.tallies.get(&seen.expert)?;
            let cells = tally.agreements(&seen.codebook, &seen.cells, own, *rank);
            let weights = cells.map(|cell| most.min(cell.of_thousand()));
            Some(weights.map(|w| if w < LEAST { 0 } else { w }).collect())
        });
        Weights {
            groups: groups.collect(),
            rank: *rank,
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
