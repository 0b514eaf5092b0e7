//! A hole punch with plain sockets, for every pair of accesses: what the theory says must be true of the
//! lab's NATs before any daemon is measured against it.
//!
//! Each side learns from an anchor how it is seen, then both send to each other at once, and answer to
//! wherever something came from.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    nat::Access,
    netns::Netns,
    sockets::{self, PATIENCE, accepted, connection_within, datagrams, listener, received},
    theory::{Protocol, without_relay},
    topology::{Side, Topology, anchor_address},
    wire::Wiring,
};

/// The sides' port, and the anchor's.
const PORT: u16 = 40_002;
const SERVER: u16 = 4040;
/// A lost SYN is sent again after a second.
const HANDSHAKE: Duration = Duration::from_millis(2500);
/// What the sides say to each other.
const HELLO: &[u8] = b"hello";
const ECHO: &[u8] = b"echo";

/// Whether a pair could meet without a relay, over each protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Met {
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

impl Met {
    /// What theory says.
    pub(crate) fn expected(a: Access, b: Access) -> Self {
        Self {
            tcp: without_relay(a, b, Protocol::Tcp).is_some(),
            udp: without_relay(a, b, Protocol::Quic).is_some(),
        }
    }

    pub(crate) fn text(self) -> String {
        let shown = |met| if met { "met" } else { "not met" };
        format!("tcp {}, udp {}", shown(self.tcp), shown(self.udp))
    }
}

/// Builds this pair, and lets it try.
pub(crate) fn attempt(name: &str, a: Access, b: Access) -> Result<Met> {
    let net = Topology::build(name, a, b, &Wiring::Plain)?;
    Ok(Met {
        tcp: met(&net, Protocol::Tcp)?,
        udp: met(&net, Protocol::Quic)?,
    })
}

fn met(net: &Topology, protocol: Protocol) -> Result<bool> {
    let at = SocketAddrV4::new(anchor_address(0), SERVER);
    let seen = |side| {
        let host = &net.site(side).host;
        sockets::observed(protocol, host, PORT, net.anchor(0)?, at)
    };
    let (Some(a), Some(b)) = (seen(Side::A)?, seen(Side::B)?) else {
        return Ok(false);
    };
    let attempt = match protocol {
        Protocol::Quic => exchange_datagrams,
        Protocol::Tcp => open_at_once,
    };
    thread::scope(|scope| {
        let tries = [(Side::A, b), (Side::B, a)].map(|(side, other)| {
            let host = &net.site(side).host;
            scope.spawn(move || host.within(|| attempt(host, other)))
        });
        let mut met = false;
        for one in tries {
            met |= one.join().ok().context("a trying thread panicked")??;
        }
        Ok(met)
    })
}

/// Whether something of the other came, and our answer to it was answered.
fn exchange_datagrams(_: &Netns, other: SocketAddr) -> Result<bool> {
    let socket = datagrams(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
    socket.set_read_timeout(Some(PATIENCE / 8))?;
    let mut met = false;
    let until = Instant::now() + 2 * PATIENCE;
    while Instant::now() < until {
        // A firewall's refusal is no fault.
        let _ = socket.send_to(HELLO, other);
        if let Some((bytes, source)) = received(&socket)? {
            if bytes == HELLO {
                let _ = socket.send_to(ECHO, source);
            }
            met |= bytes == ECHO;
        }
    }
    Ok(met)
}

/// Whether a connection to the other came up, by either's SYN or both's, and carried a word.
fn open_at_once(host: &Netns, other: SocketAddr) -> Result<bool> {
    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
    let door = listener(from)?;
    let SocketAddr::V4(to) = other else {
        return Ok(false);
    };
    let dialled = thread::scope(|scope| {
        let dial = scope.spawn(|| host.within(|| Ok(connection_within(from, to, HANDSHAKE))));
        let until = Instant::now() + HANDSHAKE;
        while Instant::now() < until {
            if let Some((mut stream, _)) = accepted(&door)? {
                let _ = stream.write_all(HELLO);
            }
        }
        dial.join().ok().context("the dialling thread panicked")?
    })?;
    let Some(mut stream) = dialled else {
        return Ok(false);
    };
    // Of two SYNs that crossed there is one connection, and nobody accepts: then both say hello.
    let _ = stream.write_all(HELLO);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut word = [0; HELLO.len()];
    Ok(stream.read_exact(&mut word).is_ok() && word == HELLO)
}
