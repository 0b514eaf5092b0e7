//! What is checked of a change's bytes before Automerge sees them.
//!
//! Automerge 0.12 expands run lengths, repeats and deflate streams as told, so a few bytes can ask
//! for any amount of time or memory, which no `catch_unwind` ends. This reader takes only one
//! uncompressed change chunk, by one actor, whose columns expand to a bounded number of short
//! values; layout after <https://automerge.org/automerge-binary-format-spec/>.

use crate::{Refusal, document::Head};

pub(crate) const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
/// The chunk type of an uncompressed change.
pub(crate) const CHANGE: u8 = 1;
/// Longest map key, bytes: the 64 digits of an expert id and room for new fields.
const KEY_BYTES: u64 = 128;
/// Highest action an offer needs: make map 0, set 1, make list 2, delete 3.
const LAST_ACTION: u64 = 3;
/// Predecessors of one operation: one writer has one.
const PREDECESSORS: u64 = 4;

/// What a change says of its own place in its document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ChangeFacts<'a> {
    /// First bytes of the change's hash, as claimed.
    pub(crate) checksum: [u8; 4],
    /// The change it follows; none for the first.
    pub(crate) dependency: Option<[u8; 32]>,
    pub(crate) actor: &'a [u8],
    pub(crate) sequence: u64,
    pub(crate) start_op: u64,
    pub(crate) operations: u64,
}

/// A change chunk up to its columns, as it stands there.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    checksum: [u8; 4],
    /// The change it follows; none for the first.
    dependency: Option<[u8; 32]>,
    actor: &'a [u8],
    sequence: u64,
    start_op: u64,
    /// What each is, and its length.
    pub(crate) columns: Vec<(u64, u64)>,
    /// Theirs, and whatever follows.
    pub(crate) data: &'a [u8],
}

impl Header<'_> {
    /// The end of the history that the change claims to follow; `None` if it is the first.
    pub(crate) fn follows(&self) -> Option<Head> {
        let last_op = self.start_op.saturating_sub(1);
        self.dependency.map(|hash| Head { hash, last_op })
    }
}

/// Reads the header of one uncompressed change chunk.
pub(crate) fn header(bytes: &[u8]) -> Option<Header<'_>> {
    let mut r = Reader(bytes);
    if r.take(4)? != MAGIC {
        return None;
    }
    let checksum = r.take(4)?.try_into().ok()?;
    if r.byte()? != CHANGE || r.unsigned()? != r.0.len() as u64 {
        return None;
    }
    let dependency = match r.unsigned()? {
        0 => None,
        1 => Some(r.take(32)?.try_into().ok()?),
        _ => return None,
    };
    let actor = r.sized()?;
    let (sequence, start_op) = (r.unsigned()?, r.unsigned()?);
    let _time = r.signed()?;
    let (message, other_actors) = (r.unsigned()?, r.unsigned()?);
    if message != 0 || other_actors != 0 {
        return None;
    }
    let count = r.unsigned()?;
    if count > 16 {
        return None;
    }
    let columns = (0..count)
        .map(|_| Some((r.unsigned()?, r.unsigned()?)))
        .collect::<Option<_>>()?;
    Some(Header {
        checksum,
        dependency,
        actor,
        sequence,
        start_op,
        columns,
        data: r.0,
    })
}

/// Reads the facts of one uncompressed change of at most `limit` operations.
pub(crate) fn read(bytes: &[u8], limit: u64) -> Result<ChangeFacts<'_>, Refusal> {
    facts(bytes, limit).ok_or(Refusal::Chunk)
}

