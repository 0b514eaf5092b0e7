//! How others reach this node: dial-backs, the gateway, relays, and what they come to.

use polymath_net::{Mapping, RelayState, UpnpReport, Verdict};

use super::{ANCHOR, near, short};
use crate::doctor::{Area, Finding, Network, Reach, State, machine::count};

pub(super) fn dial_back(network: &Network) -> Finding {
    let mut confirmed = Vec::new();
    let mut failed = Vec::new();
    for a in network.global() {
        match &a.verdict {
            Verdict::Confirmed(by) => confirmed.push((&a.address, by)),
            Verdict::Failed(why) => failed.push((&a.address, why)),
            Verdict::Untested | Verdict::NotNeeded => {}
        }
    }
    let finding = match (confirmed.first(), failed.first()) {
        (Some((address, by)), _) => {
            let but = if failed.is_empty() {
                String::new()
            } else {
                format!("; {} did not", count(failed.len(), "other"))
            };
            let known = if network.lets_contacts_in() {
                ", which this node had dialled before; nobody else has got in yet"
            } else {
                ""
            };
            Finding::ok(
                Area::DialBack,
                format!("{address} answered {}{known}{but}", short(by)),
            )
        }
        (None, Some((address, why))) => Finding::new(
            Area::DialBack,
            State::Warning,
            format!("{address} did not answer a peer that dialled it: {why}"),
            network.forward(),
        ),
        (None, None) if network.alone() => {
            Finding::ok(Area::DialBack, "not needed: only this machine is let in")
        }
        (None, None) if network.confirmed() => Finding::ok(Area::DialBack, "got through"),
        (None, None) if network.global().next().is_none() => Finding::new(
            Area::DialBack,
            State::Unknown,
            "not tried: no address for it is known",
            if network.report.anchor { "" } else { ANCHOR },
        ),
        (None, None) if network.report.anchors > 0 => Finding::new(
            Area::DialBack,
            State::Unknown,
            format!(
                "{} connected, none has dialled back yet",
                count(network.report.anchors, "anchor")
            ),
            "ask again in a minute",
        ),
        (None, None) => Finding::new(
            Area::DialBack,
            State::Unknown,
            "nobody has dialled back yet: no anchor is connected",
            ANCHOR,
        ),
    };
    finding
        .with("confirmed", confirmed.len())
        .with("failed", failed.len())
}

pub(super) fn upnp(network: &Network) -> Finding {
    // Whoever is reached anyway needs no gateway's help.
    let worse = if network.shut() && !network.reserved() {
        State::Warning
    } else {
        State::Ok
    };
    let (name, finding) = match &network.report.upnp {
        UpnpReport::Off => ("off", Finding::ok(Area::Upnp, "not asked")),
        UpnpReport::Searching => (
            "searching",
            Finding::new(
                Area::Upnp,
                State::Unknown,
                "no gateway has answered yet",
                "",
            ),
        ),
        UpnpReport::NoGateway => (
            "no-gateway",
            Finding::new(
                Area::Upnp,
                worse,
                "no gateway here speaks it",
                if worse == State::Ok {
                    String::new()
                } else {
                    format!("switch UPnP on in the router, or {}", network.forward())
                },
            ),
        ),
        UpnpReport::NotPublic => (
            "not-public",
            Finding::new(
                Area::Upnp,
                worse,
                "the gateway itself has no public address (carrier-grade NAT, or a second router before it)",
                if worse == State::Ok {
                    ""
                } else {
                    "forward the port on the outer router too, or ask the provider for a public address"
                },
            ),
        ),
        UpnpReport::Mapped(addresses) => {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            (
                "mapped",
                Finding::ok(
                    Area::Upnp,
                    format!("the gateway forwards {}", list.join(", ")),
                ),
            )
        }
    };
    finding.with("upnp", name)
}

