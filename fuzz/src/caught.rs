//! Panics that the catalog's sandbox catches: Automerge is expected to panic on some changes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Places that are told apart.
const PLACES: usize = 64;

static CAUGHT: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// From now on they are counted by place, and all others are reported as ever.
pub(crate) fn count() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !polymath_catalog::in_sandbox() {
            return report(panic);
        }
        let mut caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
        let place = panic.location().map_or_else(String::new, |at| {
            // From the crate's name on.
            let file = at
                .file()
                .rsplit_once("/src/")
                .map_or(at.file(), |(root, _)| {
                    let from = root.rfind('/').map_or(0, |at| at + 1);
                    &at.file()[from..]
                });
            format!("{file}:{}", at.line())
        });
        if caught.len() < PLACES || caught.contains_key(&place) {
            *caught.entry(place).or_default() += 1;
        }
    }));
}

/// What was counted.
pub(crate) fn print() {
    let caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "panics caught in the sandbox: {}",
        caught.values().sum::<u64>()
    );
    for (place, count) in caught.iter() {
        println!("{count:>12} {place}");
    }
}
