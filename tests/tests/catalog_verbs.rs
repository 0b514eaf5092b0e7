//! What `polymath catalog` shows, verifies, and carries from one home to another.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use polymath_testkit::{Lab, eventually};
use serde_json::Value;

#[test]
fn a_catalog_is_shown_verified_and_carried_whether_a_node_runs_or_not() {
    let lab = Lab::new();
    let definition = lab.identifier("one");
    let first = lab.up("first", &["--expert", &definition]).ready();
    lab.join("second", &first);
    let second = lab
        .up("second", &["--expert", &lab.identifier("two")])
        .ready();
    second.knows(&["one", "two"]);
    let peer = first.peer();
    let file = lab.path().join("mesh.catalog");
    let file = file.to_str().unwrap();

    let look = |args: &[&str]| {
        let all = [&["catalog"], args, &["--json"]].concat();
        lab.cli("second", &all).run().ok().json()
    };
    let names = |offer: &Value| -> Vec<String> {
        let experts = offer["experts"].as_array().unwrap().iter();
        experts
            .map(|e| e["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let all_views = || {
        let listed = look(&["ls"]);
        assert_eq!(listed["offers"].as_array().unwrap().len(), 2, "{listed}");
        let shown = look(&["show", &peer[peer.len() - 8..]]);
        assert_eq!(
            (shown["peer"].as_str(), names(&shown)),
            (Some(peer.as_str()), vec!["one".to_owned()])
        );
        let history = look(&["history", &peer]);
        let last = history["changes"].as_array().unwrap().last().unwrap();
        assert_eq!(last["sequence"], shown["sequence"]);
        let verified = look(&["verify"]);
        assert_eq!(
            (&verified["offers"], &verified["cards"]),
            (&2.into(), &2.into())
        );
        assert!(verified["damaged"].as_array().unwrap().is_empty());
    };
    all_views();
    lab.cli("second", &["catalog", "show", "nobody"])
        .run()
        .fails(3, &["nobody", "catalog ls"]);
    let exported = look(&["export", file]);
    assert_eq!(
        (&exported["offers"], &exported["cards"]),
        (&2.into(), &2.into())
    );
    lab.cli("second", &["catalog", "export", file])
        .run()
        .fails(2, &["mesh.catalog"]);
    second.cli(&["down"]).run().ok();
    assert_eq!(second.wait(), 0);
    all_views();

    // A member that has met nobody, before and while its node runs.
    lab.join("third", &first);
    first.cli(&["down"]).run().ok();
    assert_eq!(first.wait(), 0);
    let import = || {
        lab.cli("third", &["catalog", "import", file, "--json"])
            .run()
            .ok()
            .json()
    };
    let taken = import();
    assert_eq!(taken["cards"], 2, "{taken}");
    assert!(taken["refused"].as_object().unwrap().is_empty(), "{taken}");
    let third = lab.up("third", &["--client"]);
    assert_eq!(third.experts(), ["one", "two"]);
    assert_eq!(import()["changes"], 0);
    // A stranger's file, and one that was cut short.
    let whole = fs::read(file).unwrap();
    let cut = lab.path().join("cut");
    fs::write(&cut, &whole[..whole.len() - 3]).unwrap();
    let cut = cut.to_str().unwrap();
    lab.cli("third", &["catalog", "import", cut])
        .run()
        .fails(2, &["cut short"]);
    let stranger = lab.up("stranger", &["--client"]);
    stranger
        .cli(&["catalog", "import", file])
        .run()
        .fails(2, &["another mesh"]);

    // Damage is found, and nothing is moved for it.
    let mesh = fs::read_dir(lab.home("second").join("mesh")).unwrap();
    let mut stores = mesh.map(|e| e.unwrap().path().join("catalog/records.redb"));
    let store = stores.find(|s| s.is_file()).unwrap();
    let mut bytes = fs::read(&store).unwrap();
    let at = bytes.windows(8).position(|w| w == b"polymath").unwrap();
    bytes[at] ^= 1;
    fs::write(&store, &bytes).unwrap();
    lab.cli("second", &["catalog", "verify"])
        .run()
        .fails(7, &["damaged"]);
    assert_eq!(fs::read(&store).unwrap().len(), bytes.len());
}

#[test]
fn whoever_watches_is_told_what_is_known_and_then_what_changes() {
    let lab = Lab::new();
    let first = lab
        .up("first", &["--expert", &lab.identifier("one")])
        .ready();
    let mut command = first
        .cli(&["catalog", "ls", "--watch", "--json"])
        .into_command();
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = |wanted: &dyn Fn(&Value) -> bool| {
        eventually("an event", || {
            let event: Value = serde_json::from_str(&lines.next()?.unwrap()).unwrap();
            wanted(&event).then_some(event)
        })
    };
    next(&|e| e["event"] == "complete");
    lab.join("second", &first);
    let second = lab
        .up("second", &["--expert", &lab.identifier("two")])
        .ready();
    let peer = second.peer();
    let told = next(&|e| e["peer"] == peer.as_str() && e["experts"][0]["name"] == "two");
    assert_eq!(told["event"], "offer");
    let id = watching.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(watching.wait().unwrap().code(), Some(0));
}
