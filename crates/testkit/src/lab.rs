//! A folder of homes that share one model store.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tempfile::TempDir;

use crate::{Cli, Node};

/// A place for nodes.
#[derive(Debug)]
pub struct Lab {
    dir: TempDir,
    models: PathBuf,
}

impl Lab {
    /// A lab whose nodes have both test models.
    pub fn with_models() -> Self {
        Self {
            dir: folder(),
            models: prepared().to_owned(),
        }
    }

    /// A lab whose nodes have no models; the language identifier needs none.
    pub fn new() -> Self {
        let dir = folder();
        let models = dir.path().join("models");
        Self { dir, models }
    }

    /// The home named `name`.
    pub fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The lab's folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The model store its nodes use.
    pub fn models(&self) -> &Path {
        &self.models
    }

    /// `polymath ARGS...` on the home named `name`.
    pub fn cli(&self, name: &str, args: &[&str]) -> Cli {
        Cli::new(args)
            .home(&self.home(name))
            .env("POLYMATH_MODELS_DIR", &self.models)
    }

    /// Starts `polymath up` on the home named `name`, on loopback, and waits for its API.
    pub fn up(&self, name: &str, args: &[&str]) -> Node {
        self.up_with(name, args, &[])
    }

    /// As [`Lab::up`], with environment variables.
    pub fn up_with(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Node {
        let mut all = vec!["up", "--no-local-discovery"];
        if !args.contains(&"--listen") {
            all.extend([
                "--listen",
                "/ip4/127.0.0.1/tcp/0",
                "--listen",
                "/ip4/127.0.0.1/udp/0/quic-v1",
            ]);
        }
        if !args.contains(&"--api") {
            all.extend(["--api", "off"]);
        }
        all.extend(args);
        let mut cli = self.cli(name, &all);
        for (key, value) in env {
            cli = cli.env(key, value);
        }
        Node::start(name, &self.home(name), self.models(), cli)
    }

    /// Starts another program that runs a node on the home named `name`, and waits for its API: it is given
    /// the home, the model store and then `args`.
    pub fn run(&self, program: &Path, name: &str, args: &[&str]) -> Node {
        let home = self.home(name);
        let places = [&home, &self.models].map(|p| p.display().to_string());
        let places = places.iter().map(String::as_str);
        let all: Vec<&str> = places.chain(args.iter().copied()).collect();
        Node::start(name, &home, &self.models, Cli::of(program, &all))
    }

    /// Makes the home named `name` belong to the mesh of `node`.
    pub fn join(&self, name: &str, node: &Node) {
        let args = ["join", "--accept-public", &node.address()];
        self.cli(name, &args).run().ok();
    }

    /// Takes the model store's one place for a writer, until the file is dropped.
    pub fn occupy_store(&self) -> File {
        // A store that is not there yet is made first: nobody can open it while it is locked.
        self.cli("occupier", &["model", "list"]).run().ok();
        let lock = File::create(self.models.join("lock")).expect("the lab is writable");
        lock.lock().expect("file locks work here");
        lock
    }

    /// Writes an expert definition and returns its path.
    pub fn define(&self, file: &str, text: &str) -> String {
        let path = self.dir.path().join(file);
        fs::write(&path, text).expect("the lab is writable");
        path.display().to_string()
    }

    /// Defines a language identifier of this name: a real expert that needs no files.
    pub fn identifier(&self, name: &str) -> String {
        let text = format!(
            "version = 1\nname = \"{name}\"\nkind = \"classify\"\nmodel = \"trigram\"\ndescription = \"Language identification by {name}\"\n"
        );
        self.define(&format!("{name}.toml"), &text)
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

/// Short paths: Unix sockets cannot have long ones.
fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("pm-")
        .tempdir()
        .expect("a temporary folder")
}

/// A model store with both test models, filled once per machine from `POLYMATH_TEST_MODELS`.
fn prepared() -> &'static Path {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    STORE.get_or_init(|| {
        let files = std::env::var_os("POLYMATH_TEST_MODELS")
            .map(PathBuf::from)
            .expect("POLYMATH_TEST_MODELS names no folder: run the tests by `cargo xtask test`, which prepares it");
        let store = files.join("store");
        for (name, from) in [("smollm2-135m-instruct", "SmolLM2-135M-Instruct.Q4_1.gguf"), ("all-minilm-l6-v2", "minilm")] {
            let from = files.join(from).display().to_string();
            // Pulling what is there already only checks it; the store's own lock orders the tests.
            Cli::new(&["model", "pull", name, "--from", &from])
                .home(&files.join("home"))
                .env("POLYMATH_MODELS_DIR", &store)
                .run()
                .ok();
        }
        store
    })
}
