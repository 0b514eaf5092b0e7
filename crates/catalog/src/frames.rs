//! Packing of what is sent into frames of bounded size.

use std::collections::BTreeSet;

use polymath_proto::v1::{
    Branch, Branches, Cards, Digest, Heads, OfferHead, Offers, SignedChange, SyncFrame, Want,
    sync_frame::Frame,
};
use polymath_types::{ExpertId, Format, PeerId};
use prost::{Message as _, bytes::Bytes};

use crate::{
    buckets::{Buckets, Known, MARK, Position},
    envelope,
    kind::{Category, Kind},
    limits::{FRAME_BYTES, HEADS_PAGE, WANT_ENTRIES},
    short::Parcel,
};

/// Room for the frame's own tags and lengths.
const OVERHEAD: usize = 64;
/// Tag and length before each entry.
const PER_ENTRY: usize = 8;

/// What follows the mark of a document whose author contradicts itself.
const PARTED: [u8; 1] = [1];

/// What is known of a document.
pub(crate) fn head(author: &PeerId, known: &Known) -> OfferHead {
    let parted: &[u8] = if known.parted { &PARTED } else { &[] };
    OfferHead {
        mark: [&known.mark[..], parted].concat().into(),
        ..question(author, known.position)
    }
}

/// What a head says; `None` if it is none.
pub(crate) fn known(head: &OfferHead) -> Option<Known> {
    let (mark, parted) = head.mark.split_at_checked(MARK)?;
    if !parted.is_empty() && parted != PARTED {
        return None;
    }
    Some(Known {
        position: (head.epoch, head.sequence),
        mark: mark.try_into().ok()?,
        parted: !parted.is_empty(),
    })
}

/// How far the asker knows a document.
pub(crate) fn question(author: &PeerId, (epoch, sequence): Position) -> OfferHead {
    OfferHead {
        author: envelope::key_bytes(author),
        epoch,
        sequence,
        mark: Bytes::new(),
        whole: false,
    }
}

fn frame(category: Category, frame: Frame) -> SyncFrame {
    SyncFrame {
        version: Format::Sync.current(),
        category: category as u32,
        frame: Some(frame),
    }
}

/// What is known, summed up.
pub(crate) fn digest(category: Category, buckets: &Buckets) -> SyncFrame {
    let sums = buckets.digest().into();
    frame(category, Frame::Digest(Digest { sums }))
}

/// What is known, document by document: for tables of few.
pub(crate) fn everything(category: Category, buckets: &Buckets) -> SyncFrame {
    frame(
        category,
        Frame::Heads(Heads {
            heads: buckets.all().map(|(a, k)| head(a, k)).collect(),
            leaves: Vec::new(),
            all: true,
        }),
    )
}

/// The sums below some of a digest's: at most 256, so they fit one frame.
pub(crate) fn branches(
    category: Category,
    buckets: &Buckets,
    numbers: &[usize],
) -> Option<SyncFrame> {
    let branches: Vec<Branch> = numbers
        .iter()
        .filter_map(|n| {
            Some(Branch {
                number: u32::try_from(*n).ok()?,
                sums: buckets.branch(*n).into(),
            })
        })
        .collect();
    (!branches.is_empty()).then(|| frame(category, Frame::Branches(Branches { branches })))
}

/// As many of these leaves as fit one frame, or one that does not; and the others.
pub(crate) fn first_page(
    buckets: &Buckets,
    numbers: &BTreeSet<usize>,
) -> (Vec<usize>, BTreeSet<usize>) {
    let (mut now, mut heads) = (Vec::new(), 0);
    for number in numbers {
        heads += buckets.leaf(*number).len();
        if heads > HEADS_PAGE && !now.is_empty() {
            break;
        }
        now.push(*number);
    }
    let later = numbers.iter().skip(now.len()).copied().collect();
    (now, later)
}

/// All that is known of these leaves, each leaf in one frame. Of a leaf with more documents than a
/// frame holds (a stranger can make one) the rest follows as news.
pub(crate) fn leaves(category: Category, buckets: &Buckets, numbers: &[usize]) -> Vec<SyncFrame> {
    let mut frames = Vec::new();
    let mut page = Heads::default();
    let mut rest = Vec::new();
    for number in numbers {
        let leaf = buckets.leaf(*number);
        let (members, more) = leaf.split_at(leaf.len().min(HEADS_PAGE));
        rest.extend(more.iter().map(|(a, k)| head(a, k)));
        if page.heads.len() + members.len() > HEADS_PAGE {
            frames.push(frame(category, Frame::Heads(std::mem::take(&mut page))));
        }
        page.heads.extend(members.iter().map(|(a, k)| head(a, k)));
        page.leaves.extend(u32::try_from(*number));
    }
    if !page.leaves.is_empty() {
        frames.push(frame(category, Frame::Heads(page)));
    }
    frames.extend(heads(category, &rest));
    frames
}

