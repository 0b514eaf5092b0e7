//! Counts by cluster, and how levels of them shrink into one another.
//!
//! What a level knows is how an expert did beside what was expected of it: `ρ = (Σreward + m·p̄·ρ above) /
//! (Σprior + m·p̄)`, p̄ being the mean prior there, or a half if that is more. The belief about a query is its own prior times ρ, so who
//! did well on its own subject is not thought good at another. Where all priors are equal that is the Beta
//! posterior `(Σreward + m·above) / (n + m)`, the level above as its prior.
//! A query reads a book's cells by its soft membership; books of one size are averaged (bagging).

use super::{Codebook, codebook::MEMBERSHIPS, codebook::Member};

/// No prior is lower: what was never expected of an expert could not be learnt of it either.
pub const LEAST_PRIOR: f64 = 0.05;
/// The prior mass pulls at least as if so much had been expected: else one good answer of an expert of which
/// hardly anything was would make it the best at everything.
const LEAST_PULL: f64 = 0.5;
/// What others are taken to have expected of an expert, at least, where they asked it: they say what came
/// of it, not what they expected, and nobody asks whom it expects little of.
const OTHERS_EXPECTED: f64 = 0.5;

/// How many were graded, the sum of their rewards, and of what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Cell {
    pub(crate) count: f32,
    pub(crate) reward: f32,
    pub(crate) expected: f32,
}

impl Cell {
    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.reward += other.reward;
        self.expected += other.expected;
    }
}

/// Memberships of one query in each book.
pub(crate) type Members = Box<[[Member; MEMBERSHIPS]]>;

/// Where the cells of each book lie in one row, and which books form a level.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// First cell of each book; cell 0 is the global one.
    starts: Vec<usize>,
    sizes: Vec<usize>,
    cells: usize,
    /// Books of one size, coarse ones first.
    levels: Vec<Vec<usize>>,
}

impl Layout {
    pub(crate) fn new(books: &[Codebook]) -> Self {
        let sizes: Vec<usize> = books.iter().map(Codebook::clusters).collect();
        let mut cells = 1;
        let mut starts = Vec::with_capacity(sizes.len());
        for size in &sizes {
            starts.push(cells);
            cells += size;
        }
        let mut distinct = sizes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let levels = distinct
            .iter()
            .map(|size| (0..sizes.len()).filter(|b| sizes[*b] == *size).collect())
            .collect();
        Self {
            starts,
            sizes,
            cells,
            levels,
        }
    }

    /// The cell of a book's cluster, where there is one.
    pub(crate) fn cell(&self, book: usize, cluster: u16) -> Option<usize> {
        let inside = usize::from(cluster) < *self.sizes.get(book)?;
        inside.then(|| self.starts[book] + usize::from(cluster))
    }

    /// Book and cluster of each cell but the global one.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, usize, u16)> + '_ {
        self.starts
            .iter()
            .zip(&self.sizes)
            .enumerate()
            .flat_map(|(book, (start, size))| (0..*size).map(move |c| (start + c, book, c as u16)))
    }
}

/// The cells of one expert.
#[derive(Debug, Clone)]
pub(crate) struct Cells {
    cells: Box<[Cell]>,
}

/// Mean and mass of evidence behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Belief {
    pub(crate) mean: f64,
    pub(crate) mass: f64,
}

/// Sums of cells of one place.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    count: f64,
    reward: f64,
    expected: f64,
}

/// How an expert does beside what is expected of it, and the mass of evidence behind that.
#[derive(Debug, Clone, Copy)]
struct Level {
    ratio: f64,
    mass: f64,
}

impl Level {
    /// One level down: `mass` of this one is the prior of what the sums say.
    fn under(self, sums: Sums, mass: f64) -> Self {
        let prior = self.mass.min(mass);
        let expected = if sums.count > 0.0 {
            (sums.expected / sums.count).max(LEAST_PULL)
        } else {
            1.0
        };
        Self {
            ratio: (sums.reward + mass * expected * self.ratio) / (sums.expected + mass * expected),
            mass: sums.count + prior,
        }
    }
}

/// A prior as it is reckoned with.
fn bounded(prior: f64) -> f64 {
    prior.clamp(LEAST_PRIOR, 1.0)
}

