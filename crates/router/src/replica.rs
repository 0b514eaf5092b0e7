//! Which replicas of an expert may be asked now, and in which order.
//!
//! The order is that of expected time, over all replicas. The power of two choices over the same costs
//! is what many askers without measurements of their own would need; with them it was not better
//! (`examples/replica_choice.rs`: 1, 30 and 200 askers, 60 to 90 % load, one replica five times slower
//! or none; p99 at best 1.5 % lower, at worst 15 % higher).

use std::{
    borrow::Cow,
    cmp::Ordering,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use polymath_types::{
    ExpertKind, Index, IndexedExpert, LoadReport, PathKind, PeerId, Privacy, Query, Replica, Role,
    Terms,
};

use crate::{
    PeerState, Random, Reach, Request, RouterConfig, Term,
    breaker::Shut,
    decision::{Reason, Tally},
    statistics::{Expected, Seen, Statistics},
};

/// Expected times are compared in steps of this factor, so that noise never decides.
const STEP: f64 = 1.1;
/// A wait of so many seconds takes half the latency weight.
const HALF_LATENCY: f64 = 2.0;
/// Costs lie within these, so that no measurement, however absurd, defeats the comparison; seconds.
const LEAST_COST: f64 = 1e-6;
const MOST_COST: f64 = 1e9;

/// How much slower or busier than the others a replica may be for a conversation to stay there.
const BOUND: f64 = 1.25;

/// One replica that may be asked.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) peer: PeerId,
    pub(crate) here: bool,
    pub(crate) cost: f64,
    pub(crate) expected: Expected,
    pub(crate) in_flight: u32,
    pub(crate) latency: f64,
    pub(crate) load: f64,
    pub(crate) path: f64,
    /// It is first because the conversation went there before.
    pub(crate) familiar: bool,
    pub(crate) price: f64,
    pub(crate) trust: f64,
    /// Of the cost.
    step: i64,
    tie: u64,
}

impl Seat {
    /// The cost's step.
    pub(crate) const fn step(&self) -> i64 {
        self.step
    }

    /// By expected time, then this node, then advertised load, then path, then at random.
    fn order(&self, other: &Self) -> Ordering {
        self.step()
            .cmp(&other.step())
            .then(other.here.cmp(&self.here))
            .then(self.price.total_cmp(&other.price))
            .then(self.trust.total_cmp(&other.trust))
            .then(self.load.total_cmp(&other.load))
            .then(self.path.total_cmp(&other.path))
            .then(self.tie.cmp(&other.tie))
            .then(self.peer.cmp(&other.peer))
    }

    /// What this replica takes off its expert's content.
    pub(crate) fn terms(&self, config: &RouterConfig) -> [Term; 5] {
        [
            Term {
                name: "latency",
                value: self.latency,
                weight: -config.latency_weight,
            },
            Term {
                name: "load",
                value: self.load,
                weight: -config.load_weight,
            },
            Term {
                name: "path",
                value: self.path,
                weight: -config.path_weight,
            },
            Term {
                name: "cost",
                value: self.price,
                weight: -config.cost_weight,
            },
            Term {
                name: "trust",
                value: self.trust,
                weight: -config.trust_weight,
            },
        ]
    }
}

/// What one decision knows while it looks at replicas.
pub(crate) struct View<'a> {
    pub(crate) now: Duration,
    pub(crate) config: &'a RouterConfig,
    pub(crate) statistics: &'a Statistics,
    pub(crate) request: &'a Request<'a>,
    pub(crate) index: &'a Index,
    pub(crate) peers: &'a dyn Fn(&PeerId) -> PeerState,
    /// Differs from decision to decision.
    pub(crate) salt: u64,
    /// Whether suspended peers are asked: nobody else serves.
    pub(crate) probing: bool,
}

