//! The DHT: who gets into the routing table, look-ups, and keeping this node's own keys announced.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::Ipv6Addr,
};

use libp2p::{
    Multiaddr, PeerId,
    core::Endpoint,
    kad::{self, GetProvidersOk, QueryId, QueryResult, RecordKey},
    swarm::{ConnectionId, NetworkBehaviour},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Manager, answer, table::Standing};
use crate::{
    address::{scope_of, split_peer},
    config::{MAX_PROVIDERS, Role},
    error::DhtError,
    provider_store::ADDRESSES,
    report::Scope,
    sources::source_of,
    vetting::vet,
};

/// Announcements under way at once; a node may provide a thousand keys.
const ANNOUNCING: usize = 16;
/// While the routing table is this small, every newcomer should hold our records.
const SMALL_TABLE: usize = 20;
/// Newcomers within this time share one round of announcements; the next gathers four times as long.
/// A round asks a good part of a small mesh: one for each newcomer would keep everybody busy.
const GATHER: std::time::Duration = std::time::Duration::from_millis(500);
/// How often strangers' expired records are dropped; a look through all of them takes milliseconds.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(60);
/// A search ends after this, see [`is_enough`].
const SEARCH: std::time::Duration = std::time::Duration::from_secs(4);
/// Peers that have to answer when a node looks for its own neighbours, and for peers of one bucket.
const NEAREST: u32 = 20;
const REFRESH: u32 = 4;
/// A key whose announcement failed is announced again after this; at once would keep a mesh busy that
/// fails for being busy.
const RETRY: std::time::Duration = std::time::Duration::from_secs(30);
/// Most addresses of one peer in the routing table; they travel in every reply.
const ROUTED_ADDRESSES: usize = 8;

#[derive(Default)]
pub(super) struct Dht {
    /// Members in the routing table.
    routed: HashSet<PeerId>,
    queries: HashMap<QueryId, Query>,
    provided: HashSet<RecordKey>,
    /// Keys to announce, in turn; each of `provided` at most once.
    to_announce: VecDeque<RecordKey>,
    announcing: HashSet<QueryId>,
    /// Keys that could not be announced, and when each is tried again.
    failed: VecDeque<(Instant, RecordKey)>,
    /// When everything is to be announced again.
    announce_all: Option<Instant>,
    /// Rounds of that so far, since the table was last empty.
    rounds: u32,
    /// When strangers' expired records were last dropped.
    swept: Option<Instant>,
}

/// A look-up somebody waits for.
enum Query {
    Peer {
        peer: PeerId,
        reply: Option<oneshot::Sender<bool>>,
    },
    Providers {
        key: RecordKey,
        found: mpsc::Sender<PeerId>,
        seen: HashSet<PeerId>,
    },
}

/// Whether a search of kad's has found what it can be expected to find.
///
/// An announcement tells those it has found when its search ends; kad would search on until the whole query
/// times out, and then tell nobody. Looking around asks eighty peers for each bucket of the routing table,
/// the most of a mesh of hundreds for every node that joins; the nearest twenty are worth that, and a few
/// in each other bucket.
fn is_enough(query: &kad::QueryInfo, stats: &kad::QueryStats) -> bool {
    match query {
        kad::QueryInfo::AddProvider {
            phase: kad::AddProviderPhase::GetClosestPeers,
            ..
        } => stats.duration().is_some_and(|d| d > SEARCH),
        kad::QueryInfo::Bootstrap { remaining, .. } => {
            let enough = if remaining.is_none() {
                NEAREST
            } else {
                REFRESH
            };
            stats.num_successes() >= enough || stats.duration().is_some_and(|d| d > SEARCH)
        }
        _ => false,
    }
}

impl Manager {
    /// Answers for the DHT if this node may and can.
    pub(super) fn serve_dht(&mut self, could: bool) {
        let serve = could && self.role == Role::Server;
        self.dht_server = serve;
        let mode = if serve {
            kad::Mode::Server
        } else {
            kad::Mode::Client
        };
        let kad = &mut self.swarm.behaviour_mut().kad;
        // Kad must be told even if the mode stays, or it goes on to choose for itself.
        kad.set_mode(Some(mode));
    }

