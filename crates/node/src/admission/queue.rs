//! Who is answered next, who waits, and who is turned away. A pure state machine: no clock, no channel.
//!
//! *Own* calls, of this machine's user, come before those of peers, and one place of each lane is theirs
//! unless the operator gave all away. Peers are served max-min fair: the next place goes to the peer
//! with the fewest calls at work, in turns where that leaves several; a full queue makes room for a peer
//! at the cost of the one with most waiting (Bertsekas & Gallager, Data Networks, 6.5.2), newest first.
//! Batches are shed first. Whoever could not begin within its budget is told at once.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use polymath_types::PeerId;

/// Names a call within one queue.
pub(crate) type CallId = u64;

/// Share of a new measurement in the moving average of service times.
const NEW: u32 = 8;
/// What is guessed of a service time before any was measured.
const GUESS: Duration = Duration::from_secs(1);
/// Bounds of the advice when to come again.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(60);

/// Whose call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Caller {
    /// Of this machine's user.
    Own,
    Peer(PeerId),
}

/// What computes it: lanes have places of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Generate,
    Encode,
    /// Another server: one that is slow or silent must hold up nothing that is computed here.
    Outside,
}

const LANES: usize = 3;

/// Whether somebody is likely to wait before a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Interactive,
    Batch,
}

/// What asks to be let in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) lane: Lane,
    pub(crate) class: Class,
    /// Of text that is held for it.
    pub(crate) bytes: usize,
}

/// Bounds of a queue.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Calls that may wait.
    pub(crate) waiting: usize,
    /// Calls at work in each lane.
    pub(crate) places: [usize; LANES],
    /// Calls of peers at work; `None`: all places but one of each lane.
    pub(crate) peers: Option<usize>,
    /// Of text held for all calls; peers get three quarters.
    pub(crate) bytes: usize,
}

/// Why a call is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// As many wait as may, and none of them has less of a right to.
    Full,
    /// Half as many wait: no time for batches.
    Batch,
    /// The texts that are held leave no room.
    Bytes,
    /// It would wait so long, which is more than its budget.
    Late(Duration),
    /// It waited, and has lost its place to a call with more of a right to it.
    Evicted,
}

/// A refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) why: Why,
    /// When it may be worth another try.
    pub(crate) retry_after: Duration,
    /// How many wait.
    pub(crate) waiting: usize,
}

#[derive(Debug)]
struct Held {
    call: Call,
    at_work: bool,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<CallId>,
    /// Lower comes earlier.
    turn: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    bounds: Bounds,
    calls: BTreeMap<CallId, Held>,
    own: VecDeque<CallId>,
    /// Peers that wait, each with one call at least.
    peers: BTreeMap<PeerId, Line>,
    at_work: BTreeMap<Caller, [usize; LANES]>,
    service: [Option<Duration>; LANES],
    next_id: CallId,
    next_turn: u64,
}

