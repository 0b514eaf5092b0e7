//! What holds for every decision, whatever is thrown at it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use polymath_router::{
    Decision, Descriptor, Descriptors, Features, Outcome, PeerState, Reach, Request, Router,
    RouterConfig, Served,
};
use polymath_types::{
    ErrorKind, ExpertCard, ExpertId, ExpertKind, Index, LabelSet, LoadReport, PathKind, PeerId,
    Query,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::scene::{card, offer, peer, query};

pub(crate) const PEERS: u8 = 6;

fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -1.0f32..1.0,
        1 => select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 0.0]),
    ]
}

prop_compose! {
    pub(crate) fn expert()(
        name in select(vec!["a", "b", "chef", "coder", "mini"]),
        kind in select(ExpertKind::ALL.to_vec()),
        context in select(vec![0u32, 1, 64, 4096, u32::MAX]),
        languages in vec(select(vec!["de", "en"]), 0..2),
        open in any::<bool>(),
        peers in vec(0..PEERS, 0..8),
        described in option::of(vec(number(), 0..5)),
        examples in vec(vec(number(), 0..5), 0..4),
    ) -> (ExpertCard, Vec<u8>, Option<Descriptor>) {
        let mut card = card(name, kind);
        card.model.context_length = context;
        card.languages = languages.into_iter().map(str::to_owned).collect();
        if kind == ExpertKind::Classify && !open {
            card.labels = LabelSet::Fixed(vec!["x".into()]);
        }
        let descriptor = described.map(|d| Descriptor::new(&d, &examples));
        (card, peers, descriptor)
    }
}

pub(crate) fn state() -> impl Strategy<Value = PeerState> {
    let reach = select(vec![
        Reach::Here,
        Reach::Known,
        Reach::Connected {
            path: PathKind::Direct,
        },
        Reach::Connected {
            path: PathKind::Relayed,
        },
        Reach::Unreachable { why: "gone".into() },
    ]);
    let load = option::of((any::<u32>(), any::<u32>(), any::<u32>()));
    (reach, option::of(any::<u64>()), load).prop_map(|(reach, rtt, load)| PeerState {
        own: false,
        reach,
        rtt: rtt.map(Duration::from_nanos),
        load: load.map(|(queue_depth, active, free_slots)| LoadReport {
            queue_depth,
            active,
            free_slots,
            ..LoadReport::default()
        }),
    })
}

#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) kind: ExpertKind,
    pub(crate) model: Option<String>,
    pub(crate) peer: Option<u8>,
    pub(crate) exclude: Vec<u8>,
    pub(crate) labels: bool,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) features: Features,
}

prop_compose! {
    pub(crate) fn wish()(
        kind in select(ExpertKind::ALL.to_vec()),
        model in option::weighted(0.3, select(vec!["a", "chef", "chef-model", "mini-model", "", "nobody", "ümläut"])),
        peer in option::weighted(0.2, 0..PEERS + 1),
        exclude in vec(0..PEERS, 0..3),
        labels in any::<bool>(),
        max_tokens in option::of(select(vec![0u32, 1, 60, u32::MAX])),
        vector in vec(number(), 0..5),
        prompt_tokens in select(vec![0u32, 10, 5000, u32::MAX]),
        language in option::of(select(vec!["de", "EN", "xx"])),
    ) -> Wish {
        let language = language.map(str::to_owned);
        let features = Features { encoder: "random".into(), vector, prompt_tokens, language, ..Features::default() };
        Wish { kind, model: model.map(str::to_owned), peer, exclude, labels, max_tokens, features }
    }
}

impl Wish {
    pub(crate) fn query(&self) -> Query {
        let mut query = query(self.kind);
        query.constraints.model = self.model.clone();
        query.constraints.peer = self.peer.map(peer);
        query.constraints.exclude = self.exclude.iter().copied().map(peer).collect();
        query.sampling.max_tokens = self.max_tokens;
        if self.labels {
            query.labels = vec!["x".into(), "y".into()];
        }
        query
    }
}

/// What happened before: which call, how it ended, how long after the one before.
type Past = (usize, u8, Option<u8>, u16, u16);

pub(crate) struct World {
    pub(crate) index: Index,
    pub(crate) vectors: Descriptors,
    pub(crate) states: HashMap<PeerId, PeerState>,
}

pub(crate) fn world(
    experts: &[(ExpertCard, Vec<u8>, Option<Descriptor>)],
    states: &[PeerState],
) -> World {
    let mut offers: BTreeMap<PeerId, Vec<ExpertId>> = BTreeMap::new();
    let mut cards = HashMap::new();
    let mut vectors = Descriptors::default();
    for (card, peers, descriptor) in experts {
        cards.insert(card.id(), Arc::new(card.clone()));
        if let Some(d) = descriptor {
            vectors.insert(card.id(), Arc::new(d.clone()));
        }
        for n in peers {
            offers.entry(peer(*n)).or_default().push(card.id());
        }
    }
    let offers = offers.into_iter().map(|(p, e)| (p, offer(e)));
    World {
        index: Index::build(offers, |id| cards.get(id).cloned()),
        vectors,
        states: states
            .iter()
            .enumerate()
            .map(|(n, s)| (peer(n as u8), s.clone()))
            .collect(),
    }
}

