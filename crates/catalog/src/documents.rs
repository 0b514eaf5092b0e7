//! The table of one kind of documents: per author the signed changes of the current epoch and what they
//! say.
//!
//! Decides in which order a change is checked and what becomes of it. Documents are cold: the bytes
//! of their signed changes, and what they say; the few that were changed last are kept live.

mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use polymath_proto::v1::SignedChange;
use polymath_types::{MeshId, NodeKey, PeerId};

use crate::{
    CatalogLimits, Refusal,
    buckets::{Buckets, Known, MARK, Position},
    chunk,
    document::{Document, Head, check_continuity},
    effort, envelope,
    evictions::Evictions,
    kind::{Bounds, Kind},
    limits::{APPLIED_A_TICK, HOT_DOCUMENTS, latest_epoch},
    log::{self, Log},
};

/// Everything known of one author.
#[derive(Debug)]
pub(crate) struct Author<K: Kind> {
    epoch: u64,
    /// The changes of the present epoch, from the first one on.
    log: Log,
    head: Head,
    /// What they say.
    said: Arc<K::Said>,
    /// What that costs in memory beside the changes, bytes.
    weight: u32,
    /// The peer that brought it; unknown after a restart.
    introducer: Option<PeerId>,
    /// The tick in which it was last connected or changed, as far as that is known.
    seen: Option<u64>,
    /// The tick of which its record on the disk says that it was seen.
    noted: u64,
    /// What may be spent on writing its record before the next tick, as of tick `counted`; nothing is as
    /// much as may be.
    writes: Option<u32>,
    counted: u64,
    /// Changes that were applied without a pause, as of the same tick.
    applied: u32,
    /// It signed two different changes with one sequence of the present epoch. Nothing more is taken of such an
    /// epoch but what shows that they part earlier, and nothing of what it says from there on is used: which of
    /// the two came first differs from node to node.
    parted: Option<Box<Parted>>,
}

/// Where the histories part of one that contradicts itself: at the first sequence of which two changes are known.
#[derive(Debug)]
struct Parted {
    /// One of them; the other is in the log.
    other: SignedChange,
    /// The hash of the change before; zeros if there is none.
    before: [u8; 32],
}

impl<K: Kind> Author<K> {
    /// `log` is not empty; it leads to `head` and says `view`.
    pub(crate) fn new(epoch: u64, log: Log, head: Head, view: K::View) -> Self {
        let said = Arc::new(K::said(view, (epoch, log.len())));
        Self {
            epoch,
            weight: weight::<K>(&said),
            said,
            log,
            head,
            introducer: None,
            seen: None,
            noted: 0,
            writes: None,
            counted: 0,
            applied: 0,
            parted: None,
        }
    }

    /// The same author, last seen in tick `seen` of an earlier run; 0 is not known.
    pub(crate) fn last_seen(mut self, seen: u64) -> Self {
        self.seen = (seen > 0).then_some(seen);
        self.noted = seen;
        self
    }

    /// The same author, which also signed `other` in the place of a change of its log; what it said
    /// before that was known.
    pub(crate) fn contradict(&mut self, author: &PeerId, other: SignedChange) -> Arc<K::Said> {
        let below = other.sequence.saturating_sub(1);
        let mut changes = self.log.changes();
        let next = changes.get(usize::try_from(below).unwrap_or(usize::MAX));
        let follows = next.and_then(|next| chunk::header(&next.change)?.follows());
        let head = follows.unwrap_or_default();
        changes.truncate(usize::try_from(below).unwrap_or(0));
        let before = head.hash;
        self.parted = Some(Box::new(Parted { other, before }));
        let undisputed = K::undisputed(author, self.epoch, &changes, head);
        let said = K::said(undisputed.unwrap_or_default(), self.position());
        self.weight = weight::<K>(&said);
        std::mem::replace(&mut self.said, Arc::new(said))
    }

