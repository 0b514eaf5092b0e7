//! The ways members are found, and what came of each.

use std::sync::{Mutex, MutexGuard, PoisonError};

use polymath_proto::v1;
use tokio::time::Instant;

/// A way members are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Addresses that were configured, or that led into the mesh.
    Addresses,
    /// Members reached before.
    Remembered,
    /// The mesh's anchors.
    Anchors,
    /// Authors of offers in the catalog.
    Catalog,
    /// Providers of experts in the DHT.
    Dht,
    /// Multicast DNS.
    LocalNetwork,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::LocalNetwork,
        Self::Addresses,
        Self::Remembered,
        Self::Anchors,
        Self::Dht,
        Self::Catalog,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::Remembered => "address book",
            Self::Anchors => "anchors",
            Self::Catalog => "catalog",
            Self::Dht => "dht",
            Self::LocalNetwork => "local network",
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Outcome {
    at: Option<Instant>,
    reached: u64,
    failed: u64,
    /// Of the last failure, if no success came after it.
    error: String,
}

/// What came of each way.
#[derive(Debug, Default)]
pub(crate) struct Sources(Mutex<[Outcome; Kind::ALL.len()]>);

impl Sources {
    fn lock(&self) -> MutexGuard<'_, [Outcome; Kind::ALL.len()]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that somebody was met by this way, or why not.
    pub(crate) fn note(&self, kind: Kind, outcome: Result<(), String>) {
        let noted = &mut self.lock()[kind as usize];
        noted.at = Some(Instant::now());
        match outcome {
            Ok(()) => {
                noted.reached += 1;
                noted.error.clear();
            }
            Err(e) => {
                noted.failed += 1;
                noted.error = e;
            }
        }
    }

    /// For people, in the order in which they are tried. `off` says why a way is not tried, `idle`
    /// what stands in the place of an outcome while it has none.
    pub(crate) fn view(
        &self,
        off: impl Fn(Kind) -> Option<String>,
        idle: impl Fn(Kind) -> String,
    ) -> Vec<v1::DiscoverySource> {
        let noted = self.lock().clone();
        let view = |kind: Kind| {
            let outcome = &noted[kind as usize];
            let age = outcome.at.map_or(0, |at| at.elapsed().as_millis());
            let (state, detail) = match (off(kind), outcome.at) {
                (Some(why), None) => ("off", why),
                (_, None) => ("idle", idle(kind)),
                (_, Some(_)) if outcome.error.is_empty() => ("ok", String::new()),
                (_, Some(_)) => ("failed", outcome.error.clone()),
            };
            v1::DiscoverySource {
                name: kind.as_str().to_owned(),
                state: state.to_owned(),
                reached: outcome.reached,
                failed: outcome.failed,
                detail,
                age_ms: u64::try_from(age).unwrap_or(u64::MAX),
            }
        };
        Kind::ALL.into_iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_tells_its_last_outcome() {
        let sources = Sources::default();
        sources.note(Kind::Addresses, Err("nobody there".into()));
        sources.note(Kind::Anchors, Err("nobody there".into()));
        sources.note(Kind::Anchors, Ok(()));
        let off = |kind| (kind == Kind::LocalNetwork).then(|| "switched off".to_owned());
        let view = sources.view(off, |_| "nothing to try".into());
        let of = |name: &str| view.iter().find(|s| s.name == name).cloned();
        let told = |name: &str| of(name).map(|s| (s.state, s.reached, s.failed));
        assert_eq!(told("addresses"), Some(("failed".into(), 0, 1)));
        assert_eq!(told("anchors"), Some(("ok".into(), 1, 1)));
        assert_eq!(told("local network"), Some(("off".into(), 0, 0)));
        assert_eq!(told("dht"), Some(("idle".into(), 0, 0)));
    }
}
