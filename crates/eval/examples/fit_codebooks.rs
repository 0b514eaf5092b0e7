//! Fits the default codebooks: `cargo run --release -p polymath-eval --example fit_codebooks -- DATA OUT`.
//!
//! Takes the training questions of LLMRouter (MIT) that are not in its test split, without outcomes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::HashSet, path::PathBuf};

use polymath_eval::load;
use polymath_router::learning::{Fit, Sparse, fit};

fn main() {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let data = arguments.next().expect("give the data's folder");
    let out = arguments.next().expect("give the file to write");
    let table = load(&data.join("llmrouter.jsonl.gz"), None).unwrap();
    let test: HashSet<&str> = table
        .rows
        .iter()
        .filter(|r| r.test)
        .map(|r| r.query.as_str())
        .collect();
    let texts: Vec<(Sparse, Vec<f32>)> = table
        .rows
        .iter()
        .filter(|r| !test.contains(r.query.as_str()))
        .map(|r| polymath_encoder::encode(&r.query))
        .map(|e| (Sparse::new(&e.places, &e.values), e.cues.to_vec()))
        .collect();
    let mut bytes = Vec::new();
    for (clusters, seed) in [(8, 0), (32, 1), (32, 2), (32, 3)] {
        let settings = Fit {
            clusters,
            seed,
            ..Fit::default()
        };
        let book = fit(polymath_encoder::ENCODER_ID, &texts, &settings).unwrap();
        let mut sizes = vec![0; clusters];
        for (text, cues) in &texts {
            sizes[usize::from(book.assign(text, cues)[0].cluster)] += 1;
        }
        println!("{clusters} clusters, id {}, sizes {sizes:?}", book.id());
        bytes.extend(u32::try_from(book.bytes().len()).unwrap().to_le_bytes());
        bytes.extend(book.bytes());
    }
    std::fs::write(out, bytes).unwrap();
}
