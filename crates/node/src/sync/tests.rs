#![allow(clippy::unwrap_used)]
use polymath_catalog::{CatalogConfig, Refusal};
use polymath_proto::v1::sync_frame::Frame;
use polymath_types::{Format, MeshId, NodeKey};
use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};

use super::*;
use crate::records::faulty_disk::FaultyDisk;

type Frames = futures::stream::BoxStream<'static, SyncFrame>;

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
        unix: 0,
        key: key.clone(),
        mesh: MESH,
        founders: Vec::new(),
        observations: true,
        limits: Default::default(),
    }
}

/// A keeper that knows nothing.
fn keeper(key: &NodeKey, disk: &FaultyDisk) -> Keeper {
    Keeper {
        catalog: Catalog::open(config(key), Vec::new()).0,
        store: Arc::new(Mutex::new(disk.store())),
        index: Arc::default(),
        changed: watch::Sender::new(()),
        peers: HashMap::new(),
        room: FuturesUnordered::new(),
        unwritten: Changes::new(),
        waiting: Vec::new(),
        trouble: Trouble::default(),
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
    async fn connect(&mut self) -> Frames {
        let (link, frames, _) = link();
        let started = Command::Started {
            peer: self.peer,
            session: 1,
            link,
        };
        self.obey(started).await;
        frames.boxed()
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
fn said(frames: &mut Frames) -> (Vec<Frame>, bool) {
    let mut all = Vec::new();
    loop {
        match frames.next().now_or_never() {
            Some(Some(frame)) => all.extend(frame.frame),
            Some(None) => return (all, true),
            None => return (all, false),
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
                version: Format::Sync.current(),
                category: 0,
                frame: Some(frame),
            };
            witness.receive(me, frame).unwrap();
        }
        refused += usize::from(scene.keeper.trouble.lock().unwrap().is_some());
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

/// Cards large enough that all of them are more frames than a session's queue holds.
fn large_cards(count: usize) -> Vec<Arc<ExpertCard>> {
    let card = |n| ExpertCard {
        version: 1,
        name: format!("expert-{n}"),
        kind: polymath_types::ExpertKind::Generate,
        model: polymath_types::Model {
            name: "tiny".into(),
            runtime: polymath_types::Runtime::Trigram,
            files: Vec::new(),
            adapter: None,
            context_length: 128,
            dimensions: 0,
            licence: "MIT".into(),
        },
        system: Some("x".repeat(16_000)),
        sampling: Default::default(),
        description: String::new(),
        examples: Vec::new(),
        languages: Vec::new(),
        labels: polymath_types::LabelSet::None,
        capabilities: Vec::new(),
    };
    (0..count).map(|n| Arc::new(card(n))).collect()
}

/// A question for all of these.
fn want(cards: &[Arc<ExpertCard>]) -> SyncFrame {
    let ids = cards.iter().map(|c| c.id().as_bytes().to_vec().into());
    SyncFrame {
        version: Format::Sync.current(),
        category: 0,
        frame: Some(Frame::Want(polymath_proto::v1::Want {
            offers: Vec::new(),
            cards: ids.collect(),
        })),
    }
}

#[tokio::test]
async fn an_answer_of_any_size_waits_for_its_reader_and_ends_no_session() {
    let mut scene = scene();
    scene.disk.fail_after(None);
    let cards = large_cards(1500);
    let stored = scene.keeper.catalog.set_cards(cards.clone()).unwrap();
    scene.keeper.carry_out(stored).await;
    let mut frames = scene.connect().await;
    said(&mut frames);
    let (peer, session) = (scene.peer, 1);
    for _ in 0..20 {
        let frame = want(&cards);
        let asked = Command::Frame {
            peer,
            session,
            frame,
        };
        scene.obey(asked).await;
    }
    // Made when there is room: one frame is on its way, however much was asked for.
    while let Some(Some(room)) = scene.keeper.room.next().now_or_never() {
        scene.keeper.answer(room);
    }
    let mut heard = 0;
    let mut count = |frames: &mut Frames| {
        let (said, over) = said(frames);
        assert!(!over);
        let cards = said.iter().map(|f| match f {
            Frame::Cards(c) => c.cards.len(),
            _ => 0,
        });
        heard += cards.sum::<usize>();
        (said.len(), heard)
    };
    assert_eq!(count(&mut frames).0, 1);
    for _ in 0..3 {
        while let Some(Some(room)) = scene.keeper.room.next().now_or_never() {
            scene.keeper.answer(room);
            count(&mut frames);
            // Else the runtime takes this for a task that never rests.
            tokio::task::yield_now().await;
        }
        scene.tick().await;
    }
    assert_eq!(count(&mut frames).1, cards.len());
}

#[tokio::test]
async fn of_many_sessions_of_one_peer_only_the_last_one_holds_anything() {
    let mut scene = scene();
    scene.disk.fail_after(None);
    let mut earlier = Vec::new();
    for _ in 0..20 {
        earlier.push(scene.connect().await);
        scene.offer(&format!("version {}", earlier.len())).await;
    }
    let mut last = earlier.pop().unwrap();
    for frames in &mut earlier {
        assert_eq!(said(frames), (Vec::new(), true));
    }
    let (news, over) = said(&mut last);
    assert!(!over && !news.is_empty());
}

#[tokio::test]
async fn a_store_that_is_damaged_while_it_is_open_is_written_anew() {
    let mut scene = scene();
    scene.disk.fail_after(None);
    scene.offer("one").await;
    // An error of the disk, after which the file is no store any more.
    scene.disk.fail_after(Some(0));
    scene.offer("two").await;
    assert!(scene.keeper.trouble.lock().unwrap().is_some());
    scene.disk.fail_after(None);
    scene.disk.damage();
    for _ in 0..3 {
        scene.tick().await;
    }
    assert_eq!(*scene.keeper.trouble.lock().unwrap(), None);
    let records = scene.keeper.store.lock().unwrap().read().unwrap();
    let (again, recovered) = Catalog::open(config(&scene.key), records);
    assert!(recovered.problems.is_empty(), "{recovered:?}");
    assert_eq!(again.index(), scene.keeper.catalog.index());
    assert!(scene.connect().await.next().now_or_never().is_some());
}
