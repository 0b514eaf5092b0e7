//! The kinds of access a node may have, and what each does to a packet, in the words of RFC 4787
//! (UDP) and RFC 5382 (TCP).

use std::{fmt, str::FromStr};

/// Which outer port a host gets for its inner port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mapping {
    /// One for all destinations: what an anchor saw is good for a peer too.
    EndpointIndependent,
    /// Another for each destination's address.
    AddressDependent,
    /// Another for each destination's address and port.
    AddressAndPortDependent,
}

/// Whose packets are let in to a mapped port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Filtering {
    /// Everybody's.
    EndpointIndependent,
    /// Those of addresses that were sent to.
    AddressDependent,
    /// Those of address and port pairs that were sent to.
    AddressAndPortDependent,
}

/// How an access maps and filters. What is stricter is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behaviour {
    pub(crate) mapping: Mapping,
    pub(crate) filtering: Filtering,
}

impl Behaviour {
    /// Of two NATs in series: the stricter rule of each decides.
    fn over(self, inner: Self) -> Self {
        Self {
            mapping: self.mapping.max(inner.mapping),
            filtering: self.filtering.max(inner.filtering),
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mapping = match self.mapping {
            Mapping::EndpointIndependent => "EIM",
            Mapping::AddressDependent => "ADM",
            Mapping::AddressAndPortDependent => "APDM",
        };
        let filtering = match self.filtering {
            Filtering::EndpointIndependent => "EIF",
            Filtering::AddressDependent => "ADF",
            Filtering::AddressAndPortDependent => "APDF",
        };
        write!(f, "{mapping}/{filtering}")
    }
}

/// What a firewall lets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firewall {
    /// Everything.
    Open,
    /// All but UDP.
    NoUdp,
    /// TCP to port 443, nothing else.
    OnlyTcp443,
}

/// One NAT device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cone {
    Full,
    AddressRestricted,
    PortRestricted,
    Symmetric,
}

impl Cone {
    pub(crate) const fn behaviour(self) -> Behaviour {
        let (mapping, filtering) = match self {
            Self::Full => (Mapping::EndpointIndependent, Filtering::EndpointIndependent),
            Self::AddressRestricted => (Mapping::EndpointIndependent, Filtering::AddressDependent),
            Self::PortRestricted => (
                Mapping::EndpointIndependent,
                Filtering::AddressAndPortDependent,
            ),
            Self::Symmetric => (
                Mapping::AddressAndPortDependent,
                Filtering::AddressAndPortDependent,
            ),
        };
        Behaviour { mapping, filtering }
    }
}

/// How a node reaches the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    Public,
    FullCone,
    AddressRestricted,
    PortRestricted,
    Symmetric,
    /// A carrier's NAT on top of a port-restricted one at home.
    Cgnat,
    /// A port-restricted NAT that drops UDP.
    UdpBlocked,
    /// A port-restricted NAT that lets TCP to port 443 out and nothing else.
    Tcp443,
}

impl Access {
    pub(crate) const ALL: [Self; 8] = [
        Self::Public,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::Cgnat,
        Self::UdpBlocked,
        Self::Tcp443,
    ];

    /// The NATs between the host and the internet, the host's own first.
    pub(crate) const fn nats(self) -> &'static [Cone] {
        match self {
            Self::Public => &[],
            Self::FullCone => &[Cone::Full],
            Self::AddressRestricted => &[Cone::AddressRestricted],
            Self::PortRestricted | Self::UdpBlocked | Self::Tcp443 => &[Cone::PortRestricted],
            Self::Symmetric => &[Cone::Symmetric],
            Self::Cgnat => &[Cone::PortRestricted, Cone::PortRestricted],
        }
    }

    pub(crate) const fn firewall(self) -> Firewall {
        match self {
            Self::UdpBlocked => Firewall::NoUdp,
            Self::Tcp443 => Firewall::OnlyTcp443,
            _ => Firewall::Open,
        }
    }

    /// How all its NATs together map and filter; a public host does neither.
    pub(crate) fn behaviour(self) -> Behaviour {
        self.nats()
            .iter()
            .fold(Cone::Full.behaviour(), |inner, nat| {
                nat.behaviour().over(inner)
            })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::Cgnat => "cgnat",
            Self::UdpBlocked => "udp-blocked",
            Self::Tcp443 => "tcp-443",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Access {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|a| a.name() == name)
            .ok_or_else(|| {
                let all = Self::ALL.map(Self::name).join(", ");
                format!("there is no access {name:?}: it is one of {all}")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_in_series_are_as_strict_as_the_stricter() {
        let symmetric = Cone::Symmetric.behaviour();
        let full = Cone::Full.behaviour();
        assert_eq!(full.over(symmetric), symmetric);
        assert_eq!(symmetric.over(full), symmetric);
        assert_eq!(Access::Cgnat.behaviour(), Cone::PortRestricted.behaviour());
    }

    #[test]
    fn names_are_read_back() {
        for access in Access::ALL {
            assert_eq!(access.name().parse(), Ok(access));
        }
        assert!("none".parse::<Access>().is_err());
    }
}
