//! Meeting the mesh, and telling it what is served here.

use std::{collections::HashSet, fmt, sync::PoisonError, time::Duration};

use futures::StreamExt;
use polymath_catalog::Offer;
use polymath_net::{DialError, Membership, Multiaddr, Net, NetEvent, worth_telling};
use polymath_types::{Constraints, ExpertKind, PathKind, PeerId};
use tokio::sync::broadcast::error::RecvError;

use crate::{
    AGENT, MeshKey, Node, discover,
    listen::parse_address,
    misses, random,
    sources::{Kind, Trying},
    sync::SyncHandle,
    unused::Unused,
};

/// Time for one dial.
const DIAL: Duration = Duration::from_secs(10);
/// Pauses between rounds of dialling while nobody is connected.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that has lasted so long was no passing one: its loss is followed by a dial at once,
/// that of a shorter one by a longer pause each time, or a peer that breaks off at once would be
/// dialled without end.
const STEADY: Duration = Duration::from_secs(30);
/// Connections a node looks for by itself.
const ENOUGH: usize = 16;
/// Addresses and peers whose failure is reported, once each.
const MOST_WARNED: usize = 64;
/// Authors of offers dialled in one round.
const A_ROUND: usize = 8;
/// Dials under way at once: one that nobody answers must not hold up the others.
const AT_ONCE: usize = 4;
/// Addresses in an offer; the catalog takes no more.
const MOST_ADDRESSES: usize = 16;
/// Changes of this node's addresses within this time are told as one.
const GATHER: Duration = Duration::from_millis(400);
/// When provider records that the DHT did not take are tried again.
const PROVIDE_AGAIN: Duration = Duration::from_secs(60);
/// How often experts are looked for when the catalog is not exchanged.
const LOOK_AROUND: Duration = Duration::from_secs(60);
/// How often a passing client looks whether it has met somebody.
const POLL: Duration = Duration::from_millis(20);

/// Dials whoever is known until enough peers are connected, for ever.
pub(crate) async fn meet(node: Node) {
    let inner = &node.inner;
    let mut events = inner.net.events();
    let mut warned = HashSet::new();
    let mut turns = (Turns::default(), Turns::default());
    let mut backoff = Backoff::default();
    // Since when somebody has been connected without a gap.
    let mut since: Option<tokio::time::Instant> = None;
    let mut looked: Option<tokio::time::Instant> = None;
    loop {
        let connected: HashSet<_> = inner.net.peers().into_iter().map(|p| p.peer).collect();
        if connected.len() < ENOUGH {
            let targets = targets(&node, &connected, &mut turns);
            let mut dials = futures::stream::iter(shown(&node, targets))
                .map(|(target, trying)| dial(&node, target, trying))
                .buffer_unordered(AT_ONCE);
            while let Some((target, dialled)) = tokio::select! {
                () = inner.cancel.cancelled() => return,
                dialled = dials.next() => dialled,
            } {
                let dialled = dialled.map_err(|e| why(&node, &target, &e));
                inner.sources.note(target.kind, dialled.clone().map(Some));
                match dialled {
                    Ok(_) => tracing::debug!(%target, "met"),
                    Err(e)
                        if target.kind != Kind::Remembered
                            && warned.len() < MOST_WARNED
                            && warned.insert(target.who.clone()) =>
                    {
                        tracing::warn!("nobody met at {target}: {e}; it is tried again");
                    }
                    Err(e) => tracing::debug!(%target, "nobody met: {e}"),
                }
            }
        }
        inner.clients.reap();
        node.remember();
        let met = !inner.net.peers().is_empty();
        let pause = if met {
            since.get_or_insert_with(tokio::time::Instant::now);
            jittered(LONGEST_PAUSE, random())
        } else {
            backoff.again(random())
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
            inner.sources.note(Kind::Dht, Ok(None));
        }
        let mut until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = inner.cancel.cancelled() => return,
                () = tokio::time::sleep_until(until) => break,
                event = events.recv() => match event {
                    Ok(NetEvent::Connected { .. }) if !inner.net.peers().is_empty() => {
                        since.get_or_insert_with(tokio::time::Instant::now);
                    }
                    Ok(NetEvent::Disconnected { peer }) => {
                        inner.clients.forget(&peer);
                        if inner.net.peers().is_empty()
                            && let Some(since) = since.take()
                        {
                            let pause = backoff.after_loss(since.elapsed(), random());
                            until = until.min(tokio::time::Instant::now() + pause);
                        }
                    }
                    Ok(NetEvent::MetLocally { peer }) => {
                        inner.sources.note(Kind::LocalNetwork, Ok(Some(peer)));
                    }
                    Ok(NetEvent::Foreign { peer, belongs }) => {
                        inner.misses.failed(peer, Unused::ForeignMesh, belongs);
                    }
                    Err(RecvError::Closed) => return,
                    _ => {}
                }
            }
        }
    }
}

