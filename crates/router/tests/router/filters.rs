use polymath_router::{Decision, Reach, Reason};
use polymath_types::{
    Constraints, ErrorKind, ExpertKind, LabelSet, PathKind, PeerId, Preference, Privacy, Terms,
};

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
fn a_question_stays_in_the_circle_its_caller_drew() {
    let (mut scene, _, _) = Scene::kitchen();
    // Chef on 1 and 2, coder on 3: 1 is this node, 2 an own one, 3 anybody's.
    scene.reach(1, Reach::Here);
    scene.peers.get_mut(&peer(2)).unwrap().own = true;
    let mut asked = |privacy| {
        let mut q = query(ExpertKind::Generate);
        q.constraints.privacy = privacy;
        let d = scene.decide(&q);
        let mut peers: Vec<PeerId> = d.candidates.iter().map(|c| c.peer).collect();
        peers.sort_unstable();
        let kept = d.excluded.iter().filter(|e| e.reason == Reason::Privacy);
        (peers, kept.count())
    };
    let sorted = |numbers: &[u8]| {
        let mut peers: Vec<PeerId> = numbers.iter().map(|n| peer(*n)).collect();
        peers.sort_unstable();
        peers
    };
    assert_eq!(asked(Privacy::Local), (sorted(&[1]), 2));
    assert_eq!(asked(Privacy::Own), (sorted(&[1, 2]), 1));
    assert_eq!(
        asked(Privacy::Mesh),
        (sorted(&[1, 2]), 1),
        "3 holds no role"
    );
    assert_eq!(asked(Privacy::Any), (sorted(&[1, 2, 3]), 0));

    let mut charter = polymath_types::Charter::default();
    let founder = polymath_types::Admin {
        peer: peer(3),
        by: None,
        at: 0,
    };
    charter.admins.push(founder);
    scene.index.set_charter(std::sync::Arc::new(charter));
    let mut q = query(ExpertKind::Generate);
    q.constraints.privacy = Privacy::Mesh;
    assert_eq!(scene.decide(&q).candidates.len(), 3);
    q.constraints.privacy = Privacy::Local;
    scene.reach(
        1,
        Reach::Connected {
            path: PathKind::Direct,
        },
    );
    let d = scene.decide(&q);
    let failure = d.failure().unwrap();
    assert!(failure.message.contains("--privacy"), "{failure}");
}

#[test]
fn labels_prices_and_allowed_peers_are_heeded() {
    let (mut scene, chef, _) = Scene::kitchen();
    for (n, office, price) in [(1, "berlin", 500), (2, "paris", 0)] {
        let mut stated = offer(vec![chef]);
        stated.labels.insert("office".into(), office.into());
        let terms = Terms {
            price_in: price,
            price_out: price,
            ..Terms::default()
        };
        stated.terms.insert(chef, terms);
        scene
            .index
            .set_offer(peer(n), std::sync::Arc::new(stated), |_| None);
    }
    let mut asked = |constraints: Constraints| {
        let mut q = query(ExpertKind::Generate);
        q.constraints = constraints;
        let d = scene.decide(&q);
        let peers: Vec<PeerId> = d.candidates.iter().map(|c| c.peer).collect();
        (peers, d.excluded_counts)
    };
    let label = |value: &str| Constraints {
        peer_labels: [("office".to_owned(), value.to_owned())].into(),
        ..Constraints::default()
    };
    assert_eq!(
        asked(label("berlin")),
        (vec![peer(1)], vec![(Reason::PeerLabels, 2)])
    );
    assert_eq!(asked(label("")).0, [peer(2), peer(1)], "the free one first");
    let cheap = Constraints {
        max_price: Some(999),
        ..Constraints::default()
    };
    assert_eq!(
        asked(cheap),
        (vec![peer(2), peer(3)], vec![(Reason::Price, 1)])
    );
    let allowed = Constraints {
        allow: vec![peer(1), peer(3)],
        ..Constraints::default()
    };
    assert_eq!(
        asked(allowed),
        (vec![peer(1), peer(3)], vec![(Reason::PeerExcluded, 1)])
    );
}

#[test]
fn what_the_caller_prefers_decides_between_experts_that_are_not_equal() {
    let (mut scene, chef, coder) = Scene::kitchen();
    scene.features.vector = vec![0.7, 0.6, 0.3];
    for n in [1, 2] {
        let mut stated = offer(vec![chef]);
        let terms = Terms {
            price_in: 50 * Terms::CREDIT,
            price_out: 50 * Terms::CREDIT,
            ..Terms::default()
        };
        stated.terms.insert(chef, terms);
        scene
            .index
            .set_offer(peer(n), std::sync::Arc::new(stated), |_| None);
        scene.served(chef, n, 20_000);
    }
    let mut first = |prefer| {
        let mut q = query(ExpertKind::Generate);
        q.constraints.prefer = prefer;
        scene.decide(&q).candidates[0].expert
    };
    assert_eq!(first(Preference::Balanced), chef);
    assert_eq!(first(Preference::Best), chef);
    assert_eq!(first(Preference::Cheap), coder);
    assert_eq!(first(Preference::Fast), coder);
}

#[test]
fn reasons_have_one_stable_name() {
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
}