impl Queue {
    pub(crate) const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            calls: BTreeMap::new(),
            own: VecDeque::new(),
            peers: BTreeMap::new(),
            at_work: BTreeMap::new(),
            service: [None; LANES],
            next_id: 0,
            next_turn: 0,
        }
    }

    /// Takes a call in, whose answer must have begun within `budget`; [`Queue::next`] says when it is
    /// its turn. The second id is that of a call which has lost its place to it.
    pub(crate) fn enter(
        &mut self,
        call: Call,
        budget: Duration,
    ) -> Result<(CallId, Option<CallId>), Refusal> {
        if self.bytes(call.caller).saturating_add(call.bytes) > self.bytes_for(call.caller) {
            return Err(self.refuse(&call, Why::Bytes));
        }
        let mut evicted = None;
        if !self.may_start(&call) {
            let wait = self.wait(&call);
            if wait > budget {
                return Err(Refusal {
                    retry_after: (wait - budget).clamp(SOONEST, LATEST),
                    ..self.refuse(&call, Why::Late(wait))
                });
            }
            let busy = self.waiting() * 2 >= self.bounds.waiting && self.waiting() > 0;
            if busy && call.class == Class::Batch && call.caller != Caller::Own {
                return Err(self.refuse(&call, Why::Batch));
            }
            if self.waiting() >= self.bounds.waiting {
                let victim = self.victim(&call);
                evicted = Some(victim.ok_or_else(|| self.refuse(&call, Why::Full))?);
            }
        }
        if let Some(victim) = evicted {
            self.forget(victim);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.calls.insert(
            id,
            Held {
                call,
                at_work: false,
            },
        );
        match call.caller {
            Caller::Own => self.own.push_back(id),
            Caller::Peer(peer) => {
                let turn = self.next_turn;
                let line = self.peers.entry(peer).or_insert_with(|| Line {
                    turn,
                    ..Line::default()
                });
                line.waiting.push_back(id);
                self.next_turn += 1;
            }
        }
        Ok((id, evicted))
    }

    /// The next call that gets a place, if one is free for any.
    pub(crate) fn next(&mut self) -> Option<CallId> {
        let startable = |ids: &VecDeque<CallId>| {
            let mut ids = ids.iter().copied();
            ids.find(|id| self.calls.get(id).is_some_and(|h| self.may_start(&h.call)))
        };
        let id = startable(&self.own).or_else(|| {
            let lines = self.peers.iter();
            let next = lines.filter_map(|(peer, line)| {
                let at_work = self.at_work_of(Caller::Peer(*peer)).iter().sum::<usize>();
                Some(((at_work, line.turn), startable(&line.waiting)?))
            });
            next.min_by_key(|(order, _)| *order).map(|(_, id)| id)
        })?;
        let held = self.calls.get_mut(&id)?;
        held.at_work = true;
        let Call { caller, lane, .. } = held.call;
        self.at_work.entry(caller).or_default()[lane as usize] += 1;
        if let Caller::Peer(peer) = caller
            && let Some(line) = self.peers.get_mut(&peer)
        {
            // Its next turn comes after everybody else's.
            line.turn = self.next_turn;
            self.next_turn += 1;
        }
        self.unline(id, caller);
        Some(id)
    }

    /// A call is over, or whoever waited for it went away; it may have been `completed` after it was at
    /// work for `took`. One that is not here any more is no fault.
    pub(crate) fn leave(&mut self, id: CallId, took: Duration, completed: bool) {
        let Some(held) = self.forget(id) else { return };
        if !held.at_work {
            return;
        }
        let service = &mut self.service[held.call.lane as usize];
        *service = match *service {
            Some(average) if completed || took > average => {
                Some((average * (NEW - 1) + took) / NEW)
            }
            None if completed => Some(took),
            // Broken off early: how long it would have taken nobody knows.
            unchanged => unchanged,
        };
    }

    /// Turns away every call of a peer that waits.
    pub(crate) fn drop_peers(&mut self) -> Vec<CallId> {
        let all: Vec<_> = self
            .peers
            .values()
            .flat_map(|l| l.waiting.clone())
            .collect();
        for id in &all {
            self.forget(*id);
        }
        all
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.own.len() + self.peers.values().map(|l| l.waiting.len()).sum::<usize>()
    }

    /// Calls at work.
    pub(crate) fn at_work(&self) -> usize {
        self.at_work.values().flatten().sum()
    }

    /// Generations that a peer could begin at once.
    pub(crate) fn free_for_peers(&self) -> usize {
        let lane = Lane::Generate;
        let [total, peers] = self.in_lane(lane);
        let free = self.bounds.places[lane as usize].saturating_sub(total);
        let free = free.min(self.peer_places(lane).saturating_sub(peers));
        let left = |most: usize| most.saturating_sub(self.peers_at_work());
        free.min(self.bounds.peers.map_or(free, left))
    }

    /// Moving average of how long a generation takes, or an encoding where nothing was generated yet.
    pub(crate) fn service(&self) -> Option<Duration> {
        self.service[Lane::Generate as usize].or(self.service[Lane::Encode as usize])
    }

    /// What a call that has lost its place is told.
    pub(crate) fn eviction(&self) -> Refusal {
        Refusal {
            why: Why::Evicted,
            retry_after: self.service().unwrap_or(GUESS).clamp(SOONEST, LATEST),
            waiting: self.waiting(),
        }
    }

    fn refuse(&self, call: &Call, why: Why) -> Refusal {
        let service = self.service[call.lane as usize].unwrap_or(GUESS);
        let places = self.places(call.caller, call.lane);
        Refusal {
            why,
            retry_after: (service / places).clamp(SOONEST, LATEST),
            waiting: self.waiting(),
        }
    }

    /// Whether there is a place for it now.
    fn may_start(&self, call: &Call) -> bool {
        let [total, peers] = self.in_lane(call.lane);
        if total >= self.bounds.places[call.lane as usize] {
            return false;
        }
        call.caller == Caller::Own
            || (peers < self.peer_places(call.lane)
                && self.bounds.peers.is_none_or(|n| self.peers_at_work() < n))
    }

    /// Calls at work in a lane: all, and those of peers.
    fn in_lane(&self, lane: Lane) -> [usize; 2] {
        let mut sums = [0, 0];
        for (caller, counts) in &self.at_work {
            sums[0] += counts[lane as usize];
            if *caller != Caller::Own {
                sums[1] += counts[lane as usize];
            }
        }
        sums
    }

    fn peers_at_work(&self) -> usize {
        let peers = self.at_work.iter().filter(|(c, _)| **c != Caller::Own);
        peers.flat_map(|(_, counts)| counts).sum()
    }

    fn at_work_of(&self, caller: Caller) -> [usize; LANES] {
        self.at_work.get(&caller).copied().unwrap_or_default()
    }

    /// Places of a lane that peers may take.
    fn peer_places(&self, lane: Lane) -> usize {
        let all = self.bounds.places[lane as usize];
        match self.bounds.peers {
            Some(most) if most >= all => all,
            _ => all.saturating_sub(1).max(1),
        }
    }

    /// Places that are at work for the likes of this caller.
    fn places(&self, caller: Caller, lane: Lane) -> u32 {
        let places = match caller {
            Caller::Own => self.bounds.places[lane as usize],
            Caller::Peer(_) => {
                let most = self.bounds.peers.unwrap_or(usize::MAX);
                self.peer_places(lane).min(most)
            }
        };
        u32::try_from(places).unwrap_or(u32::MAX).max(1)
    }

    /// How long a call that finds no place will wait, by those that would be served before it.
    fn wait(&self, call: &Call) -> Duration {
        let Some(service) = self.service[call.lane as usize] else {
            return Duration::ZERO;
        };
        let in_lane = |ids: &VecDeque<CallId>| {
            let same = |id: &&CallId| self.calls.get(id).is_some_and(|h| h.call.lane == call.lane);
            ids.iter().filter(same).count()
        };
        let own = in_lane(&self.own);
        let ahead = match call.caller {
            Caller::Own => own,
            Caller::Peer(me) => {
                let mine = self.peers.get(&me).map_or(0, |l| in_lane(&l.waiting));
                let others = self.peers.iter().filter(|(peer, _)| **peer != me);
                // Each of the others has a turn before each of mine.
                let before = others.map(|(_, l)| in_lane(&l.waiting).min(mine + 1));
                own + mine + before.sum::<usize>()
            }
        };
        let ahead = u32::try_from(ahead + 1).unwrap_or(u32::MAX);
        service.saturating_mul(ahead) / self.places(call.caller, call.lane)
    }

    /// Who loses his place in the full queue to `call`.
    fn victim(&self, call: &Call) -> Option<CallId> {
        let newest_batch = |line: &Line| {
            let batch = |id: &&CallId| {
                let held = self.calls.get(id);
                held.is_some_and(|h| h.call.class == Class::Batch)
            };
            line.waiting.iter().rev().find(batch).copied()
        };
        let newest = |line: &Line| newest_batch(line).or(line.waiting.back().copied());
        let longest = |wanted: &dyn Fn(&PeerId, &Line) -> bool| {
            let lines = self.peers.iter().filter(|(peer, line)| wanted(peer, line));
            lines.max_by_key(|(_, line)| line.waiting.len())
        };
        if call.class == Class::Interactive
            && let Some((_, line)) = longest(&|_, line| newest_batch(line).is_some())
        {
            return newest_batch(line);
        }
        let most = match call.caller {
            Caller::Own => longest(&|_, _| true),
            Caller::Peer(me) => {
                let mine = self.peers.get(&me).map_or(0, |l| l.waiting.len());
                // With one more than mine, the two would only change places.
                longest(&|_, line| line.waiting.len() >= mine + 2)
            }
        };
        most.and_then(|(_, line)| newest(line))
    }

    fn bytes(&self, caller: Caller) -> usize {
        let counts = |held: &&Held| caller == Caller::Own || held.call.caller != Caller::Own;
        self.calls
            .values()
            .filter(counts)
            .map(|h| h.call.bytes)
            .sum()
    }

    fn bytes_for(&self, caller: Caller) -> usize {
        match caller {
            Caller::Own => self.bounds.bytes,
            Caller::Peer(_) => self.bounds.bytes / 4 * 3,
        }
    }

    fn forget(&mut self, id: CallId) -> Option<Held> {
        let held = self.calls.remove(&id)?;
        let Call { caller, lane, .. } = held.call;
        if !held.at_work {
            self.unline(id, caller);
        } else if let Some(counts) = self.at_work.get_mut(&caller) {
            counts[lane as usize] -= 1;
            if counts.iter().all(|n| *n == 0) {
                self.at_work.remove(&caller);
            }
        }
        Some(held)
    }

    /// Takes a call out of those that wait.
    fn unline(&mut self, id: CallId, caller: Caller) {
        let Caller::Peer(peer) = caller else {
            self.own.retain(|own| *own != id);
            return;
        };
        if let Some(line) = self.peers.get_mut(&peer) {
            line.waiting.retain(|waiting| *waiting != id);
            if line.waiting.is_empty() {
                self.peers.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests;
