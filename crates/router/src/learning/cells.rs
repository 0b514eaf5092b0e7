//! Counts by cluster, and how levels of them shrink into one another.
//!
//! Each level's mean is a Beta posterior whose prior is the level above: `(Σreward + m·above) / (n + m)`.
//! A query reads a book's cells by its soft membership; books of one size are averaged (bagging).

use super::{Codebook, codebook::MEMBERSHIPS, codebook::Member};

/// How many were graded, and the sum of their rewards.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Cell {
    pub(crate) count: f32,
    pub(crate) reward: f32,
}

impl Cell {
    pub(crate) fn add(&mut self, count: f32, reward: f32) {
        self.count += count;
        self.reward += reward;
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

impl Belief {
    /// One level down: `mass` of this one is the prior of what `count` and `reward` say.
    fn under(self, count: f64, reward: f64, mass: f64) -> Self {
        let prior = self.mass.min(mass);
        Self {
            mean: (reward + mass * self.mean) / (count + mass),
            mass: count + prior,
        }
    }
}

impl Cells {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            cells: vec![Cell::default(); layout.cells].into(),
        }
    }

    /// Counts one outcome in the global cell and in the nearest cluster of each book.
    pub(crate) fn observe(&mut self, layout: &Layout, members: &Members, reward: f32) {
        self.cells[0].add(1.0, reward);
        for (book, members) in members.iter().enumerate() {
            if let Some(cell) = layout.cell(book, members[0].cluster) {
                self.cells[cell].add(1.0, reward);
            }
        }
    }

    pub(crate) fn add(&mut self, cell: usize, count: f32, reward: f32) {
        if let Some(cell) = self.cells.get_mut(cell) {
            cell.add(count, reward);
        }
    }

    pub(crate) fn get(&self, cell: usize) -> Cell {
        self.cells.get(cell).copied().unwrap_or_default()
    }

    /// Makes all that was counted worth less.
    pub(crate) fn fade(&mut self, factor: f32) {
        for cell in &mut self.cells {
            cell.count *= factor;
            cell.reward *= factor;
        }
    }
}

/// The belief about a query: own cells and those of others, level by level below `prior`. `visit` is told
/// the belief after each level.
pub(crate) fn descend(
    layout: &Layout,
    sources: [Option<&Cells>; 2],
    members: &Members,
    prior: Belief,
    masses: &[f32],
    mut visit: impl FnMut(Belief),
) -> Belief {
    let sum = |cell: usize| {
        sources.iter().flatten().fold((0.0, 0.0), |(n, r), cells| {
            let cell = cells.get(cell);
            (n + f64::from(cell.count), r + f64::from(cell.reward))
        })
    };
    let mass = |level: usize| {
        f64::from(masses.get(level).or(masses.last()).copied().unwrap_or(1.0)).max(1e-3)
    };
    let (count, reward) = sum(0);
    let mut belief = prior.under(count, reward, prior.mass.max(1e-3));
    visit(belief);
    for (level, books) in layout.levels.iter().enumerate() {
        let mut next = Belief {
            mean: 0.0,
            mass: 0.0,
        };
        let share = 1.0 / books.len() as f64;
        for book in books {
            for member in members.get(*book).into_iter().flatten() {
                let Some(cell) = layout.cell(*book, member.cluster) else {
                    continue;
                };
                let (count, reward) = sum(cell);
                let below = belief.under(count, reward, mass(level));
                let weight = share * f64::from(member.weight);
                next.mean += weight * below.mean;
                next.mass += weight * below.mass;
            }
        }
        // A query without a vector belongs to no cluster.
        if next.mass > 0.0 {
            belief = next;
        }
        visit(belief);
    }
    belief
}
