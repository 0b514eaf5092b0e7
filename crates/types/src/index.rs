//! The routing index: an immutable snapshot of who serves which expert.

use std::{collections::BTreeMap, sync::Arc};

use libp2p_identity::PeerId;

use crate::{ExpertCard, ExpertId, ExpertKind};

/// A peer that serves an expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The peer.
    pub peer: PeerId,
    /// Whether the offer says that the expert takes calls now.
    pub accepting: bool,
}

/// An expert with everyone who serves it, sorted by peer.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexedExpert {
    /// The expert's id.
    pub id: ExpertId,
    /// Its card.
    pub card: Arc<ExpertCard>,
    /// Who serves it.
    pub replicas: Vec<Replica>,
}

/// What one peer's offer says of the peer itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerOffer {
    /// Addresses it says it listens on (multiaddr text); hints, nothing more.
    pub addresses: Vec<String>,
    /// Software and version.
    pub agent: String,
    /// The author's count of changes to this document.
    pub sequence: u64,
    /// The author's document epoch.
    pub epoch: u64,
    /// Experts it offers, cards known or not.
    pub experts: Vec<ExpertId>,
}

/// An immutable snapshot; readers never block. Built by the catalog, read by the router.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Index {
    experts: BTreeMap<ExpertId, IndexedExpert>,
    peers: BTreeMap<PeerId, PeerOffer>,
}

impl Index {
    /// From offers and the cards known so far; experts whose card is unknown are left out.
    pub fn build(
        peers: BTreeMap<PeerId, PeerOffer>,
        cards: impl Fn(&ExpertId) -> Option<Arc<ExpertCard>>,
    ) -> Self {
        let mut experts: BTreeMap<ExpertId, IndexedExpert> = BTreeMap::new();
        for (peer, offer) in &peers {
            for id in &offer.experts {
                let replica = Replica {
                    peer: *peer,
                    accepting: true,
                };
                if let Some(known) = experts.get_mut(id) {
                    known.replicas.push(replica);
                } else if let Some(card) = cards(id) {
                    experts.insert(
                        *id,
                        IndexedExpert {
                            id: *id,
                            card,
                            replicas: vec![replica],
                        },
                    );
                }
            }
        }
        Self { experts, peers }
    }

    /// The same index in which `peer` serves exactly `experts`.
    pub fn with_offer(&self, peer: PeerId, experts: Vec<ExpertId>) -> Self {
        let mut peers = self.peers.clone();
        if let Some(offer) = peers.get_mut(&peer) {
            offer.experts = experts;
        }
        Self::build(peers, |id| {
            self.experts.get(id).map(|e| Arc::clone(&e.card))
        })
    }

    /// Every expert, by id.
    pub fn experts(&self) -> impl Iterator<Item = &IndexedExpert> {
        self.experts.values()
    }

    /// Experts of one kind.
    pub fn of_kind(&self, kind: ExpertKind) -> impl Iterator<Item = &IndexedExpert> {
        self.experts().filter(move |e| e.card.kind == kind)
    }

    /// One expert.
    pub fn expert(&self, id: &ExpertId) -> Option<&IndexedExpert> {
        self.experts.get(id)
    }

    /// Every peer that made an offer.
    pub fn peers(&self) -> &BTreeMap<PeerId, PeerOffer> {
        &self.peers
    }

    /// Whether `name` means this expert: its name, its model's name, or 8 or more digits of its id.
    pub fn names(expert: &IndexedExpert, name: &str) -> bool {
        Self::is_name(&expert.id, &expert.card, name)
    }

    /// The same of an expert that is in no index.
    pub fn is_name(id: &ExpertId, card: &ExpertCard, name: &str) -> bool {
        card.name == name
            || card.model.name == name
            || (name.len() >= 8 && id.to_string().starts_with(name))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.experts.is_empty()
    }
}
