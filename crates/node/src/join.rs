//! Joining a mesh: learn from one peer which mesh it is in, and make the home belong to it.

use std::{fs, time::Duration};

use polymath_net::{Hello, Net, NetConfig, Role};
use polymath_types::{ErrorKind, Failure, Genesis, MeshId, NodeKey, PeerId};

use crate::{AGENT, End, Home, HomeLock, Membership, Node, parse_address};

/// Time for the peer to say which mesh it is in.
const HELLO: Duration = Duration::from_secs(15);

/// What joining came to.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The mesh's id.
    pub mesh: MeshId,
    /// The mesh's name.
    pub name: String,
    /// The peer that let us in.
    pub peer: PeerId,
    /// Whether the home belonged to another mesh, its own, until now.
    pub moved: bool,
}

/// Makes a home that no node runs on belong to the mesh of the peer at `address`.
pub async fn join(home: &Home, lock: &HomeLock, address: &str) -> Result<Joined, Failure> {
    let key = home.identity(lock)?;
    let current = home.membership()?;
    // Hello is spoken across meshes, so any genesis will do for this one question.
    let genesis = match &current {
        Some(m) => m.genesis.clone(),
        None => Genesis::new("joining", &key.keypair().public())
            .map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))?,
    };
    let net = Net::start(NetConfig {
        role: Role::Client,
        agent: AGENT.to_owned(),
        ..NetConfig::new(key.clone(), genesis, Vec::new())
    })
    .await
    .map_err(|e| Failure::new(e.kind(), e.to_string()))?;
    let hello = hello(&net, address).await;
    net.shutdown().await;
    let (joined, membership) = enter(home, &key, current, hello?, address)?;
    home.save_membership(&membership)?;
    Ok(joined)
}

impl Node {
    /// Joins while running. The node ends with [`End::Restart`] when that moves it to another
    /// mesh.
    pub async fn join(&self, address: &str) -> Result<Joined, Failure> {
        let inner = &self.inner;
        let hello = hello(&inner.net, address).await?;
        let current = inner.home.membership()?;
        let (joined, membership) = enter(&inner.home, &inner.key, current, hello, address)?;
        inner.home.save_membership(&membership)?;
        *inner
            .membership
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = membership;
        if joined.moved {
            self.stop(End::Restart);
        } else {
            let address = parse_address(address)?;
            inner
                .net
                .dial(address, HELLO)
                .await
                .map_err(|e| Failure::new(e.kind(), e.to_string()))?;
        }
        Ok(joined)
    }
}

async fn hello(net: &Net, address: &str) -> Result<Hello, Failure> {
    net.hello(parse_address(address)?, HELLO)
        .await
        .map_err(|e| Failure::new(e.kind(), format!("cannot join {address}: {e}")))
}

/// The home's membership after meeting `hello`'s sender.
fn enter(
    home: &Home,
    key: &NodeKey,
    current: Option<Membership>,
    hello: Hello,
    address: &str,
) -> Result<(Joined, Membership), Failure> {
    let theirs = hello.genesis.id();
    let moved = current.as_ref().is_none_or(|m| m.genesis.id() != theirs);
    if moved
        && let Some(current) = &current
        && bound(home, key, current)
    {
        return Err(Failure::new(
            ErrorKind::FailedPrecondition,
            format!(
                "this home belongs to mesh '{}' ({}); {address} is in mesh '{}' ({}): join it from another home, `polymath --home DIR join {address}`",
                current.genesis.name(),
                current.genesis.id().short(),
                hello.genesis.name(),
                theirs.short()
            ),
        ));
    }
    let port = current.as_ref().map_or(0, |m| m.port);
    let (mut bootstrap, joined) = match current {
        Some(m) if !moved => (m.bootstrap, m.joined),
        _ => (Vec::new(), true),
    };
    bootstrap.retain(|a| a != address);
    bootstrap.insert(0, address.to_owned());
    let name = hello.genesis.name().to_owned();
    let membership = Membership {
        genesis: hello.genesis,
        joined,
        bootstrap,
        port,
    };
    Ok((
        Joined {
            mesh: theirs,
            name,
            peer: hello.peer,
            moved,
        },
        membership,
    ))
}

/// Whether leaving the home's mesh would lose something: it was joined, or others are in it.
fn bound(home: &Home, key: &NodeKey, current: &Membership) -> bool {
    let own = format!("offer-{}", key.peer_id());
    let others =
        fs::read_dir(home.mesh_dir(current.genesis.id()).join("catalog")).is_ok_and(|entries| {
            entries.flatten().any(|e| {
                let name = e.file_name().to_string_lossy().into_owned();
                name.starts_with("offer-") && !name.starts_with(&own)
            })
        });
    current.joined || others
}
