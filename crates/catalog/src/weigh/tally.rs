//! What all observers together say of one expert.

use polymath_types::{CodebookId, Evidence, Weighed, WeighedExpert};

use super::{MASS, agreement::Agreement};

/// Votes are counted by mean reward in so many steps.
const STEPS: usize = 8;
/// Votes below which there is no middle.
const QUORUM: u32 = 3;

/// One cell. A table has at most 2^15 authors, so no sum comes near its end.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    proven: (u32, u32),
    others: (u32, u32),
    votes: [u16; STEPS],
}

impl Sums {
    fn pot(&mut self, proven: bool) -> &mut (u32, u32) {
        if proven {
            &mut self.proven
        } else {
            &mut self.others
        }
    }

    fn is_empty(&self) -> bool {
        self.votes.iter().all(|n| *n == 0)
    }

    /// The middle of the votes, without one of `without`, and how many there are.
    fn middle(&self, without: Evidence) -> Option<(f64, u32)> {
        let mut votes = self.votes.map(u32::from);
        let own = &mut votes[step(without)];
        *own = own.saturating_sub(1);
        let all: u32 = votes.iter().sum();
        if all < QUORUM {
            return None;
        }
        let (half, mut below) = (f64::from(all) / 2.0, 0.0);
        for (at, n) in (0u32..).zip(votes) {
            let n = f64::from(n);
            if below + n >= half && n > 0.0 {
                let within = (half - below) / n;
                return Some(((f64::from(at) + within) / STEPS as f64, all));
            }
            below += n;
        }
        None
    }
}

/// Which step a vote is counted in.
fn step(evidence: Evidence) -> usize {
    let whole = 1000 * u64::from(evidence.count.max(1));
    let at = u64::from(evidence.reward) * STEPS as u64 / whole;
    usize::try_from(at).unwrap_or(STEPS).min(STEPS - 1)
}

/// By codebook, then by cluster, both in order.
#[derive(Debug, Default)]
pub(super) struct Tally(Vec<(CodebookId, Vec<(u16, Sums)>)>);

impl Tally {
    fn cells(&self, book: &CodebookId) -> &[(u16, Sums)] {
        let found = self.0.binary_search_by_key(&book, |(b, _)| b);
        found.map_or(&[], |at| &self.0[at].1)
    }

    fn cell(&self, book: &CodebookId, cluster: u16) -> Option<&Sums> {
        let cells = self.cells(book);
        let at = cells.binary_search_by_key(&cluster, |(c, _)| *c).ok()?;
        Some(&cells[at].1)
    }

    fn cell_mut(&mut self, book: &CodebookId, cluster: u16) -> Option<&mut Sums> {
        let at = self.0.binary_search_by_key(&book, |(b, _)| b).ok()?;
        let cells = &mut self.0[at].1;
        let at = cells.binary_search_by_key(&cluster, |(c, _)| *c).ok()?;
        Some(&mut cells[at].1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One observer's vote in each of its cells.
    pub(super) fn vote(&mut self, book: &CodebookId, cells: &[(u16, Evidence)]) {
        let at = match self.0.binary_search_by_key(&book, |(b, _)| b) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (*book, Vec::new()));
                at
            }
        };
        let known = &mut self.0[at].1;
        for (cluster, evidence) in cells {
            let at = match known.binary_search_by_key(cluster, |(c, _)| *c) {
                Ok(at) => at,
                Err(at) => {
                    known.insert(at, (*cluster, Sums::default()));
                    at
                }
            };
            let votes = &mut known[at].1.votes[step(*evidence)];
            *votes = votes.saturating_add(1);
        }
    }

    pub(super) fn add(
        &mut self,
        book: &CodebookId,
        cluster: u16,
        (mass, reward): (u32, u32),
        proven: bool,
    ) {
        if let Some(sums) = self.cell_mut(book, cluster) {
            let pot = sums.pot(proven);
            *pot = (pot.0.saturating_add(mass), pot.1.saturating_add(reward));
        }
    }

    /// Takes out a vote and what was added with it.
    pub(super) fn subtract(
        &mut self,
        book: &CodebookId,
        cluster: u16,
        evidence: Evidence,
        (mass, reward): (u32, u32),
        proven: bool,
    ) {
        let Some(sums) = self.cell_mut(book, cluster) else {
            return;
        };
        let pot = sums.pot(proven);
        *pot = (pot.0.saturating_sub(mass), pot.1.saturating_sub(reward));
        let votes = &mut sums.votes[step(evidence)];
        *votes = votes.saturating_sub(1);
        if sums.is_empty()
            && let Ok(at) = self.0.binary_search_by_key(&book, |(b, _)| b)
        {
            self.0[at].1.retain(|(c, _)| *c != cluster);
            if self.0[at].1.is_empty() {
                self.0.remove(at);
            }
        }
    }

    /// How an observer that has voted agrees with the others, and with this node's own evidence, by cell.
    pub(super) fn agreements(
        &self,
        book: &CodebookId,
        cells: &[(u16, Evidence)],
        own: &[(u16, Evidence)],
    ) -> Vec<Agreement> {
        let agreements = cells.iter().map(|(cluster, said)| {
            let crowd = self.cell(book, *cluster).and_then(|s| s.middle(*said));
            Agreement::between(*said, of(own, *cluster), crowd)
        });
        agreements.collect()
    }

    /// What comes out. `own` is what this node has seen itself of a codebook's clusters.
    pub(super) fn weighed<'a>(
        &self,
        own: impl Fn(&CodebookId) -> &'a [(u16, Evidence)],
    ) -> WeighedExpert {
        let books = self.0.iter().filter_map(|(book, cells)| {
            let own = own(book);
            let cells = cells.iter().filter_map(|(cluster, sums)| {
                let own = of(own, *cluster).map_or(0, |e| e.count);
                let (mass, reward) = sums.others;
                let most = 1000 * u64::from(own.clamp(MASS, Evidence::MOST));
                let others = u64::from(mass).min(most);
                let reward = u64::from(reward) * others / u64::from(mass.max(1));
                let both = |proven: u32, more: u64| {
                    proven.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
                };
                let weighed = Weighed {
                    mass: both(sums.proven.0, others),
                    reward: both(sums.proven.1, reward),
                };
                (weighed.mass > 0).then_some((*cluster, weighed))
            });
            let cells: Vec<_> = cells.collect();
            (!cells.is_empty()).then_some((*book, cells))
        });
        books.collect()
    }
}

fn of(cells: &[(u16, Evidence)], cluster: u16) -> Option<Evidence> {
    let at = cells.binary_search_by_key(&cluster, |(c, _)| *c).ok()?;
    Some(cells[at].1)
}
