//! What a connected peer sends, and what is made of it.
//!
//! News that a peer pushes are pushed on at once, to some; when they come once more others are told of them.
//! What was asked for is announced when all of it has come, since most others have it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use polymath_proto::v1::{Cards, OfferHead, Offers, SignedChange, SyncFrame, sync_frame::Frame};
use polymath_types::{ExpertId, Format, PeerId};
use prost::Message as _;

use super::{
    Action, Batch, Catalog, FrameError,
    arrived::{Ahead, in_order},
};
use crate::{
    FRAME_BYTES, Refusal,
    cards::Taken,
    documents::{Author, Outcome},
    effort, envelope, frames,
    kind::{Category, Kind, charter::CharterKind, observations::ObservationKind, offer::OfferKind},
    limits::{
        ANNOUNCED, FEW_HEADS, MISSING_A_TICK, PUSHES, SAID_OF_CHANGE, TOLD, WANT_ENTRIES,
        WORK_AS_BYTES,
    },
    record,
    short::Arrived,
};

/// What a change or a card costs its sender that was looked at in vain.
pub(super) const REFUSED: u32 = 32;

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
        if let Some(own) = self.offers.said(&peer) {
            self.cards.missing().hurry(&own.experts);
        }
        let mut batch = Batch::default();
        self.greet::<CharterKind>(peer, &mut batch);
        self.greet::<OfferKind>(peer, &mut batch);
        self.greet::<ObservationKind>(peer, &mut batch);
        self.finish(batch)
    }

    /// Takes frames that came in a file: as if a stranger had connected and sent them. Charter documents
    /// come first and in any order, those of the appointed before those of who appointed them.
    pub fn import(&mut self, frames: impl IntoIterator<Item = SyncFrame>) -> Vec<Action> {
        let stranger = PeerId::random();
        self.peers.insert(stranger);
        let (mut charters, mut rest) = (Vec::new(), Vec::new());
        for mut frame in frames {
            let charter = Category::of(frame.category) == Some(Category::Charter)
                && Format::Sync.check(frame.version).is_ok();
            match frame.frame.take() {
                Some(Frame::Offers(offers)) if charter && offers.short.is_empty() => {
                    charters.extend(offers.changes);
                }
                taken => {
                    frame.frame = taken;
                    rest.push(frame);
                }
            }
        }
        let mut actions = Vec::new();
        while !charters.is_empty() && !self.is_out(&stranger) {
            let admitted = |change: &SignedChange| {
                envelope::peer_id(&change.author).is_some_and(|a| CharterKind::admits(self, &a))
            };
            let (mut now, mut later): (Vec<_>, Vec<_>) = charters.into_iter().partition(admitted);
            if now.is_empty() {
                // Nobody appoints those who are left: each is refused, once.
                std::mem::swap(&mut now, &mut later);
            }
            let frames = frames::changes(Category::Charter, now);
            actions.extend(self.import_frames(stranger, frames));
            charters = later;
        }
        actions.extend(self.import_frames(stranger, rest));
        self.peer_disconnected(stranger);
        actions.retain(|action| match action {
            Action::Send { peer, .. } | Action::Answer { peer } => *peer != stranger,
            _ => true,
        });
        actions
    }

    fn import_frames(&mut self, stranger: PeerId, frames: Vec<SyncFrame>) -> Vec<Action> {
        let mut actions = Vec::new();
        for frame in frames {
            // Whoever imports a file waits for it.
            self.works.forgive(&stranger);
            match self.receive(stranger, frame) {
                Ok(more) => actions.extend(more),
                Err(e) => {
                    tracing::warn!("the rest of the file is left: {e}");
                    break;
                }
            }
        }
        actions
    }

    /// The stream with `peer` is closed.
    pub fn peer_disconnected(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.answers.forget(&peer);
        self.parted::<CharterKind>(&peer);
        self.parted::<OfferKind>(&peer);
        self.parted::<ObservationKind>(&peer);
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
        match Category::of(frame.category) {
            Some(Category::Offers) => self.on_frame::<OfferKind>(peer, frame, &mut batch)?,
            Some(Category::Charter) => self.on_frame::<CharterKind>(peer, frame, &mut batch)?,
            Some(Category::Observations) if self.observing => {
                self.on_frame::<ObservationKind>(peer, frame, &mut batch)?;
            }
            // A kind that is switched off, or of a later version.
            Some(Category::Observations) | None => return Ok(Vec::new()),
        }
        Ok(self.finish(batch))
    }

    fn on_frame<K: Kind>(
        &mut self,
        peer: PeerId,
        frame: SyncFrame,
        batch: &mut Batch,
    ) -> Result<(), FrameError> {
        let frame = frame.frame.ok_or(FrameError::Empty)?;
        let known = K::shelf(self).documents.buckets().len();
        if !self.efforts.spend(peer, effort::cost(&frame, known)) {
            self.counters.refuse(Refusal::Flood);
            return Ok(());
        }
        match frame {
            Frame::Digest(digest) => self.on_digest::<K>(peer, &digest, batch),
            Frame::Branches(branches) => self.on_branches::<K>(peer, &branches, batch),
            Frame::Heads(heads) => self.on_heads::<K>(peer, heads, batch),
            Frame::Want(want) => self.on_want::<K>(peer, want, batch),
            Frame::Offers(offers) => {
                self.on_changes::<K>(peer, offers, batch);
                if K::CATEGORY == Category::Offers {
                    self.ask_cards(peer, batch);
                }
            }
            Frame::Cards(cards) if K::CATEGORY == Category::Offers => {
                self.on_cards(peer, cards, batch);
            }
            Frame::Cards(_) => {}
        }
        Ok(())
    }

    fn on_changes<K: Kind>(&mut self, peer: PeerId, offers: Offers, batch: &mut Batch) {
        let mut news = Vec::new();
        let mut passed_on = 0u32;
        let mut gaps = BTreeSet::new();
        let mut ahead = Ahead::new();
        let mut parted = Vec::new();
        let mut solicited = BTreeMap::new();
        let mut forked = Vec::new();
        let mut late = BTreeMap::new();
        let (mut changes, mut waiting) = (in_order(offers), VecDeque::new());
        while let Some(arrived) = self.next_admitted::<K>(&mut changes, &mut waiting, batch) {
            if self.is_out(&peer) {
                break;
            }
            let Some(author) = envelope::peer_id(&arrived.change.author) else {
                self.refuse(peer, Refusal::Author);
                continue;
            };
            if self.conducts.is_banned(&author) {
                self.refuse(peer, Refusal::Banned);
                continue;
            }
            if !K::admits(self, &author) {
                waiting.push_back(arrived);
                continue;
            }
            // Admins are few and bounded by themselves, and what they lay down must not wait behind others' news.
            if K::CATEGORY != Category::Charter && !self.works.has_some(&peer) {
                let ticks = self.ticks;
                let asked = &mut K::shelf_mut(self).asked;
                // Its name is not proven yet: only who was asked about it makes it rest.
                if asked.is_asked(&author, &peer) {
                    asked.rest(author, peer, ticks);
                }
                self.refuse(peer, Refusal::Rate);
                continue;
            }
            let follows = arrived.columns.is_some() && arrived.change.sequence > 1;
            let Some(change) = self.whole::<K>(peer, author, arrived, &mut ahead) else {
                continue;
            };
            let solicited = *solicited
                .entry(author)
                .or_insert_with(|| K::shelf(self).asked.is_asked(&author, &peer));
            let (me, mesh, limits) = (self.me, self.mesh, self.limits.clone());
            let paid = batch.touched.contains(&(K::CATEGORY, author));
            let documents = &mut K::shelf_mut(self).documents;
            let history = documents.history_cost(&author, change.epoch);
            let taken = documents.take(change.clone(), peer, paid, &me, &mesh, &limits);
            // A question stays open until something comes that was not known: an answer of old
            // changes would else free its sender to claim the same again.
            match taken {
                Ok(Outcome::Applied { before, evicted }) => {
                    self.counters.changes += 1;
                    self.counters.evicted += evicted.len() as u64;
                    let shelf = K::shelf_mut(self);
                    let now = shelf.documents.get(&author);
                    let weight = now.map_or(0, Author::weight);
                    // It is written once for all changes that come together.
                    let written = now.filter(|_| !paid).map_or(0, Author::signed_bytes);
                    let cost = effort::applied(weight)
                        .saturating_add(history)
                        .saturating_add(effort::written(written));
                    self.works.spend(peer, cost);
                    if !solicited {
                        passed_on = passed_on.saturating_add(cost.saturating_mul(WORK_AS_BYTES));
                    }
                    let shelf = K::shelf_mut(self);
                    shelf.asked.close(&author);
                    if solicited {
                        let knowing = shelf.unannounced.entry(author).or_default();
                        knowing.insert(peer);
                        knowing.extend(shelf.claimants.remove(&author).unwrap_or_default());
                    }
                    if let Some(now) = shelf.documents.get(&author).map(|log| log.said().clone()) {
                        K::became(self, &before, &now);
                    }
                    for (gone, said) in evicted {
                        K::shelf_mut(self).asked.close(&gone);
                        K::became(self, &said, &Arc::default());
                        batch.evicted.insert((K::CATEGORY, gone));
                    }
                    batch.touched.insert((K::CATEGORY, author));
                    if !solicited {
                        news.push(change);
                    }
                }
                Ok(Outcome::Repeat) => {
                    self.counters.repeats += 1;
                    self.efforts.spend(peer, 1);
                    self.tell_late::<K>(peer, &change, &mut late);
                }
                Ok(Outcome::Contradicted { before }) => {
                    tracing::warn!(%author, epoch = change.epoch, sequence = change.sequence,
                        "this author signed two different changes with one sequence; nothing of it is used until it starts anew");
                    self.contradicted::<K>(peer, author, &before, batch);
                }
                Ok(Outcome::Moot) => {
                    self.counters.refuse(Refusal::Equivocation);
                    self.efforts.spend(peer, 1);
                }
                Ok(Outcome::Gap) => {
                    gaps.insert(author);
                }
                Ok(Outcome::OwnFork) => {
                    self.counters.own_forks += 1;
                    let shelf = K::shelf_mut(self);
                    shelf.asked.close(&author);
                    shelf.forks.epoch = shelf.forks.epoch.max(change.epoch);
                    shelf.forks.due = true;
                    forked.push(change);
                }
                Err(refusal) => {
                    let refusal = match refusal {
                        Refusal::Signature if follows => Refusal::Parted,
                        refusal => refusal,
                    };
                    tracing::debug!(%peer, %author, epoch = change.epoch, sequence = change.sequence, %refusal, "change refused");
                    if refusal == Refusal::Parted {
                        parted.extend(self.ask_whole::<K>(peer, author, change.sequence));
                    }
                    if refusal == Refusal::Continuity {
                        parted.extend(self.before_parting::<K>(peer, author));
                    }
                    if refusal.is_authors_own() {
                        // Later changes of this author will look like a gap; asking for it now
                        // would bring this one again, without end.
                        let ticks = self.ticks;
                        K::shelf_mut(self).asked.rest(author, peer, ticks);
                    }
                    self.refuse(peer, refusal);
                    self.efforts.spend(peer, REFUSED);
                    if refusal.is_late() {
                        // A document says at most so many times what its change takes.
                        let said = change.change.len().saturating_mul(SAID_OF_CHANGE);
                        let said = u32::try_from(said).unwrap_or(u32::MAX);
                        let cost = effort::applied(said).saturating_add(history);
                        self.works.spend(peer, cost);
                    }
                    if refusal == Refusal::Replay {
                        tracing::warn!(%author, "what is kept of this author cannot be replayed; it is fetched anew");
                        self.forget::<K>(author, batch);
                    }
                    if refusal.is_poison() && self.conducts.poison(author, &change.signature) {
                        self.ban(author, batch);
                    }
                }
            }
        }
        for _ in waiting {
            self.refuse(peer, Refusal::Standing);
            self.efforts.spend(peer, 1);
        }
        self.read_fork::<K>(peer, &forked, batch);
        let forks = &K::shelf(self).forks;
        if forks.due && !forks.rolled && !forks.waits {
            self.resolve_fork::<K>(batch);
        }
        let bytes: usize = news.iter().map(|change| change.encoded_len()).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let bytes = bytes.saturating_add(passed_on);
        // What admins lay down is bounded by itself, and a revocation must not wait for the next digest.
        let pushes = K::CATEGORY == Category::Charter || self.spread.spend(peer, bytes);
        if !pushes && !news.is_empty() {
            self.counters.unspread += news.len() as u64;
        }
        if let Some(first) = news.first().filter(|_| pushes) {
            let receivers = self.some_peers(PUSHES, &BTreeSet::from([peer]), &first.signature);
            let knowing: BTreeSet<PeerId> = receivers.iter().copied().chain([peer]).collect();
            let pushed = &mut K::shelf_mut(self).pushed;
            for author in news.iter().filter_map(|c| envelope::peer_id(&c.author)) {
                pushed.insert(author, knowing.clone());
            }
            let frames = frames::news::<K>(news);
            for receiver in receivers {
                batch.send(receiver, frames.clone());
            }
        }
        for (receiver, heads) in late {
            batch.send(receiver, frames::heads(K::CATEGORY, &heads));
        }
        parted.extend(self.ask_ahead::<K>(peer, &ahead));
        let ticks = self.ticks;
        let shelf = K::shelf_mut(self);
        let behind = gaps
            .into_iter()
            .filter(|author| shelf.asked.ask(*author, peer, *author == peer, ticks))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|author| frames::question(&author, shelf.documents.position(&author)))
            .chain(parted)
            .collect();
        let idle = shelf.asked.is_idle();
        batch.send(peer, frames::want(K::CATEGORY, behind, &[]));
        if idle {
            self.announce::<K>(batch);
        }
    }

    /// The next change to be looked at. When there is no other, those that wait for their author to be
    /// admitted are, if what came before them has done that.
    fn next_admitted<K: Kind>(
        &mut self,
        changes: &mut VecDeque<Arrived>,
        waiting: &mut VecDeque<Arrived>,
        batch: &mut Batch,
    ) -> Option<Arrived> {
        if changes.is_empty() && !waiting.is_empty() && self.merge_due {
            self.remerge(batch);
            let admitted = |arrived: &Arrived| {
                envelope::peer_id(&arrived.change.author).is_some_and(|a| K::admits(self, &a))
            };
            let (now, still) = std::mem::take(waiting).into_iter().partition(admitted);
            (*changes, *waiting) = (now, still);
        }
        changes.pop_front()
    }

    /// Asks for the cards that are missing of offers that came from `peer`.
    fn ask_cards(&mut self, peer: PeerId, batch: &mut Batch) {
        let touched = batch.touched.iter();
        let touched = touched.filter(|(category, _)| *category == Category::Offers);
        let cards: BTreeSet<ExpertId> = touched
            .filter_map(|(_, author)| self.offers.said(author))
            .flat_map(|offer| &offer.experts)
            .copied()
            .collect();
        let own = batch.touched.contains(&(Category::Offers, peer));
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
        let want = frames::want(Category::Offers, Vec::new(), &missing);
        batch.send(peer, want);
    }

    /// Drops the documents of an author that signs poison again and again.
    fn ban(&mut self, author: PeerId, batch: &mut Batch) {
        tracing::warn!(%author, "this author signs changes that no document can contain; it is ignored for a while");
        self.forget::<OfferKind>(author, batch);
        self.forget::<CharterKind>(author, batch);
        self.forget::<ObservationKind>(author, batch);
    }

    fn forget<K: Kind>(&mut self, author: PeerId, batch: &mut Batch) {
        let shelf = K::shelf_mut(self);
        shelf.asked.close(&author);
        shelf.unannounced.remove(&author);
        if let Some(gone) = shelf.documents.remove(&author) {
            K::became(self, gone.said(), &Arc::default());
            batch.evicted.insert((K::CATEGORY, author));
        }
    }

    /// Tells some others what was learned in answers, and only those who did not say that they have
    /// it. A newcomer that told every document of thousands would tell them nothing new: many are
    /// left to the digest.
    pub(super) fn announce<K: Kind>(&mut self, batch: &mut Batch) {
        let authors = std::mem::take(&mut K::shelf_mut(self).unannounced);
        let documents = &K::shelf(self).documents;
        let mut told: BTreeMap<PeerId, Vec<OfferHead>> = BTreeMap::new();
        for (author, knowing) in &authors {
            let Some(known) = documents.known(author) else {
                continue;
            };
            let head = frames::head(author, &known);
            for peer in self.some_peers(ANNOUNCED, knowing, &author.to_bytes()) {
                told.entry(peer).or_default().push(head.clone());
            }
        }
        if authors.len() > FEW_HEADS {
            let digest = frames::digest(K::CATEGORY, documents.buckets());
            let last = authors.keys().next_back().map(|author| author.to_bytes());
            for peer in self.some_peers(ANNOUNCED, &BTreeSet::new(), &last.unwrap_or_default()) {
                if told.contains_key(&peer) {
                    batch.send(peer, [digest.clone()]);
                }
            }
            return;
        }
        for (peer, heads) in told {
            batch.send(peer, frames::heads(K::CATEGORY, &heads));
        }
    }

    /// Up to `most` peers, who are not among `except`: others for every `seed`, and others than those that
    /// other nodes choose. Were they the same, a peer that ranks low for a seed would be told by nobody.
    pub(super) fn some_peers(
        &self,
        most: usize,
        except: &BTreeSet<PeerId>,
        seed: &[u8],
    ) -> Vec<PeerId> {
        let mut others: Vec<PeerId> = self.peers.difference(except).copied().collect();
        if others.len() > most {
            let me = self.me.to_bytes();
            others.sort_by_cached_key(|peer| {
                let mut hasher = blake3::Hasher::new();
                hasher.update(seed).update(&me).update(&peer.to_bytes());
                *hasher.finalize().as_bytes()
            });
            others.truncate(most);
        }
        others
    }

    /// A change that was passed on comes once more: by now most know it, and some of those who may not
    /// are told that there is one: in one frame each of all that a frame brings once more.
    fn tell_late<K: Kind>(
        &mut self,
        peer: PeerId,
        change: &SignedChange,
        late: &mut BTreeMap<PeerId, Vec<OfferHead>>,
    ) {
        let Some(author) = envelope::peer_id(&change.author) else {
            return;
        };
        let shelf = K::shelf_mut(self);
        let known = shelf.documents.known(&author);
        let current = known.filter(|k| k.position == (change.epoch, change.sequence));
        let pushed = current.and_then(|known| Some((known, shelf.pushed.take(&author)?)));
        let Some((known, mut knowing)) = pushed else {
            return;
        };
        knowing.insert(peer);
        let head = frames::head(&author, &known);
        for receiver in self.some_peers(TOLD, &knowing, &change.signature) {
            late.entry(receiver).or_default().push(head.clone());
        }
    }

    fn on_cards(&mut self, peer: PeerId, cards: Cards, batch: &mut Batch) {
        let own = self.offers.documents.get(&peer);
        let own = own.map(|log| Arc::clone(log.said()));
        let own = own.as_ref().map_or(&[][..], |offer| &offer.experts);
        let mut awaited: BTreeMap<PeerId, Vec<_>> = BTreeMap::new();
        for bytes in cards.cards {
            if self.is_out(&peer) {
                break;
            }
            let (offers, charter) = (&self.offers.documents, &self.merged.charter);
            let vouched = || {
                let members = charter.trusted().into_iter();
                let offers = members.filter_map(|member| offers.get(&member));
                offers
                    .flat_map(|log| log.said().experts.iter().copied())
                    .collect()
            };
            match self.cards.take(&bytes, peer, own, vouched, &self.limits) {
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
                        awaited.entry(waiter).or_default().push(bytes.clone());
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
        for (waiter, cards) in awaited {
            batch.send(waiter, frames::cards(cards));
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
            let own = self.offers.documents.get(peer);
            let Some(own) = own.map(|log| Arc::clone(log.said())) else {
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
            batch.send(peer, frames::want(Category::Offers, Vec::new(), &cards));
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
