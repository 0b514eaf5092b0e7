//! Why something a peer sent is refused, and how often that happened.

use std::{collections::BTreeMap, fmt};

/// Why a change or a card is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Another version of the document or of the card.
    Version,
    /// Larger than one change or card may be.
    Size,
    /// The author is not a peer id with an Ed25519 key in it.
    Author,
    /// Not signed by its author, or for another mesh, epoch or sequence.
    Signature,
    /// Not the short form of a change.
    Short,
    /// In the short form, and its signature does not hold on what it comes to here: it follows another
    /// history than the one that is kept, or was altered. It is asked for whole.
    Parted,
    /// A second, different change under a known epoch and sequence, or more of an epoch in which there is
    /// one.
    Equivocation,
    /// Not one uncompressed Automerge change, or one that no document of its kind can contain.
    Chunk,
    /// Does not continue its author's document: wrong actor, sequence, dependency or counter.
    Continuity,
    /// Automerge panicked on it.
    Panicked,
    /// What is kept of its author cannot be replayed here; it is fetched anew.
    Replay,
    /// Automerge refused it.
    Document,
    /// The document it leads to is none of its kind.
    Schema,
    /// Of an epoch that cannot have begun yet by this node's clock: it would leave no room for the next.
    Epoch,
    /// Its author changes its document faster than it may; a later digest brings what is left out.
    Rate,
    /// The document it leads to holds more than it may.
    TooMuch,
    /// As many authors, or bytes of their documents, are kept as may be.
    Full,
    /// A charter document of somebody who is no admin, as far as is known here.
    Standing,
    /// Not a card.
    Card,
    /// A card no offer speaks of.
    CardUnwanted,
    /// As many cards, or bytes of cards, are kept as may be.
    CardsFull,
    /// As many peers are connected as may be.
    PeersFull,
    /// The peer has cost more than it may without bringing anything new.
    Flood,
    /// Sums that are no digest.
    Digest,
    /// Its author signed poison again and again, or the peer passed such things on; for a while
    /// nothing of it is looked at.
    Banned,
}

impl Refusal {
    /// A name for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Size => "size",
            Self::Author => "author",
            Self::Signature => "signature",
            Self::Short => "short",
            Self::Parted => "parted",
            Self::Equivocation => "equivocation",
            Self::Chunk => "chunk",
            Self::Continuity => "continuity",
            Self::Panicked => "panicked",
            Self::Replay => "replay",
            Self::Document => "document",
            Self::Schema => "schema",
            Self::Epoch => "epoch",
            Self::Rate => "rate",
            Self::TooMuch => "too-much",
            Self::Full => "full",
            Self::Standing => "standing",
            Self::Card => "card",
            Self::CardUnwanted => "card-unwanted",
            Self::CardsFull => "cards-full",
            Self::PeersFull => "peers-full",
            Self::Flood => "flood",
            Self::Digest => "digest",
            Self::Banned => "banned",
        }
    }

    /// Whether the author's own valid signature is on what was refused, so that asking again
    /// brings the same again.
    pub(crate) const fn is_authors_own(self) -> bool {
        !matches!(
            self,
            Self::Version
                | Self::Size
                | Self::Author
                | Self::Signature
                | Self::Short
                | Self::Parted
                | Self::Replay
        )
    }

    /// Whether a change may have been applied to a copy of its document before it was refused.
    pub(crate) const fn is_late(self) -> bool {
        self.is_poison() || matches!(self, Self::Full | Self::TooMuch | Self::Version)
    }

    /// Whether no document can contain what its author signed there.
    pub(crate) const fn is_poison(self) -> bool {
        matches!(
            self,
            Self::Chunk | Self::Panicked | Self::Document | Self::Schema
        )
    }

    /// Whether an honest peer, which checks all it passes on, could not have sent this.
    pub(crate) const fn blames_sender(self) -> bool {
        !matches!(
            self,
            // Two honest peers can hold different halves of an equivocation, and so different
            // continuations; their tables, versions and clocks can differ from ours.
            Self::Version
                | Self::Equivocation
                | Self::Parted
                | Self::Continuity
                | Self::Replay
                // The sender's clock may be ahead.
                | Self::Epoch
                | Self::Rate
                | Self::Full
                // The appointment may be on its way, or the removal.
                | Self::Standing
                | Self::CardUnwanted
                | Self::CardsFull
                | Self::PeersFull
                | Self::Flood
                // What one node has seen of an author another has not.
                | Self::Banned
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the catalog has taken and refused since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changes of other authors taken.
    pub changes: u64,
    /// Cards taken from peers.
    pub cards: u64,
    /// Changes and cards that were known already.
    pub repeats: u64,
    /// Times a peer held a version of our own document that we do not know: lost or restored
    /// storage, or a second node with our key.
    pub own_forks: u64,
    /// Changes that were taken and not passed on at once, as their bringer had brought too much.
    pub unspread: u64,
    /// Authors that gave way to others because the table was full.
    pub evicted: u64,
    refused: BTreeMap<Refusal, u64>,
}

impl Counters {
    /// Refusals for one reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.get(&reason).copied().unwrap_or(0)
    }

    /// Every reason that occurred, with its count.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        self.refused.iter().map(|(r, n)| (*r, *n))
    }

    pub(crate) fn refuse(&mut self, reason: Refusal) {
        *self.refused.entry(reason).or_default() += 1;
    }
}
