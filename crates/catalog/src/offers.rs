//! The table of offers: per author the signed changes of the current epoch and what they say.
//!
//! Decides in which order a change is checked and what becomes of it. Documents are cold: the bytes
//! of their signed changes, and what they say; the few that were changed last are kept live.

mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use polymath_proto::v1::SignedChange;
use polymath_types::{ExpertId, MeshId, NodeKey, PeerId, PeerOffer};

use crate::{
    CatalogLimits, Refusal,
    buckets::{Buckets, Position},
    document::{Document, Head, View, check_continuity},
    envelope,
    evictions::Evictions,
    limits::{CHANGE_BURST, CHANGES_A_TICK, HOT_DOCUMENTS},
    log::Log,
};

/// Everything known of one author.
#[derive(Debug)]
pub(crate) struct Author {
    /// The changes of the present epoch, from the first one on.
    log: Log,
    head: Head,
    /// What they say; the index has the same one.
    offer: Arc<PeerOffer>,
    /// The peer that brought it; unknown after a restart.
    introducer: Option<PeerId>,
    /// The tick in which it was last connected or changed, as far as that is known.
    seen: Option<u64>,
    /// The tick of which its record on the disk says that it was seen.
    noted: u64,
    /// How often its record may be written before the next tick, as of tick `counted`.
    writes: u32,
    counted: u64,
    /// It signed two different changes with one sequence.
    equivocated: bool,
}

impl Author {
    /// `log` is not empty; it leads to `head` and says `view`.
    pub(crate) fn new(epoch: u64, log: Log, head: Head, view: View) -> Self {
        Self {
            offer: Arc::new(view.into_offer((epoch, log.len()))),
            log,
            head,
            introducer: None,
            seen: None,
            noted: 0,
            writes: CHANGE_BURST,
            counted: 0,
            equivocated: false,
        }
    }

    /// The same author, last seen in tick `seen` of an earlier run; 0 is not known.
    pub(crate) fn last_seen(mut self, seen: u64) -> Self {
        self.seen = (seen > 0).then_some(seen);
        self.noted = seen;
        self
    }

    /// When it was last seen; 0 is not known.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.unwrap_or(0)
    }

    /// Writes left at `tick`.
    fn writes_at(&self, tick: u64) -> u32 {
        let ticks = u32::try_from(tick.saturating_sub(self.counted)).unwrap_or(u32::MAX);
        let more = ticks.saturating_mul(CHANGES_A_TICK);
        self.writes.saturating_add(more).min(CHANGE_BURST)
    }

    fn epoch(&self) -> u64 {
        self.offer.epoch
    }

    fn bytes(&self) -> usize {
        self.log.change_bytes()
    }

    pub(crate) fn position(&self) -> Position {
        (self.epoch(), self.log.len())
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn head(&self) -> Head {
        self.head
    }

    pub(crate) fn offer(&self) -> &Arc<PeerOffer> {
        &self.offer
    }

    pub(crate) fn view(&self) -> View {
        View::of(&self.offer)
    }

    /// What whoever knows the document up to `position` lacks.
    pub(crate) fn after(&self, (epoch, sequence): Position) -> Vec<SignedChange> {
        match self.epoch().cmp(&epoch) {
            std::cmp::Ordering::Less => Vec::new(),
            std::cmp::Ordering::Greater => self.log.changes(),
            std::cmp::Ordering::Equal => self.log.after(sequence),
        }
    }
}

/// Experts that an offer names from now on, and those that it no longer names.
pub(crate) type Turnover = (Vec<ExpertId>, Vec<ExpertId>);

/// What became of a change that was not refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It continues its document and was applied; these experts' references changed, and these
    /// authors gave way to it.
    Applied {
        added: Vec<ExpertId>,
        removed: Vec<ExpertId>,
        evicted: Vec<PeerId>,
    },
    /// Known, or of an epoch that is over.
    Repeat,
    /// Changes before it are missing.
    Gap,
    /// Signed by us, but not in our document: our storage was lost or restored.
    OwnFork,
}

#[derive(Debug, Default)]
pub(crate) struct Offers {
    authors: BTreeMap<PeerId, Author>,
    buckets: Buckets,
    bytes: usize,
    /// Least recently changed first.
    hot: Vec<(PeerId, u64, Document)>,
    connected: BTreeSet<PeerId>,
    tick: u64,
    /// How many gave way in this tick, to whom.
    evictions: Evictions,
    forgotten: BTreeMap<PeerId, room::Forgotten>,
}

