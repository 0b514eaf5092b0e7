//! Generated prost and tonic code of `proto/polymath/v1`; regenerate with `cargo xtask codegen`.
//!
//! This crate decides nothing. Conversions to and from the types of the domain live where they
//! are used.

/// The descriptors of `proto/polymath/v1`, an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

/// Version 1 of the wire.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, missing_debug_implementations)]
#[rustfmt::skip]
pub mod v1 {
    include!("generated/polymath.v1.rs");
}
