//! Several real swarms on loopback, by behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bulk;
mod closed;
mod dht;
mod dht_under_attack;
mod discovery;
mod failures;
mod lifecycle;
mod meshes;
mod reach;
mod shut_out;
mod streams;
mod support;
mod upload;
