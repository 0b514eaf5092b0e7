//! Which experts have a property: kept with the index, so that nobody walks through all of it.
//!
//! A card has no price, and its capability is its kind. A property that many experts share is a list
//! that is copied when one of them comes or goes; offers of experts that are known change none.

use super::{Index, IndexedExpert};
use crate::{ExpertCard, ExpertId, ExpertKind, Table, WeightsId, table::TableKey};

/// Something that experts are looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Property<'a> {
    /// What it does with a query.
    Kind(ExpertKind),
    /// Its model's name.
    Model(&'a str),
    /// An ISO 639-1 code that its card states.
    Language(&'a str),
    /// Its weights with their adapter: experts that have the same can be loaded as one.
    Weights(WeightsId),
}

/// A hash of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key([u8; 32]);

impl TableKey for Key {
    fn shard(&self) -> u8 {
        self.0[0]
    }
}

impl Property<'_> {
    fn key(self) -> Key {
        let mut hasher = blake3::Hasher::new();
        match self {
            Self::Kind(kind) => hasher.update(b"k").update(&[kind as u8]),
            Self::Model(name) => hasher.update(b"m").update(name.as_bytes()),
            Self::Language(code) => hasher.update(b"l").update(code.as_bytes()),
            Self::Weights(id) => hasher.update(b"w").update(id.as_bytes()),
        };
        Key(*hasher.finalize().as_bytes())
    }

    fn of(card: &ExpertCard) -> impl Iterator<Item = Property<'_>> {
        let languages = card.languages.iter().map(|code| Property::Language(code));
        [
            Property::Kind(card.kind),
            Property::Model(&card.model.name),
            Property::Weights(card.model.weights_id()),
        ]
        .into_iter()
        .chain(languages)
    }
}

/// Experts by property, each list sorted by id.
pub(super) type Lookups = Table<Key, Vec<ExpertId>>;

pub(super) fn enter(lookups: &mut Lookups, id: ExpertId, card: &ExpertCard) {
    for property in Property::of(card) {
        let key = property.key();
        match lookups.get_mut(&key) {
            Some(ids) => {
                if let Err(at) = ids.binary_search(&id) {
                    ids.insert(at, id);
                }
            }
            None => {
                lookups.insert(key, vec![id]);
            }
        }
    }
}

pub(super) fn leave(lookups: &mut Lookups, id: &ExpertId, card: &ExpertCard) {
    for property in Property::of(card) {
        let key = property.key();
        if let Some(ids) = lookups.get_mut(&key) {
            if let Ok(at) = ids.binary_search(id) {
                ids.remove(at);
            }
            if ids.is_empty() {
                lookups.remove(&key);
            }
        }
    }
}

impl Index {
    /// The experts that have a property, by id.
    pub fn having(&self, property: Property<'_>) -> &[ExpertId] {
        self.lookups.get(&property.key()).map_or(&[], Vec::as_slice)
    }

    /// Experts of one kind.
    pub fn of_kind(&self, kind: ExpertKind) -> impl Iterator<Item = &IndexedExpert> {
        let ids = self.having(Property::Kind(kind)).iter();
        ids.filter_map(|id| self.expert(id))
    }

    /// The experts that share these weights and adapter: whoever holds them serves any of them.
    pub fn replica_set(&self, weights: WeightsId) -> impl Iterator<Item = &IndexedExpert> {
        let ids = self.having(Property::Weights(weights)).iter();
        ids.filter_map(|id| self.expert(id))
    }
}
