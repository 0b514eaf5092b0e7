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
    ids: Vec<ExpertId>,
    descriptors: Vec<Option<Arc<Descriptor>>>,
    /// How long the vectors of the first are; those of others are zero here.
    dimensions: usize,
    /// How long a row is.
    width: usize,
    rows: Vec<i8>,
    scales: Vec<f32>,
    /// Places of those whose vectors are of another length.
    strays: Vec<usize>,
}

impl Block {
    /// What `before` has of the same descriptors is copied: it lies together, they lie anywhere.
    fn new(
        cards: &Shard<ExpertId, ExpertCard>,
        given: &Shard<ExpertId, Descriptor>,
        before: &Self,
    ) -> Self {
        let ids: Vec<ExpertId> = cards.keys().copied().collect();
        let descriptors: Vec<_> = ids.iter().map(|id| given.get(id).cloned()).collect();
        let known = |id: &ExpertId, descriptor: &Arc<Descriptor>| {
            let at = before.ids.binary_search(id).ok()?;
            let same = before.descriptors[at].as_ref()?;
            let whole = Arc::ptr_eq(same, descriptor) && !before.strays.contains(&at);
            (whole && before.dimensions > 0).then_some(at)
        };
        let mut block = Self {
            of: Some((Arc::clone(cards), Arc::clone(given))),
            ..Self::default()
        };
        // Of vectors of several lengths the first's count.
        for (id, descriptor) in ids.iter().zip(&descriptors) {
            let Some(descriptor) = descriptor else {
                continue;
            };
            if known(id, descriptor).is_some() {
                (block.dimensions, block.width) = (before.dimensions, before.width);
            } else {
                let (row, _) = descriptor.mean();
                (block.dimensions, block.width) = (descriptor.dimensions(), row.len());
            }
            if block.dimensions > 0 {
                break;
            }
        }
        block.rows.reserve_exact(block.width * ids.len());
        for (at, (id, descriptor)) in ids.iter().zip(&descriptors).enumerate() {
            let end = block.rows.len() + block.width;
            let known = descriptor.as_ref().and_then(|d| known(id, d));
            match (known, descriptor) {
                (Some(at), _) if block.dimensions == before.dimensions => {
                    let row = at * before.width..(at + 1) * before.width;
                    block.rows.extend_from_slice(&before.rows[row]);
                    block.scales.push(before.scales[at]);
                }
                (_, Some(d)) if d.dimensions() == block.dimensions => {
                    let (row, scale) = d.mean();
                    block.rows.extend_from_slice(row);
                    block.scales.push(scale);
                }
                (_, other) => {
                    block.rows.resize(end, 0);
                    block.scales.push(0.0);
                    block.strays.extend(other.is_some().then_some(at));
                }
            }
        }
        (block.ids, block.descriptors) = (ids, descriptors);
        block
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
                *block = Block::new(cards, given, block);
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
