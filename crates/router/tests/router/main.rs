//! The router's behaviour through its public doors.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod breakers;
mod content;
mod failures;
mod filters;
mod hedging;
mod laws;
mod learned;
mod replicas;
mod roster;
mod scene;
mod vector_space;
