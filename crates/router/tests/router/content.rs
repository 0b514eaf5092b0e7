use polymath_router::{Descriptor, PeerState, Reach, Reason, RouterConfig};
use polymath_types::{ExpertKind, LoadReport, PathKind};

use crate::scene::*;

#[test]
fn the_closest_expert_comes_first_with_all_its_replicas() {
    let (mut scene, _, _) = Scene::kitchen();
    let d = scene.ask();
    let names: Vec<_> = d.candidates.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["chef", "chef", "coder"]);
    assert!(
        d.reason
            .starts_with("chef is closest to the question (0.90 over coder 0.30); 2 replicas"),
        "{}",
        d.reason
    );
    assert_eq!((d.encoder.as_str(), d.failure()), ("three-subjects", None));
    let c = &d.candidates[0];
    let sum: f64 = c.terms.iter().map(|t| t.value * t.weight).sum();
    assert_eq!((c.terms.len(), c.score), (8, sum));
    let json = serde_json::to_value(&d).unwrap();
    assert_eq!(json["candidates"][0]["terms"][0]["name"], "quality");
    assert_eq!(json["candidates"][0]["peer"], c.peer.to_base58());
}

#[test]
fn swapping_two_cards_texts_swaps_the_choice() {
    let (mut scene, chef, coder) = Scene::kitchen();
    let a = scene.vectors.remove(&chef).unwrap();
    let b = scene.vectors.insert(coder, a).unwrap();
    scene.vectors.insert(chef, b);
    assert_eq!(scene.ask().candidates[0].name, "coder");
}

#[test]
fn no_speed_outweighs_content_beyond_the_margin() {
    let (mut scene, chef, _) = Scene::kitchen();
    for n in [1, 2] {
        let load = LoadReport {
            queue_depth: 1000,
            active: 1000,
            free_slots: 0,
            ..LoadReport::default()
        };
        let reach = Reach::Connected {
            path: PathKind::Relayed,
        };
        scene.peers.insert(
            peer(n),
            PeerState {
                own: false,
                reach,
                rtt: None,
                load: Some(load),
            },
        );
        scene.served(chef, n, 3_600_000);
    }
    scene.reach(3, Reach::Here);
    let near_tie = RouterConfig::default().near_tie();
    // Both weighed by the same query: chef's content stays above coder's by a hair over the margin.
    let ahead = 0.5 + near_tie as f32 + 0.001;
    scene.features.vector = vec![ahead, 0.5, (1.0 - ahead * ahead - 0.25).sqrt()];
    assert_eq!(scene.ask().candidates[0].name, "chef");
    // Within the margin the fast one wins, and the reason says so.
    let ahead = 0.505f32;
    scene.features.vector = vec![ahead, 0.5, (1.0 - ahead * ahead - 0.25).sqrt()];
    let d = scene.ask();
    assert_eq!(d.candidates[0].name, "coder");
    assert!(d.reason.contains("equally close"), "{}", d.reason);
}

#[test]
fn another_language_costs_content_but_does_not_exclude() {
    let mut scene = Scene::new();
    let mut german = generator("koch");
    german.languages = vec!["de".into()];
    let mut english = generator("cook");
    english.languages = vec!["en".into()];
    let koch = scene.host(&german, &[1], Some(COOKING));
    scene.host(&english, &[2], Some([0.95, 0.1, 0.0]));
    assert_eq!(scene.ask().candidates.len(), 2);
    let first = scene.ask().candidates[0].name.clone();
    for (language, expected) in [("de", "koch"), ("en", "cook")] {
        scene.features.language = Some(language.into());
        let d = scene.ask();
        assert_eq!(d.candidates[0].name, expected, "{language} {}", d.reason);
        assert_eq!(d.candidates.len(), 2);
    }
    scene.features.language = None;
    assert_eq!(
        scene.ask().candidates[0].name,
        first,
        "unknown language decides nothing"
    );

    // It is what makes a weak fit unacceptable, and is named as such.
    scene.vectors.insert(
        koch,
        std::sync::Arc::new(Descriptor::new(&[0.3, 0.0, 1.0], &[])),
    );
    scene.features.vector = vec![0.95, 0.31, 0.0];
    scene.features.language = Some("en".into());
    let d = scene.ask();
    let reasons: Vec<_> = d
        .excluded
        .iter()
        .map(|e| (e.name.as_str(), e.reason))
        .collect();
    assert_eq!(reasons, [("koch", Reason::Language)], "{:?}", d.excluded);
}

#[test]
fn an_unrelated_expert_is_no_fallback_unless_named() {
    let (mut scene, _, _) = Scene::kitchen();
    scene.features.vector = vec![1.0, 0.05, 0.0];
    let d = scene.ask();
    assert!(d.candidates.iter().all(|c| c.name == "chef"));
    assert!(d.reason.contains("over coder 0.05"), "{}", d.reason);
    assert_eq!(
        (d.excluded[0].name.as_str(), d.excluded[0].reason),
        ("coder", Reason::Quality)
    );
    let mut named = query(ExpertKind::Generate);
    named.constraints.model = Some("coder".into());
    let d = scene.decide(&named);
    assert_eq!(d.candidates[0].name, "coder");
    assert!(d.reason.starts_with("you asked for coder"), "{}", d.reason);
}

#[test]
fn without_vectors_any_expert_may_answer() {
    let (mut scene, _, _) = Scene::kitchen();
    scene.features.vector.clear();
    let d = scene.ask();
    assert_eq!(d.candidates.len(), 3);
    assert!(d.reason.contains("could be compared"), "{}", d.reason);
}

#[test]
fn an_expert_without_vectors_ranks_behind_one_that_fits() {
    let (mut scene, _, coder) = Scene::kitchen();
    scene.vectors.remove(&coder);
    let d = scene.ask();
    assert_eq!(d.candidates[0].name, "chef");
    assert!(d.reason.contains("could not be compared"), "{}", d.reason);
}

#[test]
fn a_shortlist_keeps_the_closest_and_gives_way_when_none_of_it_answers() {
    let config = RouterConfig {
        shortlist: 4,
        ..RouterConfig::default()
    };
    let mut scene = Scene::with(config, 1);
    for n in 0..20u8 {
        let subject = [0.2 + 0.04 * f32::from(n), 0.5, 0.5];
        scene.host(&generator(&format!("e{n}")), &[n + 1], Some(subject));
    }
    assert_eq!(scene.ask().candidates[0].name, "e19");
    for n in 16..20u8 {
        scene.reach(n + 1, Reach::Unreachable { why: "gone".into() });
    }
    assert_eq!(scene.ask().candidates[0].name, "e15");
}
