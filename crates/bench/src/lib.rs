//! Benchmarks of this build beside its rivals: `polymath bench`, the NAT lab's long lines, and a program
//! that counts allocations all run what is here.
//!
//! This crate decides how calls ([`rpc`]) and a large mesh's catalog ([`catalog`]) are measured, what else they
//! are held against, and the one form that all tables have ([`Report`]). It leaves to `cli` what needs whole daemons, and to whoever asks where
//! the nodes are ([`rpc::Place`]): this process over loopback, or network namespaces with a line between.

pub mod catalog;
pub mod rpc;

pub use polymath_figures::{Report, Row, Spread};

/// Rounds of a comparison; its sides alternate. `--quick` makes them shorter, not fewer.
pub const ROUNDS: usize = 9;

/// The kernel's choice for TCP, in the network namespace of this thread.
pub fn kernel_congestion_control() -> String {
    let name = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    name.map_or_else(|_| "unknown".into(), |n| n.trim().to_owned())
}
