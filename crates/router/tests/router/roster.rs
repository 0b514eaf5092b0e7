//! What the router keeps of an index finds whom looking at every card finds.

use std::{sync::Arc, time::Duration};

use polymath_router::{Descriptor, Descriptors, Outcome, Request, Router, RouterConfig, Served};
use polymath_types::{ErrorKind, ExpertCard, ExpertId, Index};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    laws::{PEERS, World, expert, state, wish, world},
    scene::{offer, peer, query},
};

/// A change of the mesh: which expert, which peer, and whether that peer begins to serve it; or the expert's
/// vectors come or go.
type Change = (usize, u8, u8);

fn change(
    world: &mut World,
    known: &[(ExpertCard, Vec<u8>, Option<Descriptor>)],
    (which, n, what): Change,
) {
    let Some((card, _, descriptor)) = known.get(which % known.len().max(1)) else {
        return;
    };
    let id = card.id();
    if what < 2 {
        let offered = world.index.peers().get(&peer(n));
        let mut experts: Vec<ExpertId> = offered.map(|o| o.experts.clone()).unwrap_or_default();
        experts.retain(|e| *e != id);
        if what == 0 {
            experts.push(id);
        }
        let cards = |wanted: &ExpertId| {
            let known = known.iter().find(|(card, ..)| card.id() == *wanted);
            known.map(|(card, ..)| Arc::new(card.clone()))
        };
        let offer = Arc::new(offer(experts));
        world.index.set_offer(peer(n), offer, cards);
    } else if let Some(descriptor) = descriptor.clone().filter(|_| what == 2) {
        world.vectors.insert(id, descriptor);
    } else {
        world.vectors.remove(&id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decisions_are_those_of_looking_at_every_card(
        experts in vec(expert(), 0..40),
        states in vec(state(), usize::from(PEERS)),
        steps in vec(
            (wish(), vec((any::<usize>(), 0..PEERS, 0u8..4), 0..4), vec(0..PEERS + 1, 0..2), option::of(any::<u8>()), any::<bool>()),
            1..8,
        ),
        shortlist in select(vec![1usize, 2, 3, 5, 256]),
        max_excluded in select(vec![0usize, 1, 2, 64]),
    ) {
        let mut world = world(&experts, &states);
        let config = RouterConfig { shortlist, max_excluded, ..RouterConfig::default() };
        let mut by_roster = Router::new(config.clone(), 3);
        let mut by_walk = Router::new(config, 3);
        let mut now = Duration::ZERO;
        for (mut wish, changes, allowed, ended, encoded) in steps {
            for one in changes {
                change(&mut world, &experts, one);
            }
            let mut query = wish.query();
            query.constraints.allow = allowed.into_iter().map(peer).collect();
            wish.features.encoder = if encoded { "one".into() } else { "other".into() };
            let none = Descriptors::default();
            let vectors = if encoded { &world.vectors } else { &none };
            let request = Request { query: &query, features: &wish.features, explore: true };
            let peers = |p: &_| world.states[p].clone();
            let found = by_roster.decide(now, &request, &world.index, vectors, &peers);
            let walked = by_walk.decide_by_walk(now, &request, &world.index, vectors, &peers);
            prop_assert_eq!(&found, &walked);
            prop_assert_eq!(found.failure(), walked.failure());
            now += Duration::from_millis(700);
            if let Some(first) = found.candidates.first() {
                let result = match ended {
                    Some(e) => Err(ErrorKind::ALL[usize::from(e) % ErrorKind::ALL.len()]),
                    None => Ok(Served { ttft: Duration::from_millis(40), ..Served::default() }),
                };
                let outcome = Outcome { expert: first.expert, peer: first.peer, result };
                for router in [&mut by_roster, &mut by_walk] {
                    router.started(now, first.expert, first.peer);
                    router.observe(now, &outcome);
                }
            }
        }
    }
}

#[test]
fn names_are_found_by_whatever_means_an_expert() {
    let mut cards = ["chef", "coder", "mini"].map(crate::scene::generator);
    cards[2].model.name = "chef".into();
    let peers = [(peer(1), offer(cards.iter().map(ExpertCard::id).collect()))];
    let find = |id: &ExpertId| cards.iter().find(|c| c.id() == *id);
    let index = Index::build(peers, |id| find(id).cloned().map(Arc::new));
    let mut router = Router::new(RouterConfig::default(), 1);
    let mut named = |name: &str| {
        let mut query = query(polymath_types::ExpertKind::Generate);
        query.constraints.model = Some(name.to_owned());
        let features = Default::default();
        let request = Request {
            query: &query,
            features: &features,
            explore: false,
        };
        let reach = |_: &_| crate::scene::connected();
        let decision = router.decide(
            Duration::ZERO,
            &request,
            &index,
            &Descriptors::default(),
            &reach,
        );
        let mut found: Vec<String> = decision.candidates.into_iter().map(|c| c.name).collect();
        found.sort();
        found.join(" ")
    };
    assert_eq!(named("chef"), "chef mini");
    assert_eq!(named("coder"), "coder");
    assert_eq!(named(&cards[1].id().to_string()[..8]), "coder");
    assert_eq!(named(&cards[1].id().to_string()[..7]), "");
    assert_eq!(named(&cards[1].id().to_string().to_uppercase()[..9]), "");
    assert_eq!(named("+1234567"), "");
}
