//! gRPC between peers, over mesh streams.
//!
//! This crate decides how a tonic service is served to peers and to this machine, how clients to
//! peers are pooled, and how failures and deadlines cross the wire. It leaves to `node` what the
//! services do and which peer is asked. The caller's identity is the connection's ([`Caller`]),
//! never a message's.
//!
//! Transport for now: tonic's HTTP/2 over one long-lived mesh stream a peer.

mod admission;
mod clients;
mod convert;
mod local;
mod server;
mod status;
mod upload;

pub use admission::Admission;
pub use clients::{Clients, ConnectError, MAX_MESSAGE};
pub use convert::{
    finish_reason, load_from_proto, load_to_proto, messages_from_proto, messages_to_proto,
    reason_to_proto, sampling_from_proto, sampling_to_proto, usage_from_proto, usage_to_proto,
};
pub use local::{connect_unix, serve_unix};
pub use server::{Caller, GRPC, ServeError, serve};
pub use status::{budget, check_version, failure, status};
