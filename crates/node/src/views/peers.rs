//! Every peer, how it is connected, and why it is not used if it is not.

use std::{cmp::Reverse, collections::BTreeMap, fmt, time::Duration};

use polymath_net::{Membership, OpenError, PeerInfo};
use polymath_proto::v1;
use polymath_rpc::ConnectError;
use polymath_types::{ErrorKind, ExpertId, Failure, PathKind, PeerId, PeerOffer};
use tokio::time::Instant;

use crate::{
    Node,
    doctor::{Place, Reachability, reachability},
    misses::{self, Miss},
    unused::{self, Known, Unused},
};

/// How long a peer that is neither connected nor known from the catalog is listed with its failure.
const REMEMBERED: Duration = Duration::from_secs(600);

impl Node {
    /// Every peer that is connected, offers something, or could not be reached lately: those in use
    /// first, then the other connected ones.
    pub fn peers(&self) -> v1::PeersResponse {
        let inner = &self.inner;
        let me = inner.net.local_peer();
        let (index, misses) = (self.index(), inner.misses.all());
        let own = self.place();
        let mut peers: BTreeMap<PeerId, v1::Peer> = BTreeMap::new();
        let mut known: BTreeMap<PeerId, Known<'_>> = BTreeMap::new();
        for p in inner.net.peers() {
            known.insert(p.peer, unknown(Some(p.membership)));
            peers.insert(p.peer, connected(&p));
        }
        for (id, offer) in index.peers().iter().filter(|(id, _)| **id != me) {
            let peer = peers.entry(*id).or_insert_with(|| absent(id));
            peer.experts = offer.experts.iter().map(|e| name(&index, e)).collect();
            if !peer.connected {
                peer.agent.clone_from(&offer.agent);
                peer.addresses.clone_from(&offer.addresses);
            }
            let known = known.entry(*id).or_insert_with(|| unknown(None));
            known.experts = offer.experts.len();
            known.left_alone = self.left_alone(id, offer);
            known.reach = Some(reachability(&own, &Place::told(&offer.addresses)));
        }
        for id in inner.live.gone() {
            peers.entry(id).or_insert_with(|| absent(&id));
            known.entry(id).or_insert_with(|| unknown(None));
        }
        for (target, miss) in &misses {
            let Ok(id) = target.parse::<PeerId>() else {
                continue;
            };
            if id != me && (peers.contains_key(&id) || miss.at.elapsed() < REMEMBERED) {
                peers.entry(id).or_insert_with(|| absent(&id));
                known.entry(id).or_insert_with(|| unknown(None)).miss = Some(miss);
            }
        }
        // Of whoever is known here by whatever way.
        for (id, known) in &mut known {
            known.doubt = inner.live.doubt(id);
        }
        let charter = self.charter();
        let mut peers: Vec<v1::Peer> = peers
            .into_iter()
            .map(|(id, peer)| match known.get(&id) {
                _ if charter.is_revoked(&id) => v1::Peer {
                    reason: Unused::Revoked.as_str().to_owned(),
                    detail: "shut out by the mesh's admins".to_owned(),
                    ..peer
                },
                Some(known) => explained(peer, known),
                None => peer,
            })
            .collect();
        peers.sort_by_key(|p| (Reverse(p.connected), !p.reason.is_empty(), p.id.clone()));
        v1::PeersResponse { peers }
    }

    /// This node's own place in the network.
    fn place(&self) -> Place {
        let net = &self.inner.net;
        Place::own(&net.report(), &net.listen_addrs().borrow())
    }

    /// Why the router asks none of the peer's experts now, if it does not.
    fn left_alone(&self, peer: &PeerId, offer: &PeerOffer) -> Option<String> {
        let (now, router) = (self.elapsed(), self.router());
        let mut whys = offer
            .experts
            .iter()
            .map(|e| router.left_alone(now, *e, *peer));
        let first = whys.next()??;
        whys.all(|why| why.is_some()).then_some(first)
    }

    /// A call to `peer` that found no connection, as a failure that says what stands between; it is
    /// remembered.
    pub(crate) fn unreached(&self, peer: PeerId, error: &ConnectError) -> Failure {
        let inner = &self.inner;
        let (reason, what) = match error {
            ConnectError::Open(OpenError::Dial(e)) => misses::told(e, inner.door.as_ref()),
            _ => (
                misses::of_call(error.kind()).unwrap_or(Unused::NotConnected),
                error.to_string(),
            ),
        };
        inner.misses.failed(peer, reason, &what);
        let kind = match error.kind() {
            ErrorKind::DeadlineExceeded => ErrorKind::Unavailable,
            kind => kind,
        };
        let message = match reason {
            Unused::NotConnected => self.why_unreached(&peer, error),
            _ => what,
        };
        Failure::new(kind, message)
    }

    /// What came of reaching for `peer`, on whose side that lies, and what helps.
    pub(crate) fn why_unreached(&self, peer: &PeerId, error: &impl fmt::Display) -> String {
        let inner = &self.inner;
        let connected = || inner.net.path_to(peer).is_some();
        match inner.index.load().peers().get(peer) {
            Some(offer) if !connected() => {
                let own = self.place();
                let Reachability { why, fix, .. } =
                    reachability(&own, &Place::told(&offer.addresses));
                format!("{error}; the peer {why}: {fix}")
            }
            _ => error.to_string(),
        }
    }
}

fn name(index: &polymath_types::Index, expert: &ExpertId) -> String {
    index
        .expert(expert)
        .map_or_else(|| expert.short(), |x| x.card.name.clone())
}

fn unknown(membership: Option<Membership>) -> Known<'static> {
    Known {
        membership,
        experts: 0,
        left_alone: None,
        doubt: None,
        miss: None,
        reach: None,
    }
}

fn absent(id: &PeerId) -> v1::Peer {
    v1::Peer {
        id: id.to_string(),
        ..v1::Peer::default()
    }
}

fn connected(p: &PeerInfo) -> v1::Peer {
    v1::Peer {
        id: p.peer.to_string(),
        connected: true,
        path: p.path.to_string(),
        transport: p.transport.to_string(),
        rtt_ms: p.rtt.map_or(0.0, |r| r.as_secs_f64() * 1e3),
        agent: p.agent.clone(),
        addresses: p.addresses.iter().map(ToString::to_string).collect(),
        received: p.received,
        sent: p.sent,
        age_ms: milliseconds(p.since.elapsed()),
        relay: p.relay.map(|r| r.to_string()).unwrap_or_default(),
        ..v1::Peer::default()
    }
}

/// With why it is not used, or by which detour it is.
fn explained(mut peer: v1::Peer, known: &Known<'_>) -> v1::Peer {
    if let Some(Miss { at, what, .. }) = known.miss {
        peer.last_failure.clone_from(what);
        peer.last_failure_age_ms = milliseconds(Instant::now().saturating_duration_since(*at));
    }
    if let Some((reason, detail)) = unused::why(known) {
        reason.as_str().clone_into(&mut peer.reason);
        peer.note = format!("not used: {detail}");
        peer.detail = detail;
    } else if peer.path == PathKind::Relayed.to_string() {
        peer.note = match peer.relay.as_str() {
            "" => "through a relay".to_owned(),
            relay => format!("through {relay}"),
        };
    }
    peer
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
