//! `meshsim`: the daemon's own [`Catalog`](polymath_catalog::Catalog), [`Live`](polymath_catalog::live::Live)
//! and [`Router`](polymath_router::Router) under a virtual clock, in scenarios too large or too rare
//! to wait for.
//!
//! **Modelled**: one-way latency, drawn once for each pair of nodes; frames of one direction of a
//! link arrive in the order sent; links that open and close, and lose what is under way; the ticks of
//! catalog and live table at the daemon's pace; replicas with places, queues and service times that vary;
//! peers that end with a reset and peers that fall silent; attempt after attempt until a deadline.
//!
//! **Not modelled**: bandwidth, loss and handshakes; NATs and relays, every link is direct;
//! computing time of the catalog and the router; disks; the way a peer is found.
//!
//! Nothing here reads a clock or asks the system for randomness: every draw is a function of the
//! seed and of what it is for, so that one build gives byte-equal reports for equal settings.

mod actors;
pub mod catalog;
mod chance;
mod fault;
mod links;
pub mod live;
mod queue;
pub mod replicas;
mod report;
pub mod spread;
pub mod trace;

pub use fault::Fault;
pub use report::{Report, Row};
