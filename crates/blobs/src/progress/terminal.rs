//! Progress for a person at a terminal: a bar with rate and time left.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{PlainProgress, Progress, meter::Meter, plain::ending};

const BAR: &str = "{msg}  [{bar:24}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
const COUNT: &str = "{msg}  {spinner} {bytes}  {bytes_per_sec}";

/// Draws on standard error: a bar when that is a terminal, else the lines of [`PlainProgress`].
pub struct TerminalProgress(To);

enum To {
    Bars(Mutex<Option<(ProgressBar, Meter)>>),
    Lines(PlainProgress<io::Stderr>),
}

impl TerminalProgress {
    /// Looks once whether standard error is a terminal.
    pub fn stderr() -> Self {
        Self(if io::stderr().is_terminal() {
            To::Bars(Mutex::new(None))
        } else {
            To::Lines(PlainProgress::stderr())
        })
    }
}

impl Progress for TerminalProgress {
    fn begin(&self, what: &str, total: Option<u64>) {
        match &self.0 {
            To::Lines(lines) => lines.begin(what, total),
            To::Bars(current) => {
                let bar = match total {
                    Some(total) => ProgressBar::new(total),
                    None => ProgressBar::new_spinner(),
                };
                let template = if total.is_some() { BAR } else { COUNT };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_message(what.to_owned());
                // The rate falls and the spinner turns even while no byte comes.
                bar.enable_steady_tick(Duration::from_millis(200));
                let meter = Meter::begin(what, total);
                *current.lock().unwrap_or_else(PoisonError::into_inner) = Some((bar, meter));
            }
        }
    }

    fn advance(&self, bytes: u64) {
        match &self.0 {
            To::Lines(lines) => lines.advance(bytes),
            To::Bars(current) => {
                let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((bar, meter)) = &mut *current {
                    meter.advance(bytes, Duration::MAX);
                    bar.inc(bytes);
                }
            }
        }
    }

    fn finish(&self, completed: bool) {
        match &self.0 {
            To::Lines(lines) => lines.finish(completed),
            To::Bars(current) => {
                let current = current
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                if let Some((bar, meter)) = current {
                    bar.finish_and_clear();
                    eprintln!("{}", ending(&meter, completed));
                }
            }
        }
    }

    fn note(&self, line: &str) {
        match &self.0 {
            To::Lines(lines) => lines.note(line),
            To::Bars(current) => match &*current.lock().unwrap_or_else(PoisonError::into_inner) {
                Some((bar, _)) => bar.suspend(|| eprintln!("{line}")),
                None => eprintln!("{line}"),
            },
        }
    }
}

impl fmt::Debug for TerminalProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TerminalProgress").finish_non_exhaustive()
    }
}
