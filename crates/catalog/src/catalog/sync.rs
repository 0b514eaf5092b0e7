//! Anti-entropy: what is said to a connected peer, and what is made of what it says.
//!
//! A digest names how far each document is known; whoever is behind asks for what it lacks. News
//! that a peer pushes are pushed on at once; what was asked for is only announced to others, since
//! most of them have it.

use std::collections::{BTreeMap, BTreeSet};

use polymath_proto::v1::{
    Cards, Digest, OfferHead, Offers, SignedChange, SyncFrame, Want, sync_frame::Frame,
};
use polymath_types::{ExpertId, Format, PeerId};
use prost::Message as _;

use super::{Action, Batch, Catalog, Connected, FrameError};
use crate::{
    FRAME_BYTES, Refusal, envelope, frames,
    limits::{ANSWER_BYTES, DIGEST_PAGE, STRIKES, WANT_ENTRIES},
    offers::Outcome,
    record,
};

impl Catalog {
    /// A `Sync` stream with `peer` is open: starts anti-entropy with it.
    pub fn peer_connected(&mut self, peer: PeerId) -> Vec<Action> {
        if !self.peers.contains_key(&peer) && self.peers.len() >= self.limits.peers {
            self.counters.refuse(Refusal::PeersFull);
            return Vec::new();
        }
        self.peers.insert(peer, Connected::default());
        self.offers.met(peer);
        let mut batch = Batch::default();
        batch.send(peer, self.digest());
        // Our own last change, too: if the peer holds another one, our storage was lost or put
        // back, and equal digests would hide it.
        let (epoch, sequence) = self.offers.position(&self.me);
        let own = frames::head(&self.me, (epoch, sequence.saturating_sub(1)));
        batch.send(peer, frames::want(vec![own], &[]));
        self.finish(batch)
    }

    /// The stream with `peer` is closed.
    pub fn peer_disconnected(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.offers.parted(&peer);
        self.asked_offers.disconnected(&peer, self.ticks);
        self.asked_cards.disconnected(&peer, self.ticks);
        self.cards.disconnected(&peer);
    }

    /// Takes a frame that arrived on the stream with `peer`; `peer` comes from the connection.
    ///
    /// On an error the caller closes that stream, with the error's line as the reason, and calls
    /// [`Catalog::peer_disconnected`]. A bad change inside a good frame is no error: it is counted
    /// and left out.
    pub fn receive(&mut self, peer: PeerId, frame: SyncFrame) -> Result<Vec<Action>, FrameError> {
        let state = self.peers.get(&peer).ok_or(FrameError::NotConnected)?;
        if let (STRIKES.., Some(last)) = (state.faults, state.last) {
            return Err(FrameError::Misbehaving {
                faults: state.faults,
                last,
            });
        }
        Format::Wire.check(frame.version)?;
        let bytes = frame.encoded_len();
        if bytes > FRAME_BYTES {
            return Err(FrameError::TooLarge { bytes });
        }
        let mut batch = Batch::default();
        match frame.frame.ok_or(FrameError::Empty)? {
            Frame::Digest(digest) => self.on_digest(peer, digest, &mut batch),
            Frame::Want(want) => self.on_want(peer, want, &mut batch),
            Frame::Offers(offers) => self.on_offers(peer, offers, &mut batch),
            Frame::Cards(cards) => self.on_cards(peer, cards, &mut batch),
        }
        Ok(self.finish(batch))
    }

    pub(super) fn digest(&self) -> Vec<SyncFrame> {
        let heads: Vec<OfferHead> = self
            .offers
            .iter()
            .map(|(author, log)| frames::head(author, log.position()))
            .collect();
        frames::digest(&heads)
    }

    fn on_digest(&mut self, peer: PeerId, digest: Digest, batch: &mut Batch) {
        let mut behind = Vec::new();
        // A new author for whom there is no room would be asked for in vain at every digest.
        let mut room = self.offers.room_for_new(&peer, &self.me, &self.limits);
        for head in digest.heads.into_iter().take(DIGEST_PAGE) {
            if self.is_out(&peer) {
                break;
            }
            let Some(author) = envelope::peer_id(&head.author) else {
                self.refuse(peer, Refusal::Author);
                continue;
            };
            let known = self.offers.position(&author);
            let claimed = (head.epoch, head.sequence);
            if claimed <= known {
                continue;
            }
            let new = known.0 == 0 && author != self.me;
            if new {
                // Whoever verified an offer of this author found the key in its id.
                if !envelope::can_sign(&author) {
                    self.refuse(peer, Refusal::Author);
                    continue;
                }
                // What an author says of itself shows at least that it is there.
                let gone = author != peer && self.offers.is_forgotten(&author, claimed);
                if room == 0 || gone {
                    continue;
                }
            }
            if self.asked_offers.ask(author, peer, self.ticks) {
                room -= usize::from(new);
                behind.push(frames::head(&author, known));
            }
        }
        batch.send(peer, frames::want(behind, &[]));
    }

