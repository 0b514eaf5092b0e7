//! Which experts have a property: kept with the index, so that nobody walks through all of it.
//!
//! A property that many experts share is a list that is copied when one of them comes or goes; offers of
//! experts that are known change none but those by price. Context and price are looked up by range: lists
//! by power of two, of which only the one at the edge is looked through.

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
    /// The length of an embedder's vectors.
    Dimensions(u32),
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
            Self::Dimensions(n) => hasher.update(b"d").update(&n.to_be_bytes()),
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
        .chain((card.model.dimensions > 0).then_some(Property::Dimensions(card.model.dimensions)))
    }
}

/// Something that is looked up by range.
#[derive(Debug, Clone, Copy)]
enum Measure {
    Context,
    Price,
}

/// Numbers of so many binary digits; 64 are the most.
type Digits = u32;

const fn digits(number: u64) -> Digits {
    u64::BITS - number.leading_zeros()
}

impl Measure {
    fn key(self, digits: Digits) -> Key {
        let mut hasher = blake3::Hasher::new();
        let name: &[u8] = match self {
            Self::Context => b"c",
            Self::Price => b"p",
        };
        hasher.update(name).update(&digits.to_be_bytes());
        Key(*hasher.finalize().as_bytes())
    }
}

fn keys(card: &ExpertCard, price: u64) -> impl Iterator<Item = Key> + '_ {
    let context = u64::from(card.model.context_length);
    let context = (context > 0).then(|| Measure::Context.key(digits(context)));
    let price = Measure::Price.key(digits(price));
    Property::of(card)
        .map(Property::key)
        .chain(context)
        .chain([price])
}

/// Experts by property, each list sorted by id.
pub(super) type Lookups = Table<Key, Vec<ExpertId>>;

pub(super) fn enter(lookups: &mut Lookups, id: ExpertId, card: &ExpertCard, price: u64) {
    keys(card, price).for_each(|key| list(lookups, key, id));
}

pub(super) fn leave(lookups: &mut Lookups, id: &ExpertId, card: &ExpertCard, price: u64) {
    keys(card, price).for_each(|key| strike(lookups, &key, id));
}

/// Another price is the lowest for an expert.
pub(super) fn reprice(lookups: &mut Lookups, id: &ExpertId, before: u64, after: u64) {
    if digits(before) != digits(after) {
        strike(lookups, &Measure::Price.key(digits(before)), id);
        list(lookups, Measure::Price.key(digits(after)), *id);
    }
}

fn list(lookups: &mut Lookups, key: Key, id: ExpertId) {
    match lookups.get_mut(&key) {
        Some(ids) => {
            if let Err(at) = ids.binary_search(&id) {
                // A vector that is full grows to twice its size: that would be megabytes that stay empty.
                if ids.len() == ids.capacity() {
                    ids.reserve_exact(ids.len() / 16 + 4);
                }
                ids.insert(at, id);
            }
        }
        None => {
            lookups.insert(key, vec![id]);
        }
    }
}

fn strike(lookups: &mut Lookups, key: &Key, id: &ExpertId) {
    if let Some(ids) = lookups.get_mut(key) {
        if let Ok(at) = ids.binary_search(id) {
            ids.remove(at);
        }
        if ids.is_empty() {
            lookups.remove(key);
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

    fn measured(
        &self,
        measure: Measure,
        digits: impl Iterator<Item = Digits>,
    ) -> impl Iterator<Item = &IndexedExpert> {
        let lists = digits.filter_map(move |n| self.lookups.get(&measure.key(n)));
        lists.flatten().filter_map(|id| self.expert(id))
    }

    /// Experts whose cards state a context of so many tokens or more.
    pub fn with_context(&self, tokens: u32) -> impl Iterator<Item = &IndexedExpert> {
        let tokens = tokens.max(1);
        self.measured(Measure::Context, digits(tokens.into())..=u32::BITS)
            .filter(move |e| e.card.model.context_length >= tokens)
    }

    /// Experts that somebody serves for `most` or less for a thousand tokens each way, in millionths of
    /// a credit.
    pub fn priced_at_most(&self, most: u64) -> impl Iterator<Item = &IndexedExpert> {
        self.measured(Measure::Price, 0..=digits(most))
            .filter(move |e| e.lowest_price() <= most)
    }
}
