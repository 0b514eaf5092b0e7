//! Accesses in the words of nftables.
//!
//! Three things are easily got wrong:
//! * A packet from outside that no mapping takes must be dropped in `input`. Otherwise the kernel
//!   keeps it as a connection to the router itself, and the host's own packet to that peer then
//!   leaves from *another* port, because this tuple is taken: the hole punch fails, and no real NAT is
//!   like that.
//! * The `prerouting` chain must be there even when it is empty.
//! * A map must be filled before the rule that ends the chain.

use crate::nat::{Cone, Firewall};

/// The device towards the internet, and the one towards the host.
pub(crate) const WAN: &str = "wan";
pub(crate) const LAN: &str = "lan";

/// A router's whole ruleset; loading it anew forgets all mappings that nftables holds.
pub(crate) fn router(nat: Cone, firewall: Firewall) -> String {
    format!(
        "table ip nat\ndelete table ip nat\ntable ip nat {{\n{}}}\n\
         table ip wall\ndelete table ip wall\ntable ip wall {{\n{}}}\n",
        translation(nat),
        wall(firewall)
    )
}

fn translation(nat: Cone) -> String {
    let remembers = matches!(nat, Cone::Full | Cone::AddressRestricted);
    let mut sets = String::new();
    let mut inbound = String::new();
    let mut outbound = String::new();
    for protocol in ["udp", "tcp"].into_iter().filter(|_| remembers) {
        sets += &format!(
            "map {protocol}_hosts {{ type inet_service : ipv4_addr . inet_service; flags dynamic; size 4096; }}\n"
        );
        outbound += &format!(
            "oifname \"{WAN}\" update @{protocol}_hosts {{ {protocol} sport : ip saddr . {protocol} sport }}\n"
        );
        let mut known = String::new();
        if nat == Cone::AddressRestricted {
            sets += &format!(
                "set {protocol}_contacted {{ type inet_service . ipv4_addr; flags dynamic; size 4096; }}\n"
            );
            outbound += &format!(
                "oifname \"{WAN}\" update @{protocol}_contacted {{ {protocol} sport . ip daddr }}\n"
            );
            known = format!("{protocol} dport . ip saddr @{protocol}_contacted ");
        }
        inbound += &format!(
            "iifname \"{WAN}\" {known}dnat ip to {protocol} dport map @{protocol}_hosts\n"
        );
    }
    let ports = if nat == Cone::Symmetric {
        " random,fully-random"
    } else {
        ""
    };
    format!(
        "{sets}\
         chain prerouting {{ type nat hook prerouting priority dstnat;\n{inbound}}}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat;\n{outbound}oifname \"{WAN}\" masquerade{ports}\n}}\n"
    )
}

fn wall(firewall: Firewall) -> String {
    let forward = match firewall {
        Firewall::Open => "",
        Firewall::NoUdp => "meta l4proto udp drop\n",
        Firewall::OnlyTcp443 => {
            "iifname \"lan\" tcp dport 443 accept\niifname \"wan\" tcp sport 443 accept\ndrop\n"
        }
    };
    format!(
        "chain input {{ type filter hook input priority filter; iifname \"{WAN}\" ct state new drop; }}\n\
         chain forward {{ type filter hook forward priority filter;\n{forward}}}\n"
    )
}

/// Where a counter sees traffic: at a router what it forwards, at a public host all that is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    Router,
    Host,
}

/// Counters of the bytes from and to each named network (`name`, `network`).
pub(crate) fn gauge(seat: Seat, networks: &[(&str, String)]) -> String {
    let mut counters = String::new();
    let mut rules = String::new();
    for (name, network) in networks {
        counters += &format!("counter {name} {{ }}\n");
        rules += &format!(
            "ip saddr {network} counter name {name}\nip daddr {network} counter name {name}\n"
        );
    }
    let hooks: &[&str] = match seat {
        Seat::Router => &["forward"],
        Seat::Host => &["input", "output"],
    };
    let chains: String = hooks
        .iter()
        .map(|hook| {
            // Behind the firewall: what it drops is no traffic.
            format!("chain {hook} {{ type filter hook {hook} priority filter + 10;\n{rules}}}\n")
        })
        .collect();
    format!("table ip gauge {{\n{counters}{chains}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_router_drops_what_it_did_not_ask_for() {
        for nat in [
            Cone::Full,
            Cone::AddressRestricted,
            Cone::PortRestricted,
            Cone::Symmetric,
        ] {
            let rules = router(nat, Firewall::Open);
            assert!(
                rules.contains("hook input priority filter; iifname \"wan\" ct state new drop")
            );
            assert!(rules.contains("hook prerouting"));
        }
    }

    #[test]
    fn maps_are_filled_before_the_verdict() {
        let rules = router(Cone::AddressRestricted, Firewall::Open);
        let filled = rules.find("update @tcp_hosts").unwrap();
        assert!(filled < rules.find("masquerade").unwrap());
        assert!(rules.contains("tcp dport . ip saddr @tcp_contacted dnat"));
    }
}
