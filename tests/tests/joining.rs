//! Founding, joining and leaving meshes: by address, by invite, unattended, and what is refused.

#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use polymath_testkit::{Lab, Node, eventually};
use serde_json::Value;

/// A founder of the mesh `garden`, running, with an expert of its own.
fn garden(lab: &Lab) -> Node {
    lab.cli("founder", &["mesh", "create", "garden"]).run().ok();
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

fn mesh(lab: &Lab, name: &str) -> Value {
    let shown = lab.cli(name, &["mesh", "show", "--json"]).run();
    shown.ok().json()
}

fn source(node: &Node, name: &str) -> Value {
    let status = node.status();
    let sources = status["mesh"]["sources"].as_array().unwrap();
    sources.iter().find(|s| s["name"] == name).unwrap().clone()
}

fn identity(home: &Path) -> Vec<u8> {
    fs::read(home.join("identity.key")).unwrap()
}

#[test]
fn a_mesh_is_founded_shown_and_left_and_the_identity_stays() {
    let lab = Lab::new();
    lab.cli("a", &["mesh", "show"])
        .run()
        .fails(3, &["mesh create"]);
    lab.cli("a", &["mesh", "leave"])
        .run()
        .fails(3, &["no mesh"]);
    let created = ["mesh", "create", "vault", "--closed", "--json"];
    let vault = lab.cli("a", &created).run().ok().json();
    assert_eq!(
        (&vault["name"], &vault["access"]),
        (&"vault".into(), &"closed".into())
    );
    assert_eq!(mesh(&lab, "a")["id"], vault["id"]);
    let home = lab.home("a");
    let mode = fs::metadata(home.join("mesh.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // What was founded on purpose is not given up by the way.
    lab.cli("a", &["mesh", "create", "other"])
        .run()
        .fails(8, &["vault", "mesh leave"]);
    let before = identity(&home);
    let left = lab.cli("a", &["mesh", "leave"]).run().ok();
    assert!(
        left.stdout.contains("secret is forgotten"),
        "{}",
        left.stdout
    );
    assert_eq!(identity(&home), before);
    assert!(!home.join("mesh.json").exists());
    lab.cli("a", &["mesh", "create", "other"]).run().ok();
    for bad in ["", "a\nb", &"x".repeat(65)] {
        lab.cli("b", &["mesh", "create", bad]).run().fails(2, &[]);
    }
    let node = lab.up("a", &[]);
    node.cli(&["mesh", "leave"]).run().fails(8, &["--stop"]);
    node.cli(&["mesh", "leave", "--stop"]).run().ok();
    assert_eq!(node.wait(), 0);
}

#[test]
fn an_invite_into_an_open_mesh_needs_the_notice_understood_once() {
    let lab = Lab::new();
    let founder = garden(&lab);
    let invite = invite(&founder, &[]);
    let join = ["join", invite.as_str()];
    lab.cli("guest", &join)
        .run()
        .fails(8, &["can read and keep them", "--accept-public"]);
    assert!(!lab.home("guest").join("mesh.json").exists());
    let accepted = ["mesh", "join", &invite, "--accept-public", "--json"];
    let joined = lab.cli("guest", &accepted).run().ok().json();
    assert_eq!(joined["peer"], founder.peer());
    // Now it is nothing new; nor is it after the mesh was left.
    lab.cli("guest", &join).run().ok();
    lab.cli("guest", &["mesh", "leave"]).run().ok();
    lab.cli("guest", &join).run().ok();
    let guest = lab.up("guest", &["--client"]);
    guest.knows(&["language"]);
    assert_eq!(source(&guest, "addresses")["state"], "ok");
    // A file or the environment can say it, too.
    lab.cli("other", &join)
        .env("POLYMATH_ACCEPT_PUBLIC", "true")
        .run()
        .ok();
    // The founder's own mesh needs no notice.
    founder.cli(&join).run().ok();
}

#[test]
fn invites_that_lead_nowhere_say_why() {
    let lab = Lab::new();
    let founder = garden(&lab);
    let good = invite(&founder, &[]);
    let try_with = |home: &str, text: &str| lab.cli(home, &["join", "--accept-public", text]).run();
    let mut flipped = good.clone().into_bytes();
    flipped[200] ^= 1;
    let flipped = String::from_utf8(flipped).unwrap();
    try_with("a", &flipped).fails(7, &["damaged", "copy it again"]);
    try_with("a", &good[..good.len() - 3]).fails(7, &["damaged"]);
    try_with("a", "polymath-invite2.AAAA").fails(7, &["damaged"]);
    try_with("a", "polymath").fails(2, &["/ip4/", "invite"]);
    try_with("a", &"x".repeat(100_000)).fails(2, &[]);
    let short = invite(&founder, &["--expires", "1s"]);
    eventually("it has expired", || {
        let tried = try_with("late", &short);
        let _ = lab.cli("late", &["mesh", "leave"]).run();
        (tried.code == 11).then(|| tried.fails(11, &["expired", "ask for another"]))
    });
    lab.cli("bound", &["mesh", "create", "elsewhere"])
        .run()
        .ok();
    try_with("bound", &good).fails(8, &["elsewhere", "garden", "mesh leave"]);
    founder
        .cli(&["mesh", "invite", "--uses", "3"])
        .run()
        .fails(8, &["open", "--closed"]);
    assert_eq!(
        founder.cli(&["mesh", "invite", "--uses", "0"]).run().code,
        2
    );
    assert_eq!(
        founder
            .cli(&["mesh", "invite", "--expires", "soon"])
            .run()
            .code,
        2
    );
    // Nobody is there whose address could be put into it.
    lab.cli("bound", &["mesh", "invite"])
        .run()
        .fails(8, &["polymath up", "net.announce"]);
    let announced = lab
        .cli("bound", &["mesh", "invite", "--json"])
        .env("POLYMATH_NET_ANNOUNCE", "/dns4/here.invalid/tcp/4040");
    let addresses = announced.run().ok().json()["addresses"].clone();
    assert!(
        addresses[0]
            .as_str()
            .unwrap()
            .starts_with("/dns4/here.invalid/tcp/4040/p2p/")
    );
    // All of that was nothing to the node that runs.
    assert!(founder.ask(&["Wo ist der Bahnhof?", "--kind", "classify"])["peer"].is_string());
}

#[test]
fn an_invite_into_an_open_mesh_is_good_while_nobody_answers() {
    let lab = Lab::new();
    let founder = garden(&lab);
    let invite = invite(&founder, &[]);
    founder.kill();
    let args = ["join", "--accept-public", "--json", &invite];
    let joined = lab.cli("guest", &args).run().ok().json();
    assert_eq!(joined["peer"], "");
    assert!(!joined["trouble"].as_str().unwrap().is_empty(), "{joined}");
}

#[test]
fn a_node_joins_unattended_by_its_environment() {
    let lab = Lab::new();
    let founder = garden(&lab);
    let invite = invite(&founder, &[]);
    let with = [("POLYMATH_INVITE", invite.as_str())];
    let up = |home: &str, args: &[&str]| {
        let all: Vec<&str> = ["up", "--api", "off", "--no-local-discovery", "--client"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        lab.cli(home, &all).env("POLYMATH_INVITE", &invite)
    };
    up("guest", &[]).run().fails(8, &["--accept-public"]);
    let node = lab.up_with("guest", &["--client", "--accept-public"], &with);
    assert_eq!(node.status()["mesh"]["name"], "garden");
    node.knows(&["language"]);
    node.signal("TERM");
    assert_eq!(node.wait(), 0);
    // Once more it is nothing new.
    let node = lab.up_with("guest", &["--client"], &with);
    node.knows(&["language"]);
    lab.cli("bound", &["mesh", "create", "elsewhere"])
        .run()
        .ok();
    up("bound", &["--accept-public"])
        .run()
        .fails(8, &["elsewhere", "garden"]);
    // An empty variable is none; a damaged one is told.
    let alone = lab.up_with("alone", &[], &[("POLYMATH_INVITE", "")]);
    assert_eq!(alone.status()["mesh"]["own"], true);
    let damaged = ["up", "--invite", &invite[..100]];
    lab.cli("new", &damaged).run().fails(7, &["damaged"]);
}

#[test]
fn no_public_mesh_is_built_in_and_that_is_said() {
    let lab = Lab::new();
    lab.cli("a", &["join", "public"])
        .run()
        .fails(3, &["0 entries", "mesh create"]);
    lab.cli("a", &["mesh", "create", "a"]).run().ok();
    let shown = mesh(&lab, "a");
    assert_eq!(shown["public_anchors"], serde_json::json!([]));
}

#[test]
fn a_list_of_anchors_leads_back_to_a_mesh_that_has_moved() {
    let lab = Lab::new();
    let founder = garden(&lab);
    lab.join("member", &founder);
    founder.signal("TERM");
    assert_eq!(founder.wait(), 0);
    // It comes back on another port.
    let founder = lab.up("founder", &["--expert", &lab.identifier("language")]);
    let list = lab.path().join("anchors.json");
    let signed = founder.cli(&["mesh", "anchors"]).run().ok();
    fs::write(&list, &signed.stdout).unwrap();
    let anchors = [("POLYMATH_NET_ANCHORS", list.to_str().unwrap())];
    let member = lab.up_with("member", &["--client"], &anchors);
    member.knows(&["language"]);
    let mesh = member.status()["mesh"].clone();
    assert_eq!(mesh["anchors"]["serial"], 1, "{mesh}");
    assert_eq!(source(&member, "anchors")["state"], "ok");
    // Invites carry it on; only founders sign one; another mesh's is refused.
    let by_invite = invite(&member, &[]);
    let args = ["join", "--accept-public", &by_invite];
    lab.cli("late", &args).run().ok();
    assert_eq!(self::mesh(&lab, "late")["anchors"]["serial"], 1);
    member
        .cli(&["mesh", "anchors", "--address", &founder.address()])
        .run()
        .fails(11, &["only a founder"]);
    let txt = founder.cli(&["mesh", "anchors", "--txt"]).run().ok().stdout;
    assert!(txt.starts_with("polymath-anchors1="), "{txt}");
    lab.cli("other", &["mesh", "create", "other"]).run().ok();
    let other = lab.up_with("other", &[], &anchors);
    eventually("the foreign list is refused", || {
        let tried = source(&other, "anchors");
        let why = tried["detail"].as_str().unwrap();
        (tried["state"] == "failed" && why.contains("is of mesh")).then_some(())
    });
    lab.cli("other", &["config", "validate"])
        .env("POLYMATH_NET_ANCHORS", "http://plain.invalid/")
        .run()
        .fails(2, &["https://"]);
}

#[test]
fn members_are_remembered_and_every_source_tells_its_outcome() {
    let lab = Lab::new();
    let founder = garden(&lab);
    lab.join("one", &founder);
    let one = lab.up("one", &["--expert", &lab.identifier("polyglot")]);
    one.knows(&["language"]);
    lab.join("two", &one);
    let two = lab.up("two", &["--client"]);
    two.knows(&["language", "polyglot"]);
    let question = [
        "Wo ist der Bahnhof?",
        "--kind",
        "classify",
        "--model",
        "language",
    ];
    assert_eq!(two.ask(&question)["peer"], founder.peer());
    let book = lab
        .home("two")
        .join("mesh")
        .join(&founder.status()["mesh"]["id"].as_str().unwrap()[..16])
        .join("peers.json");
    two.signal("TERM");
    assert_eq!(two.wait(), 0);
    assert!(
        fs::read_to_string(&book).unwrap().contains(&one.peer()),
        "it remembers"
    );
    // Without the catalog and the one who led here, the book alone leads back.
    fs::remove_dir_all(book.with_file_name("catalog")).unwrap();
    one.kill();
    let two = lab.up("two", &["--client"]);
    eventually("it is back", || {
        (source(&two, "address book")["state"] == "ok").then_some(())
    });
    assert_eq!(source(&two, "addresses")["state"], "failed");
    assert_eq!(source(&two, "local network")["state"], "off");
    let names = [
        "local network",
        "addresses",
        "address book",
        "anchors",
        "dht",
        "catalog",
    ];
    for name in names {
        assert!(source(&two, name)["state"].is_string(), "{name}");
    }
}
