//! What all observers together say of one expert.

use polymath_types::{CodebookId, Evidence, Weighed, WeighedExpert};

use super::{FREE, MASS, agreement::Agreement};

/// Votes are counted by mean reward in so many steps.
const STEPS: usize = 8;
/// Votes below which there is no middle.
const QUORUM: u32 = 3;

/// What is known of an observer: the higher, the more its vote is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Rank {
    /// Nothing.
    #[default]
    Other,
    /// It agreed with own evidence, or copied it.
    Proven,
    /// It holds a role in the mesh.
    Role,
}

/// What is kept of the observers of one rank.
#[derive(Debug, Clone, Copy, Default)]
struct Pot {
    mass: u32,
    reward: u32,
    votes: [u16; STEPS],
}

impl Pot {
    /// The same mean, of so much mass at most.
    fn at_most(&self, most: u64) -> (u64, u64) {
        let mass = u64::from(self.mass).min(most);
        (
            mass,
            u64::from(self.reward) * mass / u64::from(self.mass.max(1)),
        )
    }
}

/// One cell, by rank. A table has at most 2^15 authors, so no sum comes near its end.
#[derive(Debug, Clone, Copy, Default)]
struct Sums([Pot; 3]);

impl Sums {
    fn is_empty(&self) -> bool {
        self.0.iter().all(|pot| pot.votes.iter().all(|n| *n == 0))
    }

    /// What comes out beside so many own outcomes.
    fn weighed(&self, own: u32) -> Weighed {
        let thousandths = |outcomes: u32| 1000 * u64::from(outcomes);
        let [others, proven, role] = &self.0;
        let free = thousandths(own.saturating_mul(FREE).max(MASS));
        let proven = proven.at_most(free);
        let left = free.saturating_sub(proven.0);
        let others = others.at_most(left.min(thousandths(own.max(MASS))));
        let sum =
            |role: u32, free: u64| role.saturating_add(u32::try_from(free).unwrap_or(u32::MAX));
        Weighed {
            mass: sum(role.mass, proven.0 + others.0),
            reward: sum(role.reward, proven.1 + others.1),
        }
    }

    /// The middle of the votes of those who know best and are enough, without that of one who said this,
    /// and how many there are. Nobody judges those of the highest rank.
    fn middle(&self, said: Evidence, rank: Rank) -> Option<(f64, u32)> {
        if rank == Rank::Role {
            return None;
        }
        let mut votes = [0u32; STEPS];
        for (at, pot) in self.0.iter().enumerate().rev() {
            for (sum, more) in votes.iter_mut().zip(pot.votes) {
                *sum += u32::from(more);
            }
            if at == rank as usize {
                let own = &mut votes[step(said)];
                *own = own.saturating_sub(1);
            }
            if votes.iter().sum::<u32>() >= QUORUM {
                break;
            }
        }
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
    pub(super) fn vote(&mut self, book: &CodebookId, cells: &[(u16, Evidence)], rank: Rank) {
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
            let votes = &mut known[at].1.0[rank as usize].votes[step(*evidence)];
            *votes = votes.saturating_add(1);
        }
    }

    pub(super) fn add(
        &mut self,
        book: &CodebookId,
        cluster: u16,
        (mass, reward): (u32, u32),
        rank: Rank,
    ) {
        if let Some(sums) = self.cell_mut(book, cluster) {
            let pot = &mut sums.0[rank as usize];
            pot.mass = pot.mass.saturating_add(mass);
            pot.reward = pot.reward.saturating_add(reward);
        }
    }

    /// Takes out a vote and what was added with it.
    pub(super) fn subtract(
        &mut self,
        book: &CodebookId,
        cluster: u16,
        evidence: Evidence,
        (mass, reward): (u32, u32),
        rank: Rank,
    ) {
        let Some(sums) = self.cell_mut(book, cluster) else {
            return;
        };
        let pot = &mut sums.0[rank as usize];
        pot.mass = pot.mass.saturating_sub(mass);
        pot.reward = pot.reward.saturating_sub(reward);
        let votes = &mut pot.votes[step(evidence)];
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

    /// How an observer that has voted agrees with own evidence, or else with the others, by cell.
    pub(super) fn agreements<'a>(
        &'a self,
        book: &'a CodebookId,
        cells: &'a [(u16, Evidence)],
        own: &'a [(u16, Evidence)],
        rank: Rank,
    ) -> impl Iterator<Item = Agreement> + 'a {
        cells.iter().map(move |(cluster, said)| {
            let crowd = self.cell(book, *cluster);
            let crowd = crowd.and_then(|sums| sums.middle(*said, rank));
            Agreement::in_cell(*said, of(own, *cluster), crowd)
        })
    }

    /// What comes out. `own` is what this node has seen itself of a codebook's clusters.
    pub(super) fn weighed<'a>(
        &self,
        own: impl Fn(&CodebookId) -> &'a [(u16, Evidence)],
    ) -> WeighedExpert {
        let books = self.0.iter().filter_map(|(book, cells)| {
            let own = own(book);
            let cells = cells.iter().filter_map(|(cluster, sums)| {
                let weighed = sums.weighed(of(own, *cluster).map_or(0, |e| e.count));
                (weighed.mass > 0).then_some((*cluster, weighed))
            });
            let cells: Vec<_> = cells.collect();
            (!cells.is_empty()).then_some((*book, cells))
        });
        books.collect()
    }
}

/// What was seen in a cluster.
pub(super) fn of(cells: &[(u16, Evidence)], cluster: u16) -> Option<Evidence> {
    let at = cells.binary_search_by_key(&cluster, |(c, _)| *c).ok()?;
    Some(cells[at].1)
}
