//! What the path delivers, and the window that follows from it. Pure: times and bytes in, a window out.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Share of a round's bytes that may be lost without a word. BBRv3 bears as much.
const LOSS_BORNE: f64 = 0.02;
/// Fewer packets lost than this in a round say nothing of the share.
const FEW_LOST: u64 = 8;
/// Packets sent in the first round trip, paced. RFC 9002 recommends 10, quinn's BBR sends 200; whoever has
/// a ticket is about to fetch thousands.
const INITIAL_PACKETS: u64 = 128;
/// What is sent at least, so that acknowledgements keep coming.
const LEAST_PACKETS: u64 = 4;
/// In the beginning: the window doubles each round, as in slow start.
const START: f64 = 2.0;
/// Growth below this factor in a round is none.
const GROWTH: f64 = 1.25;
/// So many rounds without growth end the start.
const ROUNDS_WITHOUT_GROWTH: u32 = 3;
/// The window, in bandwidth-delay products, round by round: look for more, let the queue go, stay. What
/// is over one waits in the bottleneck's queue, and keeps it from running dry.
const CYCLE: [f64; 8] = [1.4, 0.9, 1.15, 1.15, 1.15, 1.15, 1.15, 1.15];
/// The bandwidth is the largest of so many rounds: longer than a cycle.
const BANDWIDTH_ROUNDS: u64 = 10;
/// A shortest round trip is believed for so long, then looked for with a short queue.
const ROUND_TRIP_LIFE: Duration = Duration::from_secs(10);
/// How long, and with which window in bandwidth-delay products.
const LOOKING: Duration = Duration::from_millis(200);
const LOOKING_WINDOW: f64 = 0.5;
/// What machines take to get round to things, which no round trip shows: on a short path the window must
/// outlast it.
const SCHEDULING: Duration = Duration::from_millis(2);
/// What a round with too much loss leaves of the window.
const YIELD: f64 = 0.85;
/// How far above a window that lost too much the next one is tried, once a cycle.
const PROBE: f64 = 1.15;
/// Departures remembered; those of one moment are one. Far more than are ever in flight.
const DEPARTURES: usize = 16_384;

/// How things stood when packets left.
#[derive(Debug, Clone, Copy)]
struct Departure {
    at: Instant,
    /// Bytes delivered by then, and when the last of them were.
    delivered: u64,
    delivered_at: Instant,
    /// When the packet last delivered by then had left.
    delivered_left_at: Instant,
    /// There was less to send than the path would have carried.
    app_limited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// How much the path carries is not known yet.
    Start,
    /// At a place in the cycle.
    Cruise(usize),
    /// With a short queue, until then.
    LookForRoundTrip(Option<Instant>),
}

/// A path.
#[derive(Debug, Clone)]
pub(super) struct Model {
    mtu: u64,
    window: u64,
    phase: Phase,
    departures: VecDeque<Departure>,
    delivered: u64,
    delivered_at: Option<Instant>,
    delivered_left_at: Option<Instant>,
    /// Packets delivered up to here may have been too few.
    app_limited_until: u64,
    /// The newest of the packets just acknowledged.
    newest: Option<Departure>,
    rounds: u64,
    /// The round ends with a packet that left when so much was delivered.
    round_ends: u64,
    round_delivered: u64,
    round_lost: u64,
    /// The queue overflowed somewhere, as it said (ECN).
    round_marked: bool,
    /// The former round lost too much: what is lost in this one may have left before that was known.
    yielded: bool,
    /// Largest rates, bytes a second, with their rounds: falling rates, rising rounds.
    rates: VecDeque<(u64, f64)>,
    round_trip: Option<Duration>,
    round_trip_at: Option<Instant>,
    looked: Option<Duration>,
    best_rate: f64,
    without_growth: u32,
    /// What the path bore last, after it had lost too much.
    ceiling: Option<f64>,
}

