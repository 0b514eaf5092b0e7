//! The routing index: an immutable snapshot of who serves which expert.

mod lookups;
mod offer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use libp2p_identity::PeerId;
use lookups::Lookups;
pub use lookups::Property;
pub use offer::{IndexedExpert, PeerOffer, Replica, Terms};

use crate::{Cell, Charter, ExpertCard, ExpertId, Table, Weighed, WeighedExpert};

/// An immutable snapshot; readers never block. Built by the catalog, read by the router.
///
/// A copy costs next to nothing, and a change to one only what differs, so that whoever keeps it up
/// to date publishes a new one after every change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Index {
    experts: Table<ExpertId, IndexedExpert>,
    /// Their cards again, apart from who serves them: untouched by most changes of offers.
    cards: Table<ExpertId, ExpertCard>,
    peers: Table<PeerId, PeerOffer>,
    /// Who serves the experts whose cards are not known yet.
    cardless: Table<ExpertId, Vec<Replica>>,
    /// The experts by what their cards say.
    lookups: Lookups,
    /// What the mesh's admins have laid down.
    charter: Arc<Charter>,
    /// What others have seen of experts, served at present or not.
    observed: Table<ExpertId, WeighedExpert>,
}

impl Index {
    /// From offers and the cards known so far; experts whose card is unknown are left out.
    pub fn build(
        peers: impl IntoIterator<Item = (PeerId, PeerOffer)>,
        cards: impl Fn(&ExpertId) -> Option<Arc<ExpertCard>>,
    ) -> Self {
        let mut index = Self::default();
        for (peer, offer) in peers {
            index.set_offer(peer, Arc::new(offer), &cards);
        }
        index
    }

    /// `peer` offers this from now on. `cards` is asked for those of experts that nobody offered
    /// before.
    pub fn set_offer(
        &mut self,
        peer: PeerId,
        offer: Arc<PeerOffer>,
        cards: impl Fn(&ExpertId) -> Option<Arc<ExpertCard>>,
    ) {
        let before = self.peers.insert(peer, Arc::clone(&offer));
        let new: BTreeSet<&ExpertId> = offer.experts.iter().collect();
        let old: BTreeSet<&ExpertId> = before.iter().flat_map(|o| &o.experts).collect();
        for id in old.difference(&new) {
            self.withdraw(id, &peer);
        }
        for id in new.difference(&old) {
            self.enlist(**id, peer, offer.terms_of(id), &cards);
        }
        let Some(before) = &before else { return };
        for id in new.intersection(&old) {
            let terms = offer.terms_of(id);
            if terms != before.terms_of(id) {
                self.change_replicas(id, |replicas| {
                    let replica = replicas.iter_mut().find(|r| r.peer == peer);
                    replica.into_iter().for_each(|r| r.terms = terms);
                });
            }
        }
    }

    /// `peer` offers nothing any more and is forgotten.
    pub fn remove_offer(&mut self, peer: &PeerId) {
        let before = self.peers.remove(peer);
        for id in before.iter().flat_map(|o| &o.experts) {
            self.withdraw(id, peer);
        }
    }

    /// A card that was missing is known now; one that nobody offers is not kept.
    pub fn set_card(&mut self, id: ExpertId, card: Arc<ExpertCard>) {
        if let Some(replicas) = self.cardless.remove(&id) {
            let replicas = Arc::unwrap_or_clone(replicas);
            self.admit(IndexedExpert { id, card, replicas });
        }
    }

    fn admit(&mut self, expert: IndexedExpert) {
        lookups::enter(
            &mut self.lookups,
            expert.id,
            &expert.card,
            expert.lowest_price(),
        );
        self.cards.insert(expert.id, Arc::clone(&expert.card));
        self.experts.insert(expert.id, expert);
    }

    fn dismiss(&mut self, id: &ExpertId) -> Option<Arc<IndexedExpert>> {
        let price = self.experts.get(id)?.lowest_price();
        self.dismiss_priced(id, price)
    }

