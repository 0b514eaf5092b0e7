use polymath_router::{Decision, Reach, Reason};
use polymath_types::{ErrorKind, ExpertKind, LabelSet};

use crate::scene::*;

fn reason_of(d: &Decision, name: &str) -> Option<Reason> {
    assert!(
        !d.candidates.iter().any(|c| c.name == name),
        "{name} is a candidate"
    );
    d.excluded
        .iter()
        .find(|e| e.name == name && e.peer.is_none())
        .map(|e| e.reason)
}

#[test]
fn kind_and_model() {
    let (mut scene, chef, _) = Scene::kitchen();
    scene.host(&card("minilm", ExpertKind::Embed), &[4], None);
    assert_eq!(reason_of(&scene.ask(), "minilm"), Some(Reason::Kind));
    for name in ["coder", "coder-model"] {
        let mut q = query(ExpertKind::Generate);
        q.constraints.model = Some(name.into());
        let d = scene.decide(&q);
        assert_eq!(d.candidates[0].name, "coder");
        assert_eq!(reason_of(&d, "chef"), Some(Reason::Model));
    }
    let mut q = query(ExpertKind::Generate);
    q.constraints.model = Some(chef.short());
    assert_eq!(scene.decide(&q).candidates[0].name, "chef");
}

#[test]
fn labels_choose_between_zero_shot_and_fixed_classifiers() {
    let mut scene = Scene::new();
    scene.host(&card("zero-shot", ExpertKind::Classify), &[1], None);
    let mut fixed = card("language", ExpertKind::Classify);
    fixed.labels = LabelSet::Fixed(vec!["de".into(), "en".into()]);
    scene.host(&fixed, &[1], None);

    let mut q = query(ExpertKind::Classify);
    let d = scene.decide(&q);
    assert_eq!(d.candidates[0].name, "language");
    assert_eq!(reason_of(&d, "zero-shot"), Some(Reason::Labels));
    q.labels = vec!["food".into(), "code".into()];
    let d = scene.decide(&q);
    assert_eq!(d.candidates[0].name, "zero-shot");
    assert_eq!(reason_of(&d, "language"), Some(Reason::Labels));

    q.constraints.model = Some("language".into());
    let d = scene.decide(&q);
    assert_eq!(d.failure().unwrap().kind, ErrorKind::InvalidInput);
}

#[test]
fn context_holds_prompt_and_the_answer_asked_for() {
    let mut scene = Scene::new();
    let mut small = generator("small");
    small.model.context_length = 128;
    scene.host(&small, &[1], Some(COOKING));
    let mut large = generator("large");
    large.model.context_length = 1000;
    scene.host(&large, &[1], Some(CODING));

    scene.features.prompt_tokens = 120;
    assert_eq!(
        scene.ask().candidates[0].name,
        "small",
        "the card's default may end at the context"
    );
    let mut q = query(ExpertKind::Generate);
    q.sampling.max_tokens = Some(8);
    assert_eq!(scene.decide(&q).candidates[0].name, "small");
    q.sampling.max_tokens = Some(9);
    let d = scene.decide(&q);
    assert_eq!(d.candidates[0].name, "large");
    assert_eq!(reason_of(&d, "small"), Some(Reason::Context));

    scene.features.prompt_tokens = u32::MAX;
    let d = scene.decide(&q);
    let failure = d.failure().unwrap();
    assert_eq!(failure.kind, ErrorKind::ContextOverflow);
    assert!(failure.message.contains("1000"), "{failure}");
}

#[test]
fn peers_required_excluded_and_out_of_reach() {
    let (mut scene, _, _) = Scene::kitchen();
    let mut q = query(ExpertKind::Generate);
    q.constraints.peer = Some(peer(2));
    let d = scene.decide(&q);
    assert_eq!(order(&d), [("chef", peer(2))]);
    assert_eq!(reason_of(&d, "coder"), Some(Reason::PeerRequired));
    let other = d.excluded.iter().find(|e| e.peer == Some(peer(1))).unwrap();
    assert_eq!(other.reason, Reason::PeerRequired);

    let mut q = query(ExpertKind::Generate);
    q.constraints.exclude = vec![peer(1), peer(3)];
    let d = scene.decide(&q);
    assert_eq!(order(&d), [("chef", peer(2))]);
    assert_eq!(d.excluded_counts, [(Reason::PeerExcluded, 2)]);

    scene.reach(
        2,
        Reach::Unreachable {
            why: "no address".into(),
        },
    );
    let d = scene.decide(&q);
    let unreachable = d.excluded.iter().find(|e| e.peer == Some(peer(2))).unwrap();
    assert_eq!(
        (unreachable.reason, unreachable.detail.as_str()),
        (Reason::Unreachable, "no address")
    );
    assert!(d.candidates.is_empty());
}

#[test]
fn reasons_have_one_stable_name() {
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
}
