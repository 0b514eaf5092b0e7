//! This node's own observations: what it may say. And those of others: what becomes of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use polymath_types::{Cell, CodebookId, Evidence, ExpertId, Observations, PeerId, WeighedExpert};

use super::{Action, Batch, Catalog};
use crate::{
    Refusal,
    kind::{Category, observations::ObservationKind},
    limits::{OBSERVED, OBSERVED_LEAST, UNTOLD},
    weigh::Standing,
};

/// Why observations cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObservationsError {
    /// The node keeps and publishes none.
    #[error(
        "observations are switched off for this catalog; open it with `observations` to publish any"
    )]
    Off,
    /// No outcomes, too many, or better ones than there can be.
    #[error(
        "{count} outcomes with {reward} thousandths of reward in cluster {cluster} of expert {expert}: at most {most} outcomes are counted, each worth at most 1000, in clusters below {clusters}",
        most = Evidence::MOST, clusters = OBSERVED.clusters
    )]
    Impossible {
        /// Of whom.
        expert: ExpertId,
        /// In which cluster.
        cluster: u16,
        /// Outcomes.
        count: u32,
        /// Their rewards, in thousandths.
        reward: u32,
    },
    /// Automerge or the key refused; a fresh document was tried too.
    #[error(
        "the observations document could not be written ({0}); restart the node with an empty catalog folder"
    )]
    Document(Refusal),
}

impl Catalog {
    /// Says what this node has seen from now on: one signed change of its document, or nothing when the
    /// document says it already. All that was seen is to be given, and what others say is weighed by it;
    /// told are only cells of [`OBSERVED_LEAST`] outcomes, those with most if there are more than a
    /// document holds, and those that were told before others unless these have five outcomes more. Others
    /// take a change every few minutes; to call this more often tells them nothing.
    pub fn publish_observations(
        &mut self,
        seen: impl IntoIterator<Item = (Cell, Evidence)>,
    ) -> Result<Vec<Action>, ObservationsError> {
        if !self.observing {
            return Err(ObservationsError::Off);
        }
        let seen: BTreeMap<Cell, Evidence> = seen.into_iter().collect();
        for (cell, evidence) in &seen {
            if !evidence.is_possible() || cell.cluster >= OBSERVED.clusters {
                return Err(ObservationsError::Impossible {
                    expert: cell.expert,
                    cluster: cell.cluster,
                    count: evidence.count,
                    reward: evidence.reward,
                });
            }
        }
        let told = self.observations.said(&self.me);
        let before = told.cloned().unwrap_or_default();
        let view = self.untold.publishable(&before, &seen);
        let index = &self.index;
        self.observers
            .know(seen.iter().map(|(c, e)| (*c, *e)).collect(), &|id| {
                index.is_offered(id)
            });
        let mut batch = Batch::default();
        if !view.is_empty() || told.is_some() {
            self.write_or_roll::<ObservationKind>(view.clone(), &mut batch)
                .map_err(ObservationsError::Document)?;
            self.untold.note(&before, &view, &seen);
        }
        Ok(self.finish(batch))
    }

    /// What others say under these codebooks is weighed from now on, and under those named before no
    /// longer; beside them those of which this node has seen something itself. Eight are: whatever is above
    /// that is left out, of own evidence first.
    pub fn use_codebooks(&mut self, books: impl IntoIterator<Item = CodebookId>) -> Vec<Action> {
        let index = &self.index;
        self.observers
            .use_codebooks(books, &|id| index.is_offered(id));
        self.finish(Batch::default())
    }

    /// What everybody has seen who said so and did not contradict itself, this node included.
    pub fn observations(&self) -> impl Iterator<Item = (&PeerId, &Observations)> {
        let documents = self.observations.documents.iter();
        let used = documents.filter(|(_, log)| log.other().is_none());
        used.map(|(author, log)| (author, log.said().as_ref()))
    }

    /// Keeps none but this node's own, which it must go on from should it publish again.
    pub(super) fn drop_observations(&mut self) {
        let all = self.observations.documents.iter();
        let others = all.map(|(author, _)| *author);
        self.leftover = others.filter(|author| *author != self.me).collect();
        for author in &self.leftover {
            self.observations.documents.remove(author);
        }
    }

    /// Weighs all that was read from the disk.
    pub(super) fn weigh_all(&mut self) {
        let own = self.observations.said(&self.me).cloned();
        let index = &self.index;
        self.observers
            .know(own.unwrap_or_default(), &|id| index.is_offered(id));
        let all: Vec<PeerId> = self.observations().map(|(author, _)| *author).collect();
        for author in all {
            self.weigh(&author);
        }
        let news = self.observers.news();
        let index = Arc::make_mut(&mut self.index);
        for (expert, weighed) in news {
            index.set_observed(expert, weighed);
        }
    }