    fn dismiss_priced(&mut self, id: &ExpertId, price: u64) -> Option<Arc<IndexedExpert>> {
        let expert = self.experts.remove(id)?;
        self.cards.remove(id);
        lookups::leave(&mut self.lookups, id, &expert.card, price);
        Some(expert)
    }

    /// A card is kept no longer, though offers speak of it.
    pub fn remove_card(&mut self, id: &ExpertId) {
        if let Some(expert) = self.dismiss(id) {
            self.cardless.insert(*id, expert.replicas.clone());
        }
    }

    fn enlist(
        &mut self,
        id: ExpertId,
        peer: PeerId,
        terms: Terms,
        cards: &impl Fn(&ExpertId) -> Option<Arc<ExpertCard>>,
    ) {
        let replica = Replica {
            peer,
            accepting: true,
            terms,
        };
        let added = self.change_replicas(&id, |replicas| {
            if let Err(at) = replicas.binary_search_by_key(&peer, |r| r.peer) {
                replicas.insert(at, replica.clone());
            }
        });
        if added {
            return;
        }
        let replicas = vec![replica];
        match cards(&id) {
            Some(card) => self.admit(IndexedExpert { id, card, replicas }),
            None => {
                self.cardless.insert(id, replicas);
            }
        }
    }

    fn withdraw(&mut self, id: &ExpertId, peer: &PeerId) {
        self.change_replicas(id, |replicas| replicas.retain(|r| r.peer != *peer));
    }

    /// Changes who serves an expert, or how; whether anybody did. One that nobody serves is gone.
    fn change_replicas(&mut self, id: &ExpertId, change: impl FnOnce(&mut Vec<Replica>)) -> bool {
        if let Some(expert) = self.experts.get_mut(id) {
            let before = expert.lowest_price();
            change(&mut expert.replicas);
            if expert.replicas.is_empty() {
                self.dismiss_priced(id, before);
            } else {
                let after = expert.lowest_price();
                lookups::reprice(&mut self.lookups, id, before, after);
            }
            true
        } else if let Some(replicas) = self.cardless.get_mut(id) {
            change(replicas);
            if replicas.is_empty() {
                self.cardless.remove(id);
            }
            true
        } else {
            false
        }
    }

    /// The same index in which `peer` serves exactly the experts of these cards, whether or not it
    /// has made an offer.
    pub fn with_served(&self, peer: PeerId, cards: &[Arc<ExpertCard>]) -> Self {
        let own: BTreeMap<ExpertId, &Arc<ExpertCard>> = cards.iter().map(|c| (c.id(), c)).collect();
        let mut offer = self.peers.get(&peer).cloned().unwrap_or_default();
        offer.experts = own.keys().copied().collect();
        offer.terms.retain(|id, _| own.contains_key(id));
        let mut index = self.clone();
        for (id, card) in &own {
            index.set_card(*id, Arc::clone(card));
        }
        index.set_offer(peer, Arc::new(offer), |id| {
            own.get(id).copied().map(Arc::clone)
        });
        index
    }

    /// Every expert, by id.
    pub fn experts(&self) -> impl Iterator<Item = &IndexedExpert> {
        self.experts.values()
    }

    /// The cards of all of them. A copy that was taken is still one, unless an expert came or went since.
    pub fn cards(&self) -> &Table<ExpertId, ExpertCard> {
        &self.cards
    }

    /// One expert.
    pub fn expert(&self, id: &ExpertId) -> Option<&IndexedExpert> {
        self.experts.get(id)
    }

    /// Whether anybody offers an expert, its card known or not.
    pub fn is_offered(&self, id: &ExpertId) -> bool {
        self.experts.get(id).is_some() || self.cardless.get(id).is_some()
    }

    /// What the mesh's admins have laid down: aliases of experts, hints for categories, who is out.
    pub fn charter(&self) -> &Arc<Charter> {
        &self.charter
    }

    /// This is laid down from now on. Offers of whoever is revoked are for the caller to take out.
    pub fn set_charter(&mut self, charter: Arc<Charter>) {
        self.charter = charter;
    }

