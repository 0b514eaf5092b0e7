//! Which of the addresses a peer tells of itself are believed: those that our transports can dial
//! and that reach no less far than the connection they were told on. A peer across the internet
//! that names a private address names somebody else's machine, or one of ours.

use std::net::IpAddr;

use libp2p::{Multiaddr, multiaddr::Protocol};

use crate::{
    address::{ip_of, is_dialable, is_of_a_network},
    counters::Counters,
};

/// Where a peer that tells addresses is, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Distance {
    SameMachine,
    SamePrivateNetwork,
    Far,
}

/// Why an address is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no transport here could dial it")]
    Undialable,
    #[error("it reaches less far than the connection it was told on")]
    OutOfScope,
    #[error("too many were told")]
    TooMany,
}

impl Distance {
    /// Of a peer whose connection comes from, or goes to, `remote`; `here` are this machine's own.
    pub(crate) fn of(remote: &Multiaddr, here: &[IpAddr]) -> Self {
        // Behind a relay a peer may be anywhere.
        let relayed = remote.iter().any(|p| matches!(p, Protocol::P2pCircuit));
        match ip_of(remote).map(|ip| ip.to_canonical()) {
            _ if relayed => Self::Far,
            Some(ip) if ip.is_loopback() || here.contains(&ip) => Self::SameMachine,
            Some(ip) if is_of_a_network(ip) => Self::SamePrivateNetwork,
            _ => Self::Far,
        }
    }

    fn hears(self, address: &Multiaddr) -> bool {
        match ip_of(address).map(|ip| ip.to_canonical()) {
            Some(ip) if ip.is_loopback() => self == Self::SameMachine,
            Some(ip) if is_of_a_network(ip) => self <= Self::SamePrivateNetwork,
            _ => true,
        }
    }
}

/// The first `most` of `told` that are believed; what is refused is counted.
pub(crate) fn vet(
    told: impl IntoIterator<Item = Multiaddr>,
    from: Distance,
    most: usize,
    counters: &Counters,
) -> Vec<Multiaddr> {
    let mut believed = Vec::new();
    for address in told {
        let verdict = judge(&address, from).and_then(|()| {
            let room = believed.len() < most;
            room.then_some(()).ok_or(Refusal::TooMany)
        });
        let Err(refusal) = verdict else {
            believed.push(address);
            continue;
        };
        match refusal {
            Refusal::Undialable => counters.addresses_undialable.up(),
            Refusal::OutOfScope => counters.addresses_out_of_scope.up(),
            Refusal::TooMany => counters.addresses_too_many.up(),
        }
        tracing::debug!(%address, "an address is not believed: {refusal}");
    }
    believed
}

fn judge(address: &Multiaddr, from: Distance) -> Result<(), Refusal> {
    if !is_dialable(address) {
        return Err(Refusal::Undialable);
    }
    from.hears(address).then_some(()).ok_or(Refusal::OutOfScope)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_must_reach_as_far_as_the_connection_it_was_told_on() {
        let here = ["198.51.100.7".parse().unwrap()];
        let from = |text: &str| Distance::of(&addr(text), &here);
        assert_eq!(from("/ip4/127.0.0.1/tcp/1"), Distance::SameMachine);
        assert_eq!(from("/ip4/198.51.100.7/tcp/1"), Distance::SameMachine);
        assert_eq!(from("/ip4/10.1.2.3/tcp/1"), Distance::SamePrivateNetwork);
        assert_eq!(from("/ip4/100.64.0.1/tcp/1"), Distance::SamePrivateNetwork);
        assert_eq!(from("/ip6/fe80::1/tcp/1"), Distance::SamePrivateNetwork);
        assert_eq!(from("/ip4/203.0.113.9/tcp/1"), Distance::Far);
        assert_eq!(
            from(&format!(
                "/ip4/10.1.2.3/tcp/1/p2p/{}/p2p-circuit",
                libp2p::PeerId::random()
            )),
            Distance::Far
        );

        let (loopback, private, global) = (
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/ip4/203.0.113.9/tcp/1",
        );
        let heard = |from| {
            let counters = Counters::default();
            let told = [loopback, private, global, "/ip4/203.0.113.9/tcp/0"].map(addr);
            let believed = vet(told, from, 2, &counters);
            let c = counters.snapshot();
            let refused = (
                c.addresses_undialable,
                c.addresses_out_of_scope,
                c.addresses_too_many,
            );
            (believed, refused)
        };
        assert_eq!(heard(Distance::Far), (vec![addr(global)], (1, 2, 0)));
        assert_eq!(
            heard(Distance::SamePrivateNetwork),
            (vec![addr(private), addr(global)], (1, 1, 0))
        );
        assert_eq!(
            heard(Distance::SameMachine),
            (vec![addr(loopback), addr(private)], (1, 0, 1))
        );
    }
}
