//! Fast state: who is there, how busy, who leaves, who was lost.
//!
//! Beside the documents, since none of it is history. Each node signs a *status* every few seconds or
//! minutes ([`pace`]); of one author the latest is kept ([`order`]), and it is good for a time counted
//! from its receipt, so no clock is compared with another. A repeat changes nothing, an older one neither.
//!
//! Liveness is as in SWIM (Das, Gupta, Motivala 2002): whoever was connected with a peer, lost it and
//! cannot reach it again signs a *suspicion*; two witnesses suspend the peer in routing on every node, and
//! any later status of its own refutes them. A suspicion names the status it is about, and counts only
//! where that status is the latest: nobody can name one that its subject could not pass. A witness that is
//! wrong again and again is not heard for a while ([`voices`]), nor is one nobody has heard of. Nothing shows
//! that two peer ids are two people: whoever has two can suspend anybody, until the subject has answered, which
//! it does at once. Each time it does so twice as many are needed, and after the third time no number of others
//! suspends it for ten minutes.
//! Counting networks instead of ids would not help in an open mesh, and would take the witness of those who
//! share one away. As in Lifeguard (Dadgar et al. 2018), whoever loses most of its peers suspects itself.
//!
//! One identity that runs twice finds out: a status under its own key that it did not write makes a run
//! step over it (another incarnation) and name the other as its *rival*. A status that names this very run
//! as its rival was written after it began, so the other runs now; the one started later stops.
//!
//! Sans-IO like the rest of the crate: frames and the time go in, [`LiveAction`]s come out.

mod order;
mod pace;
mod signed;
mod spread;
mod table;
mod voices;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use polymath_proto::v1::{LiveFrame, LiveMessage, LiveStatus};
use polymath_types::{Format, LoadReport, MeshId, NodeKey, PeerId, VersionMismatch};
use prost::Message as _;

use self::{
    order::Order,
    pace::Allowance,
    signed::{Said, Suspicion},
    spread::{Haste, Key, Spread},
    table::Table,
    voices::Voices,
};
use crate::{Refusal, conduct::Conducts};

/// Largest frame sent, and largest accepted, bytes encoded.
pub const LIVE_FRAME_BYTES: usize = 32 * 1024;
/// How often [`Live::tick`] wants to be called.
pub const LIVE_TICK: Duration = Duration::from_millis(250);

/// Bytes a second of one node's statuses and those it passes on, sent and received together, while nothing
/// changes.
pub const LIVE_BYTES_A_SECOND: u64 = pace::BUDGET;

/// Lost peers that are remembered.
const LOST: usize = 1024;
/// A status that comes so soon after its author was lost was on its way before.
const IN_FLIGHT: Duration = Duration::from_secs(3);
/// Losses within this are taken together.
const TOGETHER: Duration = Duration::from_secs(10);
/// A loss counts of one that was known for so long, or for half as long as half of those connected.
const SETTLED: Duration = Duration::from_secs(60);
/// Shortest pause between two answers to suspicions, or to another run.
const ANSWERS: Duration = Duration::from_secs(1);
/// So many answers to suspicions come as soon; by then no number of witnesses suspends this node, and there is
/// more time for the next ones, until so long nobody accused it.
const PROMPT: u32 = 4;
const LATER: Duration = Duration::from_secs(10);
const ACCUSED: Duration = Duration::from_secs(600);
/// Those who accused this node of one status that are remembered.
const ACCUSERS: usize = 64;
/// How often a peer behind a relay is told that this node is there.
const RELAYED: Duration = Duration::from_secs(60);
/// Statuses in the first frames to a peer.
const FIRST: usize = 256;
/// Signatures checked in a burst and in a second: of all peers, and of one.
const CHECKS: [u32; 2] = [4096, 1000];
const CHECKS_OF_ONE: [u32; 2] = [2048, 64];
/// Authors that one peer may bring who were not known.
const NEW_OF_ONE: [u32; 2] = [1024, 16];
/// Suspicions that one peer may bring.
const ACCUSATIONS: [u32; 2] = [256, 2];

/// Whose fast state, of which mesh.
#[derive(Debug, Clone)]
pub struct LiveConfig {
    /// Signs what this node says.
    pub key: NodeKey,
    /// Statements for another mesh are refused.
    pub mesh: MeshId,
    /// Drawn at the start of the process; tells two runs of one identity apart.
    pub run: u64,
    /// When it started, Unix seconds: of two runs the later stops. A wrong clock can make it the other.
    pub started: u64,
    /// Above that of every earlier run of this home, and stored.
    pub incarnation: u64,
    /// For the choice of whom to tell.
    pub seed: u64,
    /// Authors of whom something is kept.
    pub authors: usize,
}