/// How long to wait until somebody is dialled while nobody is connected.
#[derive(Debug)]
struct Backoff {
    /// The next pause.
    pause: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { pause: FIRST_PAUSE }
    }
}

impl Backoff {
    /// After a round in which nobody was met.
    fn again(&mut self, dice: [u8; 1]) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        jittered(pause, dice)
    }

    /// After the last connection broke, when there had been one for `lasted`.
    fn after_loss(&mut self, lasted: Duration, [dice]: [u8; 1]) -> Duration {
        if lasted < STEADY {
            return self.again([dice]);
        }
        *self = Self::default();
        // Whoever was connected with the same peer has lost it in the same moment.
        FIRST_PAUSE * u32::from(dice) / 256
    }
}

/// Somebody to dial, and how we know of it.
#[derive(Debug, Clone)]
struct Target {
    kind: Kind,
    who: Who,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    /// Whoever is at an address.
    At(Multiaddr),
    /// This peer, at any of its known addresses.
    Peer(PeerId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::At(address) => address.fmt(f),
            Who::Peer(peer) => write!(f, "the addresses of {peer}"),
        }
    }
}

/// With each of them shown as being dialled from now on.
fn shown(node: &Node, targets: Vec<Target>) -> Vec<(Target, Trying)> {
    let shown = |target: Target| {
        let trying = node.inner.sources.trying(target.kind);
        (target, trying)
    };
    targets.into_iter().map(shown).collect()
}

async fn dial(node: &Node, target: Target, _trying: Trying) -> (Target, Result<PeerId, DialError>) {
    let net = &node.inner.net;
    let dialled = match &target.who {
        Who::At(address) => net.dial(address.clone(), DIAL).await,
        Who::Peer(peer) => {
            node.inner.introduce(peer);
            net.connect(*peer, DIAL).await.map(|()| *peer)
        }
    };
    note(node, &target, &dialled);
    (target, dialled)
}

/// Why nobody was met, in words.
fn why(node: &Node, target: &Target, error: &DialError) -> String {
    match (&target.who, misses::told(error, node.inner.door.as_ref())) {
        (Who::Peer(peer), (Unused::NotConnected, _)) => node.why_unreached(peer, error),
        (_, (_, what)) => what,
    }
}

/// Remembers what came of a dial, for whoever asks why a peer is not used.
fn note(node: &Node, target: &Target, dialled: &Result<PeerId, DialError>) {
    let misses = &node.inner.misses;
    let names = match &target.who {
        Who::At(address) => [
            Some(address.to_string()),
            peer_of(address).map(|p| p.to_string()),
        ],
        Who::Peer(peer) => [None, Some(peer.to_string())],
    };
    for name in names.into_iter().flatten() {
        match dialled {
            Ok(_) => misses.met(name),
            Err(e) => {
                let (reason, what) = misses::told(e, node.inner.door.as_ref());
                misses.failed(name, reason, what);
            }
        }
    }
}

