//! The daemons of one cell: two anchors, and a node on each side.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    daemon::{Daemon, Home, eventually, text},
    netns::Netns,
    theory::Transports,
    topology::{ANCHORS, Side, Topology},
};

/// How long the anchors may take to find each other.
const MEET: Duration = Duration::from_secs(10);

/// The name of a side's expert.
pub(crate) const fn expert(side: Side) -> &'static str {
    match side {
        Side::A => "natlab-a",
        Side::B => "natlab-b",
    }
}

/// Where a cell's daemons come from and live.
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

const TCP: &str = "/ip4/0.0.0.0/tcp/4040";
const QUIC: &str = "/ip4/0.0.0.0/udp/4040/quic-v1";
/// Where a firewall that knows the web alone lets one through.
const WEB: &str = "/ip4/0.0.0.0/tcp/443/tls/ws";

/// What a node on a side listens on.
const fn listens(transports: Transports) -> &'static [&'static str] {
    match transports {
        Transports::Tcp => &["--listen", TCP],
        Transports::Quic => &["--listen", QUIC],
        Transports::Both => &["--listen", TCP, "--listen", QUIC],
    }
}

/// What an anchor listens on. Nodes dial whatever there is to dial, so a transport is enabled where
/// somebody listens.
const fn anchor_listens(transports: Transports) -> &'static [&'static str] {
    match transports {
        Transports::Tcp => &["--listen", TCP, "--listen", WEB],
        Transports::Quic => &["--listen", QUIC],
        Transports::Both => &["--listen", TCP, "--listen", QUIC, "--listen", WEB],
    }
}

/// The running anchors.
#[derive(Debug)]
pub(crate) struct Anchors<'a> {
    /// `None` once one was killed.
    pub(crate) daemons: [Option<Daemon<'a>>; ANCHORS],
    /// Into the mesh that the first founded: all that a new node is told.
    invite: String,
}

impl<'a> Anchors<'a> {
    /// Starts both with these settings, and waits until they know each other.
    pub(crate) fn start(
        place: &'a Place,
        net: &'a Topology,
        transports: Transports,
        settings: &str,
    ) -> Result<Self> {
        let home = |number: usize| {
            let home = place.home(&format!("anchor{number}"), net.anchor(number)?)?;
            home.configure(settings)?;
            anyhow::Ok(home)
        };
        let arguments = [&["--anchor"], anchor_listens(transports)].concat();
        let first = home(0)?.up(&arguments)?;
        let written = first.look(&["mesh", "invite"])?;
        let invite = text(&written.context("the first anchor writes no invite")?["invite"]);
        let second = home(1)?.up(&[&arguments[..], &["--invite", &invite]].concat())?;
        let met = eventually(MEET, || Ok(first.path_to(&second.peer)?.is_some()))?;
        ensure!(met, "the anchors do not find each other");
        Ok(Self {
            daemons: [Some(first), Some(second)],
            invite,
        })
    }
}

/// What a node that others can reach says of itself, in its doctor's words.
const REACHED: [&str; 3] = ["direct", "hole-punching", "relay"];
/// How long a node may take until others can reach it.
const READY: Duration = Duration::from_secs(10);

/// Waits until others can reach the node: the doctor's word for how, or for why not.
pub(crate) fn reached(node: &Daemon<'_>) -> Result<String> {
    let mut reach = String::new();
    eventually(READY, || {
        let reply = node.run(&["doctor", "--timeout", "0"], "", READY)?;
        reach = text(&reply.json["reach"]);
        Ok(REACHED.contains(&reach.as_str()))
    })?;
    Ok(reach)
}

/// Starts the node of a side. One that can reach no anchor runs all the same, for its doctor.
pub(crate) fn start<'a>(
    place: &'a Place,
    net: &'a Topology,
    anchors: &Anchors<'_>,
    side: Side,
    transports: Transports,
) -> Result<Daemon<'a>> {
    let home = place.home(side.name(), &net.site(side).host)?;
    let expert = home.define(expert(side))?;
    let mut arguments = vec!["--expert", &expert, "--invite", &anchors.invite];
    arguments.extend(listens(transports));
    home.up(&arguments)
}
