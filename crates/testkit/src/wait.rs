//! Waiting for a condition.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The deadline of [`eventually`]; generous, because two cores may be busy with four nodes.
pub const WITHIN: Duration = Duration::from_secs(60);

/// Polls until `condition` gives a value; panics with `what` when it does not in time.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "not within {WITHIN:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
