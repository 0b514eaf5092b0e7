#![allow(clippy::unwrap_used)]
use polymath_catalog::CatalogConfig;
use polymath_proto::v1::sync_frame::Frame;
use polymath_types::{MeshId, NodeKey};

use super::*;

struct Scene {
    keeper: Keeper,
    key: NodeKey,
    peer: PeerId,
    _home: tempfile::TempDir,
}

const MESH: MeshId = MeshId::from_bytes([7; 32]);

/// A keeper whose store cannot be written: a file lies where its folder should be.
fn scene() -> Scene {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("catalog");
    fs::write(&dir, "in the way").unwrap();
    // The one with the greater id tells first.
    let mut keys = [NodeKey::generate(), NodeKey::generate()];
    keys.sort_by_key(NodeKey::peer_id);
    let [other, key] = keys;
    let config = CatalogConfig {
        key: key.clone(),
        mesh: MESH,
        limits: Default::default(),
    };
    let keeper = Keeper {
        catalog: Catalog::open(config, Vec::new()).0,
        dir,
        index: Arc::default(),
        peers: HashMap::new(),
        unwritten: VecDeque::new(),
        failing: false,
    };
    Scene {
        keeper,
        key,
        peer: other.peer_id(),
        _home: home,
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

    fs::remove_file(&scene.keeper.dir).unwrap();
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
    let records = stored(&scene.keeper.dir).unwrap();
    let config = CatalogConfig {
        key: scene.key.clone(),
        mesh: MESH,
        limits: Default::default(),
    };
    let (again, recovered) = Catalog::open(config, records);
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

#[test]
fn a_new_store_is_created_with_all_folders_above_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("home/mesh/abc/catalog");
    assert!(stored(&dir).unwrap().is_empty());
    assert!(dir.is_dir());
    assert!(stored(&dir).unwrap().is_empty());
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(stored(&file.join("catalog")).is_err());
}