/// Whom to dial in this round.
fn targets(node: &Node, connected: &HashSet<PeerId>, turns: &mut (Turns, Turns)) -> Vec<Target> {
    let inner = &node.inner;
    let led_here = inner
        .membership
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .bootstrap
        .clone();
    let configured = inner.config.net.bootstrap.iter().chain(&led_here);
    let anchors = inner.anchors.addresses();
    let known = configured.map(|a| (Kind::Addresses, a));
    let known = known.chain(anchors.iter().map(|a| (Kind::Anchors, a)));
    let mut seen = HashSet::new();
    let mut targets: Vec<Target> = known
        .filter_map(|(kind, a)| Some((kind, parse_address(a).ok()?)))
        .filter(|(_, a)| peer_of(a).is_none_or(|p| !connected.contains(&p)))
        .filter(|(_, a)| seen.insert(a.clone()))
        .map(|(kind, address)| Target {
            kind,
            who: Who::At(address),
        })
        .collect();
    let me = inner.net.local_peer();
    let absent = |peer: &PeerId| *peer != me && !connected.contains(peer);
    let mut remembered = Vec::new();
    for (peer, addresses) in inner.remembered.members() {
        if absent(&peer) {
            inner.net.add_addresses(peer, addresses);
            remembered.push(peer);
        }
    }
    let index = inner.index.load();
    let authors = index.peers().keys().filter(|p| absent(p));
    let authors: Vec<PeerId> = authors
        .filter(|p| !remembered.contains(p))
        .copied()
        .collect();
    let (first, second) = turns;
    for (kind, peers) in [
        (Kind::Remembered, first.next(remembered)),
        (Kind::Catalog, second.next(authors)),
    ] {
        targets.extend(peers.into_iter().map(|peer| Target {
            kind,
            who: Who::Peer(peer),
        }));
    }
    targets
}

/// Looks in the DHT for members that nobody has told of, while there are few.
pub(crate) async fn seek(node: Node) {
    let inner = &node.inner;
    if !inner.config.catalog.exchange {
        // Then [`meet`] looks there, for experts too.
        return;
    }
    let mut turns = Turns::default();
    loop {
        tokio::select! {
            () = inner.cancel.cancelled() => return,
            () = tokio::time::sleep(jittered(LOOK_AROUND, random())) => {}
        }
        let mut known: HashSet<_> = inner.net.peers().into_iter().map(|p| p.peer).collect();
        if known.is_empty() || known.len() >= ENOUGH {
            continue;
        }
        known.insert(inner.net.local_peer());
        let mut found = HashSet::new();
        for kind in ExpertKind::ALL {
            let key = discover::kind_key(kind);
            let providers = tokio::select! {
                () = inner.cancel.cancelled() => return,
                providers = inner.net.providers(&key, DIAL) => providers,
            };
            match providers {
                Ok(providers) => found.extend(providers),
                Err(e) => inner.sources.note(Kind::Dht, Err(e.to_string())),
            }
        }
        let strangers = found.difference(&known).copied().collect();
        let target = |peer| Target {
            kind: Kind::Dht,
            who: Who::Peer(peer),
        };
        let targets = turns.next(strangers).into_iter().map(target).collect();
        let mut dials = futures::stream::iter(shown(&node, targets))
            .map(|(target, trying)| dial(&node, target, trying))
            .buffer_unordered(AT_ONCE);
        while let Some((target, dialled)) = tokio::select! {
            () = inner.cancel.cancelled() => return,
            dialled = dials.next() => dialled,
        } {
            let outcome = dialled.map_err(|e| why(&node, &target, &e));
            inner.sources.note(Kind::Dht, outcome.map(Some));
        }
    }
}

/// Keeps the secret of a closed mesh once a member has handed it out for the home's invite.
pub(crate) async fn keep_secret(node: Node) {
    let inner = &node.inner;
    let lock = || {
        let membership = inner.membership.lock();
        membership.unwrap_or_else(PoisonError::into_inner)
    };
    let Some(door) = &inner.door else { return };
    if !matches!(lock().key, MeshKey::Invite(_)) {
        return;
    }
    let secret = tokio::select! {
        () = inner.cancel.cancelled() => return,
        secret = door.let_in() => secret,
    };
    let membership = {
        let mut membership = lock();
        membership.key = MeshKey::Secret(secret);
        membership.clone()
    };
    match inner.home.save_membership(&membership) {
        Ok(()) => tracing::info!("let into mesh '{}'", membership.genesis.name()),
        Err(e) => tracing::error!("let into the mesh, but its secret cannot be kept: {e}"),
    }
}

