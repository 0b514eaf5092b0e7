//! One libp2p swarm: transports, DHT, local discovery, streams, paths.
//!
//! This crate decides how peers of one mesh find and reach each other: which transports, who is
//! let into the routing table, which of several connections a stream takes, when a silent peer is
//! given up, and what is refused when a bound is reached. It leaves to others what travels in the
//! streams (`rpc`), which peers are worth asking (`router`) and who decides membership (`node`).
//! It knows nothing of experts.
//!
//! * [`Net`] is the handle: cheap to clone, speaks to the one task that owns the swarm over a
//!   bounded channel. Should that task die, every call answers `Stopped`.
//! * Every protocol name, DHT key and local announcement carries the
//!   [`MeshId`](polymath_types::MeshId), so that neighbouring meshes never merge. Only
//!   [`Net::hello`] crosses meshes: it asks a peer which mesh it belongs to.
//! * [`MeshStream`] is a byte stream to a peer that knows whose it is and over which path it runs.
//! * Everything the network can feed is bounded; what was refused is counted in [`NetCounters`].

// Errors carry whole peer ids, 80 bytes each. They are rare; boxing them would burden every match.
#![allow(clippy::result_large_err)]

mod adapter;
mod address;
mod address_book;
mod batched;
mod bulk;
mod config;
mod counters;
mod dialback;
mod discovery;
mod door;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod guard;
mod hello;
mod lab;
mod lingering;
mod link;
mod manager;
mod meter;
mod names;
mod net;
mod peers;
mod provider_store;
mod proxy;
mod reach;
mod report;
mod security;
mod shut_out;
mod sources;
mod streams;
mod swarm;
mod tls;
mod transports;
mod upload;
mod vetting;
mod whereabouts;
mod wss;

pub use address::{is_dialable, scope_of, worth_telling};
pub use bulk::{
    Bulk, BulkAnswer, BulkArrival, BulkBindError, BulkConnectError, BulkConnection, BulkCounters,
    BulkLimits, BulkReceiver, BulkReply, BulkSender, Congestion, Ticket, TicketError,
    TransferError,
};
pub use config::{NetConfig, NetLimits, Role};
pub use counters::NetCounters;
pub use door::{Door, Doorkeeper, Refused};
pub use error::{AcceptError, DhtError, DialError, HelloError, OpenError, StartError};
pub use hello::Hello;
pub use lab::Conditions;
pub use libp2p::{Multiaddr, PeerId};
pub use net::{Net, Providers};
pub use peers::{GivenUp, Membership, NetEvent, PeerInfo};
pub use report::{
    AddressReport, AddressSource, Filtering, Mapping, NetReport, RelayReport, RelayState, Scope,
    TransportReport, UpnpReport, Verdict,
};
pub use shut_out::ShutOut;
pub use streams::{Incoming, MeshStream};
