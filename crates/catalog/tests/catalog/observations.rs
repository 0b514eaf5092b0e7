//! Observations: what each node has seen reaches all, few counts are told to nobody, and a node that
//! wants none has none.

use polymath_catalog::{
    CatalogConfig, CatalogLimits, Inspected, OBSERVED_LEAST, ObservationsError, Refusal, from_file,
    inspect, to_file,
};
use polymath_proto::v1::{Offers, SignedChange, SyncFrame, sync_frame::Frame};
use polymath_types::{Cell, CodebookId, Evidence, Format, Observations, PeerId, Weighed};

use crate::driver::{Disk, MESH, Mesh, Node, changes, expert_id, key, stranger};

pub(crate) const BOOK: CodebookId = CodebookId::from_bytes([3; 32]);

pub(crate) fn cell(expert: &str, cluster: u16) -> Cell {
    Cell {
        codebook: BOOK,
        expert: expert_id(expert),
        cluster,
    }
}

/// `count` outcomes that were worth `thousandths` each.
pub(crate) const fn outcomes(count: u32, thousandths: u32) -> Evidence {
    let reward = count * thousandths;
    Evidence { count, reward }
}

pub(crate) fn observations(changes: Vec<SignedChange>) -> SyncFrame {
    SyncFrame {
        version: Format::Sync.current(),
        category: 2,
        frame: Some(Frame::Offers(Offers {
            changes,
            short: Vec::new(),
        })),
    }
}

impl Node {
    pub(crate) fn observe(&mut self, seen: &[(Cell, Evidence)]) -> Vec<(PeerId, SyncFrame)> {
        let actions = self.catalog.publish_observations(seen.iter().copied());
        self.perform(actions.unwrap())
    }

    pub(crate) fn observed(&self) -> Vec<(PeerId, Observations)> {
        let all = self.catalog.observations();
        all.map(|(author, said)| (*author, said.clone())).collect()
    }

    fn said(&self, author: &PeerId) -> Option<Observations> {
        let all = self.catalog.observations();
        all.into_iter()
            .find(|(a, _)| *a == author)
            .map(|(_, said)| said.clone())
    }

    fn weighed(&self, cell: &Cell) -> Option<Weighed> {
        self.catalog.index().observed(cell)
    }

    /// The same node on its disk, with or without observations.
    fn reopened(&self, observations: bool) -> Self {
        let config = CatalogConfig {
            unix: 0,
            key: self.key.clone(),
            mesh: MESH,
            founders: Vec::new(),
            observations,
            limits: CatalogLimits::default(),
        };
        let mut node = Self::open(self.key.clone(), CatalogLimits::default(), Disk::new()).0;
        node.catalog = polymath_catalog::Catalog::open(config, self.disk.clone()).0;
        node.disk.clone_from(&self.disk);
        node
    }
}

impl Mesh {
    pub(crate) fn observe(&mut self, node: usize, seen: &[(Cell, Evidence)]) {
        let sent = self.nodes[node].observe(seen);
        self.post(node, sent);
    }

    fn using(n: u8) -> Self {
        let mut mesh = Self::of(n);
        for node in &mut mesh.nodes {
            let _ = node.catalog.use_codebooks([BOOK]);
        }
        mesh
    }

    /// Its nodes have made offers, and a stranger offers what they speak of: else nothing is weighed.
    fn weighing(n: u8) -> Self {
        let mut mesh = Self::using(n);
        let everything = offered(500, &["chef", "poet", "liar"]);
        for node in 0..mesh.nodes.len() {
            mesh.offer(node, &[]);
        }
        for node in &mut mesh.nodes {
            let feeder = key(251).peer_id();
            node.connect_to(feeder);
            node.receive(feeder, crate::driver::offers(vec![everything.clone()]));
            node.links.remove(&feeder);
            node.catalog.peer_disconnected(feeder);
        }
        mesh
    }

    fn ticks(&mut self, n: usize) {
        for _ in 0..n {
            self.tick();
            self.settle();
        }
    }
}

