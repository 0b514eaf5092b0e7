//! Finding members on the local network by multicast DNS.
//!
//! libp2p's own mDNS behaviour cannot carry the mesh, so neighbouring meshes would dial each
//! other all day. This announces `_polymath._udp.local.` with a TXT record that names mesh, peer
//! and addresses, and hands members of the same mesh to the swarm task, which decides whom to
//! dial. Announcements are hints from strangers: the connection proves who answers.

use std::{sync::Arc, time::Duration};

use libp2p::{Multiaddr, PeerId};
use mdns_sd::{DaemonEvent, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    address::{is_dialable, prefer_reachable, split_peer},
    manager::{Command, Shared},
};

const SERVICE: &str = "_polymath._udp.local.";
/// Addresses in one announcement: they must fit a packet with all else.
const MAX_ADDRESSES: usize = 8;
/// A TXT entry holds 255 bytes with its key.
const MAX_ENTRY: usize = 200;
/// Goodbyes on the way out.
const GOODBYE: Duration = Duration::from_secs(1);
/// Between attempts to browse after the daemon ended the subscription.
const BROWSE_AGAIN: Duration = Duration::from_secs(5);

/// What one node tells its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    mesh: String,
    peer: PeerId,
    addresses: Vec<Multiaddr>,
}

impl Announcement {
    /// As TXT entries: `mesh`, `peer`, and `a0` to `a7`, one multiaddress each.
    fn to_txt(&self) -> Vec<(String, String)> {
        let mut txt = vec![
            ("mesh".to_owned(), self.mesh.clone()),
            ("peer".to_owned(), self.peer.to_string()),
        ];
        let addresses = self
            .addresses
            .iter()
            .map(Multiaddr::to_string)
            .filter(|a| a.len() <= MAX_ENTRY);
        txt.extend(
            addresses
                .take(MAX_ADDRESSES)
                .enumerate()
                .map(|(i, a)| (format!("a{i}"), a)),
        );
        txt
    }

    /// Reads TXT entries; `None` if they are not an announcement.
    pub(crate) fn from_txt<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let mesh = get("mesh").filter(|m| m.len() <= 64)?.to_owned();
        let peer: PeerId = get("peer").filter(|p| p.len() <= 128)?.parse().ok()?;
        let addresses = (0..MAX_ADDRESSES)
            .map_while(|i| get(&format!("a{i}")))
            .filter_map(|a| a.parse::<Multiaddr>().ok())
            .filter(is_dialable)
            .map(split_peer)
            .filter(|(_, named)| named.is_none_or(|n| n == peer))
            .map(|(address, _)| address)
            .collect();
        Some(Self {
            mesh,
            peer,
            addresses,
        })
    }

    /// Whether a node of `mesh` named `local` should take note.
    fn concerns(&self, mesh: &str, local: PeerId) -> bool {
        self.mesh == mesh && self.peer != local && !self.addresses.is_empty()
    }
}

/// Announces and listens until `stop`. Without a usable network interface it warns once and
/// stays idle: the mesh works without it.
pub(crate) async fn run(
    shared: Arc<Shared>,
    commands: mpsc::WeakSender<Command>,
    stop: CancellationToken,
) {
    let daemon = match ServiceDaemon::new() {
        Ok(daemon) => daemon,
        Err(error) => return tracing::warn!(%error, "no local discovery; join peers by address"),
    };
    let registered = tokio::select! {
        registered = announce_and_watch(&daemon, &shared, &commands) => registered,
        () = stop.cancelled() => Some(fullname(shared.local)),
    };
    if let Some(name) = registered
        && let Ok(done) = daemon.unregister(&name)
    {
        let _ = timeout(GOODBYE, done.recv_async()).await;
    }
    if let Ok(done) = daemon.shutdown() {
        let _ = timeout(GOODBYE, done.recv_async()).await;
    }
}

fn fullname(peer: PeerId) -> String {
    format!("{peer}.{SERVICE}")
}

async fn announce_and_watch(
    daemon: &ServiceDaemon,
    shared: &Shared,
    commands: &mpsc::WeakSender<Command>,
) -> Option<String> {
    let mut listen = shared.listen.subscribe();
    listen.mark_changed();
    let troubles = daemon.monitor().ok();
    let mut warned = false;
    let mut found = daemon.browse(SERVICE).ok();
    loop {
        tokio::select! {
            changed = listen.changed() => {
                changed.ok()?;
                let addresses = listen.borrow_and_update().clone();
                if let Err(error) = announce(daemon, shared, addresses) {
                    warn_once(&mut warned, &error);
                }
            }
            event = next(found.as_ref()) => match event {
                Some(ServiceEvent::ServiceResolved(service)) => {
                    let announcement = Announcement::from_txt(|key| service.get_property_val_str(key));
                    pass_on(announcement, shared, commands).await?;
                }
                Some(_) => {}
                // The daemon ends a subscription that lags; start another.
                None => {
                    sleep(BROWSE_AGAIN).await;
                    found = daemon.browse(SERVICE).ok();
                }
            },
            Some(event) = async { next(troubles.as_ref()).await } => {
                if let DaemonEvent::Error(error) = event {
                    warn_once(&mut warned, &error);
                }
            }
        }
    }
}

