//! Where two nodes stand to each other: which way one reaches the other, and why it does not.
//!
//! Holes can be punched where each side can be told beforehand which outer address the other will
//! have (RFC 5128, section 3.3): always when both mappings are endpoint-independent; when one is
//! endpoint-dependent, only through a filter on the other side that lets everybody in. Somebody
//! has to carry the first word, so a relay is needed in any case.

use std::net::IpAddr;

use polymath_net::{
    AddressSource, Filtering, Mapping, Multiaddr, NetReport, RelayState, Scope, Verdict,
};
use polymath_types::Transport;

/// How one transport is translated and filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat {
    /// Which transport.
    pub transport: Transport,
    /// How ports are translated.
    pub mapping: Mapping,
    /// Who gets in.
    pub filtering: Filtering,
}

/// A node's place in the network, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// What is known of each transport; nothing of nodes that one only heard of.
    pub nats: Vec<Nat>,
    /// It tells an address of the whole internet.
    pub open: bool,
    /// It tells an address through a relay.
    pub relayed: bool,
    /// It tells an address of a private network.
    pub private: bool,
    /// It tells an address of its own machine; or, of the own node, it listens nowhere else.
    pub loopback: bool,
}

impl Place {
    /// A node's own place; `listen` are the addresses it listens on.
    pub fn own(report: &NetReport, listen: &[Multiaddr]) -> Self {
        let mut place = Self {
            nats: report
                .transports
                .iter()
                .map(|t| Nat {
                    transport: t.transport,
                    mapping: t.mapping,
                    filtering: t.filtering,
                })
                .collect(),
            open: report
                .transports
                .iter()
                .any(|t| t.filtering == Filtering::Open),
            relayed: report
                .relays
                .iter()
                .any(|r| r.state == RelayState::Reserved),
            loopback: listen.iter().all(|a| scope(a) == Scope::Loopback),
            private: listen.iter().any(|a| scope(a) == Scope::Private),
        };
        for a in &report.addresses {
            match a.scope {
                Scope::Global => {
                    place.open |= (matches!(a.verdict, Verdict::Confirmed(_))
                        && a.source != AddressSource::Observed)
                        || (a.source == AddressSource::Announced
                            && !matches!(a.verdict, Verdict::Failed(_)));
                }
                Scope::Circuit => place.relayed |= a.announced,
                Scope::Private | Scope::Loopback => {}
            }
        }
        place
    }

    /// The place of a node that tells these addresses.
    pub fn told(addresses: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut place = Self::default();
        for address in addresses {
            let Ok(address) = address.as_ref().parse::<Multiaddr>() else {
                continue;
            };
            match scope(&address) {
                Scope::Global => place.open = true,
                Scope::Circuit => place.relayed = true,
                Scope::Private => place.private = true,
                Scope::Loopback => place.loopback = true,
            }
        }
        place
    }

    fn nat(&self, transport: Transport) -> Option<Nat> {
        self.nats
            .iter()
            .find(|n| n.transport == transport && n.mapping != Mapping::Unknown)
            .copied()
    }
}

pub use polymath_net::scope_of as scope;

/// The IP address at its beginning.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    address.to_string().split('/').nth(2)?.parse().ok()
}

/// An address that a provider's own NAT hands out (RFC 6598).
pub(super) fn shared(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
}

/// By which way one node reaches another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// It dials it.
    Direct,
    /// Both open their NATs at once, or the other one dials back, after a word through a relay.
    HolePunching,
    /// All bytes go through a relay.
    Relayed,
    /// None.
    None,
    /// Too little is known.
    Unknown,
}

/// What two places come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachability {
    /// By which way.
    pub way: Way,
    /// Why; reads on behind "the peer ...".
    pub why: &'static str,
    /// What to do when that way fails, or to have one.
    pub fix: &'static str,
}

/// How `own` reaches `other`.
pub fn reachability(own: &Place, other: &Place) -> Reachability {
    let answer = |way, why, fix| Reachability { way, why, fix };
    if other.open {
        return answer(
            Way::Direct,
            "tells a public address, so it is down, or a firewall on the way lets nothing through",
            "check that it runs and that its port is open, and run `polymath doctor` on both sides",
        );
    }
    let punched = punch(own, other);
    if other.relayed {
        const FIX: &str =
            "its relay may be down or full: try again, or run `polymath doctor` on both sides";
        return match punched {
            _ if own.open => answer(
                Way::HolePunching,
                "is behind a NAT and dials back when its relay brings it word",
                FIX,
            ),
            Some(true) => answer(
                Way::HolePunching,
                "is behind a NAT through which holes can be punched, after a first contact through its relay",
                FIX,
            ),
            Some(false) => answer(
                Way::Relayed,
                "and this node are behind NATs that choose a new port for each destination: only a relay carries between them",
                FIX,
            ),
            None => answer(Way::Relayed, "is reached through its relay", FIX),
        };
    }
    const ANCHOR: &str = "start an anchor on a machine with a public address (`polymath up --anchor`) and let both join through it";
    if own.open {
        return answer(
            Way::None,
            "has neither a public address nor a relay: only it can dial, not be dialled",
            "let it join through this node's address (`polymath status`), or through an anchor",
        );
    }
    match punched {
        Some(true) => {
            return answer(
                Way::None,
                "and this node are behind NATs through which holes could be punched, but no relay makes the first contact",
                ANCHOR,
            );
        }
        Some(false) => {
            return answer(
                Way::None,
                "and this node are behind NATs that choose a new port for each destination, and there is no relay between them",
                ANCHOR,
            );
        }
        None => {}
    }
    if other.private {
        answer(
            Way::Unknown,
            "tells only addresses of a private network: it is reached from there alone, for it has no relay",
            ANCHOR,
        )
    } else if other.loopback && own.loopback {
        answer(
            Way::Direct,
            "is open to its own machine only, so if that is this one it is down",
            "check that it runs",
        )
    } else if other.loopback {
        answer(
            Way::Unknown,
            "listens on its own machine only",
            "start it with --listen /ip4/0.0.0.0/tcp/0 --listen /ip4/0.0.0.0/udp/0/quic-v1",
        )
    } else {
        answer(
            Way::Unknown,
            "tells no address",
            "join through a peer that knows it, or dial an address of it",
        )
    }
}

/// Whether holes can be punched between the two over some transport; nothing where no mapping is
/// known of both.
fn punch(own: &Place, other: &Place) -> Option<bool> {
    let mut known = None;
    for transport in [Transport::Quic, Transport::Tcp] {
        let (Some(a), Some(b)) = (own.nat(transport), other.nat(transport)) else {
            continue;
        };
        let stable = |n: Nat| n.mapping != Mapping::EndpointDependent;
        // Both sides speak up, so that it suffices if each lets in whom it has addressed, on any port.
        let open =
            |n: Nat| stable(n) && matches!(n.filtering, Filtering::Open | Filtering::Contacts);
        if (stable(a) && stable(b)) || open(a) || open(b) {
            return Some(true);
        }
        known = Some(false);
    }
    known
}
