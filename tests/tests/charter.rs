//! What admins lay down reaches every member, and whom they revoke is out within seconds.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use polymath_testkit::{Lab, Node, Output, eventually};

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const QUESTION: [&str; 3] = ["Wo ist der Bahnhof?", "--kind", "classify"];

/// A founder who serves an expert, and members who serve none.
fn mesh(lab: &Lab, listen: &str, members: &[&str]) -> (Node, Vec<Node>) {
    let expert = lab.identifier("language");
    let founder = lab.up("founder", &["--expert", &expert, "--listen", listen]);
    let founder = founder.ready();
    let members = members.iter().map(|name| {
        lab.join(name, &founder);
        lab.up(name, &["--listen", listen])
    });
    let members: Vec<Node> = members.collect();
    members.iter().for_each(|m| m.knows(&["language"]));
    (founder, members)
}

fn lay_down(node: &Node, args: &[&str]) {
    let all: Vec<&str> = ["mesh"].into_iter().chain(args.iter().copied()).collect();
    node.cli(&all).run().ok();
}

/// A list of the charter as `node` has it.
fn list(node: &Node, of: &str) -> serde_json::Value {
    node.cli(&["mesh", of, "ls", "--json"]).run().ok().json()
}

fn asks(node: &Node, model: &str) -> Output {
    let all: Vec<&str> = QUESTION.into_iter().chain(["--model", model]).collect();
    node.try_ask(&all)
}

fn connected(node: &Node, peer: &str) -> bool {
    let peers = node.cli(&["peers", "--json"]).run().ok().json();
    let peers = peers["peers"].as_array().unwrap();
    let of = peers.iter().find(|p| p["id"] == peer);
    of.is_some_and(|p| p["connected"] == true)
}

#[test]
fn an_alias_of_an_appointed_admin_is_asked_by_every_member_and_over_the_api() {
    let lab = Lab::new();
    let (founder, members) = mesh(&lab, TCP, &["deputy", "member"]);
    let (deputy, member) = (&members[0], &members[1]);
    // Nobody but admins lays down anything, and is told who could.
    deputy
        .cli(&["mesh", "alias", "set", "tongue", "language"])
        .run()
        .fails(11, &["no admin", &founder.peer(), "mesh admin add"]);
    lay_down(&founder, &["admin", "add", &deputy.peer()]);
    eventually("the deputy hears of it", || {
        let admins = list(deputy, "admin");
        let admins = admins["admins"].as_array()?;
        (admins.len() == 2 && admins[1]["peer"] == deputy.peer()).then_some(())
    });
    // Two admins change different things at the same time; both stay.
    lay_down(deputy, &["alias", "set", "tongue", "language"]);
    lay_down(&founder, &["category", "set", "speech", "language"]);
    lay_down(&founder, &["role", "set", &member.peer(), "librarian"]);
    for node in [&founder, deputy, member] {
        eventually("all is known everywhere", || {
            let all = ["alias", "category", "role"].map(|of| list(node, of));
            let says = (all[0]["aliases"][0]["expert"] == "language")
                && all[1]["categories"][0]["experts"][0] == "language"
                && all[2]["roles"][0]["role"] == "librarian";
            says.then_some(())
        });
    }
    let question: Vec<&str> = QUESTION.into_iter().chain(["--model", "tongue"]).collect();
    assert_eq!(member.ask(&question)["peer"], founder.peer());
    // The same again changes nothing.
    let again = ["mesh", "alias", "set", "tongue", "language", "--json"];
    assert_eq!(deputy.cli(&again).run().ok().json()["changed"], false);
    // An admin outranks those it appointed.
    deputy
        .cli(&["mesh", "admin", "remove", &founder.peer()])
        .run()
        .fails(11, &["outranks"]);
    lay_down(&founder, &["admin", "remove", &deputy.peer()]);
    eventually("the deputy is none any more", || {
        (list(deputy, "admin")["admins"].as_array()?.len() == 1).then_some(())
    });
    // What it laid down stays.
    asks(member, "tongue").ok();
    lay_down(&founder, &["alias", "remove", "tongue"]);
    eventually("the alias is gone", || {
        list(member, "alias")["aliases"]
            .as_array()?
            .is_empty()
            .then_some(())
    });
    asks(member, "tongue").fails(3, &["tongue"]);
}

#[test]
fn a_charter_that_is_changed_while_no_node_runs_holds_from_the_next_start() {
    let lab = Lab::new();
    let (founder, members) = mesh(&lab, TCP, &["member"]);
    founder.signal("TERM");
    assert_eq!(founder.wait(), 0);
    let at_rest = |args: &[&str]| lab.cli("founder", args).run();
    at_rest(&["mesh", "alias", "set", "tongue", "language"]).ok();
    let listed = at_rest(&["mesh", "alias", "ls", "--json"]).ok().json();
    assert_eq!(listed["aliases"][0]["name"], "tongue");
    at_rest(&["mesh", "admin", "remove", "nobody"]).fails(2, &["not a peer id"]);
    let expert = lab.identifier("language");
    let _founder = lab
        .up("founder", &["--expert", &expert, "--listen", TCP])
        .ready();
    eventually("the member hears of it", || {
        (list(&members[0], "alias")["aliases"][0]["name"] == "tongue").then_some(())
    });
}

#[test]
fn whoever_is_revoked_is_cut_off_everywhere_within_ten_seconds_over_tcp() {
    whoever_is_revoked_is_cut_off_everywhere(TCP);
}

#[test]
fn whoever_is_revoked_is_cut_off_everywhere_within_ten_seconds_over_quic() {
    whoever_is_revoked_is_cut_off_everywhere(QUIC);
}

fn whoever_is_revoked_is_cut_off_everywhere(listen: &str) {
    let lab = Lab::new();
    let (founder, mut members) = mesh(&lab, listen, &["member", "outcast"]);
    let (outcast, member) = (members.pop().unwrap(), members.pop().unwrap());
    let peer = outcast.peer();
    eventually("it is connected", || {
        connected(&founder, &peer).then_some(())
    });
    asks(&outcast, "language").ok();
    lay_down(&founder, &["revoked", "add", &peer]);
    let begun = Instant::now();
    for node in [&founder, &member] {
        eventually("its connections are closed", || {
            (!connected(node, &peer)).then_some(())
        });
    }
    println!(
        "revoked, and cut off everywhere after {:?}",
        begun.elapsed()
    );
    // It is nobody's member any more, whatever it tries, also after a restart of either side.
    asks(&outcast, "language").fails(11, &["shut out"]);
    founder.signal("TERM");
    assert_eq!(founder.wait(), 0);
    let expert = lab.identifier("language");
    let founder = lab
        .up("founder", &["--expert", &expert, "--listen", listen])
        .ready();
    asks(&outcast, "language").fails(11, &["shut out"]);
    assert!(!connected(&founder, &peer) && !connected(&member, &peer));
    founder
        .cli(&["mesh", "revoked", "add", &founder.peer()])
        .run()
        .fails(8, &["own id"]);
    lay_down(&founder, &["revoked", "remove", &peer]);
    eventually("it is let in again", || {
        let out = asks(&outcast, "language");
        (out.code == 0).then_some(())
    });
}
