//! Gathers the facts: looks at this machine, at the running node, and at members' clocks, and waits
//! a while for what is still on its way.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    sync::PoisonError,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::StreamExt;
use polymath_blobs::StoreOptions;
use polymath_net::{Door, Membership as Standing, PeerId};
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure, Format};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Diagnosis, Disk, Facts, IdentityFile, Machine, Member, Network, NoNetwork, Port, Refusal,
    Remedy, examine, pending,
};
use crate::{
    Home, Membership, Node,
    config::Config,
    goes_outside,
    listen::{listen_addresses, parse_address},
    unused::Unused,
};

/// How often it is looked whether anything has settled.
const LOOK: Duration = Duration::from_millis(200);
/// Time for one name, and for one member to tell its time.
const ANSWER: Duration = Duration::from_secs(2);
/// Members whose clocks are compared.
const CLOCKS: usize = 9;
/// Events on their way to whoever asked for a diagnosis.
const EVENTS: usize = 8;
/// Names and addresses looked at.
const MOST: usize = 16;

/// Looks at this machine. `config` is what the settings came to; ports are tried only where no node
/// of this home holds them.
pub async fn machine(home: &Home, config: Result<&Config, &Failure>, running: bool) -> Machine {
    let membership = home.membership().ok().flatten();
    let defaults = Config::default();
    let settings = config.unwrap_or(&defaults);
    let names = names(settings, membership.as_ref());
    let models = match settings.models.dir.as_str() {
        "" => home.models_dir(),
        dir => PathBuf::from(dir),
    };
    let now = SystemTime::now();
    Machine {
        home: home.dir().to_owned(),
        home_error: writable(home.dir()).err(),
        identity: identity(home),
        config_error: config.err().map(|f| f.message.clone()),
        disks: vec![disk("home", home.dir()), disk("models", &models)],
        now: since_1970(now),
        last_written: last_written(home),
        offsets_ms: Vec::new(),
        name_servers: name_servers(),
        names: futures::future::join_all(names.into_iter().map(resolve)).await,
        ports: if running {
            Vec::new()
        } else {
            ports(settings, membership.as_ref())
        },
    }
}

/// The diagnosis where no node runs and none can be started.
pub fn without_network(machine: Machine, why: NoNetwork) -> Diagnosis {
    examine(&Facts {
        machine,
        network: Err(why),
    })
}

/// The settings under which a passing node listens as a lasting one of this home would.
pub fn listening(home: &Home, mut config: Config) -> Result<Config, Failure> {
    if let Some(mut membership) = home.membership()? {
        // The key is not taken without the home's lock; a mesh founded on purpose is told by it.
        let outside = match home.identity_file()? {
            Some((key, _)) => goes_outside(&key, &membership, &config),
            None => membership.joined,
        };
        let listen = listen_addresses(&config, &mut membership, config.client, outside)?;
        config.net.listen = listen.iter().map(ToString::to_string).collect();
    }
    Ok(config)
}

impl Node {
    /// Examines this node, waiting up to `within` for facts that are on their way; tells `waiting`
    /// what they are whenever that changes. `ports` are those that were tried before the node took
    /// them, if it is a passing one.
    pub async fn diagnose(
        &self,
        within: Duration,
        ports: Vec<Port>,
        waiting: mpsc::Sender<Vec<&'static str>>,
    ) -> Diagnosis {
        let inner = &self.inner;
        let until = Instant::now() + within.saturating_sub(ANSWER);
        // A running node goes on with the settings it has; what the file says now is for the next.
        let file = Config::load(
            &inner.home.config_file(),
            false,
            |_| None,
            &toml::Table::new(),
        );
        let settings = file.as_ref().map(|_| &inner.config);
        let ((), mut machine) = tokio::join!(
            self.settle(until, waiting),
            machine(&inner.home, settings, true)
        );
        machine.ports = ports;
        machine.offsets_ms = self.clocks().await;
        let network = Ok(self.network());
        examine(&Facts { machine, network })
    }

