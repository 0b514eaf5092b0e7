//! The ways members are found, and what came of each.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use polymath_proto::v1;
use polymath_types::PeerId;
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

/// Peers remembered of one way; those met last tell as much as all.
const MOST_MET: usize = 64;

#[derive(Debug, Clone, Default)]
struct Outcome {
    at: Option<Instant>,
    reached: u64,
    failed: u64,
    /// Of the last failure.
    error: String,
    /// Whether the last one was a failure.
    fails: bool,
    /// Who was met: a way that led to one who is still there works, whatever came of others.
    met: HashSet<PeerId>,
}

/// What came of each way.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    noted: Mutex<[Outcome; Kind::ALL.len()]>,
    /// A clone of its own for each dial under way or about to be.
    trying: [Trying; Kind::ALL.len()],
}

/// Somebody is being dialled, as long as this is held.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trying(Arc<()>);

impl Sources {
    fn lock(&self) -> MutexGuard<'_, [Outcome; Kind::ALL.len()]> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who was met by this way, if that is one peer, or why nobody was.
    pub(crate) fn note(&self, kind: Kind, outcome: Result<Option<PeerId>, String>) {
        let noted = &mut self.lock()[kind as usize];
        noted.at = Some(Instant::now());
        noted.fails = outcome.is_err();
        match outcome {
            Ok(peer) => {
                noted.reached += 1;
                if noted.met.len() >= MOST_MET {
                    noted.met.clear();
                }
                noted.met.extend(peer);
            }
            Err(e) => {
                noted.failed += 1;
                noted.error = e;
            }
        }
    }

    /// Notes that somebody is about to be dialled by this way, until the value is dropped.
    pub(crate) fn trying(&self, kind: Kind) -> Trying {
        self.trying[kind as usize].clone()
    }

    /// For people, in the order in which they are tried. `off` says why a way is not tried, `idle`
    /// what stands in the place of an outcome while it has none, `connected` who is there now.
    pub(crate) fn view(
        &self,
        off: impl Fn(Kind) -> Option<String>,
        idle: impl Fn(Kind) -> String,
        connected: impl Fn(&PeerId) -> bool,
    ) -> Vec<v1::DiscoverySource> {
        let noted = self.lock().clone();
        let view = |kind: Kind| {
            let outcome = &noted[kind as usize];
            let trying = Arc::strong_count(&self.trying[kind as usize].0) - 1;
            let age = outcome.at.map_or(0, |at| at.elapsed().as_millis());
            let (state, detail) = match (off(kind), outcome.at) {
                (Some(why), None) => ("off", why),
                (_, None) if trying > 0 => ("trying", format!("{trying} being dialled")),
                (_, None) => ("idle", idle(kind)),
                // Of this one no failures are told: it works while it has led to somebody.
                (_, Some(_))
                    if kind == Kind::LocalNetwork && !outcome.met.iter().any(&connected) =>
                {
                    ("idle", idle(kind))
                }
                // One that leads to some and not to others works.
                (_, Some(_)) if !outcome.fails || outcome.met.iter().any(&connected) => {
                    ("ok", outcome.error.clone())
                }
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
        let peer = PeerId::random();
        sources.note(Kind::Anchors, Ok(Some(peer)));
        let off = |kind| (kind == Kind::LocalNetwork).then(|| "switched off".to_owned());
        let told = |name: &str, connected: bool| {
            let there = |p: &PeerId| connected && *p == peer;
            let view = sources.view(off, |_| "nothing to try".into(), there);
            let of = view.into_iter().find(|s| s.name == name);
            of.map(|s| (s.state, s.reached, s.failed))
        };
        let state = |state: &str, reached, failed| Some((state.to_owned(), reached, failed));
        assert_eq!(told("addresses", true), state("failed", 0, 1));
        assert_eq!(told("anchors", true), state("ok", 1, 1));
        assert_eq!(told("local network", true), state("off", 0, 0));
        assert_eq!(told("dht", true), state("idle", 0, 0));
        // Another anchor that is down says nothing against the one that is connected.
        sources.note(Kind::Anchors, Err("nobody there".into()));
        assert_eq!(told("anchors", true), state("ok", 1, 2));
        assert_eq!(told("anchors", false), state("failed", 1, 2));
        sources.note(Kind::LocalNetwork, Ok(Some(peer)));
        assert_eq!(told("local network", true), state("ok", 1, 0));
        assert_eq!(told("local network", false), state("idle", 1, 0));
        let dialled = sources.trying(Kind::Dht);
        assert_eq!(told("dht", false), state("trying", 0, 0));
        drop(dialled);
        assert_eq!(told("dht", false), state("idle", 0, 0));
    }
}
