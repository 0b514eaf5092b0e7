//! A user's own files.

use std::{fs, path::PathBuf};

use polymath_blobs::{Import, Origin, SilentProgress};
use polymath_types::{ErrorKind, FileRole, Runtime};

use crate::fixture::{Fixture, Observer, flip_bit, never};

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