impl Model {
    pub(super) fn new(mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            window: INITIAL_PACKETS * mtu,
            phase: Phase::Start,
            departures: VecDeque::new(),
            delivered: 0,
            delivered_at: None,
            delivered_left_at: None,
            app_limited_until: 0,
            newest: None,
            rounds: 0,
            round_ends: 0,
            round_delivered: 0,
            round_lost: 0,
            round_marked: false,
            yielded: false,
            rates: VecDeque::new(),
            round_trip: None,
            round_trip_at: None,
            looked: None,
            best_rate: 0.0,
            without_growth: 0,
            ceiling: None,
        }
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.window = self.window.max(LEAST_PACKETS * self.mtu);
    }

    pub(super) fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.mtu
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    pub(super) fn sent(&mut self, now: Instant, _bytes: u64) {
        if self.departures.back().is_some_and(|d| d.at == now) {
            return;
        }
        if self.departures.len() >= DEPARTURES {
            self.departures.pop_front();
        }
        self.departures.push_back(Departure {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at.unwrap_or(now),
            delivered_left_at: self.delivered_left_at.unwrap_or(now),
            app_limited: self.delivered < self.app_limited_until,
        });
    }

    pub(super) fn acknowledged(&mut self, now: Instant, left: Instant, bytes: u64) {
        self.delivered += bytes;
        self.round_delivered += bytes;
        self.delivered_at = Some(now);
        let found = self.departures.binary_search_by_key(&left, |d| d.at);
        let departure = found.ok().and_then(|i| self.departures.get(i).copied());
        let newer = |newest: Departure| newest.at < left;
        if let Some(departure) = departure.filter(|_| self.newest.is_none_or(newer)) {
            self.newest = Some(departure);
        }
    }

    pub(super) fn lost(&mut self, bytes: u64, persistent: bool) {
        self.round_lost += bytes;
        if bytes == 0 {
            self.round_marked = true;
        }
        if persistent {
            // Nothing came through for several round trips: what was known of the path is void.
            self.rates.clear();
            self.best_rate = 0.0;
            self.without_growth = 0;
            self.ceiling = None;
            self.phase = Phase::Start;
            self.window = LEAST_PACKETS * self.mtu;
        }
    }

    pub(super) fn end_of_acknowledgements(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
    ) {
        if app_limited {
            self.app_limited_until = self.delivered + in_flight.max(1);
        }
        let Some(newest) = self.newest.take() else {
            return;
        };
        self.delivered_left_at = Some(newest.at);
        self.sample_round_trip(now, now.saturating_duration_since(newest.at));
        let new_round = newest.delivered >= self.round_ends;
        if new_round {
            self.rounds += 1;
            self.round_ends = self.delivered;
        }
        self.sample_rate(now, newest);
        self.forget_departures(now);
        if new_round {
            self.end_round(now, newest.app_limited);
        }
        self.look_for_round_trip(now, in_flight, app_limited);
        self.set_window();
    }

    fn sample_round_trip(&mut self, now: Instant, round_trip: Duration) {
        if let Phase::LookForRoundTrip(_) = self.phase {
            self.looked = Some(self.looked.map_or(round_trip, |l| l.min(round_trip)));
        }
        // A fiftieth more is the same path with the same short queue.
        if self.round_trip.is_none_or(|r| round_trip <= r + r / 50) {
            self.round_trip_at = Some(now);
        }
        if self.round_trip.is_none_or(|r| round_trip < r) {
            self.round_trip = Some(round_trip);
        }
    }

    /// Bytes delivered since the packet left, over the longer of the times it took to send and to
    /// acknowledge them: neither bunched acknowledgements nor bursts look like bandwidth.
    fn sample_rate(&mut self, now: Instant, newest: Departure) {
        let acknowledging = now.saturating_duration_since(newest.delivered_at);
        let sending = newest
            .at
            .saturating_duration_since(newest.delivered_left_at);
        let took = acknowledging.max(sending);
        // Less than a round trip cannot be: clocks too coarse for this path.
        if took.is_zero() || self.round_trip.is_some_and(|r| took < r) {
            return;
        }
        let rate = (self.delivered - newest.delivered) as f64 / took.as_secs_f64();
        if newest.app_limited && rate < self.rate() {
            return;
        }
        while self.rates.back().is_some_and(|(_, r)| *r <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((self.rounds, rate));
        let oldest = self.rounds.saturating_sub(BANDWIDTH_ROUNDS);
        while self.rates.len() > 1 && self.rates.front().is_some_and(|(r, _)| *r < oldest) {
            self.rates.pop_front();
        }
    }

    /// Bytes a second.
    fn rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |(_, rate)| *rate)
    }

    fn forget_departures(&mut self, now: Instant) {
        // What is not acknowledged within several round trips is lost.
        let life = self.round_trip.unwrap_or(Duration::ZERO) * 4 + Duration::from_secs(1);
        while let Some(oldest) = self.departures.front() {
            if now.saturating_duration_since(oldest.at) < life {
                break;
            }
            self.departures.pop_front();
        }
    }

    fn end_round(&mut self, now: Instant, app_limited: bool) {
        let came_through = self.round_delivered;
        let all = came_through + self.round_lost;
        let share = self.round_lost as f64 / all.max(1) as f64;
        let much = self.round_lost >= FEW_LOST * self.mtu && share > LOSS_BORNE;
        let too_much = (much || self.round_marked) && !self.yielded;
        self.yielded = too_much;
        self.round_delivered = 0;
        self.round_lost = 0;
        self.round_marked = false;
        if too_much {
            // What came through in spite of it is borne.
            let bore = (self.window as f64 * YIELD).max(came_through as f64);
            self.ceiling = Some(self.ceiling.map_or(bore, |c| c.min(bore)));
        }
        match self.phase {
            Phase::Start => {
                if self.rate() >= self.best_rate * GROWTH {
                    self.best_rate = self.rate();
                    self.without_growth = 0;
                } else if !app_limited {
                    self.without_growth += 1;
                }
                if too_much || self.without_growth >= ROUNDS_WITHOUT_GROWTH {
                    // Behind the place that looks for more: the queue of the start must go first.
                    self.phase = Phase::Cruise(1);
                }
            }
            Phase::Cruise(at) => {
                let probed = at == 0;
                if probed && !too_much {
                    self.ceiling = self.ceiling.map(|c| c * PROBE);
                }
                if self.ceiling.is_some_and(|c| c > 2.0 * self.product()) {
                    self.ceiling = None;
                }
                self.phase = Phase::Cruise((at + 1) % CYCLE.len());
            }
            Phase::LookForRoundTrip(None) => {}
            Phase::LookForRoundTrip(Some(until)) if now < until => {}
            Phase::LookForRoundTrip(Some(_)) => {
                self.round_trip = self.looked.take().or(self.round_trip);
                self.round_trip_at = Some(now);
                self.phase = Phase::Cruise(0);
            }
        }
    }

    fn look_for_round_trip(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let old = |at: Instant| now.saturating_duration_since(at) > ROUND_TRIP_LIFE;
        match self.phase {
            Phase::Cruise(_) if self.round_trip_at.is_some_and(old) => {
                if app_limited {
                    // The queue is short as it is.
                    self.round_trip = Some(self.latest_round_trip(now));
                    self.round_trip_at = Some(now);
                } else {
                    self.looked = None;
                    self.phase = Phase::LookForRoundTrip(None);
                }
            }
            Phase::LookForRoundTrip(None)
                if in_flight as f64 <= self.product() * LOOKING_WINDOW + (2 * self.mtu) as f64 =>
            {
                let takes = LOOKING.max(self.round_trip.unwrap_or_default());
                self.phase = Phase::LookForRoundTrip(Some(now + takes));
            }
            _ => {}
        }
    }

    fn latest_round_trip(&self, now: Instant) -> Duration {
        let left = self.delivered_left_at.unwrap_or(now);
        now.saturating_duration_since(left)
    }

    /// The bandwidth-delay product, bytes.
    fn product(&self) -> f64 {
        self.rate() * self.round_trip.unwrap_or_default().as_secs_f64()
    }

    fn set_window(&mut self) {
        let product = self.product();
        if product == 0.0 {
            return;
        }
        let slack = self.rate() * SCHEDULING.as_secs_f64();
        let wanted = match self.phase {
            Phase::Start => START * product + slack,
            Phase::Cruise(at) => CYCLE.get(at).unwrap_or(&1.0) * product + slack,
            Phase::LookForRoundTrip(_) => LOOKING_WINDOW * product,
        };
        // A probe may rise above the ceiling, to see whether it still holds.
        let ceiling = match (self.ceiling, self.phase) {
            (Some(ceiling), Phase::Cruise(0)) => ceiling * PROBE,
            (Some(ceiling), _) => ceiling,
            (None, _) => f64::INFINITY,
        };
        let wanted = wanted.min(ceiling) as u64;
        let least = LEAST_PACKETS * self.mtu;
        self.window = match self.phase {
            // What was sent proves nothing against more: the start never narrows.
            Phase::Start if self.ceiling.is_none() => wanted.max(self.window),
            _ => wanted.max(least),
        };
    }
}

#[cfg(test)]
mod tests;
