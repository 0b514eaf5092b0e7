//! What is known, summed up in buckets: equal replicas find out in 2 KB, others where they differ.
//!
//! A document belongs to one of 4096 leaves by a hash of its author; sixteen leaves make a branch.
//! The sum of a leaf is a hash of all positions and marks in it, in order; that of a branch a hash of its
//! leaves' sums. Sums that can be added up would be cheaper, but whoever owns some documents could
//! choose them so that what two nodes know of others looks equal.

use std::cmp::Ordering;

use polymath_types::PeerId;

/// Sums in a digest.
pub(crate) const BRANCHES: usize = 256;
/// Leaves below each.
pub(crate) const LEAVES_A_BRANCH: usize = 16;
const LEAVES: usize = BRANCHES * LEAVES_A_BRANCH;
/// Bytes of a sum. Two leaves that differ have equal ones once in 2^64 comparisons.
pub(crate) const SUM: usize = 8;
const EMPTY: [u8; SUM] = [0; SUM];

/// Epoch and sequence: how far a document is known.
pub(crate) type Position = (u64, u64);

/// Bytes of a [`Mark`]: two changes with one mark are 2^64 hashes of work.
pub(crate) const MARK: usize = 16;

/// The first bytes of the hash of a document's last change, which covers all before it.
pub(crate) type Mark = [u8; MARK];

/// What is known of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Known {
    pub(crate) position: Position,
    pub(crate) mark: Mark,
    /// Its author was seen to contradict itself in this epoch: nothing more is taken of it then, and which of its
    /// versions is kept is a matter of chance. The sequence is the first at which two changes are known, the
    /// mark that of the change before them, up to which there is one history.
    pub(crate) parted: bool,
}

impl Known {
    /// Whether whoever knows a document as `other` lacks something of this.
    pub(crate) fn adds_to(&self, other: Option<&Self>) -> bool {
        let Some(other) = other else {
            return self.position > (0, 0);
        };
        let (epoch, sequence) = self.position;
        let (theirs, differs) = (other.position.1, self.mark != other.mark);
        match (epoch.cmp(&other.position.0), self.parted, other.parted) {
            (Ordering::Less, ..) | (Ordering::Equal, false, true) => false,
            (Ordering::Greater, ..) | (Ordering::Equal, true, false) => true,
            (Ordering::Equal, false, false) => sequence > theirs || sequence == theirs && differs,
            // Two pairs of changes prove it as well; but all must come to know the first, as what was said
            // before it holds. Where what came before differs there is an earlier one.
            (Ordering::Equal, true, true) => sequence < theirs || sequence == theirs && differs,
        }
    }

    /// From where whoever knows this must ask, to be told what `other` has beyond it: the last change
    /// too if there is another one in its place.
    pub(crate) fn question(&self, other: &Self) -> Position {
        let (epoch, sequence) = self.position;
        if self.parted {
            return (epoch, 0);
        }
        let parted = self.position == other.position && self.mark != other.mark;
        (epoch, sequence.saturating_sub(u64::from(parted)))
    }
}

#[derive(Debug, Clone, Default)]
struct Leaf {
    /// By author.
    members: Vec<(PeerId, Known)>,
    sum: [u8; SUM],
}

/// How far each document is known, by leaf.
#[derive(Debug)]
pub(crate) struct Buckets {
    leaves: Vec<Leaf>,
    len: usize,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            leaves: vec![Leaf::default(); LEAVES],
            len: 0,
        }
    }
}

/// The leaf of an author's document.
fn leaf_of(author: &PeerId) -> usize {
    let hash = blake3::derive_key("polymath catalog leaf v1", &author.to_bytes());
    usize::from(u16::from_be_bytes([hash[0], hash[1]]) >> 4)
}

fn sum(context: &'static str, feed: impl FnOnce(&mut blake3::Hasher)) -> [u8; SUM] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    feed(&mut hasher);
    let mut sum = EMPTY;
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..SUM]);
    sum
}

impl Leaf {
    fn sum_up(&mut self) {
        self.sum = if self.members.is_empty() {
            EMPTY
        } else {
            sum("polymath catalog leaf sum v2", |hasher| {
                for (author, known) in &self.members {
                    let (epoch, sequence) = known.position;
                    let author = author.to_bytes();
                    hasher.update(&[u8::try_from(author.len()).unwrap_or(u8::MAX)]);
                    hasher.update(&author);
                    hasher.update(&epoch.to_be_bytes());
                    hasher.update(&sequence.to_be_bytes());
                    hasher.update(&known.mark);
                    if known.parted {
                        hasher.update(&[1]);
                    }
                }
            })
        };
    }
}

