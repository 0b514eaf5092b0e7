//! Who died, leaves, or runs twice is known everywhere within seconds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use polymath_testkit::{Lab, Node};

/// `count` nodes over this transport that have heard of each other.
fn mesh(lab: &Lab, count: usize, listen: &str) -> Vec<Node> {
    let args = ["--listen", listen, "--api", "off"];
    let first = lab.up("n0", &args);
    let mut nodes = vec![first];
    for n in 1..count {
        let name = format!("n{n}");
        lab.join(&name, &nodes[0]);
        nodes.push(lab.up(&name, &args));
    }
    for n in &nodes {
        polymath_testkit::eventually("all have met", || {
            // Enough that each has its witnesses; who dials whom beyond that is nobody's promise.
            (n.status()["connected_peers"].as_u64()? >= (count as u64 - 1).min(3)).then_some(())
        });
        polymath_testkit::eventually("all have been heard of", || {
            let heard = n.status()["counters"]["live_statuses"].as_u64()?;
            (heard >= count as u64 - 1).then_some(())
        });
    }
    nodes
}

/// What `node` says of a peer: why it is not used.
fn reason(node: &Node, peer: &str) -> Option<String> {
    let peers = node.cli(&["peers", "--json"]).run().ok().json();
    let peers = peers["peers"].as_array()?;
    let peer = peers.iter().find(|p| p["id"] == peer)?;
    Some(peer["reason"].as_str()?.to_owned())
}

/// How long it took until every node said this of `peer`.
fn until_all_say(nodes: &[Node], peer: &str, wanted: &str) -> Duration {
    let begun = Instant::now();
    for node in nodes {
        polymath_testkit::eventually(&format!("{wanted} on all"), || {
            (reason(node, peer).as_deref() == Some(wanted)).then_some(())
        });
    }
    begun.elapsed()
}

#[test]
fn a_killed_node_is_out_of_routing_on_every_other() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let lab = Lab::new();
        let mut nodes = mesh(&lab, 8, listen);
        let killed = nodes.remove(3);
        let peer = killed.peer();
        killed.kill();
        let took = until_all_say(&nodes, &peer, "suspended");
        println!("8 daemons, {listen}, SIGKILL: suspended on all after {took:?}");
    }
}

#[test]
fn a_frozen_node_is_suspended_and_comes_back_when_it_goes_on() {
    let lab = Lab::new();
    let mut nodes = mesh(&lab, 5, "/ip4/127.0.0.1/tcp/0");
    let frozen = nodes.remove(2);
    let peer = frozen.peer();
    frozen.signal("STOP");
    let took = until_all_say(&nodes, &peer, "suspended");
    println!("5 daemons, SIGSTOP: suspended on all after {took:?}");
    frozen.signal("CONT");
    for node in &nodes {
        polymath_testkit::eventually("it is there again", || {
            let reason = reason(node, &peer)?;
            matches!(reason.as_str(), "" | "no_experts").then_some(())
        });
    }
}

#[test]
fn a_node_that_is_stopped_says_that_it_leaves_and_is_back_at_its_next_start() {
    let lab = Lab::new();
    let mut nodes = mesh(&lab, 4, "/ip4/127.0.0.1/tcp/0");
    let leaving = nodes.remove(2);
    let peer = leaving.peer();
    leaving.signal("TERM");
    assert_eq!(leaving.wait(), 0);
    let took = until_all_say(&nodes, &peer, "leaving");
    println!("4 daemons, SIGTERM: leaving on all after {took:?}");
    let args = ["--listen", "/ip4/127.0.0.1/tcp/0", "--api", "off"];
    let back = lab.up("n2", &args);
    assert_eq!(back.peer(), peer);
    for node in &nodes {
        polymath_testkit::eventually("it is back", || {
            (reason(node, &peer)? == "no_experts").then_some(())
        });
    }
}

#[test]
fn of_two_homes_with_one_identity_the_later_started_stops_and_the_other_goes_on() {
    let lab = Lab::new();
    let nodes = mesh(&lab, 3, "/ip4/127.0.0.1/tcp/0");
    let file = lab.path().join("exported.key");
    let file = file.to_str().unwrap();
    nodes[2].cli(&["identity", "export", file]).run().ok();
    let mode = fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    nodes[2]
        .cli(&["identity", "export", file])
        .run()
        .fails(8, &["not overwritten"]);
    lab.cli("twin", &["identity", "show"])
        .run()
        .fails(3, &["no identity"]);
    lab.cli("twin", &["identity", "import", file]).run().ok();
    lab.cli("twin", &["identity", "import", file])
        .run()
        .fails(8, &["has an identity already"]);
    let shown = lab
        .cli("twin", &["identity", "show", "--json"])
        .run()
        .ok()
        .json();
    assert_eq!(shown["peer"], nodes[2].peer());
    lab.join("twin", &nodes[0]);
    // Started in a later second, or by chance the other would stop.
    let second = Instant::now() + Duration::from_millis(1100);
    polymath_testkit::eventually("another second", || (Instant::now() > second).then_some(()));
    lab.cli(
        "twin",
        &["up", "--listen", "/ip4/127.0.0.1/tcp/0", "--api", "off"],
    )
    .run()
    .fails(8, &["runs on another machine too"]);
    for node in &nodes[..2] {
        polymath_testkit::eventually("the earlier one goes on", || {
            (reason(node, &nodes[2].peer())? == "no_experts").then_some(())
        });
    }
}

#[test]
fn a_home_that_has_forgotten_how_often_it_ran_is_believed_again() {
    let lab = Lab::new();
    let mut nodes = mesh(&lab, 3, "/ip4/127.0.0.1/tcp/0");
    let args = ["--listen", "/ip4/127.0.0.1/tcp/0", "--api", "off"];
    for _ in 0..2 {
        let node = nodes.remove(2);
        node.signal("TERM");
        node.wait();
        nodes.push(lab.up("n2", &args));
    }
    let node = nodes.remove(2);
    let peer = node.peer();
    node.kill();
    // As a backup from before its first start would have it.
    fs::remove_file(lab.home("n2").join("incarnation")).unwrap();
    let node = lab.up("n2", &args);
    polymath_testkit::eventually("it is back, above what others held", || {
        let shown = node.cli(&["identity", "show", "--json"]).run().ok().json();
        (shown["incarnation"].as_u64()? > 2).then_some(())
    });
    for other in &nodes {
        polymath_testkit::eventually("it is believed", || {
            (reason(other, &peer)? == "no_experts").then_some(())
        });
    }
}

/// With as many daemons as `POLYMATH_TEST_DAEMONS` says: 50, where a machine takes them.
#[test]
#[ignore = "starts as many daemons as the machine takes"]
fn a_killed_or_frozen_node_among_many_is_out_of_routing_on_every_other() {
    let count = std::env::var("POLYMATH_TEST_DAEMONS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(50);
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let lab = Lab::new();
        let mut nodes = mesh(&lab, count, listen);
        let killed = nodes.remove(count / 2);
        let peer = killed.peer();
        killed.kill();
        let took = until_all_say(&nodes, &peer, "suspended");
        println!("{count} daemons, {listen}, SIGKILL: suspended on all after {took:?}");
        let frozen = nodes.remove(count / 3);
        let peer = frozen.peer();
        // To others a stopped process and a cut line are the same: nothing comes, nothing breaks.
        frozen.signal("STOP");
        let took = until_all_say(&nodes, &peer, "suspended");
        println!("{count} daemons, {listen}, SIGSTOP: suspended on all after {took:?}");
        frozen.signal("CONT");
        frozen.kill();
    }
}
