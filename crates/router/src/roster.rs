//! The cards of an index laid out for scanning: what many decisions compare lies side by side.
//!
//! It is kept in the parts in which the index and the descriptors come ([`polymath_types::Table`]). A part is
//! made anew only when it is another than before, which a comparison of pointers tells: offers of experts that
//! are known change no card, a new expert one part in 256. So a decision after a change of the catalog costs
//! what changed. Places follow the order of ids; what is found does not depend on what came before.

mod layer;
mod search;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use polymath_types::{ExpertCard, ExpertId, ExpertKind, LabelSet, Shard, Table, WeightsId};

use crate::Descriptors;
use layer::Layer;
pub(crate) use layer::usable;
pub(crate) use search::Field;

/// Encoders whose vectors are kept: the static one, and the embedder where there is one.
const LAYERS: usize = 2;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    of: Table<ExpertId, ExpertCard>,
    parts: Vec<Part>,
    /// How many experts lie before each part.
    starts: Vec<usize>,
    /// By encoder, the one used last behind the other.
    layers: Vec<Layer>,
}

/// Experts whose ids begin alike, by id.
#[derive(Debug)]
struct Part {
    of: Shard<ExpertId, ExpertCard>,
    ids: Vec<ExpertId>,
    cards: Vec<Arc<ExpertCard>>,
    traits: Vec<u8>,
    /// The longest prompt and answer; 0 where the card states none.
    contexts: Vec<u32>,
    /// Hashes of the names: whoever has another has another name.
    names: Vec<u64>,
    models: Vec<u64>,
    weights: Vec<WeightsId>,
}

/// What a card does and which labels it takes, in one byte.
const fn traits(kind: ExpertKind, labels: u8) -> u8 {
    (kind as u8) << 2 | labels
}
const NO_LABELS: u8 = 0;
const FIXED_LABELS: u8 = 1;
const OPEN_LABELS: u8 = 2;

const fn labels_of(card: &ExpertCard) -> u8 {
    match card.labels {
        LabelSet::Fixed(_) => FIXED_LABELS,
        LabelSet::Open => OPEN_LABELS,
        _ => NO_LABELS,
    }
}

fn name_hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Part {
    /// What `before` knows of the same cards is copied: it lies together, the cards themselves lie anywhere.
    fn new(of: &Shard<ExpertId, ExpertCard>, before: Option<&Self>) -> Self {
        let mut part = Self {
            of: Arc::clone(of),
            ids: of.keys().copied().collect(),
            cards: of.values().cloned().collect(),
            traits: Vec::with_capacity(of.len()),
            contexts: Vec::with_capacity(of.len()),
            names: Vec::with_capacity(of.len()),
            models: Vec::with_capacity(of.len()),
            weights: Vec::with_capacity(of.len()),
        };
        for (id, card) in part.ids.iter().zip(&part.cards) {
            let known = before.and_then(|b| {
                let at = b.ids.binary_search(id).ok()?;
                Arc::ptr_eq(&b.cards[at], card).then_some((b, at))
            });
            if let Some((known, at)) = known {
                part.traits.push(known.traits[at]);
                part.contexts.push(known.contexts[at]);
                part.names.push(known.names[at]);
                part.models.push(known.models[at]);
                part.weights.push(known.weights[at]);
            } else {
                part.traits.push(traits(card.kind, labels_of(card)));
                part.contexts.push(card.model.context_length);
                part.names.push(name_hash(&card.name));
                part.models.push(name_hash(&card.model.name));
                part.weights.push(card.model.weights_id());
            }
        }
        part
    }
}

impl Roster {
    /// Takes in what differs from the last time: to be called before anything is looked for.
    pub(crate) fn update(
        &mut self,
        cards: &Table<ExpertId, ExpertCard>,
        encoder: &str,
        descriptors: &Descriptors,
    ) {
        if self.parts.is_empty() || !self.of.is_copy_of(cards) {
            let none: Shard<ExpertId, ExpertCard> = Arc::new(BTreeMap::new());
            let empty = || Part::new(&none, None);
            self.parts.resize_with(cards.shards().len(), empty);
            for (part, shard) in self.parts.iter_mut().zip(cards.shards()) {
                if !Arc::ptr_eq(&part.of, shard) {
                    *part = Part::new(shard, Some(part));
                }
            }
            let mut before = 0;
            self.starts.clear();
            for part in &self.parts {
                self.starts.push(before);
                before += part.ids.len();
            }
            self.of = cards.clone();
        }
        let known = self.layers.iter().position(|l| l.encoder() == encoder);
        let mut layer = match known {
            Some(at) => self.layers.remove(at),
            None => {
                if self.layers.len() >= LAYERS {
                    self.layers.remove(0);
                }
                Layer::new(encoder)
            }
        };
        layer.update(&self.of, descriptors);
        self.layers.push(layer);
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.ids.len()).sum()
    }

    /// An expert's part, and where it lies there.
    fn place(&self, id: &ExpertId) -> Option<(usize, usize)> {
        let number = usize::from(id.as_bytes()[0]);
        let at = self.parts.get(number)?.ids.binary_search(id).ok()?;
        Some((number, at))
    }

    /// The weights of an expert that is in it.
    pub(crate) fn weights(&self, id: &ExpertId) -> Option<WeightsId> {
        let (part, at) = self.place(id)?;
        Some(self.parts[part].weights[at])
    }
}
