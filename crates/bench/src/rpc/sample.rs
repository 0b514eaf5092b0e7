//! What one round of one side gives, and the meters it is read from.

use std::{fs, time::Duration};

use super::cases::Load;

/// What the threads that count are called; a line carried by this process has others.
pub(super) const THREADS: &str = "bench";

/// What one round of one side gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Calls a second.
    pub(super) rate: f64,
    /// Milliseconds.
    pub(super) p50: f64,
    /// Milliseconds.
    pub(super) p99: f64,
    /// Processor time of one call, of all nodes, microseconds.
    pub(super) cpu_of_call: f64,
    /// Processor time of a megabyte, both ways counted, microseconds.
    pub(super) cpu_of_megabyte: f64,
    /// Allocations of one call, of all nodes; not a number where nobody counts them.
    pub(super) allocations: f64,
}

impl Sample {
    /// Of the times that calls took while `elapsed` passed and `used` was used.
    pub(super) fn of(load: Load, mut took: Vec<Duration>, elapsed: Duration, used: Used) -> Self {
        took.sort_unstable();
        #[allow(clippy::cast_precision_loss)]
        let calls = took.len() as f64;
        let cpu = used.processor.map_or(f64::NAN, |t| t.as_secs_f64() * 1e6) / calls;
        #[allow(clippy::cast_precision_loss)]
        let allocations = used.allocations.map_or(f64::NAN, |n| n as f64) / calls;
        Self {
            rate: calls / elapsed.as_secs_f64(),
            p50: percentile(&took, 50),
            p99: percentile(&took, 99),
            cpu_of_call: cpu,
            cpu_of_megabyte: cpu / load.megabytes(),
            allocations,
        }
    }
}

/// Of sorted times, in milliseconds: the least that at least so many per cent do not exceed.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    let at = sorted.get(rank.saturating_sub(1));
    at.map_or(f64::NAN, |t| t.as_secs_f64() * 1e3)
}

/// Reads what this process uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    /// Allocations of this process so far.
    pub(super) allocations: Option<fn() -> u64>,
}

/// What was used; none where it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) processor: Option<Duration>,
    pub(super) allocations: Option<u64>,
}

impl Meter {
    pub(super) fn read(self) -> Used {
        Used {
            processor: processor(),
            allocations: self.allocations.map(|count| count()),
        }
    }
}

impl Used {
    pub(super) fn since(self, earlier: Self) -> Self {
        let both = |a: Option<Duration>, b| Some(a?.saturating_sub(b?));
        let counts = |a: Option<u64>, b| Some(a?.saturating_sub(b?));
        Self {
            processor: both(self.processor, earlier.processor),
            allocations: counts(self.allocations, earlier.allocations),
        }
    }
}

/// Processor time of the nodes' threads, to the kernel's nanosecond (`schedstat`, Linux).
fn processor() -> Option<Duration> {
    let mut nanoseconds = None;
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let of = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        if of("comm").starts_with(THREADS) {
            let used = of("schedstat").split(' ').next()?.parse::<u64>().ok()?;
            *nanoseconds.get_or_insert(0) += used;
        }
    }
    nanoseconds.map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let at = |percent| percentile(&times, percent).round();
        assert_eq!((at(50), at(99), at(100)), (100.0, 198.0, 200.0));
        assert_eq!(percentile(&times[..1], 99).round(), 1.0);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn a_sample_tells_what_a_call_and_what_a_megabyte_cost() {
        let used = Used {
            processor: Some(Duration::from_millis(8)),
            allocations: Some(44),
        };
        let took = vec![Duration::from_millis(100); 4];
        let load = Load::echo(1_000_000, 2);
        let sample = Sample::of(load, took, Duration::from_millis(200), used);
        let rounded = [sample.rate, sample.cpu_of_call, sample.cpu_of_megabyte].map(f64::round);
        assert_eq!(rounded, [20.0, 2000.0, 1000.0]);
        assert_eq!(sample.allocations.round(), 11.0);
    }

    #[test]
    fn what_nobody_counts_is_not_a_number() {
        let nothing = Meter { allocations: None }.read();
        let used = Used {
            processor: None,
            ..nothing.since(nothing)
        };
        let took = vec![Duration::from_millis(1)];
        let sample = Sample::of(Load::echo(128, 1), took, Duration::from_secs(1), used);
        assert!(sample.cpu_of_call.is_nan() && sample.allocations.is_nan());
    }
}
