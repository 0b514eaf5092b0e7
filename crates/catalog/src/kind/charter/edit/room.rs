//! How much of its document an admin may use for what, and what makes room.
//!
//! Whoever has laid down all that fits must still be able to take rights away. So names are refused first,
//! then roles, and the rest is kept. That is for the author to see to: others take whatever is within the
//! bounds, which are the same for all.

use polymath_types::PeerId;

use super::{CharterError, Entries, Entry, Field, Section, peer_of};
use crate::{
    Catalog, Refusal,
    catalog::{Action, Batch},
    documents::Documents,
    kind::charter::CharterKind,
    limits::{CHARTER, CHARTER_RESERVE},
};

/// What an edit is for: each may use more of the document than the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Aliases, categories, codebooks.
    #[default]
    Names,
    /// Giving rights.
    Roles,
    /// Taking them away.
    Removal,
}

/// What a document that is started anew takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    entries: usize,
    bytes: usize,
    operations: u64,
}

impl Size {
    /// Whether it is more than `limit` somewhere, and more there than `before`.
    fn outgrows(&self, before: &Self, limit: &Self) -> bool {
        let over = |now, before, limit| now > limit && now > before;
        over(self.entries, before.entries, limit.entries)
            || over(self.bytes, before.bytes, limit.bytes)
            || self.operations > limit.operations && self.operations > before.operations
    }
}

impl Purpose {
    fn limit(self) -> Size {
        let reserve = &CHARTER_RESERVE;
        let parts = match self {
            Self::Names => 2,
            Self::Roles => 1,
            Self::Removal => 0,
        };
        let kept = parts * reserve.entries;
        Size {
            entries: CHARTER.entries - kept,
            bytes: CHARTER.change_bytes - kept * reserve.entry_bytes,
            operations: CHARTER.operations - kept as u64 * reserve.entry_operations,
        }
    }
}

impl Catalog {
    /// Makes this node's document say `entries`, if that leaves room for what is worth more.
    pub(super) fn write_entries(
        &mut self,
        mut entries: Entries,
        purpose: Purpose,
    ) -> Result<Vec<Action>, CharterError> {
        let limit = purpose.limit();
        let before = self.heard(&self.me).cloned().unwrap_or_default();
        let grows = |catalog: &Self, size: &Size| {
            let before = catalog.size(&before).unwrap_or_default();
            size.outgrows(&before, &limit)
        };
        let fits = |catalog: &Self, entries: &Entries| {
            if entries.0.len() > CHARTER.entries {
                return Ok(false);
            }
            // A document that could not be started anew would be at its end before long.
            match catalog.size(entries) {
                Ok(size) => Ok(!size.outgrows(&Size::default(), &limit) || !grows(catalog, &size)),
                Err(Refusal::TooMuch) => Ok(false),
                Err(refusal) => Err(CharterError::Document(refusal)),
            }
        };
        if !fits(self, &entries)? {
            self.let_go(&mut entries);
            if !fits(self, &entries)? {
                return Err(full(entries.0.len(), before.0.len(), purpose));
            }
        }
        let mut batch = Batch::default();
        let written = self.write_or_roll::<CharterKind>(entries, &mut batch);
        written.map_err(CharterError::Document)?;
        Ok(self.finish(batch))
    }

    /// Drops what this node's document remembers as taken back and nobody says any more. Whoever says it
    /// later, or has said it unseen, has the last word.
    fn let_go(&self, entries: &mut Entries) {
        let others: Vec<&PeerId> = self
            .merged
            .counted
            .iter()
            .filter(|peer| **peer != self.me)
            .collect();
        let hidden = |peer: &&PeerId| self.contradicts_itself(peer);
        if others.iter().any(hidden) {
            // What it says once it is heard again is not known.
            return;
        }
        let said = |field: &Field| {
            let entry = |peer: &&PeerId| self.heard(peer)?.0.get(field);
            others
                .iter()
                .filter_map(entry)
                .any(|entry| !entry.says.is_empty())
        };
        // Without the word against a founder it would be an admin.
        let matters = |(section, key): &Field, entry: &Entry| {
            *section == Section::Roles
                && (entry.voided > 0
                    || peer_of(key).is_none_or(|peer| {
                        self.founders.contains(&peer) || self.merged.counted.contains(&peer)
                    }))
        };
        entries
            .0
            .retain(|field, entry| !entry.says.is_empty() || matters(field, entry) || said(field));
    }

    /// What `entries` take in a document that is started anew.
    fn size(&self, entries: &Entries) -> Result<Size, Refusal> {
        let anew = Documents::<CharterKind>::check_anew(&self.me, entries, &self.limits)?;
        Ok(Size {
            entries: entries.0.len(),
            bytes: anew.bytes,
            operations: anew.operations,
        })
    }
}

fn full(found: usize, before: usize, purpose: Purpose) -> CharterError {
    let Size {
        entries: limit,
        bytes,
        operations,
    } = purpose.limit();
    let (what, verb) = match purpose {
        Purpose::Names => ("aliases, categories and codebooks", "alias"),
        Purpose::Roles => ("these and roles", "role"),
        Purpose::Removal => ("all it says", "alias"),
    };
    if found > limit && found > before {
        return CharterError::Full { limit, what, verb };
    }
    CharterError::TooLarge {
        bytes,
        operations,
        what,
    }
}
