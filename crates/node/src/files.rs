//! Model files that members give each other, so that a network fetches a model once.
//!
//! Given are the files of models that every build knows by their digests and that lie in the store, to
//! members, by nodes that serve the mesh; a person's own models are nobody else's. Whoever takes a file
//! checks its digests, so it does not matter whom it comes from.
//!
//! * [`give`]: the service that has files.
//! * [`take`]: the mirror that a pull asks before a package is fetched.
//! * [`lane`]: which way the bytes go: by the mesh's streams, or by the bulk lane of [`polymath_net::Bulk`].

mod give;
mod lane;
mod take;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

pub(crate) use give::{Files, Shelf};
pub(crate) use lane::BulkLane;
pub(crate) use take::Members;

/// Files one question may name.
const MOST_NAMED: usize = 64;
/// Bytes read from a disk, and sent, at once.
const PIECE: usize = 64 << 10;
/// The slowest transfer that is borne, bytes a second, after a while in which anything goes: whoever is
/// slower holds up others.
const SLOWEST: u64 = 8 << 10;
const GRACE: Duration = Duration::from_secs(60);

/// Whether a transfer that began then is too slow, after so many bytes.
fn is_too_slow(began: Instant, bytes: u64) -> bool {
    let lasted = began.elapsed();
    lasted > GRACE && bytes / SLOWEST < lasted.as_secs()
}
