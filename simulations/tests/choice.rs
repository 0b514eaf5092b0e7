//! The router chooses better than chance.

use polymath_simulations::replicas::{Config, run};

const SUCCESS: &str = "success within the deadline";
const P95: &str = "latency p95";

#[test]
fn the_router_succeeds_at_least_as_often_as_chance() {
    // Long enough for dozens of ends, so that no single query decides.
    let report = run(&Config {
        queries: 20_000,
        ..Config::default()
    })
    .unwrap();
    let value = |case, metric| report.value(case, metric).unwrap();
    assert!(
        value("router", SUCCESS) >= value("random", SUCCESS),
        "{report}"
    );
    assert!(
        value("oracle least-expected", SUCCESS) >= value("random", SUCCESS),
        "{report}"
    );
    // One in eight replicas is five times slower; learning to avoid it shows in the tail.
    assert!(value("router", P95) < value("random", P95), "{report}");
}

#[test]
fn without_failures_every_query_is_answered_at_the_first_attempt() {
    let report = run(&Config {
        kills: 0,
        deadline_ms: 60_000,
        ..Config::default()
    })
    .unwrap();
    for case in ["random", "router", "oracle least-expected"] {
        assert_eq!(report.value(case, SUCCESS), Some(100.0), "{report}");
        assert_eq!(
            report.value(case, "attempts a query"),
            Some(1.0),
            "{report}"
        );
    }
}

#[test]
fn with_failures_others_are_asked() {
    let report = run(&Config {
        kills: 100,
        ..Config::default()
    })
    .unwrap();
    for case in ["random", "router"] {
        assert!(
            report.value(case, "attempts a query") > Some(1.0),
            "{report}"
        );
    }
}
