//! Who is told what: a new statement goes to some peers drawn by chance, who do the same.
//!
//! What waits is named, not kept: when its turn comes the latest is sent. So what waits is bounded by the
//! table. Statuses go to [`PUSHES`] peers once, a node's own to all, over direct paths only, since a circuit costs
//! its relay.
//! What cannot wait for the next status (who leaves, is suspected, refutes) goes to more, three times over,
//! so that a mesh of hundreds hears of it within a second but for one node in a million or so.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use polymath_proto::v1::{LiveFrame, LiveMessage, LiveStatus};
use polymath_types::{Format, PeerId};
use prost::Message as _;

use super::{
    LIVE_FRAME_BYTES, Live, LiveAction, RELAYED, pace, pace::Allowance, pace::PUSHES, signed,
};

/// Peers told of what is urgent, in each round.
const ROUNDS: [usize; 3] = [8, 4, 4];
/// Peers that are told of this node's own status: all with which it has a direct path, but for a bound.
const OWN: usize = 256;
/// Bytes sent in a burst and in a second: for statuses that say nothing new, for those that do, and for what is
/// urgent.
const IDLE_BYTES: [u32; 2] = [64 * 1024, 1000];
const NEWS_BYTES: [u32; 2] = [256 * 1024, 4 * 1024];
const URGENT_BYTES: [u32; 2] = [512 * 1024, 32 * 1024];
/// What is around a message in a frame, bytes at most.
const AROUND: usize = 8;

/// A statement that may have changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Status(PeerId),
    Doubt { subject: PeerId, witness: PeerId },
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    urgent: bool,
    news: bool,
    round: usize,
    /// Who knows it.
    from: Option<PeerId>,
}

#[derive(Debug)]
pub(super) struct Spread {
    pending: BTreeMap<Key, Pending>,
    random: u64,
    idle: Allowance,
    news: Allowance,
    urgent: Allowance,
}

impl Spread {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            pending: BTreeMap::new(),
            random: seed | 1,
            idle: Allowance::new(IDLE_BYTES[0], IDLE_BYTES[1]),
            news: Allowance::new(NEWS_BYTES[0], NEWS_BYTES[1]),
            urgent: Allowance::new(URGENT_BYTES[0], URGENT_BYTES[1]),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// What a status that says nothing new waits as.
    pub(super) fn note(&mut self, key: Key, urgent: bool, from: Option<PeerId>) {
        self.note_news(key, urgent, urgent, from);
    }

    pub(super) fn note_news(&mut self, key: Key, urgent: bool, news: bool, from: Option<PeerId>) {
        let before = self.pending.get(&key);
        let before = before.map_or((false, false), |p| (p.urgent, p.news));
        self.pending.insert(
            key,
            Pending {
                urgent: urgent || before.0,
                news: news || before.1,
                round: 0,
                from,
            },
        );
    }

    /// What waits, in the order in which it is sent: what is urgent, what this node says itself, and of the
    /// rest one of each peer that brought any in turn, by chance. So what does not fit is what comes in numbers.
    fn turns(&mut self) -> Vec<(Key, Pending)> {
        let mut rest: Vec<(u64, Key, Pending)> = Vec::new();
        let mut turns = Vec::new();
        for (key, pending) in &self.pending {
            match pending.from {
                Some(_) if !pending.urgent => rest.push((0, *key, *pending)),
                _ => turns.push((*key, *pending)),
            }
        }
        turns.sort_by_key(|(_, pending)| !pending.urgent);
        rest.iter_mut()
            .for_each(|(chance, ..)| *chance = self.next());
        rest.sort_unstable_by_key(|(chance, key, _)| (*chance, *key));
        let mut had: BTreeMap<Option<PeerId>, usize> = BTreeMap::new();
        let mut rest: Vec<(usize, Key, Pending)> = rest
            .into_iter()
            .map(|(_, key, pending)| {
                let turn = had.entry(pending.from).or_default();
                *turn += 1;
                (*turn, key, pending)
            })
            .collect();
        rest.sort_by_key(|(turn, ..)| *turn);
        turns.extend(rest.into_iter().map(|(_, key, pending)| (key, pending)));
        turns
    }

