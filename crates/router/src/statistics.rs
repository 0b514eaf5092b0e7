//! What this node itself has seen of replicas and peers: latency, calls in flight, failures.

use std::time::Duration;

use polymath_types::{ExpertId, PeerId};

use crate::{
    Outcome, RouterConfig, Served,
    bounded::Bounded,
    breaker::{Breaker, PAIR_LIMIT, PEER_LIMIT, Shut, strikes},
};

/// Every measurement counts at least this much, however soon it follows the one before.
const LEAST_GAIN: f64 = 0.2;

/// Peak-EWMA of the time to first token (Finagle's `PeakEwma`: a rise counts at once, a fall by
/// and by), EWMA of the time per token; seconds.
#[derive(Debug, Clone, Copy)]
struct Latency {
    ttft: f64,
    per_token: Option<f64>,
    updated: Duration,
}

impl Latency {
    fn updated(old: Option<Self>, now: Duration, served: &Served, smoothing: Duration) -> Self {
        let ttft = served.ttft.as_secs_f64();
        let per_token =
            (served.tokens > 1).then(|| served.decode.as_secs_f64() / f64::from(served.tokens - 1));
        let Some(old) = old else {
            return Self {
                ttft,
                per_token,
                updated: now,
            };
        };
        let age = now.saturating_sub(old.updated);
        let gain = (1.0 - decay(age, smoothing)).max(LEAST_GAIN);
        let toward = |from: f64, to: f64| from + (to - from) * gain;
        Self {
            ttft: if ttft > old.ttft {
                ttft
            } else {
                toward(old.ttft, ttft)
            },
            per_token: match (old.per_token, per_token) {
                (Some(from), Some(to)) => Some(toward(from, to)),
                (known, None) | (None, known) => known,
            },
            updated: now,
        }
    }
}

fn decay(age: Duration, constant: Duration) -> f64 {
    let constant = constant.as_secs_f64();
    if constant > 0.0 {
        (-age.as_secs_f64() / constant).exp()
    } else {
        0.0
    }
}

#[derive(Debug, Default)]
struct Pair {
    latency: Option<Latency>,
    breaker: Breaker,
    /// Since when a call has been waited for longer than such calls take; until the next answer.
    overdue: Option<Duration>,
}

#[derive(Debug, Default)]
struct Peer {
    in_flight: u32,
    breaker: Breaker,
}

/// The latency expected of a replica, seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) ttft: f64,
    pub(crate) per_token: f64,
    /// Whether any of it was measured.
    pub(crate) measured: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Statistics {
    pairs: Bounded<(ExpertId, PeerId), Pair>,
    peers: Bounded<PeerId, Peer>,
}

impl Statistics {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            pairs: Bounded::new(capacity),
            peers: Bounded::new(capacity),
        }
    }

    pub(crate) fn started(&mut self, now: Duration, expert: ExpertId, peer: PeerId) {
        self.pairs.touch(&(expert, peer)).breaker.started(now);
        let known = self.peers.touch(&peer);
        known.in_flight = known.in_flight.saturating_add(1);
        known.breaker.started(now);
    }

    pub(crate) fn spoke(&mut self, now: Duration, expert: ExpertId, peer: PeerId) {
        self.pairs.touch(&(expert, peer)).breaker.spoke(now);
        self.peers.touch(&peer).breaker.spoke(now);
    }

    pub(crate) fn observe(&mut self, now: Duration, outcome: &Outcome, config: &RouterConfig) {
        let pair = self.pairs.touch(&(outcome.expert, outcome.peer));
        let peer = self.peers.touch(&outcome.peer);
        peer.in_flight = peer.in_flight.saturating_sub(1);
        match &outcome.result {
            Ok(served) => {
                pair.latency = Some(Latency::updated(
                    pair.latency,
                    now,
                    served,
                    config.smoothing,
                ));
                pair.overdue = None;
                pair.breaker.succeeded();
                peer.breaker.succeeded();
            }
            Err(kind) => {
                let (on_pair, on_peer) = strikes(*kind);
                pair.breaker.failed(now, *kind, on_pair, PAIR_LIMIT, config);
                peer.breaker.failed(now, *kind, on_peer, PEER_LIMIT, config);
            }
        }
    }

    /// What was seen of a replica.
    pub(crate) fn seen(&self, expert: ExpertId, peer: PeerId) -> Seen<'_> {
        Seen {
            pair: self.pairs.get(&(expert, peer)),
            peer: self.peers.get(&peer),
        }
    }

    /// A call has brought nothing for longer than such calls take.
    pub(crate) fn overdue(&mut self, now: Duration, expert: ExpertId, peer: PeerId) {
        self.pairs.touch(&(expert, peer)).overdue.get_or_insert(now);
    }

    /// Whether that is so, and nothing came of this replica since. After as long as a lost probe it is
    /// forgotten.
    pub(crate) fn is_overdue(
        &self,
        now: Duration,
        expert: ExpertId,
        peer: PeerId,
        config: &RouterConfig,
    ) -> bool {
        let since = self.pairs.get(&(expert, peer)).and_then(|p| p.overdue);
        since.is_some_and(|since| now.saturating_sub(since) < config.max_backoff)
    }

    /// A call was given up after so long: its replica is at least that slow.
    pub(crate) fn took_longer(
        &mut self,
        now: Duration,
        expert: ExpertId,
        peer: PeerId,
        waited: Duration,
        config: &RouterConfig,
    ) {
        let pair = self.pairs.touch(&(expert, peer));
        if pair.latency.is_none_or(|l| l.ttft < waited.as_secs_f64()) {
            let served = Served {
                ttft: waited,
                ..Served::default()
            };
            let latency = Latency::updated(pair.latency, now, &served, config.smoothing);
            pair.latency = Some(latency);
        }
    }

    /// Seconds to the first token, if it was ever measured.
    pub(crate) fn measured_ttft(&self, expert: ExpertId, peer: PeerId) -> Option<f64> {
        let latency = self.pairs.get(&(expert, peer))?.latency?;
        Some(latency.ttft)
    }
}

/// What was seen of one replica; looked up once a decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pair: Option<&'a Pair>,
    peer: Option<&'a Peer>,
}

impl Seen<'_> {
    /// Whether the breakers of the peer and of the pair let a call pass.
    pub(crate) fn check(self, now: Duration, config: &RouterConfig) -> Result<(), Shut> {
        self.peer.map_or(Ok(()), |p| p.breaker.check(now, config))?;
        self.pair.map_or(Ok(()), |p| p.breaker.check(now, config))
    }

    /// Own calls under way to that peer.
    pub(crate) fn in_flight(self) -> u32 {
        self.peer.map_or(0, |p| p.in_flight)
    }

    /// What was measured, faded by its age into the prior.
    pub(crate) fn expected(self, now: Duration, prior: Expected, forgetting: Duration) -> Expected {
        let Some(latency) = self.pair.and_then(|p| p.latency) else {
            return prior;
        };
        let kept = decay(now.saturating_sub(latency.updated), forgetting);
        let faded = |prior: f64, measured: f64| prior + (measured - prior) * kept;
        Expected {
            ttft: faded(prior.ttft, latency.ttft),
            per_token: latency
                .per_token
                .map_or(prior.per_token, |m| faded(prior.per_token, m)),
            measured: true,
        }
    }
}
