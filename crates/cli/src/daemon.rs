//! Nodes as child processes, for the demo and the benchmarks: started, awaited, asked, and ended
//! whatever happens.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use polymath_node::{Control, Home, Node};
use polymath_proto::v1::{self, ask_event::Event};
use polymath_types::{ErrorKind, Failure, Format};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::Instant,
};

/// Time a node gets to load its experts.
const READY: Duration = Duration::from_secs(120);

/// A node in a process of its own. Dropping it kills the process; should this process be killed
/// first, the child notices that its standard input closed and ends by itself.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    home: Home,
    child: Child,
    _stdin: Option<ChildStdin>,
    log: PathBuf,
}

/// A question's outcome.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) text: String,
    pub(crate) vectors: Vec<v1::Vector>,
    pub(crate) classes: Vec<v1::Classification>,
    pub(crate) reason: String,
    pub(crate) previous_failures: Vec<String>,
    pub(crate) done: v1::Done,
}

impl Daemon {
    /// Starts `polymath up` on `dir`, with models from `models`.
    pub(crate) fn start(
        name: &str,
        dir: &Path,
        models: &Path,
        args: &[&str],
    ) -> Result<Self, Failure> {
        let fail = |what: &str, e: std::io::Error| {
            Failure::new(
                ErrorKind::Internal,
                format!("cannot start node {name}: {what}: {e}"),
            )
        };
        let home = Home::open(dir)?;
        let log = dir.join("node.log");
        let output = File::create(&log).map_err(|e| fail("log", e))?;
        let errors = output.try_clone().map_err(|e| fail("log", e))?;
        let program = std::env::current_exe().map_err(|e| fail("own path", e))?;
        let mut command = Command::new(program);
        // Settings of whoever runs the demo are not the demo's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POLYMATH_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("up")
            .arg("--home")
            .arg(dir)
            .args([
                "--listen",
                "/ip4/127.0.0.1/tcp/0",
                "--listen",
                "/ip4/127.0.0.1/udp/0/quic-v1",
            ])
            .args([
                "--no-local-discovery",
                "--api",
                "off",
                "--until-stdin-closes",
            ])
            .args(args)
            .env("POLYMATH_MODELS_DIR", models)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| fail("spawn", e))?;
        let stdin = child.stdin.take();
        Ok(Self {
            name: name.to_owned(),
            home,
            child,
            _stdin: stdin,
            log,
        })
    }

    /// A client of the node's API, as soon as it is open.
    pub(crate) async fn control(&mut self) -> Result<Control, Failure> {
        let until = Instant::now() + READY;
        loop {
            if let Some(control) = polymath_node::connect(&self.home).await? {
                return Ok(control);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.died(&status.to_string()));
            }
            if Instant::now() > until {
                return Err(Failure::new(
                    ErrorKind::DeadlineExceeded,
                    format!("node {} did not open its API within {READY:?}", self.name),
                ));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until `enough` says so of the node's status.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        enough: impl Fn(&v1::StatusResponse) -> bool,
    ) -> Result<v1::StatusResponse, Failure> {
        let deadline = Instant::now() + READY;
        let mut control = self.control().await?;
        loop {
            if let Ok(status) = control
                .status(v1::StatusRequest {
                    version: Format::Control.current(),
                })
                .await
            {
                let status = status.into_inner();
                if let Some(failed) = status.hosted.iter().find(|e| e.state == "failed") {
                    return Err(Failure::new(
                        ErrorKind::Internal,
                        format!(
                            "node {} cannot serve {}: {}",
                            self.name, failed.name, failed.detail
                        ),
                    ));
                }
                if enough(&status) {
                    return Ok(status);
                }
            } else if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.died(&status.to_string()));
            }
            if Instant::now() > deadline {
                return Err(Failure::new(
                    ErrorKind::DeadlineExceeded,
                    format!(
                        "node {}: no {what} within {READY:?}; its log is {}",
                        self.name,
                        self.log.display()
                    ),
                ));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    fn died(&self, how: &str) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last = log
            .lines()
            .rev()
            .find(|l| !l.trim().is_empty())
            .unwrap_or("it said nothing")
            .to_owned();
        Failure::new(
            ErrorKind::Internal,
            format!("node {} ended ({how}): {last}", self.name),
        )
    }

    /// Ends the process as a power cut would.
    pub(crate) async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// The process's id, while it runs.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }
}

/// Asks and waits for the whole answer.
pub(crate) async fn ask(
    control: &mut Control,
    request: v1::AskRequest,
) -> Result<Answered, Failure> {
    let mut events = control
        .ask(request)
        .await
        .map_err(|s| Node::control_failure(&s))?
        .into_inner();
    let (mut text, mut vectors, mut classes, mut reason) =
        (String::new(), Vec::new(), Vec::new(), String::new());
    let mut previous_failures = Vec::new();
    while let Some(event) = events
        .message()
        .await
        .map_err(|s| Node::control_failure(&s))?
    {
        match event.event {
            Some(Event::Decision(d)) => reason = d.reason,
            Some(Event::Attempt(a)) if !a.previous_failure.is_empty() => {
                previous_failures.push(a.previous_failure)
            }
            Some(Event::Tokens(t)) => text.push_str(&t.text),
            Some(Event::Embeddings(e)) => vectors = e.vectors,
            Some(Event::Classifications(c)) => classes = c.classifications,
            Some(Event::Failed(f)) => return Err(polymath_node::failure(f)),
            Some(Event::Done(done)) => {
                return Ok(Answered {
                    text,
                    vectors,
                    classes,
                    reason,
                    previous_failures,
                    done,
                });
            }
            _ => {}
        }
    }
    Err(Failure::new(
        ErrorKind::Internal,
        "the answer ended without a result",
    ))
}

/// A question with the defaults of the command line.
pub(crate) fn question(kind: &str, text: &str) -> v1::AskRequest {
    v1::AskRequest {
        version: Format::Control.current(),
        kind: kind.to_owned(),
        messages: vec![v1::ChatMessage {
            role: v1::chat_message::Role::User as i32,
            content: text.to_owned(),
        }],
        timeout_ms: 120_000,
        ..v1::AskRequest::default()
    }
}

/// Where demo and benchmarks keep models between runs.
pub(crate) fn cache_dir(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let dir = given.or_else(|| {
        let var = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        Some(
            var("XDG_CACHE_HOME")
                .or_else(|| Some(var("HOME")?.join(".cache")))?
                .join("polymath-demo"),
        )
    });
    dir.and_then(|d| std::path::absolute(d).ok())
        .ok_or_else(|| {
            Failure::new(
                ErrorKind::Config,
                "neither XDG_CACHE_HOME nor HOME is set: name a folder with --dir",
            )
        })
}
