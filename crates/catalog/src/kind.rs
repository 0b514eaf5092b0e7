//! Kinds of documents: what differs between them, and nothing else.
//!
//! All are Automerge documents with one writer each, in signed changes that form one chain; they share
//! envelope, table, scratch apply, digests, anti-entropy, records and conduct. A kind adds a schema, its
//! bounds, and what becomes of the values. A document's id is its category and its author: frames carry
//! the one, signatures and actors bind it, records' names begin with it.

pub(crate) mod charter;
pub(crate) mod observations;
pub(crate) mod offer;

use std::{fmt, sync::Arc};

use automerge::{AutomergeError, transaction::Transaction};
use polymath_proto::v1::SignedChange;
use polymath_types::{Format, PeerId};

use crate::{
    Catalog, CatalogLimits, Refusal,
    buckets::Position,
    catalog::Shelf,
    document::{Head, Reader},
    record::DocumentRecord,
};

/// The kinds, by the number that frames carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Category {
    /// What a peer serves.
    Offers = 0,
    /// What an admin lays down.
    Charter = 1,
    /// What a peer has seen of experts.
    Observations = 2,
}

impl Category {
    pub(crate) const ALL: [Self; 3] = [Self::Charter, Self::Offers, Self::Observations];

    pub(crate) fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|c| *c as u32 == number)
    }
}

/// Bounds on the documents of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Documents kept.
    pub(crate) authors: usize,
    /// Bytes of signed changes kept, all authors together.
    pub(crate) bytes: usize,
    /// Own changes after which a fresh document is started.
    pub(crate) roll_after: usize,
    /// Changes of one epoch.
    pub(crate) changes_per_epoch: usize,
    /// Bytes of all changes of one epoch.
    pub(crate) document_bytes: usize,
    /// Bytes of one change.
    pub(crate) change_bytes: usize,
    /// Operations in one change.
    pub(crate) operations: u64,
    /// Operations of all changes of one epoch: what a change costs to apply grows with them, and a few bytes
    /// can stand for thousands.
    pub(crate) epoch_operations: u64,
    /// What an author may spend on its record without a pause, what it gains a tick, and what writing
    /// the record costs.
    pub(crate) burst: u32,
    pub(crate) changes_a_tick: u32,
    pub(crate) change_cost: u32,
}

/// A kind of documents.
pub(crate) trait Kind: fmt::Debug + Sized + 'static {
    /// What a document says.
    type View: fmt::Debug + Clone + Default + PartialEq;
    /// The same as others of this process see it, with how far the document is known.
    type Said: fmt::Debug + Default;

    const CATEGORY: Category;
    const FORMAT: Format;
    /// What a signature begins with: no change of one kind is a change of another.
    const DOMAIN: &'static [u8];
    /// The context from which actors are derived.
    const ACTOR: &'static str;
    /// What the names of its records begin with.
    const RECORD: &'static str;

    fn bounds(limits: &CatalogLimits) -> Bounds;
    fn said(view: Self::View, position: Position) -> Self::Said;
    fn view(said: &Self::Said) -> Self::View;

    /// What a document costs in memory beside its changes, bytes, about.
    fn weight(said: &Self::Said) -> usize;

    /// Makes a document that says `from` (`None`: an empty one) say `to`.
    fn write(
        tx: &mut Transaction<'_>,
        from: Option<&Self::View>,
        to: &Self::View,
    ) -> Result<(), AutomergeError>;

    /// Reads a document against the schema.
    fn read(document: &Reader<'_>, limits: &CatalogLimits) -> Result<Self::View, Refusal>;

    /// Adds to a record what spares a replay of the document, if that is worth it.
    fn keep(said: &Self::Said, record: &mut DocumentRecord);
    /// What the document of a record says.
    fn kept(author: &PeerId, epoch: u64, head: Head, record: &DocumentRecord)
    -> Option<Self::View>;

    /// What still counts of a document whose author contradicts itself, of all that it said before: `changes`,
    /// which lead to `head`. Nothing unless a kind says otherwise.
    fn undisputed(_: &PeerId, _: u64, _: &[SignedChange], _: Head) -> Option<Self::View> {
        None
    }

    fn shelf(catalog: &Catalog) -> &Shelf<Self>;
    fn shelf_mut(catalog: &mut Catalog) -> &mut Shelf<Self>;

    /// Whether documents of `author` are kept at all.
    fn admits(catalog: &Catalog, author: &PeerId) -> bool;

    /// Whether nothing that this node's own document said in `epoch` is to be said again.
    fn is_void(_: &Catalog, _epoch: u64) -> bool {
        false
    }

    /// A document that said `before` says `after`; one that is gone says nothing.
    fn became(catalog: &mut Catalog, before: &Arc<Self::Said>, after: &Arc<Self::Said>);

    /// What this node's own document is to say after others showed that they hold another version of
    /// it, which says `theirs`.
    fn after_fork(own: Option<Self::View>, theirs: Option<Self::View>) -> Option<Self::View>;
}