fn warn_once(warned: &mut bool, error: &mdns_sd::Error) {
    if !std::mem::replace(warned, true) {
        tracing::warn!(%error, "local discovery does not work on this network; join peers by address");
    }
}

/// The next event, or none when the subscription has ended.
async fn next<T>(subscription: Option<&mdns_sd::Receiver<T>>) -> Option<T> {
    subscription?.recv_async().await.ok()
}

fn announce(
    daemon: &ServiceDaemon,
    shared: &Shared,
    addresses: Vec<Multiaddr>,
) -> Result<(), mdns_sd::Error> {
    let addresses = prefer_reachable(addresses);
    if addresses.is_empty() {
        return Ok(());
    }
    let announcement = Announcement {
        mesh: shared.names.short().to_owned(),
        peer: shared.local,
        addresses,
    };
    let name = shared.local.to_string();
    // The port of the SRV record is unused: the TXT record has whole addresses. Zero means none
    // to some resolvers, so it is the discard port.
    let txt = announcement.to_txt();
    let info = ServiceInfo::new(SERVICE, &name, &format!("{name}.local."), "", 9, &txt[..])?;
    daemon.register(info.enable_addr_auto())
}

async fn pass_on(
    announcement: Option<Announcement>,
    shared: &Shared,
    commands: &mpsc::WeakSender<Command>,
) -> Option<()> {
    match announcement {
        Some(a) if a.concerns(shared.names.short(), shared.local) => {
            shared.counters.local_members_heard.up();
            let command = Command::Discovered {
                peer: a.peer,
                addresses: a.addresses,
            };
            commands.upgrade()?.send(command).await.ok()
        }
        Some(a) if a.peer == shared.local => Some(()),
        _ => {
            shared.counters.local_announcements_ignored.up();
            Some(())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    fn announcement(addresses: &[&str]) -> Announcement {
        Announcement {
            mesh: "aaaaaaaaaaaaaaaa".into(),
            peer: PeerId::random(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        }
    }

    fn read(txt: &HashMap<String, String>) -> Option<Announcement> {
        Announcement::from_txt(|key| txt.get(key).map(String::as_str))
    }

    #[test]
    fn an_announcement_survives_the_txt_record() {
        let sent = announcement(&[
            "/ip4/192.0.2.1/tcp/4001",
            "/ip6/2001:db8::1/udp/4001/quic-v1",
        ]);
        let txt: HashMap<_, _> = sent.to_txt().into_iter().collect();
        assert!(txt.iter().all(|(k, v)| k.len() + v.len() < 255));
        assert_eq!(read(&txt), Some(sent));
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let many: Vec<_> = (1..=30)
            .map(|p| format!("/ip4/192.0.2.1/tcp/{p}"))
            .collect();
        let sent = announcement(&many.iter().map(String::as_str).collect::<Vec<_>>());
        let mut txt: HashMap<_, _> = sent.to_txt().into_iter().collect();
        assert_eq!(read(&txt).unwrap().addresses.len(), MAX_ADDRESSES);
        txt.insert("a8".into(), "/ip4/192.0.2.1/tcp/99".into());
        assert_eq!(read(&txt).unwrap().addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn what_is_no_announcement_is_ignored() {
        let sent = announcement(&["/ip4/192.0.2.1/tcp/4001"]);
        let txt: HashMap<_, _> = sent.to_txt().into_iter().collect();
        for key in ["mesh", "peer"] {
            let mut less = txt.clone();
            less.remove(key);
            assert_eq!(read(&less), None, "without {key}");
            less.insert(key.into(), "?".repeat(200));
            assert_eq!(read(&less), None, "with a bad {key}");
        }
        let mut bad = txt;
        bad.insert("a0".into(), "/ip4/0.0.0.0/tcp/1".into());
        assert!(read(&bad).unwrap().addresses.is_empty());
    }

    #[test]
    fn only_other_members_of_the_same_mesh_concern_us() {
        let theirs = announcement(&["/ip4/192.0.2.1/tcp/4001"]);
        let us = PeerId::random();
        assert!(theirs.concerns("aaaaaaaaaaaaaaaa", us));
        assert!(!theirs.concerns("bbbbbbbbbbbbbbbb", us));
        assert!(!theirs.concerns("aaaaaaaaaaaaaaaa", theirs.peer));
        assert!(!announcement(&[]).concerns("aaaaaaaaaaaaaaaa", us));
    }
}
