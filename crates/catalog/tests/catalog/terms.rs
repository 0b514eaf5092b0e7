//! Prices, limits and labels: what an offer says of terms is known to all, and bounded.

use std::collections::BTreeMap;

use automerge::{ObjType, ROOT, ScalarValue, transaction::Transactable as _};
use polymath_catalog::{CatalogLimits, Offer, OfferError, Refusal};
use polymath_types::{ExpertId, Terms};

use crate::{
    driver::{Disk, Mesh, Node, card, expert_id, key},
    scene::{scene, valid_root},
};

pub(crate) fn terms(price_in: u64, price_out: u64) -> Terms {
    Terms {
        price_in,
        price_out,
        context: 4096,
        concurrency: 4,
    }
}

fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    let all = all.iter();
    all.map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

pub(crate) fn offer(terms: &[(&str, Terms)], labelled: &[(&str, &str)]) -> Offer {
    Offer {
        agent: "polymath/test".into(),
        experts: terms.iter().map(|(name, _)| expert_id(name)).collect(),
        terms: terms
            .iter()
            .map(|(name, t)| (expert_id(name), *t))
            .collect(),
        labels: labels(labelled),
        ..Offer::default()
    }
}

impl Mesh {
    fn offer_on(&mut self, node: usize, terms: &[(&str, Terms)], labelled: &[(&str, &str)]) {
        let catalog = &mut self.nodes[node].catalog;
        let cards = catalog
            .set_cards(terms.iter().map(|(name, _)| card(name)))
            .unwrap();
        let offered = catalog.set_offer(offer(terms, labelled)).unwrap();
        self.nodes[node].perform(cards);
        let sent = self.nodes[node].perform(offered);
        self.post(node, sent);
        self.settle();
    }

    fn affordable(&self, most: u64) -> Vec<ExpertId> {
        self.index(1).priced_at_most(most).map(|e| e.id).collect()
    }
}

#[test]
fn what_an_expert_costs_is_known_to_all_and_outlives_restarts() {
    let mut mesh = Mesh::of(3);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    let office = [("office", "berlin"), ("rack", "3")];
    mesh.offer_on(
        0,
        &[("chef", terms(500, 1500)), ("poet", Terms::default())],
        &office,
    );
    mesh.offer_on(2, &[("chef", terms(400, 900))], &[]);
    assert_eq!(mesh.affordable(1299), [expert_id("poet")]);
    assert_eq!(mesh.affordable(1300).len(), 2);
    let (first, index) = (mesh.nodes[0].id(), mesh.index(1));
    let said = &index.peers()[&first];
    assert_eq!(said.terms_of(&expert_id("chef")), terms(500, 1500));
    assert_eq!(said.terms_of(&expert_id("poet")), Terms::default());
    assert_eq!(said.labels, labels(&office));
    let chef = index.expert(&expert_id("chef")).unwrap();
    let of_first = chef.replicas.iter().find(|r| r.peer == first).unwrap();
    assert_eq!(of_first.terms.price(), 2000);
    mesh.isolate(1);
    let recovered = mesh.nodes[1].restart(CatalogLimits::default());
    assert!(recovered.problems.is_empty());
    assert_eq!(mesh.index(1), index);
    // The cheaper one is dearer now, and no longer in Berlin nor anywhere.
    mesh.connect(1, 2);
    mesh.connect(1, 0);
    mesh.settle();
    mesh.offer_on(2, &[("chef", terms(5000, 5000))], &[("office", "bonn")]);
    assert_eq!(mesh.affordable(1999), [expert_id("poet")]);
    mesh.offer_on(0, &[("chef", Terms::default())], &[]);
    assert_eq!(mesh.affordable(0).len(), 1);
    assert!(mesh.index(1).peers()[&first].labels.is_empty());
    for node in 0..3 {
        assert_eq!(mesh.index(node), mesh.index(1), "node {node}");
        mesh.nodes[node].restart(CatalogLimits::default());
        assert_eq!(mesh.index(node), mesh.index(1), "node {node}");
    }
}

