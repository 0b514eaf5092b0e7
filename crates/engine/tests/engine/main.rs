//! The engine through its public door: on the real models where their behaviour is the point, on a
//! tiny random one where only the machinery is.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod answers;
mod continuation;
mod damaged_files;
mod encoders;
mod limits;
mod models;
mod tiny;
