//! gRPC services and clients over mesh streams
