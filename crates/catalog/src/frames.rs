//! Packing of what is sent into frames of bounded size.

use polymath_proto::v1::{
    Cards, Digest, OfferHead, Offers, SignedChange, SyncFrame, Want, sync_frame::Frame,
};
use polymath_types::{ExpertId, Format, PeerId};
use prost::{Message as _, bytes::Bytes};

use crate::limits::{DIGEST_PAGE, FRAME_BYTES, WANT_ENTRIES};

/// Room for the frame's own tags and lengths.
const OVERHEAD: usize = 64;
/// Tag and length before each entry.
const PER_ENTRY: usize = 8;

pub(crate) fn head(author: &PeerId, (epoch, sequence): (u64, u64)) -> OfferHead {
    OfferHead {
        author: author.to_bytes().into(),
        epoch,
        sequence,
    }
}

fn frame(frame: Frame) -> SyncFrame {
    SyncFrame {
        version: Format::Wire.current(),
        frame: Some(frame),
    }
}

/// A digest in pages; one empty page says that nothing is known.
pub(crate) fn digest(heads: &[OfferHead]) -> Vec<SyncFrame> {
    if heads.is_empty() {
        return vec![frame(Frame::Digest(Digest::default()))];
    }
    let pages = heads.len().div_ceil(DIGEST_PAGE);
    (1..)
        .zip(heads.chunks(DIGEST_PAGE))
        .map(|(page, heads)| {
            frame(Frame::Digest(Digest {
                heads: heads.to_vec(),
                more: page < pages,
            }))
        })
        .collect()
}

/// Questions for offers and cards.
pub(crate) fn want(offers: Vec<OfferHead>, cards: &[ExpertId]) -> Vec<SyncFrame> {
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
    offers.chain(cards).map(|w| frame(Frame::Want(w))).collect()
}

/// Changes, in order.
pub(crate) fn offers(changes: Vec<SignedChange>) -> Vec<SyncFrame> {
    pack(changes, SignedChange::encoded_len, |changes| {
        Frame::Offers(Offers { changes })
    })
}

/// Cards.
pub(crate) fn cards(cards: Vec<Bytes>) -> Vec<SyncFrame> {
    pack(cards, Bytes::len, |cards| Frame::Cards(Cards { cards }))
}

fn pack<T>(
    items: Vec<T>,
    size: impl Fn(&T) -> usize,
    wrap: impl Fn(Vec<T>) -> Frame,
) -> Vec<SyncFrame> {
    let (mut frames, mut batch, mut bytes) = (Vec::new(), Vec::new(), OVERHEAD);
    for item in items {
        let next = size(&item) + PER_ENTRY;
        if bytes + next > FRAME_BYTES && !batch.is_empty() {
            frames.push(frame(wrap(std::mem::take(&mut batch))));
            bytes = OVERHEAD;
        }
        bytes += next;
        batch.push(item);
    }
    if !batch.is_empty() {
        frames.push(frame(wrap(batch)));
    }
    frames
}
