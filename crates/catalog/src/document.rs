//! A document itself: the only place, with the kinds' schemas, that speaks to Automerge.
//!
//! Decides how an author edits its document, and that a foreign change touches only a copy, inside the
//! sandbox, before it counts.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use automerge::{
    ActorId, Automerge, AutomergeError, Change, ChangeHash, ObjId, ObjType, ROOT, ReadDoc,
    ScalarValue, Value, transaction::CommitOptions,
};
use polymath_proto::v1::SignedChange;
use polymath_types::{Format, PeerId};

use crate::{
    CatalogLimits, Refusal, chunk,
    kind::{Kind, offer::is_unseen},
};

/// Most keys of a document's root and of one entry.
pub(crate) const MAP_KEYS: usize = 32;

/// Where the next change attaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) hash: [u8; 32],
    pub(crate) last_op: u64,
}

/// A live document.
#[derive(Debug, Clone)]
pub(crate) struct Document(Automerge);

thread_local! {
    static SANDBOXED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is applying a stranger's change, so that a panic is expected and caught.
/// A panic hook may ask, to stay silent.
pub fn in_sandbox() -> bool {
    SANDBOXED.get()
}

/// Turns a panic inside `work` into a refusal. `work` must leave nothing behind that it shares
/// with others, which is why unwind safety may be asserted.
fn sandbox<T>(work: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    let before = SANDBOXED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    SANDBOXED.set(before);
    result.unwrap_or(Err(Refusal::Panicked))
}

/// The one actor that writes `epoch` of `author`'s document.
pub(crate) fn actor<K: Kind>(author: &PeerId, epoch: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(K::ACTOR);
    hasher.update(&author.to_bytes());
    hasher.update(&epoch.to_be_bytes());
    let mut actor = [0; 16];
    actor.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    actor
}

/// Checks that `bytes` is the change after `head` in `author`'s document of `epoch`, without
/// handing it to Automerge. `head` is `None` for the first change.
pub(crate) fn check_continuity<K: Kind>(
    bytes: &[u8],
    author: &PeerId,
    epoch: u64,
    sequence: u64,
    head: Option<Head>,
    limits: &CatalogLimits,
) -> Result<Head, Refusal> {
    let bounds = K::bounds(limits);
    let facts = chunk::read(bytes, bounds.operations)?;
    let last_op = head.map_or(0, |h| h.last_op);
    let continues = facts.actor == actor::<K>(author, epoch)
        && facts.sequence == sequence
        && facts.dependency == head.map(|h| h.hash)
        && facts.start_op == last_op + 1;
    if !continues {
        return Err(Refusal::Continuity);
    }
    let last_op = last_op
        .checked_add(facts.operations)
        .ok_or(Refusal::Continuity)?;
    if last_op > bounds.epoch_operations {
        return Err(Refusal::TooMuch);
    }
    // The hash is Automerge's to compute; until then the claimed checksum stands in its place.
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&facts.checksum);
    Ok(Head { hash, last_op })
}

impl Document {
    /// An empty document for `author` to begin `epoch` with.
    pub(crate) fn new<K: Kind>(author: &PeerId, epoch: u64) -> Self {
        Self(Automerge::new().with_actor(ActorId::from(actor::<K>(author, epoch))))
    }

    /// Rebuilds a document from changes that were accepted one by one before, and led to `head`.
    pub(crate) fn replay<K: Kind>(
        author: &PeerId,
        epoch: u64,
        changes: &[SignedChange],
        head: Head,
    ) -> Result<Self, Refusal> {
        sandbox(|| {
            let mut document = Self::new::<K>(author, epoch);
            let parsed = changes
                .iter()
                .map(|c| Change::try_from(c.change.as_ref()).map_err(|_| Refusal::Document))
                .collect::<Result<Vec<_>, _>>()?;
            document
                .0
                .apply_changes(parsed)
                .map_err(|_| Refusal::Document)?;
            if document.0.get_heads() != [ChangeHash(head.hash)] {
                return Err(Refusal::Document);
            }
            Ok(document)
        })
    }

