//! Catalogs become equal: `run` fails unless every index equals every other after each phase.

use polymath_simulations::catalog::{Config, run};

#[test]
fn catalogs_are_equal_after_a_partition() {
    for (nodes, links, seed) in [(4, 1, 1), (30, 4, 2), (40, 1, 3)] {
        let report = run(&Config { nodes, links, seed }).unwrap();
        let value = |case, metric| report.value(case, metric).unwrap();
        // Both sides changed: nothing can be equal in no time or without a byte.
        assert!(value("healed, all equal", "time") > 0.0, "{report}");
        assert!(
            value("healed, all equal", "sent, all nodes") > 0.0,
            "{report}"
        );
        assert!(
            value("all know the newcomer", "time") >= value("newcomer has everything", "time"),
            "{report}"
        );
    }
}

#[test]
fn a_larger_mesh_sends_more() {
    let sent = |nodes| {
        let report = run(&Config {
            nodes,
            links: 3,
            seed: 1,
        })
        .unwrap();
        report
            .value("cold start, all equal", "sent, all nodes")
            .unwrap()
    };
    assert!(sent(40) > sent(10));
}
