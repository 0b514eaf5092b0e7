//! A question asked on one node is answered by the right expert on another.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use polymath_testkit::Lab;

#[test]
fn content_decides_among_experts_on_other_peers() {
    let lab = Lab::with_models();
    let kitchen = lab
        .up("kitchen", &["--expert", "chef", "--expert", "embedder"])
        .ready();
    lab.join("office", &kitchen);
    let office = lab
        .up(
            "office",
            &[
                "--expert", "coder", "--expert", "language", "--expert", "topics",
            ],
        )
        .ready();
    lab.join("asker", &kitchen);
    let asker = lab.up("asker", &["--client"]);
    asker.knows(&["chef", "coder", "embedder", "language", "topics"]);

    for (question, expert, peer) in [
        (
            "How do I make pancakes with eggs and milk?",
            "chef",
            &kitchen,
        ),
        (
            "Write a Python function that sorts a list of numbers.",
            "coder",
            &office,
        ),
        ("Which herbs go well with roast lamb?", "chef", &kitchen),
        (
            "Why does my Rust program panic when it reads a file?",
            "coder",
            &office,
        ),
    ] {
        let answer = asker.ask(&[question, "--max-tokens", "12"]);
        assert_eq!(answer["expert"], expert, "{question}: {answer}");
        assert_eq!(answer["peer"], peer.peer());
        assert_eq!(answer["path"], "direct");
        assert!(
            !answer["answer"].as_str().unwrap().trim().is_empty(),
            "{answer}"
        );
        assert!(
            answer["ttft_ms"].as_f64().unwrap() > 0.0
                && answer["reason"].as_str().unwrap().contains(expert)
        );
    }

    // The same expert gives the same greedy answer to its own node and to a remote one.
    let question = [
        "What is the capital of France?",
        "--model",
        "coder",
        "--max-tokens",
        "24",
        "--temperature",
        "0",
    ];
    let (near, far) = (office.ask(&question), asker.ask(&question));
    assert_eq!(near["path"], "local");
    assert_eq!(near["answer"], far["answer"]);
    assert_eq!(near["usage"], far["usage"]);

    let german = asker.ask(&[
        "Wo ist hier der nächste Bahnhof, bitte?",
        "--kind",
        "classify",
    ]);
    assert_eq!(german["expert"], "language");
    assert_eq!(german["classifications"][0][0]["label"], "de", "{german}");
    let topic = asker.ask(&[
        "The striker scored twice in the last minutes of the match.",
        "--kind",
        "classify",
        "--label",
        "economy",
        "--label",
        "football",
        "--label",
        "weather",
    ]);
    assert_eq!(
        (&topic["expert"], &topic["classifications"][0][0]["label"]),
        (&"topics".into(), &"football".into()),
        "{topic}"
    );
    let vector = asker.ask(&["a sentence", "--kind", "embed"]);
    let values = vector["embeddings"][0].as_array().unwrap();
    let norm: f64 = values.iter().map(|v| v.as_f64().unwrap().powi(2)).sum();
    assert_eq!(values.len(), 384);
    assert!((norm - 1.0).abs() < 1e-3, "not of length one: {norm}");
}

#[test]
fn the_cli_prints_tokens_on_stdout_and_all_else_on_stderr() {
    let lab = Lab::with_models();
    let node = lab
        .up("node", &["--expert", "chef", "--expert", "coder"])
        .ready();
    let plain = node
        .try_ask(&[
            "How do I boil an egg?",
            "--max-tokens",
            "16",
            "--temperature",
            "0",
        ])
        .ok();
    assert!(plain.stderr.is_empty(), "{}", plain.stderr);
    let verbose = node
        .try_ask(&[
            "How do I boil an egg?",
            "--max-tokens",
            "16",
            "--temperature",
            "0",
            "--verbose",
            "--explain",
        ])
        .ok();
    assert_eq!(verbose.stdout, plain.stdout);
    for word in ["TTFT", "tokens/s", "chef", "coder", "SCORE"] {
        assert!(
            verbose.stderr.contains(word),
            "'{word}' is not in {}",
            verbose.stderr
        );
    }
    let piped = node
        .cli(&["ask", "-", "--max-tokens", "16", "--temperature", "0"])
        .stdin("How do I boil an egg?".as_bytes())
        .run()
        .ok();
    assert_eq!(piped.stdout, plain.stdout);

    let dry = node
        .try_ask(&["How do I boil an egg?", "--dry-run", "--json"])
        .ok()
        .json();
    let candidates = dry["decision"]["candidates"].as_array().unwrap();
    assert_eq!(candidates[0]["expert"], "chef");
    assert!(!candidates[0]["terms"].as_array().unwrap().is_empty());
    assert!(dry.get("answer").is_none());

    let sampled = [
        "Tell me a joke.",
        "--max-tokens",
        "24",
        "--temperature",
        "1.2",
        "--model",
        "chef",
    ];
    let with_seed = |seed: &str| {
        let args: Vec<&str> = sampled.iter().copied().chain(["--seed", seed]).collect();
        node.ask(&args)["answer"].clone()
    };
    assert_eq!(with_seed("1"), with_seed("1"), "a seed repeats its answer");
    assert_ne!(
        with_seed("1"),
        with_seed("2"),
        "another seed gives another answer"
    );
}

#[test]
fn ask_works_without_a_node_of_ones_own() {
    let lab = Lab::with_models();
    let node = lab.up("node", &["--expert", "chef"]).ready();
    lab.join("passer-by", &node);
    let answer = lab
        .cli(
            "passer-by",
            &[
                "ask",
                "--json",
                "--max-tokens",
                "8",
                "How do I boil an egg?",
            ],
        )
        .run()
        .ok()
        .json();
    assert_eq!(
        (&answer["expert"], &answer["peer"]),
        (&"chef".into(), &node.peer().into())
    );
}
