//! Settings: defaults < `config.toml` < environment < flags; every value knows where it came from.

mod limits;

use std::{collections::BTreeMap, fmt, fs, io, net::SocketAddr, path::Path};

use polymath_net::NetLimits;
use polymath_router::{POLICIES, Policy, by_name};
use polymath_types::{ErrorKind, Failure, PeerId};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use limits::{Limits, Size};

/// All settings. Each key `a.b` is also `POLYMATH_A_B` in the environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Experts to host: built-in names, model names, `.toml` definitions or `.gguf` files.
    pub experts: Vec<String>,
    /// Host nothing, offer nothing; only ask. What ratings taught it is told, unless `catalog.observations` is off.
    pub client: bool,
    /// Whose questions the hosted experts answer: `mesh`, or `self` for this machine's user alone.
    pub serve: String,
    /// What peers are asked for, as `EXPERT=IN/OUT`: credits for 1,000 tokens of prompt and answer, such
    /// as `chef=0.5/1.5`. What is not listed is free.
    pub prices: Vec<String>,
    /// What this node is called, as `KEY=VALUE` such as `office=berlin`; all peers see it.
    pub labels: Vec<String>,
    /// Join open meshes without being asked whether that is understood: see [`crate::Notice`].
    pub accept_public: bool,
    /// Peer-to-peer side.
    pub net: Net,
    /// HTTP side.
    pub api: Api,
    /// Logs.
    pub log: Log,
    /// Model files.
    pub models: Models,
    /// The shared catalog.
    pub catalog: Catalog,
    /// Running models.
    pub engine: Engine,
    /// Choosing experts.
    pub router: Router,
    /// What this node may take of its machine.
    pub limits: Limits,
}

/// Peer-to-peer side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Net {
    /// Multiaddrs to listen on. Empty: this machine only for a mesh founded here, all interfaces
    /// once joined.
    pub listen: Vec<String>,
    /// Multiaddrs of peers to dial at start.
    pub bootstrap: Vec<String>,
    /// Where signed lists of the mesh's anchors are: files, `https://` addresses, `dns:NAME`.
    pub anchors: Vec<String>,
    /// Find peers of the same mesh on the local network by mDNS.
    pub local_discovery: bool,
    /// Serve others as bootstrap, DHT server, relay and dial-back server, come what may.
    pub anchor: bool,
    /// Multiaddrs under which others reach this node, beside those it finds out by itself.
    pub announce: Vec<String>,
    /// Ask the gateway for a port by UPnP.
    pub upnp: bool,
    /// `HOST:PORT` of an HTTP proxy to dial through (CONNECT); empty for none.
    pub proxy: String,
    /// Bytes this node relays for one peer in an hour, both ways together.
    pub relayed_per_hour: u64,
    /// UDP port of the bulk lane, on which members far away fetch model files; 0: any free one.
    pub bulk_port: u16,
    /// Round trip from which files come by the bulk lane, milliseconds; nearer ones come as calls do.
    pub bulk_from_ms: u64,
}

/// HTTP side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Address and port of the OpenAI-compatible API; `auto` is 127.0.0.1:8420, or any free port
    /// when that is taken; `off` is none.
    pub listen: String,
    /// Address and port of the gRPC API, with reflection and health; `off` is none.
    pub grpc: String,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `human`, `json`, or `auto`: human.
    pub format: String,
    /// A tracing filter, e.g. `info` or `polymath_net=debug`.
    pub level: String,
}

/// Model files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// The model store; several homes may share one. Empty: `models` in the home.
    pub dir: String,
    /// Give members the files of models that every polymath knows, and ask members for them before
    /// fetching a package. A person's own models are given to nobody.
    pub share: bool,
}

/// The shared catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Catalog {
    /// Exchange offers with peers. Without it experts are found through the DHT alone.
    pub exchange: bool,
    /// Keep and exchange what peers have observed of experts: counts and rewards by cluster, never a
    /// question. Without it this node learns from its own grades alone.
    pub observations: bool,
}

/// Running models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// Threads that compute; 0: one less than there are cores.
    pub threads: usize,
    /// Answers decoded at once.
    pub slots: usize,
    /// Requests that may wait.
    pub queue: usize,
}

/// Choosing experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Router {
    /// `static` needs no model; `embedder` uses the sentence embedder; `auto` uses the embedder
    /// when its files are in the model store.
    pub encoder: String,
    /// `learned` goes by likeness of question and card, and by what graded answers have taught; `likeness` by
    /// that alone.
    pub policy: String,
    /// Peer ids of your own other nodes: what must not leave them (`--privacy own`) may go there.
    pub own: Vec<String>,
}

