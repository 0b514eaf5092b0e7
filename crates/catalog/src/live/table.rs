//! What is held of each author: its latest status, and who lost it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use polymath_proto::v1::{LiveMessage, LiveStatus};
use polymath_types::{LoadReport, PeerId};

use super::{LiveRefusal, Standing, View, order::Order, pace, voices::Voices};

/// Witnesses of one loss that are kept and passed on; two are enough.
const WITNESSES: usize = 4;
/// Independent ones that suspend a peer.
const ENOUGH: usize = 2;
/// A suspicion counts for so long, unless it is refuted before.
const SUSPECTED: Duration = Duration::from_secs(600);
/// Bounds of how long a status may say that it is good.
const VALID: [u64; 2] = [10, 24 * 3600];
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
    /// Others would want to know at once: the author came, leaves, or refutes.
    pub(super) urgent: bool,
    /// Those who were wrong about its author.
    pub(super) refuted: Vec<PeerId>,
}

#[derive(Debug)]
pub(super) struct Table {
    entries: BTreeMap<PeerId, Entry>,
    /// Authors with suspicions that have not run out.
    doubted: BTreeSet<PeerId>,
    limit: usize,
    /// When room was last looked for in vain.
    full: Option<Duration>,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            doubted: BTreeSet::new(),
            limit,
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
    pub(super) fn speaking(&self, now: Duration) -> usize {
        let speakers = self.entries.values().filter(|e| !e.order.leaving);
        let mut ages: Vec<Duration> = speakers.map(|e| now.saturating_sub(e.heard)).collect();
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
        for (_, e) in fresh().filter(|(id, e)| urgent(id, e)).take(most) {
            messages.push(e.message.clone());
            let doubts = e.doubts.iter().filter(|d| d.until > now);
            messages.extend(doubts.map(|d| d.message.clone()));
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
        let mut by = by;
        match self.entries.get(&author) {
            Some(held) => {
                let same_run = held.run == status.run;
                let standing = held.doubts.iter().filter(|d| d.until > now);
                // Whoever was lost and came back as another process had been lost indeed.
                if same_run && !order.leaving {
                    taken.refuted = standing.map(|d| d.witness).collect();
                }
                taken.urgent = order.leaving || !same_run || !held.doubts.is_empty();
                by = held.by;
            }
            None => {
                taken.urgent = order.leaving;
                self.make_room(now, &author, kept)?;
            }
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
                fresh_until,
                by,
                doubts: Vec::new(),
            },
        );
        Ok(taken)
    }

    /// The table is full of others: those whose status ran out go first, longest unheard first; then of
    /// those that one peer brought most of.
    fn make_room(
        &mut self,
        now: Duration,
        author: &PeerId,
        kept: &impl Fn(&PeerId) -> bool,
    ) -> Result<(), LiveRefusal> {
        if self.entries.len() < self.limit {
            return Ok(());
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
        for (_, _, id) in &victims {
            self.entries.remove(id);
            self.doubted.remove(id);
        }
        self.full = Some(now);
        if victims.is_empty() {
            Err(LiveRefusal::Full)
        } else {
            Ok(())
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
        if held.doubts.len() >= WITNESSES && !held.doubts.iter().any(spent) {
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
        if held.doubts.len() >= WITNESSES {
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
        } else if witnesses >= ENOUGH {
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
