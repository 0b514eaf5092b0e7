//! A user's own files.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use polymath_blobs::{Import, Origin, SilentProgress};
use polymath_types::{ErrorKind, FileRole, Runtime};

use crate::fixture::{Event, Fixture, Observer, flip_bit, never};

fn own(f: &Fixture, bytes: &[u8]) -> (Import, PathBuf) {
    let path = f.tmp.path().join("own.gguf");
    fs::write(&path, bytes).unwrap();
    let import = Import {
        name: "own".into(),
        runtime: Runtime::GgufLlama,
        files: vec![(FileRole::Weights, path.clone())],
        context_length: 128,
        dimensions: 0,
        licence: "MIT".into(),
    };
    (import, path)
}

#[test]
fn an_import_is_a_model_like_any_other_and_independent_of_its_file() {
    let f = Fixture::new();
    let store = f.store();
    let (import, path) = own(&f, b"weights");
    let installed = store.import(&import, &SilentProgress, &never()).unwrap();
    assert_eq!(installed.origin, Origin::Path(path.display().to_string()));
    let file = &installed.model.files[0];
    assert_eq!((file.name.as_str(), file.size), ("own.gguf", 7));
    assert_eq!(file.sha256, crate::fixture::sha256(b"weights"));
    // Changed in place, as an editor would.
    use std::io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all(b"W")
        .unwrap();
    store.verify("own", &SilentProgress, &never()).unwrap();
}

#[test]
fn the_same_bytes_again_repair_it_and_other_bytes_are_refused() {
    let f = Fixture::new();
    let store = f.store();
    let (import, _) = own(&f, b"weights");
    let first = store.import(&import, &SilentProgress, &never()).unwrap();
    flip_bit(&store.path(&first.model.files[0]));
    let error = store.verify("own", &SilentProgress, &never()).unwrap_err();
    assert!(
        error.to_string().contains("own.gguf` repairs it"),
        "{error}"
    );
    let progress = Observer::new();
    assert_eq!(store.import(&import, &progress, &never()).unwrap(), first);
    store.verify("own", &SilentProgress, &never()).unwrap();
    let (import, _) = own(&f, b"others!");
    let error = store
        .import(&import, &SilentProgress, &never())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    store.verify("own", &SilentProgress, &never()).unwrap();
}

#[test]
fn an_adapter_and_the_order_of_files() {
    let f = Fixture::new();
    let store = f.store();
    let (mut import, _) = own(&f, b"weights");
    for (role, name) in [
        (FileRole::Config, "config.json"),
        (FileRole::Adapter, "lora.bin"),
        (FileRole::Tokenizer, "tokenizer.json"),
    ] {
        let path = f.tmp.path().join(name);
        fs::write(&path, name).unwrap();
        import.files.insert(0, (role, path));
    }
    let model = store
        .import(&import, &SilentProgress, &never())
        .unwrap()
        .model;
    let roles: Vec<_> = model.files.iter().map(|f| f.role).collect();
    assert_eq!(
        roles,
        [FileRole::Weights, FileRole::Tokenizer, FileRole::Config]
    );
    assert_eq!(model.adapter.unwrap().name, "lora.bin");
}

