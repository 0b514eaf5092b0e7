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

    /// The same index in which `peer` serves exactly the experts of these cards, whether or not it
    /// has made an offer.
    pub fn with_served(&self, peer: PeerId, cards: &[Arc<ExpertCard>]) -> Self {
        let own: BTreeMap<ExpertId, &Arc<ExpertCard>> = cards.iter().map(|c| (c.id(), c)).collect();
        let mut peers = self.peers.clone();
        let offer = peers.entry(peer).or_insert_with(|| PeerOffer {
            addresses: Vec::new(),
            agent: String::new(),
            sequence: 0,
            epoch: 0,
            experts: Vec::new(),
        });
        offer.experts = own.keys().copied().collect();
        Self::build(peers, |id| {
            let known = self.experts.get(id).map(|e| &e.card);
            known.or_else(|| own.get(id).copied()).map(Arc::clone)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{FileRef, FileRole, LabelSet, Model, Runtime, Sampling};

    fn card(name: &str) -> Arc<ExpertCard> {
        Arc::new(ExpertCard {
            version: 1,
            name: name.into(),
            kind: ExpertKind::Generate,
            model: Model {
                name: "m".into(),
                runtime: Runtime::GgufLlama,
                files: vec![FileRef {
                    role: FileRole::Weights,
                    name: "w.gguf".into(),
                    size: 1,
                    sha256: "0".repeat(64),
                    blake3: "0".repeat(64),
                }],
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
            labels: LabelSet::None,
        })
    }

    #[test]
    fn what_a_peer_serves_is_told_apart_from_what_it_offers() {
        let (me, other) = (PeerId::random(), PeerId::random());
        let (a, b) = (card("a"), card("b"));
        let offered = Index::default().with_served(other, std::slice::from_ref(&a));
        let both = offered.with_served(me, &[Arc::clone(&a), Arc::clone(&b)]);
        let replicas = |index: &Index, card: &ExpertCard| {
            let expert = index.expert(&card.id());
            expert.map_or(0, |e| e.replicas.len())
        };
        assert_eq!((replicas(&both, &a), replicas(&both, &b)), (2, 1));
        let gone = both.with_served(me, &[]);
        assert_eq!((replicas(&gone, &a), replicas(&gone, &b)), (1, 0));
        assert!(gone.peers().contains_key(&me));
    }
}
