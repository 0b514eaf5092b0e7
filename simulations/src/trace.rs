//! What a node of a large mesh sends and receives to stay up to date: one catalog and its neighbours, all
//! of them the daemon's own, in the midst of thousands who change their offers now and then.
//!
//! A neighbour hears of a change from the rest of the mesh, which is not simulated, as soon as pushes would
//! have brought it there, or from the node in the middle. Its other peers are there to be told things; they
//! answer nothing. Bytes are those of encoded frames, cards left out.

use std::{collections::BTreeMap, time::Duration};

use polymath_catalog::{Action, Catalog, CatalogConfig, CatalogLimits, Offer};
use polymath_proto::v1::{Offers, SyncFrame, sync_frame::Frame};
use polymath_types::{Format, PeerId};

use crate::{
    Fault, Report, Row, actors,
    catalog::mesh::{MESH, Mesh, TICK},
    chance::{Chance, For},
    links::Distance,
};

/// When a change may reach a node: six steps of pushes over lines of 25 to 50 ms one way.
const ARRIVAL: [f64; 2] = [0.05, 0.3];
/// Peers that a node pushes a change to (`catalog::limits::PUSHES`).
const PUSHES: usize = 3;
/// Whoever is pushed nothing asks those who told it, and knows the change so much later; but for one of a
/// thousand, who is told nothing either.
const LATE: f64 = 0.2;
const MISSED: usize = 1;
/// Before it is measured.
const SETTLE: Duration = Duration::from_secs(60);
/// Changes in one frame of the first ones.
const FED: usize = 250;
/// The numbers of authors begin here, those of simulated nodes at 0.
const AUTHORS: usize = 1_000_000;
/// Those of peers that are only told things.
const STRANGERS: usize = 2_000_000;

/// Size of the mesh, and the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Peers with an offer, 100 to 16000.
    pub peers: usize,
    /// Neighbours of the node in the middle, and of each of these; 2 to 64.
    pub neighbours: usize,
    /// Each peer changes its offer so often, seconds; 60 to 86400.
    pub every_s: u64,
    /// Time measured, minutes; 1 to 60.
    pub minutes: u64,
    /// Equal seeds, equal reports.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            peers: 10_000,
            neighbours: 16,
            every_s: 600,
            minutes: 2,
            seed: 1,
        }
    }
}

/// Runs the scenario.
pub fn run(config: &Config) -> Result<Report, Fault> {
    Fault::check("--peers", config.peers as u64, 100, 16_000)?;
    Fault::check("--neighbours", config.neighbours as u64, 2, 64)?;
    Fault::check("--every-s", config.every_s, 60, 86_400)?;
    Fault::check("--minutes", config.minutes, 1, 60)?;
    let chance = Chance::new(config.seed);
    let mut mesh = Mesh::new(chance, Distance::Drawn);
    let mut authors = Vec::new();
    let mut first = Vec::new();
    for number in 0..config.peers {
        let mut author = Author::new(chance, number);
        first.push(author.next()?);
        authors.push(author);
    }
    let middle = mesh.add_node()?;
    let feeder = stranger(chance, 0)?;
    mesh.connect_stranger(middle, feeder);
    for changes in first.chunks(FED) {
        let mut all = Offers::default();
        for offers in changes {
            all.changes.extend_from_slice(&offers.changes);
            all.short.extend_from_slice(&offers.short);
        }
        mesh.bring(Duration::ZERO, feeder, middle, frame(all));
    }
    mesh.run_for(Duration::from_secs(1))?;
    mesh.disconnect_stranger(middle, feeder);
    let records = mesh.records(middle);
    let mut strangers = Vec::new();
    for at in 0..config.neighbours {
        let n = mesh.add_node_with(records.iter().cloned())?;
        mesh.connect(middle, n);
        let others = (1..config.neighbours).map(|o| stranger(chance, at * config.neighbours + o));
        let others: Vec<PeerId> = others.collect::<Result<_, _>>()?;
        others
            .iter()
            .for_each(|peer| mesh.connect_stranger(n, *peer));
        strangers.push(others);
    }
    drop(records);

    let mut world = World {
        chance,
        config,
        mesh,
        authors,
        strangers,
        changes: 0,
    };
    world.go_on(SETTLE)?;
    let (before, known) = (world.mesh.nodes[middle].traffic.clone(), world.changes);
    let time = Duration::from_secs(60 * config.minutes);
    world.go_on(time)?;
    let node = &world.mesh.nodes[middle];
    let mut rows = Vec::new();
    let mut all = [0.0; 2];
    for (kind, bytes) in &node.traffic {
        let earlier = before.get(kind).copied().unwrap_or_default();
        for (at, metric) in ["received", "sent"].into_iter().enumerate() {
            let rate = (bytes[at] - earlier[at]) as f64 / time.as_secs_f64() / 1000.0;
            all[at] += rate;
            rows.push(Row::new(*kind, metric, rate, "kB/s"));
        }
    }
    rows.push(Row::new("all", "received", all[0], "kB/s"));
    rows.push(Row::new("all", "sent", all[1], "kB/s"));
    rows.push(Row::new("all", "in plus out", all[0] + all[1], "kB/s"));
    let rate = (world.changes - known) as f64 / time.as_secs_f64();
    rows.push(Row::new("trace", "changes", rate, "1/s"));
    let behind = world
        .changes
        .saturating_sub(world.mesh.taken(middle) as usize - config.peers);
    rows.push(Row::new("trace", "not known at the end", behind as f64, ""));
    let conditions = BTreeMap::from([
        ("clock", "virtual".into()),
        ("seed", config.seed.into()),
        ("peers", config.peers.into()),
        ("neighbours", config.neighbours.into()),
        ("each changes every, s", config.every_s.into()),
        ("measured, minutes", config.minutes.into()),
        ("tick, s", TICK.as_secs().into()),
        ("cards", "none".into()),
    ]);
    Ok(Report {
        bench: "meshsim trace",
        conditions,
        rows,
    })
}

