//! The NAT lab and the mesh simulator
