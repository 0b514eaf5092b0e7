//! The judgement of a node's health: facts in, findings out. No I/O here; [`look`] gathers.
//!
//! A finding is *failing* only where something must be done before the node can do its work;
//! whatever makes it slower or less reachable is a *warning*, and what nobody could tell is
//! *unknown*. Each that is not right says what to do.

pub mod look;
mod machine;
mod network;
mod place;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use polymath_net::{Multiaddr, NetReport};
use polymath_proto::v1;
use polymath_types::{PathKind, Transport};

pub use network::pending;
pub use place::{Nat, Place, Reachability, Way, reachability, scope};

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Area {
    /// The directory with all state.
    Home,
    /// The key file.
    Identity,
    /// The settings.
    Config,
    /// Free space.
    Disk,
    /// The time of day.
    Clock,
    /// Names of peers.
    Dns,
    /// Own ports.
    Ports,
    /// The network part as a whole.
    Node,
    /// Who is connected.
    Peers,
    /// What leaves this network.
    Outgoing,
    /// How ports are translated, and who is let in.
    Nat,
    /// The address others see.
    Address,
    /// IPv6.
    Ipv6,
    /// Whether that address answers.
    DialBack,
    /// The gateway.
    Upnp,
    /// First contact through others.
    Relay,
}

impl Area {
    /// Its stable name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Identity => "identity",
            Self::Config => "config",
            Self::Disk => "disk",
            Self::Clock => "clock",
            Self::Dns => "dns",
            Self::Ports => "ports",
            Self::Node => "node",
            Self::Peers => "peers",
            Self::Outgoing => "outgoing",
            Self::Nat => "nat",
            Self::Address => "address",
            Self::Ipv6 => "ipv6",
            Self::DialBack => "dial-back",
            Self::Upnp => "upnp",
            Self::Relay => "relay",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// As it should be.
    Ok,
    /// Nobody could tell yet.
    Unknown,
    /// Works, though not well.
    Warning,
    /// Must be put right.
    Failing,
}

impl State {
    /// Its stable name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Failing => "failing",
        }
    }
}

/// One line of a diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// Which of several, e.g. `tcp`; else empty.
    pub subject: String,
    /// How bad it is.
    pub state: State,
    /// What was found, for people.
    pub found: String,
    /// What to do; empty where nothing need be done.
    pub fix: String,
    /// What was found, for machines.
    pub values: BTreeMap<&'static str, String>,
}

impl Finding {
    fn new(area: Area, state: State, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            area,
            subject: String::new(),
            state,
            found: found.into(),
            fix: fix.into(),
            values: BTreeMap::new(),
        }
    }

    fn ok(area: Area, found: impl Into<String>) -> Self {
        Self::new(area, State::Ok, found, "")
    }

    fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.values.insert(name, value.to_string());
        self
    }
}

/// How others reach this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reach {
    /// By dialling it.
    Direct,
    /// After a first contact through a relay both sides open their NATs.
    HolePunching,
    /// Through relays alone.
    Relay,
    /// On its own network, or on this machine alone.
    Local,
    /// It only asks; nobody need reach it.
    AsksOnly,
    /// Not at all.
    None,
    /// Nobody could tell yet.
    Unknown,
}

impl Reach {
    /// Its stable name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::HolePunching => "hole-punching",
            Self::Relay => "relay",
            Self::Local => "local",
            Self::AsksOnly => "asks-only",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// All findings, and what they come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// In the order of [`Area`].
    pub findings: Vec<Finding>,
    /// How others reach this node.
    pub reach: Reach,
    /// The same in one line.
    pub verdict: String,
}

impl Diagnosis {
    /// Whether something must be put right.
    pub fn fails(&self) -> bool {
        self.findings.iter().any(|f| f.state == State::Failing)
    }

    /// As it crosses the control API.
    pub fn to_proto(&self) -> v1::Diagnosis {
        let finding = |f: &Finding| v1::Finding {
            area: f.area.as_str().to_owned(),
            subject: f.subject.clone(),
            state: f.state.as_str().to_owned(),
            found: f.found.clone(),
            fix: f.fix.clone(),
            values: f
                .values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        };
        v1::Diagnosis {
            findings: self.findings.iter().map(finding).collect(),
            reach: self.reach.as_str().to_owned(),
            verdict: self.verdict.clone(),
        }
    }
}

/// Everything the judgement rests on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// This machine.
    pub machine: Machine,
    /// The node's network, or in one line why there is none to be asked.
    pub network: Result<Network, NoNetwork>,
}