pub(super) fn relay(network: &Network) -> Finding {
    let report = &network.report;
    let of = |wanted: fn(&RelayState) -> bool| -> Vec<String> {
        let relays = report.relays.iter().filter(|r| wanted(&r.state));
        relays.map(|r| short(&r.peer)).collect()
    };
    let reserved = of(|s| *s == RelayState::Reserved);
    let asked = of(|s| *s == RelayState::Asked);
    let failed = report.relays.iter().find_map(|r| match &r.state {
        RelayState::Failed(why) => Some((short(&r.peer), why)),
        _ => None,
    });
    let finding = if !reserved.is_empty() {
        Finding::ok(Area::Relay, format!("reserved at {}", reserved.join(", ")))
    } else if network.confirmed() {
        let serves = if report.anchor {
            ": this node is one for others"
        } else {
            ": others dial this node"
        };
        Finding::ok(Area::Relay, format!("not needed{serves}"))
    } else if network.alone() {
        Finding::ok(Area::Relay, "not needed: only this machine is let in")
    } else if !asked.is_empty() {
        Finding::new(
            Area::Relay,
            State::Unknown,
            format!(
                "{} has been asked and has not answered yet",
                asked.join(", ")
            ),
            "",
        )
    } else {
        let needed = network.shut() && !network.promised();
        let state = if needed {
            State::Failing
        } else {
            State::Unknown
        };
        let (found, fix) = match failed {
            Some((peer, why)) => (
                format!("{peer} gave none: {why}"),
                format!("try again, or {ANCHOR}"),
            ),
            None if needed => (
                "none is known, and without one nobody can begin to reach this node".to_owned(),
                ANCHOR.to_owned(),
            ),
            None => ("none was asked for".to_owned(), String::new()),
        };
        Finding::new(Area::Relay, state, found, fix)
    };
    finding
        .with("reserved", reserved.len())
        .with("anchors", report.anchors)
        .with("anchor", report.anchor)
}

/// How others reach this node, and the same in one line.
pub(in crate::doctor) fn verdict(network: &Network) -> (Reach, String) {
    let answer = |reach, text: &str| (reach, text.to_owned());
    if network.client {
        return answer(Reach::AsksOnly, "this node only asks: nobody need reach it");
    }
    if network.confirmed() {
        return answer(Reach::Direct, "others reach this node directly");
    }
    if network.reserved() {
        let stable =
            network.mapping(Mapping::EndpointIndependent) || network.mapping(Mapping::None);
        return if stable {
            answer(
                Reach::HolePunching,
                "others reach this node by hole punching, after first contact through a relay",
            )
        } else {
            answer(Reach::Relay, "others reach this node only through relays")
        };
    }
    if network.lets_contacts_in() {
        return answer(
            Reach::Unknown,
            "peers that this node has dialled reach it directly; whether others do is not known, for no relay brings them here",
        );
    }
    if network.alone() {
        return answer(
            Reach::Local,
            "only this machine reaches this node: it listens on loopback",
        );
    }
    if network.promised() {
        return answer(
            Reach::Unknown,
            "others should reach this node directly, but nobody has said yet that they do",
        );
    }
    let asked = |s: &RelayState| *s == RelayState::Asked;
    if network.shut() {
        if network.report.relays.iter().any(|r| asked(&r.state)) {
            return answer(
                Reach::Unknown,
                "not known yet whether others reach this node: a relay has been asked",
            );
        }
        let why = if network.mapping(Mapping::EndpointDependent)
            && !network.mapping(Mapping::EndpointIndependent)
        {
            "its NAT is symmetric and no relay is known"
        } else if network.mapping(Mapping::EndpointIndependent) {
            "holes could be punched through its NAT, but no relay is known for first contact"
        } else {
            "a firewall lets nobody in and no relay is known"
        };
        return (
            Reach::None,
            format!("others reach this node not at all: {why}"),
        );
    }
    if network.members.is_empty() {
        answer(
            Reach::Unknown,
            "not known whether others reach this node: no peer is connected",
        )
    } else if network.members.iter().all(near) {
        answer(
            Reach::Local,
            "others on this network reach this node directly; nobody outside has seen it",
        )
    } else {
        answer(
            Reach::Unknown,
            "not known whether others reach this node: nobody has dialled it back",
        )
    }
}
