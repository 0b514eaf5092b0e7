//! What the admins of a mesh have laid down, as every member computes it from their documents.

use std::collections::{BTreeMap, BTreeSet};

use libp2p_identity::PeerId;

/// The role that may change the charter.
pub const ADMIN: &str = "admin";

/// Hexadecimal digits from which on a name may be the beginning of an expert's id.
const ID_DIGITS: usize = 8;

/// A value, who laid it down, and when on the admins' common count (Lamport's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated<T> {
    /// The value.
    pub value: T,
    /// Whose document says it.
    pub by: PeerId,
    /// Greater than all that its author had seen.
    pub at: u64,
}

/// Who may change the charter, and by whose word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The admin.
    pub peer: PeerId,
    /// Who appointed it; none for a founder.
    pub by: Option<PeerId>,
    /// When; 0 for a founder.
    pub at: u64,
}

/// What holds in a mesh. Equal on all nodes that know the same documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Charter {
    /// Admins, the most senior first: each outranks all that follow.
    pub admins: Vec<Admin>,
    /// Other roles, by peer.
    pub roles: BTreeMap<PeerId, Stated<String>>,
    /// Peers that nobody lets in or talks to.
    pub revoked: BTreeMap<PeerId, Stated<()>>,
    /// Names for experts: an id, or an expert's or model's own name.
    pub aliases: BTreeMap<String, Stated<String>>,
    /// Which experts suit a category of questions, best first: hints for the router.
    pub categories: BTreeMap<String, Stated<Vec<String>>>,
    /// Which version of each codebook is in use.
    pub codebooks: BTreeMap<String, Stated<u64>>,
}

impl Charter {
    /// Whether `peer` may change it.
    pub fn is_admin(&self, peer: &PeerId) -> bool {
        self.rank(peer).is_some()
    }

    /// Place among the admins; 0 is the most senior.
    pub fn rank(&self, peer: &PeerId) -> Option<usize> {
        self.admins.iter().position(|admin| admin.peer == *peer)
    }

    /// Whether an admin stands for `peer`: it has a role of whatever name, or is one itself.
    pub fn trusts(&self, peer: &PeerId) -> bool {
        self.is_admin(peer) || self.roles.contains_key(peer)
    }

    /// Those for whom an admin stands.
    pub fn trusted(&self) -> BTreeSet<PeerId> {
        let admins = self.admins.iter().map(|admin| admin.peer);
        admins.chain(self.roles.keys().copied()).collect()
    }

    /// Whether nobody lets `peer` in.
    pub fn is_revoked(&self, peer: &PeerId) -> bool {
        self.revoked.contains_key(peer)
    }

    /// Whether `name` has a meaning that no alias may hide: the router's free choice, or an expert's id as
    /// it is abbreviated.
    pub fn is_reserved(name: &str) -> bool {
        name == "auto" || name.len() >= ID_DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit())
    }

    /// The expert that `name` stands for: what an alias of that name says, else the name itself.
    /// An alias never leads to another, and hides no id.
    pub fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        if Self::is_reserved(name) {
            return name;
        }
        self.aliases.get(name).map_or(name, |alias| &alias.value)
    }
}
