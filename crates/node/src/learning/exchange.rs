//! What was learnt, between nodes: own counts go to the catalog, and those of others come from its index.

use std::{cmp::Reverse, time::Duration};

use polymath_types::{Cell, Index, Weighed};
use tokio::time::{Instant, sleep_until};

use crate::Node;

/// Others take a change of a document every few minutes.
const TOLD_EVERY: Duration = Duration::from_secs(30);
/// How soon after the index changed others' counts are read again.
const HEARD_EVERY: Duration = Duration::from_secs(1);
/// Experts of whom others' word is taken: as many as a policy keeps.
const MOST_HEARD_OF: usize = 256;
/// How often decisions go to the disk that nobody waits for.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);

/// Until the node ends: tells the catalog what was learnt here, and the router what was learnt elsewhere.
pub(crate) async fn exchange(node: Node) {
    let inner = &node.inner;
    let shares = inner.config.catalog.observations;
    let mut changed = inner.sync.changed();
    let mut write = tokio::time::interval(WRITTEN_EVERY);
    write.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let now = Instant::now();
    let (mut told, mut heard) = (now, now);
    let (mut tell, mut hear) = (true, true);
    loop {
        tokio::select! {
            () = inner.cancel.cancelled() => return,
            _ = write.tick() => {
                let _ = inner.learning.write().await;
            }
            () = inner.learning.graded.notified() => tell = true,
            more = changed.changed() => match more {
                Ok(()) => hear = true,
                Err(_) => return,
            },
            () = sleep_until(told), if shares && tell => {
                tell = false;
                told = Instant::now() + TOLD_EVERY;
                let seen = node.router().policy().published();
                let tells = !seen.is_empty();
                inner.learning.telling.send_if_modified(|t| tells && !std::mem::replace(t, true));
                inner.sync.observe(seen).await;
            }
            () = sleep_until(heard), if shares && hear => {
                hear = false;
                heard = Instant::now() + HEARD_EVERY;
                let seen = observed(&inner.index.load_full());
                let mut router = node.router();
                inner.learning.heard(!seen.is_empty());
                router.policy_mut().share(&mut seen.into_iter());
            }
        }
    }
}

/// What others have seen of the experts that are offered, of those of whom they have seen most.
fn observed(index: &Index) -> Vec<(Cell, Weighed)> {
    let seen = index.experts().filter_map(|expert| {
        let books = index.observed_of(&expert.id)?;
        let cells = books.iter().flat_map(|(_, cells)| cells);
        let mass: u64 = cells.map(|(_, weighed)| u64::from(weighed.mass)).sum();
        (mass > 0).then_some((mass, expert.id, books))
    });
    let mut seen: Vec<_> = seen.collect();
    seen.sort_unstable_by_key(|(mass, id, _)| (Reverse(*mass), *id));
    seen.truncate(MOST_HEARD_OF);
    let cells = seen.into_iter().flat_map(|(_, expert, books)| {
        books.iter().flat_map(move |(codebook, cells)| {
            cells.iter().map(move |(cluster, weighed)| {
                let cell = Cell {
                    codebook: *codebook,
                    expert,
                    cluster: *cluster,
                };
                (cell, *weighed)
            })
        })
    });
    cells.collect()
}
