//! What graded outcomes teach about experts.
//!
//! [`Estimator`] says how good an expert's answer to a query will be, from 0 to 1, and how sure that is.
//! Levels of evidence shrink into one another, each with the one above it as its prior:
//!
//! 1. **prior**: what is known of an expert before anybody asked it (its card; [`Newcomer`]),
//! 2. **global**: all that was graded of the expert,
//! 3. **category** and **clusters**: the same by [`Codebook`], coarse books before fine ones; own counts and
//!    those of others, as the catalog weighed them,
//! 4. **local**: a ridge regression over the query's own words and cues on what the levels above leave
//!    unexplained. Its dual form weighs neighbours among own observations (`ridge`).
//!
//! Nothing here reads a clock or a text: a query comes as [`Sparse`] vector and cues of some encoder.

mod cells;
mod codebook;
mod drift;
mod estimator;
mod exchange;
mod explore;
mod learner;
mod newcomer;
mod ridge;
mod saved;
mod sparse;

pub use cells::LEAST_PRIOR;
pub use codebook::{Codebook, CodebookError, Fit, Member, Space, fit};
pub use drift::Drift;
pub use estimator::{Estimate, Estimator, EstimatorConfig, Seen};
pub use exchange::Reported;
pub use explore::{Explorer, Pick};
pub use learner::Learner;
pub use newcomer::Newcomer;
pub use sparse::Sparse;
