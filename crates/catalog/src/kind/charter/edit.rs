//! What an admin may lay down, and why it may not.

use polymath_types::{ADMIN, Charter, ErrorKind, PeerId};

use super::{CharterKind, Entries, Entry, Field, Section, merge::last_words};
use crate::{
    Catalog, Refusal,
    catalog::{Action, Batch},
    limits::CHARTER,
};

/// A change of the charter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CharterEdit {
    /// Makes a peer an admin.
    Appoint(PeerId),
    /// Takes the role of an admin away; one's own, too.
    Dismiss {
        /// Whose.
        peer: PeerId,
        /// Whether what it laid down goes with it, the admins it appointed included. Otherwise all
        /// that is known here of it stays.
        void: bool,
    },
    /// Gives a peer a role that is only a name, or takes it back.
    Role {
        /// Whom.
        peer: PeerId,
        /// Which.
        role: Option<String>,
    },
    /// Shuts a peer out, or no longer.
    Revoke {
        /// Whom.
        peer: PeerId,
        /// Whether it is out.
        out: bool,
    },
    /// Makes a name stand for an expert, or for nothing.
    Alias {
        /// The name.
        name: String,
        /// The expert's id or name.
        expert: Option<String>,
    },
    /// Says which experts suit a category of questions; none takes it back.
    Category {
        /// The category.
        name: String,
        /// Ids or names of experts, the best first.
        experts: Vec<String>,
    },
    /// Says which version of a codebook is in use.
    Codebook {
        /// The codebook.
        name: String,
        /// Its version; nothing takes it back.
        version: Option<u64>,
    },
}

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
    /// The document of this admin is full: what was taken back is remembered, too.
    #[error(
        "this admin's part of the charter is full ({limit} entries, those that were removed included): let another admin go on"
    )]
    Full {
        /// How many there may be.
        limit: usize,
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
            Self::LastAdmin | Self::Oneself | Self::Count { .. } => ErrorKind::FailedPrecondition,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Text { .. } | Self::Experts { .. } => ErrorKind::InvalidInput,
            Self::Admins { .. } | Self::Full { .. } => ErrorKind::ResourceExhausted,
            Self::Document(_) => ErrorKind::Internal,
        }
    }
}

fn list(peers: &[PeerId]) -> String {
    let peers: Vec<String> = peers.iter().map(PeerId::to_string).collect();
    peers.join(", ")
}

impl Catalog {
    /// What holds in the mesh.
    pub fn charter(&self) -> &Charter {
        &self.merged.charter
    }

    /// Lays something down: one signed change of this node's charter document, or nothing when it
    /// holds already.
    pub fn edit_charter(&mut self, edit: CharterEdit) -> Result<Vec<Action>, CharterError> {
        let charter = &self.merged.charter;
        let Some(rank) = charter.rank(&self.me) else {
            let admins = charter.admins.iter().map(|a| a.peer).collect();
            let me = self.me;
            return Err(CharterError::NotAdmin { me, admins });
        };
        let mut fields: Vec<(Field, Vec<String>)> = Vec::new();
        let mut adopt = None;
        match edit {
            CharterEdit::Appoint(peer) => {
                if charter.is_admin(&peer) {
                    return Ok(Vec::new());
                }
                if self.merged.counted.len() >= CHARTER.admins {
                    let limit = CHARTER.admins;
                    return Err(CharterError::Admins { limit });
                }
                fields.push((role(&peer), vec![ADMIN.to_owned()]));
                if charter.is_revoked(&peer) {
                    fields.push((revoked(&peer), Vec::new()));
                }
            }
            CharterEdit::Dismiss { peer, void } => {
                self.check_rank(&peer, rank)?;
                if !charter.is_admin(&peer) {
                    return Err(not_found("admin", &peer.to_string(), "admin"));
                }
                if charter.admins.len() == 1 {
                    return Err(CharterError::LastAdmin);
                }
                fields.push((role(&peer), Vec::new()));
                adopt = Some(peer).filter(|p| !void && *p != self.me);
            }
            CharterEdit::Role { peer, role: given } => {
                self.check_rank(&peer, rank)?;
                if charter.is_admin(&peer) {
                    // Another role in its place takes it away.
                    if charter.admins.len() == 1 {
                        return Err(CharterError::LastAdmin);
                    }
                    adopt = Some(peer).filter(|p| *p != self.me);
                } else if given.is_none() && !charter.roles.contains_key(&peer) {
                    return Err(not_found("role of", &peer.to_string(), "role"));
                }
                if let Some(given) = &given {
                    check("role", given, CHARTER.role_bytes)?;
                    if given == ADMIN {
                        return self.edit_charter(CharterEdit::Appoint(peer));
                    }
                }
                fields.push((role(&peer), given.into_iter().collect()));
            }
            CharterEdit::Revoke { peer, out } => {
                if peer == self.me {
                    return Err(CharterError::Oneself);
                }
                self.check_rank(&peer, rank)?;
                if !out && !charter.is_revoked(&peer) {
                    return Err(not_found("revoked peer", &peer.to_string(), "revoked"));
                }
                let says = if out {
                    vec!["out".to_owned()]
                } else {
                    Vec::new()
                };
                fields.push((revoked(&peer), says));
                if out && charter.is_admin(&peer) {
                    fields.push((role(&peer), Vec::new()));
                    adopt = Some(peer);
                }
            }
            CharterEdit::Alias { name, expert } => {
                check("alias", &name, CHARTER.name_bytes)?;
                match &expert {
                    Some(expert) => check("expert", expert, CHARTER.expert_bytes)?,
                    None if charter.aliases.contains_key(&name) => {}
                    None => return Err(not_found("alias", &name, "alias")),
                }
                fields.push(((Section::Aliases, name), expert.into_iter().collect()));
            }
            CharterEdit::Category { name, experts } => {
                check("category", &name, CHARTER.name_bytes)?;
                for expert in &experts {
                    check("expert", expert, CHARTER.expert_bytes)?;
                }
                if experts.is_empty() && !charter.categories.contains_key(&name) {
                    return Err(not_found("category", &name, "category"));
                }
                if !Section::Categories.fits(&name, &experts) {
                    let limit = CHARTER.experts;
                    return Err(CharterError::Experts { limit });
                }
                fields.push(((Section::Categories, name), experts));
            }
            CharterEdit::Codebook { name, version } => {
                check("codebook", &name, CHARTER.name_bytes)?;
                if version.is_none() && !charter.codebooks.contains_key(&name) {
                    return Err(not_found("codebook", &name, "codebook"));
                }
                let says = version.iter().map(u64::to_string).collect();
                fields.push(((Section::Codebooks, name), says));
            }
        }
        self.lay_down(fields, adopt)
    }

