//! Model files that members give each other, so that a network fetches a model once.
//!
//! Given are the files of models that every build knows by their digests, to members, by nodes that serve
//! them; a person's own models are nobody else's. Whoever takes a file checks its digests, so it does not
//! matter whom it comes from.
//!
//! * [`give`]: the service that has files.
//! * [`take`]: the mirror that a pull asks before a package is fetched.
//! * [`lane`]: which way the bytes go: by the mesh's streams, or by the bulk lane of [`polymath_net::Bulk`].

mod give;
mod lane;
mod take;

pub(crate) use give::{Files, Shelf};
pub(crate) use lane::BulkLane;
pub(crate) use take::Members;

/// Bytes read from a disk, and sent, at once.
const PIECE: usize = 256 << 10;
/// Files one question may name.
const MOST_NAMED: usize = 64;