impl Cells {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            cells: vec![Cell::default(); layout.cells].into(),
        }
    }

    /// Counts one outcome in the global cell and in the nearest cluster of each book.
    pub(crate) fn observe(&mut self, layout: &Layout, members: &Members, prior: f64, reward: f32) {
        let one = Cell {
            count: 1.0,
            reward,
            expected: bounded(prior) as f32,
        };
        self.cells[0].add(one);
        for (book, members) in members.iter().enumerate() {
            if let Some(cell) = layout.cell(book, members[0].cluster) {
                self.cells[cell].add(one);
            }
        }
    }

    pub(crate) fn add(&mut self, cell: usize, more: Cell) {
        if let Some(cell) = self.cells.get_mut(cell) {
            cell.add(more);
        }
    }

    /// All of them, the global one first.
    pub(crate) fn all(&self) -> &[Cell] {
        &self.cells
    }

    /// Whether anything was counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.cells[0].count <= 0.0
    }

    pub(crate) fn get(&self, cell: usize) -> Cell {
        self.cells.get(cell).copied().unwrap_or_default()
    }

    /// Makes all that was counted worth less.
    pub(crate) fn fade(&mut self, factor: f32) {
        for cell in &mut self.cells {
            cell.count *= factor;
            cell.reward *= factor;
            cell.expected *= factor;
        }
    }
}

/// What is known of an expert: own cells, and those of others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sources<'a> {
    pub(crate) own: Option<&'a Cells>,
    pub(crate) others: Option<&'a Cells>,
}

impl Sources<'_> {
    fn sums(&self, cell: usize, prior: f64) -> Sums {
        let of = |cells: Option<&Cells>| cells.map(|c| c.get(cell)).unwrap_or_default();
        let (own, others) = (of(self.own), of(self.others));
        let told = f64::from(others.count);
        Sums {
            count: f64::from(own.count) + told,
            reward: f64::from(own.reward) + f64::from(others.reward),
            expected: f64::from(own.expected) + told * prior.max(OTHERS_EXPECTED),
        }
    }
}

/// The belief about a query, level by level below `prior`, whose mass is how much evidence outgrows it.
/// `visit` is told the belief after each level.
pub(crate) fn descend(
    layout: &Layout,
    sources: Sources<'_>,
    members: &Members,
    prior: Belief,
    masses: &[f32],
    mut visit: impl FnMut(Belief),
) -> Belief {
    let expected = bounded(prior.mean);
    let belief = |level: Level| Belief {
        mean: (expected * level.ratio).clamp(0.0, 1.0),
        mass: level.mass,
    };
    let mass = |level: usize| {
        f64::from(masses.get(level).or(masses.last()).copied().unwrap_or(1.0)).max(1e-3)
    };
    let top = Level {
        ratio: 1.0,
        mass: prior.mass,
    };
    let mut above = top.under(sources.sums(0, expected), prior.mass.max(1e-3));
    visit(belief(above));
    for (level, books) in layout.levels.iter().enumerate() {
        let mut next = Level {
            ratio: 0.0,
            mass: 0.0,
        };
        let share = 1.0 / books.len() as f64;
        for book in books {
            for member in members.get(*book).into_iter().flatten() {
                let Some(cell) = layout.cell(*book, member.cluster) else {
                    continue;
                };
                let below = above.under(sources.sums(cell, expected), mass(level));
                let weight = share * f64::from(member.weight);
                next.ratio += weight * below.ratio;
                next.mass += weight * below.mass;
            }
        }
        // A query without a vector belongs to no cluster.
        if next.mass > 0.0 {
            above = next;
        }
        visit(belief(above));
    }
    belief(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn believed(own: &Cells, prior: f64) -> f64 {
        let sources = Sources {
            own: Some(own),
            others: None,
        };
        let prior = Belief {
            mean: prior,
            mass: 4.0,
        };
        let layout = Layout::new(&[]);
        descend(
            &layout,
            sources,
            &Members::default(),
            prior,
            &[20.0],
            |_| (),
        )
        .mean
    }

    #[test]
    fn who_did_well_on_its_own_subject_is_not_thought_good_at_another() {
        let layout = Layout::new(&[]);
        let mut own = Cells::new(&layout);
        for _ in 0..50 {
            own.observe(&layout, &Members::default(), 0.4, 1.0);
        }
        assert!(believed(&own, 0.4) > 0.9);
        assert!(
            believed(&own, 0.1) < 0.3,
            "little is expected, and little more is"
        );
    }

    #[test]
    fn one_good_answer_where_little_was_expected_makes_nobody_the_best_at_everything() {
        let layout = Layout::new(&[]);
        for prior in [0.05, 0.1, 0.2] {
            let mut own = Cells::new(&layout);
            own.observe(&layout, &Members::default(), prior, 1.0);
            let at_home = believed(&own, 0.6);
            assert!(at_home < 0.9, "{prior}: {at_home}");
        }
    }

    #[test]
    fn equal_priors_make_a_beta_posterior() {
        let layout = Layout::new(&[]);
        let mut own = Cells::new(&layout);
        for n in 0..10 {
            own.observe(
                &layout,
                &Members::default(),
                0.5,
                if n < 7 { 1.0 } else { 0.0 },
            );
        }
        assert!((believed(&own, 0.5) - (7.0 + 4.0 * 0.5) / 14.0).abs() < 1e-6);
    }
}
