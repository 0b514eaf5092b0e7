//! Reading multiaddresses: whose they are, which path and transport they name, which are worth
//! dialling.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use polymath_types::{PathKind, Transport};

use crate::report::Scope;
use socket2::{Domain, Socket, Type};

/// Longest multiaddress kept, bytes.
const MAX_BYTES: usize = 256;

/// Takes the peer off the end of `/…/p2p/PEER`.
pub(crate) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    if let Some(Protocol::P2p(peer)) = address.iter().last() {
        address.pop();
        (address, Some(peer))
    } else {
        (address, None)
    }
}

pub(crate) fn path_of(address: &Multiaddr) -> PathKind {
    if address.iter().any(|p| matches!(p, Protocol::P2pCircuit)) {
        PathKind::Relayed
    } else {
        PathKind::Direct
    }
}

pub(crate) fn transport_of(address: &Multiaddr) -> Transport {
    if address.iter().any(|p| matches!(p, Protocol::QuicV1)) {
        Transport::Quic
    } else if crate::wss::inside_tls(address).is_some() {
        Transport::Wss
    } else {
        Transport::Tcp
    }
}

/// The IP address an address begins with, if it begins with one.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// How far an address reaches.
pub fn scope_of(address: &Multiaddr) -> Scope {
    if path_of(address) == PathKind::Relayed {
        return Scope::Circuit;
    }
    match ip_of(address).map(|ip| ip.to_canonical()) {
        Some(ip) if ip.is_loopback() => Scope::Loopback,
        Some(ip) if is_of_a_network(ip) => Scope::Private,
        _ => Scope::Global,
    }
}

/// An interface of a container bridge, by the networks that container engines use unasked:
/// 172.17 to 172.31 with the host's address ending in .0.1 (Docker), 10.88 (Podman), 192.168.122
/// (libvirt). What engines were told to use instead is known by the interface's name.
pub(crate) fn is_container_bridge(address: &Multiaddr) -> bool {
    let Some(IpAddr::V4(ip)) = ip_of(address) else {
        return false;
    };
    matches!(
        ip.octets(),
        [172, 17..=31, 0, 1] | [10, 88, 0, 1] | [192, 168, 122, 1]
    )
}

/// Addresses of this machine's interfaces to containers and virtual machines, by how engines name
/// them: nobody outside can use them.
pub(crate) fn bridges() -> Vec<IpAddr> {
    const NAMES: [&str; 11] = [
        "docker", "br-", "podman", "cni", "virbr", "lxdbr", "lxcbr", "veth", "cali", "flannel",
        "kube",
    ];
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let bridges = interfaces
        .into_iter()
        .filter(|i| NAMES.iter().any(|n| i.name.starts_with(n)));
    bridges.map(|i| i.ip()).collect()
}

/// Whether an address means something in one network only: RFC 1918, RFC 4193, RFC 6598, link-local.
pub(crate) fn is_of_a_network(ip: IpAddr) -> bool {
    is_link_local(ip) || is_private(ip) || is_shared(ip)
}

/// Carrier-grade NAT's own network (RFC 6598).
fn is_shared(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
}

/// The relay a circuit address goes through.
pub(crate) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut relay = None;
    for part in address.iter() {
        match part {
            Protocol::P2p(peer) => relay = Some(peer),
            Protocol::P2pCircuit => return relay,
            _ => {}
        }
    }
    None
}

pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| ip.is_loopback())
}

/// Whether our transports could dial `address`, and nothing in it is absurd.
pub fn is_dialable(address: &Multiaddr) -> bool {
    let parts: Vec<_> = address.iter().collect();
    let host = match parts.first() {
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        Some(Protocol::Ip6(ip)) => !ip.is_unspecified() && !ip.is_multicast(),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => true,
        _ => false,
    };
    let behind = match &parts[..] {
        [
            _,
            Protocol::Tcp(port),
            Protocol::Tls,
            Protocol::Ws(_),
            rest @ ..,
        ]
        | [_, Protocol::Tcp(port), Protocol::Wss(_), rest @ ..]
        | [_, Protocol::Udp(port), Protocol::QuicV1, rest @ ..]
        | [_, Protocol::Tcp(port), rest @ ..]
            if *port != 0 =>
        {
            rest
        }
        _ => return false,
    };
    let end = matches!(
        behind,
        [] | [Protocol::P2p(_)]
            | [Protocol::P2p(_), Protocol::P2pCircuit]
            | [Protocol::P2p(_), Protocol::P2pCircuit, Protocol::P2p(_)]
    );
    host && end && address.len() <= MAX_BYTES
}

/// Drops loopback addresses as soon as there is any other: they mean this machine only.
pub(crate) fn prefer_reachable(mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    if addresses.iter().any(|a| !is_loopback(a)) {
        addresses.retain(|a| !is_loopback(a));
    }
    addresses
}

