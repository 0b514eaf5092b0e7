//! One cell's little internet: a core that routes, two anchors, and two sides each behind its
//! access.
//!
//! ```text
//!  anchor 1 ── core ── anchor 2
//!             /    \
//!        [router]  [router]      none for a public host, two in series for CGNAT
//!           |         |
//!         side A    side B
//! ```
//!
//! Every wire is a network of its own with the core or the router at `.1`. Outer addresses are of
//! 11.0.0.0/8, which libp2p takes for the public internet, as it does not 198.18.0.0/15.

use std::{
    net::Ipv4Addr,
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    nat::{Access, Firewall},
    netns::{Netns, tool},
    ruleset::{self, LAN, Seat, WAN},
    wire::{Wire, Wiring},
};

/// The two anchors, numbered from 0.
pub(crate) const ANCHORS: usize = 2;
const ANCHOR_COUNTERS: [&str; ANCHORS] = ["anchor0", "anchor1"];
const PEER_COUNTER: &str = "peer_side";

/// A side of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::A, Self::B];

    const fn number(self) -> u8 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// All its outer addresses, present and future.
    fn networks(self) -> String {
        format!("11.{}.0.0/16", 21 + self.number())
    }

    /// Its outer network at its `uplink`.
    const fn outer(self, uplink: u8) -> Subnet {
        Subnet(Ipv4Addr::new(11, 21 + self.number(), uplink, 0))
    }
}

const fn anchor_subnet(anchor: u8) -> Subnet {
    Subnet(Ipv4Addr::new(11, 11 + anchor, 0, 0))
}

/// The outer address of an anchor.
pub(crate) fn anchor_address(anchor: usize) -> Ipv4Addr {
    anchor_subnet(u8::try_from(anchor).unwrap_or_default()).member()
}

/// A network of 24 bits: the gateway at `.1`, the one member at `.2`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subnet(Ipv4Addr);

impl Subnet {
    const fn host(self, number: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.0.octets();
        Ipv4Addr::new(a, b, c, number)
    }

    pub(crate) const fn gateway(self) -> Ipv4Addr {
        self.host(1)
    }

    pub(crate) const fn member(self) -> Ipv4Addr {
        self.host(2)
    }
}

/// How many bytes an access' outermost device carried, by whom they were exchanged with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// The other side's outer addresses.
    pub(crate) peer: u64,
    /// Each anchor.
    pub(crate) anchors: [u64; ANCHORS],
}

impl Carried {
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            peer: self.peer.saturating_sub(earlier.peer),
            anchors: [
                self.anchors[0].saturating_sub(earlier.anchors[0]),
                self.anchors[1].saturating_sub(earlier.anchors[1]),
            ],
        }
    }
}

/// A host and what lies between it and the core.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) access: Access,
    /// Cut before the namespaces go.
    _wires: Vec<Wire>,
    pub(crate) host: Netns,
    /// From the host outwards.
    pub(crate) routers: Vec<Netns>,
    uplink: AtomicU8,
}

impl Site {
    /// The outermost device: the NAT that the internet sees, or a public host itself.
    pub(crate) fn edge(&self) -> &Netns {
        self.routers.last().unwrap_or(&self.host)
    }

    /// What its edge has carried so far.
    pub(crate) fn carried(&self) -> Result<Carried> {
        let listed = self.edge().within(|| {
            let mut nft = Command::new("nft");
            tool(nft.args(["--json", "list", "counters"]), "")
        })?;
        let listed: Value = serde_json::from_slice(&listed).context("nft prints other JSON")?;
        let counters = listed["nftables"].as_array().into_iter().flatten();
        let bytes = |name: &str| {
            let mut counters = counters.clone().map(|entry| &entry["counter"]);
            let counter = counters.find(|c| c["name"] == name);
            counter
                .and_then(|c| c["bytes"].as_u64())
                .with_context(|| format!("{} has no counter {name}", self.edge().name()))
        };
        let [first, second] = ANCHOR_COUNTERS;
        Ok(Carried {
            peer: bytes(PEER_COUNTER)?,
            anchors: [bytes(first)?, bytes(second)?],
        })
    }

    /// Loads the rules of every router, which forgets what nftables remembered of mappings.
    fn load(&self) -> Result<()> {
        for (i, (router, nat)) in self.routers.iter().zip(self.access.nats()).enumerate() {
            // The wall stands at home.
            let firewall = if i == 0 {
                self.access.firewall()
            } else {
                Firewall::Open
            };
            router.nft(&ruleset::router(*nat, firewall))?;
        }
        Ok(())
    }

    /// What a router that lost its power forgets: every mapping and every connection.
    pub(crate) fn reboot_nat(&self) -> Result<()> {
        self.load()?;
        for router in &self.routers {
            router.within(|| tool(Command::new("conntrack").arg("-F"), "").map(drop))?;
        }
        Ok(())
    }
}

