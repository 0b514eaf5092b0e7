//! A simulated line's queue.

/// What a line does to packets.
#[derive(Debug, Clone)]
pub(crate) struct Quality;
