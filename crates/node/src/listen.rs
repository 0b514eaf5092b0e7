//! Where a node listens, and addresses as people write them.

use std::net::{TcpListener, UdpSocket};

use polymath_net::{Multiaddr, is_dialable};
use polymath_types::{ErrorKind, Failure};

use crate::{Membership, config};

/// Where to listen: as configured; else on the home's own port, for this machine only unless the
/// mesh is one that others are meant to be in.
pub(crate) fn listen_addresses(
    config: &config::Config,
    membership: &mut Membership,
    client: bool,
    outside: bool,
) -> Result<Vec<Multiaddr>, Failure> {
    if !config.net.listen.is_empty() {
        return config.net.listen.iter().map(|a| parse_address(a)).collect();
    }
    if client {
        return Ok(Vec::new());
    }
    let families = [("127.0.0.1", "0.0.0.0"), ("::1", "::")];
    // Where a family is switched off, its loopback address is none.
    let hosts: Vec<&str> = families
        .into_iter()
        .filter(|(loopback, _)| UdpSocket::bind((*loopback, 0)).is_ok())
        .map(|(loopback, any)| if outside { any } else { loopback })
        .collect();
    let free = |port: u16| hosts.iter().all(|host| free(host, port));
    if membership.port == 0 || !free(membership.port) {
        membership.port = (0..16)
            .find_map(|_| {
                let any = TcpListener::bind((*hosts.first()?, 0)).ok()?;
                let port = any.local_addr().ok()?.port();
                drop(any);
                free(port).then_some(port)
            })
            .ok_or_else(|| {
                Failure::new(
                    ErrorKind::FailedPrecondition,
                    format!(
                        "no free port on {}: name an address with --listen",
                        hosts.join(" and ")
                    ),
                )
            })?;
    }
    let port = membership.port;
    let addresses = hosts.iter().flat_map(|host| {
        let family = if host.contains(':') { "ip6" } else { "ip4" };
        [
            format!("/{family}/{host}/tcp/{port}"),
            format!("/{family}/{host}/udp/{port}/quic-v1"),
        ]
    });
    addresses.map(|a| parse_address(&a)).collect()
}

fn free(host: &str, port: u16) -> bool {
    TcpListener::bind((host, port)).is_ok() && UdpSocket::bind((host, port)).is_ok()
}

pub(crate) fn parse_address(text: &str) -> Result<Multiaddr, Failure> {
    text.parse().map_err(|e| {
        Failure::new(
            ErrorKind::InvalidInput,
            format!("'{text}' is not an address ({e}): write it like /ip4/192.0.2.7/tcp/4040, with /p2p/PEER behind it where a peer is meant"),
        )
    })
}

/// An address that somebody is to dial: others, where this node says that it is, or this node.
pub(crate) fn parse_dialable(text: &str) -> Result<Multiaddr, Failure> {
    let address = parse_address(text)?;
    if is_dialable(&address) {
        return Ok(address);
    }
    Err(Failure::new(
        ErrorKind::InvalidInput,
        format!(
            "'{text}' is not an address that can be dialled ({}): write it like /ip4/192.0.2.7/tcp/4040 or /ip4/192.0.2.7/udp/4040/quic-v1, with /p2p/PEER behind it where a peer is meant",
            undialable(text)
        ),
    ))
}

/// What is wrong with an address that no transport here could dial.
fn undialable(text: &str) -> &'static str {
    let parts: Vec<&str> = text.split('/').skip(1).collect();
    match parts.as_slice() {
        [] | [""] => "it is empty",
        ["ip4" | "ip6" | "dns" | "dns4" | "dns6", _] => "it names no transport",
        [.., "tcp" | "udp", "0"] => "its port is 0",
        [_, _, "tcp" | "udp", "0", ..] => "its port is 0",
        [_, _, "udp", _] => "over UDP QUIC is spoken: it lacks /quic-v1",
        [_, "0.0.0.0" | "::", ..] => "it means every address of a machine, not one",
        parts if parts.contains(&"p2p-circuit") => {
            "a way through a relay begins with the relay's own address and id: /ip4/…/tcp/…/p2p/RELAY/p2p-circuit"
        }
        _ => "no transport here speaks it",
    }
}
