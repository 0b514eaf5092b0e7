//! What a connected peer sends, and what is made of it.
//!
//! News that a peer pushes are pushed on at once, to some. What was asked for is announced when all
//! of it has come, since most others have it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use polymath_proto::v1::{Cards, OfferHead, Offers, SyncFrame, sync_frame::Frame};
use polymath_types::{ExpertId, Format, PeerId};
use prost::Message as _;

use super::{Action, Batch, Catalog, FrameError};
use crate::{
    FRAME_BYTES, Refusal,
    cards::Taken,
    effort, envelope, frames,
    limits::{FEW_HEADS, MISSING_A_TICK, PUSHES, WANT_ENTRIES},
    offers::Outcome,
    record,
};

/// What a change or a card costs its sender that was looked at in vain.
const REFUSED: u32 = 32;

impl Catalog {
    /// A `Sync` stream with `peer` is open: starts anti-entropy with it.
    pub fn peer_connected(&mut self, peer: PeerId) -> Vec<Action> {
        let refusal = if self.conducts.cut_off(&peer).is_some() {
            Some(Refusal::Banned)
        } else if !self.peers.contains(&peer) && self.peers.len() >= self.limits.peers {
            Some(Refusal::PeersFull)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.counters.refuse(refusal);
            return Vec::new();
        }
        self.peers.insert(peer);
        self.offers.met(peer);
        if let Some(own) = self.offers.get(&peer) {
            self.cards.missing().hurry(&own.offer().experts);
        }
        let mut batch = Batch::default();
        self.compare_with(peer, &mut batch);
        // Our own last change, too: if the peer holds another one, our storage was lost or put
        // back, and equal digests would hide it.
        let (epoch, sequence) = self.offers.position(&self.me);
        let own = frames::head(&self.me, (epoch, sequence.saturating_sub(1)));
        batch.send(peer, frames::want(vec![own], &[]));
        self.finish(batch)
    }

    /// Takes frames that came in a file: as if a stranger had connected and sent them.
    pub fn import(&mut self, frames: impl IntoIterator<Item = SyncFrame>) -> Vec<Action> {
        let stranger = PeerId::random();
        self.peers.insert(stranger);
        let mut actions = Vec::new();
        for frame in frames {
            match self.receive(stranger, frame) {
                Ok(more) => actions.extend(more),
                Err(e) => {
                    tracing::warn!("the rest of the file is left: {e}");
                    break;
                }
            }
        }
        self.peer_disconnected(stranger);
        actions.retain(|action| match action {
            Action::Send { peer, .. } | Action::Answer { peer } => *peer != stranger,
            _ => true,
        });
        actions
    }

    /// The stream with `peer` is closed.
    pub fn peer_disconnected(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.answers.forget(&peer);
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
        if let Some((faults, last)) = self.conducts.cut_off(&peer) {
            return Err(FrameError::Misbehaving { faults, last });
        }
        if !self.peers.contains(&peer) {
            return Err(FrameError::NotConnected);
        }
        Format::Sync.check(frame.version)?;
        let bytes = frame.encoded_len();
        if bytes > FRAME_BYTES {
            return Err(FrameError::TooLarge { bytes });
        }
        let mut batch = Batch::default();
        if frame.category != frames::OFFERS {
            return Ok(Vec::new());
        }
        let frame = frame.frame.ok_or(FrameError::Empty)?;
        let cost = effort::cost(&frame, self.offers.buckets().len());
        if !self.efforts.spend(peer, cost) {
            self.counters.refuse(Refusal::Flood);
            return Ok(Vec::new());
        }
        match frame {
            Frame::Digest(digest) => self.on_digest(peer, &digest, &mut batch),
            Frame::Branches(branches) => self.on_branches(peer, &branches, &mut batch),
            Frame::Heads(heads) => self.on_heads(peer, heads, &mut batch),
            Frame::Want(want) => self.on_want(peer, want, &mut batch),
            Frame::Offers(offers) => self.on_offers(peer, offers, &mut batch),
            Frame::Cards(cards) => self.on_cards(peer, cards, &mut batch),
        }
        Ok(self.finish(batch))
    }

