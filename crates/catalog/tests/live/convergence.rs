//! Any order, duplication and loss lead to the same.

use std::time::Duration;

use polymath_catalog::live::{Live, View};
use polymath_proto::v1::LiveMessage;
use polymath_types::{NodeKey, PeerId};
use proptest::prelude::*;

use crate::scene::{config, frame, status, suspicion};

const NOW: Duration = Duration::from_secs(10);

/// What one author says, in its order: statuses, and suspicions with the status they are about.
fn letters(
    authors: &[NodeKey],
    told: &[(usize, u64, u64, Option<usize>)],
) -> Vec<Vec<LiveMessage>> {
    let letter = |(author, incarnation, sequence, witness): &(usize, u64, u64, Option<usize>)| {
        let of_author = told.iter().filter(|(a, ..)| a == author);
        let last = of_author.map(|(_, i, s, _)| (*i, *s)).max();
        let author = &authors[*author];
        let mut letter = vec![status(author, *incarnation, *sequence)];
        // Who survived a suspicion needs more witnesses, and whether it did depends on the order.
        if let Some(witness) = witness.map(|w| &authors[w])
            && witness.peer_id() != author.peer_id()
            && last == Some((*incarnation, *sequence))
        {
            letter.push(suspicion(
                witness,
                author.peer_id(),
                (*incarnation, *sequence),
            ));
        }
        letter
    };
    told.iter().map(letter).collect()
}

fn views(live: &Live, authors: &[NodeKey]) -> Vec<Option<View>> {
    authors
        .iter()
        .map(|a| live.view(NOW, &a.peer_id()))
        .collect()
}

fn take(authors: &[NodeKey], letters: &[Vec<LiveMessage>], order: &[usize]) -> Live {
    let mut live = Live::new(config(&NodeKey::generate(), 1));
    let peer = PeerId::random();
    let _ = live.peer_connected(NOW, peer, false);
    // Of witnesses something is known.
    let known = frame(authors.iter().map(|author| status(author, 0, 0)));
    let _ = live.receive(NOW, peer, known).unwrap();
    for at in order {
        let _ = live
            .receive(NOW, peer, frame(letters[*at].clone()))
            .unwrap();
    }
    live
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_and_duplication_lead_to_equal_views(
        told in prop::collection::vec((0..4_usize, 0..3_u64, 0..3_u64, prop::option::of(0..4_usize)), 1..16),
        seed in any::<u64>(),
    ) {
        let authors: Vec<NodeKey> = (0..4).map(|_| NodeKey::generate()).collect();
        let letters = letters(&authors, &told);
        let straight: Vec<usize> = (0..letters.len()).collect();
        let mut shuffled: Vec<usize> = straight.iter().chain(&straight).copied().collect();
        let mut random = seed | 1;
        for at in (1..shuffled.len()).rev() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            shuffled.swap(at, (random % (at as u64 + 1)) as usize);
        }
        let (one, two) = (take(&authors, &letters, &straight), take(&authors, &letters, &shuffled));
        prop_assert_eq!(views(&one, &authors), views(&two, &authors));
    }

    #[test]
    fn what_was_lost_is_made_up_for_by_the_next_status(
        told in prop::collection::vec((0..4_usize, 0..3_u64, 0..3_u64, prop::option::of(0..4_usize)), 1..16),
        lost in prop::collection::vec(any::<bool>(), 16),
    ) {
        let authors: Vec<NodeKey> = (0..4).map(|_| NodeKey::generate()).collect();
        let mut letters = letters(&authors, &told);
        let count = letters.len();
        letters.extend(authors.iter().map(|a| vec![status(a, 9, 0)]));
        let last = count..letters.len();
        let some: Vec<usize> = (0..count).filter(|at| !lost[*at]).chain(last.clone()).collect();
        let (one, two) = (take(&authors, &letters, &last.collect::<Vec<_>>()), take(&authors, &letters, &some));
        prop_assert_eq!(views(&one, &authors), views(&two, &authors));
    }
}