    /// The same as the events of the control API; dropping it ends the examination.
    pub fn examined(&self, within: Duration, ports: Vec<Port>) -> mpsc::Receiver<v1::DoctorEvent> {
        use v1::doctor_event::Event;
        let (events, told) = mpsc::channel(EVENTS);
        let node = self.clone();
        self.inner.tasks.spawn(async move {
            let send = async |event| {
                let event = v1::DoctorEvent { event: Some(event) };
                // Whoever asked may have gone; the select below sees it.
                let _ = events.send(event).await;
            };
            let (waiting, mut facts) = mpsc::channel(EVENTS);
            let examined = async {
                let diagnosis = node.diagnose(within, ports, waiting);
                let passed_on = async {
                    while let Some(facts) = facts.recv().await {
                        let facts = facts.into_iter().map(str::to_owned).collect();
                        send(Event::Waiting(v1::Waiting { facts })).await;
                    }
                };
                let (diagnosis, ()) = tokio::join!(diagnosis, passed_on);
                send(Event::Diagnosis(diagnosis.to_proto())).await;
            };
            tokio::select! {
                () = examined => {}
                () = events.closed() => {}
                () = node.inner.cancel.cancelled() => {}
            }
        });
        told
    }

    async fn settle(&self, until: Instant, waiting: mpsc::Sender<Vec<&'static str>>) {
        let mut told = Vec::new();
        loop {
            let facts = pending(&self.network());
            if facts.is_empty() || Instant::now() >= until {
                return;
            }
            if facts != told {
                // Nobody has to listen.
                let _ = waiting.try_send(facts.clone());
                told = facts;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn network(&self) -> Network {
        let inner = &self.inner;
        let membership = inner
            .membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let me = inner.net.local_peer();
        let bootstrap = inner.config.net.bootstrap.iter();
        let addresses: BTreeSet<&String> = bootstrap.chain(&membership.bootstrap).collect();
        let index = self.index();
        let named = |peer: &PeerId| {
            let end = format!("/p2p/{peer}");
            addresses.iter().any(|a| a.ends_with(&end))
        };
        let offers = index.peers().keys();
        let offers = offers.filter(|p| **p != me && !named(p)).count();
        let listen = inner.net.listen_addrs().borrow().clone();
        let member = |p: polymath_net::PeerInfo| {
            (p.membership == Standing::Member).then_some(Member {
                path: p.path,
                transport: p.transport,
                addresses: p.addresses,
            })
        };
        let refused = addresses
            .iter()
            .filter_map(|a| inner.misses.of(a))
            .find(|m| m.reason == Unused::Refused);
        let shut_out = self.revoked_by().or_else(|| inner.net.shut_out_by());
        let shut_out = shut_out.map(|by| Refusal {
            why: format!("this mesh's admins have revoked it (said {by})"),
            remedy: Remedy::Admin,
        });
        let refusal = shut_out.or_else(|| {
            let last = inner.door.as_ref().and_then(Door::refusal);
            let by_invite =
                last.is_none_or(|(_, refused)| refused.kind() == ErrorKind::PermissionDenied);
            refused.map(|miss| Refusal {
                why: miss.what,
                remedy: if by_invite {
                    Remedy::Invite
                } else {
                    Remedy::Patience
                },
            })
        });
        Network {
            refusal,
            report: inner.net.report(),
            client: listen.is_empty(),
            listen,
            members: inner.net.peers().into_iter().filter_map(member).collect(),
            bootstrap: addresses
                .into_iter()
                .take(MOST)
                .map(|a| (a.clone(), inner.misses.of(a).map(|m| m.what)))
                .collect(),
            offers,
            founded_here: !membership.joined,
            uptime: self.elapsed(),
            catalog: inner.sync.trouble(),
        }
    }

    /// Members' clocks less this one's, milliseconds; half of a call's time is taken off.
    async fn clocks(&self) -> Vec<i64> {
        let members = self.inner.net.peers().into_iter();
        let members = members.filter(|p| p.membership == Standing::Member);
        let asked = members.take(CLOCKS).map(|p| self.clock(p.peer));
        let told = futures::stream::iter(asked).buffer_unordered(CLOCKS);
        told.filter_map(std::future::ready).collect().await
    }

    async fn clock(&self, peer: PeerId) -> Option<i64> {
        let asked = async {
            let mut client = self.inner.clients.expert(peer, ANSWER).await.ok()?;
            let version = Format::Wire.current();
            let (sent, before) = (SystemTime::now(), Instant::now());
            let told = client
                .describe(v1::DescribeRequest { version })
                .await
                .ok()?;
            let here = since_1970(sent) + before.elapsed() / 2;
            let here = i64::try_from(here.as_millis()).ok()?;
            match told.into_inner().unix_ms {
                0 => None,
                there => i64::try_from(there).ok()?.checked_sub(here),
            }
        };
        tokio::time::timeout(ANSWER, asked).await.ok().flatten()
    }
}

/// Milliseconds since 1970 by this machine's clock.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(since_1970(SystemTime::now()).as_millis()).unwrap_or(u64::MAX)
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The folder, or the nearest above it that is there.
fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|d| d.is_dir()).unwrap_or(dir)
}

fn writable(dir: &Path) -> Result<(), String> {
    if dir.exists() && !dir.is_dir() {
        return Err("it is no folder".into());
    }
    tempfile::tempfile_in(existing(dir))
        .map(drop)
        .map_err(|e| e.to_string())
}

fn identity(home: &Home) -> IdentityFile {
    match home.identity_file() {
        Ok(None) => IdentityFile::Absent,
        Ok(Some((_, mode))) if mode & 0o077 != 0 => IdentityFile::Open { mode },
        Ok(Some(_)) => IdentityFile::Good,
        Err(failure) => IdentityFile::Bad(failure.message),
    }
}

fn disk(what: &'static str, dir: &Path) -> Disk {
    let free = (StoreOptions::default().free_bytes)(existing(dir));
    Disk {
        what,
        path: dir.to_owned(),
        free: free.map_err(|e| e.to_string()),
    }
}

fn last_written(home: &Home) -> Option<Duration> {
    let files = ["identity.key", "mesh.json", "lock"].into_iter();
    let written = |name| fs::metadata(home.dir().join(name)).ok()?.modified().ok();
    files.filter_map(written).map(since_1970).max()
}

fn name_servers() -> Vec<String> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = |line: &str| line.strip_prefix("nameserver").map(|s| s.trim().to_owned());
    text.lines().filter_map(server).collect()
}

