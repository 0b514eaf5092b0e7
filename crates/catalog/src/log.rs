//! The signed changes of one epoch, as the bytes they are stored in.
//!
//! A live Automerge document costs some 20 KB, parsed changes a handful of allocations each and
//! whatever frame they came in. Of thousands of authors hardly any change at a time, so all that is
//! kept of them is one buffer each.

use polymath_proto::v1::SignedChange;
use prost::{
    Message,
    bytes::{Buf as _, Bytes},
    encoding::decode_varint,
};

/// The part of a record that holds the changes; the tag is the record's.
#[derive(Clone, PartialEq, Message)]
struct Entries {
    #[prost(message, repeated, tag = "2")]
    changes: Vec<SignedChange>,
}

/// Takes the next change's bytes from the front: a tag of one byte, a length, and so many.
fn entry(bytes: &mut Bytes) -> Option<Bytes> {
    bytes.try_get_u8().ok()?;
    let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

/// A change on its own, without the frame that it came in.
pub(crate) fn detached(change: &SignedChange) -> SignedChange {
    SignedChange {
        author: Bytes::copy_from_slice(&change.author),
        change: Bytes::copy_from_slice(&change.change),
        signature: Bytes::copy_from_slice(&change.signature),
        ..*change
    }
}

/// Changes from sequence 1 on, without a gap.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    bytes: Bytes,
    len: u64,
    change_bytes: usize,
}

impl Log {
    pub(crate) fn new(changes: Vec<SignedChange>) -> Self {
        let len = changes.len() as u64;
        let change_bytes = changes.iter().map(|c| c.change.len()).sum();
        Self {
            bytes: Entries { changes }.encode_to_vec().into(),
            len,
            change_bytes,
        }
    }

    /// Adds the next change.
    pub(crate) fn push(&mut self, change: SignedChange) {
        self.len += 1;
        self.change_bytes += change.change.len();
        let changes = vec![change];
        let entry = Entries { changes };
        let mut bytes = Vec::with_capacity(self.bytes.len() + entry.encoded_len());
        bytes.extend_from_slice(&self.bytes);
        bytes.extend_from_slice(&entry.encode_to_vec());
        self.bytes = bytes.into();
    }

    /// Sequence of the last change.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of all changes without their envelopes.
    pub(crate) fn change_bytes(&self) -> usize {
        self.change_bytes
    }

    /// The changes as they stand in a record.
    pub(crate) fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// All changes; they share the log's buffer.
    pub(crate) fn changes(&self) -> Vec<SignedChange> {
        let entries = Entries::decode(self.bytes.clone());
        // Nothing else than encoded changes ever comes in.
        debug_assert!(entries.is_ok(), "the log is damaged");
        entries.unwrap_or_default().changes
    }

    /// Changes after `sequence`.
    pub(crate) fn after(&self, sequence: u64) -> Vec<SignedChange> {
        if sequence >= self.len {
            return Vec::new();
        }
        let known = usize::try_from(sequence).unwrap_or(usize::MAX);
        self.changes().split_off(known)
    }

    /// The change of one sequence. Those before it are passed over: most changes come more than once, and
    /// each time the one that is known is looked at.
    pub(crate) fn get(&self, sequence: u64) -> Option<SignedChange> {
        if sequence == 0 || sequence > self.len {
            return None;
        }
        let mut rest = self.bytes.clone();
        for _ in 1..sequence {
            entry(&mut rest)?;
        }
        SignedChange::decode(entry(&mut rest)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_comes_out_in_order() {
        let change = |sequence: u64| SignedChange {
            sequence,
            change: vec![7; 10].into(),
            ..SignedChange::default()
        };
        let mut log = Log::default();
        for sequence in 1..=5 {
            log.push(change(sequence));
        }
        assert_eq!((log.len(), log.change_bytes()), (5, 50));
        assert_eq!(log.after(3), [change(4), change(5)]);
        assert_eq!(log.after(9), []);
        assert_eq!(log.get(2), Some(change(2)));
        assert_eq!((log.get(0), log.get(6)), (None, None));
        assert_eq!(Log::new(log.changes()).as_bytes(), log.as_bytes());
    }
}
