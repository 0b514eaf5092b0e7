//! What goes and what stays when a model is removed.

use std::fs;

use polymath_blobs::{SilentProgress, Source, Store};
use polymath_types::ErrorKind;

use crate::fixture::{Fixture, Observer, never};

fn two_models() -> (Fixture, Fixture, Store) {
    let (a, b) = (Fixture::named("a", 1), Fixture::named("b", 2));
    let store = a.store();
    for x in [&a, &b] {
        let from = Source::Path(x.wheel.clone());
        store
            .pull(&x.known, &from, &SilentProgress, &never())
            .unwrap();
    }
    (a, b, store)
}

#[test]
fn blobs_of_another_model_stay() {
    let (a, b, store) = two_models();
    assert_eq!(
        a.blob(&store, 1),
        b.blob(&store, 1),
        "the models share a file"
    );
    let removed = store.remove("a", &SilentProgress, &never()).unwrap();
    assert_eq!(removed.bytes, a.known.size() - 300_000);
    assert!(!a.blob(&store, 0).exists() && !a.blob(&store, 2).exists());
    assert_eq!(store.get("a").unwrap(), None);
    store.verify("b", &SilentProgress, &never()).unwrap();
    let removed = store.remove("b", &SilentProgress, &never()).unwrap();
    assert_eq!(removed.bytes, b.known.size());
    assert_eq!(fs::read_dir(a.dir().join("blobs")).unwrap().count(), 0);
}

#[test]
fn while_a_manifest_is_damaged_no_blob_goes() {
    let (a, b, store) = two_models();
    fs::write(a.dir().join("models/b.json"), b"{").unwrap();
    let progress = Observer::new();
    assert_eq!(store.remove("a", &progress, &never()).unwrap().bytes, 0);
    assert!(progress.noted("no file was deleted"));
    assert!(b.blob(&store, 0).exists());
    // The damaged one can be removed too, and then nothing is left.
    store.remove("b", &SilentProgress, &never()).unwrap();
    assert_eq!(fs::read_dir(a.dir().join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_model_that_is_not_there_and_a_name_that_cannot_be() {
    let f = Fixture::new();
    let error = f
        .store()
        .remove("none", &SilentProgress, &never())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("polymath model list"), "{error}");
    for name in ["", "..", "a/b", ".hidden", "x y", &"n".repeat(65)] {
        let error = f
            .store()
            .remove(name, &SilentProgress, &never())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
        assert_eq!(
            f.store().get(name).unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{name}"
        );
    }
}

#[test]
fn another_version_of_a_model_replaces_the_old_one_and_its_files() {
    let (old, new) = (Fixture::named("same", 1), Fixture::named("same", 2));
    let store = old.store();
    for x in [&old, &new] {
        let from = Source::Path(x.wheel.clone());
        store
            .pull(&x.known, &from, &SilentProgress, &never())
            .unwrap();
    }
    assert_eq!(store.get("same").unwrap().unwrap().model, new.known.model);
    assert!(!old.blob(&store, 0).exists());
    store.verify("same", &SilentProgress, &never()).unwrap();
}