impl LiveConfig {
    /// Authors kept unless told otherwise; each takes about 600 bytes.
    pub const AUTHORS: usize = 16_384;
}

/// What the caller must do, in the order given.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LiveAction {
    /// Write this incarnation durably, before what follows is sent.
    Incarnation(u64),
    /// Send a frame to a connected peer; it may be lost.
    Send {
        /// To whom.
        peer: PeerId,
        /// At most [`LIVE_FRAME_BYTES`] encoded.
        frame: LiveFrame,
    },
    /// What is to be thought of a peer has changed.
    View {
        /// Of whom.
        peer: PeerId,
        /// Nothing of one that was forgotten.
        view: View,
    },
    /// Nothing is held of a peer any more: others took its place.
    Forgotten(PeerId),
    /// A lost peer may have spoken before it was lost: see whether it can be reached now, and if not say
    /// [`Live::lost`] again.
    Probe(PeerId),
    /// Another run of this identity is at work, and started earlier: this one must stop.
    RunsTwice,
}

/// What is to be thought of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Whether it should be asked.
    pub standing: Standing,
    /// Its load, as it last said.
    pub load: LoadReport,
    /// Until when its last status is good, on the clock of the caller; afterwards it is silent.
    pub fresh_until: Duration,
}

/// Whether a peer should be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing speaks against it.
    Alive,
    /// It says that it leaves.
    Leaving,
    /// Two peers that were connected with it have lost it.
    Suspended,
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LiveRefusal {
    /// No message of this format.
    Form,
    /// Not signed by its author for this mesh.
    Signature,
    /// Of a kind that this build does not know.
    Unknown,
    /// Known already.
    Repeat,
    /// Something later is known.
    Stale,
    /// A suspicion about a status that was not seen.
    Unproven,
    /// Its witness was wrong too often, or has not been known for long.
    Unheard,
    /// As much is held as may be.
    Full,
    /// More than a peer may bring in so short a time.
    Rate,
}

impl LiveRefusal {
    /// Whether an honest peer, which checks all it passes on, could not have sent it.
    const fn blames_sender(self) -> bool {
        matches!(self, Self::Form | Self::Signature)
    }
}

/// Why a peer's stream must be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LiveFrameError {
    /// The peer speaks another version.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// Larger than a frame may be.
    #[error("the frame has {bytes} bytes; at most {LIVE_FRAME_BYTES} are allowed")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// The peer is not connected.
    #[error("the peer is not among those connected")]
    NotConnected,
    /// The peer passed on what no honest peer does, again and again.
    #[error("the peer sent {faults} statements that nobody signed")]
    Misbehaving {
        /// How many.
        faults: u32,
    },
}

/// What was taken and refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveCounters {
    /// Statuses taken.
    pub statuses: u64,
    /// Suspicions taken.
    pub suspicions: u64,
    /// Suspicions signed here.
    pub suspected: u64,
    /// Statuses written here.
    pub published: u64,
    /// Bytes sent, and sent to peers behind relays.
    pub sent: u64,
    /// Of these to peers behind relays.
    pub sent_relayed: u64,
    /// Statuses not passed on, as too much had been.
    pub unsaid: u64,
    refused: BTreeMap<LiveRefusal, u64>,
}

impl LiveCounters {
    /// All refusals but those of what was known already.
    pub fn refusals(&self) -> u64 {
        let told = |why: &LiveRefusal| !matches!(why, LiveRefusal::Repeat | LiveRefusal::Stale);
        let refused = self.refused.iter().filter(|(why, _)| told(why));
        refused.map(|(_, n)| n).sum()
    }

    /// Refusals for one reason.
    pub fn refused(&self, why: LiveRefusal) -> u64 {
        self.refused.get(&why).copied().unwrap_or(0)
    }
}

/// A connected peer.
#[derive(Debug)]
struct Link {
    relayed: bool,
    checks: Allowance,
    newcomers: Allowance,
    accusations: Allowance,
    /// When it was last told of this node, if it is behind a relay.
    told: Duration,
    /// When it was last told what is held of itself.
    echoed: Option<Duration>,
}

