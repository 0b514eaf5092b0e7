//! The daemons of one cell: two anchors, and a node on each side.

use std::{path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    daemon::{Daemon, Home, eventually, text},
    nat::{Access, Firewall},
    netns::{Netns, tool},
    theory::{Transports, meets_anchor},
    topology::{ANCHORS, Side, Topology, anchor_address},
};

/// Everybody's port, but for the web's.
const PORT: u16 = 4040;
/// How long joining by an address may take.
const JOIN: Duration = Duration::from_secs(10);

/// The name of a side's expert.
pub(crate) const fn expert(side: Side) -> &'static str {
    match side {
        Side::A => "natlab-a",
        Side::B => "natlab-b",
    }
}

/// The program under test, and what it can do.
#[derive(Debug, Clone)]
pub(crate) struct Polymath {
    pub(crate) program: PathBuf,
    /// `up --anchor`, and the listeners that only an anchor has use for.
    anchors: bool,
    /// `mesh invite`: then a node needs no network to join.
    invites: bool,
}

impl Polymath {
    pub(crate) fn at(program: PathBuf) -> Result<Self> {
        let help = |arguments: &[&str]| {
            let told = tool(Command::new(&program).args(arguments).arg("--help"), "")?;
            anyhow::Ok(String::from_utf8_lossy(&told).into_owned())
        };
        let anchors = help(&["up"])?.contains("--anchor");
        let invites = help(&[])?
            .lines()
            .any(|l| l.trim_start().starts_with("mesh "));
        Ok(Self {
            program,
            anchors,
            invites,
        })
    }
}

/// Where a cell's daemons come from and live.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) polymath: Polymath,
    pub(crate) homes: PathBuf,
}

impl Place {
    fn home<'a>(&'a self, who: &str, host: &'a Netns) -> Result<Home<'a>> {
        Home::create(&self.polymath.program, host, self.homes.join(who))
    }
}

/// The running anchors.
#[derive(Debug)]
pub(crate) struct Anchors<'a> {
    pub(crate) daemons: Vec<Option<Daemon<'a>>>,
    peers: Vec<String>,
    invite: Option<String>,
    web: &'static str,
}

impl<'a> Anchors<'a> {
    /// Starts both, and waits until they know each other.
    pub(crate) fn start(place: &'a Place, net: &'a Topology) -> Result<Self> {
        let (role, web) = if place.polymath.anchors {
            ("--anchor", "tcp/443/tls/ws")
        } else {
            ("--client", "tcp/443")
        };
        let mut anchors = Self {
            daemons: Vec::new(),
            peers: Vec::new(),
            invite: None,
            web,
        };
        let listening = [
            format!("/ip4/0.0.0.0/tcp/{PORT}"),
            format!("/ip4/0.0.0.0/udp/{PORT}/quic-v1"),
            format!("/ip4/0.0.0.0/{web}"),
        ];
        for number in 0..ANCHORS {
            let home = place.home(&format!("anchor{number}"), net.anchor(number)?)?;
            let mut arguments = vec![role];
            for address in &listening {
                arguments.extend(["--listen", address.as_str()]);
            }
            if number > 0 {
                let first = anchors.address(0, &format!("tcp/{PORT}"))?;
                join(&home, &first)?;
            }
            let daemon = home.up(&arguments)?;
            anchors.peers.push(daemon.peer.clone());
            anchors.daemons.push(Some(daemon));
        }
        if let [Some(first), Some(second)] = anchors.daemons.as_slice() {
            let met = eventually(JOIN, || Ok(first.path_to(&second.peer)?.is_some()))?;
            if !met {
                bail!("the anchors do not find each other");
            }
            if place.polymath.invites {
                let invite = first.look(&["mesh", "invite"])?;
                anchors.invite = invite.map(|i| text(&i["invite"]));
            }
        }
        Ok(anchors)
    }

    fn address(&self, number: usize, transport: &str) -> Result<String> {
        let peer = self.peers.get(number).context("there is no such anchor")?;
        let ip = anchor_address(number);
        Ok(format!("/ip4/{ip}/{transport}/p2p/{peer}"))
    }

    /// The way to an anchor that a person behind this access would be told.
    fn way(&self, number: usize, from: Access, transports: Transports) -> Result<String> {
        let transport = match (transports, from.firewall()) {
            (Transports::Quic, _) | (Transports::Both, Firewall::Open) => {
                format!("udp/{PORT}/quic-v1")
            }
            (_, Firewall::OnlyTcp443) => self.web.to_owned(),
            _ => format!("tcp/{PORT}"),
        };
        self.address(number, &transport)
    }
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

fn join(home: &Home<'_>, address: &str) -> Result<()> {
    let reply = home.run(&["join", address], "", JOIN)?;
    if !reply.done() {
        bail!("cannot join {address}: {}", reply.complaint());
    }
    Ok(())
}

/// Starts the node of a side. One that can reach no anchor runs all the same, for its doctor.
fn start<'a>(
    place: &'a Place,
    net: &'a Topology,
    anchors: &Anchors<'_>,
    side: Side,
    transports: Transports,
) -> Result<Daemon<'a>> {
    let site = net.site(side);
    let home = place.home(side.name(), &site.host)?;
    let expert = home.define(expert(side))?;
    let ways = [0, 1].map(|number| anchors.way(number, site.access, transports));
    let [first, second] = ways;
    let (first, second) = (first?, second?);
    let mut arguments = vec!["--expert", &expert];
    arguments.extend(listens(transports));
    if let Some(invite) = &anchors.invite {
        arguments.extend(["--invite", invite, "--accept-public"]);
    } else if meets_anchor(site.access, transports) {
        join(&home, &first)?;
    }
    arguments.extend(["--bootstrap", &first, "--bootstrap", &second]);
    home.up(&arguments)
}

/// Starts both sides at once.
pub(crate) fn start_both<'a>(
    place: &'a Place,
    net: &'a Topology,
    anchors: &Anchors<'_>,
    transports: Transports,
) -> Result<[Daemon<'a>; 2]> {
    let [a, b] = thread::scope(|scope| {
        Side::BOTH
            .map(|side| scope.spawn(move || start(place, net, anchors, side, transports)))
            .map(|started| {
                let started = started.join();
                started.unwrap_or_else(|_| bail!("the thread that starts a node panicked"))
            })
    });
    Ok([a?, b?])
}