/// Whose turn it is: every absent author once before any again, in an order that no other node
/// has, so that neither dead authors nor the lowest ids take all the dials.
#[derive(Debug, Default)]
struct Turns {
    /// Dialled since all had their turn; no more than there are authors in the catalog.
    had: HashSet<PeerId>,
}

impl Turns {
    fn next(&mut self, absent: Vec<PeerId>) -> Vec<PeerId> {
        let mut waiting: Vec<_> = absent
            .iter()
            .filter(|p| !self.had.contains(p))
            .copied()
            .collect();
        if waiting.is_empty() {
            self.had.clear();
            waiting = absent;
        }
        waiting.sort_by_cached_key(|_| random::<8>());
        waiting.truncate(A_ROUND);
        self.had.extend(&waiting);
        waiting
    }
}

/// Three quarters to five quarters of `pause`: nodes that lost the same peer must not all come
/// back at the same moment.
pub(crate) fn jittered(pause: Duration, [dice]: [u8; 1]) -> Duration {
    pause * 3 / 4 + pause * u32::from(dice) / 512
}

/// The peer an address names at its end.
fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    address.to_string().rsplit_once("/p2p/")?.1.parse().ok()
}

/// Offers what is ready in the catalog and provides it in the DHT, whenever that changes.
pub(crate) async fn announce(node: Node, sync: SyncHandle) {
    let inner = &node.inner;
    let hosted = &inner.service.hosted;
    let gate = &inner.service.gate;
    let (mut changes, mut place) = (hosted.changes(), inner.net.announced());
    let mut pauses = gate.pauses();
    let mut telling = inner.learning.telling();
    let mut provided: HashSet<Vec<u8>> = HashSet::new();
    loop {
        changes.mark_unchanged();
        pauses.mark_unchanged();
        let tells = *telling.borrow_and_update();
        let addresses = worth_telling(place.borrow_and_update().clone(), MOST_ADDRESSES)
            .iter()
            .map(ToString::to_string)
            .collect();
        let ready = node.offered();
        let known_to_others = inner
            .index
            .load()
            .peers()
            .contains_key(&inner.net.local_peer());
        // What an observer serves is to be known, or nobody weighs its word.
        if !ready.is_empty() || tells || (known_to_others && (hosted.settled() || gate.is_closed()))
        {
            let offer = Offer {
                agent: AGENT.to_owned(),
                // Who only asks need not be found.
                addresses: if inner.config.client {
                    Vec::new()
                } else {
                    addresses
                },
                experts: ready.iter().map(|c| c.id()).collect(),
                terms: inner.terms_of(&ready),
                labels: inner.config.labels().unwrap_or_default(),
            };
            sync.offer(offer, ready.clone()).await;
        }
        let keys: HashSet<Vec<u8>> = ready.iter().flat_map(|c| discover::keys(c)).collect();
        let all_taken = provide(&inner.net, &mut provided, &keys).await;
        tokio::select! {
            () = inner.cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = pauses.changed() => if changed.is_err() { return },
            changed = telling.changed() => if changed.is_err() { return },
            changed = place.changed() => {
                if changed.is_err() {
                    return;
                }
                // Addresses are found out one by one; each change of an offer costs all others.
                // What is hosted is told at once.
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    _ = changes.changed() => {}
                    _ = pauses.changed() => {}
                }
            }
            () = tokio::time::sleep(PROVIDE_AGAIN), if !all_taken => {}
        }
    }
}

/// Provides exactly `keys` in the DHT; says whether it took all of them. What it did not take is
/// not in `provided` afterwards.
async fn provide(net: &Net, provided: &mut HashSet<Vec<u8>>, keys: &HashSet<Vec<u8>>) -> bool {
    // First what goes: the number of keys is bounded.
    let gone: Vec<_> = provided.difference(keys).cloned().collect();
    for key in gone {
        net.stop_providing(&key).await;
        provided.remove(&key);
    }
    let mut refused = None;
    for key in keys {
        if !provided.contains(key) {
            match net.provide(key).await {
                Ok(()) => {
                    provided.insert(key.clone());
                }
                Err(e) => refused = Some(e),
            }
        }
    }
    if let Some(e) = &refused {
        tracing::warn!("the DHT does not take every provider record: {e}; it is tried again");
    }
    refused.is_none()
}