impl Offers {
    pub(crate) fn get(&self, author: &PeerId) -> Option<&Author> {
        self.authors.get(author)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Author)> {
        self.authors.iter()
    }

    /// How far every document is known.
    pub(crate) fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// How far an author's document is known; (0, 0) is not at all.
    pub(crate) fn position(&self, author: &PeerId) -> Position {
        self.get(author).map_or((0, 0), Author::position)
    }

    /// Puts back what a record held. Our own always fits: without it we would contradict ourselves.
    pub(crate) fn restore(
        &mut self,
        author: PeerId,
        log: Author,
        me: &PeerId,
        limits: &CatalogLimits,
    ) -> bool {
        let fits = author == *me
            || self.authors.len() < limits.authors
                && self.bytes + log.bytes() <= limits.offer_bytes;
        if fits {
            self.bytes += log.bytes();
            self.buckets.set(author, log.position());
            self.authors.insert(author, log);
        }
        fits
    }

    /// Forgets everything of an author.
    pub(crate) fn remove(&mut self, author: &PeerId) -> Option<Author> {
        let gone = self.authors.remove(author)?;
        self.bytes -= gone.bytes();
        self.buckets.remove(author);
        self.hot.retain(|(a, ..)| a != author);
        Some(gone)
    }

    /// Whether it is news that `author` signed two different changes with one sequence.
    pub(crate) fn equivocated(&mut self, author: &PeerId) -> bool {
        self.authors
            .get_mut(author)
            .is_some_and(|log| !std::mem::replace(&mut log.equivocated, true))
    }

    /// Takes a change that `from` brings. Order of checks: form and size, repeats by comparison,
    /// signature, sequence, bounds, the chunk's own structure, then a copy of the document.
    /// `paid`: the author's record will be written anyway, so another change of the same epoch
    /// costs little.
    pub(crate) fn take(
        &mut self,
        change: SignedChange,
        from: PeerId,
        paid: bool,
        me: &PeerId,
        mesh: &MeshId,
        limits: &CatalogLimits,
    ) -> Result<Outcome, Refusal> {
        let author = envelope::check_form(&change, limits)?;
        let (epoch, sequence) = (change.epoch, change.sequence);
        let (known_epoch, known_sequence) = self.position(&author);
        if epoch < known_epoch {
            return Ok(Outcome::Repeat);
        }
        let same_epoch = epoch == known_epoch;
        let known = self
            .get(&author)
            .filter(|_| same_epoch && sequence <= known_sequence);
        if let Some(log) = known
            && log
                .log
                .get(sequence)
                .is_some_and(|c| c.change == change.change)
        {
            return Ok(Outcome::Repeat);
        }
        envelope::check_signature(&change, &author, mesh)?;
        if author == *me {
            return Ok(Outcome::OwnFork);
        }
        if known.is_some() {
            return Err(Refusal::Equivocation);
        }
        let expected = if same_epoch { known_sequence + 1 } else { 1 };
        if sequence != expected {
            return Ok(Outcome::Gap);
        }
        if sequence > limits.changes_per_epoch as u64 {
            return Err(Refusal::TooMuch);
        }
        let log = self.get(&author);
        let writes = log.map_or(CHANGE_BURST, |l| l.writes_at(self.tick));
        let cost = u32::from(!(paid && same_epoch));
        let Some(writes) = writes.checked_sub(cost) else {
            return Err(Refusal::Rate);
        };
        let kept = log.filter(|_| same_epoch);
        let kept_epoch = kept.is_some();
        let replaced = log.filter(|_| !same_epoch).map_or(0, Author::bytes);
        // Before what is counted over the whole history: of an author that signed two, an honest peer
        // may hold the other one, in which this change is not too much.
        let expected = check_continuity(
            &change.change,
            &author,
            epoch,
            sequence,
            kept.map(Author::head),
            limits,
        )?;
        if kept.map_or(0, Author::bytes) + change.change.len() > limits.document_bytes {
            return Err(Refusal::TooMuch);
        }
        let places = self.authors.len() + 1;
        let lack = room::Lack {
            authors: if log.is_none() {
                places.saturating_sub(limits.authors)
            } else {
                0
            },
            bytes: (self.bytes - replaced + change.change.len()).saturating_sub(limits.offer_bytes),
        };
        let (going, pot) = self.room_for(lack, &author, &from, me, limits)?;
        // What cannot be replayed was damaged here: it is not the author who signed poison.
        let document = self.document(&author, epoch).map_err(|_| Refusal::Replay)?;
        match document.with_change(&change.change, expected, limits) {
            Ok((changed, view, head)) => {
                let gone: Vec<Author> = going
                    .iter()
                    .filter_map(|a| self.evict(a, from, pot, limits))
                    .collect();
                let (added, mut removed) =
                    self.commit(author, from, epoch, changed, change, head, view);
                removed.extend(gone.iter().flat_map(|log| &log.offer.experts));
                if let Some(log) = self.authors.get_mut(&author) {
                    (log.writes, log.counted) = (writes, self.tick);
                }
                Ok(Outcome::Applied {
                    added,
                    removed,
                    evicted: going,
                })
            }
            Err(refusal) => {
                // As it was; else every bad change would cost a replay of the document.
                if kept_epoch {
                    self.keep_hot(author, epoch, document);
                }
                Err(refusal)
            }
        }
    }