/// At most `most` of a node's own addresses, those first that are good for most others: loopback
/// only for want of any other, and each interface once before any appears with a second transport.
pub fn worth_telling(addresses: Vec<Multiaddr>, most: usize) -> Vec<Multiaddr> {
    let mut seen: HashMap<Option<IpAddr>, usize> = HashMap::new();
    let mut ranked: Vec<_> = prefer_reachable(addresses)
        .into_iter()
        .map(|address| {
            let ip = ip_of(&address);
            let times = seen.entry(ip).or_default();
            *times += 1;
            // Without a zone, which says nothing on another machine, nobody can dial it.
            let link_local = ip.is_some_and(is_link_local);
            ((link_local, *times, ip.is_some_and(is_private)), address)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.truncate(most);
    ranked.into_iter().map(|(_, address)| address).collect()
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Binds the port a listen address names, and lets go of it again.
///
/// libp2p listens on TCP with `SO_REUSEPORT`, with which a second process of the same user takes
/// a port in use and the kernel deals connections out to either; a bind without it tells. And the
/// operating system's own error is lost among libp2p's wrappers.
pub(crate) fn try_bind(address: &Multiaddr) -> io::Result<()> {
    let (Some(ip), Some(port)) = (ip_of(address), address.iter().nth(1)) else {
        return Ok(());
    };
    let (kind, port) = match port {
        Protocol::Tcp(port) => (Type::STREAM, port),
        Protocol::Udp(port) => (Type::DGRAM, port),
        _ => return Ok(()),
    };
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // As libp2p does: [::] and 0.0.0.0 may then have the same port.
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // Connections of a listener that is gone do not occupy its port.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(1)?;
    }
    Ok(())
}

/// Whether somebody still has the port of an address that was listened on. That its interface has
/// gone, or that a link-local address lacks a zone, is no reason to wait for it.
pub(crate) fn in_use(address: &Multiaddr) -> bool {
    try_bind(address).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_addresses_of_our_transports_are_dialable() {
        for good in [
            "/ip4/192.0.2.1/tcp/4001",
            "/ip6/2001:db8::1/udp/4001/quic-v1",
            "/dns4/example.org/tcp/1",
            "/dns4/example.org/tcp/443/tls/ws",
            "/ip4/192.0.2.1/tcp/443/wss",
            "/ip4/192.0.2.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit",
        ] {
            assert!(is_dialable(&addr(good)), "{good}");
        }
        for bad in [
            "/ip4/0.0.0.0/tcp/4001",
            "/ip4/192.0.2.1/tcp/0",
            "/ip4/192.0.2.1/udp/4001",
            "/ip4/192.0.2.1",
            "/ip4/224.0.0.1/tcp/1",
            "/ip4/192.0.2.1/tcp/1/ws",
            "/memory/7",
            "/p2p-circuit",
            "/ip4/192.0.2.1/tcp/1/p2p-circuit",
        ] {
            assert!(!is_dialable(&addr(bad)), "{bad}");
        }
    }

    #[test]
    fn the_peer_is_taken_off_the_end_only() {
        let peer = PeerId::random();
        let bare = addr("/ip4/192.0.2.1/tcp/4001");
        assert_eq!(
            split_peer(bare.clone().with(Protocol::P2p(peer))),
            (bare.clone(), Some(peer))
        );
        assert_eq!(split_peer(bare.clone()), (bare, None));
    }

    #[test]
    fn loopback_is_offered_only_for_want_of_better() {
        let (lo, lan) = (addr("/ip4/127.0.0.1/tcp/1"), addr("/ip4/192.0.2.1/tcp/1"));
        assert_eq!(prefer_reachable(vec![lo.clone()]), vec![lo.clone()]);
        assert_eq!(prefer_reachable(vec![lo, lan.clone()]), vec![lan]);
    }

    #[test]
    fn of_many_addresses_each_interface_is_told_once_before_any_twice() {
        let mut all = vec![addr("/ip4/127.0.0.1/tcp/1"), addr("/ip6/::1/tcp/1")];
        let mut interfaces: Vec<String> = (17..24).map(|i| format!("/ip4/172.{i}.0.1")).collect();
        interfaces.push("/ip4/192.168.1.5".to_owned());
        interfaces.push("/ip4/198.51.100.7".to_owned());
        for interface in &interfaces {
            all.push(addr(&format!("{interface}/tcp/1")));
            all.push(addr(&format!("{interface}/udp/1/quic-v1")));
        }
        assert_eq!(all.len(), 20);
        let told = worth_telling(all.clone(), 16);
        assert_eq!(told.len(), 16);
        assert!(!told.iter().any(is_loopback), "{told:?}");
        assert_eq!(told[0], addr("/ip4/198.51.100.7/tcp/1"));
        assert_eq!(told[9], addr("/ip4/198.51.100.7/udp/1/quic-v1"));
        for interface in &interfaces {
            let tcp = addr(&format!("{interface}/tcp/1"));
            assert!(told[..9].contains(&tcp), "{interface} {told:?}");
        }
        let lone = vec![addr("/ip4/127.0.0.1/tcp/1")];
        assert_eq!(worth_telling(lone.clone(), 16), lone);
        assert_eq!(
            worth_telling(
                vec![addr("/ip6/fe80::1/tcp/1"), addr("/ip6/fd00::1/tcp/1")],
                1
            ),
            [addr("/ip6/fd00::1/tcp/1")]
        );
    }

    #[test]
    fn a_port_is_in_use_only_while_somebody_has_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = addr(&format!(
            "/ip4/127.0.0.1/tcp/{}",
            listener.local_addr().unwrap().port()
        ));
        assert!(in_use(&taken));
        drop(listener);
        assert!(!in_use(&taken));
        for gone in ["/ip4/192.0.2.1/tcp/4001", "/ip6/fe80::1/udp/4001/quic-v1"] {
            assert!(!in_use(&addr(gone)), "{gone}");
        }
    }

    #[test]
    fn path_and_transport_are_read_off_the_address() {
        assert_eq!(
            transport_of(&addr("/ip4/192.0.2.1/udp/1/quic-v1")),
            Transport::Quic
        );
        assert_eq!(transport_of(&addr("/ip4/192.0.2.1/tcp/1")), Transport::Tcp);
        assert_eq!(path_of(&addr("/ip4/192.0.2.1/tcp/1")), PathKind::Direct);
        let relayed = format!("/ip4/192.0.2.1/tcp/1/p2p/{}/p2p-circuit", PeerId::random());
        assert_eq!(path_of(&addr(&relayed)), PathKind::Relayed);
    }
}
