//! Decides, for one query, which expert on which peer is asked, in which order others are tried,
//! why, and who is excluded for which reason.
//!
//! It is a pure state machine: the query's vector, the clock's reading, the [`Index`] and what is
//! known of each peer are inputs, and every outcome comes back through [`Router::observe`]. It
//! leaves to others how a text becomes a vector, how a peer is reached and how a call is made.
//!
//! The way of one decision:
//!
//! 1. **Hard filters** (`filter`): kind, name, labels, context length, vector space, required and allowed peers;
//!    over the cards as the `roster` lays them out, which keeps up with the index by what changed.
//! 2. **Quality** (`quality`): of the closest by their mean vectors, cosine of the query with an expert's description and examples, and what a
//!    [`Policy`] has learnt from graded answers ([`learning`]).
//! 3. **Replicas** (`replica`): peer allow and deny, reachability, circuit breakers; then the
//!    expected time to answer by own observation (`statistics`).
//! 4. **Order**: experts by score, in which speed can only break near-ties of content
//!    ([`RouterConfig::near_tie`]); replicas of one expert by expected time.
//! 5. **Hedging** (`hedge`): when a call that brings nothing may be doubled, and how often.
//! 6. **How many** ([`many`]): one expert, a vote, a cascade or nobody; and how several answers become one.
//!
//! [`Index`]: polymath_types::Index

mod bounded;
mod breaker;
mod config;
mod decision;
mod failure;
mod filter;
mod hedge;
pub mod learning;
pub mod many;
mod policy;
mod quality;
mod random;
mod ranking;
mod reason;
mod replica;
mod request;
mod roster;
mod router;
mod statistics;
mod vectors;
mod walk;

pub use config::{Blend, RouterConfig};
pub use decision::{Candidate, Decision, Excluded, Expectation, Reason, Term};
pub use hedge::HedgeCounts;
pub use policy::{Choice, Likeness, POLICIES, Policy, Question, by_name};
pub use quality::{Descriptor, Descriptors};
pub use random::Random;
pub use request::{Features, Outcome, PeerState, Reach, Request, Served};
pub use router::Router;