/// What this node last said of itself.
#[derive(Debug)]
struct Own {
    order: Order,
    message: Option<LiveMessage>,
    load: LoadReport,
    at: Option<Duration>,
    /// For how long it is good.
    valid: Duration,
    rival: u64,
    /// Others must be told more than usual soon.
    due: bool,
    /// Its present status was said to be its last.
    accused: bool,
    /// By these.
    accusers: BTreeSet<PeerId>,
    /// It was passed on again, since somebody accused an older one.
    pressed: bool,
    /// Answers to suspicions, and when the last one was.
    answers: (u32, Duration),
    /// Another run goes on in its stead.
    ended: bool,
}

impl Own {
    /// Answers to suspicions lately.
    fn answers_at(&self, now: Duration) -> u32 {
        let (answers, last) = self.answers;
        if now.saturating_sub(last) < ACCUSED {
            answers
        } else {
            0
        }
    }
}

/// Fast state of the mesh.
#[derive(Debug)]
pub struct Live {
    config: LiveConfig,
    me: PeerId,
    table: Table,
    voices: Voices,
    conducts: Conducts,
    peers: BTreeMap<PeerId, Link>,
    lost: BTreeMap<PeerId, Duration>,
    losses: VecDeque<Duration>,
    own: Own,
    spread: Spread,
    checks: Allowance,
    counters: LiveCounters,
    /// Nodes that speak, this one among them, at the last count, and when that was.
    alive: (usize, Option<Duration>),
}

impl Live {
    /// Nothing is known yet, and nothing said.
    pub fn new(config: LiveConfig) -> Self {
        Self {
            me: config.key.peer_id(),
            table: Table::new(config.authors, config.key.peer_id()),
            voices: Voices::default(),
            conducts: Conducts::default(),
            peers: BTreeMap::new(),
            lost: BTreeMap::new(),
            losses: VecDeque::new(),
            own: Own {
                order: Order {
                    incarnation: config.incarnation,
                    ..Order::default()
                },
                message: None,
                load: LoadReport::default(),
                at: None,
                valid: Duration::ZERO,
                rival: 0,
                due: false,
                accused: false,
                accusers: BTreeSet::new(),
                pressed: false,
                answers: (0, Duration::ZERO),
                ended: false,
            },
            spread: Spread::new(config.seed),
            checks: Allowance::new(CHECKS[0], CHECKS[1]),
            counters: LiveCounters::default(),
            alive: (0, None),
            config,
        }
    }

    /// What was taken and refused so far.
    pub fn counters(&self) -> &LiveCounters {
        &self.counters
    }

    /// Authors of whom something is held.
    pub fn authors(&self) -> usize {
        self.table.len()
    }

    /// What waits to be passed on.
    pub fn waiting(&self) -> usize {
        self.spread.len()
    }

    /// What is to be thought of a peer; nothing of one that was never heard of.
    pub fn view(&self, now: Duration, peer: &PeerId) -> Option<View> {
        self.table.view(now, peer, &self.voices)
    }

    /// A stream with `peer` is open. It is told what is known.
    pub fn peer_connected(
        &mut self,
        now: Duration,
        peer: PeerId,
        relayed: bool,
    ) -> Vec<LiveAction> {
        let mut actions = Vec::new();
        if self.conducts.cut_off(&peer).is_some() {
            return actions;
        }
        self.reach(now, peer, &mut actions);
        if self.own.message.is_none() && !self.own.ended {
            self.publish(now, (Haste::Calm, true), &mut actions);
        }
        let mut messages = Vec::new();
        messages.extend(self.own.message.clone());
        // What is held under its own name: it may run twice, or have lost its memory.
        messages.extend(self.table.get(&peer).map(|e| e.message.clone()));
        if !relayed || self.table.len() <= FIRST / 8 {
            messages.extend(self.table.snapshot(now, FIRST));
        }
        self.peers.insert(
            peer,
            Link {
                relayed,
                checks: Allowance::new(CHECKS_OF_ONE[0], CHECKS_OF_ONE[1]),
                newcomers: Allowance::new(NEW_OF_ONE[0], NEW_OF_ONE[1]),
                accusations: Allowance::new(ACCUSATIONS[0], ACCUSATIONS[1]),
                told: now,
                echoed: None,
            },
        );
        self.send(peer, messages, &mut actions);
        actions
    }

