//! Changes in the short form: rebuilt from what is kept of their author, or asked for.
//!
//! A short change can be rebuilt by whoever holds the one before it. Whoever does not knows no more than
//! that the sender claims to be ahead, and asks, as it would of a head. Where the one before is another than
//! the sender's, the signature does not hold on what is rebuilt. That may be a fork, of which the sender
//! knows nothing, or the sender's lie: nobody is blamed, and the sender is asked for that part of the history
//! whole. Its answer shows which it was, by rules that know nothing of this form.

use std::collections::{BTreeMap, VecDeque};

use polymath_proto::v1::{OfferHead, Offers, SignedChange};
use polymath_types::PeerId;

use super::Catalog;
use crate::{
    Refusal,
    buckets::{Known, MARK, Position},
    documents::Before,
    frames,
    kind::Kind,
    short::{self, Arrived},
};

/// How far a peer is ahead of us, by author.
pub(super) type Ahead = BTreeMap<PeerId, Position>;

/// All that a frame brings, in the order in which it can be taken.
pub(super) fn in_order(offers: Offers) -> VecDeque<Arrived> {
    let whole = offers.changes.into_iter().map(Arrived::from);
    let mut all: Vec<Arrived> = whole
        .chain(offers.short.into_iter().map(Arrived::from))
        .collect();
    all.sort_by(|a, b| {
        let (a, b) = (&a.change, &b.change);
        (&a.author, a.epoch, a.sequence).cmp(&(&b.author, b.epoch, b.sequence))
    });
    VecDeque::from(all)
}

impl Catalog {
    /// The change that `peer` brought, whole; `None` if there is nothing more to be done with it.
    pub(super) fn whole<K: Kind>(
        &mut self,
        peer: PeerId,
        author: PeerId,
        arrived: Arrived,
        ahead: &mut Ahead,
    ) -> Option<SignedChange> {
        let Arrived {
            mut change,
            columns,
        } = arrived;
        let Some(columns) = columns else {
            return Some(change);
        };
        let position = (change.epoch, change.sequence);
        let before = K::shelf(self).documents.before(&author, position);
        let rebuilt = match before {
            Before::Over => {
                self.counters.repeats += 1;
                self.efforts.spend(peer, 1);
                return None;
            }
            Before::Missing => {
                let most = ahead.entry(author).or_insert(position);
                *most = position.max(*most);
                self.efforts.spend(peer, 1);
                return None;
            }
            _ if columns.len() > K::bounds(&self.limits).change_bytes => Err(Refusal::Size),
            Before::Known(head) => {
                short::rebuild::<K>(&author, position, head, &columns).ok_or(Refusal::Short)
            }
        };
        match rebuilt {
            Ok(bytes) => {
                change.change = bytes.into();
                Some(change)
            }
            Err(refusal) => {
                self.refuse(peer, refusal);
                self.efforts.spend(peer, super::sync::REFUSED);
                None
            }
        }
    }

    /// Asks `peer` for what it is ahead of us, as if it had said so in heads.
    pub(super) fn ask_ahead<K: Kind>(&mut self, peer: PeerId, ahead: &Ahead) -> Vec<OfferHead> {
        let mut room = self.room_for_new::<K>(&peer);
        let mut questions = Vec::new();
        for (author, position) in ahead {
            let claimed = Known {
                position: *position,
                mark: [0; MARK],
                parted: false,
            };
            questions.extend(self.question_on::<K>(peer, *author, claimed, &mut room));
        }
        questions
    }

    /// What to ask of `peer`, which brought a change of `author` that came to something else here: for that
    /// change, or our last one if it is older, and all that follow, whole.
    pub(super) fn ask_whole<K: Kind>(
        &mut self,
        peer: PeerId,
        author: PeerId,
        sequence: u64,
    ) -> Option<OfferHead> {
        let ticks = self.ticks;
        let shelf = K::shelf_mut(self);
        let (epoch, known) = shelf.documents.position(&author);
        let own = author == peer;
        let may = shelf.asked.ask_whole(author, peer, own, ticks);
        may.then(|| OfferHead {
            whole: true,
            ..frames::question(&author, (epoch, known.min(sequence).saturating_sub(1)))
        })
    }
}
