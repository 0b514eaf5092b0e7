//! Real daemons, driven through their own command line.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::netns::Netns;

/// How long a daemon may take until its API is open, on a machine that runs several cells.
const START: Duration = Duration::from_secs(20);
/// How long a command may take that only looks.
const GLANCE: Duration = Duration::from_secs(10);
/// In a daemon's home.
pub(crate) const LOG: &str = "log";
pub(crate) const TESTIMONY: &str = "testimony.json";
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// What a command said.
#[derive(Debug)]
pub(crate) struct Reply {
    /// `None` when it was ended for being late, or by a signal.
    pub(crate) code: Option<i32>,
    /// What it printed on standard output, or null.
    pub(crate) json: Value,
    pub(crate) errors: String,
}

impl Reply {
    pub(crate) const fn done(&self) -> bool {
        matches!(self.code, Some(0))
    }

    /// The last line of what it complained of.
    pub(crate) fn complaint(&self) -> &str {
        self.errors
            .trim()
            .lines()
            .last()
            .unwrap_or("no word of why")
    }
}

/// A home on a host, with or without a daemon.
#[derive(Debug)]
pub(crate) struct Home<'a> {
    polymath: &'a Path,
    host: &'a Netns,
    folder: PathBuf,
}

impl<'a> Home<'a> {
    pub(crate) fn create(polymath: &'a Path, host: &'a Netns, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self {
            polymath,
            host,
            folder,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.polymath);
        command.args(arguments).arg("--home").arg(&self.folder);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POLYMATH_") {
                command.env_remove(name);
            }
        }
        // What is asked here is no secret.
        command.env("POLYMATH_ACCEPT_PUBLIC", "true");
        command
    }

    /// Runs `polymath ARGUMENTS --json` to its end, `limit` at most.
    pub(crate) fn run(&self, arguments: &[&str], input: &str, limit: Duration) -> Result<Reply> {
        let mut command = self.command(arguments);
        command
            .arg("--json")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .host
            .within(|| command.spawn().context("cannot start polymath"))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = pipes else {
            bail!("a child without pipes");
        };
        thread::scope(|scope| {
            scope.spawn(move || {
                // A command that fails early closes its input; that is its right.
                let _ = stdin.write_all(input.as_bytes());
            });
            let output = scope.spawn(move || {
                let mut text = String::new();
                stdout.read_to_string(&mut text).map(|_| text)
            });
            let errors = scope.spawn(move || {
                let mut text = String::new();
                stderr.read_to_string(&mut text).map(|_| text)
            });
            let until = Instant::now() + limit;
            let code = loop {
                if let Some(status) = child.try_wait()? {
                    break status.code();
                }
                if Instant::now() >= until {
                    child.kill()?;
                    child.wait()?;
                    break None;
                }
                thread::sleep(Duration::from_millis(5));
            };
            let text = |read: thread::Result<std::io::Result<String>>| {
                read.ok().and_then(Result::ok).unwrap_or_default()
            };
            Ok(Reply {
                code,
                json: serde_json::from_str(&text(output.join())).unwrap_or(Value::Null),
                errors: text(errors.join()),
            })
        })
    }

    /// A command that only looks; `None` when it fails.
    pub(crate) fn look(&self, arguments: &[&str]) -> Result<Option<Value>> {
        let reply = self.run(arguments, "", GLANCE)?;
        Ok(reply.done().then_some(reply.json))
    }

    /// Settings of the daemon to come, as a person would write them down.
    pub(crate) fn configure(&self, settings: &str) -> Result<()> {
        let path = self.folder.join("config.toml");
        fs::write(&path, settings).with_context(|| format!("cannot write {}", path.display()))
    }

    /// A definition of a real expert that needs no model file.
    pub(crate) fn define(&self, name: &str) -> Result<String> {
        let path = self.folder.join("expert.toml");
        let text = format!(
            "version = 1\nname = \"{name}\"\nkind = \"classify\"\nmodel = \"trigram\"\n\
             description = \"Language identification by {name}\"\n"
        );
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// Starts the daemon and waits for its API.
    pub(crate) fn up(self, arguments: &[&str]) -> Result<Daemon<'a>> {
        let log = self.folder.join(LOG);
        let mut command = self.command(&["up", "--api", "off", "--no-local-discovery"]);
        // In memory, and kept only where somebody wants it.
        command.args(["--log-level", "error,polymath=debug"]);
        command
            .args(["--until-stdin-closes"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log)?);
        let child = self
            .host
            .within(|| command.spawn().context("cannot start polymath"))?;
        let mut daemon = Daemon {
            home: self,
            child,
            peer: String::new(),
        };
        let until = Instant::now() + START;
        loop {
            if let Some(status) = daemon.child.try_wait()? {
                bail!(
                    "polymath {arguments:?} ended with {status}: {}",
                    daemon.log()
                );
            }
            if let Some(status) = daemon.look(&["status"])? {
                daemon.peer = text(&status["peer"]);
                return Ok(daemon);
            }
            if Instant::now() >= until {
                bail!("polymath {arguments:?} opened no API: {}", daemon.log());
            }
            thread::sleep(PAUSE);
        }
    }
}

