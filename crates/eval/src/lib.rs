//! The router measured on outcomes of real models: `polymath route eval --data DIR`.
//!
//! Decides how data sets become tables of graded answers ([`Table`]), which baselines stand beside every
//! result, and how sure a figure is ([`bootstrap`]). What is measured is a [`Policy`](polymath_router::Policy),
//! any that has an [`Entry`]; the first is the router's own
//! [`Estimator`](polymath_router::learning::Estimator), the one a daemon decides with, and nothing here knows a
//! trick that it lacks. It leaves to the CLI how a [`Report`](polymath_figures::Report) is printed.
//!
//! Methods and constants are chosen on training rows only ([`study`]); test rows are read once, to print.

pub mod baseline;
pub mod bootstrap;
mod data;
pub mod experiments;
mod figures;
pub mod pareto;
pub mod policies;
pub mod replay;
pub mod study;

pub use data::{Answered, DataError, FORMAT, Graded, Table, Utterance, Utterances, load};
pub use experiments::{Experiment, Options, evaluate};
pub use policies::Entry;
