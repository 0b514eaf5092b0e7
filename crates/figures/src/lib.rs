//! The one form that all measured figures have: benchmarks of calls and catalogs, the lab's runs and the
//! evaluation of the router print a [`Report`], as a table for people or as one JSON object.
//!
//! It decides nothing else. It is apart from `bench` so that an evaluation, which calls nobody, is built
//! without the transports of those that do.

mod report;
mod row;

pub use report::Report;
pub use row::{Goal, Row, Spread};