    /// Changes applied without a pause, as of `tick`.
    fn applied_at(&self, tick: u64, bounds: &Bounds) -> u32 {
        let ticks = u32::try_from(tick.saturating_sub(self.counted)).unwrap_or(u32::MAX);
        let most = bounds.changes_a_tick.max(APPLIED_A_TICK);
        self.applied.saturating_sub(ticks.saturating_mul(most))
    }

    /// What it signed in the place of a change of its log, if it contradicts itself.
    pub(crate) fn other(&self) -> Option<&SignedChange> {
        self.parted.as_ref().map(|parted| &parted.other)
    }

    /// When it was last seen; 0 is not known.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.unwrap_or(0)
    }

    /// What is left for writes at `tick`.
    fn writes_at(&self, tick: u64, bounds: &Bounds) -> u32 {
        let ticks = u32::try_from(tick.saturating_sub(self.counted)).unwrap_or(u32::MAX);
        let more = ticks.saturating_mul(bounds.changes_a_tick);
        let left = self.writes.unwrap_or(bounds.burst);
        left.saturating_add(more).min(bounds.burst)
    }

    /// What it says costs in memory beside the changes, bytes.
    pub(crate) fn weight(&self) -> u32 {
        self.weight
    }

    /// Bytes of what it signed.
    pub(crate) fn signed_bytes(&self) -> usize {
        self.log.change_bytes() + self.other().map_or(0, |other| other.change.len())
    }

    /// What is held of it, bytes: signed changes can be seven times as small as what they say.
    fn bytes(&self) -> usize {
        self.signed_bytes() + self.weight as usize
    }

    pub(crate) fn position(&self) -> Position {
        (self.epoch, self.log.len())
    }

    /// How far it is known; of one that contradicts itself no more of this epoch is to be had.
    fn final_position(&self) -> Position {
        match self.parted {
            Some(_) => (self.epoch, u64::MAX),
            None => self.position(),
        }
    }

    /// What is known of the document.
    fn known(&self) -> Known {
        let parted = self.parted.as_ref();
        let hash = parted.map_or(&self.head.hash, |parted| &parted.before);
        let sequence = parted.map_or(self.log.len(), |parted| parted.other.sequence);
        let mut mark = [0; MARK];
        mark.copy_from_slice(&hash[..MARK]);
        Known {
            position: (self.epoch, sequence),
            mark,
            parted: parted.is_some(),
        }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn head(&self) -> Head {
        self.head
    }

    pub(crate) fn said(&self) -> &Arc<K::Said> {
        &self.said
    }

    pub(crate) fn view(&self) -> K::View {
        K::view(&self.said)
    }

    /// What whoever knows the document up to `position` lacks; of one that contradicts itself, the log
    /// up to where its versions part, and both. Only the author itself has a use for more.
    pub(crate) fn after(&self, (epoch, sequence): Position, itself: bool) -> Vec<SignedChange> {
        let from = match self.epoch.cmp(&epoch) {
            std::cmp::Ordering::Less => return Vec::new(),
            std::cmp::Ordering::Greater => 0,
            std::cmp::Ordering::Equal => sequence,
        };
        let Some(other) = self.other() else {
            return self.log.after(from);
        };
        let mut changes = self.log.after(from.min(other.sequence.saturating_sub(1)));
        changes.retain(|change| itself || change.sequence <= other.sequence);
        changes.push(other.clone());
        changes
    }
}

fn weight<K: Kind>(said: &K::Said) -> u32 {
    u32::try_from(K::weight(said)).unwrap_or(u32::MAX)
}

/// What is known of what a change follows.
#[derive(Debug)]
pub(crate) enum Before {
    /// The end of the history before it; `None` if it is the first of its epoch.
    Known(Option<Head>),
    /// It is of an epoch that is over.
    Over,
    /// The change before it is not here.
    Missing,
}

/// What became of a change that was not refused.
#[derive(Debug)]
pub(crate) enum Outcome<K: Kind> {
    /// It continues its document and was applied; what was said before, and who gave way to it.
    Applied {
        before: Arc<K::Said>,
        evicted: Vec<(PeerId, Arc<K::Said>)>,
    },
    /// Known, or of an epoch that is over.
    Repeat,
    /// It proves that its author contradicts itself; what was said before. The author is gone if there
    /// was no room for the proof.
    Contradicted { before: Arc<K::Said> },
    /// Its author is known to contradict itself in that epoch; it was not looked at.
    Moot,
    /// Changes before it are missing.
    Gap,
    /// Signed by us, but not in our document: our storage was lost or restored.
    OwnFork,
}

