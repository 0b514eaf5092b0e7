//! The home's mesh: founding one, leaving it, and what a person may see of it.

use std::{collections::HashSet, sync::PoisonError};

use polymath_net::worth_telling;
use polymath_proto::v1;
use polymath_types::{
    Access, AnchorList, ErrorKind, Failure, Genesis, Invite, MeshSecret, NodeKey, PeerId,
};

use crate::{
    Home, HomeLock, InviteTerms, Membership, MeshKey, Node, anchors::Anchors, invites::Invites,
    join, sources::Kind, unix_now,
};

/// The name of the mesh that a home founds when it is told nothing.
fn usual_name(key: &NodeKey) -> String {
    let id = key.peer_id().to_string();
    format!("mesh-{}", &id[id.len().saturating_sub(6)..])
}

/// Whether somebody founded this mesh here by name; the one that a first start founds is given up
/// without asking.
pub(crate) fn founded_on_purpose(key: &NodeKey, membership: &Membership) -> bool {
    !membership.joined && membership.genesis.name() != usual_name(key)
}

/// An open mesh of this home alone.
pub(crate) fn own(key: &NodeKey) -> Result<Membership, Failure> {
    found(key, &usual_name(key), Access::Open)
}

fn found(key: &NodeKey, name: &str, access: Access) -> Result<Membership, Failure> {
    let genesis = Genesis::found(name, &key.keypair().public(), access)
        .map_err(|e| Failure::new(ErrorKind::InvalidInput, e.to_string()))?;
    Ok(Membership {
        genesis,
        joined: false,
        bootstrap: Vec::new(),
        port: 0,
        key: match access {
            Access::Open => MeshKey::None,
            Access::Closed => MeshKey::Secret(MeshSecret::from_bytes(crate::unguessable()?)),
        },
    })
}

/// Founds a mesh in a home that belongs to none, or to none but its own.
pub fn create(
    home: &Home,
    lock: &HomeLock,
    name: &str,
    access: Access,
) -> Result<v1::MeshView, Failure> {
    let key = home.identity(lock)?;
    let current = home.membership()?;
    if let Some(current) = &current
        && join::bound(home, &key, current)
    {
        return Err(Failure::new(
            ErrorKind::FailedPrecondition,
            format!(
                "this home belongs to mesh '{}' ({}): leave it first with `polymath mesh leave`, or found the new one in another home with --home DIR",
                current.genesis.name(),
                current.genesis.id().short()
            ),
        ));
    }
    let mut membership = found(&key, name, access)?;
    if membership.genesis.name() == usual_name(&key) {
        return Err(Failure::new(
            ErrorKind::InvalidInput,
            format!("'{name}' is what a mesh is called that nobody has named: choose another name"),
        ));
    }
    membership.port = current.map_or(0, |m| m.port);
    home.save_membership(&membership)?;
    view_at_rest(home)
}

/// Makes the home belong to no mesh again; says which one it left.
pub fn leave(home: &Home, lock: &HomeLock) -> Result<Membership, Failure> {
    let membership = home.membership()?.ok_or_else(no_mesh)?;
    home.forget_membership(lock)?;
    Ok(membership)
}

fn no_mesh() -> Failure {
    Failure::new(
        ErrorKind::NotFound,
        "this home belongs to no mesh: join one with `polymath join ADDR|INVITE`, or found one with `polymath mesh create NAME`",
    )
}

/// The home's mesh while no node runs.
pub fn view_at_rest(home: &Home) -> Result<v1::MeshView, Failure> {
    let membership = home.membership()?.ok_or_else(no_mesh)?;
    let dir = home.mesh_dir(membership.genesis.id());
    let anchors = Anchors::open(&membership.genesis, &dir);
    Ok(view(&membership, &anchors))
}

/// Writes an invite while no node runs: with the addresses that are configured, and the anchors'.
pub fn invite_at_rest(
    home: &Home,
    lock: &HomeLock,
    announced: &[String],
    terms: InviteTerms,
) -> Result<Invite, Failure> {
    let key = home.identity(lock)?;
    let membership = home.membership()?.ok_or_else(no_mesh)?;
    let dir = home.mesh_dir(membership.genesis.id());
    let me = key.peer_id();
    let addresses = announced.iter().map(|a| named(a, &me.to_string()));
    let anchors = Anchors::open(&membership.genesis, &dir).current();
    Invites::open(me, &dir)?.issue(
        &key,
        &membership,
        addresses.take(Invite::MAX_ADDRESSES).collect(),
        anchors.map(|(list, _)| list),
        terms,
    )
}

/// Signs a list of anchors of the home's mesh, with the next serial, and keeps it.
pub fn sign_anchors(
    home: &Home,
    lock: &HomeLock,
    addresses: Vec<String>,
    expires_in: Option<u64>,
) -> Result<AnchorList, Failure> {
    let key = home.identity(lock)?;
    let membership = home.membership()?.ok_or_else(no_mesh)?;
    let anchors = Anchors::open(&membership.genesis, &home.mesh_dir(membership.genesis.id()));
    let list = sign_next(&membership.genesis, &key, &anchors, addresses, expires_in)?;
    Ok(list)
}