    /// What comes out of all observations after a batch in which the offers or the standing of `offering`
    /// changed, and the index with them: what a peer says of experts it serves itself does not count.
    pub(super) fn weigh_changed(
        &mut self,
        batch: &Batch,
        offering: &BTreeSet<PeerId>,
    ) -> Vec<(ExpertId, WeighedExpert)> {
        let changed = batch.evicted.union(&batch.touched);
        let observing = changed.filter(|(category, _)| *category == Category::Observations);
        let mut authors: BTreeSet<PeerId> = observing.map(|(_, author)| *author).collect();
        authors.extend(offering);
        for author in authors {
            self.weigh(&author);
        }
        self.observers.news()
    }

    /// Another few observers are weighed again.
    pub(super) fn weigh_again(&mut self) {
        let index = &self.index;
        self.observers.tick(&|id| index.is_offered(id));
    }

    /// Whose offer is unknown, or contradicts itself, does not count: it might serve what it praises.
    fn weigh(&mut self, author: &PeerId) {
        let charter = &self.merged.charter;
        let out = charter.is_revoked(author)
            || *author == self.me
            || self.observations.documents.contradicts_itself(author)
            || self.offers.documents.contradicts_itself(author);
        let said = self.observations.documents.get(author).filter(|_| !out);
        let (Some(said), Some(offer)) = (said, self.offers.said(author)) else {
            return self.observers.remove(author);
        };
        let standing = Standing {
            serves: offer.experts.as_slice().into(),
            trusted: charter.trusts(author),
        };
        let said = Arc::clone(said.said());
        let index = &self.index;
        self.observers
            .set(*author, said, standing, &|id| index.is_offered(id));
    }
}

/// What a node that has told nothing yet tells of this.
pub(crate) fn first_told(seen: impl IntoIterator<Item = (Cell, Evidence)>) -> Observations {
    let possible = seen
        .into_iter()
        .filter(|(cell, e)| e.is_possible() && cell.cluster < OBSERVED.clusters);
    Untold::default().publishable(&Observations::default(), &possible.collect())
}

/// What was last told of cells that are told no longer: the document was full, or outcomes were forgotten.
/// It outlives no restart.
#[derive(Debug, Default)]
pub(super) struct Untold(BTreeMap<Cell, Evidence>);

impl Untold {
    /// What may be told of what was seen, after `told`. A cell stays as it was told, however long ago, until
    /// it has changed by as many outcomes as a cell must have: of two versions nobody can tell what came of
    /// one question. For the same reason one that is told gives way to those that lead by as many only.
    fn publishable(&self, told: &Observations, seen: &BTreeMap<Cell, Evidence>) -> Observations {
        let enough = seen.iter().filter(|(_, e)| e.count >= OBSERVED_LEAST);
        let mut cells: Vec<(Cell, Evidence, bool)> = enough
            .map(|(cell, now)| {
                let stands = told.get(cell);
                let before = stands.or_else(|| self.0.get(cell).copied());
                let kept = before.filter(|b| b.count.abs_diff(now.count) < OBSERVED_LEAST);
                (*cell, kept.unwrap_or(*now), stands.is_some())
            })
            .collect();
        cells.sort_by_key(|(cell, evidence, stands)| {
            let lead = if *stands { OBSERVED_LEAST } else { 0 };
            // Whoever leads by as many wins the tie.
            (Reverse(evidence.count + lead), *stands, *cell)
        });
        let (mut books, mut experts) = (BTreeSet::new(), BTreeSet::new());
        cells.retain(|(cell, ..)| {
            let (book, expert) = (cell.codebook, (cell.codebook, cell.expert));
            let fits = (books.contains(&book) || books.len() < OBSERVED.codebooks)
                && (experts.contains(&expert) || experts.len() < OBSERVED.experts);
            if fits {
                books.insert(book);
                experts.insert(expert);
            }
            fits
        });
        cells.truncate(OBSERVED.cells);
        let cells = cells.into_iter();
        cells.map(|(cell, evidence, _)| (cell, evidence)).collect()
    }