fn facts(bytes: &[u8], limit: u64) -> Option<ChangeFacts<'_>> {
    let header = header(bytes)?;
    let mut r = Reader(header.data);
    let mut operations = 0;
    for (spec, length) in header.columns {
        let column = Reader(r.take(usize::try_from(length).ok()?)?);
        let values = match spec {
            // Actor columns (object, key, predecessor): index 0 is the author, there is no other.
            0x01 | 0x11 | 0x71 => column.runs(limit, |r| (r.unsigned()? == 0).then_some(0))?.0,
            // Counters of object ids, and value lengths with their types.
            0x02 | 0x56 => column.runs(limit, |r| r.unsigned().map(|_| 0))?.0,
            // Delta-coded counters (key, predecessor).
            0x13 | 0x73 => column.runs(limit, |r| r.signed().map(|_| 0))?.0,
            0x15 => {
                column
                    .runs(limit, |r| {
                        let length = r.unsigned()?;
                        (length <= KEY_BYTES && r.take(length as usize).is_some()).then_some(0)
                    })?
                    .0
            }
            // Whether an operation inserts, and whether a mark expands.
            0x34 | 0x94 => column.flags(limit)?,
            0x42 => {
                operations = column
                    .runs(limit, |r| {
                        let action = r.unsigned()?;
                        (action <= LAST_ACTION).then_some(0)
                    })?
                    .0;
                operations
            }
            0x57 => 0, // raw values, consumed by the lengths in 0x56
            0x70 => {
                let (values, predecessors) = column.runs(limit, |r| {
                    let count = r.unsigned()?;
                    (count <= PREDECESSORS).then_some(count)
                })?;
                if predecessors > limit {
                    return None;
                }
                values
            }
            _ => return None,
        };
        if values > limit {
            return None;
        }
    }
    // What follows the columns is for later formats; an offer has none.
    (operations > 0 && r.0.is_empty()).then_some(ChangeFacts {
        checksum: header.checksum,
        dependency: header.dependency,
        actor: header.actor,
        sequence: header.sequence,
        start_op: header.start_op,
        operations,
    })
}

pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.unsigned()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// Unsigned LEB128 of at most 63 bits.
    pub(crate) fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Signed LEB128 of at most 63 bits.
    fn signed(&mut self) -> Option<i64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= i64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let unused = 64 - (shift + 7);
                return Some((value << unused) >> unused);
            }
        }
        None
    }

    /// Values of a run-length coded column and the sum of what `value` makes of each.
    fn runs(mut self, limit: u64, value: impl Fn(&mut Self) -> Option<u64>) -> Option<(u64, u64)> {
        let (mut count, mut sum) = (0u64, 0u64);
        while !self.0.is_empty() {
            let run = self.signed()?;
            let length = if run == 0 {
                self.unsigned()?
            } else {
                run.unsigned_abs()
            };
            count = count.checked_add(length).filter(|c| *c <= limit)?;
            match run {
                0 => {} // nulls
                1.. => sum = sum.checked_add(value(&mut self)?.checked_mul(length)?)?,
                _ => {
                    for _ in 0..length {
                        sum = sum.checked_add(value(&mut self)?)?;
                    }
                }
            }
        }
        Some((count, sum))
    }

    /// Values of a column of booleans: lengths of alternating runs.
    fn flags(mut self, limit: u64) -> Option<u64> {
        let mut count = 0u64;
        while !self.0.is_empty() {
            count = count
                .checked_add(self.unsigned()?)
                .filter(|c| *c <= limit)?;
        }
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn signed_numbers_keep_their_sign() {
        for (bytes, value) in [
            (&[0x00u8][..], 0i64),
            (&[0x7f], -1),
            (&[0x3f], 63),
            (&[0x40], -64),
            (&[0xff, 0x00], 127),
            (&[0x80, 0x7f], -128),
        ] {
            assert_eq!(Reader(bytes).signed(), Some(value), "{bytes:x?}");
        }
        assert_eq!(Reader(&[0x80]).signed(), None);
        assert_eq!(Reader(&[0xff; 12]).unsigned(), None);
    }

    #[test]
    fn a_run_of_billions_is_refused_before_it_is_expanded() {
        // Run of 2^40 values 7.
        let column = [0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 7];
        assert!(Reader(&column).runs(1024, |r| r.unsigned()).is_none());
        // 2^40 nulls.
        let column = [0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
        assert!(Reader(&column).runs(1024, |r| r.unsigned()).is_none());
        assert!(Reader(&column[1..]).flags(1024).is_none());
        assert_eq!(
            Reader(&[3, 7, 0x7e, 1, 2, 0, 5])
                .runs(1024, |r| r.unsigned())
                .unwrap(),
            (10, 24)
        );
    }
}
