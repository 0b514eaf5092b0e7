//! Why the charter stays as it is.

use polymath_types::{ErrorKind, PeerId};

use crate::Refusal;

/// Why the charter stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CharterError {
    /// Only admins lay down anything.
    #[error(
        "this node ({me}) is no admin of its mesh: let an admin do it, or be made one there with `polymath mesh admin add {me}`; the admins are {}",
        list(.admins)
    )]
    NotAdmin {
        /// Who was asked.
        me: PeerId,
        /// Who could.
        admins: Vec<PeerId>,
    },
    /// The other one is senior.
    #[error(
        "{peer} outranks this node, which it, or somebody it outranks, was appointed by: only {} can do that",
        list(.seniors)
    )]
    Outranked {
        /// Who outranks.
        peer: PeerId,
        /// Who could.
        seniors: Vec<PeerId>,
    },
    /// A mesh without an admin would never have one again.
    #[error(
        "this node is the mesh's only admin and cannot be removed: appoint another first with `polymath mesh admin add PEER`"
    )]
    LastAdmin,
    /// One cannot shut oneself out.
    #[error("this is the node's own id: another admin must revoke it")]
    Oneself,
    /// There is nothing to be taken back.
    #[error("there is no {what} '{name}': `polymath mesh {verb} ls` shows what there is")]
    NotFound {
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
        /// The verb that lists it.
        verb: &'static str,
    },
    /// A text that cannot be.
    #[error(
        "the {what} '{}' cannot be: 1 to {limit} bytes are allowed, without control characters and without spaces around them",
        text.escape_debug()
    )]
    Text {
        /// What.
        what: &'static str,
        /// The text.
        text: String,
        /// Its bound, bytes.
        limit: usize,
    },
    /// It stands for something already.
    #[error(
        "'{name}' cannot be an alias: 'auto', and names of 8 or more hexadecimal digits only, have a meaning of their own"
    )]
    Reserved {
        /// The name.
        name: String,
    },
    /// More than there may be.
    #[error("a category has at most {limit} experts, each once")]
    Experts {
        /// How many there may be.
        limit: usize,
    },
    /// As many admins as there may be.
    #[error("a mesh has at most {limit} admins: remove one with `polymath mesh admin remove PEER`")]
    Admins {
        /// How many there may be.
        limit: usize,
    },
    /// The document of this admin has no room for more of the kind: some is kept for what takes rights away.
    #[error(
        "this admin's part of the charter is full: {limit} entries are there for {what}. Take back what this node laid down and nobody needs, e.g. with `polymath mesh {verb} remove`, or let another admin go on"
    )]
    Full {
        /// How many there may be.
        limit: usize,
        /// Of what.
        what: &'static str,
        /// The verb that takes back some of it.
        verb: &'static str,
    },
    /// A fresh document of all that this admin says must fit into one change, of which a part is kept for
    /// what takes rights away.
    #[error(
        "this admin's part of the charter would be too large: {bytes} bytes and {operations} values are there for {what}. Take back what this node laid down and nobody needs, e.g. with `polymath mesh category remove` or `polymath mesh alias remove`, or let another admin go on"
    )]
    TooLarge {
        /// Bytes of a change.
        bytes: usize,
        /// Keys, numbers and texts in it.
        operations: u64,
        /// Of what.
        what: &'static str,
    },
    /// There is no room for what a removed admin laid down.
    #[error(
        "what {peer} laid down does not fit into this admin's part of the charter: let another admin do it, or first let all of that go with `polymath mesh admin remove {peer} --void`"
    )]
    Adoption {
        /// Whose.
        peer: PeerId,
    },
    /// It signed two different changes under one number.
    #[error(
        "{peer} contradicts itself, so not all of what it laid down can be repeated here: wait until it starts its part of the charter anew (an honest node does at once), or let all of that go with `polymath mesh admin remove {peer} --void`"
    )]
    Unheard {
        /// Who.
        peer: PeerId,
    },
    /// Nobody could verify what it lays down.
    #[error(
        "{peer} cannot be an admin: its id does not hold its key, as those of Ed25519 keys do (they begin with 12D3KooW)"
    )]
    Mute {
        /// Who.
        peer: PeerId,
    },
    /// Some admin has used the count up.
    #[error(
        "the charter's count is used up by {by}: remove that admin with `polymath mesh admin remove {by} --void`"
    )]
    Count {
        /// Who wrote the last one.
        by: PeerId,
    },
    /// Automerge or the key refused; a fresh document was tried too.
    #[error(
        "the charter document could not be written ({0}); restart the node with an empty catalog folder"
    )]
    Document(Refusal),
}

impl CharterError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAdmin { .. } | Self::Outranked { .. } => ErrorKind::PermissionDenied,
            Self::LastAdmin | Self::Oneself | Self::Count { .. } | Self::Unheard { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Text { .. }
            | Self::Reserved { .. }
            | Self::Experts { .. }
            | Self::Mute { .. } => ErrorKind::InvalidInput,
            Self::Admins { .. }
            | Self::Full { .. }
            | Self::TooLarge { .. }
            | Self::Adoption { .. } => ErrorKind::ResourceExhausted,
            Self::Document(_) => ErrorKind::Internal,
        }
    }
}

fn list(peers: &[PeerId]) -> String {
    let peers: Vec<String> = peers.iter().map(PeerId::to_string).collect();
    peers.join(", ")
}
