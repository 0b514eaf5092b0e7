//! Version numbers of everything that outlives a process or crosses a wire.

use std::fmt;

/// A wire, document or store format, each with the one version this build speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Canonical JSON of an [`crate::ExpertCard`].
    Card,
    /// Canonical JSON of a mesh [`crate::Genesis`].
    Genesis,
    /// The identity key file.
    Identity,
    /// The Automerge offer document and its signed envelope.
    Offer,
    /// The Automerge charter document of an admin and its signed envelope.
    Charter,
    /// The Automerge observations document of a peer and its signed envelope.
    Observations,
    /// All peer-to-peer messages but those of the `Sync` call.
    Wire,
    /// Frames of the catalog's `Sync` call.
    Sync,
    /// Frames of the `Live` call.
    Live,
    /// The model store's manifests.
    ModelStore,
    /// The catalog's records on disk.
    CatalogStore,
    /// A catalog that was exported to a file.
    CatalogFile,
    /// The control API between the CLI and its own daemon.
    Control,
    /// An [`crate::Invite`]'s text.
    Invite,
    /// A signed [`crate::AnchorList`].
    Anchors,
    /// Addresses of members a home remembers.
    AddressBook,
    /// Which invites a home has written, and who came by them.
    InviteLedger,
}

impl Format {
    /// The version this build writes and reads.
    pub const fn current(self) -> u32 {
        match self {
            // 2: digests in buckets instead of lists of all documents. 3: heads and sums cover what the
            // last change is, not only how many there are. 4: changes in a short form, authors by their keys.
            Self::Sync => 4,
            _ => 1,
        }
    }

    /// Accepts `found` or names both versions.
    pub fn check(self, found: u32) -> Result<(), VersionMismatch> {
        if found == self.current() {
            Ok(())
        } else {
            Err(VersionMismatch {
                format: self,
                found,
                supported: self.current(),
            })
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Card => "expert card",
            Self::Genesis => "mesh genesis",
            Self::Identity => "identity file",
            Self::Offer => "offer document",
            Self::Charter => "charter document",
            Self::Observations => "observations document",
            Self::Wire => "wire protocol",
            Self::Sync => "catalog exchange",
            Self::Live => "exchange of fast state",
            Self::ModelStore => "model store",
            Self::CatalogStore => "catalog store",
            Self::CatalogFile => "exported catalog",
            Self::Control => "control API",
            Self::Invite => "invite",
            Self::Anchors => "anchor list",
            Self::AddressBook => "address book",
            Self::InviteLedger => "ledger of invites",
        })
    }
}

/// A format's version differs from the one this build speaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{format} has version {found}, this build reads version {supported}; {}", advice(*found, *supported))]
pub struct VersionMismatch {
    /// Which format.
    pub format: Format,
    /// The version found.
    pub found: u32,
    /// The version this build reads.
    pub supported: u32,
}

const fn advice(found: u32, supported: u32) -> &'static str {
    if found > supported {
        "upgrade this polymath"
    } else {
        "upgrade whoever wrote it"
    }
}
