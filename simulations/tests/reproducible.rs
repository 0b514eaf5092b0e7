//! Equal seeds give byte-equal reports, other seeds give others, and bad settings are refused.

use polymath_simulations::{Fault, catalog, replicas};

#[test]
fn the_catalog_scenario_repeats_itself() {
    let run = |seed| {
        let report = catalog::run(&catalog::Config {
            nodes: 20,
            links: 3,
            seed,
        })
        .unwrap();
        serde_json::to_string(&report).unwrap()
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5));
}

#[test]
fn the_replicas_scenario_repeats_itself() {
    let run = |seed| {
        let config = replicas::Config {
            queries: 500,
            seed,
            ..Default::default()
        };
        serde_json::to_string(&replicas::run(&config).unwrap()).unwrap()
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5));
}

#[test]
fn settings_out_of_range_are_named() {
    let config = catalog::Config {
        nodes: 1,
        ..Default::default()
    };
    let fault = catalog::run(&config).unwrap_err();
    assert!(
        matches!(
            fault,
            Fault::Setting {
                setting: "--nodes",
                ..
            }
        ),
        "{fault}"
    );
    let config = replicas::Config {
        rate: 0,
        ..Default::default()
    };
    let fault = replicas::run(&config).unwrap_err();
    assert!(
        matches!(
            fault,
            Fault::Setting {
                setting: "--rate",
                ..
            }
        ),
        "{fault}"
    );
}
