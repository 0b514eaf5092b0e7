//! One running daemon.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{Cli, Output, eventually};

/// A daemon in a process of its own; dropping it kills it.
#[derive(Debug)]
pub struct Node {
    home: PathBuf,
    models: PathBuf,
    child: Child,
    log: PathBuf,
    /// What it printed about itself when its API was open.
    pub started: Value,
}

impl Node {
    pub(crate) fn start(name: &str, home: &Path, models: &Path, cli: Cli) -> Self {
        fs::create_dir_all(home).expect("the lab is writable");
        let log = home.join("node.log");
        let errors = File::create(&log).expect("the lab is writable");
        let mut command = cli.into_command();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("the binary runs");
        let mut node = Self {
            home: home.to_owned(),
            models: models.to_owned(),
            child,
            log,
            started: Value::Null,
        };
        node.started = eventually(&format!("{name} opens its API"), || {
            if let Ok(Some(status)) = node.child.try_wait() {
                panic!("{name} ended with {status}: {}", node.log());
            }
            let output = node.cli(&["status", "--json"]).run();
            (output.code == 0).then(|| output.json())
        });
        node
    }

    /// `polymath ARGS...` on this node's home.
    pub fn cli(&self, args: &[&str]) -> Cli {
        Cli::new(args)
            .home(&self.home)
            .env("POLYMATH_MODELS_DIR", &self.models)
    }

    /// Asks through this node and wants an answer.
    pub fn ask(&self, args: &[&str]) -> Value {
        let all: Vec<&str> = ["ask", "--json"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        self.cli(&all).run().ok().json()
    }

    /// Asks through this node, whatever comes of it.
    pub fn try_ask(&self, args: &[&str]) -> Output {
        let all: Vec<&str> = ["ask"].into_iter().chain(args.iter().copied()).collect();
        self.cli(&all).run()
    }

    /// `polymath status`.
    pub fn status(&self) -> Value {
        self.cli(&["status", "--json"]).run().ok().json()
    }

    /// Names of the experts it knows, sorted.
    pub fn experts(&self) -> Vec<String> {
        let listed = self.cli(&["experts", "--json"]).run().ok().json();
        let experts = listed["experts"].as_array().expect("a list");
        let mut names: Vec<String> = experts
            .iter()
            .map(|e| e["name"].as_str().expect("a name").to_owned())
            .collect();
        names.sort();
        names
    }

    /// Waits until every expert it hosts is ready.
    pub fn ready(self) -> Self {
        eventually("its experts are loaded", || {
            let status = self.status();
            let experts = status["experts"].as_array().expect("a list");
            for e in experts {
                assert_ne!(e["state"], "failed", "{e}");
            }
            experts.iter().all(|e| e["state"] == "ready").then_some(())
        });
        self
    }

    /// Waits until it knows all of these experts.
    pub fn knows(&self, names: &[&str]) {
        eventually(&format!("it knows {names:?}"), || {
            let known = self.experts();
            names
                .iter()
                .all(|n| known.iter().any(|k| k == n))
                .then_some(())
        });
    }

    /// Its peer id.
    pub fn peer(&self) -> String {
        self.started["peer"].as_str().expect("a peer id").to_owned()
    }

    /// Its first address, ready for `join`.
    pub fn address(&self) -> String {
        self.addresses().into_iter().next().expect("an address")
    }

    /// All its addresses.
    pub fn addresses(&self) -> Vec<String> {
        let addresses = self.started["addresses"].as_array().expect("a list");
        addresses
            .iter()
            .map(|a| a.as_str().expect("text").to_owned())
            .collect()
    }

    /// Host and port of its HTTP API.
    pub fn api(&self) -> String {
        eventually("its HTTP API is open", || {
            let status = self.status();
            status["api"]
                .as_str()
                .filter(|a| !a.is_empty())
                .map(str::to_owned)
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Sends it a signal by name, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end and returns the exit code.
    pub fn wait(mut self) -> i32 {
        let status = eventually("the process ends", || {
            self.child.try_wait().expect("it can be awaited")
        });
        status.code().unwrap_or(-1)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