/// What the first change of a document takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anew {
    pub(crate) bytes: usize,
    pub(crate) operations: u64,
}

/// Holds a change of our own, which led to `document`, against what everybody else will hold it against:
/// published in good faith, poison is poison. What is more than others take is [`Refusal::TooMuch`].
fn check_own<K: Kind>(
    document: &Document,
    bytes: &[u8],
    me: &PeerId,
    (epoch, sequence): Position,
    before: Option<Head>,
    limits: &CatalogLimits,
) -> Result<(), Refusal> {
    let bounds = K::bounds(limits);
    if bytes.len() > bounds.change_bytes || sequence > bounds.changes_per_epoch as u64 {
        return Err(Refusal::TooMuch);
    }
    let continues = check_continuity::<K>(bytes, me, epoch, sequence, before, limits);
    continues.map_err(|refusal| match refusal {
        // Of our own making it is one change of one actor: all that can be amiss is its size.
        Refusal::Chunk => Refusal::TooMuch,
        refusal => refusal,
    })?;
    document.view::<K>(limits).map(|_| ())
}

#[derive(Debug)]
pub(crate) struct Documents<K: Kind> {
    authors: BTreeMap<PeerId, Author<K>>,
    buckets: Buckets,
    bytes: usize,
    /// Least recently changed first.
    hot: Vec<(PeerId, u64, Document)>,
    connected: BTreeSet<PeerId>,
    tick: u64,
    /// The highest epoch there can be now.
    latest_epoch: u64,
    /// How many gave way in this tick, to whom.
    evictions: Evictions,
    forgotten: BTreeMap<PeerId, room::Forgotten>,
    /// Those for whom an admin stands: strangers give way before them.
    members: Arc<BTreeSet<PeerId>>,
}

impl<K: Kind> Default for Documents<K> {
    fn default() -> Self {
        Self {
            authors: BTreeMap::new(),
            buckets: Buckets::default(),
            bytes: 0,
            hot: Vec::new(),
            connected: BTreeSet::new(),
            tick: 0,
            latest_epoch: latest_epoch(0),
            evictions: Evictions::default(),
            forgotten: BTreeMap::new(),
            members: Arc::default(),
        }
    }
}

impl<K: Kind> Documents<K> {
    /// Says which epoch is the highest there can be.
    pub(crate) fn set_latest_epoch(&mut self, epoch: u64) {
        self.latest_epoch = epoch;
    }

    /// Whether an author can have begun so high an epoch.
    pub(crate) fn is_begun(&self, epoch: u64) -> bool {
        epoch <= self.latest_epoch
    }

    pub(crate) fn get(&self, author: &PeerId) -> Option<&Author<K>> {
        self.authors.get(author)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Author<K>)> {
        self.authors.iter()
    }

    /// How far every document is known.
    pub(crate) fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// What is known of an author's document.
    pub(crate) fn known(&self, author: &PeerId) -> Option<Known> {
        self.get(author).map(Author::known)
    }

    /// What `asker` lacks, who knows an author's document up to `position`.
    pub(crate) fn after(
        &self,
        author: &PeerId,
        position: Position,
        asker: &PeerId,
    ) -> Vec<SignedChange> {
        let log = self.get(author);
        log.map_or_else(Vec::new, |log| log.after(position, asker == author))
    }

    /// Whether it is known that an author signed two changes with one sequence of its present epoch.
    pub(crate) fn contradicts_itself(&self, author: &PeerId) -> bool {
        self.get(author).is_some_and(|a| a.parted.is_some())
    }

