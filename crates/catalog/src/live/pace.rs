//! How often a node speaks, and what it sends at most.
//!
//! Every node hears of every other, so what it hears grows with the mesh unless each speaks more rarely. A
//! status is passed on to [`PUSHES`] peers by each node that learns of it, and so comes to each about as
//! often: in a mesh of N nodes that speak every T seconds a node sends and receives
//! `2 × PUSHES × N / T` messages of [`MESSAGE_BYTES`] a second. T is N times what keeps this at
//! [`BUDGET`], whatever N is, up to [`LONGEST`]: N is what strangers say, and nobody is to fall silent for it.
//! In larger meshes, and whatever others do, [`Allowance`]s hold what a node sends: what does not fit is not
//! passed on, so that a status reaches some, and the next one others. A load that changes much is told up to
//! [`HURRY`] times as often.

use std::time::Duration;

use polymath_types::LoadReport;

/// Peers to which a status is passed on. At random five each reach 99.3 % of a mesh (the fixed point of
/// r = 1 - exp(-5 r)), and the next status the rest.
pub(super) const PUSHES: usize = 5;
/// A status on the wire with what is around it, bytes; measured in a test.
pub(super) const MESSAGE_BYTES: u64 = 180;
/// Bytes a second for the statuses of all, while nothing changes, in both directions together: `meshsim live`
/// measures three quarters of it, as a status that tells of no load is shorter.
pub(super) const BUDGET: u64 = 2048;
/// The load of a busy node is told so many times as often.
pub(super) const HURRY: u32 = 4;
/// Shortest pause between two statuses that nobody waits for.
const SHORTEST: Duration = Duration::from_secs(5);
/// Longest pause: in a mesh of more than some seventy nodes a status does not reach everybody.
const LONGEST: Duration = Duration::from_secs(60);
/// Between two that say something new.
const SHORTEST_HURRIED: Duration = Duration::from_secs(1);

/// How often the statuses of `nodes` fit the budget if each reaches everybody.
fn proportional(nodes: usize) -> Duration {
    let nodes = u64::try_from(nodes).unwrap_or(u64::MAX);
    let bytes = nodes.saturating_mul(2 * PUSHES as u64 * MESSAGE_BYTES);
    Duration::from_millis(bytes.saturating_mul(1000) / BUDGET)
}

/// The pause between two statuses in a mesh of `nodes`.
pub(super) fn interval(nodes: usize) -> Duration {
    proportional(nodes).clamp(SHORTEST, LONGEST)
}

/// The same for a node whose load has changed much since it last told of it.
pub(super) fn hurried(nodes: usize) -> Duration {
    (interval(nodes) / HURRY).max(SHORTEST_HURRIED)
}

/// How long a status is good: three may be lost. Where not every one reaches everybody, as long as each
/// would otherwise be heard: some five to ten times that, since then hardly any comes twice.
pub(super) fn validity(nodes: usize) -> Duration {
    (interval(nodes) * 4).max(proportional(nodes))
}

/// Whether others would choose differently if they knew.
pub(super) fn changed_much(before: &LoadReport, now: &LoadReport) -> bool {
    let occupancy = |l: &LoadReport| {
        let taken = f64::from(l.queue_depth) + f64::from(l.active);
        taken / (taken + f64::from(l.free_slots) + 1.0)
    };
    before.resident_experts != now.resident_experts
        || (before.free_slots == 0) != (now.free_slots == 0)
        || (occupancy(before) - occupancy(now)).abs() >= 0.25
}

/// A bucket that fills at a steady rate.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    left: f64,
    burst: f64,
    per_second: f64,
    at: Duration,
}

impl Allowance {
    pub(super) fn new(burst: u32, per_second: u32) -> Self {
        Self {
            left: burst.into(),
            burst: burst.into(),
            per_second: per_second.into(),
            at: Duration::ZERO,
        }
    }

    /// Takes `much` if as much is left.
    pub(super) fn take(&mut self, now: Duration, much: usize) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.left = (self.left + passed * self.per_second).min(self.burst);
        let much = much as f64;
        let enough = self.left >= much;
        if enough {
            self.left -= much;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_sends_and_hears_stays_the_same_in_a_mesh_of_up_to_sixty() {
        let rate = |nodes: usize, pause: Duration| {
            let messages = 2.0 * PUSHES as f64 * nodes as f64 / pause.as_secs_f64();
            messages * MESSAGE_BYTES as f64
        };
        for nodes in [1, 2, 10, 50, 68] {
            let idle = rate(nodes, interval(nodes));
            assert!(idle <= BUDGET as f64 * 1.001, "{nodes}: {idle}");
            let busy = rate(nodes, hurried(nodes));
            let most = BUDGET as f64 * f64::from(HURRY);
            assert!(busy <= most * 1.001, "{nodes}: {busy}");
        }
        assert!(interval(3) < interval(50) && interval(50) < interval(10_000));
        assert!(hurried(50) < interval(50));
        for nodes in [10_000, 1_000_000, usize::MAX] {
            assert_eq!(interval(nodes), LONGEST, "whoever says how many there are");
            assert!(validity(nodes) >= 4 * LONGEST);
        }
    }

    #[test]
    fn an_allowance_gives_its_burst_and_then_its_rate() {
        let mut allowance = Allowance::new(10, 2);
        let second = Duration::from_secs(1);
        assert!(allowance.take(second, 10) && !allowance.take(second, 1));
        assert!(allowance.take(second * 2, 2) && !allowance.take(second * 2, 1));
        assert!(
            !allowance.take(second, 1),
            "time that goes back gives nothing"
        );
    }

    #[test]
    fn only_what_others_would_act_upon_is_told_in_a_hurry() {
        let idle = LoadReport {
            free_slots: 4,
            ..LoadReport::default()
        };
        let busy = LoadReport {
            active: 4,
            queue_depth: 3,
            ..LoadReport::default()
        };
        assert!(changed_much(&idle, &busy));
        let slower = LoadReport {
            service_ms: 900,
            ..idle
        };
        assert!(!changed_much(&idle, &slower));
    }
}
