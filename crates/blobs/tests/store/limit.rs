//! What the operator lets the store take.

use std::fs;

use polymath_blobs::{DiskLimit, Import, PullError, SilentProgress, Source, Store};
use polymath_types::{ErrorKind, FileRole, Runtime};

use crate::fixture::{Fixture, names_in, never, noise};

fn limited(f: &Fixture, bytes: u64) -> Store {
    let beside = Some(f.dir());
    f.store_with(|o| o.limit = Some(DiskLimit { bytes, beside }))
}

#[test]
fn a_pull_over_the_limit_is_refused_before_a_byte_is_written() {
    let f = Fixture::new();
    let from = Source::Path(f.wheel.clone());
    let store = limited(&f, f.known.size() - 1);
    let error = store
        .pull(&f.known, &from, &SilentProgress, &never())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    let line = error.to_string();
    let PullError::OverLimit { needed, limit, .. } = error else {
        panic!("{line}")
    };
    assert_eq!((needed, limit), (f.known.size(), f.known.size() - 1));
    for word in ["limits.disk", "model rm", "--max-disk"] {
        assert!(line.contains(word), "{line}");
    }
    assert!(names_in(&f.dir().join("blobs")).is_empty());
    assert!(names_in(&f.dir().join("partial")).is_empty());
}

#[test]
fn what_is_removed_makes_room_and_what_lies_beside_takes_it() {
    let (first, second) = (Fixture::named("first", 1), Fixture::named("second", 2));
    let pull = |store: &Store, f: &Fixture| {
        let from = Source::Path(f.wheel.clone());
        store.pull(&f.known, &from, &SilentProgress, &never())
    };
    // Room for one of them and the small files of the store, not for two.
    let store = limited(&first, first.known.size() + 100_000);
    pull(&store, &first).unwrap();
    assert!(store.disk_used() >= first.known.size());
    let refused = pull(&store, &second).unwrap_err();
    assert!(matches!(refused, PullError::OverLimit { .. }), "{refused}");
    // What is here needs nothing, however full it is.
    pull(&store, &first).unwrap();
    store.remove("first", &SilentProgress, &never()).unwrap();
    fs::write(first.dir().join("log"), noise(9, 150_000)).unwrap();
    let refused = pull(&store, &second).unwrap_err();
    assert!(matches!(refused, PullError::OverLimit { .. }), "{refused}");
    fs::remove_file(first.dir().join("log")).unwrap();
    pull(&store, &second).unwrap();
}

#[test]
fn an_import_over_the_limit_is_refused() {
    let f = Fixture::new();
    let path = f.tmp.path().join("own.gguf");
    fs::write(&path, noise(7, 500_000)).unwrap();
    let import = Import {
        name: "own".into(),
        runtime: Runtime::GgufLlama,
        files: vec![(FileRole::Weights, path)],
        context_length: 16,
        dimensions: 0,
        licence: "MIT".into(),
    };
    let bring = |bytes| limited(&f, bytes).import(&import, &SilentProgress, &never());
    let refused = bring(400_000).unwrap_err();
    assert!(matches!(refused, PullError::OverLimit { .. }), "{refused}");
    assert!(bring(600_000).is_ok());
}