/// The first change of a stranger's offer.
fn offered(stranger: u16, names: &[&str]) -> SignedChange {
    let key = crate::driver::stranger(stranger);
    let mut node = Node::open(key, CatalogLimits::default(), Disk::new()).0;
    node.connect_to(crate::driver::key(250).peer_id());
    changes(&node.offer(names)).remove(0)
}

#[test]
fn what_a_node_has_seen_reaches_the_far_end_without_a_tick_and_outlives_restarts() {
    let mut mesh = Mesh::weighing(4);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.settle();
    mesh.observe(0, &[(cell("chef", 1), outcomes(40, 750))]);
    mesh.settle();
    // Who comes late learns it from those that know it.
    mesh.isolate(0);
    mesh.connect(2, 3);
    mesh.settle();
    let author = mesh.nodes[0].id();
    for node in 1..4 {
        let weighed = mesh.nodes[node].weighed(&cell("chef", 1)).unwrap();
        assert_eq!((weighed.mass, weighed.reward), (40_000, 30_000), "{node}");
        assert_eq!(mesh.nodes[node].weighed(&cell("chef", 2)), None);
        mesh.isolate(node);
        let recovered = mesh.nodes[node].restart(CatalogLimits::default());
        assert_eq!((recovered.observations, recovered.problems.len()), (1, 0));
        let _ = mesh.nodes[node].catalog.use_codebooks([BOOK]);
        assert_eq!(mesh.nodes[node].weighed(&cell("chef", 1)), Some(weighed));
        assert_eq!(mesh.nodes[node].said(&author), mesh.nodes[0].said(&author));
    }
    assert_eq!(mesh.nodes[0].weighed(&cell("chef", 1)), None, "its own");
    assert!(
        mesh.nodes[0]
            .observe(&[(cell("chef", 1), outcomes(40, 750))])
            .is_empty()
    );
}

#[test]
fn few_outcomes_are_told_to_nobody() {
    let mut mesh = Mesh::using(2);
    mesh.connect(0, 1);
    mesh.settle();
    mesh.observe(0, &[(cell("chef", 1), outcomes(OBSERVED_LEAST - 1, 500))]);
    mesh.settle();
    assert!(mesh.nodes[1].observed().is_empty());
    assert!(mesh.nodes[0].disk.is_empty());
    let few_and_many = [
        (cell("chef", 1), outcomes(OBSERVED_LEAST - 1, 500)),
        (cell("chef", 2), outcomes(OBSERVED_LEAST, 500)),
    ];
    mesh.observe(0, &few_and_many);
    mesh.settle();
    assert_eq!(mesh.nodes[1].observed()[0].1.len(), 1);
    // One more outcome is not told either.
    assert!(
        mesh.nodes[0]
            .observe(&[(cell("chef", 2), outcomes(6, 500))])
            .is_empty()
    );
}

#[test]
fn what_there_cannot_be_is_not_published() {
    let mut node = Node::fresh(1);
    let bad = [
        (
            cell("chef", 1),
            Evidence {
                count: 0,
                reward: 0,
            },
        ),
        (cell("chef", 1), outcomes(5, 1001)),
        (cell("chef", 1024), outcomes(5, 500)),
        (
            cell("chef", 1),
            Evidence {
                count: u32::MAX,
                reward: u32::MAX,
            },
        ),
    ];
    for seen in bad {
        let error = node.catalog.publish_observations([seen]).unwrap_err();
        assert!(
            matches!(error, ObservationsError::Impossible { .. }),
            "{error}"
        );
    }
    assert!(node.disk.is_empty());
}

