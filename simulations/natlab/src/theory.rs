//! What is possible between two nodes, computed from how their accesses map, filter and block; never
//! edited for a single cell.
//!
//! Both sides send to what anchors saw of each other (a hole punch). A packet of X to Y arrives when
//! Y's mapping can be known beforehand and Y's filter has been opened for X: by everybody, or by Y's
//! own packet to X's address, or by Y's own packet to X's very port, for which X's mapping must be
//! known too. What answers a packet that arrived comes through.

use std::{fmt, str::FromStr};

use crate::nat::{Access, Filtering, Firewall, Mapping};

/// One transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Quic,
}

/// The transports enabled on both nodes of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transports {
    Tcp,
    Quic,
    Both,
}

impl Transports {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Quic, Self::Both];

    pub(crate) const fn protocols(self) -> &'static [Protocol] {
        match self {
            Self::Tcp => &[Protocol::Tcp],
            Self::Quic => &[Protocol::Quic],
            Self::Both => &[Protocol::Tcp, Protocol::Quic],
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Both => "both",
        }
    }
}

impl fmt::Display for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Transports {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|t| t.name() == name)
            .ok_or_else(|| format!("there are no transports {name:?}: tcp, quic or both"))
    }
}

/// The best path between two nodes. What is better is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// One side can be dialled.
    Direct,
    /// Both sides must send at once.
    Punch,
    /// Only through an anchor.
    Relay,
    /// One side reaches no anchor at all.
    Nothing,
}

impl Reach {
    /// Whether bytes can flow without an anchor.
    pub(crate) const fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::Punch)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Punch => "punch",
            Self::Relay => "relay",
            Self::Nothing => "nothing",
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The best path between `a` and `b`; who asks whom makes no difference to what is possible.
pub(crate) fn reach(a: Access, b: Access, transports: Transports) -> Reach {
    if !meets_anchor(a, transports) || !meets_anchor(b, transports) {
        return Reach::Nothing;
    }
    transports
        .protocols()
        .iter()
        .map(|protocol| without_relay(a, b, *protocol).unwrap_or(Reach::Relay))
        .min()
        .unwrap_or(Reach::Relay)
}

/// The best path between `a` and `b` over one protocol and no anchor, if there is one.
pub(crate) fn without_relay(a: Access, b: Access, protocol: Protocol) -> Option<Reach> {
    let passes = lets_peers(a, protocol) && lets_peers(b, protocol);
    passes.then(|| straight(a, b)).flatten()
}

/// Whether it reaches an anchor; anchors listen on UDP, on TCP and on TCP port 443.
fn meets_anchor(access: Access, transports: Transports) -> bool {
    let mut protocols = transports.protocols().iter();
    match access.firewall() {
        Firewall::Open => true,
        Firewall::NoUdp | Firewall::OnlyTcp443 => protocols.any(|p| *p == Protocol::Tcp),
    }
}

/// Whether it lets a protocol through to a peer's port, which is not 443.
fn lets_peers(access: Access, protocol: Protocol) -> bool {
    match access.firewall() {
        Firewall::Open => true,
        Firewall::NoUdp => protocol == Protocol::Tcp,
        Firewall::OnlyTcp443 => false,
    }
}

/// The same where firewalls are no matter.
fn straight(a: Access, b: Access) -> Option<Reach> {
    let known = |x: Access| x.behaviour().mapping == Mapping::EndpointIndependent;
    let dialled = |x: Access| known(x) && x.behaviour().filtering == Filtering::EndpointIndependent;
    let opened = |from: Access, to: Access| {
        known(to)
            && match to.behaviour().filtering {
                Filtering::EndpointIndependent | Filtering::AddressDependent => true,
                Filtering::AddressAndPortDependent => known(from),
            }
    };
    if dialled(a) || dialled(b) {
        Some(Reach::Direct)
    } else if opened(a, b) || opened(b, a) {
        Some(Reach::Punch)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Access::{
        AddressRestricted, Cgnat, FullCone, PortRestricted, Public, Symmetric, Tcp443, UdpBlocked,
    };

    #[test]
    fn what_textbooks_say_of_cones() {
        for (a, b, best) in [
            (Public, Public, Reach::Direct),
            (Public, Symmetric, Reach::Direct),
            (FullCone, Symmetric, Reach::Direct),
            (AddressRestricted, AddressRestricted, Reach::Punch),
            (PortRestricted, PortRestricted, Reach::Punch),
            (Cgnat, PortRestricted, Reach::Punch),
            (AddressRestricted, Symmetric, Reach::Punch),
            (PortRestricted, Symmetric, Reach::Relay),
            (Cgnat, Symmetric, Reach::Relay),
            (Symmetric, Symmetric, Reach::Relay),
        ] {
            for transports in Transports::ALL {
                assert_eq!(reach(a, b, transports), best, "{a}, {b}, {transports}");
            }
        }
    }

    #[test]
    fn firewalls_leave_what_they_let_through() {
        assert_eq!(reach(UdpBlocked, Public, Transports::Quic), Reach::Nothing);
        assert_eq!(reach(UdpBlocked, Public, Transports::Tcp), Reach::Direct);
        assert_eq!(
            reach(UdpBlocked, PortRestricted, Transports::Both),
            Reach::Punch
        );
        assert_eq!(reach(Tcp443, Public, Transports::Both), Reach::Relay);
        assert_eq!(reach(Tcp443, Public, Transports::Quic), Reach::Nothing);
    }

    #[test]
    fn both_sides_see_the_same() {
        for a in Access::ALL {
            for b in Access::ALL {
                for transports in Transports::ALL {
                    assert_eq!(reach(a, b, transports), reach(b, a, transports));
                }
            }
        }
    }

    #[test]
    fn more_transports_are_never_worse() {
        for a in Access::ALL {
            for b in Access::ALL {
                let both = reach(a, b, Transports::Both);
                assert!(both <= reach(a, b, Transports::Tcp));
                assert!(both <= reach(a, b, Transports::Quic));
            }
        }
    }
}
