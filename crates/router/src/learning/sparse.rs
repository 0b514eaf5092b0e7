//! Vectors that are mostly zero.

/// Rising places and their values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sparse {
    places: Vec<u32>,
    values: Vec<f32>,
}

impl Sparse {
    /// From places and their values; surplus ones of either, and values that are not finite, are left out.
    pub fn new(places: &[u32], values: &[f32]) -> Self {
        let mut sparse = Self::default();
        for (place, value) in places.iter().zip(values) {
            sparse.push(*place, *value);
        }
        sparse
    }

    /// From all values, place by place.
    pub fn dense(values: &[f32]) -> Self {
        let mut sparse = Self::default();
        for (place, value) in (0u32..).zip(values) {
            sparse.push(place, *value);
        }
        sparse
    }

    /// Appends one, unless it is zero or not finite.
    pub fn push(&mut self, place: u32, value: f32) {
        if value != 0.0 && value.is_finite() {
            self.places.push(place);
            self.values.push(value);
        }
    }

    /// Places and values.
    pub fn iter(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.places
            .iter()
            .map(|p| *p as usize)
            .zip(self.values.iter().copied())
    }

    /// How many are not zero.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether all are zero.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Sum of squares.
    pub fn square(&self) -> f32 {
        self.values.iter().map(|v| v * v).sum()
    }

    /// Inner product with a dense vector; places beyond its end count as zero.
    pub fn dot(&self, dense: &[f32]) -> f32 {
        self.iter()
            .map(|(p, v)| dense.get(p).map_or(0.0, |d| d * v))
            .sum()
    }

    /// `dense += factor · self`; places beyond its end are left out.
    pub fn add_to(&self, dense: &mut [f32], factor: f32) {
        for (place, value) in self.iter() {
            if let Some(d) = dense.get_mut(place) {
                *d += factor * value;
            }
        }
    }

    /// The same with its places folded into `dimensions` and length 1: hashing once more, so products
    /// are kept in expectation.
    pub fn folded(&self, dimensions: usize) -> Vec<f32> {
        let mut dense = vec![0f32; dimensions.max(1)];
        for (place, value) in self.iter() {
            dense[place % dimensions.max(1)] += value;
        }
        let norm = dense.iter().map(|v| v * v).sum::<f32>().sqrt();
        if norm > 0.0 {
            dense.iter_mut().for_each(|v| *v /= norm);
        }
        dense
    }
}
