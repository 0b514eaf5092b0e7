//! When a call that has brought nothing yet is worth a second one elsewhere, and how many second ones
//! there may be.
//!
//! After "The tail at scale" (Dean and Barroso 2013) and tower's `hedge`: a second call once the first
//! has taken longer than 95 % of this node's own calls to that expert. As in linkerd's retry budget,
//! calls pay for hedges: twenty for one. A replica that is itself being waited for gets none, so that
//! hedges end where all replicas are slow.

use std::time::Duration;

use polymath_types::{ExpertId, PeerId};

use crate::{Router, RouterConfig, bounded::Bounded};

/// Times of an expert that are kept: few enough to follow a change within minutes, enough for a p95.
const SAMPLES: usize = 128;
/// With fewer, the p95 is their maximum, and one outlier decides.
const ENOUGH: usize = 20;
/// The share of calls that is waited for without a second one.
const QUANTILE: f64 = 0.95;
/// Hedges for each call.
const SHARE: f64 = 0.05;
/// Hedges that may be saved up: many at once are no tail, but a trouble that breakers are for.
const BURST: f64 = 4.0;
/// Sooner than this a second call brings nothing: what delays so little is the machine's own scheduling.
const SOONEST: Duration = Duration::from_millis(20);
/// A replica whose expected time is this many times the p95 is slow itself.
const SLOW: f64 = 2.0;

/// Hedges since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HedgeCounts {
    /// Second calls made.
    pub made: u64,
    /// Those that answered first.
    pub won: u64,
    /// Those not made for want of budget.
    pub over_budget: u64,
    /// Those not made because the other replica is slow, or left alone, too.
    pub pointless: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hedges {
    experts: Bounded<ExpertId, Times>,
    budget: f64,
    counts: HedgeCounts,
}

/// The latest times to the first token, seconds, in a ring.
#[derive(Debug, Default)]
struct Times {
    ring: Vec<f32>,
    next: usize,
    updated: Duration,
}

impl Times {
    fn note(&mut self, now: Duration, time: Duration) {
        let time = time.as_secs_f32();
        if self.ring.len() < SAMPLES {
            self.ring.push(time);
        } else if let Some(oldest) = self.ring.get_mut(self.next) {
            *oldest = time;
        }
        self.next = (self.next + 1) % SAMPLES;
        self.updated = now;
    }

    /// The nearest rank, which so few samples need no sketch for.
    fn quantile(&self) -> Option<Duration> {
        if self.ring.len() < ENOUGH {
            return None;
        }
        let mut times = self.ring.clone();
        let rank = (QUANTILE * times.len() as f64).ceil() as usize - 1;
        let (_, at, _) = times.select_nth_unstable_by(rank, f32::total_cmp);
        Duration::try_from_secs_f32(*at).ok()
    }
}

impl Hedges {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            experts: Bounded::new(capacity),
            budget: 1.0,
            counts: HedgeCounts::default(),
        }
    }

    pub(crate) fn called(&mut self) {
        self.budget = (self.budget + SHARE).min(BURST);
    }

    pub(crate) fn took(&mut self, now: Duration, expert: ExpertId, time: Duration) {
        self.experts.touch(&expert).note(now, time);
    }

    /// How long a call for this expert may bring nothing before a second one is made.
    pub(crate) fn after(
        &self,
        now: Duration,
        expert: &ExpertId,
        config: &RouterConfig,
    ) -> Option<Duration> {
        let times = self.experts.get(expert)?;
        let fresh = now.saturating_sub(times.updated) < config.forgetting;
        fresh.then(|| times.quantile()).flatten()
    }

    fn spend(&mut self) -> bool {
        // The second call will pay in like any other.
        let price = 1.0 + SHARE;
        let affordable = self.budget >= 1.0;
        if affordable {
            self.budget -= price;
            self.counts.made += 1;
        } else {
            self.counts.over_budget += 1;
        }
        affordable
    }
}

impl Router {
    /// How long a call for `expert` may bring no token (no answer, for vectors and labels) before
    /// [`Self::may_hedge`] is worth asking: this node's own p95. `None` while too little was measured.
    pub fn hedge_after(&self, now: Duration, expert: ExpertId) -> Option<Duration> {
        let after = self.hedges.after(now, &expert, &self.config)?;
        Some(after.max(SOONEST))
    }

    /// A call to `slow` has brought nothing for [`Self::hedge_after`]: whether a second one to `other`
    /// may be made. If so it is paid for; it is begun and observed like any call.
    pub fn may_hedge(
        &mut self,
        now: Duration,
        expert: ExpertId,
        slow: PeerId,
        other: PeerId,
    ) -> bool {
        let (statistics, config) = (&mut self.statistics, &self.config);
        statistics.overdue(now, expert, slow);
        let p95 = self.hedges.after(now, &expert, config);
        let known = statistics.measured_ttft(expert, other);
        let is_slow = matches!((known, p95), (Some(known), Some(p95)) if known > SLOW * p95.max(SOONEST).as_secs_f64());
        if is_slow
            || statistics.is_overdue(now, expert, other, config)
            || statistics.seen(expert, other).check(now, config).is_err()
        {
            self.hedges.counts.pointless += 1;
            return false;
        }
        self.hedges.spend()
    }

    /// The second call answered first: the one to `slow`, given up after `waited`, would have taken
    /// longer than that. Beside it, its end is observed as cancelled.
    pub fn outrun(&mut self, now: Duration, expert: ExpertId, slow: PeerId, waited: Duration) {
        self.hedges.counts.won += 1;
        // Else the slowest would never be counted, and the p95 would sink by its own doing.
        self.hedges.took(now, expert, waited);
        self.statistics
            .took_longer(now, expert, slow, waited, &self.config);
    }

    /// Hedges since the start.
    pub fn hedges(&self) -> HedgeCounts {
        self.hedges.counts
    }
}