    fn on_want(&mut self, peer: PeerId, want: Want, batch: &mut Batch) {
        let mut room = ANSWER_BYTES;
        let wanted: BTreeMap<PeerId, (u64, u64)> = want
            .offers
            .iter()
            .filter_map(|h| Some((envelope::peer_id(&h.author)?, (h.epoch, h.sequence))))
            .collect();
        let mut changes: Vec<SignedChange> = Vec::new();
        for (author, position) in wanted {
            let Some(log) = self.offers.get(&author) else {
                continue;
            };
            for change in log.after(position) {
                let Some(left) = room.checked_sub(change.encoded_len()) else {
                    break;
                };
                room = left;
                changes.push(change.clone());
            }
        }
        batch.send(peer, frames::offers(changes));

        let ids: BTreeSet<ExpertId> = want
            .cards
            .iter()
            .filter_map(|id| ExpertId::try_from(id.as_ref()).ok())
            .collect();
        let mut cards = Vec::new();
        for id in ids {
            match self.cards.bytes(&id) {
                Some(bytes) => {
                    let Some(left) = room.checked_sub(bytes.len()) else {
                        break;
                    };
                    room = left;
                    cards.push(bytes);
                }
                None => self.cards.wait(id, peer),
            }
        }
        batch.send(peer, frames::cards(cards));
    }

    fn on_offers(&mut self, peer: PeerId, offers: Offers, batch: &mut Batch) {
        let mut changes = offers.changes;
        changes.sort_by(|a, b| {
            (&a.author, a.epoch, a.sequence).cmp(&(&b.author, b.epoch, b.sequence))
        });
        let mut news = Vec::new();
        let mut announced = BTreeSet::new();
        let mut gaps = BTreeSet::new();
        let mut solicited = BTreeMap::new();
        for change in changes {
            if self.is_out(&peer) {
                break;
            }
            let Some(author) = envelope::peer_id(&change.author) else {
                self.refuse(peer, Refusal::Author);
                continue;
            };
            let solicited = *solicited
                .entry(author)
                .or_insert_with(|| self.asked_offers.is_asked(&author, &peer));
            let taken = self.offers.take(
                change.clone(),
                peer,
                batch.touched.contains(&author),
                &self.me,
                &self.mesh,
                &self.limits,
            );
            // A question stays open until something comes that was not known: an answer of old
            // changes would else free its sender to claim the same again.
            match taken {
                Ok(Outcome::Applied {
                    added,
                    removed,
                    evicted,
                }) => {
                    self.counters.changes += 1;
                    self.counters.evicted += evicted.len() as u64;
                    self.cards.reference(&added, &removed);
                    self.asked_offers.close(&author);
                    evicted.iter().for_each(|a| self.asked_offers.close(a));
                    batch.evicted.extend(evicted);
                    batch.touched.insert(author);
                    batch.index = true;
                    if solicited {
                        announced.insert(author);
                    } else {
                        news.push(change);
                    }
                }
                Ok(Outcome::Repeat) => self.counters.repeats += 1,
                Ok(Outcome::Gap) => {
                    gaps.insert(author);
                }
                Ok(Outcome::OwnFork) => {
                    self.counters.own_forks += 1;
                    self.asked_offers.close(&author);
                    self.forks.epoch = self.forks.epoch.max(change.epoch);
                    self.forks.due = true;
                }
                Err(refusal) => {
                    tracing::debug!(%peer, %author, epoch = change.epoch, sequence = change.sequence, %refusal, "change refused");
                    // Once an author: all further ones are for the counter.
                    if refusal == Refusal::Equivocation && self.offers.equivocated(&author) {
                        tracing::warn!(%author, epoch = change.epoch, sequence = change.sequence,
                            "this author signed two different changes with one sequence; the first stays");
                    }
                    if refusal.is_authors_own() {
                        // Later changes of this author will look like a gap; asking for it now
                        // would bring this one again, without end.
                        self.asked_offers.rest(author, peer, self.ticks);
                    }
                    self.refuse(peer, refusal);
                }
            }
        }
        if self.forks.due && !self.forks.rolled {
            self.resolve_fork(batch);
        }
        let heads: Vec<OfferHead> = announced
            .iter()
            .map(|author| frames::head(author, self.offers.position(author)))
            .collect();
        for other in self.peers.keys().filter(|p| **p != peer) {
            batch.send(*other, frames::offers(news.clone()));
            if !heads.is_empty() {
                batch.send(*other, frames::digest(&heads));
            }
        }
        let behind = gaps
            .into_iter()
            .filter(|author| self.asked_offers.ask(*author, peer, self.ticks))
            .map(|author| frames::head(&author, self.offers.position(&author)))
            .collect();
        let cards: BTreeSet<ExpertId> = batch
            .touched
            .iter()
            .filter_map(|author| self.offers.get(author))
            .flat_map(|log| &log.view().experts)
            .copied()
            .collect();
        let missing: Vec<ExpertId> = cards
            .into_iter()
            .filter(|id| {
                self.cards.get(id).is_none() && self.asked_cards.ask(*id, peer, self.ticks)
            })
            .collect();
        batch.send(peer, frames::want(behind, &missing));
    }