impl Buckets {
    /// What is known of `author`'s document now.
    pub(crate) fn set(&mut self, author: PeerId, known: Known) {
        let leaf = &mut self.leaves[leaf_of(&author)];
        match leaf.members.binary_search_by_key(&author, |(a, _)| *a) {
            Ok(at) => leaf.members[at].1 = known,
            Err(at) => {
                leaf.members.insert(at, (author, known));
                self.len += 1;
            }
        }
        leaf.sum_up();
    }

    /// The same, unless others are not told of the document.
    pub(crate) fn update(&mut self, author: &PeerId, known: Known) {
        let leaf = &mut self.leaves[leaf_of(author)];
        if let Ok(at) = leaf.members.binary_search_by_key(author, |(a, _)| *a) {
            leaf.members[at].1 = known;
            leaf.sum_up();
        }
    }

    /// Nothing is known of `author` any more.
    pub(crate) fn remove(&mut self, author: &PeerId) {
        let leaf = &mut self.leaves[leaf_of(author)];
        if let Ok(at) = leaf.members.binary_search_by_key(author, |(a, _)| *a) {
            leaf.members.remove(at);
            self.len -= 1;
            leaf.sum_up();
        }
    }

    /// Puts many into one leaf, which takes a stranger millions of keys.
    #[cfg(test)]
    pub(crate) fn crowd(&mut self, number: usize, authors: usize) {
        let mut members: Vec<_> = (0..authors)
            .map(|_| PeerId::random())
            .filter_map(|id| crate::envelope::author(id.as_ref().digest()))
            .map(|author| (author, tests::known(1, 1)))
            .collect();
        members.sort_unstable();
        self.len += authors;
        self.leaves[number].members = members;
        self.leaves[number].sum_up();
    }

    /// Documents known.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Every document.
    pub(crate) fn all(&self) -> impl Iterator<Item = &(PeerId, Known)> {
        self.leaves.iter().flat_map(|leaf| &leaf.members)
    }

    /// The documents of one leaf.
    pub(crate) fn leaf(&self, number: usize) -> &[(PeerId, Known)] {
        self.leaves.get(number).map_or(&[], |leaf| &leaf.members)
    }

    /// The sums of all branches, one after another.
    pub(crate) fn digest(&self) -> Vec<u8> {
        let branches = self.leaves.chunks(LEAVES_A_BRANCH);
        branches.flat_map(branch_sum).collect()
    }

    /// Branches whose sums are not those of `digest`; `None` if it is no digest.
    pub(crate) fn differing(&self, digest: &[u8]) -> Option<Vec<usize>> {
        if digest.len() != BRANCHES * SUM {
            return None;
        }
        let branches = self.leaves.chunks(LEAVES_A_BRANCH).map(branch_sum);
        let pairs = branches.zip(digest.chunks(SUM)).enumerate();
        let differing = pairs.filter(|(_, (own, theirs))| own != theirs);
        Some(differing.map(|(number, _)| number).collect())
    }

    /// The sums of the leaves of one branch; none if nothing is in them.
    pub(crate) fn branch(&self, number: usize) -> Vec<u8> {
        let leaves = &self.leaves[number * LEAVES_A_BRANCH..][..LEAVES_A_BRANCH];
        if leaves.iter().all(|leaf| leaf.members.is_empty()) {
            Vec::new()
        } else {
            leaves.iter().flat_map(|leaf| leaf.sum).collect()
        }
    }

    /// Leaves of branch `number` whose sums are not these; `None` if these are no branch.
    pub(crate) fn differing_leaves(&self, number: usize, sums: &[u8]) -> Option<Vec<usize>> {
        let whole = sums.is_empty() || sums.len() == LEAVES_A_BRANCH * SUM;
        if number >= BRANCHES || !whole {
            return None;
        }
        let first = number * LEAVES_A_BRANCH;
        let theirs = |at: usize| sums.get(at * SUM..(at + 1) * SUM).unwrap_or(&EMPTY);
        let leaves = (0..LEAVES_A_BRANCH).filter(|at| self.leaves[first + at].sum != theirs(*at));
        Some(leaves.map(|at| first + at).collect())
    }

    /// What somebody lacks who has only `theirs` of these leaves.
    pub(crate) fn ahead_of<'a>(
        &'a self,
        leaves: impl Iterator<Item = usize> + 'a,
        theirs: &'a std::collections::BTreeMap<PeerId, Known>,
    ) -> impl Iterator<Item = &'a (PeerId, Known)> {
        leaves
            .flat_map(|number| self.leaf(number))
            .filter(|(author, known)| known.adds_to(theirs.get(author)))
    }
}

