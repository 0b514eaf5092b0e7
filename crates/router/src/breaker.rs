//! When a peer or a replica that failed is left alone, and when it is tried again.
//!
//! Closed, then open for a back-off that doubles with each trip, then half-open: one probe may
//! pass. Once it has brought something others may follow, as answers take their time; its success closes the
//! breaker, its failure opens it again, for twice as long.

use std::time::Duration;

use polymath_types::ErrorKind;

use crate::RouterConfig;

/// Strikes that open the breaker of an (expert, peer) pair: one failure, or two timeouts, since a
/// timeout may be the caller's own impatience.
pub(crate) const PAIR_LIMIT: u32 = 2;
/// Strikes that open a whole peer's breaker: two failures or three timeouts in a row.
pub(crate) const PEER_LIMIT: u32 = 3;

/// What a failed call says of who failed, in strikes on the pair and on the peer.
pub(crate) const fn strikes(kind: ErrorKind) -> (u32, u32) {
    match kind {
        // The caller's doing: says nothing of the other side.
        ErrorKind::InvalidInput
        | ErrorKind::Cancelled
        | ErrorKind::ContextOverflow
        | ErrorKind::Config => (0, 0),
        // Full just now: load, which its own statistics show, not a fault.
        ErrorKind::ResourceExhausted => (0, 0),
        ErrorKind::DeadlineExceeded => (1, 1),
        ErrorKind::Unavailable | ErrorKind::VersionMismatch | ErrorKind::PermissionDenied => (2, 2),
        // This expert there, not the peer.
        _ => (2, 0),
    }
}

/// Why no call may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shut {
    /// Until then it is left alone.
    Open {
        last: ErrorKind,
        remaining: Duration,
    },
    /// A probe is under way.
    Probing { last: ErrorKind },
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breaker {
    strikes: u32,
    trips: u32,
    until: Duration,
    probe: Option<Duration>,
    /// The probe has brought something.
    spoke: bool,
    last: Option<ErrorKind>,
}

impl Breaker {
    /// Whether a call may pass now.
    pub(crate) fn check(&self, now: Duration, config: &RouterConfig) -> Result<(), Shut> {
        if self.trips == 0 {
            return Ok(());
        }
        let last = self.last.unwrap_or(ErrorKind::Unavailable);
        if now < self.until {
            return Err(Shut::Open {
                last,
                remaining: self.until - now,
            });
        }
        match self.probe {
            Some(since) if !self.spoke && now.saturating_sub(since) < config.max_backoff => {
                Err(Shut::Probing { last })
            }
            _ => Ok(()),
        }
    }

    /// A call begins; if the breaker is half-open, it is the probe.
    pub(crate) fn started(&mut self, now: Duration) {
        if self.trips > 0 {
            self.probe = Some(now);
        }
    }

    /// A call has brought something.
    pub(crate) fn spoke(&mut self, now: Duration) {
        self.spoke |= self.trips > 0 && now >= self.until;
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A call failed, with so many strikes; none leaves the breaker as it is but ends the probe.
    pub(crate) fn failed(
        &mut self,
        now: Duration,
        kind: ErrorKind,
        strikes: u32,
        limit: u32,
        config: &RouterConfig,
    ) {
        self.probe = None;
        self.spoke = false;
        // Many calls under way to a peer that dies fail together: that is one failure.
        if strikes == 0 || (self.trips > 0 && now < self.until) {
            return;
        }
        self.last = Some(kind);
        self.strikes = self.strikes.saturating_add(strikes);
        if self.trips > 0 || self.strikes >= limit {
            let factor = 1u32 << self.trips.min(16);
            self.trips = self.trips.saturating_add(1);
            self.until = now.saturating_add(
                config
                    .backoff
                    .saturating_mul(factor)
                    .min(config.max_backoff),
            );
        }
    }
}