/// A running daemon; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Daemon<'a> {
    home: Home<'a>,
    child: Child,
    pub(crate) peer: String,
}

impl<'a> Daemon<'a> {
    pub(crate) fn run(&self, arguments: &[&str], input: &str, limit: Duration) -> Result<Reply> {
        self.home.run(arguments, input, limit)
    }

    pub(crate) fn look(&self, arguments: &[&str]) -> Result<Option<Value>> {
        self.home.look(arguments)
    }

    /// What it says of its connection to a peer.
    pub(crate) fn path_to(&self, peer: &str) -> Result<Option<Link>> {
        let Some(listed) = self.look(&["peers"])? else {
            return Ok(None);
        };
        let peers = listed["peers"].as_array().into_iter().flatten();
        Ok(peers
            .filter(|p| p["id"] == peer && p["connected"] == true)
            .map(|p| Link {
                path: text(&p["path"]),
                transport: text(&p["transport"]),
            })
            .next())
    }

    /// Why the node does not use a peer, which is empty when it does; none while it knows of none.
    pub(crate) fn reason(&self, peer: &str) -> Result<Option<String>> {
        let peers = self.look(&["peers"])?.unwrap_or_default();
        let peers = peers["peers"].as_array();
        let of = peers.into_iter().flatten().find(|p| p["id"] == peer);
        Ok(of.map(|p| text(&p["reason"])))
    }

    /// Whether it knows an expert of this name.
    pub(crate) fn knows(&self, expert: &str) -> Result<bool> {
        let listed = self.look(&["experts"])?.unwrap_or_default();
        let mut experts = listed["experts"].as_array().into_iter().flatten();
        Ok(experts.any(|e| e["name"] == expert))
    }

    /// Leaves what it says of itself and of its peers beside its log.
    pub(crate) fn testify(&self) -> Result<()> {
        let doctor = self.run(&["doctor"], "", GLANCE)?.json;
        let peers = self.look(&["peers"])?.unwrap_or_default();
        let told = serde_json::json!({ "doctor": doctor, "peers": peers["peers"] });
        let path = self.home.folder.join(TESTIMONY);
        fs::write(&path, format!("{told:#}"))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.folder.join(LOG)).unwrap_or_default()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection, in the daemon's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) path: String,
    pub(crate) transport: String,
}

impl Link {
    pub(crate) fn is_direct(&self) -> bool {
        self.path == "direct" || self.path == "hole-punched"
    }
}

/// Looks again and again; whether the condition held within `limit`.
pub(crate) fn eventually(
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<bool> {
    let until = Instant::now() + limit;
    loop {
        if condition()? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