#[test]
fn terms_that_others_would_refuse_are_not_offered() {
    let mut node = Node::open(key(1), CatalogLimits::default(), Disk::new()).0;
    node.catalog.set_cards([card("chef")]).unwrap();
    let mut refused = |offer: Offer| node.catalog.set_offer(offer).unwrap_err();
    let dear = offer(&[("chef", terms(Terms::HIGHEST_PRICE + 1, 0))], &[]);
    assert!(matches!(refused(dear), OfferError::Price { .. }));
    let long = "x".repeat(65);
    for (key, value) in [
        ("", "x"),
        ("x", ""),
        ("a=b", "x"),
        (" a", "x"),
        ("x", "a\nb"),
        ("x", &long),
    ] {
        let error = refused(offer(&[], &[(key, value)]));
        assert!(
            matches!(error, OfferError::Label { .. }),
            "{key}={value}: {error}"
        );
    }
    let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|n| (n.as_str(), "x")).collect();
    let error = refused(offer(&[], &many));
    assert!(matches!(error, OfferError::TooMany { what: "labels", .. }));
}

#[test]
fn terms_that_cannot_be_make_the_whole_change_poison() {
    let scene = scene();
    let entry = |key: &str, value: ScalarValue| {
        let change = scene.crafted(|tx| {
            let experts = valid_root(tx);
            let entry = tx
                .put_object(&experts, "ab".repeat(32), ObjType::Map)
                .unwrap();
            tx.put(&entry, "accepting", true).unwrap();
            tx.put(&entry, key, value).unwrap();
        });
        scene.refusals(change)
    };
    let schema = vec![(Refusal::Schema, 1)];
    assert_eq!(
        entry("price_in", ScalarValue::Uint(Terms::HIGHEST_PRICE)),
        []
    );
    assert_eq!(entry("colour", ScalarValue::F64(0.5)), []);
    for (key, value) in [
        ("price_in", ScalarValue::Uint(Terms::HIGHEST_PRICE + 1)),
        ("price_in", ScalarValue::Uint(u64::MAX)),
        ("price_out", ScalarValue::Int(-1)),
        ("price_out", ScalarValue::F64(1.0)),
        ("context", ScalarValue::Uint(1 << 32)),
        ("concurrency", ScalarValue::Str("many".into())),
    ] {
        assert_eq!(entry(key, value.clone()), schema, "{key}: {value:?}");
    }
    let labelled = |all: &[(String, ScalarValue)]| {
        let change = scene.crafted(|tx| {
            valid_root(tx);
            let labels = tx.put_object(ROOT, "labels", ObjType::Map).unwrap();
            for (key, value) in all {
                tx.put(&labels, key.as_str(), value.clone()).unwrap();
            }
        });
        scene.refusals(change)
    };
    let of = |key: &str, value: &str| [(key.to_owned(), ScalarValue::Str(value.into()))];
    assert_eq!(labelled(&of("office", "berlin")), []);
    assert_eq!(labelled(&of("office", "")), schema);
    assert_eq!(labelled(&of("of=fice", "berlin")), schema);
    assert_eq!(labelled(&[("n".into(), ScalarValue::Uint(1))]), schema);
    let long = labelled(&of("office", &"x".repeat(65)));
    assert_eq!(long, [(Refusal::TooMuch, 1)]);
    let crowd: Vec<_> = (0..17).flat_map(|n| of(&n.to_string(), "x")).collect();
    assert_eq!(labelled(&crowd), [(Refusal::TooMuch, 1)]);
    let no_map = scene.crafted(|tx| {
        valid_root(tx);
        tx.put(ROOT, "labels", "berlin").unwrap();
    });
    assert_eq!(scene.refusals(no_map), schema);
}
