//! Which question is out to whom, so that many peers are not asked for the same thing at once.
//!
//! Claims cost nothing. So that a peer that claims much and delivers nothing keeps no one else
//! from being asked, whoever holds most gives way when the table is full, and questions that are
//! out to a peer that left others unanswered may be put to its betters; each time it does so again
//! that counts twice as long. And whoever the question is about may always be asked itself. A stream that
//! ends with open questions is no answer withheld: paths change. A few times it is passed over.

use std::collections::{BTreeMap, BTreeSet};

use polymath_types::PeerId;

use crate::limits::{ASK_TICKS, DOUBT_TICKS, DOUBTED_PEERS, LONGEST_DOUBT_TICKS, PASSED_OVER};

#[derive(Debug)]
struct Open {
    peer: PeerId,
    since: u64,
    /// An answer is expected; otherwise the subject only rests for a while.
    owed: bool,
    /// It was put once more, for what can be read by itself.
    whole: bool,
}

/// Open questions by subject.
#[derive(Debug)]
pub(crate) struct Asks<K> {
    open: BTreeMap<K, Open>,
    by_peer: BTreeMap<PeerId, BTreeSet<K>>,
    /// Peers that left a question unanswered, and until which tick that counts. It outlasts the
    /// connection, else a new one would wipe it out.
    doubted: BTreeMap<PeerId, Doubt>,
    /// Peers whose streams ended with open questions, how often, and when that was first.
    left: BTreeMap<PeerId, (u32, u64)>,
    limit: usize,
    tick: u64,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    until: u64,
    /// How long it lasts, ticks.
    lasts: u64,
}

