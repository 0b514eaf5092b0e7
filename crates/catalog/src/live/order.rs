//! Which of two statuses of one author counts.

use std::cmp::Ordering;

use polymath_proto::v1::LiveStatus;

/// The place of a status among its author's.
///
/// Incarnations are serial numbers (RFC 1982): of two the one that is less than half a circle ahead is
/// later. So there is none above which an author, by whatever accident, could not step. Leaving ends an
/// incarnation, whatever sequence its statuses have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Order {
    pub(super) incarnation: u64,
    pub(super) leaving: bool,
    pub(super) sequence: u64,
}

impl Order {
    pub(super) fn of(status: &LiveStatus) -> Self {
        Self {
            incarnation: status.incarnation,
            leaving: status.leaving,
            sequence: status.sequence,
        }
    }

    /// Later is greater. Not an `Ord`: round the circle it is not transitive.
    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        serial(self.incarnation, other.incarnation)
            .then((self.leaving, self.sequence).cmp(&(other.leaving, other.sequence)))
    }

    pub(super) fn is_after(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Greater
    }
}

fn serial(a: u64, b: u64) -> Ordering {
    a.wrapping_sub(b).cast_signed().cmp(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn order(incarnation: u64, leaving: bool, sequence: u64) -> Order {
        Order {
            incarnation,
            leaving,
            sequence,
        }
    }

    #[test]
    fn leaving_ends_its_incarnation_and_the_next_one_begins_anew() {
        let leaving = order(3, true, 0);
        assert!(leaving.is_after(&order(3, false, u64::MAX)));
        assert!(order(4, false, 0).is_after(&leaving));
    }

    #[test]
    fn there_is_no_last_incarnation() {
        for last in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let next = order(last.wrapping_add(1), false, 0);
            assert!(next.is_after(&order(last, true, u64::MAX)), "{last}");
            assert!(!order(last, true, u64::MAX).is_after(&next), "{last}");
        }
    }
}
