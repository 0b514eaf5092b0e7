//! Joining a mesh: by the address of a member or by an invite, and making the home belong to it.
//!
//! An address leads into open meshes only: whoever answers tells which mesh it is in. An invite
//! tells that itself. Into a closed mesh it also opens the door, at which a member hands out the
//! secret; a home that is told to join unattended may keep the invite until that has happened.

use std::{sync::PoisonError, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use polymath_net::{Door, Hello, HelloError, Net, NetConfig, Role};
use polymath_proto::v1;
use polymath_types::{
    Access, AnchorList, ErrorKind, Failure, Genesis, Invite, MeshId, MeshSecret, NodeKey, PeerId,
};

use crate::{
    AGENT, End, Home, HomeLock, Membership, MeshKey, Node, anchors,
    doctor::{Place, Reachability, reachability},
    listen::{parse_address, parse_dialable},
    mesh, misses, records, unix_now,
    unused::Unused,
};

/// Time for a peer to say which mesh it is in, or to open the door.
const HELLO: Duration = Duration::from_secs(15);

/// What a home is to join.
#[derive(Debug, Clone)]
pub enum Entrance {
    /// The mesh of whoever answers at this multiaddr.
    Address(String),
    /// The mesh this invites into.
    Invite(Box<Invite>),
}

impl Entrance {
    /// Reads an address, an invite, or `public`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        if text == "public" {
            return Err(no_public_mesh());
        }
        if Invite::is_meant(text) {
            let invite: Invite = text
                .parse()
                .map_err(|e: polymath_types::InviteError| Failure::new(e.kind(), e.to_string()))?;
            return Ok(Self::Invite(Box::new(invite)));
        }
        parse_dialable(text).map_err(|mut f| {
            f.message.push_str(", or give an invite");
            f
        })?;
        Ok(Self::Address(text.to_owned()))
    }
}

fn no_public_mesh() -> Failure {
    Failure::new(
        ErrorKind::NotFound,
        format!(
            "no public mesh is known: the list of public anchors in this build has {} entries, because nobody runs any for you; \
             join by the address of a member or by an invite, or found a mesh with `polymath mesh create NAME`",
            anchors::PUBLIC.len()
        ),
    )
}

/// What joining came to.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The home belongs to the mesh.
    Joined(Joined),
    /// Nothing was done yet: this is to be understood first, and joining asked for again.
    Notice(Notice),
}

impl From<Outcome> for v1::JoinResponse {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Joined(joined) => Self {
                mesh_id: joined.mesh.to_string(),
                mesh_name: joined.name,
                peer: joined.peer.map(|p| p.to_string()).unwrap_or_default(),
                trouble: joined.trouble,
                ..Self::default()
            },
            Outcome::Notice(notice) => Self {
                notice: notice.text(),
                mesh_name: notice.name,
                ..Self::default()
            },
        }
    }
}

/// What everybody who joins an open mesh of others is told once.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The mesh's name.
    pub name: String,
}

impl Notice {
    /// For people.
    pub fn text(&self) -> String {
        format!(
            "'{}' is an open mesh: anybody can join it, and nobody vouches for its members. The questions you ask go, as they are, \
             to peers that the router chooses, and those peers can read and keep them. Every member sees your node's id, its addresses \
             and which experts it serves, and may ask those. Do not ask what strangers must not know.",
            self.name
        )
    }

    /// For those who cannot be asked.
    pub fn refusal(&self) -> Failure {
        Failure::new(
            ErrorKind::FailedPrecondition,
            format!(
                "{} If that is understood, say so with --accept-public (or accept_public = true, or POLYMATH_ACCEPT_PUBLIC=true)",
                self.text()
            ),
        )
    }
}

/// A mesh joined.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The mesh's id.
    pub mesh: MeshId,
    /// The mesh's name.
    pub name: String,
    /// The member that was met; none when an invite into an open mesh was taken and nobody answered.
    pub peer: Option<PeerId>,
    /// Whether the home belonged to another mesh, its own, or to none until now.
    pub moved: bool,
    /// Whether an invite has just opened the door of a closed mesh.
    pub entered: bool,
    /// Why no member was met yet, if none was.
    pub trouble: String,
}

