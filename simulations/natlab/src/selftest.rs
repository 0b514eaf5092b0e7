//! Measures what each access really does, with plain sockets, as RFC 5780 does: without this, a table
//! of connections would rest on what the lab's rules were meant to say.
//!
//! Mapping: the host sends to three endpoints at two anchors, which tell what they saw. Before it sends
//! to the second anchor, that one has sent to the mapping already, as an early hole punch would.
//! Filtering: the host sends to one endpoint, and others try to reach the mapping.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    nat::{Access, Behaviour, Filtering, Firewall, Mapping},
    netns::Netns,
    sockets::{PATIENCE, accepted, connection, datagrams, listener, observed, received},
    theory::Protocol,
    topology::{Side, Topology, anchor_address},
    wire::Wiring,
};

/// Ports of the anchors' test servers.
const FIRST: u16 = 4040;
const SECOND: u16 = 4041;
const WEB: u16 = 443;
/// The host's ports, one for each measurement.
const MAPPED: u16 = 40_000;
const FILTERED: u16 = 40_001;
/// The datagram of one who tries to get in.
const KNOCK: &[u8] = b"knock";

/// What was measured of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    /// `None` where the protocol is blocked.
    pub(crate) udp: Option<Behaviour>,
    pub(crate) tcp: Option<Behaviour>,
    /// TCP to port 443 comes out.
    pub(crate) web: bool,
}

impl Measured {
    /// What an access of this name must do.
    pub(crate) fn expected(access: Access) -> Self {
        let open = |unless: &[Firewall]| {
            (!unless.contains(&access.firewall())).then(|| access.behaviour())
        };
        Self {
            udp: open(&[Firewall::NoUdp, Firewall::OnlyTcp443]),
            tcp: open(&[Firewall::OnlyTcp443]),
            web: true,
        }
    }

    pub(crate) fn text(&self) -> String {
        let shown = |b: Option<Behaviour>| b.map_or("blocked".into(), |b| b.to_string());
        format!(
            "udp {}, tcp {}, tcp 443 {}",
            shown(self.udp),
            shown(self.tcp),
            if self.web { "open" } else { "blocked" }
        )
    }
}

/// Builds this access, and measures it.
pub(crate) fn measure(name: &str, access: Access) -> Result<Measured> {
    let net = Topology::build(name, access, Access::Public, &Wiring::Plain)?;
    let host = &net.site(Side::A).host;
    let anchors = [net.anchor(0)?, net.anchor(1)?];
    let measured = |protocol| {
        let probe = Probe {
            host,
            anchors,
            protocol,
        };
        probe.behaviour()
    };
    let probe = Probe {
        host,
        anchors,
        protocol: Protocol::Tcp,
    };
    Ok(Measured {
        udp: measured(Protocol::Quic)?,
        tcp: measured(Protocol::Tcp)?,
        web: probe.observed(MAPPED, 0, WEB)?.is_some(),
    })
}

struct Probe<'a> {
    host: &'a Netns,
    anchors: [&'a Netns; 2],
    protocol: Protocol,
}

impl Probe<'_> {
    fn behaviour(&self) -> Result<Option<Behaviour>> {
        let Some(mapping) = self.mapping()? else {
            return Ok(None);
        };
        let filtering = self.filtering()?;
        Ok(Some(Behaviour { mapping, filtering }))
    }

    fn mapping(&self) -> Result<Option<Mapping>> {
        let Some(first) = self.observed(MAPPED, 0, FIRST)? else {
            return Ok(None);
        };
        self.knock(1, FIRST, first)?;
        let other_port = self.observed(MAPPED, 0, SECOND)?;
        let other_host = self.observed(MAPPED, 1, FIRST)?;
        Ok(Some(if other_port != Some(first) {
            Mapping::AddressAndPortDependent
        } else if other_host != Some(first) {
            Mapping::AddressDependent
        } else {
            Mapping::EndpointIndependent
        }))
    }

    fn filtering(&self) -> Result<Filtering> {
        let door = self.door()?;
        let mapped = self
            .observed(FILTERED, 0, FIRST)?
            .context("what was open a moment ago is closed")?;
        for (anchor, filtering) in [
            (1, Filtering::EndpointIndependent),
            (0, Filtering::AddressDependent),
        ] {
            self.knock(anchor, SECOND, mapped)?;
            if door.was_knocked_at()? {
                return Ok(filtering);
            }
        }
        Ok(Filtering::AddressAndPortDependent)
    }

    fn observed(&self, port: u16, anchor: usize, server: u16) -> Result<Option<SocketAddr>> {
        let at = SocketAddrV4::new(anchor_address(anchor), server);
        observed(self.protocol, self.host, port, self.anchors[anchor], at)
    }

    /// An anchor tries to reach a mapping, from its `port`.
    fn knock(&self, anchor: usize, port: u16, mapped: SocketAddr) -> Result<()> {
        let from = SocketAddrV4::new(anchor_address(anchor), port);
        let SocketAddr::V4(mapped) = mapped else {
            return Ok(());
        };
        self.anchors[anchor].within(|| {
            match self.protocol {
                Protocol::Quic => {
                    datagrams(from)?
                        .send_to(KNOCK, mapped)
                        .context("an anchor has no route")?;
                }
                Protocol::Tcp => {
                    // Whoever lets it in takes the text.
                    if let Some(mut stream) = connection(from, mapped) {
                        let _ = stream.write_all(KNOCK);
                    }
                }
            }
            Ok(())
        })
    }

    fn door(&self) -> Result<Door> {
        let at = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, FILTERED);
        self.host.within(|| {
            Ok(match self.protocol {
                Protocol::Quic => Door::Datagrams(datagrams(at)?),
                Protocol::Tcp => Door::Streams(listener(at)?),
            })
        })
    }
}

/// Where knocks arrive that were let in.
enum Door {
    Datagrams(UdpSocket),
    Streams(TcpListener),
}

impl Door {
    fn was_knocked_at(&self) -> Result<bool> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let got = match self {
                Self::Datagrams(socket) => received(socket)?.map(|(bytes, _)| bytes),
                Self::Streams(listener) => match accepted(listener)? {
                    None => None,
                    Some((mut stream, _)) => {
                        let mut bytes = Vec::new();
                        stream.set_read_timeout(Some(PATIENCE))?;
                        let _ = stream.read_to_end(&mut bytes);
                        Some(bytes)
                    }
                },
            };
            if got.is_some_and(|bytes| bytes == KNOCK) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
