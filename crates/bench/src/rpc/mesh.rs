//! The nodes of our own mesh: one that answers, those that call it, and pairs that need a relay.

use std::{net::IpAddr, time::Duration};

use polymath_net::{Conditions, Multiaddr, Net, NetConfig, PeerId, Role, Scope, scope_of};
use polymath_types::{Genesis, NodeKey, PathKind};
use tokio::{runtime::Handle, sync::watch, time::timeout};

use super::{Failure, PATIENCE, Place, cases::Transport, failed, framed, http2, ours};
use crate::kernel_congestion_control;

/// libp2p's QUIC has no other.
pub(super) const CUBIC: &str = "cubic (quinn)";
/// What a relay may carry for one peer in an hour; here it is what is measured.
const ALLOWANCE: u64 = 1 << 50;

/// The serving node.
pub(super) struct Mesh {
    pub(super) net: Net,
    genesis: Genesis,
}

/// A node that calls another.
pub(super) struct Guest {
    pub(super) net: Net,
    pub(super) server: PeerId,
    pub(super) transport: Transport,
}

impl Guest {
    /// What decides how many bytes are under way to the server.
    pub(super) fn control(&self) -> String {
        match self.transport {
            Transport::Tcp => kernel_congestion_control(),
            Transport::Quic => CUBIC.into(),
            Transport::Relayed => format!("{}, on each leg", kernel_congestion_control()),
        }
    }
}

/// A pair that only a relay connects. None of the three is reached otherwise.
pub(super) struct Relayed {
    guest: Guest,
    _server: Net,
    _relay: Net,
}

impl Relayed {
    pub(super) const fn guest(&self) -> &Guest {
        &self.guest
    }

    /// A pair that has found a direct path was not measured through a relay.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self.guest.net.path_to(&self.guest.server) {
            Some(PathKind::Relayed) => Ok(()),
            path => Err(failed("the relayed pair", format!("its path is {path:?}"))),
        }
    }
}

async fn start(on: &Handle, config: NetConfig) -> Result<Net, Failure> {
    let starting = on.spawn(Net::start(config)).await;
    let started = starting.map_err(|e| failed("a node", e))?;
    started.map_err(|e| failed("a node", e))
}

/// Answers whatever the sides over mesh streams ask.
fn serve(on: &Handle, net: &Net) -> Result<(), Failure> {
    ours::serve(on, net);
    http2::serve(on, net)?;
    framed::serve(on, net)
}

async fn until<T>(
    what: &str,
    mut seen: watch::Receiver<T>,
    good: impl FnMut(&T) -> bool,
) -> Result<(), Failure> {
    let waiting = timeout(PATIENCE, seen.wait_for(good)).await;
    let seen = waiting.map_err(|_| failed(what, format!("not within {PATIENCE:?}")))?;
    seen.map(drop).map_err(|e| failed(what, e))
}

impl Mesh {
    pub(super) async fn start(on: &Handle, at: IpAddr) -> Result<Self, Failure> {
        let key = NodeKey::generate();
        let genesis =
            Genesis::new("bench", &key.keypair().public()).map_err(|e| failed("a mesh", e))?;
        let listen = [tcp(at), quic(at)].into_iter().collect::<Result<_, _>>()?;
        let net = start(on, NetConfig::new(key, genesis.clone(), listen)).await?;
        serve(on, &net)?;
        Ok(Self { net, genesis })
    }

    /// Where the serving node is reached directly.
    pub(super) fn address(&self, transport: Transport) -> Result<Multiaddr, Failure> {
        let listen: Vec<Multiaddr> = self.net.listen_addrs().borrow().clone();
        let wanted = |a: &Multiaddr| a.to_string().contains(transport.name());
        let address = listen.into_iter().find(wanted);
        address.ok_or_else(|| failed("a node", "it listens nowhere"))
    }

    /// A node that calls it directly.
    pub(super) async fn guest(&self, transport: Transport) -> Result<Guest, Failure> {
        self.guest_over(transport, Conditions::default()).await
    }

    pub(super) async fn guest_over(
        &self,
        transport: Transport,
        conditions: Conditions,
    ) -> Result<Guest, Failure> {
        let mut config = NetConfig::new(NodeKey::generate(), self.genesis.clone(), Vec::new());
        config.role = Role::Client;
        config.lab = conditions;
        let net = start(&Handle::current(), config).await?;
        let dialled = net.dial(self.address(transport)?, PATIENCE).await;
        let server = dialled.map_err(|e| failed("a connection", e))?;
        Ok(Guest {
            net,
            server,
            transport,
        })
    }

    /// A pair of nodes that listen nowhere, each connected with the relay over TCP.
    pub(super) async fn relayed(
        &self,
        server: &Handle,
        relay: &Handle,
        place: &Place,
    ) -> Result<Relayed, Failure> {
        let config = |listen| {
            let mut config = NetConfig::new(NodeKey::generate(), self.genesis.clone(), listen);
            config.loopback_is_internet = true;
            config
        };
        let mut anchor = config(vec![tcp(place.relay())?]);
        anchor.anchor = true;
        anchor.limits.relayed_bytes_per_hour = ALLOWANCE;
        let anchor = start(relay, anchor).await?;
        let entrance = anchor.listen_addrs().borrow().first().cloned();
        let entrance = entrance.ok_or_else(|| failed("the relay", "it listens nowhere"))?;
        let hidden = start(server, config(Vec::new())).await?;
        serve(server, &hidden)?;
        let caller = start(&Handle::current(), config(Vec::new())).await?;
        for net in [&hidden, &caller] {
            let dialled = net.dial(entrance.clone(), PATIENCE).await;
            dialled.map_err(|e| failed("the relay", e))?;
        }
        let is_circuit = |a: &Multiaddr| scope_of(a) == Scope::Circuit;
        let reserved = |all: &Vec<Multiaddr>| all.iter().any(is_circuit);
        until("a place at the relay", hidden.announced(), reserved).await?;
        let mut circuits = hidden.announced().borrow().clone();
        circuits.retain(is_circuit);
        let peer = hidden.local_peer();
        caller.add_addresses(peer, circuits);
        let connected = caller.connect(peer, PATIENCE).await;
        connected.map_err(|e| failed("the relayed pair", e))?;
        let pair = Relayed {
            guest: Guest {
                net: caller,
                server: peer,
                transport: Transport::Relayed,
            },
            _server: hidden,
            _relay: anchor,
        };
        pair.check()?;
        Ok(pair)
    }
}

fn tcp(at: IpAddr) -> Result<Multiaddr, Failure> {
    listen(at, "tcp/0")
}

fn quic(at: IpAddr) -> Result<Multiaddr, Failure> {
    listen(at, "udp/0/quic-v1")
}

fn listen(at: IpAddr, rest: &str) -> Result<Multiaddr, Failure> {
    let version = if at.is_ipv4() { "ip4" } else { "ip6" };
    let address = format!("/{version}/{at}/{rest}").parse();
    address.map_err(|e| failed("an address", e))
}

/// A pause between looks at what nothing tells of.
pub(super) const LOOK: Duration = Duration::from_millis(20);
