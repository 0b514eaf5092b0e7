//! How far a step is, how fast it goes, and when to say so again.

use std::time::{Duration, Instant};

pub(super) struct Meter {
    pub(super) what: String,
    pub(super) total: Option<u64>,
    pub(super) done: u64,
    begun: Instant,
    shown: Instant,
}

impl Meter {
    pub(super) fn begin(what: &str, total: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            what: what.to_owned(),
            total,
            done: 0,
            begun: now,
            shown: now,
        }
    }

    /// Adds; true when the last report is `every` old, which makes this one the last report.
    pub(super) fn advance(&mut self, bytes: u64, every: Duration) -> bool {
        self.done = self.done.saturating_add(bytes);
        let now = Instant::now();
        let due = now.duration_since(self.shown) >= every;
        if due {
            self.shown = now;
        }
        due
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Bytes per second since the beginning.
    pub(super) fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed().as_secs_f64().max(1e-3)
    }

    /// Time left at that rate.
    pub(super) fn eta(&self) -> Option<Duration> {
        let left = self.total?.saturating_sub(self.done) as f64;
        (self.done > 0)
            .then(|| left / self.rate())
            .and_then(|s| Duration::try_from_secs_f64(s).ok())
    }
}
