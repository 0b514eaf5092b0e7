//! The house's floors: who may depend on whom, and what a room must know nothing of.
//!
//! `ARCHITECTURE.md` shows the same table; that both agree is checked too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, bail};

use super::manifest::{self, Package};
use crate::process;

const DOCUMENT: &str = "ARCHITECTURE.md";

struct Room {
    package: &'static str,
    floor: u8,
    /// What it knows nothing of; a `*` at the end stands for any end.
    barred: &'static [&'static str],
    /// Exceptions from `barred`.
    but: &'static [&'static str],
}

const fn room(package: &'static str, floor: u8, barred: &'static [&'static str]) -> Room {
    Room {
        package,
        floor,
        barred,
        but: &[],
    }
}

/// What a pure state machine has no use for: runtimes, sockets, models.
const SANS_IO: &[&str] = &[
    "tokio*",
    "futures*",
    "libp2p*",
    "quinn*",
    "hyper*",
    "tonic*",
    "axum*",
    "candle*",
    "tokenizers",
    "mdns-sd",
    "rustix",
];

const ROOMS: [Room; 16] = [
    Room {
        package: "polymath-types",
        floor: 1,
        barred: &[
            "tokio*", "futures*", "libp2p*", "quinn*", "tonic*", "prost*", "axum*",
        ],
        but: &["libp2p-identity"],
    },
    room(
        "polymath-proto",
        1,
        &["libp2p*", "axum*", "candle*", "automerge"],
    ),
    room("polymath-figures", 1, SANS_IO),
    room(
        "polymath-net",
        2,
        &["polymath-proto", "tonic*", "axum*", "candle*", "automerge"],
    ),
    room(
        "polymath-engine",
        2,
        &[
            "polymath-proto",
            "libp2p*",
            "quinn*",
            "tonic*",
            "axum*",
            "automerge",
        ],
    ),
    room("polymath-catalog", 2, SANS_IO),
    room("polymath-router", 2, SANS_IO),
    room("polymath-encoder", 2, SANS_IO),
    room(
        "polymath-upstream",
        2,
        &[
            "polymath-proto",
            "libp2p*",
            "tonic*",
            "axum*",
            "candle*",
            "automerge",
        ],
    ),
    room(
        "polymath-blobs",
        2,
        &[
            "polymath-proto",
            "libp2p*",
            "tonic*",
            "axum*",
            "candle*",
            "tokenizers",
        ],
    ),
    room(
        "polymath-rpc",
        3,
        &[
            "polymath-router",
            "polymath-catalog",
            "polymath-engine",
            "candle*",
            "automerge",
            "axum*",
        ],
    ),
    // Rivals are libp2p's, tonic's and automerge's own.
    room(
        "polymath-bench",
        4,
        &["quinn*", "axum*", "candle*", "clap*"],
    ),
    // What a daemon decides with, and nothing of daemons.
    room("polymath-eval", 4, SANS_IO),
    room("polymath-node", 4, &["axum*", "clap*"]),
    room(
        "polymath-gateway",
        5,
        &["polymath-net", "libp2p*", "candle*", "automerge", "clap*"],
    ),
    room(
        "polymath",
        6,
        &["libp2p*", "quinn*", "candle*", "automerge", "axum*"],
    ),
];

/// May use everything; no room may be built with them.
const OUTSIDE: [&str; 7] = [
    "polymath-fuzz",
    "polymath-testkit",
    "polymath-tests",
    "polymath-simulations",
    "polymath-natlab",
    "xtask",
    "codegen",
];

pub(super) fn check() -> Result<()> {
    let packages = manifest::packages()?;
    let document = fs::read_to_string(process::root().join(DOCUMENT))
        .with_context(|| format!("cannot read {DOCUMENT}"))?;
    let mut faults = breaches(&packages);
    faults.extend(disagreements(&document));
    if !faults.is_empty() {
        bail!(
            "{} breach(es) of the floors:\n  {}",
            faults.len(),
            faults.join("\n  ")
        );
    }
    eprintln!(
        "{} packages, {} of them on a floor",
        packages.len(),
        ROOMS.len()
    );
    Ok(())
}

/// Folders of the packages up to this floor.
pub(super) fn up_to(floor: u8) -> Result<Vec<Package>> {
    let mut packages = manifest::packages()?;
    packages.retain(|p| room_of(&p.name).is_some_and(|r| r.floor <= floor));
    Ok(packages)
}

fn room_of(package: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|r| r.package == package)
}

