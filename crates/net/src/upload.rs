//! How much is written to peers in a second, where the operator says how much may be.
//!
//! A token bucket in its form as a virtual clock (GCRA, ITU-T I.371): the clock stands at the moment at
//! which all bytes given out so far are paid for, and may run ahead of the real one by a burst. Whoever
//! wants to write takes a turn, which moves the clock on, and waits until it has come. So turns come in
//! the order in which they were taken, and no stream starves beside a busy one.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Most bytes of one turn.
const MOST: u64 = 16 * 1024;
/// Turns last no longer than this, so that at low rates too every stream gets one soon.
const LONGEST: Duration = Duration::from_millis(250);
/// What may be sent at once after a silence.
const BURST: Duration = Duration::from_millis(250);

/// The bucket of a whole node.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Bytes a second.
    rate: u64,
    /// When everything given out is paid for.
    paid: Mutex<Instant>,
}

/// So many bytes, from some moment on. What is left of it when it is dropped, because its stream was,
/// goes to whoever comes next.
#[derive(Debug)]
pub(crate) struct Turn {
    upload: Arc<Upload>,
    bytes: usize,
    waits: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    pub(crate) fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            paid: Mutex::new(Instant::now()),
        }
    }

    /// The next turn, of at most `wanted` bytes.
    pub(crate) fn turn(self: &Arc<Self>, wanted: usize) -> Turn {
        let now = Instant::now();
        let (bytes, at) = self.take(now, wanted);
        Turn {
            upload: Arc::clone(self),
            bytes,
            waits: (at > now).then(|| Box::pin(sleep_until(at))),
        }
    }

    /// Bytes of a turn that is taken `now`, and when it comes.
    fn take(&self, now: Instant, wanted: usize) -> (usize, Instant) {
        let most = MOST.min((self.cost_to_bytes(LONGEST)).max(1));
        let bytes = (wanted as u64).min(most);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let starts = (*paid).max(now);
        *paid = starts + self.time(bytes);
        // Within the burst it comes at once.
        let at = paid.checked_sub(BURST).map_or(now, |at| at.max(now));
        (usize::try_from(bytes).unwrap_or(wanted), at)
    }

    fn give_back(&self, bytes: usize) {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = paid.checked_sub(self.time(bytes as u64));
        *paid = earlier.unwrap_or(*paid);
    }

    fn time(&self, bytes: u64) -> Duration {
        Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.rate)
    }

    fn cost_to_bytes(&self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.rate) * time.as_millis() / 1000).unwrap_or(u64::MAX)
    }
}

impl Turn {
    /// Whether it does not come at once.
    pub(crate) fn is_delayed(&self) -> bool {
        self.waits.is_some()
    }

    /// Waits for it; then, its bytes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if let Some(waits) = &mut self.waits {
            std::task::ready!(waits.as_mut().poll(cx));
            self.waits = None;
        }
        Poll::Ready(self.bytes)
    }

    /// What is left of it after so many bytes were written.
    pub(crate) fn after(mut self, written: usize) -> Option<Self> {
        self.bytes = self.bytes.saturating_sub(written);
        (self.bytes > 0).then_some(self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.upload.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RATE: u64 = 100_000;

    #[test]
    fn turns_add_up_to_the_rate_after_a_burst() {
        let upload = Upload::new(RATE);
        let now = Instant::now();
        let mut last = now;
        let mut bytes = 0;
        while last < now + Duration::from_secs(10) {
            let (turn, at) = upload.take(now, 1 << 20);
            assert!(turn as u64 <= MOST && at >= last);
            bytes += turn as u64;
            last = at;
        }
        let (least, most) = (10 * RATE, 10 * RATE + RATE / 4 + MOST);
        assert!((least..=most).contains(&bytes), "{bytes}");
    }

    #[test]
    fn what_was_not_sent_is_not_saved_up() {
        let upload = Upload::new(RATE);
        let later = Instant::now() + Duration::from_secs(3600);
        let mut at_once = 0;
        while let (turn, at) = upload.take(later, 4096)
            && at == later
        {
            at_once += turn as u64;
        }
        assert!(at_once <= RATE / 4, "{at_once}");
    }

    #[tokio::test]
    async fn a_turn_that_is_dropped_goes_to_the_next() {
        let upload = Arc::new(Upload::new(RATE));
        let turns: Vec<_> = (0..100).map(|_| upload.turn(1 << 20)).collect();
        assert!(turns.last().unwrap().is_delayed());
        drop(turns);
        assert!(!upload.turn(1000).is_delayed());
    }

    #[test]
    fn a_slow_line_has_short_turns_and_a_tiny_one_still_moves() {
        let now = Instant::now();
        assert_eq!(Upload::new(16_384).take(now, 1 << 20).0, 4096);
        assert_eq!(Upload::new(1).take(now, 1 << 20).0, 1);
        assert_eq!(Upload::new(0).take(now, 5).0, 1);
    }
}
