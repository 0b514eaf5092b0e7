//! What an admin may lay down.

mod error;
mod room;

pub use error::CharterError;
use polymath_types::{ADMIN, Charter, PeerId};
use room::Purpose;

use super::{
    Entries, Entry, Field, Section, appoints,
    merge::{last_words, merge},
    peer_of,
};
use crate::{Catalog, catalog::Action, envelope, limits::CHARTER};

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

/// What an edit comes to.
#[derive(Debug, Default)]
struct Draft {
    fields: Vec<(Field, Vec<String>)>,
    /// It is news whatever the last word is: who counts may have resigned, or be revoked.
    standing: bool,
    /// Another admin that does not count from now on.
    removed: Option<PeerId>,
    /// What the removed one laid down goes with it.
    void: bool,
    /// How much of the document it may use.
    purpose: Purpose,
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
        let counts = |peer: &PeerId| self.merged.counted.contains(peer);
        let mut draft = Draft::default();
        match edit {
            CharterEdit::Appoint(peer) => {
                if charter.is_admin(&peer) {
                    return Ok(Vec::new());
                }
                if !envelope::can_sign(&peer) {
                    return Err(CharterError::Mute { peer });
                }
                if self.merged.counted.len() >= CHARTER.admins && !counts(&peer) {
                    let limit = CHARTER.admins;
                    return Err(CharterError::Admins { limit });
                }
                draft.fields.push((role(&peer), vec![ADMIN.to_owned()]));
                if charter.is_revoked(&peer) {
                    draft.fields.push((revoked(&peer), Vec::new()));
                }
                draft.standing = true;
                draft.purpose = Purpose::Roles;
            }
            CharterEdit::Dismiss { peer, void } => {
                self.check_rank(&peer, rank)?;
                if !counts(&peer) {
                    return Err(not_found("admin", &peer.to_string(), "admin"));
                }
                if !void {
                    self.check_heard(&peer)?;
                }
                draft = self.removal(peer, void)?;
                draft.fields.push((role(&peer), Vec::new()));
            }
            CharterEdit::Role { peer, role: given } => {
                self.check_rank(&peer, rank)?;
                if let Some(given) = &given {
                    check("role", given, CHARTER.role_bytes)?;
                    if given == ADMIN {
                        return self.edit_charter(CharterEdit::Appoint(peer));
                    }
                }
                if counts(&peer) {
                    self.check_heard(&peer)?;
                    // Another role in its place takes it away.
                    draft = self.removal(peer, false)?;
                } else if given.is_none() && !charter.roles.contains_key(&peer) {
                    return Err(not_found("role of", &peer.to_string(), "role"));
                }
                draft.purpose = match given {
                    Some(_) if !counts(&peer) => Purpose::Roles,
                    _ => Purpose::Removal,
                };
                let says = given.into_iter().collect();
                draft.fields.push((role(&peer), says));
            }
            CharterEdit::Revoke { peer, out } => {
                if peer == self.me {
                    return Err(CharterError::Oneself);
                }
                self.check_rank(&peer, rank)?;
                if !out && !charter.is_revoked(&peer) {
                    return Err(not_found("revoked peer", &peer.to_string(), "revoked"));
                }
                if out && counts(&peer) {
                    draft = self.removal(peer, false)?;
                    draft.fields.push((role(&peer), Vec::new()));
                }
                draft.purpose = Purpose::Removal;
                let says = out.then(|| "out".to_owned()).into_iter().collect();
                draft.fields.push((revoked(&peer), says));
            }
            CharterEdit::Alias { name, expert } => {
                check("alias", &name, CHARTER.name_bytes)?;
                match &expert {
                    Some(_) if Charter::is_reserved(&name) => {
                        return Err(CharterError::Reserved { name });
                    }
                    Some(expert) => check("expert", expert, CHARTER.expert_bytes)?,
                    None if charter.aliases.contains_key(&name) => {}
                    None => return Err(not_found("alias", &name, "alias")),
                }
                let field = (Section::Aliases, name);
                draft.fields.push((field, expert.into_iter().collect()));
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
                draft.fields.push(((Section::Categories, name), experts));
            }
            CharterEdit::Codebook { name, version } => {
                check("codebook", &name, CHARTER.name_bytes)?;
                if version.is_none() && !charter.codebooks.contains_key(&name) {
                    return Err(not_found("codebook", &name, "codebook"));
                }
                let says = version.iter().map(u64::to_string).collect();
                draft.fields.push(((Section::Codebooks, name), says));
            }
        }
        self.lay_down(draft)
    }

    /// Whether this node, at `rank`, may take anything from `peer`.
    fn check_rank(&self, peer: &PeerId, rank: usize) -> Result<(), CharterError> {
        let counted = &self.merged.counted;
        let own = self.merged.place(&self.me).unwrap_or(rank);
        match self.merged.place(peer) {
            Some(theirs) if theirs < own => Err(CharterError::Outranked {
                peer: *peer,
                seniors: counted[..=theirs].to_vec(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether all that `peer` said can be repeated: of what it says of two minds one half would go silently.
    fn check_heard(&self, peer: &PeerId) -> Result<(), CharterError> {
        match self.contradicts_itself(peer) {
            true => Err(CharterError::Unheard { peer: *peer }),
            false => Ok(()),
        }
    }

    /// Begins an edit after which `peer`, which counts, is no admin: who resigned counts, too.
    fn removal(&self, peer: PeerId, void: bool) -> Result<Draft, CharterError> {
        let charter = &self.merged.charter;
        if charter.is_admin(&peer) && charter.admins.len() == 1 {
            return Err(CharterError::LastAdmin);
        }
        Ok(Draft {
            standing: true,
            removed: Some(peer).filter(|peer| *peer != self.me),
            void,
            purpose: Purpose::Removal,
            ..Draft::default()
        })
    }

    fn lay_down(&mut self, draft: Draft) -> Result<Vec<Action>, CharterError> {
        let documents = |peer: &PeerId| self.heard(peer);
        let last = last_words(&self.merged.counted, &documents);
        let holds = |(field, says): &(Field, Vec<String>)| {
            let says_now = last.get(field).map_or(&[][..], |(_, e)| &e.says);
            says_now == says.as_slice()
        };
        if !draft.standing && draft.fields.iter().all(holds) {
            return Ok(Vec::new());
        }
        // What a removed admin laid down stays only if somebody who counts says it.
        let adopted = match draft.removed.filter(|_| !draft.void) {
            Some(gone) => self.held_by(&gone),
            None => Vec::new(),
        };
        let at = self.next_count(draft.removed, adopted.len())?;
        let adopting = !adopted.is_empty();
        let new = adopted.into_iter().zip(at + 1..);
        let new = new.chain(draft.fields.into_iter().zip(std::iter::repeat(at)));
        let mut entries = self.heard(&self.me).cloned().unwrap_or_default();
        for ((field, says), at) in new {
            let voided = self.voided_by(&field, draft.removed);
            entries.0.insert(field, Entry { at, says, voided });
        }
        // What is repeated of another one leaves room for what is to be taken away next.
        let purpose = if adopting {
            Purpose::Roles
        } else {
            draft.purpose
        };
        let written = self.write_entries(entries, purpose);
        written.map_err(|error| match (error, draft.removed) {
            (CharterError::Full { .. } | CharterError::TooLarge { .. }, Some(peer)) if adopting => {
                CharterError::Adoption { peer }
            }
            (error, _) => error,
        })
    }

    /// Up to which epoch nothing is to count of the document of the peer that a field of roles names: what
    /// is said of that already by those who have a say in it, and of one that is removed all that is known of
    /// it now.
    fn voided_by(&self, field: &Field, removed: Option<PeerId>) -> u64 {
        if field.0 != Section::Roles {
            return 0;
        }
        let about = peer_of(&field.1).and_then(|peer| self.merged.place(&peer));
        let seniors = about.unwrap_or(self.merged.counted.len());
        let counted = self.merged.counted.iter().take(seniors);
        let said = counted.filter_map(|peer| self.heard(peer)?.0.get(field));
        let said = said.map(|entry| entry.voided);
        let said = said.filter(|epoch| *epoch <= self.latest_epoch).max();
        let removed = removed.filter(|gone| *field == role(gone));
        let known = removed
            .and_then(|gone| self.charters.epoch(&gone))
            .unwrap_or(0);
        said.unwrap_or(0).max(known)
    }

    /// What of an admin's words holds in the charter, the earliest first.
    fn held_by(&self, admin: &PeerId) -> Vec<(Field, Vec<String>)> {
        let counted = &self.merged.counted;
        let last = last_words(counted, &|peer: &PeerId| self.heard(peer));
        // Whom it appointed in vain would be an admin by the word of this node.
        let in_vain = |(section, key): &Field, entry: &Entry| {
            *section == Section::Roles
                && appoints(entry)
                && !peer_of(key).is_some_and(|peer| counted.contains(&peer))
        };
        let mut held: Vec<(&Field, &Entry)> = last
            .into_iter()
            .filter(|(field, (by, entry))| by == admin && !in_vain(field, entry))
            .map(|(field, (_, entry))| (field, entry))
            .collect();
        held.sort_by_key(|(_, entry)| entry.at);
        let held = held.into_iter();
        held.map(|(field, entry)| (field.clone(), entry.says.clone()))
            .collect()
    }

    /// The count of what is laid down next, if `more` are to follow it. What removes an admin comes after
    /// all that remains without it: its counts must not be in the way. Where it is repeated those remain, too,
    /// whom it appointed. Should others' counts be in the way, those of its seniors are enough, since nobody
    /// else has a say in it.
    fn next_count(&self, removed: Option<PeerId>, more: usize) -> Result<u64, CharterError> {
        let counted = &self.merged.counted;
        let last = match removed {
            None => self.merged.last,
            Some(gone) if more > 0 => {
                let remaining = counted.iter().filter(|peer| **peer != gone);
                remaining.map(|peer| self.highest(peer)).max().unwrap_or(0)
            }
            Some(gone) => {
                let remaining = |peer: &PeerId| self.paper(peer).filter(|_| *peer != gone);
                merge(&self.founders, self.latest_epoch, remaining).last
            }
        };
        let fits = |at: &u64| {
            let last = at.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
            last <= CHARTER.last_count
        };
        let at = last.saturating_add(1);
        if fits(&at) {
            return Ok(at);
        }
        let place = removed.and_then(|gone| self.merged.place(&gone));
        let seniors = place.filter(|_| more == 0).map(|n| &counted[..n]);
        let at = seniors.and_then(|s| s.iter().map(|peer| self.highest(peer)).max());
        if let Some(at) = at.map(|at| at.saturating_add(1)).filter(fits) {
            return Ok(at);
        }
        let others = counted.iter().filter(|peer| Some(**peer) != removed);
        let by = others.max_by_key(|peer| self.highest(peer)).copied();
        Err(CharterError::Count {
            by: by.unwrap_or(self.me),
        })
    }

    /// The highest count that an author says which is heard.
    fn highest(&self, author: &PeerId) -> u64 {
        let entries = self.heard(author).into_iter().flat_map(|d| d.0.values());
        entries.map(|entry| entry.at).max().unwrap_or(0)
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
