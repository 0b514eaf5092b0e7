//! Ridge regression that learns one observation at a time.
//!
//! Minimises `Σ (y − w·x)² + λ|w|²` by ascent in single dual coordinates (Shalev-Shwartz and Zhang 2013,
//! "Stochastic Dual Coordinate Ascent Methods"): each observation has a dual variable α with `w = Σ α x`, and
//! one step sets one α to its best value, in the time of one product. So a new observation counts at once,
//! old ones are visited again as time allows, one that is dropped takes its part of `w` along, and the fixed
//! point is the exact solution. In dual form a prediction is `Σ α k(x, ·)`: weighted neighbours.

use super::Sparse;

/// Weights of one expert.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ridge {
    weights: Vec<f32>,
}

impl Ridge {
    pub(crate) fn new(dimensions: usize) -> Self {
        Self {
            weights: vec![0.0; dimensions],
        }
    }

    pub(crate) fn predict(&self, x: &Sparse) -> f32 {
        x.dot(&self.weights)
    }

    /// Sets the dual variable of an observation to its best value.
    pub(crate) fn step(
        &mut self,
        x: &Sparse,
        square: f32,
        dual: &mut f32,
        target: f32,
        penalty: f32,
    ) {
        let change = (target - self.predict(x) - penalty * *dual) / (penalty + square);
        if change.is_finite() {
            *dual += change;
            x.add_to(&mut self.weights, change);
        }
    }

    /// Takes an observation's part out.
    pub(crate) fn forget(&mut self, x: &Sparse, dual: f32) {
        x.add_to(&mut self.weights, -dual);
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
        let mut ridge = Ridge::new(2);
        let mut duals = [0.0; 2];
        for _ in 0..200 {
            for i in 0..2 {
                ridge.step(&xs[i], xs[i].square(), &mut duals[i], ys[i], 1.0);
            }
        }
        // XᵀX + I = [[3, 1], [1, 2]], Xᵀy = [1, 0], so w = [0.4, -0.2].
        assert!((ridge.weights[0] - 0.4).abs() < 1e-4 && (ridge.weights[1] + 0.2).abs() < 1e-4);
        ridge.forget(&xs[0], duals[0]);
        ridge.forget(&xs[1], duals[1]);
        assert!(ridge.weights.iter().all(|w| w.abs() < 1e-5));
    }
}