fn sign_next(
    genesis: &Genesis,
    key: &NodeKey,
    anchors: &Anchors,
    addresses: Vec<String>,
    expires_in: Option<u64>,
) -> Result<AnchorList, Failure> {
    if !genesis.admins().contains(&key.peer_id()) {
        return Err(Failure::new(
            ErrorKind::PermissionDenied,
            format!(
                "only a founder of mesh '{}' can sign its list of anchors: {}",
                genesis.name(),
                founders(genesis).join(", ")
            ),
        ));
    }
    let now = unix_now();
    let serial = anchors.next_serial();
    let expires = expires_in.map(|s| now.saturating_add(s));
    let list = AnchorList::sign(genesis, key, serial, now, expires, addresses)
        .map_err(|e| Failure::new(ErrorKind::InvalidInput, e.to_string()))?;
    match anchors.offer(&list, "signed here")?.trouble() {
        None => Ok(list),
        Some(why) => Err(Failure::new(ErrorKind::FailedPrecondition, why)),
    }
}

/// `address` with `/p2p/` and this peer at its end.
fn named(address: &str, peer: &str) -> String {
    let bare = address.split("/p2p/").next().unwrap_or(address);
    format!("{bare}/p2p/{peer}")
}

fn founders(genesis: &Genesis) -> Vec<String> {
    genesis.admins().iter().map(ToString::to_string).collect()
}

fn view(membership: &Membership, anchors: &Anchors) -> v1::MeshView {
    let genesis = &membership.genesis;
    v1::MeshView {
        id: genesis.id().to_string(),
        name: genesis.name().to_owned(),
        access: genesis.access().to_string(),
        founders: founders(genesis),
        joined: membership.joined,
        inside: !matches!(membership.key, MeshKey::Invite(_)),
        waiting: String::new(),
        anchors: anchors.current().map(|(list, from)| v1::AnchorsView {
            serial: list.serial(),
            issued: list.issued(),
            expires: list.expires().unwrap_or(0),
            addresses: list.addresses().to_vec(),
            from,
        }),
        sources: Vec::new(),
        revoked_by: String::new(),
    }
}

impl Node {
    /// The node's mesh, and how members are found.
    pub fn mesh_view(&self) -> v1::MeshView {
        let inner = &self.inner;
        let membership = inner
            .membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut view = view(&membership, &inner.anchors);
        view.waiting = self.waiting().unwrap_or_default();
        view.revoked_by = self
            .revoked_by()
            .map(|by| by.to_string())
            .unwrap_or_default();
        let connected: HashSet<PeerId> = inner.net.peers().into_iter().map(|p| p.peer).collect();
        let counters = inner.net.counters();
        view.sources = inner.sources.view(
            |kind| match kind {
                Kind::LocalNetwork if !inner.config.net.local_discovery => {
                    Some("switched off (net.local_discovery)".into())
                }
                Kind::Catalog if !inner.config.catalog.exchange => {
                    Some("switched off (catalog.exchange)".into())
                }
                _ => None,
            },
            |kind| match kind {
                Kind::LocalNetwork => format!(
                    "announced; {} announcement(s) of members heard, {} of others",
                    counters.local_members_heard, counters.local_announcements_ignored
                ),
                Kind::Addresses if membership.bootstrap.is_empty() => {
                    "none is configured or known".into()
                }
                Kind::Anchors if view.anchors.is_none() => "no list of anchors is known".into(),
                _ => "nobody to try".into(),
            },
            |peer| connected.contains(peer),
        );
        view
    }

    /// Why this node has not been let into its closed mesh yet, if it waits for that.
    pub(crate) fn waiting(&self) -> Option<String> {
        let inner = &self.inner;
        let membership = inner.membership.lock();
        let membership = membership.unwrap_or_else(PoisonError::into_inner);
        if !matches!(membership.key, MeshKey::Invite(_)) {
            return None;
        }
        let refusal = inner.door.as_ref().and_then(polymath_net::Door::refusal);
        Some(match refusal {
            Some((by, refused)) => format!("{refused} (said {by})"),
            None => "no member that the invite names could be reached yet".into(),
        })
    }

    /// Writes an invite with the addresses under which this node can be reached.
    pub fn invite(&self, terms: InviteTerms) -> Result<Invite, Failure> {
        let inner = &self.inner;
        let membership = inner
            .membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let anchors = inner.anchors.current().map(|(list, _)| list);
        inner
            .invites
            .issue(&inner.key, &membership, self.told(), anchors, terms)
    }

    /// Signs a list of the mesh's anchors; without addresses, this node alone.
    pub fn sign_anchors(
        &self,
        addresses: Vec<String>,
        expires_in: Option<u64>,
    ) -> Result<AnchorList, Failure> {
        let inner = &self.inner;
        let addresses = if addresses.is_empty() {
            self.told()
        } else {
            addresses
        };
        sign_next(
            inner.net.genesis(),
            &inner.key,
            &inner.anchors,
            addresses,
            expires_in,
        )
    }

    /// Addresses of this node that are good for others, the best first.
    fn told(&self) -> Vec<String> {
        let inner = &self.inner;
        let me = inner.net.local_peer().to_string();
        let announced = inner.net.announced().borrow().clone();
        let reported = announced
            .into_iter()
            .chain(inner.net.listen_addrs().borrow().clone())
            .collect();
        let mut told: Vec<String> = inner
            .config
            .net
            .announce
            .iter()
            .cloned()
            .chain(
                worth_telling(reported, Invite::MAX_ADDRESSES)
                    .iter()
                    .map(ToString::to_string),
            )
            .map(|a| named(&a, &me))
            .collect();
        let mut seen = HashSet::new();
        told.retain(|a| seen.insert(a.clone()));
        told.truncate(Invite::MAX_ADDRESSES);
        told
    }
}