    /// Lets a member into the routing table if it serves the DHT where it can be dialled, and out if
    /// it does not.
    pub(super) fn route_told(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer) else {
            return;
        };
        let mut addresses = known.dialable();
        // Others are told of them: what only this machine or network can dial is for want of better.
        if addresses.iter().any(|a| scope_of(a) == Scope::Global) {
            addresses.retain(|a| scope_of(a) == Scope::Global);
        }
        if !known.serves_dht || addresses.is_empty() {
            return self.unroute(&peer);
        }
        let told = &addresses[..addresses.len().min(ROUTED_ADDRESSES)];
        let kad = &mut self.swarm.behaviour_mut().kad;
        for address in told {
            kad.add_address(&peer, address.clone());
        }
        // Kad only ever adds: without this a peer could fill memory with new ones.
        let known = kad.kbucket(peer).into_iter().flat_map(|bucket| {
            let entry = bucket.iter().find(|e| *e.node.key.preimage() == peer);
            let known = entry.map(|e| e.node.value.clone().into_vec());
            known.unwrap_or_default()
        });
        let known: Vec<_> = known.collect();
        for address in known {
            if !told.contains(&split_peer(address.clone()).0) {
                kad.remove_address(&peer, &address);
            }
        }
    }

    /// Members in the routing table.
    pub(super) fn routed(&self) -> usize {
        self.dht.routed.len()
    }

    pub(super) fn unroute(&mut self, peer: &PeerId) {
        self.dht.routed.remove(peer);
        self.swarm.behaviour_mut().kad.remove_peer(peer);
    }

    /// A peer is gone. What is told to others should be alive, and look-ups should begin with those
    /// who answer at once: it leaves the table, unless that would become too small to find back by.
    pub(super) fn route_lost(&mut self, peer: &PeerId) {
        if self.dht.routed.len() > SMALL_TABLE {
            self.unroute(peer);
        }
    }

    pub(super) fn provide(&mut self, key: RecordKey, reply: oneshot::Sender<Result<(), DhtError>>) {
        let limit = self.shared.limits.provided_keys;
        if !self.dht.provided.contains(&key) && self.dht.provided.len() >= limit {
            return answer(reply, Err(DhtError::TooManyKeys(limit)));
        }
        self.dht.provided.insert(key.clone());
        if !self.dht.to_announce.contains(&key) {
            self.dht.to_announce.push_back(key);
        }
        self.announce_some();
        answer(reply, Ok(()));
    }

    pub(super) fn stop_providing(&mut self, key: &RecordKey) {
        self.dht.provided.remove(key);
        self.dht.to_announce.retain(|k| k != key);
        self.swarm.behaviour_mut().kad.stop_providing(key);
    }

    pub(super) fn find_providers(
        &mut self,
        key: RecordKey,
        found: mpsc::Sender<PeerId>,
        reply: oneshot::Sender<Result<(), DhtError>>,
    ) {
        let limit = self.shared.limits.queries;
        if self.dht.queries.len() >= limit {
            self.shared.counters.callers_refused.up();
            return answer(reply, Err(DhtError::TooManyQueries(limit)));
        }
        let id = self.swarm.behaviour_mut().kad.get_providers(key.clone());
        self.dht.queries.insert(
            id,
            Query::Providers {
                key,
                found,
                seen: HashSet::new(),
            },
        );
        answer(reply, Ok(()));
    }

    pub(super) fn find(&mut self, peer: PeerId, reply: oneshot::Sender<bool>) {
        if self.dht.queries.len() >= self.shared.limits.queries {
            self.shared.counters.callers_refused.up();
            return answer(reply, false);
        }
        let id = self.swarm.behaviour_mut().kad.get_closest_peers(peer);
        self.dht.queries.insert(
            id,
            Query::Peer {
                peer,
                reply: Some(reply),
            },
        );
    }

    pub(super) fn on_kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id,
                result,
                step,
                stats,
            } => {
                if step.last {
                    self.shared.counters.dht_queries.up();
                    let requests = stats.num_requests().into();
                    self.shared.counters.dht_requests.add(requests);
                }
                self.on_query(id, result, step.last);
            }
            kad::Event::RoutingUpdated {
                peer,
                is_new_peer,
                old_peer,
                ..
            } => {
                if let Some(old) = old_peer {
                    self.dht.routed.remove(&old);
                }
                if is_new_peer {
                    self.on_newcomer(peer);
                }
            }
            kad::Event::InboundRequest {
                request:
                    kad::InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } => self.on_record(record),
            _ => {}
        }
    }

    /// A peer announces that it provides a key. Kad has made sure that it speaks for itself.
    fn on_record(&mut self, mut record: kad::ProviderRecord) {
        let provider = record.provider;
        let Some(peer) = self.peers.get(&provider) else {
            return;
        };
        if matches!(peer.standing, Standing::Foreign { .. }) {
            return;
        }
        let source = peer
            .connections
            .iter()
            .find_map(|c| source_of(&c.link.remote));
        let source = source.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        let told = record.addresses.drain(..).map(|a| split_peer(a).0);
        let told: Vec<_> = told.collect();
        let distance = self.distance(&provider);
        record.addresses = vet(told, distance, ADDRESSES, &self.shared.counters);
        let store = self.swarm.behaviour_mut().kad.store_mut();
        if let Err(refusal) = store.keep(record, source, Instant::now().into_std()) {
            tracing::debug!(peer = %provider, "a provider record is not kept: {refusal}");
        }
    }

    /// What was announced before anybody was there must reach the first peer at once, and later
    /// ones soon; once the table is full the periodic renewal does.
    fn on_newcomer(&mut self, peer: PeerId) {
        let before = self.dht.routed.len();
        self.dht.routed.insert(peer);
        let now = Instant::now();
        if before == 0 {
            self.dht.rounds = 0;
            self.announce_everything();
        } else if before < SMALL_TABLE && self.dht.announce_all.is_none() {
            // Up to about as long as the periodic renewal takes.
            let gather = GATHER * 4u32.pow(self.dht.rounds.min(5));
            self.dht.rounds += 1;
            self.dht.announce_all = Some(now + gather);
        }
    }

    fn announce_everything(&mut self) {
        self.dht.announce_all = None;
        self.dht.to_announce = self.dht.provided.iter().cloned().collect();
        self.announce_some();
    }

    /// Out of turn, unless it is no longer provided or waits for its turn already.
    fn announce_again(&mut self, key: RecordKey) {
        if self.dht.provided.contains(&key) && !self.dht.to_announce.contains(&key) {
            self.dht.to_announce.push_back(key);
        }
    }

    fn announce_failed(&mut self, now: Instant) {
        while let Some((due, _)) = self.dht.failed.front()
            && *due <= now
            && let Some((_, key)) = self.dht.failed.pop_front()
        {
            self.announce_again(key);
        }
        self.announce_some();
    }

    /// Ends what kad would pursue for longer than it is worth: see [`is_enough`].
    fn end_long_searches(&mut self) {
        for mut query in self.swarm.behaviour_mut().kad.iter_queries_mut() {
            if is_enough(query.info(), query.stats()) {
                query.finish();
            }
        }
    }

    fn announce_some(&mut self) {
        while self.dht.announcing.len() < ANNOUNCING {
            let Some(key) = self.dht.to_announce.pop_front() else {
                return;
            };
            match self.swarm.behaviour_mut().kad.start_providing(key) {
                Ok(id) => {
                    self.dht.announcing.insert(id);
                }
                Err(error) => tracing::warn!(%error, "a key could not be announced"),
            }
        }
    }

    fn on_query(&mut self, id: QueryId, result: QueryResult, last: bool) {
        match result {
            QueryResult::StartProviding(result) => {
                self.dht.announcing.remove(&id);
                if let Err(error) = result {
                    tracing::debug!(%error, "a key was not announced");
                    self.shared.counters.announcements_failed.up();
                    let failed = (Instant::now() + RETRY, error.into_key());
                    self.dht.failed.push_back(failed);
                }
                self.announce_some();
            }
            QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                self.on_providers(id, providers);
            }
            QueryResult::GetClosestPeers(result) => {
                let peers = match result {
                    Ok(ok) => ok.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                self.on_closest(id, peers);
            }
            _ => {}
        }
        if last {
            // Dropping the query closes its channel: the asker sees the end.
            self.dht.queries.remove(&id);
        }
    }

    fn on_providers(&mut self, id: QueryId, providers: HashSet<PeerId>) {
        let Some(Query::Providers {
            key,
            found,
            mut seen,
        }) = self.dht.queries.remove(&id)
        else {
            return;
        };
        let mut full = false;
        for peer in providers {
            let unwanted = peer == self.shared.local || self.shared.shut_out.contains(&peer);
            if unwanted || full || !seen.insert(peer) {
                continue;
            }
            let mut addresses = self.dht_addresses(peer);
            addresses.extend(
                self.swarm
                    .behaviour_mut()
                    .kad
                    .store_mut()
                    .addresses(&key, &peer),
            );
            self.shared.learn(peer, addresses);
            full = found.try_send(peer).is_err() || seen.len() >= MAX_PROVIDERS;
        }
        if full {
            self.finish(id);
        } else {
            self.dht
                .queries
                .insert(id, Query::Providers { key, found, seen });
        }
    }

    fn on_closest(&mut self, id: QueryId, peers: Vec<kad::PeerInfo>) {
        let Some(Query::Peer {
            peer,
            reply: Some(reply),
        }) = self.dht.queries.remove(&id)
        else {
            return;
        };
        if let Some(info) = peers.into_iter().find(|p| p.peer_id == peer) {
            self.shared.learn(peer, info.addrs);
        }
        let known = self.peers.contains_key(&peer) || !self.shared.addresses(&peer).is_empty();
        answer(reply, known);
    }

    /// Addresses the routing table and the queries under way know of a peer. Kad tells them to
    /// nobody but dials: its events name providers without their addresses, and forget what a
    /// finished query had learnt.
    pub(super) fn dht_addresses(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        self.swarm
            .behaviour_mut()
            .kad
            .handle_pending_outbound_connection(
                ConnectionId::new_unchecked(0),
                Some(peer),
                &[],
                Endpoint::Dialer,
            )
            .unwrap_or_default()
    }

    fn finish(&mut self, id: QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
            query.finish();
        }
    }

    pub(super) fn keep_dht(&mut self, now: Instant) {
        if self.dht.announce_all.is_some_and(|due| due <= now) {
            self.announce_everything();
        }
        if now - *self.dht.swept.get_or_insert(now) >= SWEEP {
            self.dht.swept = Some(now);
            self.swarm
                .behaviour_mut()
                .kad
                .store_mut()
                .sweep(now.into_std());
        }
        self.end_long_searches();
        self.announce_failed(now);
        self.end_abandoned_queries();
        self.answer_known_addresses();
    }

    /// Nobody waits for them any more.
    pub(super) fn end_abandoned_queries(&mut self) {
        let abandoned = |query: &Query| match query {
            Query::Providers { found, .. } => found.is_closed(),
            Query::Peer { reply, .. } => reply.as_ref().is_none_or(oneshot::Sender::is_closed),
        };
        let queries = self.dht.queries.extract_if(|_, query| abandoned(query));
        let over: Vec<_> = queries.map(|(id, _)| id).collect();
        for id in over {
            self.finish(id);
        }
    }

    /// No need to ask the rest of the closest peers once one has told the address.
    fn answer_known_addresses(&mut self) {
        let wanted = |(id, query): (&QueryId, &Query)| match query {
            Query::Peer { peer, .. } => Some((*id, *peer)),
            Query::Providers { .. } => None,
        };
        let wanted: Vec<_> = self.dht.queries.iter().filter_map(wanted).collect();
        for (id, peer) in wanted {
            let addresses = self.dht_addresses(peer);
            if addresses.is_empty() && !self.peers.contains_key(&peer) {
                continue;
            }
            self.shared.learn(peer, addresses);
            if let Some(Query::Peer {
                reply: Some(reply), ..
            }) = self.dht.queries.remove(&id)
            {
                answer(reply, true);
            }
            self.finish(id);
        }
    }
}
