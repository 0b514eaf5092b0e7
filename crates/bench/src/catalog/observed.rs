//! Observations of a large mesh, apart from its offers: what they cost to hold, to learn, to weigh and to
//! look up. Each peer has seen eight experts in eight clusters of one codebook.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use polymath_catalog::{Action, Catalog, CatalogConfig};
use polymath_proto::v1::{Offers, SyncFrame, sync_frame::Frame};
use polymath_types::{Cell, CodebookId, Evidence, ExpertId, Failure, Format, NodeKey, PeerId};
use prost::Message as _;

use super::{LOOKUPS, Records, Side, add, config, failed, meet};
use crate::{ROUNDS, Row, Spread};

const BOOK: CodebookId = CodebookId::from_bytes([0x62; 32]);
const EXPERTS: usize = 8;
const CLUSTERS: u16 = 8;
/// Changes of one frame that a node is fed with.
const FED: usize = 60;
/// Meetings after which all must be known to a newcomer.
const MEETINGS: usize = 3;

struct Observer {
    key: NodeKey,
    stored: Records,
    version: u32,
}

/// What the observer of this number has seen, another time for every version.
fn seen(number: usize, version: u32, experts: &[ExpertId]) -> Vec<(Cell, Evidence)> {
    let mut cells = Vec::new();
    for n in 0..EXPERTS {
        let expert = experts[(number * 7919 + n * 104_729) % experts.len()];
        for cluster in 0..CLUSTERS {
            let count = 20 + 10 * version + (number % 17) as u32;
            let mean = 300 + (u32::from(expert.as_bytes()[0]) + 11 * u32::from(cluster)) % 500;
            let cell = Cell {
                codebook: BOOK,
                expert,
                cluster,
            };
            let reward = count * mean;
            cells.push((cell, Evidence { count, reward }));
        }
    }
    cells
}

impl Observer {
    fn new(key: NodeKey) -> Self {
        Self {
            key,
            stored: Records::new(),
            version: 0,
        }
    }

    fn next(&mut self, number: usize, experts: &[ExpertId]) -> Result<Offers, Failure> {
        let config = CatalogConfig {
            unix: 0,
            key: self.key.clone(),
            ..config()
        };
        let (mut catalog, _) = Catalog::open(config, std::mem::take(&mut self.stored));
        // Somebody to tell it to.
        let _ = catalog.peer_connected(PeerId::random());
        let published = catalog.publish_observations(seen(number, self.version, experts));
        self.version += 1;
        let mut sent = None;
        for action in published.map_err(|e| failed("observations", e))? {
            match action {
                Action::Store { name, bytes } => {
                    self.stored.insert(name, bytes);
                }
                Action::Send { frame, .. } => {
                    if let Some(Frame::Offers(offers)) = frame.frame {
                        sent = Some(offers);
                    }
                }
                _ => {}
            }
        }
        sent.ok_or_else(|| failed("observations", "they made no change"))
    }
}

fn frame(offers: Offers) -> SyncFrame {
    SyncFrame {
        version: Format::Sync.current(),
        category: 2,
        frame: Some(Frame::Offers(offers)),
    }
}

/// Takes changes from a peer that exists only to bring them; how long that took.
fn feed(side: &mut Side, changes: Offers) -> Result<Duration, Failure> {
    let feeder = NodeKey::generate().peer_id();
    let _ = side.catalog.peer_connected(feeder);
    let begun = Instant::now();
    let actions = side.catalog.receive(feeder, frame(changes));
    let took = begun.elapsed();
    side.perform(actions.map_err(|e| failed("a frame", e))?);
    side.catalog.peer_disconnected(feeder);
    Ok(took)
}

