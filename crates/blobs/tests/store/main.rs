//! The model store through its public door, with made-up models, wheels and pips.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod damage;
mod fixture;
mod imports;
mod killed;
mod known;
mod layout;
mod limit;
mod mirrors;
mod packages;
mod progress;
mod removal;
mod sources;
