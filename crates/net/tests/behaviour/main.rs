//! Several real swarms on loopback, by behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dht;
mod dht_under_attack;
mod discovery;
mod failures;
mod lifecycle;
mod meshes;
mod streams;
mod support;