#[test]
fn what_cannot_be_imported() {
    let f = Fixture::new();
    let store = f.store();
    let (good, path) = own(&f, b"weights");
    let kind = |change: &dyn Fn(&mut Import)| {
        let mut import = good.clone();
        change(&mut import);
        store
            .import(&import, &SilentProgress, &never())
            .unwrap_err()
            .kind()
    };
    assert_eq!(kind(&|i| i.name = "a/b".into()), ErrorKind::InvalidInput);
    assert_eq!(
        kind(&|i| i.name = "SmolLM2".into()),
        ErrorKind::FailedPrecondition
    );
    assert_eq!(kind(&|i| i.files.clear()), ErrorKind::InvalidInput);
    assert_eq!(kind(&|i| i.licence.clear()), ErrorKind::InvalidInput);
    assert_eq!(
        kind(&|i| i.files[0].1 = "/no/such/file".into()),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(&|i| i.files[0].1 = f.tmp.path().into()),
        ErrorKind::InvalidInput
    );
    let twice = (FileRole::Weights, path);
    assert_eq!(
        kind(&|i| i.files.push(twice.clone())),
        ErrorKind::InvalidInput
    );
    assert_eq!(store.list().unwrap().installed, []);
    let full = f.store_with(|o| o.free_bytes = |_| Ok(0));
    let error = full.import(&good, &SilentProgress, &never()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn what_the_store_holds_already_is_not_copied_again() {
    let f = Fixture::new();
    let (import, path) = own(&f, b"weights");
    let first = f
        .store()
        .import(&import, &SilentProgress, &never())
        .unwrap();
    // With no free disk at all: under its own name, and under another.
    let full = f.store_with(|o| o.free_bytes = |_| Ok(0));
    let again = full.import(&import, &SilentProgress, &never()).unwrap();
    assert_eq!(again, first);
    let mut other = import.clone();
    other.name = "other".into();
    let second = full.import(&other, &SilentProgress, &never()).unwrap();
    assert_eq!(second.model.files, first.model.files);
    // Other bytes of the same length are told apart and do not fit.
    fs::write(path, b"WEIGHTS").unwrap();
    other.name = "third".into();
    let error = full.import(&other, &SilentProgress, &never()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn a_file_left_alone_is_known_by_its_looks_and_a_touched_one_is_not() {
    let f = Fixture::new();
    let store = f.store();
    let (import, path) = own(&f, b"weights");
    assert_eq!(store.imported(&import), None);
    // While the file is so fresh that a change could go unseen, it is not remembered.
    let deadline = Instant::now() + Duration::from_secs(60);
    let installed = loop {
        let installed = store.import(&import, &SilentProgress, &never()).unwrap();
        if store.imported(&import).is_some() {
            break installed;
        }
        assert!(Instant::now() < deadline, "it is never remembered");
        std::thread::yield_now();
    };
    assert_eq!(store.imported(&import), Some(installed.clone()));
    let progress = Observer::new();
    store.import(&import, &progress, &never()).unwrap();
    let read = |e: &Event| matches!(e, Event::Begin(what, _) if what.starts_with("Reading"));
    assert!(!progress.events().iter().any(read));

    // A missing blob is not overlooked.
    let blob = store.path(&installed.model.files[0]);
    fs::rename(&blob, f.tmp.path().join("aside")).unwrap();
    assert_eq!(store.imported(&import), None);
    fs::rename(f.tmp.path().join("aside"), &blob).unwrap();

    // The same length and the same modification time.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, b"WEIGHTS").unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(store.imported(&import), None);
    let error = store
        .import(&import, &SilentProgress, &never())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn a_name_that_other_bytes_have_is_refused_before_anything_is_read() {
    let f = Fixture::new();
    let store = f.store();
    let (import, path) = own(&f, b"weights");
    store.check_import(&import).unwrap();
    store.import(&import, &SilentProgress, &never()).unwrap();
    store.check_import(&import).unwrap();
    fs::write(path, b"longer weights").unwrap();
    let error = store.check_import(&import).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn an_import_tells_how_far_it_is_and_can_be_cancelled() {
    let f = Fixture::new();
    let store = f.store();
    let (import, _) = own(&f, b"weights");
    let cancel = never();
    cancel.cancel();
    let error = store.import(&import, &SilentProgress, &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(store.list().unwrap().installed, []);
    let progress = Observer::new();
    store.import(&import, &progress, &never()).unwrap();
    let begun = Event::Begin("Importing own".into(), Some(7));
    assert!(progress.events().contains(&begun));
    assert!(progress.events().contains(&Event::Advance(7)));
}
