//! The verbs of `polymath mesh` about the charter.

use clap::Subcommand;

/// What the mesh's admins lay down: members hear of it through the catalog.
#[derive(Debug, Subcommand)]
pub(crate) enum CharterVerb {
    /// Who may change all that follows; the founder is the first
    Admin {
        #[command(subcommand)]
        verb: AdminVerb,
    },
    /// Names for what peers are in the mesh. They give no rights, but trust: `--privacy mesh` reaches holders of any
    /// role, and what they observed of experts is believed more
    Role {
        #[command(subcommand)]
        verb: RoleVerb,
    },
    /// Peers that are shut out: members end their connections and let them in no more
    #[command(visible_alias = "revoke")]
    Revoked {
        #[command(subcommand)]
        verb: RevokedVerb,
    },
    /// Names by which experts can be asked, mesh-wide
    Alias {
        #[command(subcommand)]
        verb: AliasVerb,
    },
    /// Which experts suit a category of questions: hints for routers
    Category {
        #[command(subcommand)]
        verb: CategoryVerb,
    },
    /// Which version of a codebook routers use to share what they learn
    Codebook {
        #[command(subcommand)]
        verb: CodebookVerb,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminVerb {
    /// List the admins, the most senior first: each outranks all that follow
    Ls,
    /// Make a peer an admin
    Add {
        /// Its id
        peer: String,
    },
    /// Take the role away from an admin that does not outrank this node; this node's own, too
    Remove {
        /// Its id
        peer: String,
        /// What it laid down goes with it, the admins it appointed included
        #[arg(long)]
        void: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleVerb {
    /// List who has which role
    Ls,
    /// Give a peer a role
    Set {
        /// Its id
        peer: String,
        /// The role
        role: String,
    },
    /// Take a peer's role back
    Remove {
        /// Its id
        peer: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RevokedVerb {
    /// List who is shut out
    Ls,
    /// Shut a peer out
    Add {
        /// Its id
        peer: String,
    },
    /// Let a peer in again
    Remove {
        /// Its id
        peer: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AliasVerb {
    /// List the aliases
    Ls,
    /// Make a name stand for an expert
    Set {
        /// The name
        name: String,
        /// The expert's id, name, or model's name
        expert: String,
    },
    /// Take an alias back
    Remove {
        /// The name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CategoryVerb {
    /// List the categories
    Ls,
    /// Say which experts suit a category
    Set {
        /// The category
        name: String,
        /// Ids or names of experts, the best first
        #[arg(required = true)]
        experts: Vec<String>,
    },
    /// Say nothing of a category any more
    Remove {
        /// The category
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CodebookVerb {
    /// List which versions are in use
    Ls,
    /// Say which version of a codebook is in use
    Set {
        /// The codebook
        name: String,
        /// Its version
        version: u64,
    },
    /// Say nothing of a codebook any more
    Remove {
        /// The codebook
        name: String,
    },
}