    fn on_cards(&mut self, peer: PeerId, cards: Cards, batch: &mut Batch) {
        for bytes in cards.cards {
            if self.is_out(&peer) {
                break;
            }
            match self.cards.take(&bytes, &self.limits) {
                Ok(Some((id, waiting))) => {
                    self.counters.cards += 1;
                    self.asked_cards.close(&id);
                    if let Some(card) = self.cards.get(&id) {
                        batch.store(record::card_name(&id), record::seal_card(card));
                    }
                    batch.index = true;
                    for waiter in waiting.into_iter().filter(|w| *w != peer) {
                        batch.send(waiter, frames::cards(vec![bytes.clone()]));
                    }
                }
                Ok(None) => self.counters.repeats += 1,
                Err(refusal) => self.refuse(peer, refusal),
            }
        }
    }

    /// Steps over every version of our document that others hold, with what it says now.
    pub(super) fn resolve_fork(&mut self, batch: &mut Batch) {
        self.forks.due = false;
        // Without a document of our own there is nothing to repeat; `set_offer` will step over.
        let Some(own) = self.offers.get(&self.me) else {
            return;
        };
        if own.position().0 > self.forks.epoch {
            return;
        }
        self.forks.rolled = true;
        tracing::warn!(
            epoch = self.forks.epoch,
            "peers hold an offer of this node that is not in its storage; starting a new epoch above it"
        );
        if let Err(refusal) = self.begin_epoch(own.view().clone(), batch) {
            tracing::error!(%refusal, "the offer document could not be started anew");
        }
    }

    /// Cards that no one brought yet: asked of their authors and, every other time, of any peer.
    pub(super) fn ask_missing_cards(&mut self, batch: &mut Batch) {
        if self.peers.is_empty() {
            return;
        }
        let missing: BTreeSet<ExpertId> = self.cards.missing().copied().collect();
        let mut asks: BTreeMap<PeerId, Vec<ExpertId>> = BTreeMap::new();
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for (author, log) in self.offers.iter() {
            for (at, id) in log.view().experts.intersection(&missing).enumerate() {
                let turn = self.ticks as usize / 2 + at;
                let author_turn = self.ticks.is_multiple_of(2) && self.peers.contains_key(author);
                let peer = if author_turn {
                    *author
                } else {
                    peers[turn % peers.len()]
                };
                let questions = asks.entry(peer).or_default();
                if questions.len() < WANT_ENTRIES && self.asked_cards.ask(*id, peer, self.ticks) {
                    questions.push(*id);
                }
            }
        }
        for (peer, cards) in asks {
            batch.send(peer, frames::want(Vec::new(), &cards));
        }
    }

    /// Whether the peer's next frame will be answered with [`FrameError::Misbehaving`]; the rest of
    /// this one is not worth the time.
    fn is_out(&self, peer: &PeerId) -> bool {
        self.peers
            .get(peer)
            .is_none_or(|state| state.faults >= STRIKES)
    }

    fn refuse(&mut self, peer: PeerId, refusal: Refusal) {
        self.counters.refuse(refusal);
        if refusal.blames_sender()
            && let Some(state) = self.peers.get_mut(&peer)
        {
            state.faults += 1;
            state.last = Some(refusal);
        }
    }
}
