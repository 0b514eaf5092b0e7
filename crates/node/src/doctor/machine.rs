//! What is right and wrong with this machine: home, key, settings, disk, clock, names, ports.

use std::time::Duration;

use super::{Area, Disk, Finding, IdentityFile, Machine, Port, State};

/// No build of this code is older: 2026-11-01. A clock before it is wrong.
const OLDEST: Duration = Duration::from_secs(1_793_491_200);
/// Offsets of the clock, milliseconds. Invitations and leases expire by the clock.
const OFF: u64 = 30_000;
const FAR_OFF: u64 = 300_000;
/// Free space: less than this is told, less than that stops the catalog from being kept.
const SCARCE: u64 = 1 << 30;
const FULL: u64 = 64 << 20;

pub(super) fn examine(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![
        home(machine),
        identity(machine),
        config(machine),
        clock(machine),
    ];
    findings.extend(machine.disks.iter().map(disk));
    findings.extend(dns(machine));
    findings.extend(ports(&machine.ports));
    findings
}

fn home(machine: &Machine) -> Finding {
    let dir = machine.home.display();
    match &machine.home_error {
        None => Finding::ok(Area::Home, format!("{dir} can be written")),
        Some(why) => Finding::new(
            Area::Home,
            State::Failing,
            format!("{dir} cannot be written: {why}"),
            format!(
                "give this user the folder (`chown -R $USER {dir}`), or keep state elsewhere with --home DIR"
            ),
        ),
    }
}

fn identity(machine: &Machine) -> Finding {
    let file = machine.home.join("identity.key");
    let file = file.display();
    match &machine.identity {
        IdentityFile::Absent => Finding::ok(Area::Identity, "none yet: the first start makes one"),
        IdentityFile::Good => Finding::ok(Area::Identity, "readable by its owner alone"),
        IdentityFile::Open { mode } => Finding::new(
            Area::Identity,
            State::Failing,
            format!("{file} can be read by others (mode {mode:04o}): whoever has it is this node"),
            format!("`chmod 600 {file}`"),
        ),
        IdentityFile::Bad(why) => Finding::new(
            Area::Identity,
            State::Failing,
            format!("{file} cannot be used: {why}"),
            "restore it from a backup, or delete it to become a new node",
        ),
    }
}

fn config(machine: &Machine) -> Finding {
    match &machine.config_error {
        None => Finding::ok(Area::Config, "valid"),
        Some(why) => Finding::new(
            Area::Config,
            State::Failing,
            why,
            "correct it, then check with `polymath config validate`",
        ),
    }
}

fn disk(disk: &Disk) -> Finding {
    let path = disk.path.display();
    let finding = match &disk.free {
        Err(why) => Finding::new(
            Area::Disk,
            State::Unknown,
            format!("free space on {path} is not known: {why}"),
            "",
        ),
        Ok(free) => {
            let (state, fix) = match *free {
                0..FULL => (
                    State::Failing,
                    "free some space: below it nothing new can be kept",
                ),
                FULL..SCARCE => (
                    State::Warning,
                    "free some space, or keep models elsewhere: `models.dir` in config.toml",
                ),
                _ => (State::Ok, ""),
            };
            Finding::new(
                Area::Disk,
                state,
                format!("{} free on {path}", megabytes(*free)),
                fix,
            )
            .with("free_bytes", free)
        }
    };
    finding.of(disk.what)
}

fn megabytes(bytes: u64) -> String {
    if bytes < 10_000_000_000 {
        format!("{} MB", bytes / 1_000_000)
    } else {
        format!("{} GB", bytes / 1_000_000_000)
    }
}

