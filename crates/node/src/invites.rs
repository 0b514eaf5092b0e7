//! Invites: writing them, and letting those in who come by one.
//!
//! An invite whose uses are not counted is good at every member. One whose uses are counted is good
//! at its issuer alone, whose ledger holds, from the moment it is written, who has come by it. A use
//! is on disk before the secret leaves; the same peer coming again uses nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use polymath_net::{Doorkeeper, Refused};
use polymath_types::{
    AnchorList, ErrorKind, Failure, Format, Index, Invite, InviteClaims, NodeKey, PeerId,
};
use serde::{Deserialize, Serialize};

use crate::{
    Membership, MeshKey,
    home::{io_failure, write_atomic},
    unix_now,
};

/// Counted invites that are good at the same time.
const MOST: usize = 256;

/// How long an invite is good and for how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InviteTerms {
    /// Seconds from now; none for ever.
    pub expires_in: Option<u64>,
    /// Peers that may come by it; none for any number.
    pub uses: Option<u32>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    version: u32,
    invites: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Hexadecimal.
    id: String,
    expires: Option<u64>,
    uses: u32,
    /// Who has come by it.
    came: Vec<String>,
}

/// The ledger of one mesh's counted invites.
#[derive(Debug, Clone)]
pub(crate) struct Invites {
    me: PeerId,
    file: PathBuf,
    ledger: Arc<Mutex<Ledger>>,
    /// Has the charter, which may have shut out who wrote an invite.
    index: Arc<ArcSwap<Index>>,
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

impl Invites {
    /// The ledger in `dir`. One that cannot be read is an error: to begin anew would make used
    /// invites good again.
    pub(crate) fn open(me: PeerId, dir: &Path) -> Result<Self, Failure> {
        let file = dir.join("invites.json");
        let ledger = match fs::read(&file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ledger::default(),
            Err(e) => return Err(io_failure("read", &file, &e)),
            Ok(bytes) => {
                let ledger: Ledger = serde_json::from_slice(&bytes).map_err(|e| {
                    Failure::new(
                        ErrorKind::DataLoss,
                        format!(
                            "{} is damaged ({e}): restore it, or remove it and write new invites",
                            file.display()
                        ),
                    )
                })?;
                Format::InviteLedger.check(ledger.version).map_err(|e| {
                    Failure::new(
                        ErrorKind::VersionMismatch,
                        format!("{}: {e}", file.display()),
                    )
                })?;
                ledger
            }
        };
        Ok(Self {
            me,
            file,
            ledger: Arc::new(Mutex::new(ledger)),
            index: Arc::default(),
        })
    }

    /// The same, heeding the charter of this index.
    pub(crate) fn heeding(mut self, index: Arc<ArcSwap<Index>>) -> Self {
        self.index = index;
        self
    }

    /// Changes the ledger; what `change` made of it is on disk when this returns.
    fn change<T, E>(
        &self,
        change: impl FnOnce(&mut Ledger) -> Result<T, E>,
    ) -> Result<Result<T, E>, Failure> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = ledger.clone();
        let now = unix_now();
        next.version = Format::InviteLedger.current();
        next.invites
            .retain(|e| e.expires.is_none_or(|end| end > now));
        let outcome = change(&mut next);
        if outcome.is_ok() {
            let bytes = serde_json::to_vec_pretty(&next).unwrap_or_default();
            write_atomic(&self.file, &bytes)?;
            *ledger = next;
        }
        Ok(outcome)
    }

    /// Writes an invite into the home's mesh.
    pub(crate) fn issue(
        &self,
        key: &NodeKey,
        membership: &Membership,
        addresses: Vec<String>,
        anchors: Option<AnchorList>,
        terms: InviteTerms,
    ) -> Result<Invite, Failure> {
        let wrong = |kind, what: &str| Err(Failure::new(kind, what));
        let secret = match &membership.key {
            MeshKey::None => None,
            MeshKey::Secret(secret) => Some(secret),
            MeshKey::Invite(_) => {
                return wrong(
                    ErrorKind::FailedPrecondition,
                    "this home has not been let into its mesh yet, so it cannot invite others: wait until its own invite is redeemed",
                );
            }
        };
        if terms.uses.is_some_and(|n| n == 0 || n > Invite::MAX_USES) {
            return wrong(ErrorKind::InvalidInput, "an invite has 1 to 100 uses");
        }
        if terms.uses.is_some() && secret.is_none() {
            return wrong(
                ErrorKind::FailedPrecondition,
                "this mesh is open, nobody counts who comes in: leave --uses away, or found a closed one with `polymath mesh create NAME --closed`",
            );
        }
        if addresses.is_empty() && anchors.is_none() {
            return wrong(
                ErrorKind::FailedPrecondition,
                "no address of a member is known to put into the invite: start the node with `polymath up`, or name one with net.announce",
            );
        }
        let claims = InviteClaims {
            id: crate::unguessable()?,
            issuer: key.peer_id(),
            expires: terms.expires_in.map(|s| unix_now().saturating_add(s)),
            uses: terms.uses,
        };
        if let Some(uses) = claims.uses {
            let entry = Entry {
                id: hex(&claims.id),
                expires: claims.expires,
                uses,
                came: Vec::new(),
            };
            self.change(|ledger| {
                if ledger.invites.len() >= MOST {
                    return Err(Failure::new(
                        ErrorKind::ResourceExhausted,
                        format!("{MOST} counted invites are good already, the most there may be: let some expire"),
                    ));
                }
                ledger.invites.push(entry);
                Ok(())
            })??;
        }
        Invite::issue(&membership.genesis, key, claims, addresses, anchors, secret)
            .map_err(|e| Failure::new(e.kind(), e.to_string()))
    }