    /// Keeps a change that cannot stand beside those kept of its author, who signed both. Without room for
    /// it the author is forgotten: replicas that hold one version each would never find rest.
    fn contradict(
        &mut self,
        author: PeerId,
        change: SignedChange,
        limits: &CatalogLimits,
    ) -> Outcome<K> {
        self.hot.retain(|(a, ..)| *a != author);
        let Some(log) = self.authors.get_mut(&author) else {
            return Outcome::Moot;
        };
        self.bytes -= log.bytes();
        let before = log.contradict(&author, log::detached(&change));
        self.bytes += log.bytes();
        if self.bytes > K::bounds(limits).bytes {
            self.forget(&author, limits);
        } else {
            let known = log.known();
            self.buckets.update(&author, known);
        }
        Outcome::Contradicted { before }
    }

    /// How far an author's document is known; (0, 0) is not at all.
    pub(crate) fn position(&self, author: &PeerId) -> Position {
        self.get(author).map_or((0, 0), Author::position)
    }

    /// What the change at a position follows, as far as it is known here.
    pub(crate) fn before(&self, author: &PeerId, (epoch, sequence): Position) -> Before {
        let log = self.get(author);
        let (known_epoch, known_sequence) = self.position(author);
        if epoch < known_epoch {
            return Before::Over;
        }
        if sequence == 1 {
            return Before::Known(None);
        }
        let Some(log) = log.filter(|_| epoch == known_epoch) else {
            return Before::Missing;
        };
        if sequence == known_sequence.saturating_add(1) {
            return Before::Known(Some(log.head));
        }
        // The one that is kept in its place says what it follows itself.
        let kept = log.log.get(sequence);
        let follows = kept.and_then(|kept| chunk::header(&kept.change)?.follows());
        follows.map_or(Before::Missing, |head| Before::Known(Some(head)))
    }

    /// Puts back what a record held. Our own always fits: without it we would contradict ourselves.
    pub(crate) fn restore(
        &mut self,
        author: PeerId,
        log: Author<K>,
        me: &PeerId,
        limits: &CatalogLimits,
    ) -> bool {
        let fits = author == *me
            || self.authors.len() < K::bounds(limits).authors
                && self.bytes + log.bytes() <= K::bounds(limits).bytes;
        if fits {
            self.bytes += log.bytes();
            self.buckets.set(author, log.known());
            self.authors.insert(author, log);
        }
        fits
    }

    /// Whether others are told that the document is here.
    pub(crate) fn show(&mut self, author: &PeerId, shown: bool) {
        match self.known(author) {
            Some(known) if shown => self.buckets.set(*author, known),
            _ => self.buckets.remove(author),
        }
    }