#[test]
fn the_largest_document_travels_in_one_change_and_all_of_it_can_be_replaced() {
    let mut mesh = Mesh::using(2);
    mesh.connect(0, 1);
    mesh.settle();
    let all = |from: u32| -> Vec<(Cell, Evidence)> {
        (0..2048u32)
            .map(|n| {
                let mut id = [9; 32];
                id[0] = (n % 256) as u8;
                let cell = Cell {
                    codebook: CodebookId::from_bytes([(n % 4) as u8; 32]),
                    expert: polymath_types::ExpertId::from_bytes(id),
                    cluster: ((n * 17 + n / 1024) % 1024) as u16,
                };
                (cell, outcomes(900_000 + from + n * 7, 999))
            })
            .collect()
    };
    for round in 0..8 {
        mesh.observe(0, &all(round * 50));
        mesh.settle();
        mesh.ticks(8);
        let author = mesh.nodes[0].id();
        let said = mesh.nodes[1].said(&author).unwrap();
        assert_eq!(said.len(), 2048);
        assert_eq!(Some(said), mesh.nodes[0].said(&author), "round {round}");
    }
    // Another 2048 in their place.
    let moved: Vec<_> = all(0)
        .into_iter()
        .map(|(mut cell, evidence)| {
            cell.cluster = (cell.cluster + 1) % 1024;
            (cell, evidence)
        })
        .collect();
    mesh.observe(0, &moved);
    mesh.settle();
    mesh.ticks(8);
    assert_eq!(mesh.nodes[1].observed()[0].1, moved.into_iter().collect());
    assert_eq!(
        mesh.nodes[1].catalog.counters().refused(Refusal::TooMuch),
        0
    );
}

#[test]
fn an_observer_is_taken_at_a_slow_rate_and_its_last_word_arrives() {
    let mut mesh = Mesh::using(3);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.settle();
    for round in 1..=40 {
        mesh.observe(0, &[(cell("chef", 1), outcomes(round * 5, 500))]);
        mesh.settle();
    }
    let taken = mesh.nodes[1].catalog.counters().changes;
    assert!(taken <= 4, "{taken}");
    mesh.ticks(24);
    for node in 0..3 {
        assert_eq!(mesh.nodes[node].observed(), mesh.nodes[0].observed());
        assert_eq!(mesh.nodes[node].observed().len(), 1);
    }
}

#[test]
fn a_node_without_observations_keeps_asks_and_tells_none() {
    let mut mesh = Mesh::using(3);
    mesh.observe(0, &[(cell("chef", 1), outcomes(40, 750))]);
    mesh.connect(0, 1);
    mesh.settle();
    mesh.isolate(1);
    assert_eq!(mesh.nodes[1].observed().len(), 1);
    // Switched off, what was kept goes, on the disk too.
    mesh.nodes[1] = mesh.nodes[1].reopened(false);
    assert!(mesh.nodes[1].observed().is_empty());
    mesh.connect(1, 0);
    mesh.connect(1, 2);
    mesh.settle();
    let about = |sent: &[(PeerId, SyncFrame)]| sent.iter().any(|(_, f)| f.category == 2);
    for _ in 0..8 {
        let actions = mesh.nodes[1].catalog.tick();
        let sent = mesh.nodes[1].perform(actions);
        assert!(!about(&sent));
    }
    mesh.ticks(8);
    assert!(mesh.nodes[1].observed().is_empty());
    assert!(mesh.nodes[2].observed().is_empty());
    assert!(
        !mesh.nodes[1]
            .disk
            .keys()
            .any(|name| name.starts_with("observations-"))
    );
    let error = mesh.nodes[1].catalog.publish_observations([]).unwrap_err();
    assert_eq!(error, ObservationsError::Off);
    // Its own document it keeps, and goes on from there.
    let author = mesh.nodes[0].id();
    mesh.isolate(0);
    mesh.nodes[0] = mesh.nodes[0].reopened(false).reopened(true);
    mesh.nodes[0].observe(&[(cell("chef", 1), outcomes(80, 750))]);
    mesh.connect(0, 2);
    mesh.settle();
    assert_eq!(mesh.nodes[2].said(&author), mesh.nodes[0].said(&author));
    assert_eq!(mesh.nodes[0].catalog.counters().own_forks, 0);
}

