//! Real daemons as processes, asked through the real CLI: what end-to-end tests are made of.
//!
//! A [`Lab`] owns a folder; every [`Node`] in it has a home of its own below and ends when
//! dropped. Nothing sleeps to wait: [`eventually`] polls a condition with a deadline. Failures
//! panic, with what the process said.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cli;
mod lab;
mod node;
mod wait;

pub use cli::{Cli, Output};
pub use lab::Lab;
pub use node::Node;
pub use wait::{WITHIN, eventually};
