//! Why two nodes do not meet, in words: what is wrong with the way, on whose side, and what helps.

use polymath_net::{DialError, Multiaddr, NetReport, RelayState, Scope, Verdict};

/// What can be said of this node's own place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Others can open connections to it.
    Public,
    /// Others reach it through a relay.
    Relayed,
    /// Nobody can open a connection to it.
    Hidden,
    /// Not found out yet.
    Unknown,
}

fn place(report: &NetReport) -> Place {
    let confirmed = report.addresses.iter().any(|a| {
        a.scope == Scope::Global
            && a.announced
            && matches!(a.verdict, Verdict::Confirmed(_) | Verdict::NotNeeded)
    });
    let failed = report
        .addresses
        .iter()
        .any(|a| matches!(a.verdict, Verdict::Failed(_)));
    if confirmed {
        Place::Public
    } else if report
        .relays
        .iter()
        .any(|r| r.state == RelayState::Reserved)
    {
        Place::Relayed
    } else if report.addresses.is_empty() || (!failed && report.relays.is_empty()) {
        Place::Unknown
    } else {
        Place::Hidden
    }
}

/// How a peer's known addresses could be dialled from elsewhere.
fn theirs(addresses: &[Multiaddr]) -> &'static str {
    let circuit = addresses
        .iter()
        .any(|a| a.to_string().contains("/p2p-circuit"));
    let public = addresses.iter().any(|a| is_public(a));
    match (addresses.is_empty(), public, circuit) {
        (true, ..) => "it has told no address",
        (_, true, _) => "its public address does not answer",
        (_, false, true) => "it has no public address, and the relay it names does not lead to it",
        (_, false, false) => {
            "it has no public address and no relay, only addresses of its own network"
        }
    }
}

fn is_public(address: &Multiaddr) -> bool {
    let text = address.to_string();
    let mut parts = text.split('/').skip(1);
    match (parts.next(), parts.next().unwrap_or_default()) {
        (Some("ip4"), ip) => ip.parse().is_ok_and(|ip: std::net::Ipv4Addr| {
            let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared)
        }),
        (Some("ip6"), ip) => ip.parse().is_ok_and(|ip: std::net::Ipv6Addr| {
            !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
        }),
        (Some("dns" | "dns4" | "dns6"), _) => !text.contains("/p2p-circuit"),
        _ => false,
    }
}

/// One line: what came of dialling, and where that is the cause, that neither side can be reached
/// and no relay joins them. `addresses` are the other side's, as far as known; `anchors` is how many
/// the mesh has.
pub(crate) fn explain(
    error: &DialError,
    addresses: &[Multiaddr],
    report: &NetReport,
    anchors: usize,
) -> String {
    let nowhere = matches!(
        error,
        DialError::Unreachable { .. } | DialError::NoAddress { .. } | DialError::Timeout { .. }
    );
    if !nowhere || addresses.iter().any(is_public) {
        return error.to_string();
    }
    let ours = match place(report) {
        Place::Public => "this node has a public address, but the peer does not dial it",
        Place::Relayed => "this node is reached through a relay only",
        Place::Hidden => "this node has no public address and no relay either",
        Place::Unknown => "whether this node can be reached from outside is not known yet",
    };
    let advice = if anchors == 0 {
        "run a node with `polymath up --anchor` on a machine that all can reach, and put its address into the mesh's anchors (`polymath mesh anchors`)"
    } else {
        "check that the mesh's anchors run (`polymath mesh show`)"
    };
    format!("{error}; {}; {ours}: {advice}", theirs(addresses))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polymath_net::{AddressReport, AddressSource, PeerId, RelayReport};

    use super::*;

    fn unreachable() -> DialError {
        DialError::Unreachable {
            target: "a peer".into(),
            reason: "nobody there".into(),
        }
    }

    fn report(scope: Scope, verdict: Verdict, relay: Option<RelayState>) -> NetReport {
        let mut report = NetReport::default();
        report.addresses.push(AddressReport {
            address: "/ip4/10.0.0.2/tcp/1".parse().unwrap(),
            scope,
            source: AddressSource::Listen,
            announced: verdict != Verdict::Untested,
            verdict,
        });
        report.relays.extend(relay.map(|state| RelayReport {
            peer: PeerId::random(),
            state,
        }));
        report
    }

    #[test]
    fn two_strangers_behind_nats_without_a_relay_are_told_exactly_that() {
        let private = ["/ip4/192.168.1.5/tcp/4040".parse().unwrap()];
        let failed = || Verdict::Failed("no dial-back".into());
        let hidden = report(Scope::Private, failed(), None);
        let told = explain(&unreachable(), &private, &hidden, 0);
        for words in [
            "it has no public address and no relay",
            "this node has no public address and no relay either",
            "--anchor",
        ] {
            assert!(told.contains(words), "{words}: {told}");
        }
        let told = explain(&unreachable(), &[], &hidden, 2);
        assert!(
            told.contains("told no address") && told.contains("anchors run"),
            "{told}"
        );
        let relayed = report(Scope::Private, failed(), Some(RelayState::Reserved));
        assert!(explain(&unreachable(), &private, &relayed, 0).contains("through a relay only"));
        let public = report(Scope::Global, Verdict::Confirmed(PeerId::random()), None);
        assert!(explain(&unreachable(), &private, &public, 0).contains("has a public address"));
        let circuit = ["/ip4/192.0.2.1/tcp/1/p2p-circuit".parse().unwrap()];
        let unknown = NetReport::default();
        assert!(!explain(&unreachable(), &circuit, &unknown, 0).is_empty());
    }

    #[test]
    fn where_the_peer_has_a_public_address_nothing_is_guessed() {
        for public in [
            "/ip4/198.51.100.7/tcp/1",
            "/dns4/a.invalid/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
        ] {
            let told = explain(
                &unreachable(),
                &[public.parse().unwrap()],
                &NetReport::default(),
                0,
            );
            assert_eq!(told, unreachable().to_string());
        }
        let own = DialError::Own {
            target: "me".into(),
        };
        assert_eq!(
            explain(&own, &[], &NetReport::default(), 0),
            own.to_string()
        );
    }
}