#[test]
fn a_lost_disk_is_stepped_over_when_there_is_something_to_say_again() {
    let mut mesh = Mesh::weighing(3);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.observe(0, &[(cell("chef", 1), outcomes(40, 750))]);
    mesh.settle();
    mesh.isolate(0);
    mesh.nodes[0].disk.clear();
    mesh.nodes[0].restart(CatalogLimits::default());
    mesh.nodes[0].observe(&[(cell("chef", 2), outcomes(10, 100))]);
    mesh.connect(0, 1);
    mesh.settle();
    mesh.ticks(4);
    let author = mesh.nodes[0].id();
    for node in 1..3 {
        assert_eq!(mesh.nodes[node].said(&author), mesh.nodes[0].said(&author));
        assert_eq!(mesh.nodes[node].weighed(&cell("chef", 1)), None);
        assert!(mesh.nodes[node].weighed(&cell("chef", 2)).is_some());
    }
    assert!(mesh.nodes[0].catalog.counters().own_forks > 0);
}

#[test]
fn what_a_peer_says_of_an_expert_it_serves_does_not_count_while_it_serves_it() {
    let mut mesh = Mesh::weighing(2);
    mesh.connect(0, 1);
    let seen = [
        (cell("chef", 1), outcomes(40, 1000)),
        (cell("poet", 1), outcomes(40, 500)),
    ];
    mesh.observe(0, &seen);
    mesh.settle();
    assert!(mesh.nodes[1].weighed(&cell("chef", 1)).is_some());
    mesh.offer(0, &["chef"]);
    mesh.settle();
    assert_eq!(mesh.nodes[1].weighed(&cell("chef", 1)), None);
    assert!(mesh.nodes[1].weighed(&cell("poet", 1)).is_some());
    mesh.offer(0, &["poet"]);
    mesh.settle();
    assert!(mesh.nodes[1].weighed(&cell("chef", 1)).is_some());
    assert_eq!(mesh.nodes[1].weighed(&cell("poet", 1)), None);
}

#[test]
fn an_observer_whose_offer_is_unknown_has_no_weight() {
    let mut node = Node::fresh(1);
    let _ = node.catalog.use_codebooks([BOOK]);
    let feeder = key(251).peer_id();
    node.connect_to(feeder);
    node.receive(feeder, crate::driver::offers(vec![offered(500, &["chef"])]));
    let author = stranger(7);
    let mut observer = Node::open(author.clone(), CatalogLimits::default(), Disk::new()).0;
    observer.connect_to(key(250).peer_id());
    let said = changes(&observer.observe(&[(cell("chef", 1), outcomes(40, 1000))]));
    node.receive(feeder, observations(said));
    // It may serve the very expert that it praises.
    assert!(node.said(&author.peer_id()).is_some());
    assert_eq!(node.weighed(&cell("chef", 1)), None);
    node.receive(feeder, crate::driver::offers(vec![offered(7, &["poet"])]));
    assert!(node.weighed(&cell("chef", 1)).is_some());
}

#[test]
fn what_is_said_of_an_expert_counts_as_long_as_somebody_offers_it() {
    let mut mesh = Mesh::using(3);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.offer(0, &[]);
    mesh.observe(0, &[(cell("chef", 1), outcomes(40, 1000))]);
    mesh.settle();
    assert_eq!(mesh.nodes[1].weighed(&cell("chef", 1)), None);
    mesh.offer(2, &["chef"]);
    mesh.settle();
    mesh.ticks(1);
    assert!(mesh.nodes[1].weighed(&cell("chef", 1)).is_some());
    mesh.offer(2, &[]);
    mesh.settle();
    mesh.ticks(1);
    assert_eq!(mesh.nodes[1].weighed(&cell("chef", 1)), None);
}

