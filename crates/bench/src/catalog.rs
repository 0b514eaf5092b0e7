//! The catalog of a large mesh: what it costs to agree, to hold, to look up and to open, against one
//! Automerge document that all peers share and automerge's own way to synchronise it.
//!
//! Everything runs on one thread and without a network: bytes are those of the frames, times those of
//! the side that is named. The cards of the experts are counted apart.

mod authors;
mod observed;
mod shared;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use polymath_catalog::{Action, Catalog, CatalogConfig, CatalogLimits};
use polymath_proto::v1::{Cards, Offers, SyncFrame, sync_frame::Frame};
use polymath_types::{
    ErrorKind, Failure, Format, Index, MeshId, NodeKey, PeerId, PeerOffer, Property,
};
use prost::Message;
use serde_json::json;

use self::{authors::Author, shared::Shared};
use crate::{ROUNDS, Report, Row, Spread};

const MESH: MeshId = MeshId::from_bytes([0x62; 32]);
const AUTHORS: usize = 10_000;
const QUICK_AUTHORS: usize = 1_000;
/// Offers that change; authors of so many are kept to write another.
const DIFFERING: usize = 100;
/// Changes, or cards, of one frame that a node is fed with.
const FED: usize = 250;
/// Look-ups of one round.
const LOOKUPS: usize = 100_000;
/// Offers in one patch of the index.
const PATCH: usize = 10;
/// The rival.
const SHARED: &str = "one shared Automerge document";

/// Records by name.
pub type Records = HashMap<String, Vec<u8>>;

/// Where records are kept, of which this crate knows nothing.
pub trait Shelf: Send + 'static {
    /// Keeps all of these.
    fn fill(&self, records: &Records) -> Result<(), Failure>;
    /// Opens it and reads all that is kept, as a start does.
    fn open(&self) -> Result<Vec<(String, Vec<u8>)>, Failure>;
}

/// Measures; within a minute if `quick`, with a smaller mesh.
pub async fn run(quick: bool, shelf: impl Shelf) -> Result<Report, Failure> {
    let measured = tokio::task::spawn_blocking(move || measure(quick, &shelf)).await;
    measured.map_err(|e| failed("the benchmark", e))?
}

fn failed(what: &str, e: impl std::fmt::Display) -> Failure {
    Failure::new(ErrorKind::Internal, format!("{what}: {e}"))
}

#[allow(clippy::cast_precision_loss)] // sizes and times far below 2^52
fn measure(quick: bool, shelf: &impl Shelf) -> Result<Report, Failure> {
    let count = if quick { QUICK_AUTHORS } else { AUTHORS };
    let mesh = format!("{count} peers of 4 experts");
    let row =
        |case: &str, metric, value, unit| Row::new(format!("{mesh}: {case}"), metric, value, unit);
    let mut rows = Vec::new();

    eprintln!("{count} offers …");
    let idle = resident();
    let mut known = Side::new();
    // A node has them on its disk: in memory they would count as the catalog's.
    known.keeps = false;
    let (mut authors, mut keys) = (Vec::new(), Vec::new());
    for first in (0..count).step_by(FED) {
        let mut changes = Offers::default();
        for number in first..count.min(first + FED) {
            let mut author = Author::new(number);
            add(&mut changes, author.next()?);
            keys.push(author.key.clone());
            if number < DIFFERING {
                authors.push(author);
            }
        }
        known.feed(Frame::Offers(changes))?;
    }
    rows.push(row(
        "offers",
        "resident memory, whole process",
        resident() / 1e6,
        "MB",
    ));
    for first in (0..count).step_by(FED / 4) {
        let numbers = first..count.min(first + FED / 4);
        let cards = numbers.flat_map(authors::cards);
        known.feed(Frame::Cards(Cards {
            cards: cards.map(|c| c.to_bytes().into()).collect(),
        }))?;
    }
    rows.push(row(
        "offers and cards",
        "resident memory, whole process",
        resident() / 1e6,
        "MB",
    ));
    rows.push(row(
        "nothing",
        "resident memory, whole process",
        idle / 1e6,
        "MB",
    ));

    eprintln!("bytes …");
    let mut shared = Shared::new(count)?;
    let mut replica = Side::new();
    let cold = meet(&mut known, &mut replica)?;
    // A peer is given so much between two ticks; the rest of the cards comes with later meetings.
    let mut cards = cold.cards;
    let mut bytes = |case: &str, ours: Traffic, theirs: usize| {
        let ratio = ours.offers() as f64 / theirs as f64;
        let sent = row(case, "sent, both sides", ours.offers() as f64 / 1e3, "kB");
        rows.push(sent.against(SHARED, Spread::of(&[ratio])));
        let comparison = ours.comparison as f64 / 1e3;
        rows.push(row(case, "of it beyond the documents", comparison, "kB"));
    };
    bytes("a newcomer learns the offers", cold, shared.newcomer()?.0);
    for side in [&mut known, &mut replica] {
        let actions = side.catalog.tick();
        side.perform(actions);
    }
    let equal = meet(&mut known, &mut replica)?;
    cards += equal.cards;
    bytes("equal replicas", equal, shared.differing(0)?);
    let mut update = 0;
    for differing in [1, DIFFERING] {
        let mut changes = Offers::default();
        for author in authors.iter_mut().take(differing) {
            let sent = author.next()?;
            update = frame(Frame::Offers(sent.clone())).encoded_len();
            add(&mut changes, sent);
        }
        known.feed(Frame::Offers(changes))?;
        let ours = meet(&mut known, &mut replica)?;
        bytes(
            &format!("{differing} differ"),
            ours,
            shared.differing(differing)?,
        );
    }
    rows.push(row(
        "a newcomer learns the cards",
        "sent, both sides",
        cards as f64 / 1e3,
        "kB",
    ));
    rows.push(row("an offer's change", "frame", update as f64, "B"));

    eprintln!("times …");
    let (mut ours, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut newcomer = Side::new();
        newcomer.wants_cards = false;
        meet(&mut known, &mut newcomer)?;
        let theirs = shared.newcomer()?.1;
        ours.push(newcomer.busy.as_secs_f64());
        ratios.push(newcomer.busy.as_secs_f64() / theirs.as_secs_f64());
    }
    let busy = Spread::of(&ours).median;
    let busy = row(
        "a newcomer learns the offers",
        "its time, one thread",
        busy,
        "s",
    );
    rows.push(busy.against(SHARED, Spread::of(&ratios)));
    rows.extend(opening(shelf, &replica.stored, &mesh)?);
    rows.extend(index(&replica.catalog.index(), &mesh));
    // What both know of offers is equal here; the rival has no observations.
    drop(shared);
    rows.extend(observed::measure(keys, &mesh, &mut known, &mut replica)?);
    let conditions = json!({
        "threads": 1, "network": "none: frames are handed over", "experts_a_peer": 4, "addresses_a_peer": 3,
        "offer_bytes": cold.documents / count,
        "shared_document": "automerge 0.12, every peer its own actor, fresh sync states", "rounds": ROUNDS,
    });
    Ok(Report::new("catalog", conditions, rows))
}

