//! Where model files come from, how they are checked, and where they lie.
//!
//! This crate decides that a file *is* its content: it is stored under its BLAKE3 digest, it enters
//! the store only when SHA-256 and BLAKE3 are both right, and it is never changed in place. It
//! pins, for every [`KnownModel`], each file's digests and the packages that carry it. It leaves to
//! others what the bytes mean (`engine`) and when a model is wanted (`node`, `cli`).
//!
//! Everything here blocks; async callers put it on a blocking thread and end it by [`Cancel`].
//!
//! Layout of a store, which several processes may share:
//!
//! | path | content |
//! |---|---|
//! | `version` | the layout's version, text ([`polymath_types::Format::ModelStore`]) |
//! | `blobs/<blake3>` | one immutable, read-only file |
//! | `models/<name>.json` | a manifest: which blobs make a model, from where, since when |
//! | `stamps/` | what imported files held when they were last read; may be deleted |
//! | `partial/` | unfinished work; whatever lies there while nobody holds the lock is left over |
//! | `lock` | held by the one writer; readers need no lock |
//!
//! A blob is synced before it is renamed into place and the manifest is written last, so a process
//! killed at any moment leaves either the old store or the new one, and blobs it had finished are
//! not fetched again.

mod archive;
mod cancel;
mod digest;
mod error;
mod import;
mod known;
mod manifest;
mod progress;
mod pull;
mod stamps;
mod store;
mod verify;

pub use cancel::Cancel;
pub use error::{BadFile, PullError, StoreError, VerifyError};
pub use import::Import;
pub use known::{KnownModel, Member, Package, known_model, known_models};
pub use manifest::{Installed, Origin};
pub use progress::{JsonProgress, PlainProgress, Progress, SilentProgress, TerminalProgress};
pub use pull::{Mirror, Mirrored, Source};
pub use store::{Damaged, DiskLimit, Listing, Removed, Store, StoreOptions};
pub use verify::Verified;