fn run(world: &World, wish: &Wish, past: &[Past], config: &RouterConfig) -> Vec<Decision> {
    let query = wish.query();
    let request = Request {
        query: &query,
        features: &wish.features,
        explore: false,
    };
    let mut router = Router::new(config.clone(), 3);
    let mut now = Duration::ZERO;
    let ids: Vec<ExpertId> = world.index.experts().map(|e| e.id).collect();
    let mut decisions = Vec::new();
    for (which, n, error, ms, pause) in past.iter().copied().chain([(0, 0, None, 0, 0)]) {
        decisions.push(
            router.decide(now, &request, &world.index, &world.vectors, &|p| {
                world.states[p].clone()
            }),
        );
        if let Some(expert) = ids.get(which % ids.len().max(1)).copied() {
            let peer = peer(n);
            let ms = Duration::from_millis(ms.into());
            let result = match error {
                Some(e) => Err(ErrorKind::ALL[usize::from(e) % ErrorKind::ALL.len()]),
                None => Ok(Served {
                    ttft: ms,
                    tokens: u32::from(n),
                    decode: ms,
                }),
            };
            router.started(now, expert, peer);
            if pause % 5 != 0 {
                router.observe(
                    now,
                    &Outcome {
                        expert,
                        peer,
                        result,
                    },
                );
            }
        }
        now += Duration::from_millis(pause.into());
    }
    decisions
}

fn check(d: &Decision, world: &World, wish: &Wish, config: &RouterConfig) {
    assert_eq!(d.candidates.is_empty(), d.failure().is_some());
    assert!(!d.reason.is_empty() && !d.reason.contains('\n'));
    assert!(d.candidates.len() <= config.max_candidates);
    assert!(d.excluded.len() <= config.max_excluded);
    let counted: usize = d.excluded_counts.iter().map(|(_, n)| n).sum();
    assert!(d.excluded.len() <= counted);

    let mut seen = HashSet::new();
    for c in &d.candidates {
        assert!(seen.insert((c.expert, c.peer)), "once each");
        assert!(
            c.score.is_finite() && c.cost.is_finite() && c.cost >= 0.0,
            "{c:?}"
        );
        let expert = world.index.expert(&c.expert).expect("is in the index");
        assert!(expert.replicas.iter().any(|r| r.peer == c.peer));
        assert_eq!(expert.card.kind, wish.kind);
        if let Some(name) = &wish.model {
            assert!(Index::names(expert, name));
        }
        assert!(wish.peer.is_none_or(|n| peer(n) == c.peer));
        assert!(!wish.exclude.iter().any(|n| peer(*n) == c.peer));
        assert!(!matches!(
            world.states[&c.peer].reach,
            Reach::Unreachable { .. }
        ));
        match &expert.card.labels {
            LabelSet::Open => assert!(wish.labels),
            LabelSet::Fixed(_) => assert!(!wish.labels),
            LabelSet::None => {}
        }
        let shut = d
            .excluded
            .iter()
            .any(|e| e.expert == c.expert && e.peer.is_none_or(|p| p == c.peer));
        assert!(!shut, "both candidate and excluded: {c:?}");
    }
    if wish.kind == ExpertKind::Embed {
        assert!(
            d.candidates
                .windows(2)
                .all(|w| w[0].weights == w[1].weights),
            "one vector space"
        );
    }
    // Replicas of one expert stand together; experts by the score of their first.
    let groups: Vec<_> = d.candidates.chunk_by(|a, b| a.expert == b.expert).collect();
    let distinct: HashSet<_> = d.candidates.iter().map(|c| c.expert).collect();
    assert_eq!(groups.len(), distinct.len());
    for w in groups.windows(2) {
        assert!(w[0][0].score >= w[1][0].score - 1e-9);
        // A difference of content beyond the margin is never overturned.
        let content = |g: &[polymath_router::Candidate]| {
            g[0].terms[..3]
                .iter()
                .map(|t| t.value * t.weight)
                .sum::<f64>()
        };
        assert!(content(w[0]) >= content(w[1]) - config.near_tie() - 1e-9);
    }
    for group in groups {
        assert!(group.len() <= config.max_replicas);
        assert!(
            group
                .windows(2)
                .all(|w| w[0].cost <= w[1].cost * 1.1 + 1e-5),
            "by expected time"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_decision_is_lawful_and_repeatable(
        experts in vec(expert(), 0..12),
        states in vec(state(), usize::from(PEERS)),
        wish in wish(),
        past in vec((any::<usize>(), 0..PEERS, option::of(any::<u8>()), any::<u16>(), any::<u16>()), 0..12),
        shortlist in select(vec![1usize, 3, 256]),
        max_excluded in select(vec![0usize, 2, 64]),
    ) {
        let world = world(&experts, &states);
        let config = RouterConfig { shortlist, max_excluded, ..RouterConfig::default() };
        let decisions = run(&world, &wish, &past, &config);
        for d in &decisions {
            check(d, &world, &wish, &config);
        }
        prop_assert_eq!(&decisions, &run(&world, &wish, &past, &config));
    }

    #[test]
    fn an_open_breaker_is_never_a_candidate(
        experts in vec(expert(), 1..8),
        states in vec(state(), usize::from(PEERS)),
        wish in wish(),
    ) {
        let world = world(&experts, &states);
        let mut router = Router::new(RouterConfig::default(), 3);
        let failed: Vec<_> = world.index.experts().flat_map(|e| e.replicas.iter().map(|r| (e.id, r.peer))).collect();
        for (expert, peer) in &failed {
            router.started(Duration::ZERO, *expert, *peer);
            router.observe(Duration::ZERO, &Outcome { expert: *expert, peer: *peer, result: Err(ErrorKind::Internal) });
        }
        let query = query(wish.kind);
        let request = Request { query: &query, features: &wish.features, explore: false };
        let d = router.decide(Duration::from_millis(500), &request, &world.index,
            &world.vectors, &|p| world.states[p].clone());
        prop_assert!(d.candidates.is_empty());
    }
}
