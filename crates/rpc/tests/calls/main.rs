//! Calls between real nodes on the loopback, over TCP and QUIC.

#![allow(clippy::unwrap_used)]

mod bad_callers;
mod bad_servers;
mod bounds;
mod breaking;
mod cancelling;
mod deadlines;
mod endings;
mod golden;
mod lab;
mod load;
mod local;
mod messages;
mod metadata;
mod paths;
mod probe;
mod raw;
mod sharing;
