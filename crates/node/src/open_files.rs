//! What this process may have open: its peers, its files, and the programs on this machine that ask it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are enough for any node.
const ENOUGH: u64 = 65_536;
/// Connections of programs on this machine by one way: the least, and the most.
const FEWEST: u64 = 16;
const MOST: u64 = 1024;

/// Allows this process as many open files as the system lets it allow itself: what a shell begins with is
/// often 1,024, which connections use up.
pub fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    if limit.current.is_some_and(|now| now < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            ..limit
        };
        if let Err(e) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!("the limit on open files stays as it is: {e}");
        }
    }
}

/// Connections that programs on this machine may have by one way (the Unix socket, gRPC, HTTP): with all
/// three full a quarter of the files is left to peers and models.
pub fn local_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(ENOUGH);
    usize::try_from((files / 4).clamp(FEWEST, MOST)).unwrap_or(1)
}
