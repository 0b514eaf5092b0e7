//! Where the nodes are: threads in this process, in this network namespace or in others.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use polymath_types::Failure;
use tokio::runtime::{Builder, Runtime};

use super::{failed, sample::THREADS};

/// Puts the thread that calls it where a node is.
type Enter = Arc<dyn Fn() + Send + Sync>;

/// A line between the nodes that is no loopback.
#[derive(Debug, Clone)]
pub struct Line {
    /// A part of the cases' names.
    pub name: String,
    /// What it does to packets, for people.
    pub conditions: String,
}

/// Where the serving node, the calling one and the relay are.
#[derive(Clone)]
pub struct Place {
    server: (IpAddr, Enter),
    client: Enter,
    relay: (IpAddr, Enter),
    line: Option<Line>,
}

impl Default for Place {
    /// Here, over loopback.
    fn default() -> Self {
        let here: (IpAddr, Enter) = (Ipv4Addr::LOCALHOST.into(), Arc::new(|| ()));
        Self {
            server: here.clone(),
            client: here.1.clone(),
            relay: here,
            line: None,
        }
    }
}

impl Place {
    /// Elsewhere: every thread of a node begins with its function, and binds to its address.
    pub fn over(
        line: Line,
        server: (IpAddr, impl Fn() + Send + Sync + 'static),
        client: impl Fn() + Send + Sync + 'static,
        relay: (IpAddr, impl Fn() + Send + Sync + 'static),
    ) -> Self {
        Self {
            server: (server.0, Arc::new(server.1)),
            client: Arc::new(client),
            relay: (relay.0, Arc::new(relay.1)),
            line: Some(line),
        }
    }

    pub(super) fn server(&self) -> IpAddr {
        self.server.0
    }

    pub(super) fn relay(&self) -> IpAddr {
        self.relay.0
    }

    pub(super) fn line(&self) -> Option<&Line> {
        self.line.as_ref()
    }

    /// The threads of the serving node, the calling one and the relay.
    pub(super) fn runtimes(&self) -> Result<[Runtime; 3], Failure> {
        let runtime = |name: &str, enter: &Enter| {
            let enter = enter.clone();
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name(format!("{THREADS}-{name}"))
                .on_thread_start(move || enter())
                .enable_all()
                .build();
            runtime.map_err(|e| failed("a thread", e))
        };
        Ok([
            runtime("server", &self.server.1)?,
            runtime("client", &self.client)?,
            runtime("relay", &self.relay.1)?,
        ])
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("server", &self.server.0)
            .field("relay", &self.relay.0)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}
