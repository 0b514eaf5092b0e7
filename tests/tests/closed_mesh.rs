//! A closed mesh of real daemons: who is let in by which invite, and what strangers get.

#![allow(clippy::unwrap_used)]

use std::fs;

use polymath_testkit::{Lab, Node, eventually};

const QUESTION: [&str; 3] = ["Wo ist der Bahnhof?", "--kind", "classify"];

fn vault(lab: &Lab) -> Node {
    let create = ["mesh", "create", "vault", "--closed"];
    lab.cli("founder", &create).run().ok();
    lab.up("founder", &["--expert", &lab.identifier("language")])
        .ready()
}

fn invite(node: &Node, args: &[&str]) -> String {
    let all: Vec<&str> = ["mesh", "invite", "--json"]
        .into_iter()
        .chain(args.iter().copied())
        .collect();
    let written = node.cli(&all).run().ok().json();
    written["invite"].as_str().unwrap().to_owned()
}

#[test]
fn a_guest_is_let_in_by_an_invite_and_each_use_counts() {
    let lab = Lab::new();
    let founder = vault(&lab);
    let once = invite(&founder, &["--uses", "1"]);
    // No notice: nobody but invited members is there.
    let joined = lab
        .cli("guest", &["join", &once, "--json"])
        .run()
        .ok()
        .json();
    assert_eq!(joined["peer"], founder.peer());
    let secret = |home: &str| fs::read_to_string(lab.home(home).join("mesh.json")).unwrap();
    assert!(secret("guest").contains("\"secret\""));
    lab.cli("late", &["join", &once])
        .run()
        .fails(11, &["vault", "used up"]);
    assert!(!lab.home("late").join("mesh.json").exists());
    // Whoever came by it may come again.
    lab.cli("guest", &["mesh", "leave"]).run().ok();
    lab.cli("guest", &["join", &once]).run().ok();
    let guest = lab.up("guest", &["--client"]);
    guest.knows(&["language"]);
    assert_eq!(guest.ask(&QUESTION)["peer"], founder.peer());
}

#[test]
fn a_member_lets_in_while_the_founder_is_away() {
    let lab = Lab::new();
    let founder = vault(&lab);
    let counted = invite(&founder, &["--uses", "5"]);
    lab.cli("member", &["join", &counted]).run().ok();
    let member = lab
        .up("member", &["--expert", &lab.identifier("polyglot")])
        .ready();
    member.knows(&["language"]);
    let free = invite(&member, &[]);
    founder.kill();
    lab.cli("guest", &["join", &free]).run().ok();
    let guest = lab.up("guest", &["--client"]);
    guest.knows(&["polyglot"]);
    lab.cli("late", &["join", &counted])
        .run()
        .fails(4, &["vault"]);
}

#[test]
fn a_stranger_with_everything_but_the_secret_gets_nothing() {
    let lab = Lab::new();
    let founder = vault(&lab);
    let address = founder.address();
    lab.cli("stranger", &["join", "--accept-public", &address])
        .run()
        .fails(4, &["invite"]);
    // One that has the genesis and every address, and has made a secret up.
    fs::create_dir_all(lab.home("forger")).unwrap();
    let file = fs::read_to_string(lab.home("founder").join("mesh.json")).unwrap();
    let at = file.find("\"secret\": \"").unwrap() + 11;
    let forged = format!("{}{}{}", &file[..at], "ab".repeat(32), &file[at + 64..]);
    let forged = forged.replace(
        "\"bootstrap\": []",
        &format!("\"bootstrap\": [\"{address}\"]"),
    );
    let path = lab.home("forger").join("mesh.json");
    fs::write(&path, &forged).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let forger = lab.up("forger", &["--client"]);
    eventually("it was turned away", || {
        let mesh = forger.status()["mesh"].clone();
        let tried = mesh["sources"].as_array().unwrap().clone();
        tried
            .iter()
            .any(|s| {
                s["detail"]
                    .as_str()
                    .unwrap()
                    .contains("this mesh is closed")
            })
            .then_some(())
    });
    assert!(forger.experts().is_empty());
    forger.try_ask(&QUESTION).fails(4, &[]);
    // Without any secret it is no member at all.
    let none = file.replace(&file[at - 11..at + 65], "\"x\": \"\"");
    fs::create_dir_all(lab.home("none")).unwrap();
    fs::write(lab.home("none").join("mesh.json"), none).unwrap();
    lab.cli("none", &["mesh", "show"])
        .run()
        .fails(7, &["damaged"]);
    assert_eq!(founder.ask(&QUESTION)["peer"], founder.peer());
}

