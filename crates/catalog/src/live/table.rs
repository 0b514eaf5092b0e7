//! What is held of each author: its latest status, and who lost it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use polymath_proto::v1::{LiveMessage, LiveStatus};
use polymath_types::{LoadReport, PeerId};

use super::{LiveRefusal, Standing, View, order::Order, pace, spread::Haste, voices::Voices};

/// Witnesses of one loss that are kept and passed on; two are enough, unless the subject has refuted.
const WITNESSES: usize = 4;
/// Independent ones that suspend a peer, by how often it was suspended and lived within [`SUSPECTED`]. Who was
/// wrongly suspended more often than that is not again on what others say, until it had so long a rest: keys
/// cost nothing, so voices alone do not stop whoever has hundreds.
const ENOUGH: [usize; 3] = [2, 4, 8];
/// A witness is heard that has been known for so long, or for half as long as the subject.
const KNOWN: Duration = Duration::from_secs(10);
/// Authors that one peer may bring, and be counted, however few others bring.
const COUNTED: usize = 256;
/// A suspicion counts for so long, unless it is refuted before.
const SUSPECTED: Duration = Duration::from_secs(600);
/// Bounds of how long a status may say that it is good.
const VALID: [u64; 2] = [10, 24 * 3600];
/// How long after it came anew, or left, an author that does so again is in no haste.
const MOVES: Duration = Duration::from_secs(60);
/// Authors that give way at once when the table is full.
const ROOM: usize = 64;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: LiveMessage,
    pub(super) order: Order,
    pub(super) run: u64,
    load: LoadReport,
    /// When its status was first received.
    heard: Duration,
    /// When it was first heard of.
    pub(super) since: Duration,
    /// When it was last in haste that it came anew, and that it leaves.
    moved: [Option<Duration>; 2],
    /// How often it was suspended and lived, and when that was last.
    survived: (u32, Duration),
    fresh_until: Duration,
    /// Who brought the first status of it.
    by: PeerId,
    doubts: Vec<Doubt>,
}

/// A suspicion. It stays until it is refuted: one that has run out must not come back as new.
#[derive(Debug)]
struct Doubt {
    witness: PeerId,
    message: LiveMessage,
    until: Duration,
}

/// What a status that was taken means for others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Whether others would want to know at once.
    pub(super) haste: Haste,
    /// They would choose otherwise if they knew.
    pub(super) news: bool,
    /// Those who were wrong about its author.
    pub(super) refuted: Vec<PeerId>,
    /// Those of whom nothing is held any more.
    pub(super) evicted: Vec<PeerId>,
}

impl Entry {
    /// How often it was suspended and lived, lately.
    fn survived_at(&self, now: Duration) -> u32 {
        let (times, last) = self.survived;
        if now.saturating_sub(last) < SUSPECTED {
            times
        } else {
            0
        }
    }

    /// Witnesses that suspend it; none however many they are, if nothing.
    fn needed(&self) -> Option<usize> {
        let times = usize::try_from(self.survived.0).unwrap_or(usize::MAX);
        ENOUGH.get(times).copied()
    }

    /// Witnesses of its loss that are kept.
    fn most(&self) -> usize {
        self.needed().unwrap_or(0).max(WITNESSES)
    }

    /// Whether so many witnesses are enough. Of those who have lost it themselves two always are.
    fn enough(&self, witnesses: usize, me: &PeerId) -> bool {
        let lost = self.doubts.iter().any(|d| d.witness == *me);
        let needed = if lost { Some(ENOUGH[0]) } else { self.needed() };
        needed.is_some_and(|needed| witnesses >= needed)
    }
}

#[derive(Debug)]
pub(super) struct Table {
    entries: BTreeMap<PeerId, Entry>,
    /// Authors with suspicions that have not run out.
    doubted: BTreeSet<PeerId>,
    limit: usize,
    me: PeerId,
    /// When room was last looked for in vain.
    full: Option<Duration>,
}

