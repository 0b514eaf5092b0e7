//! Files from somebody nearer than their package.

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::Mutex,
};

use polymath_blobs::{Mirror, Mirrored, Origin, PullError};
use polymath_types::FileRef;

use crate::fixture::{Fixture, Observer, never};

/// Gives what it was filled with, the first thing first.
#[derive(Default)]
struct Shelf {
    readers: Mutex<HashMap<String, Vec<Box<dyn Read + Send>>>>,
    blamed: Mutex<Vec<String>>,
}

impl Shelf {
    fn put(&self, name: &str, reader: impl Read + Send + 'static) {
        let mut readers = self.readers.lock().unwrap();
        readers
            .entry(name.into())
            .or_default()
            .insert(0, Box::new(reader));
    }

    fn of(f: &Fixture, names: &[&str]) -> Self {
        let shelf = Self::default();
        for (name, bytes) in f.contents.iter().filter(|(n, _)| names.contains(&&**n)) {
            shelf.put(name, io::Cursor::new(bytes.clone()));
        }
        shelf
    }
}

impl Mirror for Shelf {
    fn open(&self, file: &FileRef) -> Option<Mirrored> {
        let reader = self.readers.lock().unwrap().get_mut(&file.name)?.pop()?;
        let from = "the shelf".to_owned();
        Some(Mirrored { from, reader })
    }

    fn blame(&self, file: &FileRef) {
        self.blamed.lock().unwrap().push(file.name.clone());
    }
}

/// Fails when it is read.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("it went away"))
    }
}

#[test]
fn what_a_mirror_has_is_not_fetched() {
    let f = Fixture::new();
    let store = f.store();
    let shelf = Shelf::of(&f, &["model.bin", "tokenizer.json", "config.json"]);
    let progress = Observer::new();
    let installed = store
        .pull_near(&f.known, &shelf, &progress, &never())
        .unwrap();
    assert_eq!(installed.origin, Origin::Package("tiny-pkg==1.0".into()));
    assert!(store.verify("tiny", &progress, &never()).is_ok());
}

#[test]
fn bytes_that_are_not_the_file_are_blamed_and_another_is_asked() {
    let f = Fixture::new();
    let store = f.store();
    let shelf = Shelf::of(&f, &["model.bin", "tokenizer.json", "config.json"]);
    let mut other = f.contents[0].1.clone();
    other[70_000] ^= 1;
    // The last put is given last: right, then wrong at first.
    shelf
        .readers
        .lock()
        .unwrap()
        .get_mut("model.bin")
        .unwrap()
        .push(Box::new(io::Cursor::new(other)));
    let progress = Observer::new();
    store
        .pull_near(&f.known, &shelf, &progress, &never())
        .unwrap();
    assert_eq!(*shelf.blamed.lock().unwrap(), ["model.bin"]);
    assert!(progress.noted("it is not asked again"));
    assert!(store.verify("tiny", &progress, &never()).is_ok());
}

#[test]
fn what_is_too_long_too_short_or_breaks_off_is_left_to_the_package() {
    let f = Fixture::new();
    let store = f.store();
    let shelf = Shelf::default();
    let right = f.contents[0].1.clone();
    shelf.put(
        "model.bin",
        io::Cursor::new(right.clone()).chain(io::repeat(0)),
    );
    shelf.put("model.bin", io::Cursor::new(right[..1000].to_vec()));
    shelf.put(
        "model.bin",
        io::Cursor::new(right[..1000].to_vec()).chain(Broken),
    );
    let progress = Observer::new();
    let error = store
        .pull_near(&f.known, &shelf, &progress, &never())
        .unwrap_err();
    // There is no pip here: that it is looked for says that nothing of the mirror was taken.
    assert!(matches!(error, PullError::NoPip { .. }), "{error}");
    assert_eq!(shelf.blamed.lock().unwrap().len(), 2);
    assert!(progress.noted("it went away"));
    assert!(!f.blob(&store, 0).exists());
}
