//! Progress for programs: one JSON object a line.

use std::{
    fmt,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use super::{Progress, meter::Meter};

const EVERY: Duration = Duration::from_millis(500);

/// Writes JSON lines: `begin` (`what`, `total`), `progress` (`what`, `bytes`, `total`,
/// `bytes_per_second`, `eta_seconds`; at most two a second), `finish` (`what`, `bytes`, `seconds`,
/// `completed`) and `note` (`text`), each named by its `event`. Unknown numbers are null.
pub struct JsonProgress<W>(Mutex<State<W>>);

struct State<W> {
    out: W,
    meter: Option<Meter>,
}

impl JsonProgress<io::Stderr> {
    /// To standard error, so that results stay alone on standard output.
    pub fn stderr() -> Self {
        Self::new(io::stderr())
    }
}

impl<W: Write + Send> JsonProgress<W> {
    /// To any writer; what it refuses is lost.
    pub fn new(out: W) -> Self {
        Self(Mutex::new(State { out, meter: None }))
    }

    fn with(&self, f: impl FnOnce(&mut State<W>)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<W: Write> State<W> {
    fn line(&mut self, value: &Value) {
        let _ = writeln!(self.out, "{value}");
    }
}

impl<W: Write + Send> Progress for JsonProgress<W> {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.with(|s| {
            s.meter = Some(Meter::begin(what, total));
            s.line(&json!({"event": "begin", "what": what, "total": total}));
        });
    }

    fn advance(&self, bytes: u64) {
        self.with(|s| {
            let Some(m) = &mut s.meter else { return };
            if m.advance(bytes, EVERY) {
                let line = json!({
                    "event": "progress", "what": m.what, "bytes": m.done, "total": m.total,
                    "bytes_per_second": m.rate().round(), "eta_seconds": m.eta().map(|d| d.as_secs_f64().ceil()),
                });
                s.line(&line);
            }
        });
    }

    fn finish(&self, completed: bool) {
        self.with(|s| {
            let Some(m) = s.meter.take() else { return };
            s.line(&json!({
                "event": "finish", "what": m.what, "bytes": m.done,
                "seconds": m.elapsed().as_secs_f64(), "completed": completed,
            }));
        });
    }

    fn note(&self, line: &str) {
        self.with(|s| s.line(&json!({"event": "note", "text": line})));
    }
}

impl<W> fmt::Debug for JsonProgress<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonProgress").finish_non_exhaustive()
    }
}
