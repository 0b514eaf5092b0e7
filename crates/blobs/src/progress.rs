//! How a long operation tells a person, or a program, how far it is.

mod json;
mod meter;
mod plain;
mod terminal;

pub use json::JsonProgress;
pub use plain::PlainProgress;
pub use terminal::TerminalProgress;

/// Hears about one operation: steps one after the other, and notes at any time.
///
/// Everything is called from the thread that does the work.
pub trait Progress: Sync {
    /// A step begins, of `total` bytes if that is known.
    fn begin(&self, what: &str, total: Option<u64>);
    /// So many more bytes of the step are done.
    fn advance(&self, bytes: u64);
    /// The step is over; not `completed` when it failed or was cancelled. Always follows `begin`.
    fn finish(&self, completed: bool);
    /// A line worth knowing.
    fn note(&self, line: &str);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentProgress;

impl Progress for SilentProgress {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn finish(&self, _: bool) {}
    fn note(&self, _: &str) {}
}

/// A step that finishes however its scope is left.
pub(crate) struct Step<'a> {
    progress: &'a dyn Progress,
    completed: bool,
}

impl<'a> Step<'a> {
    pub(crate) fn begin(progress: &'a dyn Progress, what: &str, total: Option<u64>) -> Self {
        progress.begin(what, total);
        Self {
            progress,
            completed: false,
        }
    }

    pub(crate) fn complete(mut self) {
        self.completed = true;
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.progress.finish(self.completed);
    }
}
