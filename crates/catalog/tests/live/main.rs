//! Fast state: what nodes come to think of each other, whatever order, loss and malice do to messages.

#![allow(clippy::unwrap_used)]

mod convergence;
mod crowds;
mod floods;
mod formats;
mod hostile;
mod liveness;
mod scene;
mod twice;
