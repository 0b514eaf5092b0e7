//! Replicas that work, end and come back, and calls on their way to them.

use std::time::Duration;

use polymath_router::Served;
use polymath_types::ErrorKind;

use super::{
    Config, REPLICAS,
    policy::{Asker, Policy},
};
use crate::{
    Fault,
    chance::{Chance, For},
    links,
    queue::Queue,
};

pub(super) const SERVICE: &str = "lognormal, median 0.5 s × 0.8 to 1.25 by replica, sigma 0.5; one replica 5× slower; 4 places each";
/// Tokens of every answer.
pub(super) const TOKENS: u32 = 64;
const MEDIAN_S: f64 = 0.5;
const SIGMA: f64 = 0.5;
const SLOW: usize = 2;
const SLOWNESS: f64 = 5.0;
/// Calls a replica serves at once; others wait in line.
const PLACES: usize = 4;
/// Share of the service time up to the first token.
const PREFILL: f64 = 0.25;
/// Of two that end, one falls silent; the other's connections are reset.
const SILENT: f64 = 0.5;
/// When a silent peer's connection counts as lost: the target for a dead peer.
const DETECTED: Duration = Duration::from_secs(10);
/// The daemon's patience with a dial.
const DIAL: Duration = Duration::from_secs(5);
/// How long a replica is away, seconds.
const AWAY_S: (f64, f64) = (20.0, 60.0);

struct Replica {
    /// Its median service time over that of all.
    factor: f64,
    one_way: Duration,
    /// When each place is free again.
    places: [Duration; PLACES],
    up: bool,
    silent: bool,
    /// Counts its ends, so that what it had begun before ends with it.
    life: u32,
    /// What the asking node believes.
    connected: bool,
}

struct Call {
    begun: Duration,
    order: Vec<usize>,
    /// How many attempts were made; the last one may be under way.
    attempts: u32,
    underway: Option<Attempt>,
    ended: bool,
    took: Option<Duration>,
}

struct Attempt {
    replica: usize,
    begun: Duration,
    /// On a connection; else still dialling.
    connected: bool,
    /// The replica's life in which it arrived there.
    life: u32,
    first: Option<Duration>,
}

/// How one query ended.
pub(super) struct Answer {
    pub(super) attempts: u32,
    /// `None` when there was no complete answer within the deadline.
    pub(super) took: Option<Duration>,
}

#[derive(Clone, Copy)]
struct Which {
    query: usize,
    attempt: u32,
}

enum Event {
    Ask(usize),
    Arrive(Which),
    First(Which, u32),
    Done(Which, u32),
    Fail(Which, ErrorKind),
    Impatient(Which),
    Deadline(usize),
    Kill(u64),
    /// The asking node learns that a connection is lost.
    Lost(usize, u32),
    Restart(usize),
    Reconnected(usize, u32),
}

pub(super) struct World {
    chance: Chance,
    policy: Policy,
    asker: Asker,
    deadline: Duration,
    patience: Duration,
    kill_gap: Option<Duration>,
    replicas: Vec<Replica>,
    calls: Vec<Call>,
    queue: Queue<Event>,
    pub(super) kills: u32,
}

impl World {
    pub(super) fn new(config: &Config, chance: Chance, policy: Policy) -> Result<Self, Fault> {
        let deadline = Duration::from_millis(config.deadline_ms);
        let replicas = (0..=REPLICAS).map(|n| Replica {
            factor: chance.between(0.8, 1.25, For::Speed, &[n as u64])
                * if n == SLOW { SLOWNESS } else { 1.0 },
            // The asking node comes after all replicas.
            one_way: links::Distance::Drawn.one_way(chance, n, REPLICAS + 1),
            places: [Duration::ZERO; PLACES],
            up: true,
            silent: false,
            life: 0,
            connected: true,
        });
        let a_minute = f64::from(config.kills) / 100.0 * REPLICAS as f64;
        let mut world = Self {
            chance,
            policy,
            asker: Asker::new(chance, config.seed, deadline)?,
            deadline,
            patience: Duration::from_millis(config.patience_ms),
            kill_gap: (a_minute > 0.0).then(|| Duration::from_secs_f64(60.0 / a_minute)),
            replicas: replicas.collect(),
            calls: Vec::with_capacity(config.queries),
            queue: Queue::new(),
            kills: 0,
        };
        let gap = Duration::from_secs(1) / config.rate;
        for query in 0..config.queries {
            let at = gap.mul_f64(query as f64);
            world.queue.after(at, Event::Ask(query));
            world.queue.after(at + deadline, Event::Deadline(query));
            world.calls.push(Call {
                begun: at,
                order: Vec::new(),
                attempts: 0,
                underway: None,
                ended: false,
                took: None,
            });
        }
        world.next_kill(0);
        Ok(world)
    }