    /// Forgets everything of an author.
    pub(crate) fn remove(&mut self, author: &PeerId) -> Option<Author<K>> {
        let gone = self.authors.remove(author)?;
        self.bytes -= gone.bytes();
        self.buckets.remove(author);
        self.hot.retain(|(a, ..)| a != author);
        Some(gone)
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
    ) -> Result<Outcome<K>, Refusal> {
        let bounds = K::bounds(limits);
        let author = envelope::check_form::<K>(&change, limits)?;
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
        // Of an epoch in which its author contradicts itself nothing more is taken, but where it did so first:
        // all replicas stay where they are until the author, which learns of it, begins the next.
        let other = self.get(&author).filter(|_| same_epoch);
        let other = other.and_then(Author::other);
        if let Some(other) = other.filter(|other| sequence >= other.sequence) {
            let repeated = other.sequence == sequence && other.change == change.change;
            return Ok(if repeated {
                Outcome::Repeat
            } else {
                Outcome::Moot
            });
        }
        envelope::check_signature::<K>(&change, &author, mesh)?;
        if !self.is_begun(epoch) {
            return Err(Refusal::Epoch);
        }
        if author == *me {
            return Ok(Outcome::OwnFork);
        }
        if known.is_some() {
            return Ok(self.contradict(author, change, limits));
        }
        let expected = if same_epoch { known_sequence + 1 } else { 1 };
        if sequence != expected {
            return Ok(Outcome::Gap);
        }
        if sequence > bounds.changes_per_epoch as u64 {
            return Err(Refusal::TooMuch);
        }
        let log = self.get(&author);
        let writes = log.map_or(bounds.burst, |l| l.writes_at(self.tick, &bounds));
        let free = paid && same_epoch;
        let cost = if free { 0 } else { bounds.change_cost };
        let Some(writes) = writes.checked_sub(cost) else {
            return Err(Refusal::Rate);
        };
        // One record is written however many changes come in one frame, but each is applied.
        let applied = log.map_or(0, |l| l.applied_at(self.tick, &bounds)) + 1;
        if applied as usize > bounds.changes_per_epoch.max(bounds.burst as usize) {
            return Err(Refusal::Rate);
        }
        let kept = log.filter(|_| same_epoch);
        let kept_epoch = kept.is_some();
        let replaced = log.map_or(0, |l| {
            if same_epoch {
                l.weight as usize
            } else {
                l.bytes()
            }
        });
        // Before what is counted over the whole history: of an author that signed two, an honest peer
        // may hold the other one, in which this change is not too much.
        let expected = check_continuity::<K>(
            &change.change,
            &author,
            epoch,
            sequence,
            kept.map(Author::head),
            limits,
        )?;
        if kept.map_or(0, Author::signed_bytes) + change.change.len() > bounds.document_bytes {
            return Err(Refusal::TooMuch);
        }
        let places = self.authors.len() + 1;
        let lack = room::Lack {
            authors: if log.is_none() {
                places.saturating_sub(bounds.authors)
            } else {
                0
            },
            bytes: (self.bytes - replaced + change.change.len()).saturating_sub(bounds.bytes),
        };
        let (going, pot) = self.room_for(lack, &author, &from, me, limits)?;
        // What cannot be replayed was damaged here: it is not the author who signed poison.
        let document = self.document(&author, epoch).map_err(|_| Refusal::Replay)?;
        match document.with_change::<K>(&change.change, expected, limits) {
            Ok((changed, view, head)) => {
                // What it says is held too, and known only now.
                let said = K::said(view.clone(), (epoch, sequence));
                let weight = K::weight(&said);
                let freed: usize = going.iter().map(|a| self.held_bytes(a)).sum();
                let lacks = (self.bytes - replaced + change.change.len() + weight)
                    .saturating_sub(bounds.bytes);
                let (going, pot) = if lacks > freed {
                    let lack = room::Lack {
                        bytes: lacks,
                        ..lack
                    };
                    match self.room_for(lack, &author, &from, me, limits) {
                        Ok(found) => found,
                        Err(refusal) => {
                            if kept_epoch {
                                self.keep_hot(author, epoch, document);
                            }
                            return Err(refusal);
                        }
                    }
                } else {
                    (going, pot)
                };
                let evicted = going
                    .iter()
                    .filter_map(|a| Some((*a, self.evict(a, from, pot, limits)?.said)))
                    .collect();
                let before = self.commit(author, from, epoch, changed, change, head, view);
                if let Some(log) = self.authors.get_mut(&author) {
                    (log.writes, log.counted) = (Some(writes), self.tick);
                    log.applied = applied;
                }
                Ok(Outcome::Applied { before, evicted })
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
    /// document. No change when it says `to` already; else what it said before.
    pub(crate) fn write(
        &mut self,
        key: &NodeKey,
        mesh: &MeshId,
        epoch: u64,
        to: K::View,
        limits: &CatalogLimits,
    ) -> Result<Option<Arc<K::Said>>, Refusal> {
        let me = key.peer_id();
        let log = self.get(&me).filter(|l| l.epoch == epoch);
        let (from, sequence) = (log.map(Author::view), log.map_or(0, |l| l.log.len()) + 1);
        if from.as_ref() == Some(&to) {
            return Ok(None);
        }
        let (before, kept) = (log.map(Author::head), log.map_or(0, Author::signed_bytes));
        let document = self.document(&me, epoch)?;
        let (document, bytes, head) = document.edited::<K>(from.as_ref(), &to)?;
        check_own::<K>(&document, &bytes, &me, (epoch, sequence), before, limits)?;
        if kept + bytes.len() > K::bounds(limits).document_bytes {
            return Err(Refusal::TooMuch);
        }
        let change = envelope::sign::<K>(key, mesh, epoch, sequence, bytes)?;
        Ok(Some(self.commit(me, me, epoch, document, change, head, to)))
    }

    /// Whether our document can be started anew with all of `to`, and what that takes.
    pub(crate) fn check_anew(
        me: &PeerId,
        to: &K::View,
        limits: &CatalogLimits,
    ) -> Result<Anew, Refusal> {
        let (document, bytes, head) = Document::new::<K>(me, 1).edited::<K>(None, to)?;
        check_own::<K>(&document, &bytes, me, (1, 1), None, limits)?;
        Ok(Anew {
            bytes: bytes.len(),
            operations: head.last_op,
        })
    }

    /// What `author`'s document says in a version that is not kept: `changes` of `epoch`, in order,
    /// after those of the kept one that come before them.
    pub(crate) fn branch<'a>(
        &self,
        author: &PeerId,
        epoch: u64,
        changes: impl Iterator<Item = &'a SignedChange>,
        limits: &CatalogLimits,
    ) -> Option<K::View> {
        let changes: Vec<&SignedChange> = changes.collect();
        let first = changes.first()?.sequence;
        let kept = self.get(author).filter(|l| l.epoch == epoch);
        let mut all = kept.map(|l| l.log.changes()).unwrap_or_default();
        all.truncate(usize::try_from(first.checked_sub(1)?).ok()?);
        all.extend(changes.into_iter().cloned());
        let (mut document, mut head) = (Document::new::<K>(author, epoch), None);
        let (mut says, mut sequence) = (None, 0);
        for change in &all {
            // There may be a third version, which is left.
            if change.sequence == sequence {
                continue;
            }
            sequence += 1;
            let bytes = &change.change;
            if change.sequence != sequence {
                return None;
            }
            let expected =
                check_continuity::<K>(bytes, author, epoch, sequence, head, limits).ok()?;
            let (changed, view, at) = document.with_change::<K>(bytes, expected, limits).ok()?;
            (document, head, says) = (changed, Some(at), Some(view));
        }
        says
    }

    /// What it costs to have an author's document at hand, that of its epoch, in about a microsecond each.
    pub(crate) fn history_cost(&self, author: &PeerId, epoch: u64) -> u32 {
        let live = self.hot.iter().any(|(a, e, _)| a == author && *e == epoch);
        let known = self.get(author).filter(|log| log.epoch == epoch);
        known.map_or(0, |log| effort::history(log.head.last_op, live))
    }

    /// Bytes of all changes of an author's present epoch.
    pub(crate) fn document_bytes(&self, author: &PeerId) -> usize {
        self.get(author).map_or(0, Author::signed_bytes)
    }

    /// What is held of an author, bytes.
    pub(super) fn held_bytes(&self, author: &PeerId) -> usize {
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
        match self.get(author).filter(|l| l.epoch == epoch) {
            Some(log) => Document::replay::<K>(author, epoch, &log.log.changes(), log.head),
            None => Ok(Document::new::<K>(author, epoch)),
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
        view: K::View,
    ) -> Arc<K::Said> {
        self.keep_hot(author, epoch, document);
        self.forgotten.remove(&author);
        let held = self.held_bytes(&author);
        let log = self
            .authors
            .entry(author)
            .or_insert_with(|| Author::new(epoch, Log::default(), head, K::View::default()));
        let met = self.connected.contains(&author);
        log.introducer
            .get_or_insert(if met { author } else { from });
        log.seen = Some(self.tick);
        log.noted = self.tick;
        if log.epoch != epoch {
            log.log = Log::default();
            log.epoch = epoch;
            log.parted = None;
        }
        log.log.push(change);
        log.head = head;
        let position = log.position();
        self.buckets.set(author, log.known());
        let said = Arc::new(K::said(view, position));
        log.weight = weight::<K>(&said);
        self.bytes = self.bytes - held + log.bytes();
        std::mem::replace(&mut log.said, said)
    }
}