    /// What others have seen of an expert in a cluster, weighed; this node's own evidence is not in it.
    pub fn observed(&self, cell: &Cell) -> Option<Weighed> {
        let books = self.observed.get(&cell.expert)?;
        let at = books.binary_search_by_key(&&cell.codebook, |(book, _)| book);
        let cells = &books[at.ok()?].1;
        let found = cells.binary_search_by_key(&cell.cluster, |(cluster, _)| *cluster);
        found.ok().map(|at| cells[at].1)
    }

    /// The same of all clusters.
    pub fn observed_of(&self, expert: &ExpertId) -> Option<&WeighedExpert> {
        self.observed.get(expert)
    }

    /// Others have seen this of an expert from now on.
    pub fn set_observed(&mut self, expert: ExpertId, weighed: WeighedExpert) {
        if weighed.is_empty() {
            self.observed.remove(&expert);
        } else {
            self.observed.insert(expert, weighed);
        }
    }

    /// Every peer that made an offer.
    pub fn peers(&self) -> &Table<PeerId, PeerOffer> {
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
    use crate::{ExpertKind, FileRef, FileRole, LabelSet, Model, Runtime, Sampling};

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
            capabilities: Vec::new(),
        })
    }

    fn offer(cards: &[&Arc<ExpertCard>]) -> Arc<PeerOffer> {
        let experts = cards.iter().map(|c| c.id()).collect();
        Arc::new(PeerOffer {
            experts,
            ..PeerOffer::default()
        })
    }

    #[test]
    fn an_index_that_was_changed_is_the_one_that_is_built_anew() {
        let [one, two, three] = std::array::from_fn(|_| PeerId::random());
        let (a, b, c) = (card("a"), card("b"), card("c"));
        let known = |id: &ExpertId| [&a, &b].into_iter().find(|k| k.id() == *id).cloned();
        let mut index = Index::default();
        index.set_offer(one, offer(&[&a, &b, &c]), known);
        index.set_offer(two, offer(&[&c]), known);
        index.set_offer(three, offer(&[&a]), known);
        assert!(index.expert(&c.id()).is_none(), "its card is not known");
        let before = index.clone();
        index.set_offer(one, offer(&[&b, &c]), known);
        index.set_offer(three, offer(&[]), known);
        index.set_card(c.id(), Arc::clone(&c));
        index.remove_offer(&two);
        index.remove_offer(&two);
        let offers = [(one, offer(&[&b, &c])), (three, offer(&[]))];
        let offers = offers.map(|(peer, offer)| (peer, offer.as_ref().clone()));
        let all = |id: &ExpertId| [&a, &b, &c].into_iter().find(|k| k.id() == *id).cloned();
        assert_eq!(index, Index::build(offers, all));
        assert_eq!(before.experts().count(), 2);
        assert_eq!(before.expert(&a.id()).unwrap().replicas.len(), 2);
        assert!(index.cards().keys().eq(index.experts().map(|e| &e.id)));
        let cards = index.cards().clone();
        index.set_offer(two, offer(&[&b]), known);
        assert!(index.cards().is_copy_of(&cards), "another serves the same");
    }

    #[test]
    fn experts_are_found_by_what_their_cards_say_as_long_as_somebody_offers_them() {
        let [one, two] = std::array::from_fn(|_| PeerId::random());
        let (a, mut b) = (card("a"), card("b").as_ref().clone());
        b.kind = ExpertKind::Embed;
        b.languages = vec!["es".into(), "de".into()];
        b.capabilities = vec!["json".into(), "sings".into()];
        b.version = 2;
        let b = Arc::new(b);
        let known = |id: &ExpertId| [&a, &b].into_iter().find(|k| k.id() == *id).cloned();
        let mut index = Index::default();
        index.set_offer(one, offer(&[&a, &b]), known);
        index.set_offer(two, offer(&[&b]), known);
        let mut both = [a.id(), b.id()];
        both.sort();
        assert_eq!(index.having(Property::Model("m")), both);
        assert_eq!(index.having(Property::Language("es")), [b.id()]);
        assert_eq!(index.able_to("sings").count(), 1);
        assert_eq!(index.having(Property::Capability("json")), [b.id()]);
        assert_eq!(index.able_to("tools").count(), 0);
        assert_eq!(index.having(Property::Kind(ExpertKind::Generate)), [a.id()]);
        assert_eq!(index.replica_set(a.model.weights_id()).count(), 2);
        let before = index.clone();
        index.remove_offer(&one);
        assert_eq!(index.having(Property::Model("m")), [b.id()]);
        index.remove_card(&b.id());
        assert!(index.having(Property::Model("m")).is_empty());
        assert_eq!(index.of_kind(ExpertKind::Embed).count(), 0);
        assert_eq!(index.able_to("json").count(), 0);
        index.set_card(b.id(), Arc::clone(&b));
        assert_eq!(index.having(Property::Language("de")), [b.id()]);
        index.remove_offer(&two);
        assert_eq!(index, Index::default());
        assert_eq!(before.having(Property::Model("m")), both);
    }

    fn priced(card: &Arc<ExpertCard>, price: u64) -> Arc<PeerOffer> {
        let terms = Terms {
            price_in: price / 4,
            price_out: price - price / 4,
            ..Terms::default()
        };
        let mut offer = offer(&[card]).as_ref().clone();
        offer.terms.insert(card.id(), terms);
        Arc::new(offer)
    }

    #[test]
    fn experts_are_found_by_the_lowest_price_anybody_asks() {
        let [one, two] = std::array::from_fn(|_| PeerId::random());
        let a = card("a");
        let known = |_: &ExpertId| Some(Arc::clone(&a));
        let mut index = Index::default();
        let affordable = |index: &Index, most: u64| index.priced_at_most(most).count();
        index.set_offer(one, priced(&a, 700), known);
        assert_eq!(
            [699, 700, 5000].map(|most| affordable(&index, most)),
            [0, 1, 1]
        );
        index.set_offer(two, priced(&a, 513), known);
        assert_eq!([512, 513].map(|most| affordable(&index, most)), [0, 1]);
        let before = index.clone();
        index.set_offer(two, priced(&a, 90_000), known);
        assert_eq!([513, 700].map(|most| affordable(&index, most)), [0, 1]);
        index.remove_offer(&one);
        assert_eq!(
            [89_999, 90_000].map(|most| affordable(&index, most)),
            [0, 1]
        );
        index.set_offer(two, offer(&[&a]), known);
        assert_eq!(affordable(&index, 0), 1, "free");
        index.remove_offer(&two);
        assert_eq!(index, Index::default());
        assert_eq!(affordable(&before, 513), 1);
    }

    #[test]
    fn experts_are_found_by_the_context_their_cards_state() {
        let peer = PeerId::random();
        let with = |name: &str, context: u32| {
            let mut card = card(name).as_ref().clone();
            card.model.context_length = context;
            Arc::new(card)
        };
        let cards = [
            with("a", 2047),
            with("b", 2048),
            with("c", 3000),
            with("d", 131_072),
        ];
        let none = with("e", 0);
        let known = |id: &ExpertId| cards.iter().chain([&none]).find(|c| c.id() == *id).cloned();
        let mut index = Index::default();
        let all: Vec<&Arc<ExpertCard>> = cards.iter().chain([&none]).collect();
        index.set_offer(peer, offer(&all), known);
        let names = |tokens| {
            let mut all: Vec<String> = index
                .with_context(tokens)
                .map(|e| e.card.name.clone())
                .collect();
            all.sort();
            all.concat()
        };
        assert_eq!(
            [1, 2047, 2048, 2049].map(names),
            ["abcd", "abcd", "bcd", "cd"]
        );
        assert_eq!(
            [3001, 131_072, 131_073, u32::MAX].map(names),
            ["d", "d", "", ""]
        );
        let terms = Terms {
            context: 1024,
            ..Terms::default()
        };
        assert_eq!(cards.each_ref().map(|c| terms.context_of(c)), [1024; 4]);
        assert_eq!(
            (
                terms.context_of(&none),
                Terms::default().context_of(&cards[2])
            ),
            (1024, 3000)
        );
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
