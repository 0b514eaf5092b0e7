//! How many decisions a second one core makes with the static encoder, prompts of 1 KB:
//! `cargo run --release -p polymath-eval --example learned_speed`.
//!
//! A decision encodes the prompt, sorts it into the codebooks and estimates every expert, each of which has
//! outcomes of its own and a regression. Prompts are made of synthetic words, all different.

use std::{hint::black_box, time::Instant};

use polymath_eval::study::{PRIOR, estimator, expert_id, see};
use polymath_router::{Random, learning::EstimatorConfig};

const PROMPTS: usize = 2000;
const BYTES: usize = 1024;

fn main() {
    let mut random = Random::new(1);
    let prompts: Vec<String> = (0..PROMPTS).map(|_| prompt(&mut random)).collect();
    let begin = Instant::now();
    for prompt in &prompts {
        black_box(polymath_encoder::encode(prompt));
    }
    let encoding = begin.elapsed();
    println!(
        "encoding alone: {:.0} a second",
        PROMPTS as f64 / encoding.as_secs_f64()
    );
    println!("| experts with outcomes | decisions a second |");
    println!("|---:|---:|");
    for experts in [9, 64, 256] {
        let mut e = estimator(EstimatorConfig::default(), 1);
        let ids: Vec<_> = (0..experts).map(|n| expert_id(&n.to_string())).collect();
        for (n, prompt) in prompts.iter().enumerate() {
            let seen = see(&e, prompt);
            e.observe(ids[n % experts], &seen, PRIOR, random.unit());
        }
        let begin = Instant::now();
        for prompt in &prompts {
            let seen = see(&e, prompt);
            let best = ids
                .iter()
                .map(|id| e.score(id, &seen, PRIOR))
                .fold(0.0, f64::max);
            black_box(best);
        }
        println!(
            "| {experts} | {:.0} |",
            PROMPTS as f64 / begin.elapsed().as_secs_f64()
        );
    }
}

fn prompt(random: &mut Random) -> String {
    let mut text = String::with_capacity(BYTES + 16);
    while text.len() < BYTES {
        for _ in 0..2 + random.below(8) {
            text.push(char::from(b'a' + random.below(26) as u8));
        }
        text.push(if random.below(12) == 0 { '.' } else { ' ' });
    }
    text
}