#[test]
fn a_node_told_to_join_unattended_waits_at_the_door_with_its_api_open() {
    let lab = Lab::new();
    let founder = vault(&lab);
    let invite = invite(&founder, &[]);
    let (address, expert) = (founder.address(), lab.identifier("language"));
    let listen = address.split("/p2p/").next().unwrap().to_owned();
    founder.kill();
    let guest = lab.up_with("guest", &["--client"], &[("POLYMATH_INVITE", &invite)]);
    let mesh = guest.status()["mesh"].clone();
    assert_eq!(
        (&mesh["name"], &mesh["inside"]),
        (&"vault".into(), &false.into())
    );
    guest
        .cli(&["mesh", "invite"])
        .run()
        .fails(8, &["has not been let into"]);
    let founder = lab.up("founder", &["--listen", &listen, "--expert", &expert]);
    eventually("it is let in", || {
        (guest.status()["mesh"]["inside"] == true).then_some(())
    });
    guest.knows(&["language"]);
    assert_eq!(guest.ask(&QUESTION)["peer"], founder.peer());
}

#[test]
fn a_node_whose_invite_is_used_up_comes_in_by_a_fresh_one() {
    let lab = Lab::new();
    let founder = vault(&lab);
    let once = invite(&founder, &["--uses", "1"]);
    lab.cli("first", &["join", &once]).run().ok();
    let late = lab.up_with("late", &["--client"], &[("POLYMATH_INVITE", &once)]);
    eventually("it was turned away", || {
        let waiting = late.status()["mesh"]["waiting"].clone();
        waiting.as_str()?.contains("used up").then_some(())
    });
    // What it cannot do yet it explains by that, and by no lack of experts.
    late.try_ask(&QUESTION)
        .fails(4, &["let into mesh 'vault'", "used up"]);
    let detail = eventually("its peer is listed as one that refused", || {
        let peers = late.cli(&["peers", "--json"]).run().ok().json();
        let peer = peers["peers"].as_array()?.first()?.clone();
        (peer["reason"] == "refused").then(|| peer["detail"].as_str().map(str::to_owned))?
    });
    assert!(detail.contains("used up"), "{detail}");
    assert!(!detail.contains("check that the node runs"), "{detail}");
    let doctor = late.cli(&["doctor", "--json", "--timeout", "1"]).run();
    assert_eq!(doctor.code, 8, "{}", doctor.stdout);
    let findings = doctor.json()["findings"].clone();
    let peers = findings.as_array().unwrap().iter();
    let peers = peers.filter(|f| f["area"] == "peers").collect::<Vec<_>>()[0];
    let (found, fix) = (peers["found"].to_string(), peers["fix"].to_string());
    assert!(found.contains("answered and refused") && found.contains("used up"));
    assert!(fix.contains("a new invite"), "{fix}");
    late.cli(&["join", &invite(&founder, &["--uses", "1"])])
        .run()
        .ok();
    eventually("it is let in", || {
        let status = late.cli(&["status", "--json"]).run();
        (status.code == 0 && status.json()["mesh"]["inside"] == true).then_some(())
    });
    late.knows(&["language"]);
    assert_eq!(late.ask(&QUESTION)["peer"], founder.peer());
    let counters = founder.status()["counters"].clone();
    assert!(counters["strangers_refused"].as_u64().unwrap() > 0);
}
