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
    limits::{OBSERVED, OBSERVED_LEAST},
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
    /// document holds. Others take a change every few minutes; to call this more often tells them nothing.
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
        let view = publishable(told.unwrap_or(&Observations::default()), &seen);
        self.observers.know(seen.into_iter().collect());
        let mut batch = Batch::default();
        if !view.is_empty() || told.is_some() {
            self.write_or_roll::<ObservationKind>(view, &mut batch)
                .map_err(ObservationsError::Document)?;
        }
        Ok(self.finish(batch))
    }

    /// What others say under these codebooks is weighed from now on, beside those of which this node
    /// has seen something itself. A few are: whatever is above that is left out.
    pub fn use_codebooks(&mut self, books: impl IntoIterator<Item = CodebookId>) -> Vec<Action> {
        self.observers.use_codebooks(books);
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
        self.observers.know(own.unwrap_or_default());
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

    /// What comes out of all observations after a batch in which the offers of `offering` changed: what a
    /// peer says of experts it serves itself does not count.
    pub(super) fn weigh_changed(
        &mut self,
        batch: &Batch,
        offering: &BTreeSet<PeerId>,
    ) -> Vec<(ExpertId, WeighedExpert)> {
        let changed = batch.evicted.union(&batch.touched);
        let observing = changed.filter(|(category, _)| *category == Category::Observations);
        let mut authors: BTreeSet<PeerId> = observing.map(|(_, author)| *author).collect();
        if batch.charter.is_some() {
            authors.extend(self.observations().map(|(author, _)| *author));
        }
        let known = |author: &&PeerId| self.observers.contains(author);
        authors.extend(offering.iter().filter(known));
        for author in authors {
            self.weigh(&author);
        }
        self.observers.news()
    }

    fn weigh(&mut self, author: &PeerId) {
        let charter = &self.merged.charter;
        let out = charter.is_revoked(author) || *author == self.me;
        let said = self.observations.documents.get(author).filter(|_| !out);
        let Some(said) = said.map(|log| Arc::clone(log.said())) else {
            return self.observers.remove(author);
        };
        let serves = self
            .offers
            .said(author)
            .map(|offer| offer.experts.as_slice());
        let standing = Standing {
            serves: serves.unwrap_or_default().into(),
            trusted: charter.is_admin(author) || charter.roles.contains_key(author),
        };
        self.observers.set(*author, said, standing);
    }
}

/// What may be told of what was seen, after `told`. A cell stays as it was told until it has changed by as
/// many outcomes as a cell must have: of two versions nobody can tell what came of one question.
fn publishable(told: &Observations, seen: &BTreeMap<Cell, Evidence>) -> Observations {
    let enough = seen.iter().filter(|(_, e)| e.count >= OBSERVED_LEAST);
    let mut cells: Vec<(Cell, Evidence)> = enough
        .map(|(cell, now)| {
            let before = told.get(cell);
            let kept = before.filter(|b| b.count.abs_diff(now.count) < OBSERVED_LEAST);
            (*cell, kept.unwrap_or(*now))
        })
        .collect();
    cells.sort_by_key(|(cell, evidence)| (Reverse(evidence.count), *cell));
    let (mut books, mut experts) = (BTreeSet::new(), BTreeSet::new());
    cells.retain(|(cell, _)| {
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
    cells.into_iter().collect()
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

    #[test]
    fn cells_of_few_outcomes_are_told_to_nobody() {
        let seen = [(cell(1, 1, 1), evidence(4)), (cell(1, 1, 2), evidence(5))];
        let told = publishable(&Observations::default(), &seen.into_iter().collect());
        assert_eq!(told.iter().collect::<Vec<_>>(), [seen[1]]);
        // Nor once they have become few.
        let fewer = [(cell(1, 1, 2), evidence(4))].into_iter().collect();
        assert!(publishable(&told, &fewer).is_empty());
    }

    #[test]
    fn no_two_versions_tell_what_came_of_one_question() {
        let mut told = Observations::default();
        let mut last = 0;
        for count in 1..60 {
            let seen = [(cell(1, 1, 1), evidence(count))].into_iter().collect();
            told = publishable(&told, &seen);
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
        let told = publishable(&Observations::default(), &crowd.collect());
        assert_eq!(
            (told.len(), told.seen().len()),
            (OBSERVED.cells, OBSERVED.experts)
        );
        let books = (0..9).map(|book| (cell(book, 1, 1), evidence(5 + u32::from(book))));
        let told = publishable(&Observations::default(), &books.collect());
        let kept: Vec<CodebookId> = told.seen().iter().map(|s| s.codebook).collect();
        assert_eq!(
            kept,
            [5, 6, 7, 8].map(|book| CodebookId::from_bytes([book; 32]))
        );
    }
}