    /// The stream with `peer` has ended; that says nothing of the peer.
    pub fn peer_disconnected(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// A connection with `peer` stands: what this node thought of it is over.
    pub fn reached(&mut self, now: Duration, peer: PeerId) -> Vec<LiveAction> {
        let mut actions = Vec::new();
        self.reach(now, peer, &mut actions);
        actions
    }

    fn reach(&mut self, now: Duration, peer: PeerId, actions: &mut Vec<LiveAction>) {
        self.lost.remove(&peer);
        let me = self.me;
        if self.table.withdraw(&me, &peer) {
            self.tell_view(now, peer, actions);
        }
    }

    /// For how long half of the connected peers have been known.
    fn settled(&self, now: Duration) -> Duration {
        let known = self.peers.keys().filter_map(|peer| self.table.get(peer));
        let mut ages: Vec<Duration> = known.map(|e| now.saturating_sub(e.since)).collect();
        ages.sort_unstable();
        ages.get(ages.len() / 2).copied().unwrap_or_default()
    }

    /// The last connection with `peer` broke, and it could not be reached again.
    pub fn lost(&mut self, now: Duration, peer: PeerId) -> Vec<LiveAction> {
        let mut actions = Vec::new();
        self.peers.remove(&peer);
        if self.lost.len() >= LOST {
            self.lost.retain(|_, at| now.saturating_sub(*at) < TOGETHER);
        }
        // The first loss counts: what was on its way then has come after a while.
        if self.lost.len() < LOST {
            self.lost.entry(peer).or_insert(now);
        }
        self.losses.retain(|at| now.saturating_sub(*at) < TOGETHER);
        // Keys that come and go by the dozen say nothing of this node's own line.
        let long = SETTLED.min(self.settled(now) / 2);
        let known = self.table.get(&peer);
        if known.is_some_and(|e| now.saturating_sub(e.since) >= long) {
            self.losses.push_back(now);
        }
        if self.losses.len() > LOST {
            self.losses.pop_front();
        }
        // Whoever loses most of its peers has lost its own line.
        if self.peers.is_empty() || self.losses.len() > self.peers.len().max(2) {
            return actions;
        }
        let me = self.me;
        let Some(known) = self.table.get(&peer).map(|e| e.order) else {
            return actions;
        };
        let pair = (&me, &peer);
        if known.leaving
            || self
                .table
                .may_doubt(now, pair, &known, &self.voices)
                .is_err()
        {
            return actions;
        }
        let suspicion = Suspicion {
            subject: peer,
            known,
        };
        let Some(message) = signed::suspicion(&self.config.key, &self.config.mesh, &suspicion)
        else {
            return actions;
        };
        self.counters.suspected += 1;
        self.table.doubt(now, (me, peer), message, &self.voices);
        let doubt = Key::Doubt {
            subject: peer,
            witness: me,
        };
        self.spread.note(doubt, Haste::Disputed, true, None);
        self.tell_view(now, peer, &mut actions);
        self.flush(now, &mut actions);
        actions
    }

    /// Time has passed; `load` is what this node would say of itself now.
    pub fn tick(&mut self, now: Duration, load: LoadReport) -> Vec<LiveAction> {
        let mut actions = Vec::new();
        self.conducts.begin_tick(now.as_secs() / 30);
        for peer in self.table.expire(now) {
            self.tell_view(now, peer, &mut actions);
        }
        let second = Duration::from_secs(1);
        if self
            .alive
            .1
            .is_none_or(|at| now.saturating_sub(at) >= second)
        {
            self.alive = (self.table.speaking(now) + 1, Some(now));
        }
        let nodes = self.alive.0;
        let changed = pace::changed_much(&self.own.load, &load);
        let prompt = self.own.answers_at(now) < PROMPT;
        let pause = match (self.own.due, self.own.accused, changed) {
            (true, ..) => ANSWERS,
            (_, true, _) if prompt => ANSWERS,
            (.., true) => pace::hurried(nodes),
            (_, true, _) => pace::interval(nodes).min(LATER),
            // A first status, written before the mesh was known, is good for a moment only.
            _ => pace::interval(nodes).min(self.own.valid * 3 / 4),
        };
        let speaks = !self.own.order.leaving && !self.own.ended;
        if speaks && self.own.at.is_none_or(|at| now.saturating_sub(at) >= pause) {
            self.own.load = load;
            let haste = if self.own.due || self.own.accused {
                Haste::Disputed
            } else {
                Haste::Calm
            };
            self.publish(now, (haste, changed), &mut actions);
        }
        self.tell_relayed(now, &mut actions);
        self.flush(now, &mut actions);
        actions
    }

    /// This node leaves: every peer it is connected with is told at once.
    pub fn leave(&mut self, now: Duration) -> Vec<LiveAction> {
        let mut actions = Vec::new();
        // What the run that goes on says must stand.
        if self.own.ended {
            return actions;
        }
        self.own.order.leaving = true;
        self.publish(now, (Haste::Disputed, true), &mut actions);
        let message = self.own.message.clone();
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send(peer, message.clone(), &mut actions);
        }
        actions
    }

