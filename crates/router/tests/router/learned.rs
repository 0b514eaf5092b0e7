//! What graded answers change, and what they do not.

use polymath_router::{Question, RouterConfig, learning::Sparse};
use polymath_types::{ExpertId, ExpertKind};

use crate::scene::*;

fn words(scene: &Scene) -> (Sparse, Vec<f32>) {
    (scene.features.words.clone(), scene.features.cues.clone())
}

/// A question about eggs.
fn kitchen() -> (Scene, ExpertId, ExpertId) {
    let (mut scene, chef, coder) = Scene::kitchen();
    scene.features.words = Sparse::new(&[7, 700, 7000], &[0.6, 0.6, 0.53]);
    scene.features.cues = vec![0.3, -0.2];
    (scene, chef, coder)
}

fn grade(scene: &mut Scene, expert: ExpertId, reward: f64, times: usize) {
    let prior = scene
        .ask()
        .candidates
        .iter()
        .find(|c| c.expert == expert)
        .unwrap()
        .expected
        .prior;
    let (vector, cues) = words(scene);
    let question = Question {
        vector: &vector,
        cues: &cues,
    };
    for _ in 0..times {
        let policy = scene.router.policy_mut();
        policy.observe(question, (expert, prior), reward);
    }
}

fn first(scene: &mut Scene) -> String {
    scene.ask().candidates[0].name.clone()
}

#[test]
fn bad_grades_lead_to_the_next_expert_and_good_ones_back() {
    let (mut scene, chef, coder) = kitchen();
    assert_eq!(first(&mut scene), "chef");
    grade(&mut scene, chef, 0.0, 30);
    let d = scene.ask();
    assert_eq!(d.candidates[0].name, "coder");
    assert!(
        d.reason
            .starts_with("coder is expected to answer the question best"),
        "{}",
        d.reason
    );
    let chef_now = d.candidates.iter().find(|c| c.expert == chef).unwrap();
    let learned = chef_now.terms.iter().find(|t| t.name == "learned").unwrap();
    assert!(learned.value < -0.3, "{learned:?}");
    let e = chef_now.expected;
    assert!(e.quality < e.prior && e.evidence > 20.0, "{e:?}");
    grade(&mut scene, coder, 0.0, 30);
    grade(&mut scene, chef, 1.0, 200);
    assert_eq!(first(&mut scene), "chef");
}

#[test]
fn who_did_well_elsewhere_is_not_asked_about_what_it_is_not_for() {
    let (mut scene, _, coder) = kitchen();
    // The coder is asked about code, and does well.
    let eggs = scene.features.clone();
    scene.features.vector = vec![0.2, 0.9, 0.2];
    scene.features.words = Sparse::new(&[11, 1100, 11000], &[0.6, 0.6, 0.53]);
    grade(&mut scene, coder, 1.0, 50);
    assert_eq!(first(&mut scene), "coder");
    scene.features = eggs;
    assert_eq!(first(&mut scene), "chef");
}

#[test]
fn experiments_are_made_only_where_they_are_allowed_and_something_was_graded() {
    let (mut scene, chef, _) = kitchen();
    let question = query(ExpertKind::Generate);
    let tried = |scene: &mut Scene| {
        let decisions = (0..400).map(|_| scene.explore(&question));
        decisions.filter(|d| d.explored).count()
    };
    assert_eq!(tried(&mut scene), 0, "nothing was graded");
    grade(&mut scene, chef, 0.5, 3);
    assert!((0..400).all(|_| !scene.ask().explored), "not allowed");
    let explored = tried(&mut scene);
    assert!((1..=60).contains(&explored), "{explored} of 400");
    let mut named = query(ExpertKind::Generate);
    named.constraints.model = Some("chef".into());
    assert!((0..400).all(|_| !scene.explore(&named).explored));
    let d = scene.explore(&question);
    let sum: f64 = {
        let mut experts: Vec<_> = d.candidates.iter().map(|c| (c.expert, c)).collect();
        experts.dedup_by_key(|(id, _)| *id);
        experts.iter().map(|(_, c)| c.expected.propensity).sum()
    };
    assert!((sum - 1.0).abs() < 1e-6, "{sum}");
}

#[test]
fn without_anything_learnt_likeness_alone_decides() {
    let (mut learned, ..) = kitchen();
    let (mut likeness, ..) = kitchen();
    let policy = Box::new(polymath_router::Likeness);
    likeness.router = polymath_router::Router::with_policy(RouterConfig::default(), 7, policy);
    assert_eq!(learned.ask(), likeness.ask());
}
