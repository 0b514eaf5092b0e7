//! The offer document itself: the only place that speaks to Automerge.
//!
//! Decides the schema (native maps: `version`, `agent`, `addresses` list, `experts` map of expert
//! id to map with `accepting`), how an author edits it, and that a foreign change touches only a
//! copy, inside the sandbox, before it counts. Keys that a later minor revision adds are ignored.

use std::{
    cell::Cell,
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use automerge::{
    ActorId, Automerge, AutomergeError, Change, ChangeHash, ObjId, ObjType, ROOT, ReadDoc, Value,
    transaction::{CommitOptions, Transactable},
};
use polymath_proto::v1::SignedChange;
use polymath_types::{ExpertId, Format, PeerId, PeerOffer};

use crate::{CatalogLimits, Refusal, buckets::Position, chunk};

/// Most keys of the document's root and of one expert's entry.
const MAP_KEYS: usize = 32;

/// What an offer document says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) agent: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) experts: BTreeSet<ExpertId>,
}

impl View {
    pub(crate) fn of(offer: &PeerOffer) -> Self {
        Self {
            agent: offer.agent.clone(),
            addresses: offer.addresses.clone(),
            experts: offer.experts.iter().copied().collect(),
        }
    }

    /// The same as the index has it.
    pub(crate) fn into_offer(self, (epoch, sequence): Position) -> PeerOffer {
        PeerOffer {
            addresses: self.addresses,
            agent: self.agent,
            sequence,
            epoch,
            experts: self.experts.into_iter().collect(),
        }
    }
}

/// Where the next change attaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) hash: [u8; 32],
    pub(crate) last_op: u64,
}

/// A live offer document.
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
pub(crate) fn actor(author: &PeerId, epoch: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("polymath offer actor v1");
    hasher.update(&author.to_bytes());
    hasher.update(&epoch.to_be_bytes());
    let mut actor = [0; 16];
    actor.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    actor
}

/// Checks that `bytes` is the change after `head` in `author`'s document of `epoch`, without
/// handing it to Automerge. `head` is `None` for the first change.
pub(crate) fn check_continuity(
    bytes: &[u8],
    author: &PeerId,
    epoch: u64,
    sequence: u64,
    head: Option<Head>,
    limits: &CatalogLimits,
) -> Result<Head, Refusal> {
    let facts = chunk::read(bytes, limits.operations)?;
    let last_op = head.map_or(0, |h| h.last_op);
    let continues = facts.actor == actor(author, epoch)
        && facts.sequence == sequence
        && facts.dependency == head.map(|h| h.hash)
        && facts.start_op == last_op + 1;
    if !continues {
        return Err(Refusal::Continuity);
    }
    let last_op = last_op
        .checked_add(facts.operations)
        .ok_or(Refusal::Continuity)?;
    // The hash is Automerge's to compute; until then the claimed checksum stands in its place.
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&facts.checksum);
    Ok(Head { hash, last_op })
}

impl Document {
    /// An empty document for `author` to begin `epoch` with.
    pub(crate) fn new(author: &PeerId, epoch: u64) -> Self {
        Self(Automerge::new().with_actor(ActorId::from(actor(author, epoch))))
    }

