//! The daemons of one cell: two anchors, and a node on each side.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    daemon::{Daemon, Home},
    nat::{Access, Firewall},
    netns::Netns,
    theory::Transports,
    topology::{ANCHORS, Side, Topology, anchor_address},
};

/// Everybody's port, but for the web's.
const PORT: u16 = 4040;
/// How long a node may take to join.
const JOIN: Duration = Duration::from_secs(10);

/// The name of a side's expert.
pub(crate) const fn expert(side: Side) -> &'static str {
    match side {
        Side::A => "natlab-a",
        Side::B => "natlab-b",
    }
}

/// Where the daemons come from and live.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) polymath: PathBuf,
    pub(crate) homes: PathBuf,
}

impl Place {
    fn home<'a>(&'a self, who: &str, host: &'a Netns) -> Result<Home<'a>> {
        Home::create(&self.polymath, host, self.homes.join(who))
    }
}

/// The running anchors.
#[derive(Debug)]
pub(crate) struct Anchors<'a> {
    pub(crate) daemons: Vec<Option<Daemon<'a>>>,
    peers: Vec<String>,
}

impl<'a> Anchors<'a> {
    pub(crate) fn start(place: &'a Place, net: &'a Topology, more: &[&str]) -> Result<Self> {
        let mut anchors = Self {
            daemons: Vec::new(),
            peers: Vec::new(),
        };
        for number in 0..ANCHORS {
            let home = place.home(&format!("anchor{number}"), net.anchor(number)?)?;
            if number > 0 {
                let first = anchors.address(0, Access::Public, Transports::Tcp)?;
                joined(&home, &first)?;
            }
            let daemon = home.up(&[&listening(), more].concat())?;
            anchors.peers.push(daemon.peer.clone());
            anchors.daemons.push(Some(daemon));
        }
        Ok(anchors)
    }

    /// How a node with this access reaches an anchor.
    pub(crate) fn address(
        &self,
        number: usize,
        from: Access,
        transports: Transports,
    ) -> Result<String> {
        let peer = self.peers.get(number).context("there is no such anchor")?;
        let transport = match (transports, from.firewall()) {
            (Transports::Quic, _) | (Transports::Both, Firewall::Open) => {
                format!("udp/{PORT}/quic-v1")
            }
            (_, Firewall::OnlyTcp443) => "tcp/443".to_owned(),
            _ => format!("tcp/{PORT}"),
        };
        Ok(format!(
            "/ip4/{}/{transport}/p2p/{peer}",
            anchor_address(number)
        ))
    }
}

fn listening() -> Vec<&'static str> {
    vec![
        "--client",
        "--listen",
        "/ip4/0.0.0.0/tcp/4040",
        "--listen",
        "/ip4/0.0.0.0/udp/4040/quic-v1",
        "--listen",
        "/ip4/0.0.0.0/tcp/443",
    ]
}

/// What a node on a side listens on.
const fn listens(transports: Transports) -> &'static [&'static str] {
    const TCP: &str = "/ip4/0.0.0.0/tcp/4040";
    const QUIC: &str = "/ip4/0.0.0.0/udp/4040/quic-v1";
    match transports {
        Transports::Tcp => &["--listen", TCP],
        Transports::Quic => &["--listen", QUIC],
        Transports::Both => &["--listen", TCP, "--listen", QUIC],
    }
}

fn joined(home: &Home<'_>, address: &str) -> Result<()> {
    let reply = home.run(&["join", address], "", JOIN)?;
    if !reply.done() {
        bail!("cannot join {address}: {}", reply.complaint());
    }
    Ok(())
}

/// Starts the node of a side.
pub(crate) fn start<'a>(
    place: &'a Place,
    net: &'a Topology,
    anchors: &Anchors<'_>,
    side: Side,
    transports: Transports,
) -> Result<Daemon<'a>> {
    let site = net.site(side);
    let home = place.home(side.name(), &site.host)?;
    joined(&home, &anchors.address(0, site.access, transports)?)?;
    let expert = home.define(expert(side))?;
    let second = anchors.address(1, site.access, transports)?;
    let arguments = [
        &["--expert", &expert, "--bootstrap", &second],
        listens(transports),
    ]
    .concat();
    home.up(&arguments)
}

/// Starts both sides at once; each result for itself.
pub(crate) fn start_both<'a>(
    place: &'a Place,
    net: &'a Topology,
    anchors: &Anchors<'_>,
    transports: Transports,
) -> [Result<Daemon<'a>>; 2] {
    thread::scope(|scope| {
        Side::BOTH
            .map(|side| scope.spawn(move || start(place, net, anchors, side, transports)))
            .map(|started| {
                started
                    .join()
                    .unwrap_or_else(|_| bail!("the thread that starts a node panicked"))
            })
    })
}
