//! What a person may see of a running node.

mod counters;
mod peers;

use std::{fs, sync::PoisonError};

use polymath_net::Multiaddr;
use polymath_proto::v1;
use polymath_rpc as rpc;

use crate::{AGENT, Node, catalog::terms_to_proto, hosted::Listed, own_experts::state_name};

impl Node {
    /// Where this node is: what all are told first, then what it listens on.
    fn addresses(&self) -> Vec<Multiaddr> {
        let mut all = self.inner.net.announced().borrow().clone();
        let listened = self.inner.net.listen_addrs().borrow().clone();
        all.extend(
            listened
                .into_iter()
                .filter(|a| !all.contains(a))
                .collect::<Vec<_>>(),
        );
        all
    }

    /// The node at a glance.
    pub fn status(&self) -> v1::StatusResponse {
        let inner = &self.inner;
        let membership = inner
            .membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let me = inner.net.local_peer();
        v1::StatusResponse {
            peer: me.to_string(),
            mesh_id: inner.net.mesh().to_string(),
            mesh_name: membership.genesis.name().to_owned(),
            own_mesh: !membership.joined,
            addresses: self
                .addresses()
                .iter()
                .map(|a| format!("{a}/p2p/{me}"))
                .collect(),
            gateway: inner
                .gateway
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            home: inner.home.dir().display().to_string(),
            version: AGENT.to_owned(),
            uptime_ms: u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX),
            connected_peers: u32::try_from(inner.net.peers().len()).unwrap_or(u32::MAX),
            known_experts: u32::try_from(self.index().experts().count()).unwrap_or(u32::MAX),
            hosted: inner
                .service
                .hosted
                .listed()
                .into_iter()
                .map(
                    |Listed {
                         id,
                         card,
                         state,
                         manner,
                         ..
                     }| {
                        let (state, detail) = state_name(state, id.is_none());
                        v1::HostedExpert {
                            id: id.map(|id| id.to_string()).unwrap_or_default(),
                            name: card.name.clone(),
                            kind: card.kind.to_string(),
                            model: card.model.name.clone(),
                            state: state.to_owned(),
                            detail,
                            paused: manner.paused,
                        }
                    },
                )
                .collect(),
            rss_bytes: resident_bytes(),
            load: Some(rpc::load_to_proto(inner.service.load())),
            pid: std::process::id(),
            generated_tokens: inner.service.engine.generated_tokens(),
            mesh: Some(self.mesh_view()),
            counters: {
                let mut all = counters::named(&inner.net.counters());
                let refused = inner.service.gate.counters();
                all.extend(refused.map(|(name, n)| (name.to_owned(), n)));
                let live = inner.live.counters();
                let of_live = [
                    ("live_statuses", live.statuses),
                    ("live_suspicions", live.suspicions),
                    ("live_suspected", live.suspected),
                    ("live_published", live.published),
                    ("live_refused", live.refusals()),
                    ("live_bytes_sent", live.sent),
                    ("live_bytes_sent_relayed", live.sent_relayed),
                ];
                all.extend(of_live.map(|(name, n)| (name.to_owned(), n)));
                let of_rpc = [
                    ("lanes_refused", inner.admission.refused()),
                    ("calls_refused", inner.admission.calls_refused()),
                ];
                all.extend(of_rpc.map(|(name, n)| (name.to_owned(), n)));
                let hedges = self.router().hedges();
                let of_hedges = [
                    ("hedges_made", hedges.made),
                    ("hedges_won", hedges.won),
                    ("hedges_over_budget", hedges.over_budget),
                    ("hedges_pointless", hedges.pointless),
                ];
                all.extend(of_hedges.map(|(name, n)| (name.to_owned(), n)));
                all
            },
            serve: inner.config.serve.clone(),
            paused: self.is_paused(),
            limits: Some(self.limits()),
            catalog_trouble: inner.sync.trouble().unwrap_or_default(),
        }
    }

    /// What the operator allows, and what models take of it.
    fn limits(&self) -> v1::Limits {
        let limits = &self.inner.config.limits;
        v1::Limits {
            memory: limits.memory.bytes().unwrap_or(0),
            models: self.inner.service.engine.memory_taken(),
            concurrent: u32::try_from(limits.concurrent).unwrap_or(u32::MAX),
            upload: limits.upload.bytes().unwrap_or(0),
            disk: limits.disk.bytes().unwrap_or(0),
        }
    }

    /// Every expert of the mesh this node knows.
    pub fn experts(&self) -> v1::ExpertsResponse {
        let me = self.inner.net.local_peer();
        let experts = self
            .index()
            .experts()
            .map(|e| v1::ListedExpert {
                id: e.id.to_string(),
                name: e.card.name.clone(),
                kind: e.card.kind.to_string(),
                model: e.card.model.name.clone(),
                description: e.card.description.clone(),
                licence: e.card.model.licence.clone(),
                context_length: e.card.model.context_length,
                peers: e.replicas.iter().map(|r| r.peer.to_string()).collect(),
                hosted_here: e.replicas.iter().any(|r| r.peer == me),
                weights_id: e.card.model.weights_id().to_string(),
                cheapest: e.cheapest().map(|r| terms_to_proto(r.terms)),
            })
            .collect();
        v1::ExpertsResponse { experts }
    }
}

/// Resident set of this process in bytes, from `/proc`; 0 where there is none.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}
