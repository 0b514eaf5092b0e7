//! `natlab`: real polymath daemons behind real NATs, in network namespaces.
//!
//! Pure: what an access does ([`nat`]), what is possible between two ([`theory`]), which cells there are
//! ([`cell`]), the rules in nftables' words ([`ruleset`]), a simulated line ([`line`]), and what falls
//! short ([`tally`]). Effects: the lab's own corner of the machine ([`sandbox`]), namespaces
//! ([`netns`], [`wire`], [`topology`]), daemons ([`daemon`], [`mesh`]), and what is done with them:
//! plain [`sockets`] measure the NATs ([`selftest`]), the theory ([`punch`]) and lines ([`echo`]), daemons
//! run cells ([`trial`]) and scenarios ([`scenario`]).

#[cfg(target_os = "linux")]
mod args;
#[cfg(target_os = "linux")]
mod cell;
#[cfg(target_os = "linux")]
mod daemon;
#[cfg(target_os = "linux")]
mod echo;
#[cfg(target_os = "linux")]
mod lab;
#[cfg(target_os = "linux")]
mod line;
#[cfg(target_os = "linux")]
mod mesh;
#[cfg(target_os = "linux")]
mod nat;
#[cfg(target_os = "linux")]
mod netns;
#[cfg(target_os = "linux")]
mod punch;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod ruleset;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(target_os = "linux")]
mod scenario;
#[cfg(target_os = "linux")]
mod selftest;
#[cfg(target_os = "linux")]
mod sockets;
#[cfg(target_os = "linux")]
mod tally;
#[cfg(target_os = "linux")]
mod theory;
#[cfg(target_os = "linux")]
mod topology;
#[cfg(target_os = "linux")]
mod trial;
#[cfg(target_os = "linux")]
mod wire;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    lab::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("natlab: network namespaces are Linux's");
    ExitCode::FAILURE
}