fn clock(machine: &Machine) -> Finding {
    const FIX: &str = "set it by a time service, e.g. `timedatectl set-ntp true`";
    if machine.now < OLDEST {
        return Finding::new(
            Area::Clock,
            State::Failing,
            "it is before the day this program was written",
            FIX,
        );
    }
    let ahead = machine
        .last_written
        .and_then(|at| at.checked_sub(machine.now))
        .filter(|ahead| ahead.as_millis() > u128::from(FAR_OFF));
    let Some(offset) = median(&machine.offsets_ms) else {
        return match ahead {
            Some(ahead) => Finding::new(
                Area::Clock,
                State::Warning,
                format!(
                    "it was set back: a file of the home was written {} from now",
                    span(ahead)
                ),
                FIX,
            ),
            None => Finding::ok(
                Area::Clock,
                "plausible; no member was there to compare it with",
            ),
        };
    };
    let members = count(machine.offsets_ms.len(), "member");
    let state = match offset.unsigned_abs() {
        0..=OFF => State::Ok,
        n if n <= FAR_OFF => State::Warning,
        _ => State::Failing,
    };
    let found = if state == State::Ok {
        format!("agrees with that of {members}")
    } else {
        // A positive offset means that theirs is later.
        let way = if offset > 0 { "behind" } else { "ahead of" };
        format!(
            "{} {way} that of {members}: invitations and leases expire by it",
            span(Duration::from_millis(offset.unsigned_abs()))
        )
    };
    let fix = if state == State::Ok { "" } else { FIX };
    Finding::new(Area::Clock, state, found, fix).with("offset_ms", offset)
}

fn median(offsets: &[i64]) -> Option<i64> {
    let mut sorted = offsets.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86400),
    }
}

fn dns(machine: &Machine) -> Vec<Finding> {
    let servers = machine.name_servers.join(", ");
    if machine.names.is_empty() {
        let how = if servers.is_empty() {
            "and no name server is set".to_owned()
        } else {
            format!("name server {servers}")
        };
        return vec![Finding::ok(
            Area::Dns,
            format!("not needed: no address of a peer here is a name ({how})"),
        )];
    }
    let all_fail = machine.names.iter().all(|(_, found)| found.is_err());
    let finding = |(name, found): &(String, Result<usize, String>)| {
        let finding = match found {
            Ok(n) => Finding::ok(Area::Dns, format!("{name} has {}", count_es(*n, "address"))),
            Err(why) => Finding::new(
                Area::Dns,
                if all_fail {
                    State::Failing
                } else {
                    State::Warning
                },
                format!("{name} has no address: {why}"),
                if servers.is_empty() {
                    "set a name server in /etc/resolv.conf, or give peers by IP address: --bootstrap /ip4/…".to_owned()
                } else {
                    format!(
                        "check the name and the name server ({servers}), or give peers by IP address: --bootstrap /ip4/…"
                    )
                },
            ),
        };
        finding.of(name)
    };
    machine.names.iter().map(finding).collect()
}

fn ports(ports: &[Port]) -> Vec<Finding> {
    let taken = ports.iter().filter_map(|port| {
        let why = port.taken.as_ref()?;
        let fix = if port.address == "api" {
            "stop the other program, or choose another: `polymath up --api HOST:PORT`, or --api auto"
                .to_owned()
        } else {
            format!("stop the program that uses it (`ss -lnp | grep {}`), or listen elsewhere: `polymath up --listen MULTIADDR`", port.socket.rsplit(':').next().unwrap_or_default())
        };
        let found = format!("{} {} cannot be had: {why}", port.protocol, port.socket);
        Some(Finding::new(Area::Ports, State::Failing, found, fix).of(&port.address))
    });
    let taken: Vec<_> = taken.collect();
    if !taken.is_empty() || ports.is_empty() {
        return taken;
    }
    let all: Vec<String> = ports
        .iter()
        .map(|p| format!("{} {}", p.protocol, p.socket))
        .collect();
    vec![Finding::ok(
        Area::Ports,
        format!("free: {}", all.join(", ")),
    )]
}

/// `1 member`, `3 members`.
pub(super) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `1 address`, `3 addresses`.
fn count_es(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "es" })
}
