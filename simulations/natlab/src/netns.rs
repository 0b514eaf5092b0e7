//! One network namespace, and doing something inside it.
//!
//! A thread may enter a namespace; sockets it opens and programs it starts belong there for good. So
//! the whole lab is one process, and its sockets can be handled side by side wherever they are.

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn create(name: String) -> Result<Self> {
        tool(Command::new("ip").args(["netns", "add", &name]), "")?;
        let namespace = Self { name };
        namespace
            .set("ipv6/conf/all/disable_ipv6", "1")
            .or_else(|e| {
                // A kernel without IPv6 has nothing to turn off.
                if Path::new("/proc/sys/net/ipv6").exists() {
                    Err(e)
                } else {
                    Ok(())
                }
            })?;
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What [`enter`] takes, opened.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let handle =
                    File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
                enter(&handle).with_context(|| format!("at {}", path.display()))?;
                work()
            });
            inside
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the thread in {} panicked", self.name)))
        })
    }

    /// Lines for `ip -batch`.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        self.within(|| tool(Command::new("ip").args(["-batch", "-"]), lines))
            .map(drop)
    }

    /// Loads an nftables ruleset.
    pub(crate) fn nft(&self, ruleset: &str) -> Result<()> {
        self.within(|| tool(Command::new("nft").args(["-f", "-"]), ruleset))
            .map(drop)
    }

    /// A setting below `/proc/sys/net`.
    pub(crate) fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys/net").join(name);
        self.within(|| {
            std::fs::write(&path, value)
                .with_context(|| format!("cannot write {value} to {}", path.display()))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = tool(Command::new("ip").args(["netns", "del", &self.name]), "");
    }
}

/// Moves this thread into a namespace, for good.
pub(crate) fn enter(namespace: &File) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter a network namespace")
}

/// Runs a tool with this input to its end; its standard output.
pub(crate) fn tool(command: &mut Command, input: &str) -> Result<Vec<u8>> {
    let shown = format!("{command:?}").replace('"', "");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that fails early says more than a closed pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("`{shown}` cannot be awaited"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{shown}` failed ({}): {}\n{input}",
            output.status,
            errors.trim()
        );
    }
    Ok(output.stdout)
}
