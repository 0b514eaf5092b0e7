//! What all observers together say of one expert.

use polymath_types::{CodebookId, Evidence, Weighed, WeighedExpert};

use super::{
    FREE, MASS,
    agreement::{Agreement, Apart, Pooled},
};

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

    /// What it says; nothing where nothing of it counts.
    fn pooled(&self) -> Option<Pooled> {
        (self.mass > 0).then(|| Pooled {
            count: f64::from(self.mass) / 1000.0,
            mean: f64::from(self.reward) / f64::from(self.mass),
        })
    }

    /// The same mean, of so much mass at most, and of no more than it is worth beside what is `known`
    /// better and so far (squared) from it in other cells.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a mass, or less
    fn beside(&self, known: Option<Pooled>, most: u64, elsewhere: f64) -> (u64, u64) {
        let Some(said) = self.pooled() else {
            return (0, 0);
        };
        let here = known.map_or(0.0, |known| Apart::between(said, known).squared());
        let counted = Pooled {
            count: said.count.min(most as f64 / 1000.0),
            ..said
        };
        let worth = counted.worth(here.max(elsewhere));
        self.at_most(most.min((1000.0 * worth) as u64))
    }
}

/// One cell, by rank. A table has at most 2^15 authors, so no sum comes near its end.
#[derive(Debug, Clone, Copy, Default)]
struct Sums([Pot; 3]);

impl Sums {
    fn is_empty(&self) -> bool {
        self.0.iter().all(|pot| pot.votes.iter().all(|n| *n == 0))
    }

    /// What comes out beside own outcomes. `elsewhere` is how far, squared, the pots without a role are from
    /// own evidence over all cells.
    fn weighed(&self, own: Option<Evidence>, elsewhere: [f64; 2]) -> Weighed {
        let thousandths = |outcomes: u32| 1000 * u64::from(outcomes);
        let [others, proven, role] = &self.0;
        let outcomes = own.map_or(0, |own| own.count);
        let free = thousandths(outcomes.saturating_mul(FREE).max(MASS));
        let own = Pooled::own(own);
        let better = own.or_else(|| role.pooled()?.enough());
        let [of_others, of_proven] = elsewhere;
        let counted = proven.beside(better, free, of_proven);
        let left = free.saturating_sub(counted.0);
        let better = better.or_else(|| proven.pooled()?.enough());
        let most = left.min(thousandths(outcomes.max(MASS)));
        let (proven, others) = (counted, others.beside(better, most, of_others));
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
            let elsewhere = [Rank::Other, Rank::Proven].map(|rank| apart(cells, own, rank));
            let cells = cells.iter().filter_map(|(cluster, sums)| {
                let weighed = sums.weighed(of(own, *cluster), elsewhere);
                (weighed.mass > 0).then_some((*cluster, weighed))
            });
            let cells: Vec<_> = cells.collect();
            (!cells.is_empty()).then_some((*book, cells))
        });
        books.collect()
    }
}

/// How far, squared, those of one rank together are from own evidence, over all cells of an expert.
fn apart(cells: &[(u16, Sums)], own: &[(u16, Evidence)], rank: Rank) -> f64 {
    // Of most experts this node has seen nothing.
    let cells = if own.is_empty() { &[] } else { cells };
    let each = cells.iter().filter_map(|(cluster, sums)| {
        let known = Pooled::own(of(own, *cluster))?;
        Some(Apart::between(sums.0[rank as usize].pooled()?, known))
    });
    each.sum::<Apart>().squared()
}

/// What was seen in a cluster.
pub(super) fn of(cells: &[(u16, Evidence)], cluster: u16) -> Option<Evidence> {
    let at = cells.binary_search_by_key(&cluster, |(c, _)| *c).ok()?;
    Some(cells[at].1)
}