/// Makes a home that no node runs on belong to a mesh. With `accepted` the [`Notice`] is
/// understood.
pub async fn join(
    home: &Home,
    lock: &HomeLock,
    entrance: &Entrance,
    accepted: bool,
) -> Result<Outcome, Failure> {
    let key = home.identity(lock)?;
    let current = home.membership()?;
    match entrance {
        Entrance::Address(address) => {
            let net = passing_net(&key, current.as_ref()).await?;
            let hello = hello(&net, address).await;
            net.shutdown().await;
            let entered = enter_by_address(home, &key, current, hello?, address)?;
            settle(home, &key, entered, accepted)
        }
        Entrance::Invite(invite) => by_invite(home, &key, current, invite, accepted).await,
    }
}

/// Takes an invite without asking anybody, for a node that is about to start; it will knock with
/// it until it is let in. Of the home's own mesh it is nothing new, even if it has expired.
pub fn take_invite(
    home: &Home,
    lock: &HomeLock,
    text: &str,
    accepted: bool,
) -> Result<(), Failure> {
    let Entrance::Invite(invite) = Entrance::parse(text)? else {
        return Err(Failure::new(
            ErrorKind::InvalidInput,
            "POLYMATH_INVITE holds no invite: `polymath mesh invite` writes one",
        ));
    };
    let current = home.membership()?;
    let mesh = invite.genesis().id();
    if let Some(current) = &current
        && current.genesis.id() == mesh
        && !matches!(current.key, MeshKey::Invite(_))
    {
        return Ok(());
    }
    let key = home.identity(lock)?;
    let entered = enter_by_invite(home, &key, current, &invite)?;
    match settle(home, &key, entered, accepted)? {
        Outcome::Joined(_) => Ok(()),
        Outcome::Notice(notice) => Err(notice.refusal()),
    }
}

impl Node {
    /// Joins while running. The node ends with [`End::Restart`] when that moves it to another
    /// mesh, or into its own at whose door it has been waiting.
    pub async fn join(&self, entrance: &Entrance, accepted: bool) -> Result<Outcome, Failure> {
        let inner = &self.inner;
        let current = inner.home.membership()?;
        let outcome = match entrance {
            Entrance::Address(address) => {
                let hello = hello(&inner.net, address).await?;
                let entered = enter_by_address(&inner.home, &inner.key, current, hello, address)?;
                settle(&inner.home, &inner.key, entered, accepted)?
            }
            Entrance::Invite(invite) => {
                by_invite(&inner.home, &inner.key, current, invite, accepted).await?
            }
        };
        let Outcome::Joined(joined) = &outcome else {
            return Ok(outcome);
        };
        // A door takes its secret from a welcome alone, so whoever was let in with another invite than
        // the one this node waits with comes in by a fresh start too.
        if joined.moved || joined.entered {
            self.stop(End::Restart);
            return Ok(outcome);
        }
        if let Some(membership) = inner.home.membership()? {
            *inner
                .membership
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = membership;
        }
        match entrance {
            Entrance::Address(address) => {
                let dialled = inner.net.dial(parse_address(address)?, HELLO).await;
                dialled.map_err(|e| Failure::new(e.kind(), e.to_string()))?;
            }
            Entrance::Invite(invite) => {
                if let Some(list) = invite.anchors() {
                    take_anchors(&inner.anchors, list);
                }
            }
        }
        Ok(outcome)
    }
}

/// A network for a few questions, in the home's mesh if it has one.
async fn passing_net(key: &NodeKey, current: Option<&Membership>) -> Result<Net, Failure> {
    // Hello is spoken across meshes, so any genesis will do for this one question.
    let (genesis, door) = match current {
        Some(m) => (m.genesis.clone(), crate::door(m, None)),
        None => {
            let genesis = Genesis::new("joining", &key.keypair().public())
                .map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))?;
            (genesis, None)
        }
    };
    start_passing(key, genesis, door).await
}

