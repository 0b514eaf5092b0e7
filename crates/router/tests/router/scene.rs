//! A small mesh to decide in: three directions of vectors stand for three subjects.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use polymath_router::{
    Decision, Descriptor, Descriptors, Features, Outcome, PeerState, Reach, Request, Router,
    RouterConfig, Served,
};
use polymath_types::{
    ErrorKind, ExpertCard, ExpertId, ExpertKind, Index, Keypair, LabelSet, Message, Model,
    PathKind, PeerId, PeerOffer, Query, RequestId, Runtime, Sampling, SamplingOverrides,
};

pub(crate) const COOKING: [f32; 3] = [1.0, 0.0, 0.0];
pub(crate) const CODING: [f32; 3] = [0.0, 1.0, 0.0];

pub(crate) fn peer(n: u8) -> PeerId {
    Keypair::ed25519_from_bytes([n; 32])
        .unwrap()
        .public()
        .to_peer_id()
}

pub(crate) fn card(name: &str, kind: ExpertKind) -> ExpertCard {
    ExpertCard {
        version: 1,
        name: name.into(),
        kind,
        model: Model {
            name: format!("{name}-model"),
            runtime: Runtime::Trigram,
            files: Vec::new(),
            adapter: None,
            context_length: 0,
            dimensions: 0,
            licence: "MIT".into(),
        },
        system: None,
        sampling: Sampling::default(),
        description: String::new(),
        examples: Vec::new(),
        languages: Vec::new(),
        labels: if kind == ExpertKind::Classify {
            LabelSet::Open
        } else {
            LabelSet::None
        },
        capabilities: Vec::new(),
    }
}

pub(crate) fn generator(name: &str) -> ExpertCard {
    card(name, ExpertKind::Generate)
}

pub(crate) fn query(kind: ExpertKind) -> Query {
    Query {
        id: RequestId::from_random([0; 8]),
        kind,
        messages: vec![Message::user("How long do I boil an egg?")],
        labels: Vec::new(),
        sampling: SamplingOverrides::default(),
        constraints: Default::default(),
    }
}

pub(crate) struct Scene {
    pub(crate) router: Router,
    pub(crate) now: Duration,
    pub(crate) index: Index,
    pub(crate) vectors: Descriptors,
    pub(crate) peers: HashMap<PeerId, PeerState>,
    pub(crate) features: Features,
    offers: BTreeMap<PeerId, Vec<ExpertId>>,
    cards: HashMap<ExpertId, Arc<ExpertCard>>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(RouterConfig::default(), 7)
    }

    pub(crate) fn with(config: RouterConfig, seed: u64) -> Self {
        Self {
            router: Router::new(config, seed),
            now: Duration::from_secs(1000),
            index: Index::default(),
            vectors: Descriptors::default(),
            peers: HashMap::new(),
            features: Features {
                encoder: "three-subjects".into(),
                vector: vec![0.9, 0.3, 0.3],
                prompt_tokens: 10,
                language: None,
                ..Features::default()
            },
            offers: BTreeMap::new(),
            cards: HashMap::new(),
        }
    }

    /// Chef on peers 1 and 2, coder on peer 3.
    pub(crate) fn kitchen() -> (Self, ExpertId, ExpertId) {
        let mut scene = Self::new();
        let chef = scene.host(&generator("chef"), &[1, 2], Some(COOKING));
        let coder = scene.host(&generator("coder"), &[3], Some(CODING));
        (scene, chef, coder)
    }

    pub(crate) fn host(
        &mut self,
        card: &ExpertCard,
        peers: &[u8],
        subject: Option<[f32; 3]>,
    ) -> ExpertId {
        let id = card.id();
        self.cards.insert(id, Arc::new(card.clone()));
        for n in peers {
            self.offers.entry(peer(*n)).or_default().push(id);
            self.peers.insert(peer(*n), connected());
        }
        if let Some(subject) = subject {
            self.vectors
                .insert(id, Arc::new(Descriptor::new(&subject, &[subject.to_vec()])));
        }
        let offers = self
            .offers
            .iter()
            .map(|(p, experts)| (*p, offer(experts.clone())));
        self.index = Index::build(offers, |id| self.cards.get(id).cloned());
        id
    }

    pub(crate) fn decide(&mut self, query: &Query) -> Decision {
        self.decide_on(query, false)
    }

    pub(crate) fn explore(&mut self, query: &Query) -> Decision {
        self.decide_on(query, true)
    }

    fn decide_on(&mut self, query: &Query, explore: bool) -> Decision {
        let request = Request {
            query,
            features: &self.features,
            explore,
        };
        self.router
            .decide(self.now, &request, &self.index, &self.vectors, &|id| {
                self.peers.get(id).cloned().unwrap_or_else(connected)
            })
    }

    pub(crate) fn ask(&mut self) -> Decision {
        self.decide(&query(ExpertKind::Generate))
    }

    pub(crate) fn reach(&mut self, n: u8, reach: Reach) {
        self.peers.get_mut(&peer(n)).unwrap().reach = reach;
    }

    pub(crate) fn served(&mut self, expert: ExpertId, n: u8, ttft_ms: u64) {
        let served = Served {
            ttft: Duration::from_millis(ttft_ms),
            tokens: 11,
            decode: Duration::from_millis(100),
        };
        self.call(expert, n, Ok(served));
    }

    pub(crate) fn failed(&mut self, expert: ExpertId, n: u8, kind: ErrorKind) {
        self.call(expert, n, Err(kind));
    }

    fn call(&mut self, expert: ExpertId, n: u8, result: Result<Served, ErrorKind>) {
        self.router.started(self.now, expert, peer(n));
        self.router.observe(
            self.now,
            &Outcome {
                expert,
                peer: peer(n),
                result,
            },
        );
    }
}

pub(crate) fn connected() -> PeerState {
    PeerState {
        own: false,
        reach: Reach::Connected {
            path: PathKind::Direct,
        },
        rtt: None,
        load: None,
    }
}

pub(crate) fn offer(experts: Vec<ExpertId>) -> PeerOffer {
    PeerOffer {
        addresses: Vec::new(),
        agent: "test".into(),
        sequence: 1,
        epoch: 1,
        experts,
        ..PeerOffer::default()
    }
}

pub(crate) fn order(decision: &Decision) -> Vec<(&str, PeerId)> {
    decision
        .candidates
        .iter()
        .map(|c| (c.name.as_str(), c.peer))
        .collect()
}
