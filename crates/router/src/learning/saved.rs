//! What was counted, as bytes that outlast a restart.
//!
//! `PMSEEN`, version, BLAKE3 of the books' ids, how many experts; of each its id and its cells: count, reward
//! and what was expected, 32 bit floats, little-endian. Counts under other books mean nothing, so they are
//! not read.

use polymath_types::ExpertId;

use super::{Estimator, cells::Cell};

const MAGIC: &[u8; 8] = b"PMSEEN\x00\x01";

impl Estimator {
    fn books_id(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for book in self.books() {
            hasher.update(book.id().as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Own counts.
    pub fn save(&self) -> Vec<u8> {
        let mut experts: Vec<_> = self.counted().collect();
        experts.sort_unstable_by_key(|(id, _)| *id);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.books_id());
        for (id, cells) in experts {
            bytes.extend(id.as_bytes());
            for cell in cells {
                for value in [cell.count, cell.reward, cell.expected] {
                    bytes.extend(value.to_le_bytes());
                }
            }
        }
        bytes
    }

    /// Takes what [`Self::save`] made in place of own counts; `false` if it was not made by this version
    /// under these books.
    pub fn restore(&mut self, saved: &[u8]) -> bool {
        let books = self.books_id();
        let Some(rest) = saved
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.strip_prefix(&books))
        else {
            return false;
        };
        let (experts, []) = rest.as_chunks::<4>() else {
            return false;
        };
        let row = 8 + 3 * self.cells();
        if experts.len() % row != 0 {
            return false;
        }
        let rows: Option<Vec<_>> = experts.chunks_exact(row).map(expert).collect();
        let Some(rows) = rows else {
            return false;
        };
        for (id, cells) in rows {
            self.count(id, &cells);
        }
        true
    }
}

/// One expert; nothing if there cannot be such counts.
fn expert(words: &[[u8; 4]]) -> Option<(ExpertId, Vec<Cell>)> {
    let (id, cells) = words.split_at_checked(8)?;
    let id = ExpertId::from_bytes(id.as_flattened().try_into().ok()?);
    let cells = cells.as_chunks::<3>().0.iter().map(|cell| {
        let [count, reward, expected] = cell.map(f32::from_le_bytes);
        let sane = [count, reward, expected]
            .iter()
            .all(|v| v.is_finite() && *v >= 0.0);
        (sane && reward <= 1.001 * count && expected <= 1.001 * count).then_some(Cell {
            count,
            reward,
            expected,
        })
    });
    Some((id, cells.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::learning::{Codebook, EstimatorConfig, Sparse};

    fn estimator() -> Estimator {
        Estimator::new(EstimatorConfig::default(), Codebook::defaults().into(), 1)
    }

    #[test]
    fn what_was_counted_outlasts_a_restart_and_what_is_no_such_thing_is_refused() {
        let mut before = estimator();
        let expert = ExpertId::from_bytes([3; 32]);
        let seen = Arc::new(before.see(&Sparse::new(&[5, 9], &[0.6, 0.8]), &[]));
        for n in 0..40 {
            before.observe(expert, &seen, 0.4, f64::from(n % 4 != 0));
        }
        let saved = before.save();
        let mut after = estimator();
        assert!(after.restore(&saved));
        assert_eq!(after.save(), saved);
        for n in 0..40 {
            after.recall(expert, &seen, 0.4, f64::from(n % 4 != 0));
        }
        let mean = |e: &Estimator| e.estimate(&expert, &seen, 0.4).mean;
        assert!((mean(&after) - mean(&before)).abs() < 0.02);
        assert_eq!(after.save(), saved, "recalling counts nothing twice");

        let mut fresh = estimator();
        for end in 0..saved.len() {
            let whole = end == MAGIC.len() + 32;
            assert_eq!(fresh.restore(&saved[..end]), whole, "{end} bytes");
        }
        let mut broken = saved.clone();
        broken[MAGIC.len() + 64..MAGIC.len() + 68].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(!fresh.restore(&broken));
        assert!(!fresh.knows());
    }
}