async fn start_passing(
    key: &NodeKey,
    genesis: Genesis,
    door: Option<Door>,
) -> Result<Net, Failure> {
    Net::start(NetConfig {
        role: Role::Client,
        agent: AGENT.to_owned(),
        door,
        upnp: false,
        ..NetConfig::new(key.clone(), genesis, Vec::new())
    })
    .await
    .map_err(|e| Failure::new(e.kind(), e.to_string()))
}

async fn hello(net: &Net, address: &str) -> Result<Hello, Failure> {
    let answered = net.hello(parse_address(address)?, HELLO).await;
    answered.map_err(|e| {
        let what = match &e {
            // What a closed mesh's door leaves of a knock that is none.
            HelloError::NoAnswer { .. } => format!(
                "{e}; if its mesh is closed, only an invite leads into it: ask a member for one"
            ),
            HelloError::Dial(e) => misses::told(e, None).1,
            _ => e.to_string(),
        };
        Failure::new(e.kind(), format!("cannot join {address}: {what}"))
    })
}

async fn by_invite(
    home: &Home,
    key: &NodeKey,
    current: Option<Membership>,
    invite: &Invite,
    accepted: bool,
) -> Result<Outcome, Failure> {
    let mut entered = enter_by_invite(home, key, current, invite)?;
    if entered.needs_notice(home, key) && !accepted {
        return settle(home, key, entered, accepted);
    }
    let genesis = invite.genesis().clone();
    let addresses = entered.membership.bootstrap.clone();
    match &entered.membership.key {
        MeshKey::Invite(_) => {
            let (peer, secret) = redeem(key, invite, &addresses).await?;
            entered.membership.key = MeshKey::Secret(secret);
            entered.joined.entered = true;
            entered.joined.peer = peer;
        }
        MeshKey::None if entered.joined.moved => {
            let net = start_passing(key, genesis, None).await?;
            match first(&net, &addresses).await {
                Ok(peer) => entered.joined.peer = Some(peer),
                Err(why) => entered.joined.trouble = why,
            }
            net.shutdown().await;
        }
        _ => {}
    }
    settle(home, key, entered, accepted)
}

/// Knocks with an invite at every address; who opened, and the secret.
async fn redeem(
    key: &NodeKey,
    invite: &Invite,
    addresses: &[String],
) -> Result<(Option<PeerId>, MeshSecret), Failure> {
    let Some(invite_key) = invite.key().cloned() else {
        return Err(Failure::new(
            ErrorKind::DataLoss,
            "the invite into a closed mesh has no key: ask for another",
        ));
    };
    let genesis = invite.genesis().clone();
    let door = Door::guest(genesis.id(), invite.claims().clone(), invite_key, None);
    let name = genesis.name().to_owned();
    let net = start_passing(key, genesis, Some(door.clone())).await?;
    let (peer, why) = match first(&net, addresses).await {
        Ok(peer) => (Some(peer), String::new()),
        Err(why) => (None, why),
    };
    net.shutdown().await;
    if let Some(secret) = door.secret() {
        return Ok((peer, secret));
    }
    Err(match door.refusal() {
        Some((by, refused)) => Failure::new(
            refused.kind(),
            format!("cannot join mesh '{name}': {refused} (said {by})"),
        ),
        None => Failure::new(
            ErrorKind::Unavailable,
            format!(
                "cannot join mesh '{name}': no member that the invite names could be reached: {why}"
            ),
        ),
    })
}