/// `known` and `replica` know the same offers, and no observations.
#[allow(clippy::cast_precision_loss)] // sizes and times far below 2^52
pub(super) fn measure(
    keys: Vec<NodeKey>,
    mesh: &str,
    known: &mut Side,
    replica: &mut Side,
) -> Result<Vec<Row>, Failure> {
    eprintln!("{} observers …", keys.len());
    let row =
        |case: &str, metric, value, unit| Row::new(format!("{mesh}: {case}"), metric, value, unit);
    let experts: Vec<ExpertId> = known.catalog.index().experts().map(|e| e.id).collect();
    for side in [&mut *known, &mut *replica] {
        let _ = side.catalog.use_codebooks([BOOK]);
    }
    // Whose offer is not known is not weighed: they are those who made the offers.
    let mut observers: Vec<Observer> = keys.into_iter().map(Observer::new).collect();
    let count = observers.len();
    let (mut fed, mut bytes) = (Duration::ZERO, 0);
    for (some, first) in observers.chunks_mut(FED).zip((0..).step_by(FED)) {
        let mut changes = Offers::default();
        for (observer, number) in some.iter_mut().zip(first..) {
            add(&mut changes, observer.next(number, &experts)?);
            if number >= ROUNDS {
                observer.stored.clear();
            }
        }
        bytes += changes.encoded_len();
        fed += feed(known, changes)?;
        let _ = known.catalog.tick();
    }
    observers.truncate(ROUNDS);
    let mut rows = vec![
        row(
            "observations",
            "a document, as it is sent",
            bytes as f64 / count as f64,
            "B",
        ),
        row(
            "observations",
            "taken and weighed, each",
            fed.as_secs_f64() * 1e6 / count as f64,
            "µs",
        ),
    ];
    let mut learned = 0.0;
    for _ in 0..MEETINGS {
        learned += meet(known, replica)?.documents as f64 / 1e6;
        if replica.catalog.observations().count() == count {
            break;
        }
        // A peer is given so much between two ticks; the rest comes after the next.
        for side in [&mut *known, &mut *replica] {
            let actions = side.catalog.tick();
            side.perform(actions);
        }
    }
    let all = [&*known, &*replica].map(|side| side.catalog.observations().count());
    if all != [count, count] {
        return Err(failed(
            "the catalogs",
            format!("of {count} documents of observations they know {all:?}"),
        ));
    }
    rows.push(row(
        "a newcomer learns the observations",
        "documents",
        learned,
        "MB",
    ));
    let equal = meet(known, replica)?;
    let both = (equal.documents + equal.comparison) as f64 / 1e3;
    rows.push(row(
        "equal replicas, with observations",
        "sent, both sides",
        both,
        "kB",
    ));
    let mut taken = Vec::new();
    for (number, observer) in observers.iter_mut().enumerate() {
        let change = observer.next(number, &experts)?;
        taken.push(feed(known, change)?.as_secs_f64() * 1e3);
    }
    let median = Spread::of(&taken).median;
    rows.push(row(
        "an observer's 64 cells change",
        "taken, weighed and published",
        median,
        "ms",
    ));
    let differing = meet(known, replica)?;
    let beyond = differing.comparison as f64 / 1e3;
    rows.push(row(
        "nine observers differ",
        "sent beyond the documents",
        beyond,
        "kB",
    ));
    let mut ticks: Vec<f64> = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        black_box(replica.catalog.tick());
        ticks.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let median = Spread::of(&ticks).median;
    rows.push(row(
        "a tick in which 256 are weighed again",
        "time",
        median,
        "ms",
    ));
    rows.push(lookups(replica, &experts, mesh));
    rows.push(opened(replica, mesh)?);
    Ok(rows)
}

#[allow(clippy::cast_precision_loss)]
fn lookups(side: &Side, experts: &[ExpertId], mesh: &str) -> Row {
    let index = side.catalog.index();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        for n in 0..LOOKUPS {
            let cell = Cell {
                codebook: BOOK,
                expert: experts[(n * 7919 + round) % experts.len()],
                cluster: (n % usize::from(CLUSTERS)) as u16,
            };
            black_box(index.observed(&cell));
        }
        times.push(begun.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64);
    }
    let case = format!("{mesh}: what was observed in a cell");
    Row::new(case, "look-up", Spread::of(&times).median, "ns")
}

fn opened(side: &Side, mesh: &str) -> Result<Row, Failure> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let stored = side.stored.clone();
        let begun = Instant::now();
        let (mut catalog, recovered) = Catalog::open(config(), stored);
        let _ = catalog.use_codebooks([BOOK]);
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        if !recovered.problems.is_empty() || recovered.observations == 0 {
            return Err(failed("the store", "not all that was written came back"));
        }
    }
    let case = format!("{mesh}: opened from memory and weighed, with cards and observations");
    Ok(Row::new(case, "time", Spread::of(&times).median, "ms"))
}
