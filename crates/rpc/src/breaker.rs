//! A peer that could not be reached a few times is not tried again at once by every call.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// The first pause; each further failure doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);

/// Counts failures to reach a peer. After a pause one call may try again; the others go on failing
/// until it has succeeded.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    /// No attempt before.
    until: Option<Instant>,
    last: String,
}

impl Breaker {
    /// Whether the peer may be tried now; else why not. A yes counts as the attempt of its pause.
    pub(crate) fn may_try(&mut self, now: Instant) -> Result<(), String> {
        match self.until {
            Some(until) if now < until => Err(format!(
                "it was not reached {} times in a row and is tried again in {:.0?}; the last time: {}",
                self.failures,
                until - now,
                self.last
            )),
            Some(_) => {
                self.until = Some(now + self.pause());
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(crate) fn failed(&mut self, now: Instant, why: &str) {
        self.failures = self.failures.saturating_add(1);
        why.clone_into(&mut self.last);
        if self.failures >= FAILURES {
            self.until = Some(now + self.pause());
        }
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(FAILURES).min(16);
        (FIRST * 2_u32.pow(doublings)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_opens_after_three_failures_and_lets_one_try_after_each_pause() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..3 {
            breaker.may_try(start).unwrap();
            breaker.failed(start, "no route");
        }
        assert!(breaker.may_try(start).unwrap_err().contains("no route"));
        let later = start + FIRST;
        breaker.may_try(later).unwrap();
        breaker.may_try(later).unwrap_err();
        breaker.failed(later, "no route");
        breaker.may_try(later + FIRST).unwrap_err();
        breaker.may_try(later + FIRST * 2).unwrap();
        breaker.succeeded();
        breaker.may_try(later).unwrap();
    }

    #[test]
    fn a_pause_has_an_end() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..1000 {
            breaker.failed(start, "");
        }
        breaker.may_try(start + LONGEST).unwrap();
    }
}