    /// Until the last query's deadline.
    pub(super) fn run(&mut self) {
        let end = self.calls.last().map_or(Duration::ZERO, |c| c.begun) + self.deadline;
        while let Some(event) = self.queue.pop_until(end) {
            self.handle(event);
        }
    }

    pub(super) fn answers(&self) -> Vec<Answer> {
        let calls = self.calls.iter();
        calls
            .map(|c| Answer {
                attempts: c.attempts,
                took: c.took,
            })
            .collect()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ask(query) => {
                self.calls[query].order = self.choose(query);
                self.attempt_next(query);
            }
            Event::Arrive(which) => self.arrive(which),
            Event::First(which, life) => {
                let now = self.queue.now();
                if self.replica_lives(which, life)
                    && let Some(attempt) = &mut self.calls[which.query].underway
                {
                    attempt.first = Some(now);
                }
            }
            Event::Done(which, life) => {
                if self.replica_lives(which, life) {
                    self.done(which.query);
                }
            }
            Event::Fail(which, kind) => self.fail(which, kind),
            Event::Impatient(which) => {
                let silent =
                    |a: &Attempt| a.first.is_none() || self.replicas[a.replica].life != a.life;
                let others = self.calls[which.query].order.len() > which.attempt as usize;
                if others && self.underway(which).is_some_and(silent) {
                    self.fail(which, ErrorKind::DeadlineExceeded);
                }
            }
            Event::Deadline(query) => {
                let call = &mut self.calls[query];
                call.ended = true;
                if let Some(attempt) = call.underway.take() {
                    let late = Err(ErrorKind::DeadlineExceeded);
                    self.asker.ended(self.queue.now(), attempt.replica, late);
                }
            }
            Event::Kill(number) => self.kill(number),
            Event::Lost(replica, life) => self.lost(replica, life),
            Event::Restart(n) => {
                let replica = &mut self.replicas[n];
                replica.up = true;
                replica.places = [Duration::ZERO; PLACES];
                // It dials its peers as it starts.
                let (delay, life) = (replica.one_way * 3, replica.life);
                self.queue.after(delay, Event::Reconnected(n, life));
            }
            Event::Reconnected(n, life) => {
                let replica = &mut self.replicas[n];
                replica.connected |= replica.life == life;
            }
        }
    }

    fn choose(&mut self, query: usize) -> Vec<usize> {
        let now = self.queue.now();
        let replicas = &self.replicas;
        let reached = |n: usize| (replicas[n].connected, replicas[n].one_way * 2);
        match self.policy {
            Policy::Router => self.asker.routed(now, &reached),
            Policy::Random => Asker::shuffled(self.chance, query, &reached),
            Policy::Oracle => {
                let mean = Duration::from_secs_f64(MEDIAN_S * (SIGMA * SIGMA / 2.0).exp());
                let expected = |n: &usize| {
                    let r = &replicas[*n];
                    let free = r.places.iter().min().copied().unwrap_or_default();
                    let wait = free.saturating_sub(now + r.one_way);
                    (!r.up, r.one_way * 2 + wait + mean.mul_f64(r.factor))
                };
                let mut order: Vec<usize> = (0..REPLICAS).collect();
                order.sort_by_key(expected);
                order
            }
        }
    }

    fn attempt_next(&mut self, query: usize) {
        let now = self.queue.now();
        let call = &mut self.calls[query];
        let tried = call.attempts as usize;
        let Some(n) = call.order.get(tried).copied() else {
            call.ended = true;
            return;
        };
        call.attempts += 1;
        let which = Which {
            query,
            attempt: call.attempts,
        };
        let replica = &self.replicas[n];
        call.underway = Some(Attempt {
            replica: n,
            begun: now,
            connected: replica.connected,
            life: replica.life,
            first: None,
        });
        self.asker.started(now, n);
        let way = replica.one_way;
        let (delay, event) = if replica.connected {
            (way, Event::Arrive(which))
        } else if replica.up {
            (way * 3, Event::Arrive(which))
        } else if replica.silent {
            (DIAL, Event::Fail(which, ErrorKind::Unavailable))
        } else {
            (way * 2, Event::Fail(which, ErrorKind::Unavailable))
        };
        self.queue.after(delay, event);
        self.queue.after(self.patience, Event::Impatient(which));
    }

    /// A call is at its replica: it gets the place that is free first.
    fn arrive(&mut self, which: Which) {
        let now = self.queue.now();
        let Some(n) = self.underway(which).map(|a| a.replica) else {
            return;
        };
        if let Some(attempt) = &mut self.calls[which.query].underway {
            attempt.connected = true;
            attempt.life = self.replicas[n].life;
        }
        let replica = &mut self.replicas[n];
        if !replica.up {
            if !replica.silent {
                let refused = Event::Fail(which, ErrorKind::Unavailable);
                self.queue.after(replica.one_way, refused);
            }
            return;
        }
        // One draw for a query at a replica, whatever the policy and the attempt.
        let place = [which.query as u64, n as u64];
        let draw = (SIGMA * self.chance.normal(For::Service, &place)).exp();
        let service = Duration::from_secs_f64(MEDIAN_S * replica.factor * draw);
        let Some(free) = replica.places.iter_mut().min() else {
            return;
        };
        let wait = free.saturating_sub(now);
        *free = now + wait + service;
        let (back, life) = (wait + replica.one_way, replica.life);
        let first = back + service.mul_f64(PREFILL);
        self.queue.after(first, Event::First(which, life));
        self.queue.after(back + service, Event::Done(which, life));
    }

    fn done(&mut self, query: usize) {
        let now = self.queue.now();
        let call = &mut self.calls[query];
        let Some(attempt) = call.underway.take() else {
            return;
        };
        call.ended = true;
        // The other expert's answer is none to this question.
        call.took = (attempt.replica < REPLICAS).then(|| now - call.begun);
        let first = attempt.first.unwrap_or(now);
        let served = Served {
            ttft: first - attempt.begun,
            tokens: TOKENS,
            decode: now - first,
        };
        self.asker.ended(now, attempt.replica, Ok(served));
    }

    fn fail(&mut self, which: Which, kind: ErrorKind) {
        if self.underway(which).is_none() {
            return;
        }
        let now = self.queue.now();
        if let Some(attempt) = self.calls[which.query].underway.take() {
            self.asker.ended(now, attempt.replica, Err(kind));
        }
        self.attempt_next(which.query);
    }

    /// The attempt, if it is the one under way.
    fn underway(&self, which: Which) -> Option<&Attempt> {
        let call = &self.calls[which.query];
        let attempt = call.underway.as_ref()?;
        (!call.ended && call.attempts == which.attempt).then_some(attempt)
    }

    /// Whether the attempt is under way at a replica that has not ended since `life`.
    fn replica_lives(&self, which: Which, life: u32) -> bool {
        self.underway(which)
            .is_some_and(|a| self.replicas[a.replica].life == life)
    }

    /// Ends follow each other as a Poisson process; one that hits a replica already away is void.
    fn next_kill(&mut self, number: u64) {
        if let Some(mean) = self.kill_gap {
            let unit = self.chance.unit(For::Kill, &[number, 0]);
            let gap = mean.mul_f64(-(1.0 - unit).ln());
            self.queue.after(gap, Event::Kill(number));
        }
    }

    fn kill(&mut self, number: u64) {
        self.next_kill(number + 1);
        let n = self.chance.below(REPLICAS, For::Kill, &[number, 1]);
        let silent = self.chance.unit(For::Kill, &[number, 2]) < SILENT;
        let away = self
            .chance
            .between(AWAY_S.0, AWAY_S.1, For::Kill, &[number, 3]);
        let replica = &mut self.replicas[n];
        if !replica.up {
            return;
        }
        self.kills += 1;
        replica.up = false;
        replica.silent = silent;
        replica.life += 1;
        let notice = if silent { DETECTED } else { replica.one_way };
        self.queue.after(notice, Event::Lost(n, replica.life));
        let away = Duration::from_secs_f64(away);
        self.queue.after(away, Event::Restart(n));
        // Answers that have begun fall silent now; patience with the others runs since the asking.
        let silence = replica.one_way + self.patience;
        for which in self.underway_at(n, |a| a.first.is_some()) {
            self.queue.after(silence, Event::Impatient(which));
        }
    }

    fn underway_at(&self, n: usize, fits: impl Fn(&Attempt) -> bool) -> Vec<Which> {
        let calls = self.calls.iter().enumerate().filter(|(_, c)| !c.ended);
        calls
            .filter(|(_, c)| {
                c.underway
                    .as_ref()
                    .is_some_and(|a| a.replica == n && fits(a))
            })
            .map(|(query, c)| Which {
                query,
                attempt: c.attempts,
            })
            .collect()
    }

    fn lost(&mut self, n: usize, life: u32) {
        let replica = &mut self.replicas[n];
        if replica.life != life {
            return;
        }
        replica.connected = false;
        let broken = self.underway_at(n, |a| a.connected);
        for which in broken {
            self.fail(which, ErrorKind::Unavailable);
        }
    }
}