    /// Xorshift64 (Marsaglia 2003).
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Up to `n` of `peers` by chance (a partial Fisher-Yates shuffle).
    fn draw(&mut self, mut peers: Vec<PeerId>, n: usize) -> Vec<PeerId> {
        let n = n.min(peers.len());
        for at in 0..n {
            let chance = self.next();
            let rest = (peers.len() - at) as u64;
            let other = at + usize::try_from((chance >> 16) % rest).unwrap_or(0);
            peers.swap(at, other);
        }
        peers.truncate(n);
        peers
    }
}

impl Live {
    /// Writes this node's next status.
    pub(super) fn publish(
        &mut self,
        now: Duration,
        (urgent, news): (bool, bool),
        actions: &mut Vec<LiveAction>,
    ) {
        let own = &mut self.own;
        match own.order.sequence.checked_add(1) {
            Some(next) => own.order.sequence = next,
            None => {
                own.order.incarnation = own.order.incarnation.wrapping_add(1);
                own.order.sequence = 0;
                actions.push(LiveAction::Incarnation(own.order.incarnation));
            }
        }
        own.valid = pace::validity(self.alive.0);
        let status = LiveStatus {
            incarnation: own.order.incarnation,
            sequence: own.order.sequence,
            leaving: own.order.leaving,
            run: self.config.run,
            started: self.config.started,
            rival: own.rival,
            valid_s: u32::try_from(own.valid.as_secs()).unwrap_or(u32::MAX),
            queue_depth: own.load.queue_depth,
            active: own.load.active,
            free_slots: own.load.free_slots,
            service_ms: own.load.service_ms,
            resident_experts: own.load.resident_experts,
        };
        let signed = signed::status(&self.config.key, &self.config.mesh, status);
        // An Ed25519 key that has signed offers signs this too.
        let Some(message) = signed else { return };
        own.message = Some(message);
        own.at = Some(now);
        own.due = false;
        own.accusers.clear();
        own.pressed = false;
        if std::mem::take(&mut own.accused) {
            own.answers = (own.answers_at(now).saturating_add(1), now);
        }
        self.counters.published += 1;
        self.spread
            .note_news(Key::Status(self.me), urgent, news, None);
    }

    /// Sends what waits, as far as the allowances go.
    pub(super) fn flush(&mut self, now: Duration, actions: &mut Vec<LiveAction>) {
        if self.peers.is_empty() {
            self.spread.pending.clear();
            return;
        }
        let mut letters: BTreeMap<PeerId, BTreeMap<Key, LiveMessage>> = BTreeMap::new();
        for (key, pending) in self.spread.turns() {
            let messages = self.messages(&key);
            if messages.is_empty() {
                self.spread.pending.remove(&key);
                continue;
            }
            let author = match key {
                Key::Status(author) => Some(author),
                Key::Doubt { .. } => None,
            };
            let all = self.peers.iter().filter(|(id, link)| {
                let knows = Some(**id) == pending.from || Some(**id) == author;
                !knows && (pending.urgent || !link.relayed)
            });
            let all: Vec<PeerId> = all.map(|(id, _)| *id).collect();
            let many = if pending.urgent {
                ROUNDS[pending.round.min(2)]
            } else if author == Some(self.me) {
                // Whoever loses this node must know its last status, or its suspicion names one that is over.
                OWN
            } else {
                PUSHES
            };
            let bytes: usize = messages.iter().map(|(_, m)| m.encoded_len() + AROUND).sum();
            let allowance = match (pending.urgent, pending.news) {
                (true, _) => &mut self.spread.urgent,
                (_, true) => &mut self.spread.news,
                _ => &mut self.spread.idle,
            };
            if !allowance.take(now, bytes * many.min(all.len())) {
                // The next status comes; what is urgent, and what is this node's own, waits.
                if !pending.urgent && pending.from.is_some() {
                    self.spread.pending.remove(&key);
                    self.counters.unsaid += 1;
                }
                continue;
            }
            let mut told = self.spread.draw(all, many);
            // Who is suspected wrongly can say so.
            if let Key::Doubt { subject, .. } = key
                && self.peers.contains_key(&subject)
                && !told.contains(&subject)
            {
                told.push(subject);
            }
            for peer in told {
                letters
                    .entry(peer)
                    .or_default()
                    .extend(messages.iter().cloned());
            }
            let round = pending.round + 1;
            if pending.urgent && round < ROUNDS.len() {
                self.spread
                    .pending
                    .insert(key, Pending { round, ..pending });
            } else {
                self.spread.pending.remove(&key);
            }
        }
        for (peer, letter) in letters {
            self.send(peer, letter.into_values(), actions);
        }
    }