    /// Whether `guest` may come in by an invite that was really issued with these claims.
    fn redeem(&self, guest: PeerId, claims: &InviteClaims) -> Result<(), Refused> {
        if claims.expired(unix_now()) {
            return Err(Refused::Expired);
        }
        // The network turns away whom the charter shuts out; who wrote the invite it does not know.
        if self.index.load().charter().is_revoked(&claims.issuer) {
            return Err(Refused::Unknown);
        }
        if claims.uses.is_none() {
            return Ok(());
        }
        if claims.issuer != self.me {
            return Err(Refused::NotTheIssuer(claims.issuer));
        }
        let (id, guest) = (hex(&claims.id), guest.to_string());
        let used = self.change(|ledger| {
            let entry = ledger
                .invites
                .iter_mut()
                .find(|e| e.id == id)
                .ok_or(Refused::Unknown)?;
            if entry.came.contains(&guest) {
                return Ok(());
            }
            if entry.came.len() >= entry.uses as usize {
                return Err(Refused::UsedUp);
            }
            entry.came.push(guest);
            Ok(())
        });
        used.unwrap_or_else(|e| {
            tracing::warn!("nobody can be let in by an invite: {e}");
            Err(Refused::Busy)
        })
    }
}

impl Doorkeeper for Invites {
    fn admit(
        &self,
        guest: PeerId,
        claims: InviteClaims,
    ) -> BoxFuture<'static, Result<(), Refused>> {
        let invites = self.clone();
        // A use is synced to disk: off the async threads.
        let redeemed = tokio::task::spawn_blocking(move || invites.redeem(guest, &claims));
        Box::pin(async move { redeemed.await.unwrap_or(Err(Refused::Busy)) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polymath_types::{Access, Genesis, MeshSecret};

    use super::*;

    fn scene(access: Access) -> (tempfile::TempDir, NodeKey, Membership) {
        let key = NodeKey::generate();
        let secret = MeshSecret::from_bytes([5; 32]);
        let membership = Membership {
            genesis: Genesis::found("home", &key.keypair().public(), access).unwrap(),
            joined: false,
            bootstrap: Vec::new(),
            port: 0,
            key: match access {
                Access::Open => MeshKey::None,
                Access::Closed => MeshKey::Secret(secret),
            },
        };
        (tempfile::tempdir().unwrap(), key, membership)
    }

    fn terms(expires_in: Option<u64>, uses: Option<u32>) -> InviteTerms {
        InviteTerms { expires_in, uses }
    }

    #[test]
    fn uses_are_counted_by_peer_and_over_restarts() {
        let (dir, key, membership) = scene(Access::Closed);
        let open = || Invites::open(key.peer_id(), dir.path()).unwrap();
        let address = vec![format!("/ip4/192.0.2.1/tcp/1/p2p/{}", key.peer_id())];
        let issue = |terms| open().issue(&key, &membership, address.clone(), None, terms);
        let twice = issue(terms(Some(60), Some(2))).unwrap();
        let (a, b, c) = (PeerId::random(), PeerId::random(), PeerId::random());
        for guest in [a, b, a, b] {
            assert_eq!(open().redeem(guest, twice.claims()), Ok(()));
        }
        assert_eq!(open().redeem(c, twice.claims()), Err(Refused::UsedUp));
        let any = issue(terms(None, None)).unwrap();
        assert_eq!(open().redeem(c, any.claims()), Ok(()));
        let over = issue(terms(Some(0), Some(1))).unwrap();
        assert_eq!(open().redeem(c, over.claims()), Err(Refused::Expired));
        // At another member, and at the issuer who has lost its ledger.
        let other = tempfile::tempdir().unwrap();
        let elsewhere = Invites::open(PeerId::random(), other.path()).unwrap();
        let told = elsewhere.redeem(a, twice.claims());
        assert_eq!(told, Err(Refused::NotTheIssuer(key.peer_id())));
        assert_eq!(elsewhere.redeem(a, any.claims()), Ok(()));
        fs::remove_file(dir.path().join("invites.json")).unwrap();
        assert_eq!(open().redeem(a, twice.claims()), Err(Refused::Unknown));
    }

    #[test]
    fn what_cannot_be_kept_is_not_promised() {
        let (dir, key, mut membership) = scene(Access::Open);
        let invites = Invites::open(key.peer_id(), dir.path()).unwrap();
        let address = vec![format!("/ip4/192.0.2.1/tcp/1/p2p/{}", key.peer_id())];
        let counted = invites.issue(&key, &membership, address, None, terms(None, Some(1)));
        assert!(counted.unwrap_err().message.contains("--uses"));
        let nowhere = invites.issue(&key, &membership, Vec::new(), None, terms(None, None));
        assert_eq!(nowhere.unwrap_err().kind, ErrorKind::FailedPrecondition);
        let (_, _, closed) = scene(Access::Closed);
        membership.key = closed.key;
        let many = invites.issue(&key, &membership, Vec::new(), None, terms(None, Some(101)));
        assert_eq!(many.unwrap_err().kind, ErrorKind::InvalidInput);
        fs::write(dir.path().join("invites.json"), "{").unwrap();
        let damaged = Invites::open(key.peer_id(), dir.path()).unwrap_err();
        assert_eq!(damaged.kind, ErrorKind::DataLoss);
    }
}
