//! Our own stream behaviour: opening byte streams to peers and accepting theirs.
//!
//! Written because `libp2p-stream` takes a random connection (so that a call may ride a relay
//! although a direct path exists), drops inbound streams and dial requests without a word, and
//! opens one stream at a time per connection. Here the caller names the connection, many streams
//! are negotiated at once, every queue is bounded, and every open gets an answer: a stream, an
//! error, or, if the connection dies, the loss of its reply channel, which is an error too.

mod behaviour;
mod handler;
mod mesh_stream;
mod registry;

pub(crate) use behaviour::Behaviour;
pub(crate) use handler::OpenRequest;
pub use mesh_stream::MeshStream;
pub use registry::Incoming;
pub(crate) use registry::Registry;
