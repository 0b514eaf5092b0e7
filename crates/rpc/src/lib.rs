//! gRPC between peers, over mesh streams.
//!
//! This crate decides how a tonic service is served to peers and to this machine, how calls to peers
//! share streams, and how failures and deadlines cross the wire. It leaves to `node` what the
//! services do and which peer is asked. The caller's identity is the connection's ([`Caller`]),
//! never a message's.
//!
//! tonic's generated clients and services run on both ends, and no HTTP/2 between them: a call is a
//! few frames ([`frame`]) on a [`lane`] that it shares with others. A [`Channel`] is the clients'
//! side, [`serve`] the services'.

mod admission;
mod body;
mod breaker;
mod channel;
mod clients;
mod convert;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod lane;
mod local;
mod messages;
mod methods;
mod parrot;
mod pool;
mod server;
mod status;

pub use admission::{Admission, Held};
pub use body::ReplyBody;
pub use channel::Channel;
pub use clients::{Clients, ConnectError, MAX_MESSAGE};
pub use convert::{
    finish_reason, load_from_proto, load_to_proto, messages_from_proto, messages_to_proto,
    reason_to_proto, sampling_from_proto, sampling_to_proto, usage_from_proto, usage_to_proto,
};
pub use lane::LaneError;
pub use local::{
    Connection, Connections, HealthReporter, Listener, LocalCalls, ServingStatus, connect_unix,
    describe, serve_local,
};
pub use parrot::{COMPUTE, Parrot};
pub use server::{CALLS, Caller, ServeError, serve};
pub use status::{budget, check_version, failure, status, timeout};
