#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};

use super::{faulty_disk::FaultyDisk, *};

type Named = BTreeMap<String, Vec<u8>>;

fn all(store: &mut RecordStore) -> Named {
    store.read().unwrap().into_iter().collect()
}

fn change(records: &mut Named, changes: &Changes) {
    for (name, bytes) in changes {
        match bytes {
            Some(bytes) => records.insert(name.clone(), bytes.to_vec()),
            None => records.remove(name),
        };
    }
}

fn names(dir: &Path) -> Vec<String> {
    let (_, records) = RecordStore::open(dir).unwrap();
    records.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn that_others_were_met_is_known_without_opening_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (PeerId::random(), PeerId::random());
    let stored = |peer: &PeerId| Changes::from([(offer_of(peer), Some(Arc::from(&b"x"[..])))]);
    assert!(!has_met_others(&dir.path().join("none"), &own));
    let (store, records) = RecordStore::open(dir.path()).unwrap();
    let mut store = store.marking(dir.path(), &own, &records);
    store.write(&stored(&own)).unwrap();
    assert!(!has_met_others(dir.path(), &own));
    store.write(&stored(&other)).unwrap();
    assert!(has_met_others(dir.path(), &own));
}

#[test]
fn a_store_that_loses_power_anywhere_holds_all_or_nothing_of_a_write() {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[5; 32]);
    let mut below = move |n: u32| rng.next_u32() % n;
    let (disk, mut expected) = (FaultyDisk::default(), Named::new());
    let (mut written, mut torn, mut kept) = (0, 0, 0);
    for round in 0..200 {
        let mut store = disk.store();
        disk.fail_after(Some(below(150) as usize));
        let mut doubtful = None;
        for _ in 0..below(6) + 1 {
            let mut changes = Changes::new();
            for _ in 0..below(20) + 1 {
                let bytes = vec![below(256) as u8; below(3000) as usize];
                let bytes = (below(4) > 0).then(|| bytes.into());
                changes.insert(format!("offer-{}", below(60)), bytes);
            }
            if store.write(&changes).is_err() {
                torn += 1;
                doubtful = Some(changes);
                break;
            }
            written += 1;
            change(&mut expected, &changes);
        }
        drop(store);
        let share = below(5);
        disk.lose_power(|| below(4) < share);
        let found = all(&mut disk.store());
        if found != expected {
            // It failed without being told whether it is there: whole, or not at all.
            change(&mut expected, &doubtful.unwrap_or_default());
            assert_eq!(found, expected, "round {round}");
            kept += 1;
        }
    }
    println!("{written} writes, {torn} broken off, {kept} of these are there");
    assert!(
        written > 100 && torn > 20,
        "{written} writes succeeded, {torn} failed"
    );
}

#[test]
fn a_store_goes_on_after_its_disk_failed() {
    let disk = FaultyDisk::default();
    let mut store = disk.store();
    let record = |n: u8| Changes::from([(format!("card-{n}"), Some([n].into()))]);
    store.write(&record(1)).unwrap();
    disk.fail_after(Some(2));
    assert!(store.write(&record(2)).is_err());
    assert!(store.write(&record(2)).is_err());
    disk.fail_after(None);
    store.write(&record(3)).unwrap();
    let names: Vec<String> = all(&mut store).into_keys().collect();
    assert_eq!(names, ["card-1", "card-3"]);
}

#[test]
fn files_of_an_earlier_build_are_moved_into_the_store_once() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("mesh/abc/catalog");
    assert!(RecordStore::open(&dir).unwrap().1.is_empty());
    for (name, text) in [
        ("offer-a", "old"),
        ("card-b", "card"),
        ("offer-c.tmp", "torn"),
        ("notes", "mine"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let (mut store, records) = RecordStore::open(&dir).unwrap();
    let expected = Named::from([
        ("card-b".into(), b"card".to_vec()),
        ("offer-a".into(), b"old".to_vec()),
    ]);
    assert_eq!(records.into_iter().collect::<Named>(), expected);
    let newer = Changes::from([("offer-a".into(), Some(b"new"[..].into()))]);
    store.write(&newer).unwrap();
    drop(store);
    let mut left: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["notes", FILE]);
    // A start that was broken off before it deleted them.
    fs::write(dir.join("offer-a"), "old").unwrap();
    let (_, records) = RecordStore::open(&dir).unwrap();
    let again: Named = records.into_iter().collect();
    assert_eq!(again["offer-a"], b"new");
    assert_eq!(names(&dir), ["card-b", "offer-a"]);
    assert!(!dir.join("offer-a").exists());
}

#[test]
fn a_file_that_is_no_store_is_set_aside() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().to_owned();
    let record = Changes::from([("card-b".into(), Some(vec![7; 9000].into()))]);
    RecordStore::open(&dir).unwrap().0.write(&record).unwrap();
    let whole = fs::read(dir.join(FILE)).unwrap();
    let mut altered = whole.clone();
    let at = whole.windows(64).position(|w| w == [7; 64]).unwrap();
    altered[at + 20] ^= 1;
    let cut = whole[..whole.len() / 2].to_vec();
    let all = [b"something else".to_vec(), altered, cut, vec![0; 8192]];
    for (n, damaged) in (1..).zip(all) {
        fs::write(dir.join(FILE), &damaged).unwrap();
        let (mut store, records) = RecordStore::open(&dir).unwrap();
        assert!(records.is_empty());
        // None takes the place of the one before.
        let aside = match n {
            1 => "records.damaged".to_owned(),
            n => format!("records.damaged-{n}"),
        };
        assert_eq!(fs::read(dir.join(aside)).unwrap().len(), damaged.len());
        store.write(&record).unwrap();
    }
    assert_eq!(names(&dir), ["card-b"]);
}

#[test]
fn a_store_is_for_its_owner_alone_and_needs_a_folder() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("a/b");
    drop(RecordStore::open(&dir).unwrap());
    let mode = fs::metadata(dir.join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(RecordStore::open(&file.join("catalog")).is_err());
}

#[test]
fn a_file_that_a_flood_made_large_is_small_again_after_the_next_start() {
    let home = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..2000).map(|n| format!("offer-{n}")).collect();
    let all = |bytes: Option<Arc<[u8]>>| -> Changes {
        names.iter().map(|n| (n.clone(), bytes.clone())).collect()
    };
    let size = || fs::metadata(home.path().join(FILE)).unwrap().len();
    let (mut store, _) = RecordStore::open(home.path()).unwrap();
    store.write(&all(Some(vec![7; 10_000].into()))).unwrap();
    let mut few = all(None);
    let kept = few.first_entry().unwrap().remove_entry().0;
    store.write(&few).unwrap();
    drop(store);
    let flooded = size();
    drop(RecordStore::open(home.path()).unwrap());
    assert!(size() < flooded / 4, "{flooded} bytes, then {}", size());
    let (_, records) = RecordStore::open(home.path()).unwrap();
    assert_eq!(records, [(kept, vec![7; 10_000])]);
}