/// Names in addresses that this home would dial.
fn names(config: &Config, membership: Option<&Membership>) -> BTreeSet<String> {
    let remembered = membership.map_or(&[][..], |m| &m.bootstrap);
    let name = |address: &String| {
        let mut parts = address.split('/').skip(1);
        let named = matches!(parts.next(), Some("dns" | "dns4" | "dns6" | "dnsaddr"));
        parts.next().filter(|_| named).map(str::to_owned)
    };
    let addresses = config.net.bootstrap.iter().chain(remembered);
    addresses.filter_map(name).take(MOST).collect()
}

async fn resolve(name: String) -> (String, Result<usize, String>) {
    let asked = async {
        let addresses = tokio::net::lookup_host((name.as_str(), 0)).await;
        addresses.map(Iterator::count)
    };
    let found = match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(addresses)) => match addresses {
            0 => Err("the name has none".to_owned()),
            n => Ok(n),
        },
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer within {ANSWER:?}")),
    };
    (name, found)
}

/// The ports that `up` would take, each tried.
fn ports(config: &Config, membership: Option<&Membership>) -> Vec<Port> {
    let mut ports: Vec<Port> = config
        .net
        .listen
        .iter()
        .filter_map(|a| try_address(a))
        .take(MOST)
        .collect();
    // A home's usual port is given up for another when it is taken, but its old addresses are lost.
    if let (true, Some(m)) = (config.net.listen.is_empty() && !config.client, membership)
        && m.port != 0
    {
        let host = if m.joined { "0.0.0.0" } else { "127.0.0.1" };
        for (protocol, rest) in [("tcp", ""), ("udp", "/quic-v1")] {
            let address = format!("/ip4/{host}/{protocol}/{}{rest}", m.port);
            ports.extend(try_address(&address));
        }
    }
    if let Ok(socket) = config.api.listen.parse::<SocketAddr>() {
        ports.push(try_port("api", "tcp", socket));
    }
    ports
}

fn try_address(address: &str) -> Option<Port> {
    let mut parts = address.split('/').skip(2);
    let host: IpAddr = parts.next()?.parse().ok()?;
    let protocol = match parts.next()? {
        "tcp" => "tcp",
        "udp" => "udp",
        _ => return None,
    };
    let port = parts.next()?.parse().ok()?;
    parse_address(address).ok()?;
    Some(try_port(address, protocol, SocketAddr::new(host, port)))
}

fn try_port(address: &str, protocol: &'static str, socket: SocketAddr) -> Port {
    let tried = match protocol {
        "tcp" => TcpListener::bind(socket).map(drop),
        _ => UdpSocket::bind(socket).map(drop),
    };
    Port {
        address: address.to_owned(),
        protocol,
        socket: socket.to_string(),
        taken: tried.err().map(|e| e.to_string()),
    }
}
