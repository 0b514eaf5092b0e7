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
/// Bytes sent in a burst and in a second: for statuses of others that say nothing new, for those that do, for this
/// node's own, for those who came anew or leave, and for suspicions and what refutes them. Each has a purse of its
/// own: keys cost nothing, and whoever has many must not keep others from being heard.
const IDLE_BYTES: [u32; 2] = [64 * 1024, 1000];
const NEWS_BYTES: [u32; 2] = [256 * 1024, 4 * 1024];
const OWN_BYTES: [u32; 2] = [128 * 1024, 4 * 1024];
const MOVED_BYTES: [u32; 2] = [256 * 1024, 8 * 1024];
const DISPUTED_BYTES: [u32; 2] = [512 * 1024, 32 * 1024];
/// What is around a message in a frame, bytes at most.
const AROUND: usize = 8;

/// A statement that may have changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Status(PeerId),
    Doubt { subject: PeerId, witness: PeerId },
}

/// How much others are in want of something.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Haste {
    /// The next status does as well.
    #[default]
    Calm,
    /// Its author came anew, or leaves.
    Moved,
    /// Somebody is suspected, or refutes it.
    Disputed,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    haste: Haste,
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
    own: Allowance,
    moved: Allowance,
    disputed: Allowance,
}

impl Spread {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            pending: BTreeMap::new(),
            random: seed | 1,
            idle: Allowance::new(IDLE_BYTES[0], IDLE_BYTES[1]),
            news: Allowance::new(NEWS_BYTES[0], NEWS_BYTES[1]),
            own: Allowance::new(OWN_BYTES[0], OWN_BYTES[1]),
            moved: Allowance::new(MOVED_BYTES[0], MOVED_BYTES[1]),
            disputed: Allowance::new(DISPUTED_BYTES[0], DISPUTED_BYTES[1]),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// `news`: others would choose otherwise if they knew.
    pub(super) fn note(&mut self, key: Key, haste: Haste, news: bool, from: Option<PeerId>) {
        let before = self.pending.get(&key);
        let before = before.map_or((Haste::Calm, false), |p| (p.haste, p.news));
        self.pending.insert(
            key,
            Pending {
                haste: haste.max(before.0),
                news: news || before.1,
                round: 0,
                from,
            },
        );
    }

    /// What waits, in the order in which it is sent: what is disputed, what this node says itself, who came anew
    /// or leaves, the rest; of each, one of each peer that brought any in turn, by chance. So what does not fit
    /// is what comes in numbers.
    fn turns(&mut self) -> Vec<(Key, Pending)> {
        let mut drawn: Vec<(u64, Key, Pending)> = Vec::with_capacity(self.pending.len());
        let waiting: Vec<(Key, Pending)> = self.pending.iter().map(|(k, p)| (*k, *p)).collect();
        for (key, pending) in waiting {
            drawn.push((self.next(), key, pending));
        }
        drawn.sort_unstable_by_key(|(chance, key, _)| (*chance, *key));
        let mut had: BTreeMap<(Haste, Option<PeerId>), usize> = BTreeMap::new();
        let mut turns: Vec<_> = drawn
            .into_iter()
            .map(|(_, key, pending)| {
                let turn = had.entry((pending.haste, pending.from)).or_default();
                *turn += 1;
                let rank = match (pending.haste, pending.from) {
                    (Haste::Disputed, _) => 0,
                    (_, None) => 1,
                    (Haste::Moved, _) => 2,
                    (Haste::Calm, _) => 3,
                };
                // Its own first: it has one of each.
                (rank, *turn, pending.from.is_some(), key, pending)
            })
            .collect();
        turns.sort_by_key(|(rank, turn, others, ..)| (*rank, *turn, *others));
        turns
            .into_iter()
            .map(|(.., key, pending)| (key, pending))
            .collect()
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
        (haste, news): (Haste, bool),
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
        self.spread.note(Key::Status(self.me), haste, news, None);
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
            let urgent = pending.haste > Haste::Calm;
            let all = self.peers.iter().filter(|(id, link)| {
                let knows = Some(**id) == pending.from || Some(**id) == author;
                !knows && (urgent || !link.relayed)
            });
            let all: Vec<PeerId> = all.map(|(id, _)| *id).collect();
            let many = if urgent {
                ROUNDS[pending.round.min(2)]
            } else if author == Some(self.me) {
                // Whoever loses this node must know its last status, or its suspicion names one that is over.
                OWN
            } else {
                PUSHES
            };
            let bytes: usize = messages.iter().map(|(_, m)| m.encoded_len() + AROUND).sum();
            let allowance = match pending.haste {
                Haste::Disputed => &mut self.spread.disputed,
                Haste::Moved => &mut self.spread.moved,
                Haste::Calm if pending.from.is_none() => &mut self.spread.own,
                Haste::Calm if pending.news => &mut self.spread.news,
                Haste::Calm => &mut self.spread.idle,
            };
            if !allowance.take(now, bytes * many.min(all.len())) {
                // The next status comes; what is urgent, and what is this node's own, waits.
                if !urgent && pending.from.is_some() {
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
            if urgent && round < ROUNDS.len() {
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
