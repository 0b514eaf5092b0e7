//! The charter at work: what a person lays down, and whom the network shuts out by it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use polymath_catalog::{CharterEdit, CharterError};
use polymath_proto::v1::{self, charter_edit::Edit};
use polymath_types::{Charter, ErrorKind, Failure, Index, PeerId, Stated};

use crate::{
    Home, HomeLock, Node,
    catalog::{look_at_rest, open_at_rest},
};

impl Node {
    /// What the mesh's admins have laid down, as far as it is known here.
    pub(crate) fn charter(&self) -> Arc<Charter> {
        Arc::clone(self.inner.index.load().charter())
    }

    /// Lays something down; returns when it is on the disk.
    pub(crate) async fn edit_charter(
        &self,
        edit: Option<v1::CharterEdit>,
    ) -> Result<v1::EditCharterResponse, Failure> {
        let edit = from_proto(edit)?;
        let unknown = unknown(&edit, &self.inner.index.load());
        let changed = self.inner.sync.edit_charter(edit).await?;
        Ok(v1::EditCharterResponse {
            changed,
            charter: Some(to_proto(&self.charter())),
            unknown,
        })
    }

    /// Names that stand for experts: their ids, names or models' names.
    pub fn aliases(&self) -> BTreeMap<String, String> {
        let charter = self.charter();
        let aliases = charter.aliases.iter();
        aliases.map(|(n, e)| (n.clone(), e.value.clone())).collect()
    }

    /// The admin who shut this node out of its mesh, if one did.
    pub(crate) fn revoked_by(&self) -> Option<PeerId> {
        let me = self.inner.net.local_peer();
        self.charter().revoked.get(&me).map(|stated| stated.by)
    }
}

/// Between hearing that a connected peer is shut out and ending its connections: so long the charter
/// has to reach it, too, which tells it why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Keeps the network from talking to whom the charter shuts out, from when that is known here.
pub(crate) async fn shut_out(node: Node) {
    let inner = &node.inner;
    let mut changed = inner.sync.changed();
    let mut before = HashSet::new();
    loop {
        changed.mark_unchanged();
        let now = revoked(&node.charter());
        if now != before {
            let connected = inner.net.peers().into_iter();
            if connected.map(|p| p.peer).any(|p| now.contains(&p)) {
                tokio::time::sleep(LAST_WORD).await;
            }
            inner.net.shut_out(Arc::new(now.clone()));
            before = now;
        }
        tokio::select! {
            () = inner.cancel.cancelled() => return,
            more = changed.changed() => if more.is_err() {
                return;
            },
        }
    }
}

/// The peers that a charter shuts out.
pub(crate) fn revoked(charter: &Charter) -> HashSet<PeerId> {
    charter.revoked.keys().copied().collect()
}

/// The charter while no node runs.
pub fn charter_at_rest(home: &Home, lock: &HomeLock) -> Result<v1::CharterView, Failure> {
    Ok(to_proto(look_at_rest(home, lock)?.charter()))
}

/// Lays something down while no node runs; the next start tells others.
pub fn edit_charter_at_rest(
    home: &Home,
    lock: &HomeLock,
    edit: v1::CharterEdit,
) -> Result<v1::EditCharterResponse, Failure> {
    let mut at_rest = open_at_rest(home, lock)?;
    let edit = from_proto(Some(edit))?;
    let unknown = unknown(&edit, &at_rest.catalog.index());
    let actions = at_rest.catalog.edit_charter(edit);
    let actions = actions.map_err(|e| failure(&e))?;
    let changed = !actions.is_empty();
    at_rest.write(actions)?;
    Ok(v1::EditCharterResponse {
        changed,
        charter: Some(to_proto(at_rest.catalog.charter())),
        unknown,
    })
}

/// The experts named in an edit that nobody is known to offer: it may be ahead of them, or mistyped.
fn unknown(edit: &CharterEdit, index: &Index) -> Vec<String> {
    let named = match edit {
        CharterEdit::Alias { expert, .. } => expert.as_slice(),
        CharterEdit::Category { experts, .. } => experts,
        _ => &[],
    };
    let offered = |name: &&String| index.experts().any(|e| Index::names(e, name));
    named.iter().filter(|n| !offered(n)).cloned().collect()
}

/// Why an edit was refused.
pub(crate) fn failure(why: &CharterError) -> Failure {
    Failure::new(why.kind(), why.to_string())
}

fn from_proto(edit: Option<v1::CharterEdit>) -> Result<CharterEdit, Failure> {
    let wrong = |what: String| Failure::new(ErrorKind::InvalidInput, what);
    let peer = |text: &str| {
        text.parse::<PeerId>().map_err(|_| {
            wrong(format!(
                "'{text}' is not a peer id: `polymath peers` shows them, `polymath identity show` this node's own"
            ))
        })
    };
    let edit = edit.and_then(|e| e.edit);
    let edit = edit.ok_or_else(|| wrong("the edit says nothing that this version knows".into()))?;
    Ok(match edit {
        Edit::Appoint(who) => CharterEdit::Appoint(peer(&who)?),
        Edit::Dismiss(edit) => CharterEdit::Dismiss {
            peer: peer(&edit.peer)?,
            void: edit.void,
        },
        Edit::Role(edit) => CharterEdit::Role {
            peer: peer(&edit.key)?,
            role: edit.says.into_iter().next(),
        },
        Edit::Revoke(who) => CharterEdit::Revoke {
            peer: peer(&who)?,
            out: true,
        },
        Edit::Readmit(who) => CharterEdit::Revoke {
            peer: peer(&who)?,
            out: false,
        },
        Edit::Alias(edit) => CharterEdit::Alias {
            name: edit.key,
            expert: edit.says.into_iter().next(),
        },
        Edit::Category(edit) => CharterEdit::Category {
            name: edit.key,
            experts: edit.says,
        },
        Edit::Codebook(edit) => {
            let version = edit.says.into_iter().next();
            let version = version.map(|text| {
                text.parse().map_err(|_| {
                    wrong(format!(
                        "'{text}' is not a version: it is a whole number from 0"
                    ))
                })
            });
            CharterEdit::Codebook {
                name: edit.key,
                version: version.transpose()?,
            }
        }
    })
}

/// The charter as people see it.
pub(crate) fn to_proto(charter: &Charter) -> v1::CharterView {
    fn all<K: ToString, T>(
        of: &BTreeMap<K, Stated<T>>,
        says: impl Fn(&T) -> Vec<String>,
    ) -> Vec<v1::Statement> {
        let one = |(key, stated): (&K, &Stated<T>)| v1::Statement {
            key: key.to_string(),
            says: says(&stated.value),
            by: stated.by.to_string(),
        };
        of.iter().map(one).collect()
    }
    let admin = |admin: &polymath_types::Admin| v1::AdminView {
        peer: admin.peer.to_string(),
        by: admin.by.map(|by| by.to_string()).unwrap_or_default(),
    };
    v1::CharterView {
        admins: charter.admins.iter().map(admin).collect(),
        roles: all(&charter.roles, |role| vec![role.clone()]),
        revoked: all(&charter.revoked, |()| Vec::new()),
        aliases: all(&charter.aliases, |expert| vec![expert.clone()]),
        categories: all(&charter.categories, Clone::clone),
        codebooks: all(&charter.codebooks, |version| vec![version.to_string()]),
    }
}