    /// A copy with a foreign change applied, and what it then says. `expected` comes from
    /// [`check_continuity`]. The document itself stays as it is, whatever the change does.
    pub(crate) fn with_change<K: Kind>(
        &self,
        bytes: &[u8],
        expected: Head,
        limits: &CatalogLimits,
    ) -> Result<(Self, K::View, Head), Refusal> {
        sandbox(|| {
            let change = Change::try_from(bytes).map_err(|_| Refusal::Chunk)?;
            let hash = change.hash();
            if hash.0[..4] != expected.hash[..4] || change.max_op() != expected.last_op {
                return Err(Refusal::Chunk);
            }
            let mut scratch = self.clone();
            scratch
                .0
                .apply_changes([change])
                .map_err(|_| Refusal::Document)?;
            if scratch.0.get_heads() != [hash] {
                return Err(Refusal::Document);
            }
            let view = K::read(&Reader(&scratch.0), limits)?;
            Ok((
                scratch,
                view,
                Head {
                    hash: hash.0,
                    last_op: expected.last_op,
                },
            ))
        })
    }

    /// A copy that says `to` instead of `from` (`None`: the document is empty), with the change
    /// that does it. Time is left out of the change, so equal edits give equal bytes.
    pub(crate) fn edited<K: Kind>(
        &self,
        from: Option<&K::View>,
        to: &K::View,
    ) -> Result<(Self, Vec<u8>, Head), Refusal> {
        sandbox(|| {
            let mut copy = self.clone();
            let hash = copy
                .write::<K>(from, to)
                .map_err(|_| Refusal::Document)?
                .ok_or(Refusal::Document)?;
            let change = copy.0.get_change_by_hash(&hash).ok_or(Refusal::Document)?;
            let head = Head {
                hash: hash.0,
                last_op: change.max_op(),
            };
            Ok((copy, change.raw_bytes().to_vec(), head))
        })
    }

    fn write<K: Kind>(
        &mut self,
        from: Option<&K::View>,
        to: &K::View,
    ) -> Result<Option<ChangeHash>, AutomergeError> {
        let mut tx = self.0.transaction();
        K::write(&mut tx, from, to)?;
        Ok(tx.commit_with(CommitOptions::default().with_time(0)).0)
    }

    /// What the document says.
    pub(crate) fn view<K: Kind>(&self, limits: &CatalogLimits) -> Result<K::View, Refusal> {
        sandbox(|| K::read(&Reader(&self.0), limits))
    }
}

/// Reads a document against its schema.
pub(crate) struct Reader<'a>(pub(crate) &'a Automerge);

impl Reader<'_> {
    /// The root is bounded, and of the version this build reads.
    pub(crate) fn check_root(&self, format: Format) -> Result<(), Refusal> {
        bounded(self.0.length(ROOT), MAP_KEYS)?;
        let version = self
            .scalar(&ROOT, "version")?
            .as_u64()
            .ok_or(Refusal::Schema)?;
        format
            .check(u32::try_from(version).unwrap_or(u32::MAX))
            .map_err(|_| Refusal::Version)
    }

    /// A list of at most `most` texts of at most `bytes` each.
    pub(crate) fn texts(
        &self,
        list: &ObjId,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<String>, Refusal> {
        let count = bounded(self.0.length(list), most)?;
        (0..count)
            .map(|at| match self.0.get(list, at) {
                Ok(Some((value, _))) => text(&value, bytes),
                _ => Err(Refusal::Schema),
            })
            .collect()
    }

    pub(crate) fn scalar(&self, object: &ObjId, key: &str) -> Result<Value<'_>, Refusal> {
        match self.0.get(object, key) {
            Ok(Some((value, _))) if value.is_scalar() => Ok(value),
            _ => Err(Refusal::Schema),
        }
    }

    pub(crate) fn object(
        &self,
        object: &ObjId,
        key: &str,
        kind: ObjType,
    ) -> Result<ObjId, Refusal> {
        match self.0.get(object, key) {
            Ok(Some((Value::Object(found), id))) if found == kind => Ok(id),
            _ => Err(Refusal::Schema),
        }
    }
}

