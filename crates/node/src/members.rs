//! Meeting the mesh, and telling it what is served here.

use std::{collections::HashSet, sync::PoisonError, time::Duration};

use polymath_catalog::Offer;
use polymath_net::{Multiaddr, NetEvent};
use polymath_types::{Constraints, ExpertKind, PeerId};
use tokio::sync::broadcast::error::RecvError;

use crate::{AGENT, Node, discover, parse_address, sync::SyncHandle};

/// Time for one dial.
const DIAL: Duration = Duration::from_secs(10);
/// Pauses between rounds of dialling while nobody is connected.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Connections a node looks for by itself.
const ENOUGH: usize = 16;
/// Addresses whose failure is reported, once each.
const MOST_WARNED: usize = 64;
/// Peers dialled in one round.
const A_ROUND: usize = 8;
/// How often experts are looked for when the catalog is not exchanged.
const LOOK_AROUND: Duration = Duration::from_secs(60);
/// How often a passing client looks whether it has met somebody.
const POLL: Duration = Duration::from_millis(20);

/// Dials whoever is known until enough peers are connected, for ever.
pub(crate) async fn meet(node: Node) {
    let inner = &node.inner;
    let mut events = inner.net.events();
    let mut warned = HashSet::new();
    let mut pause = FIRST_PAUSE;
    let mut looked: Option<tokio::time::Instant> = None;
    loop {
        let connected: HashSet<_> = inner.net.peers().into_iter().map(|p| p.peer).collect();
        if connected.len() < ENOUGH {
            for address in addresses(&node, &connected) {
                tokio::select! {
                    () = inner.cancel.cancelled() => return,
                    dialled = inner.net.dial(address.clone(), DIAL) => match dialled {
                        Ok(peer) => tracing::debug!(%peer, "met"),
                        Err(e) if warned.len() < MOST_WARNED && warned.insert(address.clone()) => {
                            tracing::warn!("nobody met at {address}: {e}; it is tried again");
                        }
                        Err(e) => tracing::debug!(%address, "nobody met: {e}"),
                    }
                }
            }
        }
        inner.clients.reap();
        let met = !inner.net.peers().is_empty();
        pause = if met {
            LONGEST_PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
        if met
            && !inner.config.catalog.exchange
            && looked.is_none_or(|at| at.elapsed() > LOOK_AROUND)
        {
            looked = Some(tokio::time::Instant::now());
            for kind in ExpertKind::ALL {
                inner
                    .discovered
                    .look_up(
                        &inner.net,
                        &inner.clients,
                        kind,
                        &Constraints::default(),
                        DIAL,
                    )
                    .await;
            }
        }
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = inner.cancel.cancelled() => return,
                () = tokio::time::sleep_until(until) => break,
                event = events.recv() => match event {
                    Ok(NetEvent::Disconnected { peer }) => {
                        inner.clients.forget(&peer);
                        if inner.net.peers().is_empty() {
                            pause = FIRST_PAUSE;
                            break;
                        }
                    }
                    Err(RecvError::Closed) => return,
                    _ => {}
                }
            }
        }
    }
}

/// Addresses worth a dial: configured ones, those that led here before, then those of offers.
fn addresses(node: &Node, connected: &HashSet<PeerId>) -> Vec<Multiaddr> {
    let inner = &node.inner;
    let remembered = inner
        .membership
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .bootstrap
        .clone();
    let mut known: Vec<Multiaddr> = inner
        .config
        .net
        .bootstrap
        .iter()
        .chain(&remembered)
        .filter_map(|a| parse_address(a).ok())
        .collect();
    known.retain(|a| peer_of(a).is_none_or(|p| !connected.contains(&p)));
    for (peer, offer) in inner.index.load().peers() {
        if known.len() >= A_ROUND + inner.config.net.bootstrap.len() + remembered.len() {
            break;
        }
        if *peer != inner.net.local_peer() && !connected.contains(peer) {
            known.extend(
                offer
                    .addresses
                    .iter()
                    .find_map(|a| format!("{a}/p2p/{peer}").parse::<Multiaddr>().ok()),
            );
        }
    }
    known
}

/// The peer an address names at its end.
fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    address.to_string().rsplit_once("/p2p/")?.1.parse().ok()
}

/// Offers what is ready in the catalog and provides it in the DHT, whenever that changes.
pub(crate) async fn announce(node: Node, sync: SyncHandle) {
    let inner = &node.inner;
    let hosted = &inner.service.hosted;
    let (mut changes, mut listening) = (hosted.changes(), inner.net.listen_addrs());
    let mut provided: HashSet<Vec<u8>> = HashSet::new();
    loop {
        changes.mark_unchanged();
        let addresses = listening
            .borrow_and_update()
            .iter()
            .map(ToString::to_string)
            .collect();
        let ready = hosted.ready();
        let known_to_others = inner
            .index
            .load()
            .peers()
            .contains_key(&inner.net.local_peer());
        if !ready.is_empty() || (known_to_others && hosted.settled()) {
            let offer = Offer {
                agent: AGENT.to_owned(),
                addresses,
                experts: ready.iter().map(|c| c.id()).collect(),
            };
            sync.offer(offer, ready.clone()).await;
        }
        let keys: HashSet<Vec<u8>> = ready.iter().flat_map(|c| discover::keys(c)).collect();
        for key in keys.difference(&provided) {
            if let Err(e) = inner.net.provide(key).await {
                tracing::warn!("the DHT does not take a provider record: {e}");
            }
        }
        for key in provided.difference(&keys) {
            inner.net.stop_providing(key).await;
        }
        provided = keys;
        tokio::select! {
            () = inner.cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = listening.changed() => if changed.is_err() { return },
        }
    }
}

impl Node {
    /// Waits until some expert is known and a peer is connected, or `within` has passed.
    pub async fn meet(&self, within: Duration) {
        let met = async {
            while self.index().is_empty() || self.inner.net.peers().is_empty() {
                tokio::time::sleep(POLL).await;
            }
        };
        let _ = tokio::time::timeout(within, met).await;
    }
}
