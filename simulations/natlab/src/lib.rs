//! The NAT lab: real polymath daemons behind real NATs, in network namespaces.
//!
//! Pure: what an access does ([`nat`]), what is possible between two ([`theory`]), which cells there are
//! ([`cell`]), the rules in nftables' words ([`ruleset`]), a simulated line ([`line`]), and what falls
//! short ([`tally`]). Effects: the lab's own corner of the machine ([`sandbox`]), namespaces
//! ([`netns`], [`wire`], [`topology`]), daemons ([`daemon`], [`mesh`]), and what is done with them:
//! plain [`sockets`] measure the NATs ([`selftest`]), the theory ([`punch`]) and lines ([`echo`]), daemons
//! run cells ([`trial`]) and scenarios ([`scenario`]), a program of `polymath-net` compares ways to carry
//! large bodies over a long line ([`bulk`]), and `polymath-bench` compares ways to call ([`rpc`]).
//!
//! Network namespaces are Linux's; elsewhere this crate is empty.

#![cfg(target_os = "linux")]

mod args;
mod bulk;
mod cell;
mod daemon;
mod echo;
mod lab;
mod line;
mod mesh;
mod nat;
mod netns;
mod punch;
mod report;
mod rpc;
mod ruleset;
mod sandbox;
mod scenario;
mod selftest;
mod sockets;
mod tally;
mod theory;
mod topology;
mod trial;
mod wire;

pub use lab::main;