/// Greets whoever is at these addresses, all at once; the first who answers, or what came of each.
async fn first(net: &Net, addresses: &[String]) -> Result<PeerId, String> {
    let mut greeted: FuturesUnordered<_> = addresses
        .iter()
        .filter_map(|a| parse_address(a).ok())
        .map(|address| net.hello(address, HELLO))
        .collect();
    let mut why = Vec::new();
    let mut nobody = true;
    while let Some(answer) = greeted.next().await {
        let failed = match answer {
            Ok(hello) if hello.genesis.id() == net.mesh() => return Ok(hello.peer),
            Ok(hello) => {
                nobody = false;
                format!("{} is in another mesh", hello.peer)
            }
            Err(HelloError::Dial(e)) => {
                let (reason, what) = misses::told(&e, None);
                nobody &= reason == Unused::NotConnected;
                what
            }
            Err(e) => {
                nobody = false;
                e.to_string()
            }
        };
        if !why.contains(&failed) {
            why.push(failed);
        }
    }
    if why.is_empty() {
        return Err("it names nobody".into());
    }
    let mut why = why.join("; ");
    if nobody {
        // What lies between, as for every other peer that does not answer.
        let own = Place::own(&net.report(), &net.listen_addrs().borrow());
        let Reachability {
            why: between, fix, ..
        } = reachability(&own, &Place::told(addresses));
        why = format!("{why}; the peer {between}: {fix}");
    }
    Err(why)
}

/// What the home's membership would be.
struct Entered {
    joined: Joined,
    membership: Membership,
    /// The list that came with an invite.
    anchors: Option<AnchorList>,
}

impl Entered {
    /// Whether this is an open mesh of others of which the home has not been told what that means.
    fn needs_notice(&self, home: &Home, key: &NodeKey) -> bool {
        let genesis = &self.membership.genesis;
        genesis.access() == Access::Open
            && self.joined.moved
            && !genesis.admins().contains(&key.peer_id())
            && !notice_file(home, genesis.id()).exists()
    }
}

/// Lies with a mesh whose notice was understood.
fn notice_file(home: &Home, mesh: MeshId) -> std::path::PathBuf {
    home.mesh_dir(mesh).join("notice-accepted")
}

/// Makes it so, unless there is something to be understood first.
fn settle(
    home: &Home,
    key: &NodeKey,
    entered: Entered,
    accepted: bool,
) -> Result<Outcome, Failure> {
    if entered.needs_notice(home, key) {
        if !accepted {
            let name = entered.joined.name;
            return Ok(Outcome::Notice(Notice { name }));
        }
        crate::home::write_atomic(&notice_file(home, entered.joined.mesh), b"")?;
    }
    home.save_membership(&entered.membership)?;
    if let Some(list) = &entered.anchors {
        let dir = home.mesh_dir(entered.joined.mesh);
        let kept = anchors::Anchors::open(&entered.membership.genesis, &dir);
        take_anchors(&kept, list);
    }
    Ok(Outcome::Joined(entered.joined))
}

fn take_anchors(anchors: &anchors::Anchors, list: &AnchorList) {
    let trouble = match anchors.offer(list, "an invite") {
        Ok(taken) => taken.trouble(),
        Err(e) => Some(e.message),
    };
    if let Some(why) = trouble {
        tracing::warn!("the list of anchors in the invite is not used: {why}");
    }
}

/// The home's membership after meeting `hello`'s sender.
fn enter_by_address(
    home: &Home,
    key: &NodeKey,
    current: Option<Membership>,
    hello: Hello,
    address: &str,
) -> Result<Entered, Failure> {
    let mut entered = enter(home, key, current, hello.genesis, &[address.to_owned()])?;
    if entered.membership.genesis.access() == Access::Closed
        && entered.membership.key == MeshKey::None
    {
        return Err(Failure::new(
            ErrorKind::PermissionDenied,
            format!(
                "mesh '{}' is closed, only an invite leads into it: ask a member for one (`polymath mesh invite`)",
                entered.joined.name
            ),
        ));
    }
    entered.joined.peer = Some(hello.peer);
    Ok(entered)
}

