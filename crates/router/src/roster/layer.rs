//! The vectors that preselect, of one encoder.

use std::sync::Arc;

use polymath_types::{ExpertCard, ExpertId, Shard, Table};

use crate::{
    Descriptor, Descriptors,
    vectors::{Probes, products},
};

/// The mean vectors of a roster's cards under one encoder.
#[derive(Debug)]
pub(super) struct Layer {
    encoder: String,
    of: Option<(Table<ExpertId, ExpertCard>, Descriptors)>,
    blocks: Vec<Block>,
}

/// Those of one part, in its order.
#[derive(Debug, Default)]
struct Block {
    of: Option<(Shard<ExpertId, ExpertCard>, Shard<ExpertId, Descriptor>)>,
    descriptors: Vec<Option<Arc<Descriptor>>>,
    /// How long the vectors of the first are; those of others are zero here.
    dimensions: usize,
    rows: Vec<i8>,
    scales: Vec<f32>,
    /// Places of those whose vectors are of another length.
    strays: Vec<usize>,
}

impl Block {
    fn new(cards: &Shard<ExpertId, ExpertCard>, given: &Shard<ExpertId, Descriptor>) -> Self {
        let descriptors: Vec<_> = cards.keys().map(|id| given.get(id).cloned()).collect();
        let first = descriptors.iter().flatten().find(|d| d.dimensions() > 0);
        let dimensions = first.map_or(0, |d| d.dimensions());
        let width = first.map_or(0, |d| d.mean().0.len());
        let (mut rows, mut strays) = (Vec::with_capacity(width * cards.len()), Vec::new());
        let mut scales = Vec::with_capacity(cards.len());
        for (at, descriptor) in descriptors.iter().enumerate() {
            match descriptor {
                Some(d) if d.dimensions() == dimensions => {
                    let (row, scale) = d.mean();
                    rows.extend_from_slice(row);
                    scales.push(scale);
                }
                other => {
                    rows.resize(rows.len() + width, 0);
                    scales.push(0.0);
                    strays.extend(other.is_some().then_some(at));
                }
            }
        }
        Self {
            of: Some((Arc::clone(cards), Arc::clone(given))),
            descriptors,
            dimensions,
            rows,
            scales,
            strays,
        }
    }

    fn is_of(
        &self,
        cards: &Shard<ExpertId, ExpertCard>,
        given: &Shard<ExpertId, Descriptor>,
    ) -> bool {
        let same = |(c, d): &(_, _)| Arc::ptr_eq(c, cards) && Arc::ptr_eq(d, given);
        self.of.as_ref().is_some_and(same)
    }
}

impl Layer {
    pub(super) fn new(encoder: &str) -> Self {
        Self {
            encoder: encoder.to_owned(),
            of: None,
            blocks: Vec::new(),
        }
    }

    pub(super) fn encoder(&self) -> &str {
        &self.encoder
    }

    pub(super) fn update(&mut self, cards: &Table<ExpertId, ExpertCard>, given: &Descriptors) {
        let same = |(c, d): &(Table<_, _>, Descriptors)| c.is_copy_of(cards) && d.is_copy_of(given);
        if self.of.as_ref().is_some_and(same) {
            return;
        }
        self.blocks
            .resize_with(cards.shards().len(), Block::default);
        let shards = cards.shards().iter().zip(given.shards());
        for (block, (cards, given)) in self.blocks.iter_mut().zip(shards) {
            if !block.is_of(cards, given) {
                *block = Block::new(cards, given);
            }
        }
        self.of = Some((cards.clone(), given.clone()));
    }

    /// The descriptor at a place.
    pub(super) fn descriptor(&self, part: usize, at: usize) -> Option<&Descriptor> {
        self.blocks.get(part)?.descriptors.get(at)?.as_deref()
    }

    /// The same of one card.
    pub(super) fn closeness_of(&self, part: usize, at: usize, probes: Option<&Probes>) -> f32 {
        let coarse = |d: &Descriptor| d.coarse(probes?);
        self.descriptor(part, at)
            .and_then(coarse)
            .map_or(0.0, usable)
    }

    /// How close each card of a part is to the query, by its mean vector; 0 where they cannot be compared.
    pub(super) fn closeness(&self, part: usize, probes: Option<&Probes>, out: &mut Vec<f32>) {
        out.clear();
        let Some(block) = self.blocks.get(part) else {
            return;
        };
        out.resize(block.descriptors.len(), 0.0);
        let Some(probes) = probes else { return };
        if block.dimensions > 0 && block.dimensions == probes.whole.dimensions() {
            products(&block.rows, &block.scales, probes.folded(), out);
        }
        for at in &block.strays {
            if let Some(descriptor) = &block.descriptors[*at] {
                out[*at] = descriptor.coarse(probes).unwrap_or(0.0);
            }
        }
        for value in out {
            *value = usable(*value);
        }
    }
}

/// Comparable with all others: no negative zero, and nothing that is not finite.
pub(crate) fn usable(value: f32) -> f32 {
    if value.is_finite() { value + 0.0 } else { 0.0 }
}