impl Node {
    /// Writes down where the members are that are connected directly now.
    pub(crate) fn remember(&self) {
        let inner = &self.inner;
        let members = inner.net.peers().into_iter();
        for p in members.filter(|p| p.membership == Membership::Member) {
            if p.path != PathKind::Relayed {
                inner
                    .remembered
                    .met(p.peer, inner.net.known_addresses(&p.peer));
            }
        }
        if let Err(e) = inner.remembered.save() {
            tracing::debug!("the address book is not written: {e}");
        }
    }

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polymath_net::NetConfig;
    use polymath_types::{Genesis, NodeKey};

    use super::*;

    #[test]
    fn every_absent_author_gets_its_turn_however_many_are_dead() {
        let all: Vec<_> = (0..20).map(|_| PeerId::random()).collect();
        let mut turns = Turns::default();
        for lap in 0..3 {
            let mut dialled = HashSet::new();
            for _ in 0..3 {
                let round = turns.next(all.clone());
                assert!(round.len() <= A_ROUND);
                dialled.extend(round);
            }
            assert_eq!(dialled.len(), all.len(), "lap {lap}");
        }
        // Who was connected meanwhile and is lost again in the same lap is not forgotten for ever.
        turns.next(all.clone());
        assert_eq!(turns.next(vec![all[0]]), [all[0]]);
        assert!(turns.next(Vec::new()).is_empty());
    }

    #[test]
    fn pauses_differ_by_no_more_than_a_quarter() {
        let pause = Duration::from_secs(4);
        assert_eq!(jittered(pause, [0]), Duration::from_secs(3));
        assert!(jittered(pause, [255]) < Duration::from_secs(5));
        assert!(jittered(pause, [255]) > Duration::from_millis(4900));
    }

    #[test]
    fn only_a_connection_that_lasted_is_redialled_at_once() {
        let mut backoff = Backoff::default();
        // Whoever opens and breaks at once is dialled ever more seldom, and no two at once.
        let pauses: Vec<_> = (0..9)
            .map(|_| backoff.after_loss(Duration::ZERO, [128]))
            .collect();
        assert!(pauses.is_sorted() && pauses[0] <= FIRST_PAUSE, "{pauses:?}");
        assert_eq!(pauses[8], LONGEST_PAUSE);
        let others = backoff.after_loss(Duration::ZERO, [0]);
        assert!(others < pauses[8], "{others:?}");
        // One that lasted begins anew, and yet not all do in the same moment.
        let first = backoff.after_loss(STEADY, [0]);
        let last = backoff.after_loss(STEADY, [255]);
        assert!(first < last && last < Duration::from_secs(1), "{last:?}");
        assert_eq!(backoff.again([128]), FIRST_PAUSE);
    }

    #[tokio::test]
    async fn a_key_that_the_dht_did_not_take_is_provided_later() {
        let key = NodeKey::generate();
        let genesis = Genesis::new("keys", &key.keypair().public()).unwrap();
        let mut config = NetConfig::new(key, genesis, Vec::new());
        config.limits.provided_keys = 1;
        let net = Net::start(config).await.unwrap();
        let keys = |names: &[&str]| -> HashSet<Vec<u8>> {
            names.iter().map(|n| n.as_bytes().to_vec()).collect()
        };
        let mut provided = HashSet::new();
        assert!(!provide(&net, &mut provided, &keys(&["a", "b"])).await);
        assert_eq!(provided.len(), 1);
        // With the other gone there is room; the same call in place of a retry.
        let missing = &keys(&["a", "b"]) - &provided;
        assert!(provide(&net, &mut provided, &missing).await);
        assert_eq!(provided, missing);
        net.shutdown().await;
    }
}