    /// What a key stands for now; a suspicion with the status that it names, and with its witness's, without
    /// which it is not heard. Statuses sort before
    /// suspicions, and so come first in a frame.
    fn messages(&self, key: &Key) -> Vec<(Key, LiveMessage)> {
        match key {
            Key::Status(author) if *author == self.me => {
                self.own.message.iter().map(|m| (*key, m.clone())).collect()
            }
            Key::Status(author) => {
                let entry = self.table.get(author);
                entry
                    .map(|e| (*key, e.message.clone()))
                    .into_iter()
                    .collect()
            }
            Key::Doubt { subject, witness } => {
                let status = self.table.get(subject).map(|e| e.message.clone());
                let doubt = self.table.doubt_of(witness, subject).cloned();
                let own = self.own.message.as_ref().filter(|_| *witness == self.me);
                let by = own.or_else(|| self.table.get(witness).map(|e| &e.message));
                match (status, doubt) {
                    (Some(status), Some(doubt)) => {
                        let by = by.map(|by| (Key::Status(*witness), by.clone()));
                        let named = [(Key::Status(*subject), status), (*key, doubt)];
                        by.into_iter().chain(named).collect()
                    }
                    _ => Vec::new(),
                }
            }
        }
    }

    /// Peers behind relays hear this node's own status, rarely.
    pub(super) fn tell_relayed(&mut self, now: Duration, actions: &mut Vec<LiveAction>) {
        let due = self
            .peers
            .iter_mut()
            .filter(|(_, l)| l.relayed && now.saturating_sub(l.told) >= RELAYED);
        let mut peers = BTreeSet::new();
        for (peer, link) in due {
            link.told = now;
            peers.insert(*peer);
        }
        for peer in peers {
            self.send(peer, self.own.message.clone(), actions);
        }
    }

    /// In as many frames as it takes.
    pub(super) fn send(
        &mut self,
        peer: PeerId,
        messages: impl IntoIterator<Item = LiveMessage>,
        actions: &mut Vec<LiveAction>,
    ) {
        let relayed = self.peers.get(&peer).is_some_and(|l| l.relayed);
        let (mut batch, mut bytes) = (Vec::new(), AROUND);
        let mut frames = Vec::new();
        for message in messages {
            let more = message.encoded_len() + AROUND;
            if bytes + more > LIVE_FRAME_BYTES {
                frames.push(std::mem::take(&mut batch));
                bytes = AROUND;
            }
            bytes += more;
            batch.push(message);
        }
        frames.push(batch);
        for messages in frames.into_iter().filter(|f| !f.is_empty()) {
            let frame = LiveFrame {
                version: Format::Live.current(),
                messages,
            };
            let bytes = frame.encoded_len() as u64;
            self.counters.sent += bytes;
            self.counters.sent_relayed += if relayed { bytes } else { 0 };
            actions.push(LiveAction::Send { peer, frame });
        }
    }

    pub(super) fn tell_view(&self, now: Duration, peer: PeerId, actions: &mut Vec<LiveAction>) {
        if let Some(view) = self.view(now, &peer) {
            actions.push(LiveAction::View { peer, view });
        }
    }
}
