//! Who is asked, in which order.

use std::{sync::Arc, time::Duration};

use polymath_router::{
    Descriptor, Descriptors, Features, Outcome, PeerState, Reach, Request, Router, RouterConfig,
    Served,
};
use polymath_types::{
    Constraints, ErrorKind, ExpertCard, ExpertId, ExpertKind, Index, Message, PathKind, PeerId,
    PeerOffer, Query, RequestId, SamplingOverrides,
};

use super::REPLICAS;
use crate::{
    Fault, actors,
    chance::{Chance, For},
};

/// A way to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Random,
    Router,
    Oracle,
}

impl Policy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Router => "router",
            Self::Oracle => "oracle least-expected",
        }
    }
}

/// The asking node: its router, and what it was told of the mesh.
pub(super) struct Asker {
    router: Router,
    index: Index,
    descriptors: Descriptors,
    features: Features,
    query: Query,
    peers: Vec<PeerId>,
    wanted: ExpertId,
    other: ExpertId,
}

impl Asker {
    pub(super) fn new(chance: Chance, seed: u64, timeout: Duration) -> Result<Self, Fault> {
        let mut peers = Vec::new();
        for n in 0..=REPLICAS {
            peers.push(actors::key(chance, n)?.peer_id());
        }
        let cards: [Arc<ExpertCard>; 2] = ["chef", "coder"].map(actors::card);
        let [wanted, other] = [&cards[0], &cards[1]].map(|c| c.id());
        let subjects = [(wanted, [1.0, 0.0]), (other, [0.0, 1.0])];
        let mut descriptors = Descriptors::default();
        for (id, v) in subjects {
            descriptors.insert(id, Descriptor::new(&v, &[v.to_vec()]));
        }
        let offers = peers.iter().enumerate().map(|(n, peer)| {
            let offer = PeerOffer {
                addresses: Vec::new(),
                agent: "polymath/meshsim".into(),
                sequence: 1,
                epoch: 1,
                experts: vec![if n < REPLICAS { wanted } else { other }],
                ..PeerOffer::default()
            };
            (*peer, offer)
        });
        let index = Index::build(offers, |id| cards.iter().find(|c| c.id() == *id).cloned());
        Ok(Self {
            router: Router::new(RouterConfig::default(), seed),
            index,
            descriptors,
            features: Features {
                encoder: "two-subjects".into(),
                vector: vec![0.995, 0.1],
                prompt_tokens: 16,
                language: None,
                ..Features::default()
            },
            query: Query {
                id: RequestId::from_random([0; 8]),
                kind: ExpertKind::Generate,
                messages: vec![Message::user("How long do I boil an egg?")],
                labels: Vec::new(),
                sampling: SamplingOverrides {
                    max_tokens: Some(super::world::TOKENS),
                    ..SamplingOverrides::default()
                },
                constraints: Constraints {
                    timeout,
                    ..Constraints::default()
                },
            },
            peers,
            wanted,
            other,
        })
    }

    /// The router's order. `reached` tells of a peer whether it is connected, and its round trip.
    pub(super) fn routed(
        &mut self,
        now: Duration,
        reached: &dyn Fn(usize) -> (bool, Duration),
    ) -> Vec<usize> {
        let peers = &self.peers;
        let place = |peer: &PeerId| peers.iter().position(|p| p == peer);
        let state = |peer: &PeerId| {
            let (connected, rtt) = place(peer).map_or((false, Duration::ZERO), reached);
            PeerState {
                own: false,
                reach: if connected {
                    Reach::Connected {
                        path: PathKind::Direct,
                    }
                } else {
                    Reach::Known
                },
                rtt: connected.then_some(rtt),
                // As in the daemon, which learns the load of others from trailers only.
                load: None,
            }
        };
        let request = Request {
            query: &self.query,
            features: &self.features,
            explore: false,
        };
        let descriptors = &self.descriptors;
        let decision = self
            .router
            .decide(now, &request, &self.index, descriptors, &state);
        let candidates = decision.candidates.iter();
        candidates.filter_map(|c| place(&c.peer)).collect()
    }

    /// Any order, those connected first.
    pub(super) fn shuffled(
        chance: Chance,
        query: usize,
        reached: &dyn Fn(usize) -> (bool, Duration),
    ) -> Vec<usize> {
        let mut order = chance.shuffled(REPLICAS, For::Order, &[query as u64]);
        order.sort_by_key(|n| !reached(*n).0);
        order
    }

    pub(super) fn started(&mut self, now: Duration, replica: usize) {
        let expert = self.expert(replica);
        self.router.started(now, expert, self.peers[replica]);
    }

    pub(super) fn ended(
        &mut self,
        now: Duration,
        replica: usize,
        result: Result<Served, ErrorKind>,
    ) {
        let outcome = Outcome {
            expert: self.expert(replica),
            peer: self.peers[replica],
            result,
        };
        self.router.observe(now, &outcome);
    }

    fn expert(&self, replica: usize) -> ExpertId {
        if replica < REPLICAS {
            self.wanted
        } else {
            self.other
        }
    }
}
