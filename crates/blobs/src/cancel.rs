//! How a caller on another thread ends work that blocks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::Progress;

/// A flag that ends an operation soon after it is raised: within one buffer (256 KiB) of copying or
/// hashing, within a tenth of a second of waiting. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag not yet raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag, for good.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the flag is up.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What every long operation reports to and listens to.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a Cancel,
}
