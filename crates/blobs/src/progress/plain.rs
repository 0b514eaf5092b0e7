//! Progress for logs and pipes: a line every few seconds, nothing that moves the cursor.

use std::{
    fmt,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{HumanBytes, HumanDuration};

use super::{Progress, meter::Meter};

const EVERY: Duration = Duration::from_secs(3);

/// Writes lines of text.
pub struct PlainProgress<W>(Mutex<State<W>>);

struct State<W> {
    out: W,
    meter: Option<Meter>,
}

impl PlainProgress<io::Stderr> {
    /// To standard error.
    pub fn stderr() -> Self {
        Self::new(io::stderr())
    }
}

impl<W: Write + Send> PlainProgress<W> {
    /// To any writer; what it refuses is lost.
    pub fn new(out: W) -> Self {
        Self(Mutex::new(State { out, meter: None }))
    }

    fn with(&self, f: impl FnOnce(&mut State<W>)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<W: Write + Send> Progress for PlainProgress<W> {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.with(|s| {
            s.meter = Some(Meter::begin(what, total));
            let _ = match total {
                Some(total) => writeln!(s.out, "{what} ({})", HumanBytes(total)),
                None => writeln!(s.out, "{what}"),
            };
        });
    }

    fn advance(&self, bytes: u64) {
        self.with(|s| {
            let Some(m) = &mut s.meter else { return };
            if m.advance(bytes, EVERY) {
                let _ = writeln!(s.out, "{}", reading(m));
            }
        });
    }

    fn finish(&self, completed: bool) {
        self.with(|s| {
            let Some(m) = s.meter.take() else { return };
            let _ = writeln!(s.out, "{}", ending(&m, completed));
        });
    }

    fn note(&self, line: &str) {
        self.with(|s| {
            let _ = writeln!(s.out, "{line}");
        });
    }
}

fn reading(m: &Meter) -> String {
    let mut line = format!("{}: {}", m.what, HumanBytes(m.done));
    if let Some(total) = m.total.filter(|t| *t > 0) {
        let percent = 100 * u128::from(m.done) / u128::from(total);
        line.push_str(&format!(" of {} ({percent}%)", HumanBytes(total)));
    }
    line.push_str(&format!(", {}/s", HumanBytes(m.rate() as u64)));
    if let Some(eta) = m.eta() {
        line.push_str(&format!(", {} left", HumanDuration(eta)));
    }
    line
}

/// How a step that is over is summed up.
pub(super) fn ending(m: &Meter, completed: bool) -> String {
    let done = HumanBytes(m.done);
    let seconds = m.elapsed().as_secs_f64();
    if completed {
        format!(
            "{}: {done} in {seconds:.1} s ({}/s)",
            m.what,
            HumanBytes(m.rate() as u64)
        )
    } else {
        format!("{}: stopped at {done} after {seconds:.1} s", m.what)
    }
}

impl<W> fmt::Debug for PlainProgress<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainProgress").finish_non_exhaustive()
    }
}
