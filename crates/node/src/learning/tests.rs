#![allow(clippy::unwrap_used)]

use polymath_router::learning::{Codebook, EstimatorConfig, Learner};
use polymath_types::PeerId;

use super::*;

const EXPERTS: [u8; 2] = [1, 2];

fn learner() -> Learner {
    Learner::new(EstimatorConfig::default(), Codebook::defaults().into(), 1)
}

fn id(n: u8) -> ExpertId {
    ExpertId::from_bytes([n; 32])
}

/// A decision between two experts, as it is noted.
fn decided(request: &str) -> RoutedQuery {
    let expected = v1::Expectation {
        prior: 0.4,
        ..v1::Expectation::default()
    };
    RoutedQuery {
        request_id: request.to_owned(),
        encoder: ENCODER_ID.to_owned(),
        places: vec![3, 99],
        values: vec![0.6, 0.8],
        experts: EXPERTS
            .map(|n| RoutedExpert {
                expert: id(n).as_bytes().to_vec().into(),
                score: 0.4,
                expected: Some(expected),
            })
            .to_vec(),
        ..RoutedQuery::default()
    }
}

fn answered(by: u8) -> RoutedOutcome {
    RoutedOutcome {
        expert: id(by).as_bytes().to_vec().into(),
        peer: PeerId::random().to_bytes().into(),
        finished: "stop".into(),
        ..RoutedOutcome::default()
    }
}

fn expected(policy: &dyn Policy, expert: u8) -> f64 {
    let words = Sparse::new(&[3, 99], &[0.6, 0.8]);
    let question = Question {
        vector: &words,
        cues: &[],
    };
    policy.estimate(question, &[(id(expert), 0.4)])[0].mean
}

/// What a daemon does with a grade, without the daemon.
fn grade(learning: &Learning, policy: &mut dyn Policy, request: &str, reward: f64) {
    let routed = learning.log().grade(request, reward).unwrap();
    let (words, expert, reward) = lesson(&routed).unwrap();
    let question = Question {
        vector: &words,
        cues: &routed.cues,
    };
    policy.observe(question, expert, reward);
}

#[tokio::test]
async fn what_was_graded_outlasts_a_restart_counted_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut policy = learner();
    let learning = Learning::open(dir.path(), &mut policy, 1).unwrap();
    for n in 0..40 {
        let request = format!("r{n}");
        let number = learning.log().add(decided(&request));
        learning.ended(&request, Some(number), answered(EXPERTS[n % 2]));
        grade(
            &learning,
            &mut policy,
            &request,
            if n % 2 == 0 { 1.0 } else { 0.0 },
        );
        if n == 24 {
            learning.count(&policy);
        }
        learning.write().await.unwrap();
    }
    let before = EXPERTS.map(|n| expected(&policy, n));
    assert!(before[0] > 0.8 && before[1] < 0.2, "{before:?}");
    drop(learning);

    let mut policy = learner();
    let learning = Learning::open(dir.path(), &mut policy, 1).unwrap();
    let after = EXPERTS.map(|n| expected(&policy, n));
    assert!(
        (0..2).all(|n| (before[n] - after[n]).abs() < 0.03),
        "{before:?} {after:?}"
    );
    let (first, second) = policy
        .published()
        .into_iter()
        .fold((0, 0), |sums, (cell, e)| {
            let first = cell.expert == id(1);
            (
                sums.0 + u32::from(first) * e.count,
                sums.1 + u32::from(!first) * e.count,
            )
        });
    assert!(
        first > 0 && first.abs_diff(second) <= 5,
        "nothing is counted twice: {first} {second}"
    );
    assert_eq!(learning.all().len(), 40);
    assert_eq!(learning.log().last_grade, 40);
}

#[test]
fn an_answer_is_rated_once_and_only_if_there_is_one() {
    let learning = Learning::passing();
    let failure = |id: &str| learning.log().grade(id, 1.0).unwrap_err();
    assert_eq!(failure("").kind, ErrorKind::NotFound);
    assert_eq!(failure("nobody").kind, ErrorKind::NotFound);
    let number = learning.log().add(decided("a"));
    assert_eq!(failure("a").kind, ErrorKind::FailedPrecondition);
    learning.ended("a", Some(number), RoutedOutcome::default());
    assert_eq!(
        failure("a").kind,
        ErrorKind::FailedPrecondition,
        "nobody answered"
    );
    let number = learning.log().add(decided("b"));
    learning.ended("b", Some(number), answered(1));
    assert_eq!(learning.log().grade("", 0.5).unwrap().request_id, "b");
    assert_eq!(failure("b").kind, ErrorKind::FailedPrecondition);
    // Not the one before it, though that is not rated.
    assert_eq!(failure("").kind, ErrorKind::FailedPrecondition);
    let number = learning.log().add(decided("c"));
    learning.ended("c", Some(number), answered(1));
    learning.ended("d", None, answered(1));
    assert_eq!(
        failure("").kind,
        ErrorKind::NotFound,
        "the latest was no choice"
    );
    assert_eq!(learning.log().grade("c", 0.5).unwrap().request_id, "c");
}

#[test]
fn what_is_kept_is_bounded() {
    let learning = Learning::passing();
    for n in 0..MOST_OPEN + MOST_GRADED + 100 {
        let request = format!("r{n}");
        let number = learning.log().add(decided(&request));
        learning.ended(&request, Some(number), answered(1));
        if n >= MOST_OPEN {
            learning.log().grade(&request, 1.0).unwrap();
        }
    }
    let log = learning.log();
    assert_eq!(log.graded.len(), MOST_GRADED);
    assert!(log.open.len() <= MOST_OPEN);
}

#[test]
fn damaged_and_foreign_records_are_dropped() {
    let mut other = decided("x");
    other.encoder = "another".into();
    let records = vec![
        (name(1), vec![0xff; 9]),
        (name(2), other.encode_to_vec()),
        (COUNTS.to_owned(), vec![1, 2, 3]),
    ];
    let log = Log::read(records, &mut learner());
    assert!(log.open.is_empty() && log.graded.is_empty());
    assert_eq!(log.unwritten.len(), 2);
}
