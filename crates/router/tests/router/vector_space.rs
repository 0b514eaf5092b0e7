use polymath_router::{Reach, Reason};
use polymath_types::{ExpertCard, ExpertKind};

use crate::scene::*;

fn embedder(name: &str) -> ExpertCard {
    card(name, ExpertKind::Embed)
}

#[test]
fn the_embedder_most_peers_serve_is_taken_by_all() {
    let mut scene = Scene::new();
    let q = query(ExpertKind::Embed);
    scene.host(&embedder("mini"), &[1], None);
    assert!(
        scene
            .decide(&q)
            .reason
            .starts_with("mini is the only embedder; "),
        "{}",
        scene.decide(&q).reason
    );
    // The other one suits the text better and is faster: neither may matter.
    scene.host(&embedder("maxi"), &[2, 3], None);
    let rare = scene.host(&embedder("rare"), &[4], Some(COOKING));
    scene.served(rare, 4, 1);
    for _ in 0..2 {
        let d = scene.decide(&q);
        assert_eq!(d.candidates.len(), 2);
        assert!(d.candidates.iter().all(|c| c.name == "maxi"));
        assert!(
            d.reason
                .starts_with("maxi is the embedder most peers serve"),
            "{}",
            d.reason
        );
        assert!(d.excluded.iter().all(|e| e.reason == Reason::VectorSpace));
        scene.reach(2, Reach::Known);
    }
    // Rather no vectors than vectors of another space.
    for n in [2, 3] {
        scene.reach(n, Reach::Unreachable { why: "gone".into() });
    }
    let d = scene.decide(&q);
    assert!(d.candidates.is_empty());
    assert!(d.reason.contains("name the model"), "{}", d.reason);
    let mut named = q.clone();
    named.constraints.model = Some("mini".into());
    assert_eq!(scene.decide(&named).candidates[0].name, "mini");
}

#[test]
fn equally_served_embedders_are_told_apart_by_their_weights() {
    let cards = [embedder("a"), embedder("b"), embedder("c")];
    let lowest = cards.iter().map(|c| c.model.weights_id()).min().unwrap();
    let mut scene = Scene::new();
    for (n, card) in cards.iter().enumerate() {
        scene.host(card, &[n as u8 + 1], None);
    }
    let d = scene.decide(&query(ExpertKind::Embed));
    assert!(!d.candidates.is_empty() && d.candidates.iter().all(|c| c.weights == lowest));
}

#[test]
fn one_model_name_over_two_weights_stays_one_space() {
    let mut scene = Scene::new();
    let mut old = embedder("old");
    old.model.name = "mini".into();
    let mut new = embedder("new");
    new.model.name = "mini".into();
    new.model.runtime = polymath_types::Runtime::BertSentence;
    scene.host(&old, &[1], None);
    scene.host(&new, &[2, 3], None);
    let mut q = query(ExpertKind::Embed);
    q.constraints.model = Some("mini".into());
    let d = scene.decide(&q);
    assert!(d.candidates.len() == 2 && d.candidates.iter().all(|c| c.name == "new"));
}

#[test]
fn experts_over_the_same_weights_stand_in_for_each_other() {
    let mut scene = Scene::new();
    let mut cards = [embedder("fast"), embedder("slow")];
    cards[1].model = cards[0].model.clone();
    scene.host(&cards[0], &[1], Some(COOKING));
    scene.host(&cards[1], &[2], Some([-1.0, 0.0, 0.0]));
    assert_eq!(scene.decide(&query(ExpertKind::Embed)).candidates.len(), 2);
}
