//! The catalog through its public doors: many of them in one process, frames carried by a small
//! deterministic driver.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod attacks;
mod bombs;
mod bounds;
mod charter;
mod charter_forks;
mod charter_removal;
mod charter_return;
mod charter_room;
mod charter_schema;
mod claims;
mod convergence;
mod driver;
mod eviction;
mod forks;
mod formats;
mod hostile;
mod inspecting;
mod mutations;
mod observations;
mod observations_schema;
mod rate;
mod restart;
mod scale;
mod scene;
mod short;
mod terms;