impl Table {
    pub(super) fn new(limit: usize, me: PeerId) -> Self {
        Self {
            entries: BTreeMap::new(),
            doubted: BTreeSet::new(),
            limit,
            me,
            full: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, author: &PeerId) -> Option<&Entry> {
        self.entries.get(author)
    }

    /// Authors who speak and do not leave: as many as were heard within the time for which a status is
    /// good in a mesh of so many. Whose status is good would be another question: authors that take the mesh
    /// for small call theirs good for a short time, and whoever believed them would take it for small too.
    /// Of what one peer brought as much counts as [`COUNTED`], or twice what half of those who bring any do: one
    /// connection cannot make the mesh look large.
    pub(super) fn speaking(&self, now: Duration) -> usize {
        let mut brought: BTreeMap<&PeerId, Vec<Duration>> = BTreeMap::new();
        for e in self.entries.values().filter(|e| !e.order.leaving) {
            let ages = brought.entry(&e.by).or_default();
            ages.push(now.saturating_sub(e.heard));
        }
        let mut parts: Vec<usize> = brought.values().map(Vec::len).collect();
        parts.sort_unstable();
        let middle = parts.get(parts.len().saturating_sub(1) / 2).copied();
        let most = (2 * middle.unwrap_or(0)).max(COUNTED);
        let mut ages = Vec::new();
        for mut part in brought.into_values() {
            part.sort_unstable();
            part.truncate(most);
            ages.extend(part);
        }
        ages.sort_unstable();
        let heard = |(others, age): &(usize, &Duration)| **age <= pace::validity(others + 2);
        ages.iter()
            .enumerate()
            .rev()
            .find(heard)
            .map_or(0, |(others, _)| others + 1)
    }

    /// Statuses that are good, and what a newcomer must know at once, `most` of each.
    pub(super) fn snapshot(&self, now: Duration, most: usize) -> Vec<LiveMessage> {
        let urgent = |id: &PeerId, e: &Entry| e.order.leaving || self.doubted.contains(id);
        let mut messages = Vec::new();
        let fresh = || self.entries.iter().filter(|(_, e)| e.fresh_until > now);
        let mut introduced = BTreeSet::new();
        for (_, e) in fresh().filter(|(id, e)| urgent(id, e)).take(most) {
            messages.push(e.message.clone());
            for doubt in e.doubts.iter().filter(|d| d.until > now) {
                // Nobody hears a witness it does not know.
                if introduced.insert(doubt.witness)
                    && let Some(witness) = self.entries.get(&doubt.witness)
                {
                    messages.push(witness.message.clone());
                }
                messages.push(doubt.message.clone());
            }
        }
        let calm = fresh().filter(|(id, e)| !urgent(id, e)).take(most);
        messages.extend(calm.map(|(_, e)| e.message.clone()));
        messages
    }

    /// Whether a status adds anything, before its signature is looked at.
    pub(super) fn wants(
        &self,
        author: &PeerId,
        order: &Order,
        message: &LiveMessage,
    ) -> Result<(), LiveRefusal> {
        let Some(held) = self.entries.get(author) else {
            return Ok(());
        };
        if held.message == *message {
            return Err(LiveRefusal::Repeat);
        }
        // Two under one order come from two runs of one identity: all nodes keep the same.
        let tie = *order == held.order && message.statement > held.message.statement;
        if order.is_after(&held.order) || tie {
            Ok(())
        } else {
            Err(LiveRefusal::Stale)
        }
    }

    /// Takes a status that [`Table::wants`] and whose signature is good. `kept` are authors that must not
    /// give way.
    pub(super) fn take(
        &mut self,
        now: Duration,
        (author, by): (PeerId, PeerId),
        status: &LiveStatus,
        message: LiveMessage,
        kept: &impl Fn(&PeerId) -> bool,
    ) -> Result<Taken, LiveRefusal> {
        let order = Order::of(status);
        let valid = u64::from(status.valid_s).clamp(VALID[0], VALID[1]);
        let fresh_until = now.saturating_add(Duration::from_secs(valid));
        let load = LoadReport {
            queue_depth: status.queue_depth,
            active: status.active,
            free_slots: status.free_slots,
            service_ms: status.service_ms,
            resident_experts: status.resident_experts,
        };
        let mut taken = Taken::default();
        let (mut by, mut since, mut survived) = (by, now, (0, Duration::ZERO));
        let mut moved = [None; 2];
        let leaves = usize::from(order.leaving);
        match self.entries.get(&author) {
            Some(held) => {
                let same_run = held.run == status.run;
                let standing = held.doubts.iter().filter(|d| d.until > now);
                survived = held.survived;
                // Whoever was lost and came back as another process had been lost indeed.
                if same_run && !order.leaving {
                    if held.enough(standing.clone().count(), &self.me) {
                        survived = (held.survived_at(now).saturating_add(1), now);
                    }
                    taken.refuted = standing.map(|d| d.witness).collect();
                }
                moved = held.moved;
                let rested = moved[leaves].is_none_or(|at| now.saturating_sub(at) >= MOVES);
                taken.haste = if !held.doubts.is_empty() {
                    Haste::Disputed
                } else if (order.leaving || !same_run) && rested {
                    Haste::Moved
                } else {
                    Haste::Calm
                };
                taken.news = !same_run || pace::changed_much(&held.load, &load);
                (by, since) = (held.by, held.since);
            }
            None => {
                if order.leaving {
                    taken.haste = Haste::Moved;
                }
                taken.news = true;
                taken.evicted = self.make_room(now, &author, kept)?;
            }
        }
        if taken.haste == Haste::Moved {
            moved[leaves] = Some(now);
        }
        self.doubted.remove(&author);
        self.entries.insert(
            author,
            Entry {
                message,
                order,
                run: status.run,
                load,
                heard: now,
                since,
                moved,
                survived,
                fresh_until,
                by,
                doubts: Vec::new(),
            },
        );
        Ok(taken)
    }

    /// The table is full of others: those whose status ran out go first, longest unheard first; then of
    /// those that one peer brought most of. Who went.
    fn make_room(
        &mut self,
        now: Duration,
        author: &PeerId,
        kept: &impl Fn(&PeerId) -> bool,
    ) -> Result<Vec<PeerId>, LiveRefusal> {
        if self.entries.len() < self.limit {
            return Ok(Vec::new());
        }
        let pause = Duration::from_secs(1);
        if !kept(author) && self.full.is_some_and(|at| now.saturating_sub(at) < pause) {
            return Err(LiveRefusal::Full);
        }
        let mut brought: BTreeMap<PeerId, usize> = BTreeMap::new();
        for e in self.entries.values() {
            *brought.entry(e.by).or_default() += 1;
        }
        let most = brought.into_iter().max_by_key(|(_, n)| *n).map(|(p, _)| p);
        let mut victims: Vec<(bool, Duration, PeerId)> = self
            .entries
            .iter()
            .filter(|(id, e)| !kept(id) && (e.fresh_until <= now || Some(e.by) == most))
            .map(|(id, e)| (e.fresh_until > now, e.heard, *id))
            .collect();
        victims.sort_unstable();
        victims.truncate(ROOM.min(self.limit.div_ceil(4)));
        let gone: Vec<PeerId> = victims.into_iter().map(|(_, _, id)| id).collect();
        for id in &gone {
            self.entries.remove(id);
            self.doubted.remove(id);
        }
        self.full = Some(now);
        if gone.is_empty() {
            Err(LiveRefusal::Full)
        } else {
            Ok(gone)
        }
    }

    /// Whether a suspicion adds anything, before its signature is looked at.
    pub(super) fn may_doubt(
        &self,
        now: Duration,
        (witness, subject): (&PeerId, &PeerId),
        known: &Order,
        voices: &Voices,
    ) -> Result<(), LiveRefusal> {
        if !voices.is_heard(now, witness) {
            return Err(LiveRefusal::Unheard);
        }
        let held = self.entries.get(subject).ok_or(LiveRefusal::Unproven)?;
        if *witness != self.me {
            let known = self.entries.get(witness);
            let long = KNOWN.min(now.saturating_sub(held.since) / 2);
            if known.is_none_or(|w| now.saturating_sub(w.since) < long) {
                return Err(LiveRefusal::Unheard);
            }
        }
        if known.is_after(&held.order) {
            // Honest peers send the status before it. Taken at its word a witness could name one that the
            // subject can never pass.
            return Err(LiveRefusal::Unproven);
        }
        if *known != held.order {
            return Err(LiveRefusal::Stale);
        }
        if held.doubts.iter().any(|d| d.witness == *witness) {
            return Err(LiveRefusal::Repeat);
        }
        let spent = |d: &Doubt| d.until <= now || !voices.is_heard(now, &d.witness);
        // This node's own word has a place beyond those of others.
        let most = held.most() + usize::from(*witness == self.me);
        if held.doubts.len() >= most && !held.doubts.iter().any(spent) {
            return Err(LiveRefusal::Full);
        }
        Ok(())
    }

    /// Takes a suspicion that [`Table::may_doubt`] and whose signature is good.
    pub(super) fn doubt(
        &mut self,
        now: Duration,
        (witness, subject): (PeerId, PeerId),
        message: LiveMessage,
        voices: &Voices,
    ) {
        let Some(held) = self.entries.get_mut(&subject) else {
            return;
        };
        // What it survived long ago demands no more witnesses; decided when one comes, so that nothing changes
        // between two events.
        held.survived.0 = held.survived_at(now);
        if held.doubts.len() >= held.most() {
            let spent = |d: &Doubt| d.until <= now || !voices.is_heard(now, &d.witness);
            if let Some(at) = held.doubts.iter().position(spent) {
                held.doubts.remove(at);
            }
        }
        held.doubts.push(Doubt {
            witness,
            message,
            until: now.saturating_add(SUSPECTED),
        });
        self.doubted.insert(subject);
    }

    /// `witness` is connected with `subject` again; whether it had doubted.
    pub(super) fn withdraw(&mut self, witness: &PeerId, subject: &PeerId) -> bool {
        let Some(held) = self.entries.get_mut(subject) else {
            return false;
        };
        let before = held.doubts.len();
        held.doubts.retain(|d| d.witness != *witness);
        before != held.doubts.len()
    }

    /// A suspicion as it was signed.
    pub(super) fn doubt_of(&self, witness: &PeerId, subject: &PeerId) -> Option<&LiveMessage> {
        let doubts = &self.entries.get(subject)?.doubts;
        doubts
            .iter()
            .find(|d| d.witness == *witness)
            .map(|d| &d.message)
    }

    /// Peers whose last suspicion has run out since the last call.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<PeerId> {
        let entries = &self.entries;
        let over = |id: &&PeerId| {
            let doubts = entries.get(id).map_or(&[][..], |e| &e.doubts);
            doubts.iter().all(|d| d.until <= now)
        };
        let over: Vec<PeerId> = self.doubted.iter().filter(over).copied().collect();
        over.iter().for_each(|id| {
            self.doubted.remove(id);
        });
        over
    }

    /// What is to be thought of a peer; nothing of one that was never heard of.
    pub(super) fn view(&self, now: Duration, peer: &PeerId, voices: &Voices) -> Option<View> {
        let entry = self.entries.get(peer)?;
        let counts = |d: &&Doubt| d.until > now && voices.is_heard(now, &d.witness);
        let witnesses = entry.doubts.iter().filter(counts).count();
        let standing = if entry.order.leaving {
            Standing::Leaving
        } else if entry.enough(witnesses, &self.me) {
            Standing::Suspended
        } else {
            Standing::Alive
        };
        Some(View {
            standing,
            load: entry.load,
            fresh_until: entry.fresh_until,
        })
    }

    /// Everybody with a suspicion by `witness`.
    pub(super) fn doubted_by(&self, witness: &PeerId) -> Vec<PeerId> {
        let doubts = |id: &&PeerId| self.doubt_of(witness, id).is_some();
        self.doubted.iter().filter(doubts).copied().collect()
    }
}