#[test]
fn own_evidence_undoes_a_lie() {
    let mut mesh = Mesh::weighing(2);
    mesh.connect(0, 1);
    let lie = [(cell("liar", 1), outcomes(500, 1000))];
    mesh.observe(0, &lie);
    mesh.settle();
    assert_eq!(
        mesh.nodes[1].weighed(&cell("liar", 1)).unwrap().mass,
        100_000
    );
    mesh.observe(1, &[(cell("liar", 1), outcomes(20, 100))]);
    mesh.settle();
    mesh.ticks(1);
    let left = mesh.nodes[1].weighed(&cell("liar", 1));
    assert!(left.is_none_or(|w| w.mass < 1000), "{left:?}");
}

#[test]
fn a_full_table_is_shared_as_that_of_offers_is() {
    const OBSERVERS: usize = 64;
    let limits = CatalogLimits {
        observers: OBSERVERS,
        ..CatalogLimits::default()
    };
    let mut node = Node::open(key(1), limits, Disk::new()).0;
    let (flooder, honest) = (key(66).peer_id(), key(2).peer_id());
    node.connect_to(flooder);
    node.connect_to(honest);
    let said = |n: u16| {
        let mut author = Node::open(stranger(n), CatalogLimits::default(), Disk::new()).0;
        author.connect_to(key(250).peer_id());
        changes(&author.observe(&[(cell("chef", 1), outcomes(40, 750))]))
    };
    for n in 0..100 {
        node.receive(flooder, observations(said(n)));
    }
    assert_eq!(node.observed().len(), OBSERVERS);
    assert!(node.catalog.counters().refused(Refusal::Full) > 0);
    let actions = node.catalog.tick();
    node.perform(actions);
    for n in 1000..1003 {
        node.receive(honest, observations(said(n)));
        let author = stranger(n).peer_id();
        assert!(node.said(&author).is_some(), "{n}");
    }
    assert_eq!(node.observed().len(), OBSERVERS);
    assert_eq!(node.disk.len(), OBSERVERS);
    // Offers have a table of their own.
    assert!(node.catalog.index().peers().is_empty());
}

#[test]
fn a_record_is_verified_from_its_bytes_and_travels_in_a_file() {
    let mut mesh = Mesh::using(2);
    mesh.observe(0, &[(cell("chef", 1), outcomes(40, 750))]);
    mesh.observe(0, &[(cell("chef", 2), outcomes(10, 750))]);
    let (name, record) = mesh.nodes[0].disk.iter().next().unwrap();
    let inspected = inspect(name, record, &MESH).unwrap();
    let Inspected::Observations(author, said, steps) = &inspected else {
        panic!("{inspected:?}");
    };
    assert_eq!((*author, steps.len()), (mesh.nodes[0].id(), 2));
    assert_eq!(Some(said), mesh.nodes[0].said(author).as_ref());
    for at in (40..record.len()).step_by(3) {
        let mut altered = record.clone();
        altered[at] ^= 4;
        let sum = *blake3::hash(&altered[40..]).as_bytes();
        altered[8..40].copy_from_slice(&sum);
        assert!(inspect(name, &altered, &MESH).is_err(), "byte {at}");
    }
    let file = to_file(&MESH, [&inspected]);
    let actions = mesh.nodes[1]
        .catalog
        .import(from_file(&file, &MESH).unwrap());
    mesh.nodes[1].perform(actions);
    assert_eq!(mesh.nodes[1].observed(), mesh.nodes[0].observed());
}

#[test]
fn changes_of_one_kind_are_none_of_another() {
    let mut author = Node::fresh(2);
    author.connect_to(key(250).peer_id());
    let observed = changes(&author.observe(&[(cell("chef", 1), outcomes(40, 750))]));
    let offered = changes(&author.offer(&["chef"]));
    let mut node = Node::fresh(1);
    let from = key(66).peer_id();
    node.connect_to(from);
    node.receive(from, crate::driver::offers(observed));
    node.receive(from, observations(offered));
    assert_eq!(node.catalog.counters().refused(Refusal::Signature), 2);
    assert!(node.observed().is_empty() && node.catalog.index().peers().is_empty());
}