fn breaches(packages: &[Package]) -> Vec<String> {
    let members: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let mut faults = Vec::new();
    for room in ROOMS.iter().filter(|r| !members.contains(r.package)) {
        faults.push(format!(
            "{} is on floor {}, but no member of the workspace",
            room.package, room.floor
        ));
    }
    for package in packages {
        let name = package.name.as_str();
        let Some(room) = room_of(name) else {
            if !OUTSIDE.contains(&name) {
                faults.push(format!(
                    "{name} has no floor: give it one in {DOCUMENT} and in {}",
                    file!()
                ));
            }
            continue;
        };
        for dependency in &package.dependencies {
            if matches(room.barred, dependency) && !matches(room.but, dependency) {
                faults.push(format!("{name} must know nothing of {dependency}"));
            } else if members.contains(dependency.as_str()) {
                match room_of(dependency) {
                    None => faults.push(format!(
                        "{name} is built with {dependency}, which is for tests and tools"
                    )),
                    Some(other) if other.floor >= room.floor => faults.push(format!(
                        "{name} (floor {}) depends on {dependency} (floor {})",
                        room.floor, other.floor
                    )),
                    Some(_) => {}
                }
            }
        }
    }
    faults
}

fn matches(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|p| {
        p.strip_suffix('*')
            .map_or(*p == name, |start| name.starts_with(start))
    })
}

/// Where the document's table differs from [`ROOMS`].
fn disagreements(document: &str) -> Vec<String> {
    let shown: BTreeMap<&str, u8> = document.lines().filter_map(row).collect();
    let known: BTreeMap<&str, u8> = ROOMS.iter().map(|r| (short(r.package), r.floor)).collect();
    let names: BTreeSet<&str> = shown.keys().chain(known.keys()).copied().collect();
    names
        .into_iter()
        .filter(|name| shown.get(name) != known.get(name))
        .map(|name| {
            let floor = |of: &BTreeMap<&str, u8>| of.get(name).map_or("none".into(), u8::to_string);
            format!(
                "{name}: floor {} in {DOCUMENT}, {} in {}",
                floor(&shown),
                floor(&known),
                file!()
            )
        })
        .collect()
}

/// A room's name in the document; the binary's package has the project's own.
fn short(package: &'static str) -> &'static str {
    if package == "polymath" {
        "cli"
    } else {
        package.trim_start_matches("polymath-")
    }
}

/// Crate and floor of a table row such as ``| 2 | `net` | … |``.
fn row(line: &str) -> Option<(&str, u8)> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let floor = cells.next()?.parse().ok()?;
    let name = cells.next()?.split('`').nth(1)?;
    Some((name, floor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(name: &str, dependencies: &[&str]) -> Vec<String> {
        let mut packages: Vec<Package> = ROOMS
            .iter()
            .map(|r| r.package)
            .chain(["polymath-testkit"])
            .map(|p| Package {
                name: p.into(),
                folder: p.into(),
                dependencies: Vec::new(),
            })
            .collect();
        let dependencies = dependencies.iter().map(|d| (*d).to_owned()).collect();
        packages.retain(|p| p.name != name);
        packages.push(Package {
            name: name.into(),
            folder: name.into(),
            dependencies,
        });
        breaches(&packages)
    }

    #[test]
    fn a_crate_reaches_down_only() {
        assert!(workspace("polymath-rpc", &["polymath-net", "polymath-types", "tonic"]).is_empty());
        assert_eq!(workspace("polymath-net", &["polymath-rpc"]).len(), 1);
        assert_eq!(workspace("polymath-router", &["polymath-catalog"]).len(), 1);
        assert_eq!(workspace("polymath-node", &["polymath-testkit"]).len(), 1);
        assert_eq!(workspace("polymath-attic", &[]).len(), 1);
        assert!(workspace("polymath-testkit", &["polymath-node", "libp2p"]).is_empty());
    }

    #[test]
    fn a_room_knows_nothing_of_what_is_barred() {
        assert!(workspace("polymath-types", &["libp2p-identity", "serde"]).is_empty());
        assert_eq!(
            workspace("polymath-types", &["libp2p", "libp2p-swarm"]).len(),
            2
        );
        assert_eq!(workspace("polymath-router", &["tokio"]).len(), 1);
        assert_eq!(workspace("polymath-gateway", &["libp2p", "axum"]).len(), 1);
    }

    #[test]
    fn the_document_shows_the_same_table() {
        let rows: Vec<String> = ROOMS
            .iter()
            .map(|r| format!("| {} | `{}` | … |", r.floor, short(r.package)))
            .collect();
        assert!(disagreements(&rows.join("\n")).is_empty());
        assert_eq!(disagreements(&rows[1..].join("\n")).len(), 1);
        assert_eq!(
            disagreements(&rows.join("\n").replace("| 6 |", "| 5 |")).len(),
            1
        );
    }
}
