//! A process that writes its catalog and is killed, again and again, at moments of chance.
//!
//! What it sends, it prints; what was printed before a kill must be on the disk, and no number may ever
//! come with another content. `POLYMATH_KILLS` says how often (20 unless told otherwise).

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use polymath_catalog::{Action, Catalog, CatalogConfig, CatalogLimits, Inspected, Offer, inspect};
use polymath_node::RecordStore;
use polymath_proto::v1::{ShortChange, SyncFrame, sync_frame::Frame};
use polymath_types::{Format, MeshId, NodeKey, PeerId};
use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use prost::Message as _;

const MESH: MeshId = MeshId::from_bytes([9; 32]);
/// Where the child works; set only there.
const FOLDER: &str = "POLYMATH_KILLED_IN";
/// What the child prints of its own before each frame: the harness prints too.
const MARK: &[u8] = b"\nframe:";

fn config(key: NodeKey) -> CatalogConfig {
    CatalogConfig {
        unix: 0,
        key,
        mesh: MESH,
        founders: Vec::new(),
        observations: true,
        limits: CatalogLimits::default(),
    }
}

fn key_in(folder: &Path) -> NodeKey {
    NodeKey::from_text(&std::fs::read_to_string(folder.join("key")).unwrap()).unwrap()
}

/// Stores what is to be stored, and then prints what is to be sent.
fn perform(store: &mut RecordStore, actions: Vec<Action>) {
    let mut records = BTreeMap::new();
    let mut sends = Vec::new();
    for action in actions {
        match action {
            Action::Store { name, bytes } => {
                records.insert(name, Some(Arc::<[u8]>::from(bytes)));
            }
            Action::Remove { name } => {
                records.insert(name, None);
            }
            Action::Send { frame, .. } => sends.push(frame),
            _ => {}
        }
    }
    store.write(&records).unwrap();
    let mut out = std::io::stdout().lock();
    for frame in sends {
        let bytes = frame.encode_to_vec();
        out.write_all(MARK).unwrap();
        out.write_all(&u32::try_from(bytes.len()).unwrap().to_le_bytes())
            .unwrap();
        out.write_all(&bytes).unwrap();
    }
    out.flush().unwrap();
}

/// The process that is killed: writes its own offer without end, and takes those of others in between.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let (mut store, records) = RecordStore::open(&folder.join("catalog")).unwrap();
    let (mut catalog, recovered) = Catalog::open(config(key_in(folder)), records);
    assert!(recovered.problems.is_empty(), "{recovered:?}");
    let peer = PeerId::random();
    let hello = catalog.peer_connected(peer);
    perform(&mut store, hello);
    let offer = |agent: String| Offer {
        agent,
        ..Offer::default()
    };
    for n in 0.. {
        let said = catalog.set_offer(offer(format!(
            "process {}, version {n}",
            std::process::id()
        )));
        perform(&mut store, said.unwrap());
        let (mut other, _) = Catalog::open(config(NodeKey::generate()), []);
        let _ = other.peer_connected(peer);
        let changes = other
            .set_offer(offer(format!("another, version {n}")))
            .unwrap();
        for action in changes {
            if let Action::Send { frame, .. } = action {
                perform(&mut store, catalog.receive(peer, frame).unwrap());
            }
        }
        perform(&mut store, catalog.tick());
    }
}

/// The changes in what a child has printed, as far as it is whole; all of them have a short form.
fn sent(mut printed: &[u8]) -> Vec<ShortChange> {
    let mut changes = Vec::new();
    while let Some(at) = printed.windows(MARK.len()).position(|w| w == MARK) {
        let rest = &printed[at + MARK.len()..];
        let Some((length, rest)) = rest.split_at_checked(4) else {
            break;
        };
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        let Some((frame, rest)) = rest.split_at_checked(length) else {
            break;
        };
        let frame = SyncFrame::decode(frame).unwrap();
        assert_eq!(frame.version, Format::Sync.current());
        if let Some(Frame::Offers(offers)) = frame.frame {
            assert_eq!(offers.changes, []);
            changes.extend(offers.short);
        }
        printed = rest;
    }
    changes
}

#[test]
fn a_process_that_is_killed_anywhere_never_contradicts_itself() {
    let kills: u32 = std::env::var("POLYMATH_KILLS").map_or(20, |n| n.parse().unwrap());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[5; 32]);
    let mut below = move |n: u32| rng.next_u32() % n;
    let home = tempfile::tempdir().unwrap();
    let key = NodeKey::generate();
    std::fs::write(home.path().join("key"), key.to_text().unwrap().as_bytes()).unwrap();
    let me = key.peer_id();
    let own = format!("offer-{me}");
    let mut said: BTreeMap<(u64, u64), ShortChange> = BTreeMap::new();
    let mut records_checked = 0;
    for life in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(FOLDER, home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        // It dies after so many bytes were read, and in the middle of whatever it does next; now and then
        // while it still opens its store.
        let (enough, spins) = (below(5) * below(4000), below(2_000_000));
        let (mut printed, mut buffer) = (Vec::new(), [0; 256]);
        while printed.len() < enough as usize {
            let read = out.read(&mut buffer).unwrap();
            assert!(read > 0, "life {life}: the child ended by itself");
            printed.extend_from_slice(&buffer[..read]);
        }
        (0..spins).for_each(|spin| {
            std::hint::black_box(spin);
        });
        child.kill().unwrap();
        out.read_to_end(&mut printed).unwrap();
        let _ = child.wait().unwrap();

        let heard = sent(&printed);
        for change in &heard {
            assert!(me.to_bytes().ends_with(&change.author), "life {life}");
            let place = (change.epoch, change.sequence);
            let before = said.insert(place, change.clone());
            assert!(
                before.is_none_or(|b| b == *change),
                "life {life}: two changes under {place:?}"
            );
        }
        let catalog = home.path().join("catalog");
        let records = if catalog.exists() {
            RecordStore::open(&catalog).unwrap().1
        } else {
            Vec::new()
        };
        let mut kept = None;
        for (name, bytes) in &records {
            records_checked += 1;
            let inspected = inspect(name, bytes, &MESH);
            assert!(inspected.is_ok(), "life {life}: {name}: {inspected:?}");
            if let (true, Ok(Inspected::Offer(history))) = (*name == own, inspected) {
                kept = Some(history);
            }
        }
        let Some((last, change)) = said.last_key_value() else {
            continue;
        };
        let kept = kept.unwrap();
        let now = kept.offer().unwrap();
        assert!((now.epoch, now.sequence) >= *last, "life {life}");
        if now.epoch == last.0 {
            let step = kept.steps.iter().find(|s| s.change.sequence == last.1);
            // Of two different changes one has another signature.
            let kept = &step.unwrap().change;
            assert_eq!(kept.signature, change.signature, "life {life}");
        }
    }
    println!(
        "{kills} kills, {} changes heard, {records_checked} records verified",
        said.len()
    );
    assert!(said.len() > kills as usize);
}
