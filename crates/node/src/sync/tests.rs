#![allow(clippy::unwrap_used)]
use polymath_catalog::{CatalogConfig, Refusal};
use polymath_proto::v1::sync_frame::Frame;
use polymath_types::{MeshId, NodeKey};
use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};

use super::*;
use crate::records::faulty_disk::FaultyDisk;

struct Scene {
    keeper: Keeper,
    disk: FaultyDisk,
    key: NodeKey,
    peer: PeerId,
}

const MESH: MeshId = MeshId::from_bytes([7; 32]);

/// A keeper whose store cannot be written.
fn scene() -> Scene {
    let disk = FaultyDisk::default();
    disk.fail_after(Some(0));
    // The one with the greater id tells first.
    let mut keys = [NodeKey::generate(), NodeKey::generate()];
    keys.sort_by_key(NodeKey::peer_id);
    let [other, key] = keys;
    let keeper = keeper(&key, &disk);
    Scene {
        keeper,
        disk,
        key,
        peer: other.peer_id(),
    }
}

fn config(key: &NodeKey) -> CatalogConfig {
    CatalogConfig {
        key: key.clone(),
        mesh: MESH,
        limits: Default::default(),
    }
}

/// A keeper that knows nothing.
fn keeper(key: &NodeKey, disk: &FaultyDisk) -> Keeper {
    Keeper {
        catalog: Catalog::open(config(key), Vec::new()).0,
        store: Arc::new(Mutex::new(disk.store())),
        index: Arc::default(),
        peers: HashMap::new(),
        unwritten: Changes::new(),
        failing: false,
    }
}

impl Scene {
    async fn obey(&mut self, command: Command) {
        let actions = self.keeper.obey(command);
        self.keeper.carry_out(actions).await;
    }

    async fn tick(&mut self) {
        let actions = self.keeper.catalog.tick();
        self.keeper.carry_out(actions).await;
    }

    /// Opens a session; what the keeper says to the peer.
    async fn connect(&mut self) -> mpsc::Receiver<SyncFrame> {
        let (outbound, frames) = mpsc::channel(OUTBOUND);
        let started = Command::Started {
            peer: self.peer,
            session: 1,
            outbound,
        };
        self.obey(started).await;
        frames
    }

    async fn offer(&mut self, agent: &str) {
        let offer = Offer {
            agent: agent.to_owned(),
            ..Offer::default()
        };
        let cards = Vec::new();
        self.obey(Command::Offer { offer, cards }).await;
    }

    fn own_agent(&self) -> Option<String> {
        let index = self.keeper.index.load();
        let own = index.peers().get(&self.key.peer_id());
        own.map(|offer| offer.agent.clone())
    }
}

/// All that was said, and whether the session is over.
fn said(frames: &mut mpsc::Receiver<SyncFrame>) -> (Vec<Frame>, bool) {
    let mut all = Vec::new();
    loop {
        match frames.try_recv() {
            Ok(frame) => all.extend(frame.frame),
            Err(e) => return (all, e == mpsc::error::TryRecvError::Disconnected),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_told_to_no_one_until_it_can() {
    let mut scene = scene();
    let mut before = scene.connect().await;
    said(&mut before);
    scene.offer("one").await;
    assert_eq!(said(&mut before), (Vec::new(), true));
    // The peer comes back, and the owner has more to say.
    let mut during = scene.connect().await;
    scene.offer("two").await;
    scene.tick().await;
    assert_eq!(said(&mut during), (Vec::new(), true));
    // This node itself goes by it.
    assert_eq!(scene.own_agent().as_deref(), Some("two"));

    scene.disk.fail_after(None);
    scene.tick().await;
    let mut after = scene.connect().await;
    let (frames, over) = said(&mut after);
    assert!(!over);
    let sequences: Vec<u64> = frames
        .iter()
        .filter_map(|f| match f {
            Frame::Heads(h) => Some(h.heads.iter().map(|h| h.sequence)),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(sequences, [2]);
    // And a restart would know all of it.
    let records = scene.keeper.store.lock().unwrap().read().unwrap();
    let (again, recovered) = Catalog::open(config(&scene.key), records);
    assert!(recovered.problems.is_empty(), "{recovered:?}");
    assert_eq!(again.index(), scene.keeper.catalog.index());
    assert!(!again.index().peers().is_empty());
}

#[tokio::test]
async fn records_that_wait_are_kept_once_a_name() {
    let mut scene = scene();
    for n in 0..50 {
        scene.offer(&format!("version {n}")).await;
    }
    assert_eq!(scene.keeper.unwritten.len(), 1);
}

/// An author whose power is cut again and again, in the middle of whatever it does.
#[tokio::test]
async fn an_author_that_loses_power_anywhere_never_contradicts_itself() {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
    let mut below = move |n: u32| rng.next_u32() % n;
    let mut scene = scene();
    let (mut witness, _) = Catalog::open(config(&NodeKey::generate()), Vec::new());
    let me = scene.key.peer_id();
    let (mut heard, mut refused) = (0, 0);
    for life in 0..200 {
        scene.disk.fail_after(Some(below(150) as usize));
        let mut frames = scene.connect().await;
        let _ = witness.peer_connected(me);
        for n in 0..below(8) {
            scene.offer(&format!("life {life}, version {n}")).await;
        }
        // All that left before the power did.
        for frame in said(&mut frames).0 {
            heard += 1;
            let frame = SyncFrame {
                version: 2,
                category: 0,
                frame: Some(frame),
            };
            witness.receive(me, frame).unwrap();
        }
        refused += usize::from(scene.keeper.failing);
        witness.peer_disconnected(me);
        let _ = witness.tick();
        let share = below(5);
        let mut keeper = keeper(&scene.key, &scene.disk);
        std::mem::swap(&mut scene.keeper, &mut keeper);
        drop(keeper);
        scene.disk.lose_power(|| below(4) < share);
        let records = scene.keeper.store.lock().unwrap().read().unwrap();
        let (catalog, recovered) = Catalog::open(config(&scene.key), records);
        assert!(recovered.problems.is_empty(), "life {life}: {recovered:?}");
        let known = |catalog: &Catalog| {
            let index = catalog.index();
            let offer = index.peers().get(&me).cloned();
            offer.map_or((0, 0), |o| (o.epoch, o.sequence))
        };
        assert!(known(&catalog) >= known(&witness), "life {life}");
        scene.keeper.catalog = catalog;
    }
    for blame in [Refusal::Equivocation, Refusal::Continuity] {
        assert_eq!(witness.counters().refused(blame), 0, "{blame}");
    }
    println!("{heard} frames heard, the store failed in {refused} lives");
    assert!(heard > 100 && refused > 20);
}