impl<K: Ord + Copy> Asks<K> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            open: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            doubted: BTreeMap::new(),
            left: BTreeMap::new(),
            limit,
            tick: 0,
        }
    }

    /// Whether `peer` may be asked about `subject` at `tick`; if so, it counts as asked. `own`: the
    /// subject is the peer's own.
    pub(crate) fn ask(&mut self, subject: K, peer: PeerId, own: bool, tick: u64) -> bool {
        self.tick = tick;
        match self.open.get(&subject) {
            Some(open) if own && open.owed && open.peer != peer => {
                self.close(&subject);
                self.insert(subject, peer, tick, true)
            }
            Some(open) if self.is_doubted(&peer) || !self.is_doubted(&open.peer) => false,
            Some(_) => {
                self.close(&subject);
                self.insert(subject, peer, tick, true);
                true
            }
            None => self.insert(subject, peer, tick, true),
        }
    }

    /// Whether `peer`, which told something of `subject` that could not be read, may be asked for it whole:
    /// like [`Asks::ask`], but a question that is out to it already may be put so once more.
    pub(crate) fn ask_whole(&mut self, subject: K, peer: PeerId, own: bool, tick: u64) -> bool {
        let asked = self.is_asked(&subject, &peer) || self.ask(subject, peer, own, tick);
        let open = self.open.get_mut(&subject).filter(|_| asked);
        open.is_some_and(|open| !std::mem::replace(&mut open.whole, true))
    }

    /// `peer` answered with what cannot be used and would be sent again: for a while no one is
    /// asked about `subject`.
    pub(crate) fn rest(&mut self, subject: K, peer: PeerId, tick: u64) {
        match self.open.get_mut(&subject) {
            Some(open) if open.peer == peer => open.owed = false,
            Some(_) => {}
            None => {
                self.insert(subject, peer, tick, false);
            }
        }
    }

    /// Whether `peer` was asked about `subject`.
    pub(crate) fn is_asked(&self, subject: &K, peer: &PeerId) -> bool {
        self.open
            .get(subject)
            .is_some_and(|open| open.owed && open.peer == *peer)
    }

    /// Whether someone was asked about `subject`, or it rests.
    pub(crate) fn is_open(&self, subject: &K) -> bool {
        self.open.contains_key(subject)
    }

    /// Whether no answer is expected.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.values().all(|open| !open.owed)
    }

    /// The question is answered, or need not be.
    pub(crate) fn close(&mut self, subject: &K) {
        if let Some(open) = self.open.remove(subject)
            && let Some(subjects) = self.by_peer.get_mut(&open.peer)
        {
            subjects.remove(subject);
            if subjects.is_empty() {
                self.by_peer.remove(&open.peer);
            }
        }
    }

    /// The stream with `peer` is over: nothing more comes on it. Others are asked, and it again if it comes
    /// back; only if that happens again and again it counts as questions left unanswered.
    pub(crate) fn disconnected(&mut self, peer: &PeerId, tick: u64) {
        self.tick = tick;
        let subjects = self.by_peer.remove(peer).unwrap_or_default();
        let open = subjects.iter().filter_map(|s| self.open.remove(s));
        let owed = open.filter(|open| open.owed).count();
        if owed > 0 && !self.is_passed_over(*peer, tick) {
            self.doubt(*peer, tick);
        }
    }

    fn is_passed_over(&mut self, peer: PeerId, tick: u64) -> bool {
        self.left
            .retain(|_, (_, since)| tick.saturating_sub(*since) < DOUBT_TICKS);
        if self.left.len() >= DOUBTED_PEERS && !self.left.contains_key(&peer) {
            return false;
        }
        let (times, _) = self.left.entry(peer).or_insert((0, tick));
        *times = times.saturating_add(1);
        *times <= PASSED_OVER
    }

    /// Gives up on what has waited too long.
    pub(crate) fn expire(&mut self, tick: u64) {
        self.tick = tick;
        // For as long again as it lasted it is remembered that there was one.
        self.doubted
            .retain(|_, doubt| doubt.until.saturating_add(doubt.lasts) > tick);
        let late: Vec<(K, PeerId, bool)> = self
            .open
            .iter()
            .filter(|(_, open)| tick.saturating_sub(open.since) >= ASK_TICKS)
            .map(|(subject, open)| (*subject, open.peer, open.owed))
            .collect();
        let mut failed = BTreeSet::new();
        for (subject, peer, owed) in late {
            self.close(&subject);
            if owed {
                failed.insert(peer);
            }
        }
        failed.into_iter().for_each(|peer| self.doubt(peer, tick));
    }

    fn insert(&mut self, subject: K, peer: PeerId, since: u64, owed: bool) -> bool {
        let free = self.open.len() < self.limit || self.make_room(&peer);
        if free {
            let open = Open {
                peer,
                since,
                owed,
                whole: false,
            };
            self.open.insert(subject, open);
            self.by_peer.entry(peer).or_default().insert(subject);
        }
        free
    }

    /// Closes a question of whoever is least worth it, unless `peer` would then be.
    fn make_room(&mut self, peer: &PeerId) -> bool {
        let worth = |p: &PeerId, held: usize| (self.is_doubted(p), held);
        let least = self
            .by_peer
            .iter()
            .map(|(p, subjects)| (worth(p, subjects.len()), subjects))
            .max_by_key(|(worth, _)| *worth);
        let held = self.by_peer.get(peer).map_or(0, BTreeSet::len);
        let given_up = least
            .filter(|(theirs, _)| *theirs > worth(peer, held + 1))
            .and_then(|(_, subjects)| subjects.first().copied());
        if let Some(subject) = given_up {
            self.close(&subject);
        }
        given_up.is_some()
    }

    fn is_doubted(&self, peer: &PeerId) -> bool {
        self.doubted
            .get(peer)
            .is_some_and(|doubt| doubt.until > self.tick)
    }

    fn doubt(&mut self, peer: PeerId, tick: u64) {
        let before = self.doubted.get(&peer).map_or(0, |doubt| doubt.lasts);
        if self.doubted.len() >= DOUBTED_PEERS && before == 0 {
            let soonest = self.doubted.iter().min_by_key(|(_, doubt)| doubt.until);
            if let Some(soonest) = soonest.map(|(p, _)| *p) {
                self.doubted.remove(&soonest);
            }
        }
        let lasts = (before * 2).clamp(DOUBT_TICKS, LONGEST_DOUBT_TICKS);
        let until = tick.saturating_add(lasts);
        self.doubted.insert(peer, Doubt { until, lasts });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polymath_types::NodeKey;

    use super::*;

    fn peers<const N: usize>() -> [PeerId; N] {
        std::array::from_fn(|_| NodeKey::generate().peer_id())
    }

    #[test]
    fn a_full_table_is_shared_among_those_who_want_a_place() {
        let [greedy, second, third] = peers();
        let mut asks = Asks::new(12);
        let granted = |asks: &mut Asks<u32>, subjects: std::ops::Range<u32>, peer| {
            subjects.filter(|s| asks.ask(*s, peer, false, 1)).count()
        };
        assert_eq!(granted(&mut asks, 0..100, greedy), 12);
        assert_eq!(granted(&mut asks, 100..200, second), 6);
        assert_eq!(granted(&mut asks, 200..300, third), 4);
        assert_eq!(granted(&mut asks, 300..400, greedy), 0);
        assert_eq!(asks.open.len(), 12);
    }

    #[test]
    fn who_left_questions_unanswered_holds_none_against_others() {
        let [liar, honest, other] = peers();
        let mut asks = Asks::new(4);
        assert!(asks.ask(7, liar, false, 1));
        assert!(!asks.ask(7, honest, false, 1));
        asks.expire(1 + ASK_TICKS);
        // Again first, also over a new connection.
        asks.disconnected(&liar, 3);
        assert!(asks.ask(7, liar, false, 3));
        assert!(asks.ask(7, honest, false, 3));
        assert!(!asks.ask(7, liar, false, 3));
        assert!(!asks.ask(7, other, false, 3));
        assert!(asks.is_asked(&7, &honest));
    }

    #[test]
    fn a_subject_that_rests_is_no_ones_debt() {
        let [honest, other] = peers();
        let mut asks = Asks::new(4);
        assert!(asks.ask(7, honest, false, 1));
        asks.rest(7, honest, 1);
        assert!(!asks.ask(7, other, false, 1) && !asks.is_asked(&7, &honest));
        asks.expire(1 + ASK_TICKS);
        assert!(!asks.is_doubted(&honest));
        assert!(asks.ask(7, other, false, 3));
    }

    #[test]
    fn a_stream_that_ends_for_another_path_is_no_reason_to_doubt_whoever_is_at_its_end() {
        let [honest, other] = peers();
        let mut asks = Asks::new(4);
        for _ in 0..PASSED_OVER {
            assert!(asks.ask(7, honest, false, 1));
            asks.disconnected(&honest, 1);
            assert!(!asks.is_doubted(&honest) && !asks.is_open(&7));
        }
        // Who goes on so withholds answers.
        assert!(asks.ask(7, honest, false, 1));
        asks.disconnected(&honest, 1);
        assert!(asks.is_doubted(&honest));
        assert!(asks.ask(7, honest, false, 2) && asks.ask(7, other, false, 2));
        let later = 2 + 2 * DOUBT_TICKS;
        asks.expire(later);
        assert!(asks.ask(7, honest, false, later));
        asks.disconnected(&honest, later);
        assert!(!asks.is_doubted(&honest), "that was long ago");
    }

    #[test]
    fn doubts_are_bounded_and_pass() {
        let mut asks = Asks::new(4);
        for peer in peers::<{ DOUBTED_PEERS + 10 }>() {
            for _ in 0..=PASSED_OVER {
                asks.ask(7, peer, false, 1);
                asks.disconnected(&peer, 1);
            }
        }
        assert_eq!(asks.doubted.len(), DOUBTED_PEERS);
        assert_eq!(asks.left.len(), DOUBTED_PEERS);
        asks.expire(u64::MAX);
        assert!(asks.doubted.is_empty() && asks.by_peer.is_empty());
    }

    #[test]
    fn a_subject_itself_is_asked_whoever_holds_the_question() {
        let [liar, author, other] = peers();
        let mut asks = Asks::new(1);
        assert!(asks.ask(7, liar, false, 1));
        assert!(!asks.ask(7, other, false, 1));
        assert!(asks.ask(7, author, true, 1));
        assert!(!asks.ask(7, liar, false, 1) && asks.is_asked(&7, &author));
        // Even if it went away in the middle of an earlier answer.
        asks.disconnected(&author, 1);
        assert!(asks.ask(7, liar, false, 2));
        assert!(asks.ask(7, author, true, 2));
    }

    #[test]
    fn a_dozen_that_take_turns_do_not_keep_the_others_out() {
        let liars = peers::<11>();
        let [honest] = peers();
        let mut asks = Asks::new(16);
        let mut answered = 0;
        for tick in 1..1000 {
            asks.expire(tick);
            // They are always first.
            liars.iter().for_each(|liar| {
                asks.ask(7, *liar, false, tick);
            });
            if asks.ask(7, honest, false, tick) {
                answered += 1;
                asks.close(&7);
            }
        }
        assert!(answered > 800, "{answered}");
    }

    #[test]
    fn many_questions_that_one_left_open_are_one_doubt() {
        let [slow] = peers();
        let mut asks = Asks::new(100);
        (0..100).for_each(|n| {
            asks.ask(n, slow, false, 1);
        });
        asks.expire(1 + ASK_TICKS);
        assert!(asks.is_doubted(&slow));
        asks.expire(1 + ASK_TICKS + DOUBT_TICKS);
        assert!(!asks.is_doubted(&slow));
    }
}
