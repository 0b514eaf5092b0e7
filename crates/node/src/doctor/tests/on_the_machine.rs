//! Clock, names, disks, ports and files.

use super::*;

#[test]
fn a_clock_is_judged_by_the_median_of_members() {
    let clock = |offsets: &[i64]| {
        on(Machine {
            offsets_ms: offsets.to_vec(),
            ..machine()
        })
    };
    is(&clock(&[]), Area::Clock, State::Ok, &["no member"]);
    is(&clock(&[29_000]), Area::Clock, State::Ok, &["1 member"]);
    is(
        &clock(&[31_000, 32_000, 33_000]),
        Area::Clock,
        State::Warning,
        &["32 s behind", "3 members"],
    );
    is(
        &clock(&[-400_000]),
        Area::Clock,
        State::Failing,
        &["6 min ahead of", "timedatectl"],
    );
    // One that lies does not sway two that do not.
    is(&clock(&[0, 10, 9_000_000]), Area::Clock, State::Ok, &[]);
    let old = on(Machine {
        now: Duration::from_secs(1),
        ..machine()
    });
    is(&old, Area::Clock, State::Failing, &["before"]);
    let back = on(Machine {
        offsets_ms: Vec::new(),
        last_written: Some(machine().now + Duration::from_secs(7200)),
        ..machine()
    });
    is(&back, Area::Clock, State::Warning, &["set back", "2 h"]);
}

#[test]
fn names_are_resolved_where_addresses_have_some() {
    let dns = |names: &[(&str, Result<usize, &str>)]| {
        let own = |(name, found): &(&str, Result<usize, &str>)| {
            ((*name).to_owned(), found.map_err(str::to_owned))
        };
        on(Machine {
            names: names.iter().map(own).collect(),
            ..machine()
        })
    };
    is(&dns(&[]), Area::Dns, State::Ok, &["not needed"]);
    is(
        &dns(&[("a.test", Ok(2))]),
        Area::Dns,
        State::Ok,
        &["a.test has 2 addresses"],
    );
    let broken = dns(&[("a.test", Err("no answer within 2s"))]);
    is(
        &broken,
        Area::Dns,
        State::Failing,
        &["a.test", "192.0.2.53", "--bootstrap /ip4/"],
    );
    assert!(broken.fails());
    let half = dns(&[("a.test", Ok(1)), ("b.test", Err("unknown"))]);
    is(&half, Area::Dns, State::Warning, &["b.test"]);
    assert!(!half.fails());
}

#[test]
fn disks_fill_up_in_two_steps() {
    let disk = |free: Result<u64, String>| {
        on(Machine {
            disks: vec![Disk {
                what: "models",
                path: "/srv/models".into(),
                free,
            }],
            ..machine()
        })
    };
    is(&disk(Ok(2 << 30)), Area::Disk, State::Ok, &["/srv/models"]);
    is(
        &disk(Ok(500 << 20)),
        Area::Disk,
        State::Warning,
        &["524 MB", "models.dir"],
    );
    is(
        &disk(Ok(1 << 20)),
        Area::Disk,
        State::Failing,
        &["free some space"],
    );
    is(
        &disk(Err("no such device".into())),
        Area::Disk,
        State::Unknown,
        &["no such device"],
    );
}

#[test]
fn ports_home_key_and_settings_each_have_their_line() {
    let port = |taken: Option<&str>| Port {
        address: "/ip4/0.0.0.0/tcp/4040".into(),
        protocol: "tcp",
        socket: "0.0.0.0:4040".into(),
        taken: taken.map(str::to_owned),
    };
    let ports = |ports| on(Machine { ports, ..machine() });
    is(
        &ports(vec![port(None)]),
        Area::Ports,
        State::Ok,
        &["free: tcp 0.0.0.0:4040"],
    );
    is(
        &ports(vec![port(Some("address in use"))]),
        Area::Ports,
        State::Failing,
        &["0.0.0.0:4040", "address in use", "grep 4040", "--listen"],
    );
    let api = Port {
        address: "api".into(),
        ..port(Some("address in use"))
    };
    is(&ports(vec![api]), Area::Ports, State::Failing, &["--api"]);

    let bad = on(Machine {
        home_error: Some("read-only file system".into()),
        identity: IdentityFile::Open { mode: 0o644 },
        config_error: Some("config.toml, line 3: unknown field".into()),
        ..machine()
    });
    is(
        &bad,
        Area::Home,
        State::Failing,
        &["read-only", "--home DIR"],
    );
    is(&bad, Area::Identity, State::Failing, &["0644", "chmod 600"]);
    is(
        &bad,
        Area::Config,
        State::Failing,
        &["line 3", "polymath config validate"],
    );
    let damaged = on(Machine {
        identity: IdentityFile::Bad("it is damaged".into()),
        ..machine()
    });
    is(&damaged, Area::Identity, State::Failing, &["backup"]);
}
