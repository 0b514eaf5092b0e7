//! An operator's own experts: added, changed and taken out while the node runs, by a server and by a file;
//! and what a server that misbehaves does to others, which is nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path};

use polymath_testkit::{Lab, Node, eventually};
use polymath_tests::fake_upstream::{FakeUpstream, Mode, says, words};
use serde_json::Value;

fn shown(node: &Node, name: &str) -> Value {
    let shown = node.cli(&["expert", "show", name, "--json"]).run().ok();
    shown.json()["expert"].clone()
}

fn ready(node: &Node, name: &str) -> Value {
    eventually("the expert is ready", || {
        let expert = shown(node, name);
        assert_ne!(expert["state"], "failed", "{expert}");
        (expert["state"] == "ready").then_some(expert)
    })
}

fn gone(node: &Node, name: &str) {
    eventually("nobody offers it any more", || {
        let listed = node.cli(&["experts", "--json"]).run().ok().json();
        let experts = listed["experts"].as_array().unwrap();
        let offered = |e: &Value| e["name"] == name && !e["peers"].as_array().unwrap().is_empty();
        (!experts.iter().any(offered)).then_some(())
    });
}

/// The expert of this name as `node` knows it.
fn known(node: &Node, name: &str) -> Option<Value> {
    let listed = node.cli(&["experts", "--json"]).run().ok().json();
    let experts = listed["experts"].as_array().unwrap();
    let offered = |e: &&Value| e["name"] == name && !e["peers"].as_array().unwrap().is_empty();
    experts.iter().find(offered).cloned()
}

