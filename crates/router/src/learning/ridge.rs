//! Ridge regression that learns one observation at a time.
//!
//! Minimises `Σ (y − w·x)² + λ|w|²` by ascent in single dual coordinates (Shalev-Shwartz and Zhang 2013,
//! "Stochastic Dual Coordinate Ascent Methods"): each observation has a dual variable α with `w = Σ α x`, and
//! one step sets one α to its best value, in the time of one product. So a new observation counts at once,
//! old ones are visited again as time allows, one that is dropped takes its part of `w` along, and the fixed
//! point is the exact solution. In dual form a prediction is `Σ α k(x, ·)`: weighted neighbours.

//!
//! The weights of all experts lie place by place, an expert a column: a query has some hundred places, and what
//! all experts make of it is then as many short rows instead of as many reads for each of them.

use super::Sparse;

/// Columns there is room for at first.
const FEW: usize = 8;

/// Weights of experts.
#[derive(Debug, Clone)]
pub(crate) struct Ridges {
    dimensions: usize,
    columns: usize,
    /// By place, then by column.
    weights: Vec<f32>,
}

impl Ridges {
    pub(crate) const fn new(dimensions: usize) -> Self {
        Self {
            dimensions,
            columns: 0,
            weights: Vec::new(),
        }
    }

    /// Makes room for a column, with weights of zero.
    pub(crate) fn reserve(&mut self, column: usize) {
        if column < self.columns {
            return;
        }
        let columns = (column + 1).next_power_of_two().max(FEW);
        let mut weights = vec![0.0; self.dimensions * columns];
        if self.columns > 0 {
            let rows = self.weights.chunks_exact(self.columns);
            for (wide, row) in weights.chunks_exact_mut(columns).zip(rows) {
                wide[..row.len()].copy_from_slice(row);
            }
        }
        (self.columns, self.weights) = (columns, weights);
    }

    fn weight(&mut self, place: usize, column: usize) -> Option<&mut f32> {
        let inside = column < self.columns;
        let at = place * self.columns + column;
        self.weights.get_mut(at).filter(|_| inside)
    }

    pub(crate) fn predict(&self, column: usize, x: &Sparse) -> f32 {
        let mut sum = 0.0;
        for (place, value) in x.iter().filter(|_| column < self.columns) {
            let weight = self.weights.get(place * self.columns + column);
            sum += weight.copied().unwrap_or(0.0) * value;
        }
        sum
    }

    /// The same of all columns, and of the same bits.
    pub(crate) fn predict_all(&self, x: &Sparse) -> Vec<f32> {
        let mut sums = vec![0f32; self.columns];
        let (places, values): (Vec<usize>, Vec<f32>) = x.iter().unzip();
        pulp::Arch::new().dispatch(Rows {
            ridges: self,
            places: &places,
            values: &values,
            sums: &mut sums,
        });
        sums
    }

    /// Sets the dual variable of an observation to its best value.
    pub(crate) fn step(
        &mut self,
        column: usize,
        x: &Sparse,
        square: f32,
        dual: &mut f32,
        target: f32,
        penalty: f32,
    ) {
        let change = (target - self.predict(column, x) - penalty * *dual) / (penalty + square);
        if change.is_finite() {
            *dual += change;
            self.add(column, x, change);
        }
    }

    /// Takes an observation's part out.
    pub(crate) fn forget(&mut self, column: usize, x: &Sparse, dual: f32) {
        self.add(column, x, -dual);
    }

    fn add(&mut self, column: usize, x: &Sparse, factor: f32) {
        for (place, value) in x.iter() {
            if let Some(weight) = self.weight(place, column) {
                *weight += factor * value;
            }
        }
    }

    /// The column is another's from now on, or nothing is known in it any more.
    pub(crate) fn clear(&mut self, column: usize) {
        for place in 0..self.dimensions {
            if let Some(weight) = self.weight(place, column) {
                *weight = 0.0;
            }
        }
    }
}

struct Rows<'a> {
    ridges: &'a Ridges,
    places: &'a [usize],
    values: &'a [f32],
    sums: &'a mut [f32],
}

impl pulp::WithSimd for Rows<'_> {
    type Output = ();

    /// Compiled once a vector unit. Products are not fused with sums, so every unit rounds alike.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let columns = self.ridges.columns;
        for (place, value) in self.places.iter().zip(self.values) {
            let row = self
                .ridges
                .weights
                .get(place * columns..(place + 1) * columns);
            for (sum, weight) in self.sums.iter_mut().zip(row.unwrap_or_default()) {
                *sum += weight * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lead_to_the_exact_solution_and_forgetting_undoes_them() {
        // Two observations in two dimensions, λ = 1: w solves (XᵀX + I) w = Xᵀy.
        let xs = [Sparse::dense(&[1.0, 0.0]), Sparse::dense(&[1.0, 1.0])];
        let ys = [1.0, 0.0];
        let mut ridge = Ridges::new(2);
        ridge.reserve(1);
        let mut duals = [0.0; 2];
        for _ in 0..200 {
            for i in 0..2 {
                ridge.step(1, &xs[i], xs[i].square(), &mut duals[i], ys[i], 1.0);
            }
        }
        // XᵀX + I = [[3, 1], [1, 2]], Xᵀy = [1, 0], so w = [0.4, -0.2].
        let weight = |ridge: &Ridges, at| ridge.predict(1, &Sparse::new(&[at], &[1.0]));
        assert!((weight(&ridge, 0) - 0.4).abs() < 1e-4 && (weight(&ridge, 1) + 0.2).abs() < 1e-4);
        ridge.reserve(20);
        assert!(
            (weight(&ridge, 0) - 0.4).abs() < 1e-4,
            "others make it no other"
        );
        let all = ridge.predict_all(&xs[1]);
        assert_eq!((all[0], all[1]), (0.0, ridge.predict(1, &xs[1])));
        let mut other = ridge.clone();
        other.clear(1);
        assert_eq!(other.predict(1, &xs[1]), 0.0);
        ridge.forget(1, &xs[0], duals[0]);
        ridge.forget(1, &xs[1], duals[1]);
        assert!(ridge.weights.iter().all(|w| w.abs() < 1e-5));
    }
}
