//! Experts are found through the DHT alone, with the catalog's exchange switched off everywhere.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use polymath_testkit::{Lab, eventually};

const OFF: &[(&str, &str)] = &[("POLYMATH_CATALOG_EXCHANGE", "false")];

#[test]
fn an_expert_nobody_told_of_is_found_by_kind_name_and_id() {
    let lab = Lab::new();
    let entrance = lab
        .up_with("entrance", &["--expert", &lab.identifier("first")], OFF)
        .ready();
    lab.join("server", &entrance);
    let server = lab
        .up_with("server", &["--expert", &lab.identifier("second")], OFF)
        .ready();
    lab.join("asker", &entrance);
    let asker = lab.up_with("asker", &["--client"], OFF);

    let by_name = eventually("the expert is found by its name", || {
        let asked = asker.try_ask(&[
            "Guten Morgen, wie geht es dir?",
            "--kind",
            "classify",
            "--model",
            "second",
            "--json",
        ]);
        (asked.code == 0).then(|| asked.json())
    });
    assert_eq!(
        (&by_name["expert"], &by_name["peer"]),
        (&"second".into(), &server.peer().into())
    );
    let id = by_name["expert_id"].as_str().unwrap();
    let by_id = asker.ask(&[
        "Guten Morgen, wie geht es dir?",
        "--kind",
        "classify",
        "--model",
        id,
    ]);
    assert_eq!(by_id["peer"], server.peer());
    let by_model = asker.ask(&[
        "Guten Morgen, wie geht es dir?",
        "--kind",
        "classify",
        "--model",
        "trigram",
    ]);
    assert_eq!(by_model["classifications"][0][0]["label"], "de");

    // A node that starts afresh finds by kind, too.
    lab.join("newcomer", &entrance);
    let newcomer = lab.up_with("newcomer", &["--client"], OFF);
    eventually("an expert is found by its kind", || {
        let asked = newcomer.try_ask(&[
            "Bonjour tout le monde, comment allez-vous?",
            "--kind",
            "classify",
            "--json",
        ]);
        (asked.code == 0).then(|| assert_eq!(asked.json()["classifications"][0][0]["label"], "fr"))
    });
}