pub(crate) fn bounded(found: usize, limit: usize) -> Result<usize, Refusal> {
    if found <= limit {
        Ok(found)
    } else {
        Err(Refusal::TooMuch)
    }
}

/// A whole number; Automerge itself would make one of any kind of number.
pub(crate) fn whole(value: &Value<'_>) -> Option<u64> {
    match value {
        Value::Scalar(scalar) => match scalar.as_ref() {
            ScalarValue::Uint(number) => Some(*number),
            _ => None,
        },
        Value::Object(_) => None,
    }
}

pub(crate) fn text(value: &Value<'_>, limit: usize) -> Result<String, Refusal> {
    let text = value.as_str().ok_or(Refusal::Schema)?;
    bounded(text.len(), limit)?;
    // They end up on terminals.
    if text.contains(|c: char| c.is_control() || is_unseen(c)) {
        Err(Refusal::Schema)
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polymath_types::{ExpertId, Terms};

    use super::*;
    use crate::kind::offer::{OfferKind, View};

    #[test]
    fn a_panic_in_the_sandbox_is_a_refusal_and_leaves_no_mark() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| assert!(in_sandbox())));
        assert_eq!(sandbox::<()>(|| panic!("poison")), Err(Refusal::Panicked));
        std::panic::set_hook(hook);
        assert!(!in_sandbox());
        assert_eq!(sandbox(|| Ok(in_sandbox())), Ok(true));
    }

    #[test]
    fn an_edit_touches_only_what_differs() {
        let author = polymath_types::NodeKey::generate().peer_id();
        let id = |n: u8| ExpertId::from_bytes([n; 32]);
        let view = |addresses: &[&str], experts: &[u8]| View {
            agent: "polymath/0".into(),
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            experts: experts.iter().map(|n| id(*n)).collect(),
            ..View::default()
        };
        let priced = |price_in: u64, labels: &[(&str, &str)]| {
            let mut said = view(&["/a"], &[1, 2]);
            let terms = Terms {
                price_in,
                price_out: 7,
                context: 4096,
                concurrency: 0,
            };
            said.terms.insert(id(2), terms);
            let labels = labels.iter();
            said.labels = labels.map(|(k, v)| ((*k).into(), (*v).into())).collect();
            said
        };
        let steps = [
            view(&[], &[]),
            view(&["/a", "/b", "/c"], &[1, 2]),
            view(&["/a", "/c"], &[2]),
            view(&["/a", "/b", "/c", "/d"], &[1, 2, 3]),
            view(&["/x", "/c", "/d"], &[]),
            priced(1, &[("office", "berlin"), ("rack", "3")]),
            priced(5, &[("office", "bonn")]),
            priced(0, &[]),
            view(&[], &[9]),
        ];
        let limits = CatalogLimits::default();
        let mut document = Document::new::<OfferKind>(&author, 1);
        let mut reader = document.clone();
        let (mut from, mut head) = (None, None);
        for (sequence, to) in (1..).zip(&steps) {
            let (changed, bytes, written) = document.edited::<OfferKind>(from, to).unwrap();
            let expected =
                check_continuity::<OfferKind>(&bytes, &author, 1, sequence, head, &limits).unwrap();
            let (read, seen, at) = reader
                .with_change::<OfferKind>(&bytes, expected, &limits)
                .unwrap();
            assert_eq!((&seen, at), (to, written));
            (document, reader, from, head) = (changed, read, Some(to), Some(at));
        }
        let one_address = View {
            addresses: vec!["/b".into()],
            ..steps[8].clone()
        };
        let (_, bytes, _) = document.edited::<OfferKind>(from, &one_address).unwrap();
        assert_eq!(chunk::read(&bytes, 1024).unwrap().operations, 1);
    }
}