    /// Writes the next change of our own document. `epoch` above the present one starts a fresh
    /// document. No change when it says `to` already; else the experts that came and went.
    pub(crate) fn write(
        &mut self,
        key: &NodeKey,
        mesh: &MeshId,
        epoch: u64,
        to: View,
    ) -> Result<Option<Turnover>, Refusal> {
        let me = key.peer_id();
        let log = self.get(&me).filter(|l| l.epoch() == epoch);
        let (from, sequence) = (log.map(Author::view), log.map_or(0, |l| l.log.len()) + 1);
        if from.as_ref() == Some(&to) {
            return Ok(None);
        }
        let (document, bytes, head) = self.document(&me, epoch)?.edited(from.as_ref(), &to)?;
        let change = envelope::sign(key, mesh, epoch, sequence, bytes)?;
        Ok(Some(self.commit(me, me, epoch, document, change, head, to)))
    }

    /// Bytes of all changes of an author's present epoch.
    pub(crate) fn document_bytes(&self, author: &PeerId) -> usize {
        self.get(author).map_or(0, Author::bytes)
    }

    /// The author's live document, or an empty one for an epoch that begins.
    fn document(&mut self, author: &PeerId, epoch: u64) -> Result<Document, Refusal> {
        if let Some(at) = self
            .hot
            .iter()
            .position(|(a, e, _)| a == author && *e == epoch)
        {
            return Ok(self.hot.remove(at).2);
        }
        match self.get(author).filter(|l| l.epoch() == epoch) {
            Some(log) => Document::replay(author, epoch, &log.log.changes(), log.head),
            None => Ok(Document::new(author, epoch)),
        }
    }

    fn keep_hot(&mut self, author: PeerId, epoch: u64, document: Document) {
        self.hot.retain(|(a, ..)| *a != author);
        if self.hot.len() >= HOT_DOCUMENTS {
            self.hot.remove(0);
        }
        self.hot.push((author, epoch, document));
    }

    #[allow(clippy::too_many_arguments)] // all of it is one document's new state
    fn commit(
        &mut self,
        author: PeerId,
        from: PeerId,
        epoch: u64,
        document: Document,
        change: SignedChange,
        head: Head,
        view: View,
    ) -> Turnover {
        self.keep_hot(author, epoch, document);
        self.forgotten.remove(&author);
        self.bytes += change.change.len();
        let log = self
            .authors
            .entry(author)
            .or_insert_with(|| Author::new(epoch, Log::default(), head, View::default()));
        let met = self.connected.contains(&author);
        log.introducer
            .get_or_insert(if met { author } else { from });
        log.seen = Some(self.tick);
        log.noted = self.tick;
        if log.epoch() != epoch {
            self.bytes -= log.bytes();
            log.log = Log::default();
        }
        log.log.push(change);
        log.head = head;
        let position = (epoch, log.log.len());
        let offer = Arc::new(view.into_offer(position));
        let before = std::mem::replace(&mut log.offer, offer);
        self.buckets.set(author, position);
        let lacking = |from: &PeerOffer, what: &PeerOffer| {
            let from: BTreeSet<&ExpertId> = from.experts.iter().collect();
            let gone = what.experts.iter().filter(|id| !from.contains(id));
            gone.copied().collect()
        };
        (lacking(&before, &log.offer), lacking(&log.offer, &before))
    }
}
