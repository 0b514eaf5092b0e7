//! The catalog: what every node of the mesh offers, known to every node.
//!
//! Decides which bytes of strangers become knowledge. Each node writes one Automerge document, its
//! *offer*, in changes it signs; every node passes on what it verified, so that offers outlive
//! their authors' connections. *Cards* are immutable and fetched once by id. The mesh's admins write
//! *charter* documents in the same way, which merge into one [`Charter`](polymath_types::Charter). From
//! all of them the routing [`Index`](polymath_types::Index) is built.
//!
//! Sans-IO: frames and stored records go in, [`Action`]s come out, in the order in which they must
//! be done. Leaves to others the transports, the clock that calls [`Catalog::tick`], and the disk.
//! Load and liveness are no history: [`live`] keeps them beside it.

mod asks;
mod buckets;
mod cards;
mod catalog;
mod chunk;
mod conduct;
mod document;
mod documents;
mod effort;
mod envelope;
mod evictions;
mod frames;
#[doc(hidden)]
pub mod fuzz;
mod inspect;
mod kind;
mod limits;
pub mod live;
mod log;
mod record;
mod refusal;
mod short;
mod weigh;
mod weigher;

pub use catalog::{
    Action, Catalog, CatalogConfig, FrameError, ObservationsError, Offer, OfferError, Recovered,
};
pub use document::in_sandbox;
pub use inspect::{Damage, FileError, History, Inspected, Step, from_file, inspect, to_file};
pub use kind::{
    charter::edit::{CharterEdit, CharterError},
    offer::is_label,
};
pub use limits::{CatalogLimits, FRAME_BYTES, OBSERVED_LEAST};
pub use record::RecordError;
pub use refusal::{Counters, Refusal};
pub use weigher::Weigher;