/// Reading the store and building all that is in memory.
fn opening(shelf: &impl Shelf, stored: &Records, mesh: &str) -> Result<Vec<Row>, Failure> {
    shelf.fill(stored)?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let (catalog, recovered) = Catalog::open(config(), shelf.open()?);
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        if !recovered.problems.is_empty() || catalog.index().is_empty() {
            return Err(failed("the store", "not all that was written came back"));
        }
    }
    let case = format!("{mesh}: opened from disk, with cards");
    let median = Spread::of(&times).median;
    Ok(vec![Row::new(case, "time", median, "ms")])
}

/// What readers and the catalog do with the index all day.
fn index(index: &Arc<Index>, mesh: &str) -> Vec<Row> {
    let ids: Vec<_> = index.experts().map(|e| e.id).collect();
    let peers: Vec<PeerId> = index.peers().keys().copied().collect();
    let (mut lookups, mut properties, mut patches) = (Vec::new(), Vec::new(), Vec::new());
    let weights: Vec<_> = index.experts().map(|e| e.card.model.weights_id()).collect();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        for n in 0..LOOKUPS {
            let id = &ids[(n * 7919 + round) % ids.len()];
            std::hint::black_box(index.expert(id));
        }
        #[allow(clippy::cast_precision_loss)]
        lookups.push(begun.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64);
        let begun = Instant::now();
        for n in 0..LOOKUPS {
            let weights = weights[(n * 7919 + round) % weights.len()];
            std::hint::black_box(index.having(Property::Weights(weights)));
        }
        #[allow(clippy::cast_precision_loss)]
        properties.push(begun.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64);
        let offers: Vec<(PeerId, Arc<PeerOffer>)> = (0..PATCH)
            .map(|n| {
                let peer = peers[(n * 7919 + round) % peers.len()];
                let mut offer = index.peers()[&peer].clone();
                offer.experts[0] = ids[(n * 104_729 + round) % ids.len()];
                (peer, Arc::new(offer))
            })
            .collect();
        let begun = Instant::now();
        let mut next = Index::clone(index);
        for (peer, offer) in offers {
            next.set_offer(peer, offer, |_| None);
        }
        let next = std::hint::black_box(Arc::new(next));
        patches.push(begun.elapsed().as_secs_f64() * 1e3);
        drop(next);
    }
    let row = |case: &str, metric, values: &[f64], unit| {
        let median = Spread::of(values).median;
        Row::new(format!("{mesh}: {case}"), metric, median, unit)
    };
    vec![
        row("one expert of the index", "look-up", &lookups, "ns"),
        row(
            "experts with the same weights",
            "look-up",
            &properties,
            "ns",
        ),
        row("ten offers change", "index published", &patches, "ms"),
    ]
}