    /// `view` is told from now on, instead of `told`. Above the bound those are forgotten that are not seen
    /// any more, then those of fewest outcomes: they come back to a full document last.
    fn note(&mut self, told: &Observations, view: &Observations, seen: &BTreeMap<Cell, Evidence>) {
        self.0.extend(told.iter());
        self.0.retain(|cell, _| view.get(cell).is_none());
        let above = self.0.len().saturating_sub(UNTOLD);
        if above > 0 {
            let mut all: Vec<(Cell, Evidence)> = self.0.iter().map(|(c, e)| (*c, *e)).collect();
            all.sort_by_key(|(cell, e)| (seen.contains_key(cell), e.count, *cell));
            for (cell, _) in all.into_iter().take(above) {
                self.0.remove(&cell);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(book: u8, expert: u16, cluster: u16) -> Cell {
        let mut id = [7; 32];
        id[..2].copy_from_slice(&expert.to_be_bytes());
        Cell {
            codebook: CodebookId::from_bytes([book; 32]),
            expert: ExpertId::from_bytes(id),
            cluster,
        }
    }

    fn evidence(count: u32) -> Evidence {
        let reward = count * 500;
        Evidence { count, reward }
    }

    fn publishable(seen: &BTreeMap<Cell, Evidence>) -> Observations {
        Untold::default().publishable(&Observations::default(), seen)
    }

    #[test]
    fn cells_of_few_outcomes_are_told_to_nobody() {
        let seen = [(cell(1, 1, 1), evidence(4)), (cell(1, 1, 2), evidence(5))];
        let told = publishable(&seen.into_iter().collect());
        assert_eq!(told.iter().collect::<Vec<_>>(), [seen[1]]);
        // Nor once they have become few.
        let fewer = [(cell(1, 1, 2), evidence(4))].into_iter().collect();
        assert!(Untold::default().publishable(&told, &fewer).is_empty());
    }

    #[test]
    fn no_two_versions_tell_what_came_of_one_question() {
        let mut told = Observations::default();
        let mut last = 0;
        for count in 1..60 {
            let seen = [(cell(1, 1, 1), evidence(count))].into_iter().collect();
            told = Untold::default().publishable(&told, &seen);
            let now = told.get(&cell(1, 1, 1)).map_or(0, |e| e.count);
            assert!(
                now == last || now >= last + OBSERVED_LEAST,
                "{last} to {now}"
            );
            last = now;
        }
        assert_eq!(last, 55);
    }

    #[test]
    fn of_more_than_a_document_holds_those_with_most_outcomes_are_told() {
        let crowd = (0..300).flat_map(|expert| {
            (0..10).map(move |c| (cell(1, expert, c), evidence(5 + u32::from(c))))
        });
        let told = publishable(&crowd.collect());
        assert_eq!(
            (told.len(), told.seen().len()),
            (OBSERVED.cells, OBSERVED.experts)
        );
        let books = (0..9).map(|book| (cell(book, 1, 1), evidence(5 + u32::from(book))));
        let told = publishable(&books.collect());
        let kept: Vec<CodebookId> = told.seen().iter().map(|s| s.codebook).collect();
        assert_eq!(
            kept,
            [5, 6, 7, 8].map(|book| CodebookId::from_bytes([book; 32]))
        );
    }

    #[test]
    fn no_two_versions_tell_one_question_though_a_cell_was_not_told_between() {
        let mut seen: BTreeMap<Cell, Evidence> = (0..OBSERVED.cells as u16 + 500)
            .map(|n| (cell(1, n % 250, n / 250), evidence(5)))
            .collect();
        let all: Vec<Cell> = seen.keys().copied().collect();
        let (mut untold, mut told) = (Untold::default(), Observations::default());
        let mut last: BTreeMap<Cell, u32> = BTreeMap::new();
        let (mut dice, mut returned) = (1u64, 0);
        for _ in 0..200 {
            for _ in 0..300 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (dice >> 33) as usize % all.len();
                let now = seen[&all[at]].count + 1 + (dice >> 60) as u32 % 3;
                seen.insert(all[at], evidence(now));
            }
            let view = untold.publishable(&told, &seen);
            assert_eq!(view.len(), OBSERVED.cells);
            for (cell, now) in view.iter() {
                let before = last.insert(cell, now.count).unwrap_or(0);
                let step = now.count.abs_diff(before);
                assert!(step == 0 || step >= OBSERVED_LEAST, "{before} to {now:?}");
                returned += usize::from(before > 0 && told.get(&cell).is_none());
            }
            untold.note(&told, &view, &seen);
            told = view;
        }
        assert!(returned > 100, "{returned} came back");
        assert!(untold.0.len() <= UNTOLD);
    }

    #[test]
    fn a_told_cell_gives_way_to_one_that_leads_by_five() {
        let full = |newcomer: u32| {
            let cells =
                (0..OBSERVED.cells as u16).map(|n| (cell(1, n % 250, n / 250), evidence(20)));
            let mut seen: BTreeMap<Cell, Evidence> = cells.collect();
            let told = publishable(&seen);
            seen.insert(cell(1, 0, 1000), evidence(newcomer));
            let view = Untold::default().publishable(&told, &seen);
            view.get(&cell(1, 0, 1000)).is_some()
        };
        assert!(!full(24));
        assert!(full(25));
    }

    #[test]
    fn what_is_told_no_longer_is_remembered_within_bounds() {
        let mut untold = Untold::default();
        let nothing = Observations::default();
        for book in 0..8 {
            let told: Observations = (0..2000)
                .map(|n| (cell(book, n % 250, n / 250), evidence(5 + u32::from(book))))
                .collect();
            untold.note(&told, &nothing, &BTreeMap::new());
        }
        assert_eq!(untold.0.len(), UNTOLD);
        assert!(
            untold.0.values().all(|e| e.count >= 10),
            "most outcomes stay"
        );
    }
}
