//! What observers say, weighed as the catalog weighs it, without documents or signatures.
//!
//! For whoever measures or simulates what nodes learn from one another: the rules are those that a daemon's
//! [`Catalog`](crate::Catalog) applies, in the same code. Every expert counts as offered.

use std::{collections::BTreeSet, sync::Arc};

use polymath_types::{Cell, CodebookId, Evidence, ExpertId, Observations, PeerId, Weighed};

use crate::{
    catalog::first_told,
    limits::REWEIGHED_A_TICK,
    weigh::{Observers, Standing},
};

/// One node's view of what all others have seen.
#[derive(Debug, Default)]
pub struct Weigher {
    observers: Observers,
    peers: BTreeSet<PeerId>,
}

impl Weigher {
    /// This node has seen this itself. It is what others are judged by, and no part of what comes out.
    pub fn know(&mut self, own: impl IntoIterator<Item = (Cell, Evidence)>) {
        self.observers.know(own.into_iter().collect(), &|_| true);
    }

    /// What is said under these codebooks counts, eight at most, and those of own evidence besides.
    pub fn use_codebooks(&mut self, books: impl IntoIterator<Item = CodebookId>) {
        self.observers.use_codebooks(books, &|_| true);
    }

    /// `peer` says this from now on, serves those experts, and holds a role in the mesh or none.
    pub fn set(
        &mut self,
        peer: PeerId,
        said: Arc<Observations>,
        serves: impl IntoIterator<Item = ExpertId>,
        role: bool,
    ) {
        let serves: BTreeSet<ExpertId> = serves.into_iter().collect();
        let standing = Standing {
            serves: serves.into_iter().collect(),
            trusted: role,
        };
        self.peers.insert(peer);
        self.observers.set(peer, said, standing, &|_| true);
    }

    /// Nothing that `peer` said counts any more.
    pub fn remove(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
        self.observers.remove(peer);
    }

    /// What comes out, once all were weighed again: it depends on what was said alone, not on its order.
    pub fn weighed(&mut self) -> Vec<(Cell, Weighed)> {
        for _ in 0..=self.peers.len() / REWEIGHED_A_TICK {
            self.observers.tick(&|_| true);
        }
        let mut cells = Vec::new();
        for (expert, books) in self.observers.all() {
            for (codebook, of_book) in books {
                cells.extend(of_book.into_iter().map(|(cluster, weighed)| {
                    let cell = Cell {
                        codebook,
                        expert,
                        cluster,
                    };
                    (cell, weighed)
                }));
            }
        }
        cells
    }

    /// What a node that has seen this, and told nothing yet, tells others.
    pub fn told(seen: impl IntoIterator<Item = (Cell, Evidence)>) -> Observations {
        first_told(seen)
    }
}

#[cfg(test)]
mod tests {
    use polymath_types::NodeKey;

    use super::*;

    fn cell(expert: u8, cluster: u16) -> Cell {
        Cell {
            codebook: CodebookId::from_bytes([1; 32]),
            expert: ExpertId::from_bytes([expert; 32]),
            cluster,
        }
    }

    #[test]
    fn what_two_say_comes_out_as_often_as_it_is_asked_and_goes_with_who_said_it() {
        let evidence = Evidence {
            count: 10,
            reward: 4000,
        };
        let seen = [
            (cell(1, 0), evidence),
            (
                cell(2, 3),
                Evidence {
                    count: 4,
                    reward: 0,
                },
            ),
        ];
        let said = Arc::new(Weigher::told(seen));
        assert_eq!(said.len(), 1, "four outcomes are too few to tell");
        let mut weigher = Weigher::default();
        weigher.use_codebooks([CodebookId::from_bytes([1; 32])]);
        let peers = [NodeKey::generate().peer_id(), NodeKey::generate().peer_id()];
        for peer in peers {
            weigher.set(peer, Arc::clone(&said), [], false);
        }
        let both = [(
            cell(1, 0),
            Weighed {
                mass: 20_000,
                reward: 8000,
            },
        )];
        assert_eq!(weigher.weighed(), both);
        assert_eq!(weigher.weighed(), both);
        weigher.remove(&peers[0]);
        assert_eq!(weigher.weighed()[0].1.mass, 10_000);
        // Whoever serves an expert has no word on it.
        weigher.set(peers[1], said, [ExpertId::from_bytes([1; 32])], true);
        assert!(weigher.weighed().is_empty());
    }
}