/// Why no network could be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoNetwork {
    /// The home belongs to no mesh yet.
    NoMesh,
    /// A node could not be started; one line that says why and what to do.
    Failed(String),
}

/// What was seen of this machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Where all state is kept.
    pub home: PathBuf,
    /// Why it cannot be written, if it cannot.
    pub home_error: Option<String>,
    /// What was found of the key file.
    pub identity: IdentityFile,
    /// Why the settings are not valid, if they are not.
    pub config_error: Option<String>,
    /// Free space of each place that is written.
    pub disks: Vec<Disk>,
    /// Time since 1970 by this machine's clock.
    pub now: Duration,
    /// The same when one of the home's files was last written.
    pub last_written: Option<Duration>,
    /// Members' clocks less this one, milliseconds.
    pub offsets_ms: Vec<i64>,
    /// Name servers this machine is told to use.
    pub name_servers: Vec<String>,
    /// Names in addresses of peers, each with how many addresses it has or why it has none.
    pub names: Vec<(String, Result<usize, String>)>,
    /// Ports that a node would use.
    pub ports: Vec<Port>,
}

/// The key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityFile {
    /// None yet: the first start makes one.
    Absent,
    /// As it should be.
    Good,
    /// Others than its owner may read it.
    Open {
        /// Its permissions.
        mode: u32,
    },
    /// It cannot be read.
    Bad(String),
}

/// Free space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// `home` or `models`.
    pub what: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Bytes that may still be written, or why nobody knows.
    pub free: Result<u64, String>,
}

/// A port, and whether it can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// What it is for: an address of `--listen`, or `api`.
    pub address: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Host and port.
    pub socket: String,
    /// Why it cannot be had, if it cannot.
    pub taken: Option<String>,
}

/// What was seen of the node's network.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// What the swarm tells of itself.
    pub report: NetReport,
    /// Addresses listened on.
    pub listen: Vec<Multiaddr>,
    /// Connected members.
    pub members: Vec<Member>,
    /// Addresses known to lead into the mesh, each with what came of the last try that failed.
    pub bootstrap: Vec<(String, Option<String>)>,
    /// What a member said that was reached there and did not let this node in.
    pub refusal: Option<Refusal>,
    /// Other nodes that offer something and whose id none of those addresses names.
    pub offers: usize,
    /// Whether the mesh was founded by this home.
    pub founded_here: bool,
    /// Whether this node only asks.
    pub client: bool,
    /// How long it has been running.
    pub uptime: Duration,
    /// Why the catalog's store cannot be written, if so.
    pub catalog: Option<String>,
}

/// A member's refusal to let this node in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why, as it says.
    pub why: String,
    /// What would change that.
    pub remedy: Remedy,
}

/// What would make a member let this node in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Another invite.
    Invite,
    /// Time, or another member.
    Patience,
    /// An admin of the mesh: this node is shut out.
    Admin,
}

/// A connected member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// How its best connection runs.
    pub path: PathKind,
    /// The transport under it.
    pub transport: Transport,
    /// Where it is, by all its connections.
    pub addresses: Vec<Multiaddr>,
}

/// Judges.
pub fn examine(facts: &Facts) -> Diagnosis {
    let mut findings = machine::examine(&facts.machine);
    // Ports that are listened on need not be called free.
    let free = |f: &Finding| f.area == Area::Ports && f.state == State::Ok;
    findings.retain(|f| facts.network.is_err() || !free(f));
    let (reach, verdict) = match &facts.network {
        Ok(network) => {
            findings.extend(network::examine(network));
            network::verdict(network)
        }
        Err(NoNetwork::NoMesh) => {
            findings.push(Finding::new(
                Area::Node,
                State::Unknown,
                "the network was not tested: this home belongs to no mesh yet",
                "found one with `polymath up --expert NAME`, or join one with `polymath join ADDR`",
            ));
            (
                Reach::Unknown,
                "not known whether others reach this node: it is in no mesh yet".into(),
            )
        }
        Err(NoNetwork::Failed(why)) => {
            findings.push(Finding::new(
                Area::Node,
                State::Failing,
                format!("the network was not tested: {why}"),
                "put right what it says, then run `polymath doctor` again",
            ));
            (
                Reach::Unknown,
                "not known whether others reach this node: no node runs".into(),
            )
        }
    };
    findings.sort_by_key(|f| f.area);
    Diagnosis {
        findings,
        reach,
        verdict,
    }
}

#[cfg(test)]
mod tests;
