//! The load that peers reported with their last answers. It passes quickly, so it is believed for
//! seconds only, and it breaks ties only.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use polymath_types::{LoadReport, PeerId};
use tokio::time::Instant;

/// A report is believed this long.
const FRESH: Duration = Duration::from_secs(10);
/// Peers whose report is kept.
const MOST: usize = 1024;

/// What peers reported lately.
#[derive(Debug, Default)]
pub(crate) struct Loads(Mutex<HashMap<PeerId, (Instant, LoadReport)>>);

impl Loads {
    /// Notes a report of `peer`.
    pub(crate) fn heard(&self, now: Instant, peer: PeerId, load: LoadReport) {
        let mut loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if loads.len() >= MOST {
            loads.retain(|_, (at, _)| now < *at + FRESH);
        }
        if loads.len() < MOST || loads.contains_key(&peer) {
            loads.insert(peer, (now, load));
        }
    }

    /// What `peer` reported, if that was just now.
    pub(crate) fn of(&self, now: Instant, peer: &PeerId) -> Option<LoadReport> {
        let loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, load) = loads.get(peer)?;
        (now < *at + FRESH).then_some(*load)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_report_is_believed_for_seconds_and_the_table_is_bounded() {
        let (loads, peer, now) = (Loads::default(), PeerId::random(), Instant::now());
        let report = LoadReport {
            queue_depth: 3,
            active: 1,
            free_slots: 0,
            ..LoadReport::default()
        };
        loads.heard(now, peer, report);
        assert_eq!(loads.of(now, &peer), Some(report));
        for _ in 0..2 * MOST {
            loads.heard(now, PeerId::random(), report);
        }
        assert_eq!(loads.0.lock().unwrap().len(), MOST);
        loads.heard(now, peer, LoadReport::default());
        assert_eq!(loads.of(now, &peer), Some(LoadReport::default()));
        let later = now + FRESH;
        assert_eq!(loads.of(later, &peer), None);
        loads.heard(later, PeerId::random(), report);
        assert_eq!(loads.0.lock().unwrap().len(), 1);
    }
}