/// The home's membership with an invite in hand.
fn enter_by_invite(
    home: &Home,
    key: &NodeKey,
    current: Option<Membership>,
    invite: &Invite,
) -> Result<Entered, Failure> {
    let genesis = invite.genesis();
    let known = current
        .as_ref()
        .filter(|m| m.genesis.id() == genesis.id())
        .is_some_and(|m| !matches!(m.key, MeshKey::Invite(_)));
    if !known {
        invite
            .verify(unix_now())
            .map_err(|e| Failure::new(e.kind(), e.to_string()))?;
    }
    let anchored = invite.anchors().map_or(&[][..], |list| list.addresses());
    let addresses: Vec<String> = invite.addresses().iter().chain(anchored).cloned().collect();
    let mut entered = enter(home, key, current, genesis.clone(), &addresses)?;
    if genesis.access() == Access::Closed && !known {
        entered.membership.key = MeshKey::Invite(Box::new(invite.clone()));
    }
    entered.anchors = invite.anchors().cloned();
    Ok(entered)
}

fn enter(
    home: &Home,
    key: &NodeKey,
    current: Option<Membership>,
    genesis: Genesis,
    addresses: &[String],
) -> Result<Entered, Failure> {
    let theirs = genesis.id();
    let moved = current.as_ref().is_none_or(|m| m.genesis.id() != theirs);
    if moved
        && let Some(current) = &current
        && bound(home, key, current)
    {
        return Err(Failure::new(
            ErrorKind::FailedPrecondition,
            format!(
                "this home belongs to mesh '{}' ({}), not to '{}' ({}): leave it first with `polymath mesh leave`, or join from another home with --home DIR",
                current.genesis.name(),
                current.genesis.id().short(),
                genesis.name(),
                theirs.short()
            ),
        ));
    }
    let port = current.as_ref().map_or(0, |m| m.port);
    let (mut bootstrap, joined, mesh_key) = match current {
        Some(m) if !moved => (m.bootstrap, m.joined, m.key),
        _ => (Vec::new(), true, MeshKey::None),
    };
    bootstrap.retain(|a| !addresses.contains(a));
    bootstrap.splice(0..0, addresses.iter().cloned());
    Ok(Entered {
        joined: Joined {
            mesh: theirs,
            name: genesis.name().to_owned(),
            peer: None,
            moved,
            entered: false,
            trouble: String::new(),
        },
        membership: Membership {
            genesis,
            joined,
            bootstrap,
            port,
            key: mesh_key,
        },
        anchors: None,
    })
}

/// Whether leaving the home's mesh would lose something: it was joined, or founded on purpose, or
/// others are in it.
pub(crate) fn bound(home: &Home, key: &NodeKey, current: &Membership) -> bool {
    let dir = home.mesh_dir(current.genesis.id()).join("catalog");
    let others = records::has_met_others(&dir, &key.peer_id());
    current.joined || mesh::founded_on_purpose(key, current) || others
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_cannot_be_dialled_is_no_entrance() {
        for bad in ["", "/ip4/127.0.0.1", "/p2p-circuit", "/memory/1"] {
            let refused = Entrance::parse(bad).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::InvalidInput, "{bad}");
            let said = refused.message;
            assert!(
                said.contains("can be dialled") && said.contains("invite"),
                "{said}"
            );
        }
        assert!(Entrance::parse("/ip4/127.0.0.1/tcp/1").is_ok());
    }

    #[tokio::test]
    async fn each_address_of_one_peer_tells_what_came_of_itself() {
        let key = NodeKey::generate();
        let genesis = Genesis::new("away", &key.keypair().public()).unwrap();
        let net = start_passing(&key, genesis, None).await.unwrap();
        let peer = PeerId::random();
        // Nothing listens where these listened.
        let gone = [(); 3].map(|()| {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = socket.local_addr().unwrap().port();
            format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}")
        });
        let said = first(&net, &gone).await.unwrap_err();
        for address in &gone {
            assert!(said.contains(&format!("cannot reach {address}")), "{said}");
        }
        assert!(said.contains("check that it runs"), "{said}");
        net.shutdown().await;
    }
}