    /// Whether this node, at `rank`, may take anything from `peer`.
    fn check_rank(&self, peer: &PeerId, rank: usize) -> Result<(), CharterError> {
        let counted = &self.merged.counted;
        let place = |p: &PeerId| counted.iter().position(|c| c == p);
        let own = place(&self.me).unwrap_or(rank);
        match place(peer) {
            Some(theirs) if theirs < own => Err(CharterError::Outranked {
                peer: *peer,
                seniors: counted[..=theirs].to_vec(),
            }),
            _ => Ok(()),
        }
    }

    fn lay_down(
        &mut self,
        fields: Vec<(Field, Vec<String>)>,
        adopt: Option<PeerId>,
    ) -> Result<Vec<Action>, CharterError> {
        let documents = |peer: &PeerId| self.charters.said(peer);
        let last = last_words(&self.merged.counted, &documents);
        let holds = |(field, says): &(Field, Vec<String>)| {
            let says_now = last.get(field).map_or(&[][..], |(_, e)| &e.says);
            says_now == says.as_slice()
        };
        if adopt.is_none() && fields.iter().all(holds) {
            return Ok(Vec::new());
        }
        let at = self.merged.last.saturating_add(1);
        if at > CHARTER.last_count {
            let by = last.values().max_by_key(|(_, e)| e.at);
            let by = by.map_or(self.me, |(by, _)| *by);
            return Err(CharterError::Count { by });
        }
        let mut entries = self.charters.said(&self.me).cloned().unwrap_or_default();
        // What a removed admin laid down stays only if somebody who counts says it.
        for (field, (by, entry)) in &last {
            if Some(*by) == adopt {
                entries.0.insert((*field).clone(), (*entry).clone());
            }
        }
        for (field, says) in fields {
            entries.0.insert(field, Entry { at, says });
        }
        self.write_entries(entries)
    }

    fn write_entries(&mut self, entries: Entries) -> Result<Vec<Action>, CharterError> {
        if entries.0.len() > CHARTER.entries {
            let limit = CHARTER.entries;
            return Err(CharterError::Full { limit });
        }
        let mut batch = Batch::default();
        let written = self.write_or_roll::<CharterKind>(entries, &mut batch);
        written.map_err(|refusal| match refusal {
            Refusal::TooMuch => CharterError::Full {
                limit: CHARTER.entries,
            },
            refusal => CharterError::Document(refusal),
        })?;
        Ok(self.finish(batch))
    }
}

fn role(peer: &PeerId) -> Field {
    (Section::Roles, peer.to_string())
}

fn revoked(peer: &PeerId) -> Field {
    (Section::Revoked, peer.to_string())
}

fn not_found(what: &'static str, name: &str, verb: &'static str) -> CharterError {
    let name = name.to_owned();
    CharterError::NotFound { what, name, verb }
}

fn check(what: &'static str, text: &str, limit: usize) -> Result<(), CharterError> {
    if super::is_text(text, limit) {
        return Ok(());
    }
    let text = text.chars().take(limit).collect();
    Err(CharterError::Text { what, text, limit })
}