    fn on_offers(&mut self, peer: PeerId, offers: Offers, batch: &mut Batch) {
        let mut changes = offers.changes;
        changes.sort_by(|a, b| {
            (&a.author, a.epoch, a.sequence).cmp(&(&b.author, b.epoch, b.sequence))
        });
        let mut news = Vec::new();
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
            if self.conducts.is_banned(&author) {
                self.refuse(peer, Refusal::Banned);
                continue;
            }
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
                    if solicited {
                        let knowing = self.unannounced.entry(author).or_default();
                        knowing.insert(peer);
                        knowing.extend(self.claimants.remove(&author).unwrap_or_default());
                    } else {
                        news.push(change);
                    }
                }
                Ok(Outcome::Repeat) => {
                    self.counters.repeats += 1;
                    self.efforts.spend(peer, 1);
                }
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
                    self.efforts.spend(peer, REFUSED);
                    if refusal == Refusal::Replay {
                        tracing::warn!(%author, "what is kept of this author cannot be replayed; it is fetched anew");
                        self.forget(author, batch);
                    }
                    if refusal.is_poison() && self.conducts.poison(author, &change.signature) {
                        self.ban(author, batch);
                    }
                }
            }
        }
        if self.forks.due && !self.forks.rolled {
            self.resolve_fork(batch);
        }
        if let Some(first) = news.first() {
            let receivers = self.some_peers(&BTreeSet::from([peer]), &first.signature);
            for receiver in receivers {
                batch.send(receiver, frames::offers(news.clone()));
            }
        }
        let behind = gaps
            .into_iter()
            .filter(|author| {
                self.asked_offers
                    .ask(*author, peer, *author == peer, self.ticks)
            })
            .map(|author| frames::head(&author, self.offers.position(&author)))
            .collect();
        let cards: BTreeSet<ExpertId> = batch
            .touched
            .iter()
            .filter_map(|author| self.offers.get(author))
            .flat_map(|log| &log.offer().experts)
            .copied()
            .collect();
        let own = batch.touched.contains(&peer);
        let mut missing = Vec::new();
        let mut room = self.cards.room_for_new(&peer, own, &self.limits);
        for id in cards {
            if room > 0
                && self.cards.missing().may_ask(&id, &peer)
                && self.asked_cards.ask(id, peer, own, self.ticks)
            {
                self.cards.missing().asked(&id, self.ticks);
                missing.push(id);
                room -= 1;
            }
        }
        batch.send(peer, frames::want(behind, &missing));
        if self.asked_offers.is_idle() {
            self.announce(batch);
        }
    }

    /// Drops the offer of an author that signs poison again and again.
    fn ban(&mut self, author: PeerId, batch: &mut Batch) {
        tracing::warn!(%author, "this author signs changes that no offer can contain; it is ignored for a while");
        self.forget(author, batch);
    }

    fn forget(&mut self, author: PeerId, batch: &mut Batch) {
        if let Some(gone) = self.offers.remove(&author) {
            self.cards.reference(&[], &gone.offer().experts);
            batch.evicted.insert(author);
        }
        self.asked_offers.close(&author);
        self.unannounced.remove(&author);
    }

    /// Tells some others what was learned in answers, and only those who did not say that they have
    /// it. A newcomer that told every document of thousands would tell them nothing new: many are
    /// left to the digest.
    pub(super) fn announce(&mut self, batch: &mut Batch) {
        let authors = std::mem::take(&mut self.unannounced);
        let mut told: BTreeMap<PeerId, Vec<OfferHead>> = BTreeMap::new();
        for (author, knowing) in &authors {
            let head = frames::head(author, self.offers.position(author));
            for peer in self.some_peers(knowing, &author.to_bytes()) {
                told.entry(peer).or_default().push(head.clone());
            }
        }
        if authors.len() > FEW_HEADS {
            let digest = frames::digest(self.offers.buckets());
            let last = authors.keys().next_back().map(|author| author.to_bytes());
            for peer in self.some_peers(&BTreeSet::new(), &last.unwrap_or_default()) {
                if told.contains_key(&peer) {
                    batch.send(peer, [digest.clone()]);
                }
            }
            return;
        }
        for (peer, heads) in told {
            batch.send(peer, frames::heads(&heads));
        }
    }

    /// Those to whom news are passed on, who are not among `except`; others for every `seed`.
    fn some_peers(&self, except: &BTreeSet<PeerId>, seed: &[u8]) -> Vec<PeerId> {
        let mut others: Vec<PeerId> = self.peers.difference(except).copied().collect();
        if others.len() > PUSHES {
            others.sort_by_cached_key(|peer| {
                let mut hasher = blake3::Hasher::new();
                hasher.update(seed).update(&peer.to_bytes());
                *hasher.finalize().as_bytes()
            });
            others.truncate(PUSHES);
        }
        others
    }

    fn on_cards(&mut self, peer: PeerId, cards: Cards, batch: &mut Batch) {
        let own = self.offers.get(&peer).map(|log| Arc::clone(log.offer()));
        let own = own.as_ref().map_or(&[][..], |offer| &offer.experts);
        for bytes in cards.cards {
            if self.is_out(&peer) {
                break;
            }
            match self.cards.take(&bytes, peer, own, &self.limits) {
                Ok(Some(Taken {
                    id,
                    waiting,
                    evicted,
                })) => {
                    self.counters.evicted += evicted.len() as u64;
                    batch.lost_cards.extend(evicted);
                    self.counters.cards += 1;
                    self.asked_cards.close(&id);
                    if let Some(card) = self.cards.get(&id) {
                        batch.store(record::card_name(&id), record::seal_card(card));
                        batch.cards.push((id, card.clone()));
                    }
                    for waiter in waiting.into_iter().filter(|w| *w != peer) {
                        batch.send(waiter, frames::cards(vec![bytes.clone()]));
                    }
                }
                Ok(None) => {
                    self.counters.repeats += 1;
                    self.efforts.spend(peer, REFUSED);
                }
                Err(refusal) => {
                    self.refuse(peer, refusal);
                    self.efforts.spend(peer, REFUSED);
                }
            }
        }
    }

    /// Cards that no one brought yet: asked of those whose own offers name them and, every other
    /// time and of all others, of any peer.
    pub(super) fn ask_missing_cards(&mut self, batch: &mut Batch) {
        if self.peers.is_empty() || self.cards.missing().is_empty() {
            return;
        }
        let peers: Vec<PeerId> = self.peers.iter().copied().collect();
        let mut asks: BTreeMap<PeerId, Vec<ExpertId>> = BTreeMap::new();
        for peer in &peers {
            let Some(own) = self.offers.get(peer).map(|log| Arc::clone(log.offer())) else {
                continue;
            };
            let mut room = self.cards.room_for_new(peer, true, &self.limits);
            for id in &own.experts {
                if room > 0
                    && self.cards.missing().is_due(id, peer, self.ticks)
                    && self.asked_cards.ask(*id, *peer, true, self.ticks)
                {
                    self.cards.missing().asked(id, self.ticks);
                    asks.entry(*peer).or_default().push(*id);
                    room -= 1;
                }
            }
        }
        for (id, tries) in self.cards.missing().due(self.ticks, MISSING_A_TICK) {
            // Another peer each time, and not the same one for all.
            let turn = usize::from(id.as_bytes()[0]).saturating_add(tries as usize);
            let peer = peers[turn % peers.len()];
            let questions = asks.entry(peer).or_default();
            let room = self.cards.room_for_new(&peer, false, &self.limits);
            if questions.len() < room.min(WANT_ENTRIES)
                && self.cards.missing().may_ask(&id, &peer)
                && self.asked_cards.ask(id, peer, false, self.ticks)
            {
                self.cards.missing().asked(&id, self.ticks);
                questions.push(id);
            }
        }
        for (peer, cards) in asks {
            batch.send(peer, frames::want(Vec::new(), &cards));
        }
    }

    /// Whether the peer's next frame will be answered with [`FrameError::Misbehaving`]; the rest of
    /// this one is not worth the time.
    pub(super) fn is_out(&self, peer: &PeerId) -> bool {
        !self.peers.contains(peer) || self.conducts.cut_off(peer).is_some()
    }

    pub(super) fn refuse(&mut self, peer: PeerId, refusal: Refusal) {
        self.counters.refuse(refusal);
        if refusal.blames_sender() {
            self.conducts.fault(peer, refusal);
        }
    }
}