/// Some documents, as news.
pub(crate) fn heads(category: Category, heads: &[OfferHead]) -> Vec<SyncFrame> {
    heads
        .chunks(HEADS_PAGE)
        .map(|heads| {
            frame(
                category,
                Frame::Heads(Heads {
                    heads: heads.to_vec(),
                    ..Heads::default()
                }),
            )
        })
        .collect()
}

/// Questions for documents and cards.
pub(crate) fn want(
    category: Category,
    offers: Vec<OfferHead>,
    cards: &[ExpertId],
) -> Vec<SyncFrame> {
    let cards: Vec<Bytes> = cards
        .iter()
        .map(|c| Bytes::copy_from_slice(c.as_bytes()))
        .collect();
    let offers = offers.chunks(WANT_ENTRIES).map(|o| Want {
        offers: o.to_vec(),
        cards: Vec::new(),
    });
    let cards = cards.chunks(WANT_ENTRIES).map(|c| Want {
        offers: Vec::new(),
        cards: c.to_vec(),
    });
    offers
        .chain(cards)
        .map(|w| frame(category, Frame::Want(w)))
        .collect()
}

fn parcel_bytes(parcel: &Parcel) -> usize {
    match parcel {
        Parcel::Whole(change) => change.encoded_len(),
        Parcel::Short(change) => change.encoded_len(),
    }
}

/// What a change takes of a frame.
pub(crate) fn change_room(parcel: &Parcel) -> usize {
    parcel_bytes(parcel) + PER_ENTRY
}

/// What a card takes of a frame.
pub(crate) fn card_room(card: &Bytes) -> usize {
    card.len() + PER_ENTRY
}

/// Changes, in order, for whoever has those before them.
pub(crate) fn news<K: Kind>(changes: Vec<SignedChange>) -> Vec<SyncFrame> {
    let news = changes.into_iter().map(Parcel::short::<K>).collect();
    parcels(K::CATEGORY, news)
}

/// Changes, in order, for anybody.
pub(crate) fn changes(category: Category, changes: Vec<SignedChange>) -> Vec<SyncFrame> {
    let whole = changes.into_iter().map(Parcel::Whole).collect();
    parcels(category, whole)
}

/// Changes in the forms they are in, in order.
pub(crate) fn parcels(category: Category, all: Vec<Parcel>) -> Vec<SyncFrame> {
    pack(category, all, parcel_bytes, |all| {
        let mut offers = Offers::default();
        for parcel in all {
            match parcel {
                Parcel::Whole(change) => offers.changes.push(change),
                Parcel::Short(change) => offers.short.push(change),
            }
        }
        Frame::Offers(offers)
    })
}

/// Cards.
pub(crate) fn cards(cards: Vec<Bytes>) -> Vec<SyncFrame> {
    pack(Category::Offers, cards, Bytes::len, |cards| {
        Frame::Cards(Cards { cards })
    })
}

fn pack<T>(
    category: Category,
    items: Vec<T>,
    size: impl Fn(&T) -> usize,
    wrap: impl Fn(Vec<T>) -> Frame,
) -> Vec<SyncFrame> {
    let (mut frames, mut batch, mut bytes) = (Vec::new(), Vec::new(), OVERHEAD);
    for item in items {
        let next = size(&item) + PER_ENTRY;
        if bytes + next > FRAME_BYTES && !batch.is_empty() {
            frames.push(frame(category, wrap(std::mem::take(&mut batch))));
            bytes = OVERHEAD;
        }
        bytes += next;
        batch.push(item);
    }
    if !batch.is_empty() {
        frames.push(frame(category, wrap(batch)));
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_crowded_leaf_nothing_is_left_out() {
        let mut buckets = Buckets::default();
        buckets.crowd(7, 2 * HEADS_PAGE + 5);
        let frames = leaves(Category::Offers, &buckets, &[6, 7, 8]);
        let mut told = std::collections::BTreeSet::new();
        for frame in frames {
            assert!(frame.encoded_len() <= FRAME_BYTES);
            if let Some(Frame::Heads(heads)) = frame.frame {
                assert!(heads.heads.len() <= HEADS_PAGE);
                told.extend(heads.heads.into_iter().map(|h| h.author));
            }
        }
        assert_eq!(told.len(), 2 * HEADS_PAGE + 5);
    }
}