    /// Rebuilds a document from changes that were accepted one by one before, and led to `head`.
    pub(crate) fn replay(
        author: &PeerId,
        epoch: u64,
        changes: &[SignedChange],
        head: Head,
    ) -> Result<Self, Refusal> {
        sandbox(|| {
            let mut document = Self::new(author, epoch);
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
    pub(crate) fn with_change(
        &self,
        bytes: &[u8],
        expected: Head,
        limits: &CatalogLimits,
    ) -> Result<(Self, View, Head), Refusal> {
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
            let view = scratch.view(limits)?;
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
    pub(crate) fn edited(
        &self,
        from: Option<&View>,
        to: &View,
    ) -> Result<(Self, Vec<u8>, Head), Refusal> {
        sandbox(|| {
            let mut copy = self.clone();
            let hash = copy
                .write(from, to)
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

    fn write(
        &mut self,
        from: Option<&View>,
        to: &View,
    ) -> Result<Option<ChangeHash>, AutomergeError> {
        let mut tx = self.0.transaction();
        let (addresses, experts) = if from.is_some() {
            let object = |value: Option<(Value<'_>, ObjId)>| {
                value.map(|(_, id)| id).ok_or(AutomergeError::NotAnObject)
            };
            (
                object(tx.get(ROOT, "addresses")?)?,
                object(tx.get(ROOT, "experts")?)?,
            )
        } else {
            tx.put(ROOT, "version", u64::from(Format::Offer.current()))?;
            (
                tx.put_object(ROOT, "addresses", ObjType::List)?,
                tx.put_object(ROOT, "experts", ObjType::Map)?,
            )
        };
        if from.is_none_or(|f| f.agent != to.agent) {
            tx.put(ROOT, "agent", to.agent.as_str())?;
        }
        let empty = View::default();
        let from = from.unwrap_or(&empty);
        // Only the part of the list that differs.
        let (old, new) = (&from.addresses, &to.addresses);
        let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
        let end = old[start..]
            .iter()
            .rev()
            .zip(new[start..].iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        for _ in start..old.len() - end {
            tx.delete(&addresses, start)?;
        }
        for (at, address) in new.iter().enumerate().take(new.len() - end).skip(start) {
            tx.insert(&addresses, at, address.as_str())?;
        }
        for gone in from.experts.difference(&to.experts) {
            tx.delete(&experts, gone.to_string())?;
        }
        for added in to.experts.difference(&from.experts) {
            let entry = tx.put_object(&experts, added.to_string(), ObjType::Map)?;
            tx.put(&entry, "accepting", true)?;
        }
        Ok(tx.commit_with(CommitOptions::default().with_time(0)).0)
    }

    /// Reads the document against its schema.
    fn view(&self, limits: &CatalogLimits) -> Result<View, Refusal> {
        let doc = &self.0;
        bounded(doc.length(ROOT), MAP_KEYS)?;
        let version = self
            .scalar(&ROOT, "version")?
            .as_u64()
            .ok_or(Refusal::Schema)?;
        Format::Offer
            .check(u32::try_from(version).unwrap_or(u32::MAX))
            .map_err(|_| Refusal::Version)?;
        let agent = text(&self.scalar(&ROOT, "agent")?, CatalogLimits::AGENT_BYTES)?;

        let list = self.object(&ROOT, "addresses", ObjType::List)?;
        let count = bounded(doc.length(&list), limits.addresses)?;
        let addresses = (0..count)
            .map(|at| match doc.get(&list, at) {
                Ok(Some((value, _))) => text(&value, CatalogLimits::ADDRESS_BYTES),
                _ => Err(Refusal::Schema),
            })
            .collect::<Result<_, _>>()?;

        let map = self.object(&ROOT, "experts", ObjType::Map)?;
        bounded(doc.length(&map), limits.experts)?;
        let mut experts = BTreeSet::new();
        for key in doc.keys(&map) {
            let id: ExpertId = key.parse().map_err(|_| Refusal::Schema)?;
            // One spelling an id, so that two keys cannot mean one expert.
            if id.to_string() != key {
                return Err(Refusal::Schema);
            }
            let entry = self.object(&map, &key, ObjType::Map)?;
            bounded(doc.length(&entry), MAP_KEYS)?;
            if self
                .scalar(&entry, "accepting")?
                .as_bool()
                .ok_or(Refusal::Schema)?
            {
                experts.insert(id);
            }
        }
        Ok(View {
            agent,
            addresses,
            experts,
        })
    }

    fn scalar(&self, object: &ObjId, key: &str) -> Result<Value<'_>, Refusal> {
        match self.0.get(object, key) {
            Ok(Some((value, _))) if value.is_scalar() => Ok(value),
            _ => Err(Refusal::Schema),
        }
    }

    fn object(&self, object: &ObjId, key: &str, kind: ObjType) -> Result<ObjId, Refusal> {
        match self.0.get(object, key) {
            Ok(Some((Value::Object(found), id))) if found == kind => Ok(id),
            _ => Err(Refusal::Schema),
        }
    }
}

fn bounded(found: usize, limit: usize) -> Result<usize, Refusal> {
    if found <= limit {
        Ok(found)
    } else {
        Err(Refusal::TooMuch)
    }
}

fn text(value: &Value<'_>, limit: usize) -> Result<String, Refusal> {
    let text = value.as_str().ok_or(Refusal::Schema)?;
    bounded(text.len(), limit)?;
    // They end up on terminals.
    if text.chars().any(char::is_control) {
        Err(Refusal::Schema)
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
        };
        let steps = [
            view(&[], &[]),
            view(&["/a", "/b", "/c"], &[1, 2]),
            view(&["/a", "/c"], &[2]),
            view(&["/a", "/b", "/c", "/d"], &[1, 2, 3]),
            view(&["/x", "/c", "/d"], &[]),
            view(&[], &[9]),
        ];
        let limits = CatalogLimits::default();
        let mut document = Document::new(&author, 1);
        let mut reader = document.clone();
        let (mut from, mut head) = (None, None);
        for (sequence, to) in (1..).zip(&steps) {
            let (changed, bytes, written) = document.edited(from, to).unwrap();
            let expected = check_continuity(&bytes, &author, 1, sequence, head, &limits).unwrap();
            let (read, seen, at) = reader.with_change(&bytes, expected, &limits).unwrap();
            assert_eq!((&seen, at), (to, written));
            (document, reader, from, head) = (changed, read, Some(to), Some(at));
        }
        let one_address = View {
            addresses: vec!["/b".into()],
            ..steps[5].clone()
        };
        let (_, bytes, _) = document.edited(from, &one_address).unwrap();
        assert_eq!(chunk::read(&bytes, 1024).unwrap().operations, 1);
    }
}
