//! Running the `polymath` binary to its end.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Panics unless the command succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Panics unless the command failed with this code and one line that has all of `words`.
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|l| l.starts_with("error:"))
            .collect();
        assert_eq!(errors.len(), 1, "exactly one error line: {}", self.stderr);
        // Commands that people are told to type name the home; the tests' homes have no spaces.
        let error = without_home(errors[0]);
        for word in words {
            assert!(error.contains(word), "'{word}' is not in: {}", errors[0]);
        }
        self
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr))
    }
}

fn without_home(line: &str) -> String {
    let mut parts = line.split("`polymath --home ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str("`polymath ");
        plain.push_str(part.split_once(' ').map_or("", |(_, rest)| rest));
    }
    plain
}

/// A command line of the `polymath` binary.
#[derive(Debug)]
pub struct Cli {
    command: Command,
    stdin: Vec<u8>,
}

impl Cli {
    /// `polymath ARGS...` with nothing of this process's environment that could change it.
    pub fn new(args: &[&str]) -> Self {
        Self::of(&binary(), args)
    }

    /// The same of another program.
    pub fn of(program: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POLYMATH_") {
                command.env_remove(name);
            }
        }
        Self {
            command,
            stdin: Vec::new(),
        }
    }

    /// The home it works on.
    pub fn home(mut self, dir: &Path) -> Self {
        self.command.arg("--home").arg(dir);
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads.
    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        bytes.clone_into(&mut self.stdin);
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Output {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut input = child.stdin.take().expect("piped");
        let bytes = self.stdin;
        // A command that fails early closes its input; that is its right.
        let feeder = std::thread::spawn(move || drop(input.write_all(&bytes)));
        let output = child.wait_with_output().expect("it ends");
        feeder.join().expect("the feeder ends");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command, for tests that kill it half-way.
    pub fn into_command(self) -> Command {
        self.command
    }
}

/// The binary under test: built beside the tests, in the same profile.
pub(crate) fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps/test");
    let binary = profile.join("polymath");
    assert!(
        binary.is_file(),
        "{} is missing: run the tests by `cargo xtask test`, which builds it",
        binary.display()
    );
    binary
}