impl Router {
    /// The peers of `own`.
    pub(crate) fn own_peers(&self) -> Result<Vec<PeerId>, Failure> {
        let peer = |text: &String| {
            text.parse().map_err(|_| {
                bad(format!(
                    "router.own names '{text}', which is no peer id: `polymath identity show` on that node tells its own"
                ))
            })
        };
        self.own.iter().map(peer).collect()
    }

    /// The policy, with nothing learnt.
    pub(crate) fn policy(&self, seed: u64) -> Result<Box<dyn Policy>, Failure> {
        by_name(&self.policy, seed).ok_or_else(|| {
            bad(format!(
                "router.policy = \"{}\": use one of {}",
                self.policy,
                POLICIES.join(", ")
            ))
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            experts: Vec::new(),
            client: false,
            serve: "mesh".into(),
            prices: Vec::new(),
            labels: Vec::new(),
            accept_public: false,
            net: Net::default(),
            api: Api::default(),
            log: Log::default(),
            models: Models::default(),
            catalog: Catalog::default(),
            engine: Engine::default(),
            router: Router::default(),
            limits: Limits::default(),
        }
    }
}
impl Default for Net {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            bootstrap: Vec::new(),
            anchors: Vec::new(),
            local_discovery: true,
            anchor: false,
            announce: Vec::new(),
            upnp: true,
            proxy: String::new(),
            relayed_per_hour: NetLimits::default().relayed_bytes_per_hour,
            bulk_port: 0,
            bulk_from_ms: 20,
        }
    }
}
impl Default for Api {
    fn default() -> Self {
        Self {
            listen: "auto".into(),
            grpc: "off".into(),
        }
    }
}
impl Default for Log {
    fn default() -> Self {
        Self {
            format: "auto".into(),
            level: "error,polymath=info".into(),
        }
    }
}
impl Default for Models {
    fn default() -> Self {
        Self {
            dir: String::new(),
            share: true,
        }
    }
}
impl Default for Catalog {
    fn default() -> Self {
        Self {
            exchange: true,
            observations: true,
        }
    }
}
impl Default for Engine {
    fn default() -> Self {
        Self {
            threads: 0,
            slots: 4,
            queue: 32,
        }
    }
}
impl Default for Router {
    fn default() -> Self {
        Self {
            encoder: "auto".into(),
            policy: "learned".into(),
            own: Vec::new(),
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Built in.
    Default,
    /// The configuration file.
    File,
    /// This environment variable.
    Environment(String),
    /// A flag of the command.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("file"),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Settings with the source of each key.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The settings.
    pub config: Config,
    /// Dotted key to its source.
    pub sources: BTreeMap<String, Source>,
}

fn bad(message: String) -> Failure {
    Failure::new(ErrorKind::Config, message)
}

impl Config {
    /// Reads and checks one file's text.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |s| {
                text[..s.start.min(text.len())].matches('\n').count() + 1
            });
            let what = e.message().split('\n').next().unwrap_or_default();
            bad(format!("{}, line {line}: {what}", path.display()))
        })?;
        config
            .check()
            .map_err(|e| bad(format!("{}: {}", path.display(), e.message)))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Failure> {
        let one_of = |key: &str, value: &str, allowed: &[&str]| {
            if allowed.contains(&value) {
                Ok(())
            } else {
                Err(bad(format!(
                    "{key} = \"{value}\": use one of {}",
                    allowed.join(", ")
                )))
            }
        };
        one_of("log.format", &self.log.format, &["auto", "human", "json"])?;
        one_of(
            "router.encoder",
            &self.router.encoder,
            &["auto", "static", "embedder"],
        )?;
        one_of("router.policy", &self.router.policy, &POLICIES)?;
        self.router.own_peers()?;
        one_of("serve", &self.serve, &["mesh", "self"])?;
        self.limits.check()?;
        self.check_terms()?;
        if !(1..=256).contains(&self.engine.slots)
            || self.engine.queue > 65_536
            || self.engine.threads > 1024
        {
            return Err(bad("engine.slots must be 1 to 256, engine.queue at most 65536, engine.threads at most 1024".into()));
        }
        if self.client && !self.experts.is_empty() {
            return Err(bad(
                "client = true hosts nothing, but experts are listed: drop one of the two".into(),
            ));
        }
        let Net {
            listen,
            bootstrap,
            announce,
            ..
        } = &self.net;
        for address in listen {
            crate::listen::parse_address(address).map_err(|f| bad(f.message))?;
        }
        for (key, addresses) in [("net.bootstrap", bootstrap), ("net.announce", announce)] {
            for address in addresses {
                crate::listen::parse_dialable(address)
                    .map_err(|f| bad(format!("{key}: {}", f.message)))?;
            }
        }
        for source in &self.net.anchors {
            crate::anchors::Source::parse(source).map_err(|f| bad(f.message))?;
        }
        let proxy = &self.net.proxy;
        let is_proxy = |(host, port): (&str, &str)| {
            !host.is_empty()
                && !host.contains(['/', '@'])
                && port.parse::<u16>().is_ok_and(|p| p != 0)
        };
        if !proxy.is_empty() && !proxy.rsplit_once(':').is_some_and(is_proxy) {
            return Err(bad(format!(
                "net.proxy = \"{proxy}\": use HOST:PORT such as proxy.example:3128"
            )));
        }
        let apis = [
            ("api.listen", &self.api.listen, &["auto", "off"][..], 8420),
            ("api.grpc", &self.api.grpc, &["off"][..], 8421),
        ];
        for (key, value, words, port) in apis {
            let or = words.join(" or ");
            match value.parse::<SocketAddr>() {
                Ok(address) if !address.ip().is_loopback() => {
                    return Err(bad(format!(
                        "{key} = \"{address}\": the API has no keys yet, so it opens on this machine only: use the loopback address 127.0.0.1:{}",
                        address.port()
                    )));
                }
                Err(_) if !words.contains(&value.as_str()) => {
                    return Err(bad(format!(
                        "{key} = \"{value}\": use HOST:PORT such as 127.0.0.1:{port}, or {or}"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts the layers together. `flags` holds only what the command line says, in the file's
    /// shape. A missing file is an empty one, unless it was named (`required`).
    pub fn load(
        file: &Path,
        required: bool,
        environment: impl Fn(&str) -> Option<String>,
        flags: &Table,
    ) -> Result<Effective, Failure> {
        let mut merged = Table::try_from(Self::default()).map_err(|e| bad(e.to_string()))?;
        let mut sources: BTreeMap<String, Source> = leaves(&merged)
            .into_iter()
            .map(|(k, _)| (k, Source::Default))
            .collect();
        match fs::read_to_string(file) {
            Ok(text) => {
                Self::parse(&text, file)?;
                let table: Table = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
                overlay(&mut merged, &table, &mut sources, &Source::File);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && !required => {}
            Err(e) => {
                return Err(bad(format!(
                    "cannot read {}: {e}: fix it, or name another file with --config",
                    file.display()
                )));
            }
        }
        for (key, default) in leaves(&merged.clone()) {
            let name = format!("POLYMATH_{}", key.replace('.', "_").to_uppercase());
            if let Some(text) = environment(&name) {
                let value = from_environment(&name, &text, &default)?;
                overlay(
                    &mut merged,
                    &nest(&key, value),
                    &mut sources,
                    &Source::Environment(name),
                );
            }
        }
        overlay(&mut merged, flags, &mut sources, &Source::Flag);
        let config: Self = merged
            .try_into()
            .map_err(|e: toml::de::Error| bad(e.message().to_owned()))?;
        config.check()?;
        Ok(Effective { config, sources })
    }
}

fn from_environment(name: &str, text: &str, like: &Value) -> Result<Value, Failure> {
    let wrong = |what| bad(format!("{name}={text}: expected {what}"));
    Ok(match like {
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
        Value::Array(_) => Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .map(|s| Value::String(s.into()))
                .collect(),
        ),
        _ => Value::String(text.to_owned()),
    })
}

fn leaves(table: &Table) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for (key, value) in table {
        if let Value::Table(inner) = value {
            out.extend(
                leaves(inner)
                    .into_iter()
                    .map(|(k, v)| (format!("{key}.{k}"), v)),
            );
        } else {
            out.push((key.clone(), value.clone()));
        }
    }
    out
}

fn nest(key: &str, value: Value) -> Table {
    let (first, rest) = key
        .split_once('.')
        .map_or((key, None), |(a, b)| (a, Some(b)));
    let value = rest.map_or(value.clone(), |rest| Value::Table(nest(rest, value)));
    Table::from_iter([(first.to_owned(), value)])
}

fn overlay(
    base: &mut Table,
    over: &Table,
    sources: &mut BTreeMap<String, Source>,
    source: &Source,
) {
    for (key, value) in leaves(over) {
        sources.insert(key.clone(), source.clone());
        set(base, &key, value);
    }
}

fn set(base: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            base.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = base
                .entry(first)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: Option<&str>, env: &[(&str, &str)], flags: &str) -> Result<Effective, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        let env: BTreeMap<String, String> = env
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        Config::load(
            &file,
            false,
            |k| env.get(k).cloned(),
            &toml::from_str(flags).unwrap(),
        )
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = "[engine]\nslots = 2\nqueue = 7\nthreads = 3\n";
        let env = [
            ("POLYMATH_ENGINE_SLOTS", "5"),
            ("POLYMATH_ENGINE_QUEUE", "9"),
            (
                "POLYMATH_NET_LISTEN",
                "/ip4/127.0.0.1/tcp/1, /ip6/::1/udp/2/quic-v1",
            ),
        ];
        let e = load(Some(file), &env, "[engine]\nslots = 6\n").unwrap();
        assert_eq!(
            (
                e.config.engine.slots,
                e.config.engine.queue,
                e.config.engine.threads
            ),
            (6, 9, 3)
        );
        assert_eq!(
            e.config.net.listen,
            ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/udp/2/quic-v1"]
        );
        assert_eq!(e.sources["engine.slots"], Source::Flag);
        assert_eq!(
            e.sources["engine.queue"],
            Source::Environment("POLYMATH_ENGINE_QUEUE".into())
        );
        assert_eq!(e.sources["engine.threads"], Source::File);
        assert_eq!(e.sources["router.encoder"], Source::Default);
    }

    #[test]
    fn a_bad_setting_is_named_with_its_line() {
        let err = load(Some("\n[net]\nlsten = []\n"), &[], "").unwrap_err();
        assert!(
            err.message.contains("lsten") && err.message.contains("line 3"),
            "{err}"
        );
        let err = load(Some("[log]\nformat = \"xml\"\n"), &[], "").unwrap_err();
        assert!(
            err.message.contains("log.format") && err.message.contains("json"),
            "{err}"
        );
        let err = load(None, &[("POLYMATH_ENGINE_SLOTS", "many")], "").unwrap_err();
        assert!(err.message.contains("POLYMATH_ENGINE_SLOTS"), "{err}");
        for (text, word) in [
            ("net.bootstrap = [\"localhost:4040\"]", "localhost:4040"),
            ("net.announce = [\"192.0.2.7\"]", "192.0.2.7"),
            (
                "net.announce = [\"/ip4/192.0.2.7\"]",
                "net.announce: '/ip4/192.0.2.7' is not an address that can be dialled (it names no transport)",
            ),
            ("net.announce = [\"/ip4/192.0.2.7/tcp/0\"]", "port is 0"),
            ("net.announce = [\"/ip4/0.0.0.0/tcp/7\"]", "not one"),
            ("net.bootstrap = [\"/ip4/192.0.2.7/udp/7\"]", "quic-v1"),
            ("net.bootstrap = [\"/p2p-circuit\"]", "relay's own address"),
            ("net.bootstrap = [\"/memory/7\"]", "no transport here"),
            ("net.proxy = \"proxy.invalid\"", "HOST:PORT"),
            ("net.proxy = \"http://proxy.invalid:80\"", "HOST:PORT"),
            ("net.anchors = [\"http://plain.invalid\"]", "https://"),
            ("net.anchors = [\"dns:\"]", "dns:"),
            ("serve = \"others\"", "mesh, self"),
            ("limits.disk = \"lots\"", "limits.disk = \"lots\""),
            ("limits.memory = 1000", "128MiB"),
            ("api.listen = \"0.0.0.0:80\"", "loopback"),
        ] {
            let err = load(Some(text), &[], "").unwrap_err();
            assert!(err.message.contains(word), "{err}");
        }
        assert_eq!(
            load(Some("this is not toml"), &[], "").unwrap_err().kind,
            ErrorKind::Config
        );
        assert_eq!(
            load(Some("client = true\nexperts = [\"x\"]"), &[], "")
                .unwrap_err()
                .kind,
            ErrorKind::Config
        );
    }

    #[test]
    fn a_limit_may_be_a_number_a_text_or_a_variable() {
        let env = [("POLYMATH_LIMITS_DISK", "20GiB")];
        let file = "[limits]\nmemory = 1073741824\nupload = \"10MiB\"\n";
        let limits = load(Some(file), &env, "[limits]\nconcurrent = 2\n").unwrap();
        let limits = limits.config.limits;
        assert_eq!(limits.memory.bytes(), Some(1 << 30));
        assert_eq!(limits.upload.bytes(), Some(10 << 20));
        assert_eq!(limits.disk.bytes(), Some(20 << 30));
        assert_eq!(limits.concurrent, 2);
        let err = load(None, &[("POLYMATH_LIMITS_DISK", "20 potatoes")], "").unwrap_err();
        assert_eq!(err.kind, ErrorKind::Config);
        assert!(err.message.contains("limits.disk"), "{err}");
    }

    #[test]
    fn no_file_is_all_defaults() {
        assert_eq!(load(None, &[], "").unwrap().config, Config::default());
    }
}
