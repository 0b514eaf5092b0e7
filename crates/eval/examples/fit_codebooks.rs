//! Fits the default codebooks: `cargo run --release -p polymath-eval --example fit_codebooks -- DATA OUT`.
//!
//! Takes the training questions of LLMRouter (MIT) that are not in its test split, without outcomes; the last book is
//! fitted to the names of their tasks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
};

use polymath_eval::load;
use polymath_router::learning::{Fit, Space, Sparse, fit, fit_groups};

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
    let rows = table
        .rows
        .iter()
        .filter(|r| !test.contains(r.query.as_str()));
    let tasks: BTreeSet<&str> = rows.clone().map(|r| r.task.as_str()).collect();
    let tasks: Vec<&str> = tasks.into_iter().collect();
    let labels: Vec<usize> = rows
        .clone()
        .map(|r| tasks.binary_search(&r.task.as_str()).unwrap())
        .collect();
    let texts: Vec<(Sparse, Vec<f32>)> = rows
        .map(|r| polymath_encoder::encode(&r.query))
        .map(|e| (Sparse::new(&e.places, &e.values), e.cues.to_vec()))
        .collect();
    let encoder = polymath_encoder::ENCODER_ID;
    let mut books = Vec::new();
    for (clusters, seed) in [(8, 0), (32, 1), (32, 2), (32, 3)] {
        let settings = Fit {
            clusters,
            seed,
            ..Fit::default()
        };
        books.push(fit(encoder, &texts, &settings).unwrap());
    }
    let settings = Fit {
        clusters: tasks.len(),
        space: Space {
            width: 2048,
            cues: 16,
            cue_scale: 0.3,
        },
        ..Fit::default()
    };
    books.push(fit_groups(encoder, &texts, &labels, &settings).unwrap());
    let right = texts.iter().zip(&labels).filter(|((text, cues), label)| {
        usize::from(books[4].assign(text, cues)[0].cluster) == **label
    });
    println!(
        "{tasks:?}: {} of {} texts sorted as labelled",
        right.count(),
        texts.len()
    );
    let mut bytes = Vec::new();
    for book in books {
        let clusters = book.clusters();
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