struct World<'a> {
    chance: Chance,
    config: &'a Config,
    mesh: Mesh,
    authors: Vec<Author>,
    /// The other peers of each neighbour.
    strangers: Vec<Vec<PeerId>>,
    changes: usize,
}

impl World<'_> {
    /// Lets time pass in which authors, drawn by chance, change their offers.
    fn go_on(&mut self, time: Duration) -> Result<(), Fault> {
        let pause = Duration::from_secs(self.config.every_s) / self.authors.len() as u32;
        let mut passed = Duration::ZERO;
        while passed < time {
            let step = pause.min(time - passed);
            self.mesh.run_for(step)?;
            passed += step;
            let place = self.changes as u64;
            self.changes += 1;
            let author = self.chance.below(self.authors.len(), For::Change, &[place]);
            let change = self.authors[author].next()?;
            for at in 0..self.strangers.len() {
                self.reach(&change, at, place);
            }
        }
        Ok(())
    }

    /// A neighbour hears of a change from some of its other peers.
    fn reach(&mut self, change: &Offers, at: usize, place: u64) {
        let mut pushed = false;
        for number in 0..self.strangers[at].len() {
            let place = [place, at as u64, number as u64];
            if self
                .chance
                .below(self.config.neighbours, For::Entry, &place)
                < PUSHES
            {
                pushed = true;
                self.bring(change, at, number, 0.0, &place);
            }
        }
        let place = [place, at as u64];
        if !pushed && self.chance.below(1000, For::Order, &place) >= MISSED {
            self.bring(change, at, 0, LATE, &place);
        }
    }

    fn bring(&mut self, change: &Offers, at: usize, by: usize, late: f64, place: &[u64]) {
        let [soonest, latest] = ARRIVAL;
        let delay = late + self.chance.between(soonest, latest, For::Arrival, place);
        let (delay, frame) = (Duration::from_secs_f64(delay), frame(change.clone()));
        self.mesh
            .bring(delay, self.strangers[at][by], at + 1, frame);
    }
}

fn stranger(chance: Chance, number: usize) -> Result<PeerId, Fault> {
    Ok(actors::key(chance, STRANGERS + number)?.peer_id())
}

fn frame(offers: Offers) -> SyncFrame {
    SyncFrame {
        version: Format::Sync.current(),
        category: 0,
        frame: Some(Frame::Offers(offers)),
    }
}

/// A peer with an offer. Its catalog is opened when it writes.
struct Author {
    chance: Chance,
    number: usize,
    stored: BTreeMap<String, Vec<u8>>,
    version: usize,
}

impl Author {
    fn new(chance: Chance, number: usize) -> Self {
        Self {
            chance,
            number: AUTHORS + number,
            stored: BTreeMap::new(),
            version: 0,
        }
    }

    /// Writes the next change, and sends it: one of three addresses is another.
    fn next(&mut self) -> Result<Offers, Fault> {
        let refused = |why: String| Fault::Refused {
            node: self.number,
            why,
        };
        let config = CatalogConfig {
            unix: 0,
            key: actors::key(self.chance, self.number)?,
            mesh: MESH,
            founders: Vec::new(),
            limits: CatalogLimits::default(),
            observations: true,
        };
        let (mut catalog, _) = Catalog::open(config, std::mem::take(&mut self.stored));
        // Somebody to tell it to.
        let _ = catalog.peer_connected(PeerId::random());
        self.version += 1;
        let (high, low) = (self.number / 256 % 256, self.number % 256);
        let (number, version) = (self.number, self.version);
        let offered = catalog.set_offer(Offer {
            agent: "polymath/meshsim".into(),
            addresses: vec![
                format!("/ip4/10.7.{high}.{low}/tcp/4001"),
                format!("/ip4/10.7.{high}.{low}/udp/4001/quic-v1"),
                format!(
                    "/ip6/2001:db8:7::{:x}:{version:x}/udp/4001/quic-v1",
                    number % 65_536
                ),
            ],
            experts: Vec::new(),
            ..Offer::default()
        });
        let mut sent = None;
        for action in offered.map_err(|e| refused(e.to_string()))? {
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
        sent.ok_or_else(|| refused("it made no change".into()))
    }
}