/// A whole cell.
#[derive(Debug)]
pub(crate) struct Topology {
    core: Netns,
    anchors: Vec<Netns>,
    a: Site,
    b: Site,
}

impl Topology {
    /// Builds it; `name` is unique in the lab. `wiring` is the kind of both sides' access lines.
    pub(crate) fn build(name: &str, a: Access, b: Access, wiring: &Wiring) -> Result<Self> {
        let core = Netns::create(format!("{name}-core"))?;
        core.set("ipv4/ip_forward", "1")?;
        let mut anchors = Vec::with_capacity(ANCHORS);
        for number in (0..).take(ANCHORS) {
            let anchor = Netns::create(format!("{name}-anchor{number}"))?;
            let device = core_device("anchor", number);
            let subnet = anchor_subnet(number);
            Wire::lay(&Wiring::Plain, &core, &anchor, [&device, WAN], subnet)?;
            anchors.push(anchor);
        }
        let a = site(name, Side::A, a, &core, wiring)?;
        let b = site(name, Side::B, b, &core, wiring)?;
        Ok(Self {
            core,
            anchors,
            a,
            b,
        })
    }

    pub(crate) fn anchor(&self, number: usize) -> Result<&Netns> {
        self.anchors.get(number).context("there is no such anchor")
    }

    pub(crate) const fn site(&self, side: Side) -> &Site {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// Gives a side another outer address; the former wire is cut.
    pub(crate) fn switch_uplink(&self, side: Side) -> Result<()> {
        let site = self.site(side);
        let former = site.uplink.fetch_add(1, Ordering::Relaxed);
        let uplink = former.saturating_add(1);
        self.core
            .ip(&format!("link del {}\n", core_device(side.name(), former)))?;
        let device = core_device(side.name(), uplink);
        let subnet = side.outer(uplink);
        // A plain wire is nothing to hold.
        Wire::lay(
            &Wiring::Plain,
            &self.core,
            site.edge(),
            [&device, WAN],
            subnet,
        )
        .map(drop)
    }

    /// Cuts a side off from everybody, or ends that.
    pub(crate) fn partition(&self, side: Side, cut: bool) -> Result<()> {
        let rules = if cut {
            let networks = side.networks();
            format!(
                "table ip cut {{ chain forward {{ type filter hook forward priority filter;\n\
                 ip saddr {networks} drop\nip daddr {networks} drop\n}}\n}}\n"
            )
        } else {
            "delete table ip cut\n".to_owned()
        };
        self.core.nft(&rules)
    }
}

fn core_device(to: &str, number: u8) -> String {
    format!("{to}{number}")
}

fn site(name: &str, side: Side, access: Access, core: &Netns, wiring: &Wiring) -> Result<Site> {
    let letter = side.name();
    let host = Netns::create(format!("{name}-{letter}"))?;
    let mut routers = Vec::new();
    for number in 0..access.nats().len() {
        let router = Netns::create(format!("{name}-{letter}-nat{number}"))?;
        router.set("ipv4/ip_forward", "1")?;
        routers.push(router);
    }
    let mut wires = Vec::new();
    // From the core inwards; only the line to the host itself may be a simulated one.
    let chain: Vec<&Netns> = std::iter::once(core)
        .chain(routers.iter().rev())
        .chain([&host])
        .collect();
    for (depth, pair) in chain.windows(2).enumerate() {
        let [outer, inner] = pair else { continue };
        let last = depth + 2 == chain.len();
        let subnet = match (depth, last) {
            (0, _) => side.outer(0),
            (_, true) => Subnet(Ipv4Addr::new(192, 168, 1 + side.number(), 0)),
            // RFC 6598: between a carrier and its customers.
            (_, false) => Subnet(Ipv4Addr::new(100, 64, side.number(), 0)),
        };
        let device = if depth == 0 {
            core_device(letter, 0)
        } else {
            LAN.to_owned()
        };
        let kind = if last { wiring } else { &Wiring::Plain };
        wires.push(Wire::lay(kind, outer, inner, [&device, WAN], subnet)?);
    }
    let site = Site {
        access,
        _wires: wires,
        host,
        routers,
        uplink: AtomicU8::new(0),
    };
    site.load()?;
    let seat = if site.routers.is_empty() {
        Seat::Host
    } else {
        Seat::Router
    };
    let mut networks = vec![(PEER_COUNTER, side.other().networks())];
    for (counter, number) in ANCHOR_COUNTERS.into_iter().zip(0..) {
        networks.push((counter, format!("{}/32", anchor_subnet(number).member())));
    }
    site.edge().nft(&ruleset::gauge(seat, &networks))?;
    Ok(site)
}