    /// A frame of `peer`'s.
    pub fn receive(
        &mut self,
        now: Duration,
        peer: PeerId,
        frame: LiveFrame,
    ) -> Result<Vec<LiveAction>, LiveFrameError> {
        Format::Live.check(frame.version)?;
        let bytes = frame.encoded_len();
        if bytes > LIVE_FRAME_BYTES {
            return Err(LiveFrameError::TooLarge { bytes });
        }
        if !self.peers.contains_key(&peer) {
            return Err(LiveFrameError::NotConnected);
        }
        let mut actions = Vec::new();
        for message in frame.messages {
            if let Err(why) = self.hear(now, peer, message, &mut actions) {
                let refused = self.counters.refused.entry(why).or_default();
                *refused = refused.saturating_add(1);
                if why.blames_sender() {
                    self.conducts.fault(peer, Refusal::Signature);
                }
            }
        }
        match self.conducts.cut_off(&peer) {
            Some((faults, _)) => Err(LiveFrameError::Misbehaving { faults }),
            None => Ok(actions),
        }
    }

    fn hear(
        &mut self,
        now: Duration,
        from: PeerId,
        message: LiveMessage,
        actions: &mut Vec<LiveAction>,
    ) -> Result<(), LiveRefusal> {
        let (author, said) = signed::read(&message)?;
        match said {
            Said::Status(status) if author == self.me => {
                self.hear_own(now, from, &message, &status, actions)
            }
            Said::Status(status) => {
                self.hear_status(now, (author, from), message, &status, actions)
            }
            Said::Suspicion(s) if author != self.me => {
                self.hear_suspicion(now, (author, from), message, &s, actions)
            }
            Said::Suspicion(_) => Err(LiveRefusal::Repeat),
        }
    }

    fn hear_status(
        &mut self,
        now: Duration,
        (author, from): (PeerId, PeerId),
        message: LiveMessage,
        status: &LiveStatus,
        actions: &mut Vec<LiveAction>,
    ) -> Result<(), LiveRefusal> {
        let wanted = self.table.wants(&author, &Order::of(status), &message);
        if wanted == Err(LiveRefusal::Stale)
            && self.table.get(&author).is_some_and(|e| e.run != status.run)
        {
            self.echo(now, author, actions);
        }
        wanted?;
        let unknown = self.table.get(&author).is_none();
        self.check(now, from, (unknown && author != from, false))?;
        signed::verify(&message, &author, &self.config.mesh)?;
        let peers = &self.peers;
        let taken = self
            .table
            .take(now, (author, from), status, message, &|p| {
                peers.contains_key(p)
            })?;
        self.counters.statuses += 1;
        for witness in taken.refuted {
            if witness != self.me {
                self.refuted(now, witness, actions);
            }
        }
        for peer in taken.evicted {
            actions.push(LiveAction::Forgotten(peer));
        }
        self.spread
            .note(Key::Status(author), taken.haste, taken.news, Some(from));
        self.tell_view(now, author, actions);
        if let Some(at) = self.lost.get(&author)
            && now.saturating_sub(*at) < IN_FLIGHT
            && !status.leaving
        {
            actions.push(LiveAction::Probe(author));
        }
        Ok(())
    }

    /// Two runs of `author` contradict each other: it is told what is held of it, which otherwise nobody
    /// would.
    fn echo(&mut self, now: Duration, author: PeerId, actions: &mut Vec<LiveAction>) {
        let held = self.table.get(&author).map(|e| e.message.clone());
        if let Some(link) = self.peers.get_mut(&author)
            && link
                .echoed
                .is_none_or(|at| now.saturating_sub(at) >= ANSWERS)
        {
            link.echoed = Some(now);
            self.send(author, held, actions);
        }
    }