impl View<'_> {
    /// The replicas that may be asked, best first; the others go to the tally.
    pub(crate) fn seats(&self, expert: &IndexedExpert, tally: &mut Tally) -> Vec<Seat> {
        let mut seats: Vec<Seat> = Vec::with_capacity(expert.replicas.len());
        let mut last = None;
        for replica in &expert.replicas {
            // They are sorted by peer; an offer may name an expert twice.
            if last.replace(replica.peer) == Some(replica.peer) {
                continue;
            }
            match self.seat(expert, replica) {
                Ok(seat) => seats.push(seat),
                Err((reason, detail)) => {
                    let who = (expert.id, &*expert.card);
                    tally.add(who, Some(replica.peer), reason, || detail.into_owned());
                }
            }
        }
        seats.sort_unstable_by(Seat::order);
        if let Some(conversation) = conversation(self.request.query) {
            keep_together(&mut seats, conversation);
        }
        seats
    }

    fn seat(
        &self,
        expert: &IndexedExpert,
        replica: &Replica,
    ) -> Result<Seat, (Reason, Cow<'static, str>)> {
        let constraints = &self.request.query.constraints;
        let peer = replica.peer;
        if constraints.peer.is_some_and(|wanted| wanted != peer) {
            return Err((Reason::PeerRequired, "is not the required peer".into()));
        }
        if constraints.exclude.contains(&peer) {
            return Err((
                Reason::PeerExcluded,
                "the request excludes this peer".into(),
            ));
        }
        self.permitted(replica)?;
        if !replica.accepting {
            return Err((
                Reason::NotAccepting,
                "its peer says it takes no calls now".into(),
            ));
        }
        let state = (self.peers)(&peer);
        self.private(&peer, &state)?;
        // Who was found by asking around has stated no price yet.
        let stated = || self.index.peers().get(&peer).is_some_and(|o| o.epoch > 0);
        if constraints.max_price.is_some() && state.reach != Reach::Here && !stated() {
            return Err((Reason::Price, "its price is not known yet".into()));
        }
        let (here, path) = match &state.reach {
            Reach::Unreachable { why } => return Err((Reason::Unreachable, why.clone().into())),
            Reach::Leaving => return Err((Reason::Leaving, "its peer leaves the mesh".into())),
            Reach::Suspended { why } if !self.probing => {
                return Err((Reason::Suspended, why.clone().into()));
            }
            // Far from sure to answer: behind all that might.
            Reach::Suspended { .. } => (false, 1.0),
            Reach::Here => (true, 0.0),
            Reach::Connected {
                path: PathKind::Relayed,
            } => (false, 1.0),
            Reach::Connected { .. } => (false, 0.0),
            Reach::Known => (false, 0.5),
        };
        let seen = self.statistics.seen(expert.id, peer);
        seen.check(self.now, self.config)
            .map_err(|shut| (Reason::BreakerOpen, describe(shut).into()))?;

        let expected = self.expected(seen, &state);
        let in_flight = seen.in_flight();
        let once = expected.ttft + self.answer_tokens(expert) * expected.per_token;
        let cost = (once * (f64::from(in_flight) + 1.0)).clamp(LEAST_COST, MOST_COST);
        Ok(Seat {
            peer,
            here,
            cost,
            expected,
            in_flight,
            latency: cost / (cost + HALF_LATENCY),
            load: state.load.map_or(0.0, |l| occupancy(&l)),
            path,
            familiar: false,
            price: self.price(expert, replica),
            trust: f64::from(u8::from(!here && !self.index.charter().trusts(&peer))),
            step: (cost.ln() / STEP.ln()).floor() as i64,
            tie: lot(self.salt, &peer),
        })
    }

    /// Whether the caller lets this peer be asked.
    fn permitted(&self, replica: &Replica) -> Result<(), (Reason, Cow<'static, str>)> {
        let (constraints, peer) = (&self.request.query.constraints, &replica.peer);
        if !constraints.allow.is_empty() && !constraints.allow.contains(peer) {
            let why = "is none of the peers that the request allows";
            return Err((Reason::PeerExcluded, why.into()));
        }
        let stated = || self.index.peers().get(peer).map(|offer| &offer.labels);
        let states = |(key, value): &(&String, &String)| {
            let found = stated().and_then(|labels| labels.get(*key));
            found.is_some_and(|stated| value.is_empty() || stated == *value)
        };
        if let Some((key, value)) = constraints.peer_labels.iter().find(|label| !states(label)) {
            let why = format!("its peer does not state the label {key}={value}");
            return Err((Reason::PeerLabels, why.into()));
        }
        let price = replica.terms.price();
        match constraints.max_price {
            Some(most) if price > most => {
                let credit = Terms::CREDIT as f64;
                let why = format!(
                    "asks {} credits for 1,000 tokens each way, at most {} are paid",
                    price as f64 / credit,
                    most as f64 / credit
                );
                Err((Reason::Price, why.into()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the query may travel to this peer.
    fn private(&self, peer: &PeerId, state: &PeerState) -> Result<(), (Reason, Cow<'static, str>)> {
        let privacy = self.request.query.constraints.privacy;
        let circle = if state.reach == Reach::Here {
            Privacy::Local
        } else if state.own {
            Privacy::Own
        } else if self.index.charter().trusts(peer) {
            Privacy::Mesh
        } else {
            Privacy::Any
        };
        if circle <= privacy {
            return Ok(());
        }
        let why = match privacy {
            Privacy::Local => "the query must not leave this node",
            Privacy::Own => "the query may go to your own nodes only",
            Privacy::Mesh | Privacy::Any => {
                "the query may go to holders of a role in the mesh only"
            }
        };
        Err((Reason::Privacy, why.into()))
    }

    /// What an answer costs, 0 to 1.
    fn price(&self, expert: &IndexedExpert, replica: &Replica) -> f64 {
        let Terms {
            price_in,
            price_out,
            ..
        } = replica.terms;
        let prompt = f64::from(self.request.features.prompt_tokens);
        let tokens = prompt * price_in as f64 + self.answer_tokens(expert) * price_out as f64;
        let credits = tokens / 1000.0 / Terms::CREDIT as f64;
        credits / (credits + self.config.dear.max(f64::MIN_POSITIVE))
    }

    fn expected(&self, seen: Seen<'_>, state: &PeerState) -> Expected {
        let config = self.config;
        let here = state.reach == Reach::Here;
        let round_trip = state.rtt.filter(|_| !here).unwrap_or_default();
        let relay = match state.reach {
            Reach::Connected {
                path: PathKind::Relayed,
            } => config.relay,
            _ => Duration::ZERO,
        };
        let prior = Expected {
            ttft: config.prior_ttft.as_secs_f64() + round_trip.as_secs_f64() + relay.as_secs_f64(),
            per_token: config.prior_per_token.as_secs_f64(),
            measured: false,
        };
        let mut expected = seen.expected(self.now, prior, config.forgetting);
        if matches!(state.reach, Reach::Known | Reach::Suspended { .. }) {
            expected.ttft += config.dial.as_secs_f64();
        }
        expected
    }

    fn answer_tokens(&self, expert: &IndexedExpert) -> f64 {
        if expert.card.kind != ExpertKind::Generate {
            return 0.0;
        }
        let allowed = self
            .request
            .query
            .sampling
            .max_tokens
            .unwrap_or(expert.card.sampling.max_tokens);
        f64::from(allowed.min(self.config.typical_tokens))
    }
}

/// A peer's lot in one decision: from the end of its id, which is of a key or of a hash.
fn lot(salt: u64, peer: &PeerId) -> u64 {
    let digest = peer.as_ref().digest();
    let end = digest.last_chunk().copied().map_or(0, u64::from_le_bytes);
    Random::new(salt ^ end).bits()
}

/// What a conversation that goes on began with: the same for each of its later turns.
fn conversation(query: &Query) -> Option<u64> {
    let goes_on = query.messages.iter().any(|m| m.role == Role::Assistant);
    if query.kind != ExpertKind::Generate || !goes_on {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    for message in &query.messages {
        (message.role as u8, &message.content).hash(&mut hasher);
        if message.role == Role::User {
            break;
        }
    }
    Some(hasher.finish())
}

/// Puts first the replica that this conversation's turns go to, where its beginning may still be cached:
/// the highest by rendezvous hashing (Thaler and Ravishankar 1998) among those that are neither slower
/// nor busier than the bound allows (Mirrokni, Thorup and Zadimoghaddam 2018).
fn keep_together(seats: &mut [Seat], conversation: u64) {
    let Some(first) = seats.first().cloned() else {
        return;
    };
    let calls: u32 = seats.iter().map(|s| s.in_flight).sum();
    let most = (BOUND * f64::from(calls + 1) / seats.len() as f64).ceil();
    let within = |s: &Seat| {
        let quick = s.cost <= BOUND * first.cost && f64::from(s.in_flight + 1) <= most;
        quick && s.price <= first.price && s.trust <= first.trust
    };
    let rank = |s: &Seat| {
        let mut hasher = DefaultHasher::new();
        (conversation, s.peer).hash(&mut hasher);
        hasher.finish()
    };
    let places = seats.iter().enumerate().filter(|(_, s)| within(s));
    if let Some((at, _)) = places.max_by_key(|(_, s)| rank(s)) {
        seats[..=at].rotate_right(1);
        if at > 0 {
            seats[0].familiar = true;
        }
    }
}

/// The share of a peer's places that are taken, below 1.
fn occupancy(load: &LoadReport) -> f64 {
    let taken = f64::from(load.queue_depth) + f64::from(load.active);
    taken / (taken + f64::from(load.free_slots) + 1.0)
}

pub(crate) fn describe(shut: Shut) -> String {
    match shut {
        Shut::Open { last, remaining } => {
            format!(
                "failed lately ({}), next try in {:.1} s",
                last.as_str(),
                remaining.as_secs_f64()
            )
        }
        Shut::Probing { last } => {
            format!("failed lately ({}), a probe is under way", last.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_grows_with_work_and_stays_below_one() {
        let load = |queue_depth, active, free_slots| {
            occupancy(&LoadReport {
                queue_depth,
                active,
                free_slots,
                ..LoadReport::default()
            })
        };
        assert_eq!(load(0, 0, 4), 0.0);
        assert!(load(0, 1, 3) < load(0, 4, 0) && load(0, 4, 0) < load(9, 4, 0));
        assert!(load(u32::MAX, u32::MAX, 0) < 1.0);
    }
}