/// A GGUF file that is nothing but a header: `general.architecture`.
fn gguf(path: &Path, architecture: &str) {
    let text = |s: &str| [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(text("general.architecture"));
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(text(architecture));
    fs::write(path, bytes).unwrap();
}

fn two(lab: &Lab) -> (Node, Node) {
    let host = lab.up("host", &[]);
    lab.join("asker", &host);
    let asker = lab.up("asker", &[]);
    (host, asker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_becomes_an_expert_that_others_ask_change_by_change() {
    let fake = FakeUpstream::start(&["tiny/cook:1b", "tiny/poet:1b"], None).await;
    let lab = Lab::new();
    let (host, asker) = two(&lab);
    let url = fake.url();
    let add = [
        "expert",
        "add",
        "--upstream",
        &url,
        "--model",
        "tiny/cook:1b",
    ];
    let said = [
        "--name",
        "cook",
        "--describe",
        "Cooking.",
        "--example",
        "How long to boil an egg?",
    ];
    let terms = ["--system", "You cook.", "--price", "0.5/1.5"];
    host.cli(&[&add[..], &said, &terms].concat()).run().ok();
    let cook = ready(&host, "cook");
    let able = cook["card"]["capabilities"].as_array().unwrap();
    assert!(able.iter().any(|c| c == "no-resume") && able.iter().any(|c| c == "no-token-ids"));
    assert_eq!(cook["terms"]["price_out"], 1.5);

    // Others hear of it and ask it; the answer streams through, and is counted by the server.
    asker.knows(&["cook"]);
    let answer = asker.ask(&[
        "Who is there?",
        "--model",
        "cook",
        "--max-tokens",
        "20",
        "--stop",
        "END",
        "--seed",
        "7",
        "--temperature",
        "0.5",
    ]);
    assert_eq!(answer["answer"], "Hello from far away.");
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    let asked = fake.asked().pop().unwrap();
    assert_eq!(asked["messages"][0]["content"], "You cook.");
    assert_eq!(
        (&asked["max_tokens"], &asked["seed"]),
        (&20.into(), &7.into())
    );
    assert_eq!(
        (&asked["stop"][0], &asked["temperature"]),
        (&"END".into(), &0.5.into())
    );

    // Another system prompt makes a second expert.
    let more = ["--name", "poet", "--system", "You rhyme."];
    host.cli(&[&add[..], &more].concat()).run().ok();
    assert_ne!(ready(&host, "poet")["id"], cook["id"]);
    asker.knows(&["cook", "poet"]);

    // A change makes it another expert, under its old name; its price is told, too.
    host.cli(&[
        "expert",
        "edit",
        "cook",
        "--describe",
        "Baking.",
        "--price",
        "2",
    ])
    .run()
    .ok();
    let baker = eventually("others know the change", || {
        known(&asker, "cook")
            .filter(|e| e["description"] == "Baking." && e["cheapest"]["price_in"] == 2.0)
    });
    assert_ne!(baker["id"], cook["id"]);
    eventually("the one before is gone", || {
        let hosted = host.status()["experts"].as_array().unwrap().len();
        (hosted == 2).then_some(())
    });

    // Paused, it answers its own user only.
    host.cli(&["expert", "pause", "cook"]).run().ok();
    gone(&asker, "cook");
    asker
        .try_ask(&["Hello?", "--model", "cook", "--timeout", "10"])
        .fails(3, &["cook"]);
    assert_eq!(
        host.ask(&["Hello?", "--model", "cook"])["answer"],
        "Hello from far away."
    );
    host.cli(&["expert", "resume", "cook"]).run().ok();
    eventually("it is offered again", || known(&asker, "cook"));
    asker.ask(&["Hello?", "--model", "cook"]);

    host.cli(&["expert", "rm", "cook"]).run().ok();
    gone(&asker, "cook");
    host.cli(&["expert", "show", "cook"])
        .run()
        .fails(3, &["cook", "poet"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_defined_at_rest_is_served_at_the_next_start() {
    let key = "sk-not-to-be-seen";
    let fake = FakeUpstream::start(&["only:1b"], Some(key)).await;
    let lab = Lab::new();
    let file = lab.path().join("key");
    fs::write(&file, format!("{key}\n")).unwrap();
    let (file, url) = (file.display().to_string(), fake.url());
    let add = [
        "expert",
        "add",
        "--upstream",
        &url,
        "--api-key-file",
        &file,
        "--json",
    ];
    let added = lab.cli("home", &add).run().ok().json();
    assert_eq!(
        (&added["live"], &added["expert"]["name"]),
        (&false.into(), &"only-1b".into())
    );
    lab.cli("home", &["expert", "pause", "only-1b"]).run().ok();
    lab.cli("home", &["expert", "resume", "only-1b"]).run().ok();
    let listed = lab
        .cli("home", &["expert", "ls", "--json"])
        .run()
        .ok()
        .json();
    assert_eq!(listed["experts"][0]["state"], "resting");
    // What a kill left of a write is no definition; what is damaged stops nothing.
    let folder = lab.home("home").join("experts");
    fs::write(folder.join("half.tmp"), "version = 1\nname = \"ha").unwrap();
    fs::write(folder.join("bad.toml"), "version = 1\nname = \"ba").unwrap();
    let node = lab.up("home", &["--log-level", "trace"]);
    ready(&node, "only-1b");
    assert_eq!(
        node.ask(&["Hello?", "--model", "only-1b"])["answer"],
        "Hello from far away."
    );
    let bad = shown(&node, "bad");
    assert!(
        bad["state"] == "damaged"
            && bad["detail"]
                .as_str()
                .unwrap()
                .contains("polymath expert rm bad")
    );
    node.cli(&["expert", "rm", "bad"]).run().ok();
    // The key is told to the server alone.
    assert!(!node.log().contains(key));
    let definition = fs::read_to_string(folder.join("only-1b.toml")).unwrap();
    assert!(!definition.contains(key) && !shown(&node, "only-1b").to_string().contains(key));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_input_gets_one_line_that_says_what_to_do_and_leaves_nothing_behind() {
    let fake = FakeUpstream::start(&["a:1b", "b:1b"], None).await;
    let lab = Lab::new();
    let node = lab
        .up("node", &["--expert", &lab.identifier("taken")])
        .ready();
    let url = fake.url();
    let path = |name: &str| lab.path().join(name).display().to_string();
    let (missing, folder, qwen, junk) = (
        path("no.gguf"),
        path("empty"),
        path("q.gguf"),
        path("j.gguf"),
    );
    fs::create_dir(&folder).unwrap();
    gguf(Path::new(&qwen), "qwen9");
    fs::write(&junk, b"not a model at all, but long enough").unwrap();
    let far = |more: &[&'static str]| [&["--upstream", url.as_str()][..], more].concat();
    // Both on the running node and at rest.
    for home in ["node", "resting"] {
        for (args, code, words) in [
            (vec![missing.as_str()], 3, vec!["no.gguf"]),
            (vec![folder.as_str()], 3, vec!["holds no model"]),
            (vec![junk.as_str()], 7, vec!["j.gguf"]),
            (vec![qwen.as_str()], 8, vec!["qwen9", "supported", "llama"]),
            (
                far(&["--model", "c:1b"]),
                3,
                vec!["c:1b", "near names", "a:1b"],
            ),
            (far(&[]), 2, vec!["2 models", "--model", "b:1b"]),
            (
                far(&["--model", "a:1b", "--name", "../x"]),
                2,
                vec!["../x", "letters"],
            ),
            (
                far(&["--model", "a:1b", "--name", "a\u{1b}[2Jb"]),
                2,
                vec!["letters"],
            ),
            (
                far(&["--model", "a:1b", "--price", "-1"]),
                2,
                vec!["-1", "0.5/1.5"],
            ),
            (
                far(&["--model", "a:1b", "--kind", "paint"]),
                2,
                vec!["paint", "embed"],
            ),
            (
                far(&["--model", "a:1b", "--label", "x"]),
                2,
                vec!["--label"],
            ),
            (
                far(&["--model", "a:1b", "--temperature", "99"]),
                2,
                vec!["temperature"],
            ),
            (
                far(&["--model", "a:1b", "--api-key-file", "/no/such/key"]),
                2,
                vec!["/no/such/key"],
            ),
            (
                vec!["--upstream", "http://127.0.0.1:1/v1", "--model", "a"],
                4,
                vec!["127.0.0.1:1", "reached"],
            ),
            (
                vec!["--upstream", "127.0.0.1", "--model", "a"],
                2,
                vec!["http://"],
            ),
        ] {
            let all = [&["expert", "add"][..], &args].concat();
            lab.cli(home, &all).run().fails(code, &words);
        }
        for verb in ["pause", "resume", "rm", "show"] {
            lab.cli(home, &["expert", verb, "nobody"])
                .run()
                .fails(3, &["nobody"]);
        }
        lab.cli(home, &["expert", "edit", "nobody", "--price", "1"])
            .run()
            .fails(3, &["nobody"]);
        let folder = lab.home(home).join("experts");
        assert!(!folder.exists() || fs::read_dir(folder).unwrap().count() == 0);
        let add = [
            &["expert", "add", "--name", "mine"][..],
            &far(&["--model", "a:1b"]),
        ]
        .concat();
        lab.cli(home, &add).run().ok();
        lab.cli(home, &add)
            .run()
            .fails(8, &["mine", "polymath expert edit"]);
        lab.cli(home, &["expert", "edit", "mine"])
            .run()
            .fails(2, &["--price"]);
        lab.cli(home, &["expert", "edit", "mine", "--price", "x"])
            .run()
            .fails(2, &["0.5/1.5"]);
    }
    let taken = [
        &["expert", "add", "--name", "taken"][..],
        &far(&["--model", "a:1b"]),
    ]
    .concat();
    node.cli(&taken).run().fails(8, &["taken", "--name"]);
    node.cli(&["expert", "rm", "taken"])
        .run()
        .fails(8, &["taken", "settings"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_is_withdrawn_and_comes_back_by_itself() {
    let fake = FakeUpstream::start(&["m:1b"], None).await;
    let lab = Lab::new();
    let (host, asker) = two(&lab);
    let url = fake.url();
    host.cli(&["expert", "add", "--upstream", &url, "--name", "far"])
        .run()
        .ok();
    asker.knows(&["far"]);
    fake.close().await;
    // The question that finds it out fails; nobody else need ask.
    let failed = asker.try_ask(&["Hello?", "--model", "far", "--timeout", "20"]);
    let failed = failed.fails(4, &["far"]);
    assert!(!failed.stderr.contains(&url), "{}", failed.stderr);
    gone(&asker, "far");
    assert_eq!(shown(&host, "far")["state"], "failed");
    fake.open().await;
    eventually("it is offered again", || known(&asker, "far"));
    asker.ask(&["Hello?", "--model", "far", "--timeout", "60"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_not_carried_on_and_harms_nobody_else() {
    let fake = FakeUpstream::start(&["m:1b"], None).await;
    let lab = Lab::new();
    let host = lab
        .up("host", &["--expert", &lab.identifier("language")])
        .ready();
    lab.join("asker", &host);
    let asker = lab.up("asker", &[]);
    let url = fake.url();
    host.cli(&["expert", "add", "--upstream", &url, "--name", "far"])
        .run()
        .ok();
    asker.knows(&["far", "language"]);
    fake.set(Mode::DiesAfter(words("one two")));
    let asked = fake.asked().len();
    let broken = asker.try_ask(&["Hello?", "--model", "far", "--timeout", "30"]);
    broken.fails(4, &["broke off after 2 tokens"]);
    assert_eq!(fake.asked().len(), asked + 1, "it is asked once");
    // Gone before its end, the question ends at the server too.
    fake.set(Mode::HangsAfter(words("one")));
    // A failure rests the peer for a moment: whoever asks then is told so.
    let comes_to = |code: i32, timeout: &str| {
        eventually("the question is asked", || {
            let asked = asker.try_ask(&["Hello?", "--model", "far", "--timeout", timeout]);
            (asked.code == code).then_some(asked)
        })
    };
    comes_to(5, "3");
    fake.wait_open(0).await;
    // Busy is busy.
    let busy = Mode::Status(429, "retry-after: 9\r\n".into(), "{}".into());
    fake.set(busy);
    comes_to(10, "30").fails(10, &["busy"]);
    // All the while others are answered.
    fake.set(Mode::Hangs);
    let classified = asker.ask(&[
        "Où est la gare ?",
        "--kind",
        "classify",
        "--model",
        "language",
    ]);
    assert_eq!(classified["classifications"][0][0]["label"], "fr");
    fake.set(says("Well again."));
    let well = eventually("it answers again", || {
        let asked = asker.try_ask(&["Hello?", "--model", "far", "--json"]);
        (asked.code == 0).then(|| asked.json())
    });
    assert_eq!(well["answer"], "Well again.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_vectors_are_an_experts() {
    let fake = FakeUpstream::start(&["embed:1"], None).await;
    fake.set(Mode::Vectors(vec![3.0, 4.0]));
    let lab = Lab::new();
    let node = lab.up("node", &[]);
    let url = fake.url();
    node.cli(&[
        "expert",
        "add",
        "--upstream",
        &url,
        "--name",
        "vectors",
        "--kind",
        "embed",
    ])
    .run()
    .ok();
    ready(&node, "vectors");
    let answer = node.ask(&["Hello?", "--kind", "embed", "--model", "vectors"]);
    assert_eq!(
        answer["embeddings"][0].as_array().unwrap().len(),
        2,
        "{answer}"
    );
}

#[test]
fn two_experts_over_one_file_share_its_weights() {
    let lab = Lab::with_models();
    let Some(models) = std::env::var_os("POLYMATH_TEST_MODELS") else {
        panic!("POLYMATH_TEST_MODELS says where the test models are");
    };
    let file = Path::new(&models).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let file = file.display().to_string();
    // The router's own encoder takes memory, too.
    let node = lab.up_with("node", &[], &[("POLYMATH_ROUTER_ENCODER", "static")]);
    node.cli(&[
        "expert",
        "add",
        &file,
        "--name",
        "plain",
        "--max-tokens",
        "8",
    ])
    .run()
    .ok();
    let plain = ready(&node, "plain");
    let taken = |node: &Node| node.status()["limits"]["models"].as_u64().unwrap();
    let one = taken(&node);
    node.cli(&[
        "expert",
        "add",
        &file,
        "--name",
        "pirate",
        "--system",
        "You are a pirate.",
    ])
    .run()
    .ok();
    let pirate = ready(&node, "pirate");
    assert_ne!(plain["id"], pirate["id"]);
    assert_eq!(taken(&node), one, "the weights are there once");
    let answer = node.ask(&["Hello?", "--model", "plain"]);
    assert!(!answer["answer"].as_str().unwrap().is_empty());
    // A change of words loads nothing anew, and leaves no gap.
    node.cli(&["expert", "edit", "plain", "--system", "You are brief."])
        .run()
        .ok();
    node.ask(&["Hello?", "--model", "plain"]);
    node.cli(&["expert", "rm", "pirate"]).run().ok();
    assert_eq!(node.experts(), ["plain"]);
}