    /// What a witness said before does not count either once it is not heard any more.
    fn refuted(&mut self, now: Duration, witness: PeerId, actions: &mut Vec<LiveAction>) {
        let before = self.voices.is_heard(now, &witness);
        self.voices.refuted(now, witness);
        if before && !self.voices.is_heard(now, &witness) {
            for subject in self.table.doubted_by(&witness) {
                self.tell_view(now, subject, actions);
            }
        }
    }

    fn hear_suspicion(
        &mut self,
        now: Duration,
        (witness, from): (PeerId, PeerId),
        message: LiveMessage,
        suspicion: &Suspicion,
        actions: &mut Vec<LiveAction>,
    ) -> Result<(), LiveRefusal> {
        let subject = suspicion.subject;
        if subject == self.me {
            return self.hear_accusation(now, (witness, from), &message, &suspicion.known, actions);
        }
        let pair = (&witness, &subject);
        self.table
            .may_doubt(now, pair, &suspicion.known, &self.voices)?;
        self.check(now, from, (false, true))?;
        signed::verify(&message, &witness, &self.config.mesh)?;
        self.table
            .doubt(now, (witness, subject), message, &self.voices);
        self.counters.suspicions += 1;
        let doubt = Key::Doubt { subject, witness };
        self.spread.note(doubt, Haste::Disputed, true, Some(from));
        self.tell_view(now, subject, actions);
        Ok(())
    }

    /// A suspicion of this node itself. It is answered if it names the present status: whoever has that knows of
    /// none that refutes. If it names an older one the present is passed on once more, in a hurry; to repeat it
    /// brings nothing.
    fn hear_accusation(
        &mut self,
        now: Duration,
        (witness, from): (PeerId, PeerId),
        message: &LiveMessage,
        named: &Order,
        actions: &mut Vec<LiveAction>,
    ) -> Result<(), LiveRefusal> {
        if !self.voices.is_heard(now, &witness) {
            return Err(LiveRefusal::Unheard);
        }
        if named.is_after(&self.own.order) {
            return Err(LiveRefusal::Unproven);
        }
        let present = *named == self.own.order;
        if !present && self.own.pressed {
            return Err(LiveRefusal::Stale);
        }
        if present && self.own.accusers.contains(&witness) {
            return Err(LiveRefusal::Repeat);
        }
        self.check(now, from, (false, true))?;
        signed::verify(message, &witness, &self.config.mesh)?;
        if present {
            self.own.accused = true;
            if self.own.accusers.len() < ACCUSERS {
                self.own.accusers.insert(witness);
                self.refuted(now, witness, actions);
            }
        } else {
            self.own.pressed = true;
            self.spread
                .note(Key::Status(self.me), Haste::Disputed, true, None);
        }
        Ok(())
    }

    /// A status under this node's own name.
    fn hear_own(
        &mut self,
        now: Duration,
        from: PeerId,
        message: &LiveMessage,
        status: &LiveStatus,
        actions: &mut Vec<LiveAction>,
    ) -> Result<(), LiveRefusal> {
        if status.run == self.config.run {
            return Err(LiveRefusal::Repeat);
        }
        let order = Order::of(status);
        let names_me = status.rival == self.config.run;
        if !names_me && self.own.order.is_after(&order) {
            return Err(LiveRefusal::Stale);
        }
        self.check(now, from, (false, false))?;
        signed::verify(message, &self.me, &self.config.mesh)?;
        if names_me && (status.started, status.run) < (self.config.started, self.config.run) {
            self.own.ended = true;
            actions.push(LiveAction::RunsTwice);
            return Ok(());
        }
        if !self.own.order.is_after(&order) {
            self.own.order.incarnation = order.incarnation.wrapping_add(1);
            self.own.order.sequence = 0;
            self.own.rival = status.run;
            self.own.due = true;
            actions.push(LiveAction::Incarnation(self.own.order.incarnation));
        }
        Ok(())
    }

    /// Whether `from` may have one more signature checked.
    fn check(
        &mut self,
        now: Duration,
        from: PeerId,
        (newcomer, accuses): (bool, bool),
    ) -> Result<(), LiveRefusal> {
        let link = self.peers.get_mut(&from).ok_or(LiveRefusal::Rate)?;
        let allowed = link.checks.take(now, 1)
            && (!newcomer || link.newcomers.take(now, 1))
            && (!accuses || link.accusations.take(now, 1))
            && self.checks.take(now, 1);
        if allowed {
            Ok(())
        } else {
            Err(LiveRefusal::Rate)
        }
    }
}