fn config() -> CatalogConfig {
    CatalogConfig {
        unix: 0,
        key: NodeKey::generate(),
        mesh: MESH,
        founders: Vec::new(),
        observations: true,
        limits: CatalogLimits::default(),
    }
}

/// Puts what several authors sent into one frame.
fn add(all: &mut Offers, more: Offers) {
    all.changes.extend(more.changes);
    all.short.extend(more.short);
}

fn frame(frame: Frame) -> SyncFrame {
    SyncFrame {
        version: Format::Sync.current(),
        category: 0,
        frame: Some(frame),
    }
}

/// A node: its catalog, its store, and the time it has worked.
struct Side {
    catalog: Catalog,
    id: PeerId,
    stored: Records,
    keeps: bool,
    wants_cards: bool,
    busy: Duration,
}

impl Side {
    fn new() -> Self {
        let config = config();
        Self {
            id: config.key.peer_id(),
            catalog: Catalog::open(config, []).0,
            stored: Records::new(),
            keeps: true,
            wants_cards: true,
            busy: Duration::ZERO,
        }
    }

    /// Takes a frame from a peer that exists only to bring it.
    fn feed(&mut self, content: Frame) -> Result<(), Failure> {
        let feeder = NodeKey::generate().peer_id();
        let _ = self.catalog.peer_connected(feeder);
        self.receive(feeder, frame(content))?;
        self.catalog.peer_disconnected(feeder);
        // Authors may write so often between two ticks.
        let _ = self.catalog.tick();
        Ok(())
    }

    fn receive(&mut self, from: PeerId, frame: SyncFrame) -> Result<Vec<SyncFrame>, Failure> {
        let begun = Instant::now();
        let actions = self.catalog.receive(from, frame);
        self.busy += begun.elapsed();
        Ok(self.perform(actions.map_err(|e| failed("a frame", e))?))
    }

    fn perform(&mut self, actions: Vec<Action>) -> Vec<SyncFrame> {
        let mut frames = Vec::new();
        for action in actions {
            match action {
                Action::Send { frame, .. } => frames.push(frame),
                Action::Answer { peer } => {
                    frames.extend(std::iter::from_fn(|| self.catalog.next_answer(&peer)));
                }
                Action::Store { name, bytes } if self.keeps => {
                    self.stored.insert(name, bytes);
                }
                _ => {}
            }
        }
        if !self.wants_cards {
            frames.retain(|f| !is_about_cards(f));
        }
        frames
    }
}

fn is_about_cards(frame: &SyncFrame) -> bool {
    match &frame.frame {
        Some(Frame::Cards(_)) => true,
        Some(Frame::Want(want)) => !want.cards.is_empty(),
        _ => false,
    }
}

/// Bytes of frames, both ways.
#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    documents: usize,
    comparison: usize,
    cards: usize,
}

impl Traffic {
    fn offers(self) -> usize {
        self.documents + self.comparison
    }

    fn count(&mut self, frame: &SyncFrame) {
        let bytes = frame.encoded_len();
        match &frame.frame {
            Some(Frame::Offers(_)) => self.documents += bytes,
            _ if is_about_cards(frame) => self.cards += bytes,
            _ => self.comparison += bytes,
        }
    }
}

/// Two nodes meet, and part when they have nothing more to say.
fn meet(one: &mut Side, other: &mut Side) -> Result<Traffic, Failure> {
    let mut traffic = Traffic::default();
    let mut wire = VecDeque::new();
    let hello = one.catalog.peer_connected(other.id);
    wire.extend(one.perform(hello).into_iter().map(|f| (true, f)));
    let hello = other.catalog.peer_connected(one.id);
    wire.extend(other.perform(hello).into_iter().map(|f| (false, f)));
    while let Some((to_other, frame)) = wire.pop_front() {
        traffic.count(&frame);
        let answers = if to_other {
            other.receive(one.id, frame)?
        } else {
            one.receive(other.id, frame)?
        };
        wire.extend(answers.into_iter().map(|f| (!to_other, f)));
    }
    one.catalog.peer_disconnected(other.id);
    other.catalog.peer_disconnected(one.id);
    if one.catalog.index().peers() != other.catalog.index().peers() {
        return Err(failed("the catalogs", "they met and are not equal"));
    }
    Ok(traffic)
}

/// Resident bytes of this process, 0 where the kernel does not say.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.map_or(0.0, |kb| kb * 1024.0)
}
