//! One module an experiment.

pub mod strong_weak;