fn branch_sum(leaves: &[Leaf]) -> [u8; SUM] {
    if leaves.iter().all(|leaf| leaf.members.is_empty()) {
        return EMPTY;
    }
    sum("polymath catalog branch sum v1", |hasher| {
        for leaf in leaves {
            hasher.update(&leaf.sum);
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    pub(super) fn known(epoch: u64, sequence: u64) -> Known {
        Known {
            position: (epoch, sequence),
            mark: [7; MARK],
            parted: false,
        }
    }

    fn filled(authors: &[PeerId]) -> Buckets {
        let mut buckets = Buckets::default();
        for author in authors {
            buckets.set(*author, known(1, 1));
        }
        buckets
    }

    #[test]
    fn equal_contents_have_equal_digests_whatever_came_before() {
        let authors: Vec<PeerId> = (0..300).map(|_| PeerId::random()).collect();
        let one = filled(&authors);
        let mut other = Buckets::default();
        for author in authors.iter().rev() {
            other.set(*author, known(0, 7));
            other.set(*author, known(1, 1));
        }
        let passing = PeerId::random();
        other.set(passing, known(9, 9));
        assert_ne!(one.digest(), other.digest());
        other.remove(&passing);
        other.remove(&passing);
        assert_eq!((one.digest(), one.len()), (other.digest(), 300));
        assert_eq!(one.differing(&other.digest()), Some(Vec::new()));
        assert_eq!(Buckets::default().digest(), [0; BRANCHES * SUM]);
    }

    #[test]
    fn a_difference_leads_to_its_leaf() {
        let authors: Vec<PeerId> = (0..3000).map(|_| PeerId::random()).collect();
        let (one, mut other) = (filled(&authors), filled(&authors));
        other.set(authors[5], known(1, 2));
        let branches = one.differing(&other.digest()).unwrap();
        let [branch] = branches[..] else {
            panic!("{branches:?}");
        };
        let leaves = one.differing_leaves(branch, &other.branch(branch)).unwrap();
        assert_eq!(leaves, [leaf_of(&authors[5])]);
        let theirs: BTreeMap<_, _> = one.leaf(leaves[0]).iter().copied().collect();
        let ahead: Vec<_> = other.ahead_of(leaves.into_iter(), &theirs).collect();
        assert_eq!(ahead, [&(authors[5], known(1, 2))]);
    }

    #[test]
    fn histories_of_one_length_differ_until_both_are_known_to_contradict_each_other() {
        let authors: Vec<PeerId> = (0..300).map(|_| PeerId::random()).collect();
        let (mut one, mut other) = (filled(&authors), filled(&authors));
        let forked = Known {
            mark: [8; MARK],
            ..known(1, 1)
        };
        other.set(authors[5], forked);
        let leaf = leaf_of(&authors[5]);
        assert_eq!(
            one.differing(&other.digest()),
            Some(vec![leaf / LEAVES_A_BRANCH])
        );
        let theirs: BTreeMap<_, _> = one.leaf(leaf).iter().copied().collect();
        let ahead: Vec<_> = other.ahead_of([leaf].into_iter(), &theirs).collect();
        assert_eq!(ahead, [&(authors[5], forked)]);
        assert_eq!(known(1, 1).question(&forked), (1, 0));

        let proven = |position| Known {
            position,
            parted: true,
            ..known(1, 1)
        };
        one.update(&authors[5], proven((1, 1)));
        assert!(proven((1, 1)).adds_to(Some(&forked)) && !forked.adds_to(Some(&proven((1, 1)))));
        other.update(&authors[5], proven((1, 1)));
        assert_eq!(one.differing(&other.digest()), Some(Vec::new()));
        // The earliest place is what all come to.
        assert!(!proven((1, 9)).adds_to(Some(&proven((1, 1)))));
        assert!(proven((1, 1)).adds_to(Some(&proven((1, 9)))));
        assert_eq!(proven((1, 9)).question(&proven((1, 1))), (1, 0));
        other.update(&authors[5], proven((1, 9)));
        assert_ne!(one.differing(&other.digest()), Some(Vec::new()));
        assert!(known(2, 1).adds_to(Some(&proven((1, 1)))));
        let stranger = PeerId::random();
        one.update(&stranger, known(1, 1));
        assert_eq!(one.len(), 300, "what is not shown stays so");
    }

    #[test]
    fn an_empty_branch_is_no_bytes_and_stands_for_sixteen_empty_leaves() {
        let author = PeerId::random();
        let (full, empty) = (filled(&[author]), Buckets::default());
        let branch = leaf_of(&author) / LEAVES_A_BRANCH;
        assert!(empty.branch(branch).is_empty());
        let leaves = full.differing_leaves(branch, &[]).unwrap();
        assert_eq!(leaves, [leaf_of(&author)]);
        assert!(empty.differing_leaves(branch, &[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_digest_is_none() {
        let buckets = Buckets::default();
        assert!(buckets.differing(&[0; BRANCHES * SUM + 1]).is_none());
        assert!(buckets.differing_leaves(BRANCHES, &[]).is_none());
        assert!(buckets.differing_leaves(0, &[0; SUM]).is_none());
        assert!(buckets.leaf(LEAVES).is_empty());
    }
}
