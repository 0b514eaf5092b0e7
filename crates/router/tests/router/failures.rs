use polymath_router::Reach;
use polymath_types::{ErrorKind, ExpertKind, Failure, Query};

use crate::scene::*;

fn failure(scene: &mut Scene, query: &Query) -> Failure {
    let d = scene.decide(query);
    assert!(d.candidates.is_empty());
    let failure = d.failure().expect("no candidate, no failure").clone();
    assert_eq!(d.reason, failure.message);
    assert!(!failure.message.contains('\n'));
    failure
}

fn named(name: &str) -> Query {
    let mut q = query(ExpertKind::Generate);
    q.constraints.model = Some(name.into());
    q
}

#[test]
fn an_empty_mesh_says_how_to_fill_it() {
    let f = failure(&mut Scene::new(), &named("chef"));
    assert_eq!(f.kind, ErrorKind::Unavailable);
    assert!(
        f.message.contains("polymath up --expert") && f.message.contains("polymath join"),
        "{f}"
    );
}

#[test]
fn an_unknown_name_brings_near_ones() {
    let (mut scene, _, _) = Scene::kitchen();
    for (wrong, right) in [
        ("chfe", "chef"),
        ("Chef", "chef"),
        ("code", "coder"),
        ("chef_model", "chef-model"),
    ] {
        let f = failure(&mut scene, &named(wrong));
        assert_eq!(f.kind, ErrorKind::NotFound);
        assert!(
            f.message.contains(&format!("'{wrong}'")) && f.message.contains(right),
            "{f}"
        );
    }
    let f = failure(&mut scene, &named("quantum-physicist"));
    assert!(!f.message.contains("did you mean"), "{f}");
    let f = failure(&mut scene, &named(&"ü\n".repeat(10_000)));
    assert!(f.message.len() < 400, "{f}");
    failure(&mut scene, &named(""));
}

#[test]
fn a_name_of_another_kind_says_which() {
    let (mut scene, _, _) = Scene::kitchen();
    scene.host(&card("minilm", ExpertKind::Embed), &[4], None);
    let f = failure(&mut scene, &named("minilm"));
    assert_eq!(f.kind, ErrorKind::InvalidInput);
    assert!(f.message.contains("`--kind embed`"), "{f}");
}

#[test]
fn a_kind_nobody_serves() {
    let (mut scene, _, _) = Scene::kitchen();
    let f = failure(&mut scene, &query(ExpertKind::Embed));
    assert_eq!(f.kind, ErrorKind::Unavailable);
    assert!(
        f.message.contains("embed") && f.message.contains("polymath up --expert"),
        "{f}"
    );
}

#[test]
fn a_peer_unknown_or_without_the_expert() {
    let (mut scene, _, _) = Scene::kitchen();
    let mut q = named("chef");
    q.constraints.peer = Some(peer(99));
    let f = failure(&mut scene, &q);
    assert_eq!(f.kind, ErrorKind::NotFound);
    assert!(f.message.contains(&peer(99).to_base58()), "{f}");
    q.constraints.peer = Some(peer(3));
    let f = failure(&mut scene, &q);
    assert_eq!(f.kind, ErrorKind::NotFound);
    assert!(f.message.contains("coder"), "{f}");
}

#[test]
fn all_excluded_counts_the_reasons() {
    let (mut scene, chef, _) = Scene::kitchen();
    scene.reach(
        1,
        Reach::Unreachable {
            why: "no address".into(),
        },
    );
    scene.failed(chef, 2, ErrorKind::Unavailable);
    let mut q = query(ExpertKind::Generate);
    q.constraints.exclude = vec![peer(3)];
    let f = failure(&mut scene, &q);
    assert_eq!(f.kind, ErrorKind::Unavailable);
    for part in [
        "1 out of reach (chef: no address)",
        "1 left alone after failures",
        "next try in 1.0 s",
        "1 on excluded peers",
    ] {
        assert!(f.message.contains(part), "{part}: {f}");
    }
}

#[test]
fn labels_are_asked_for() {
    let mut scene = Scene::new();
    scene.host(&card("zero-shot", ExpertKind::Classify), &[1], None);
    let f = failure(&mut scene, &query(ExpertKind::Classify));
    assert_eq!(f.kind, ErrorKind::InvalidInput);
    assert!(f.message.contains("labels"), "{f}");
}
