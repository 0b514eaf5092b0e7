//! The cards decide: two experts whose descriptions and examples are swapped swap their questions.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use polymath_testkit::{Lab, Node};

const GARDEN: &str = r#"description = "Gardening: plants, flowers, soil, lawns, pruning, vegetables in the garden."
examples = ["When do I plant tulip bulbs?", "How often should I water my roses?", "Which soil do tomatoes like in the garden?", "How do I prune an apple tree?"]"#;
const CARS: &str = r#"description = "Cars: engines, tyres, brakes, repair, driving, fuel."
examples = ["Why does my engine make a knocking noise?", "When should I change the tyres of my car?", "How do I check the oil of the engine?", "Why do my brakes squeal?"]"#;

fn up(lab: &Lab, encoder: &str, home: &str, first: &str, second: &str) -> Node {
    let define = |name: &str, card: &str| {
        lab.define(
            &format!("{home}-{name}.toml"),
            &format!("version = 1\nname = \"{name}\"\nkind = \"generate\"\nmodel = \"smollm2-135m-instruct\"\n{card}\n"),
        )
    };
    let args = [
        "--expert",
        &define("red", first),
        "--expert",
        &define("blue", second),
    ];
    lab.up_with(home, &args, &[("POLYMATH_ROUTER_ENCODER", encoder)])
        .ready()
}

fn swapping_swaps(encoder: &str) {
    let lab = Lab::with_models();
    let straight = up(&lab, encoder, "straight", GARDEN, CARS);
    let swapped = up(&lab, encoder, "swapped", CARS, GARDEN);
    for (question, expert, other) in [
        (
            "How do I keep the flowers in my garden alive in summer?",
            "red",
            "blue",
        ),
        (
            "My car's engine does not start in the morning.",
            "blue",
            "red",
        ),
    ] {
        let chosen = |node: &Node| {
            let dry = node.try_ask(&[question, "--dry-run", "--json"]).ok().json();
            assert!(
                dry["decision"]["encoder"]
                    .as_str()
                    .unwrap()
                    .contains(encoder),
                "{dry}"
            );
            dry["decision"]["candidates"][0]["expert"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            (chosen(&straight).as_str(), chosen(&swapped).as_str()),
            (expert, other),
            "{question}"
        );
    }
}

#[test]
fn swapping_two_cards_swaps_the_choices_of_the_static_encoder() {
    swapping_swaps("static");
}

#[test]
fn swapping_two_cards_swaps_the_choices_of_the_embedder() {
    swapping_swaps("embedder");
}
