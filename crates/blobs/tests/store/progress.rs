//! What programs and logs read.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use polymath_blobs::{JsonProgress, PlainProgress, Progress, Source};
use serde_json::Value;

use crate::fixture::{Fixture, never};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn pull_with(progress: &dyn Progress) {
    let f = Fixture::new();
    let from = Source::Path(f.wheel.clone());
    f.store().pull(&f.known, &from, progress, &never()).unwrap();
}

#[test]
fn json_lines() {
    let sink = Sink::default();
    pull_with(&JsonProgress::new(sink.clone()));
    let text = sink.text();
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines[0]["event"], "begin");
    assert_eq!(lines[0]["total"], 900_011);
    let finish = lines.iter().find(|l| l["event"] == "finish").unwrap();
    assert_eq!(
        (&finish["bytes"], &finish["completed"]),
        (&900_011.into(), &true.into())
    );
    assert!(finish["seconds"].is_f64());
    assert_eq!(lines.last().unwrap()["event"], "note");
}

#[test]
fn plain_lines() {
    let sink = Sink::default();
    pull_with(&PlainProgress::new(sink.clone()));
    let text = sink.text();
    assert!(text.starts_with("Copying tiny from "), "{text}");
    assert!(text.contains("878.92 KiB in "), "{text}");
    assert!(!text.contains('\r') && !text.contains('\x1b'), "{text:?}");
}
