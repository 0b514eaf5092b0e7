//! The state machine: what the node does with its own offer, and what it does for others.

mod answers;
mod compare;
mod own;
mod sync;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use answers::Answers;
use own::Forks;
pub use own::{Offer, OfferError};
use polymath_proto::v1::SyncFrame;
use polymath_types::{
    CardError, ExpertCard, ExpertId, Index, MeshId, NodeKey, PeerId, VersionMismatch,
};

use crate::{
    CatalogLimits, Counters, FRAME_BYTES, RecordError, Refusal,
    asks::Asks,
    cards::Cards,
    conduct::Conducts,
    effort::Efforts,
    offers::Offers,
    record::{self, Record},
};

/// Whose catalog, of which mesh, within which bounds.
#[derive(Debug, Clone)]
pub struct CatalogConfig {
    /// Signs this node's offer.
    pub key: NodeKey,
    /// Changes for another mesh are refused.
    pub mesh: MeshId,
    /// Bounds.
    pub limits: CatalogLimits,
}

/// What the caller must do, in the order given: what is stored comes before what is sent, because
/// a change that left and was then forgotten would make its author contradict itself.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Send a frame on the `Sync` stream with a connected peer.
    Send {
        /// To whom.
        peer: PeerId,
        /// At most [`FRAME_BYTES`] encoded.
        frame: SyncFrame,
    },
    /// There is something to be fetched with [`Catalog::next_answer`] for a connected peer.
    Answer {
        /// For whom.
        peer: PeerId,
    },
    /// Write a record durably, replacing the one of that name.
    Store {
        /// Its name: letters, digits and `-`.
        name: String,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Forget a record.
    Remove {
        /// Its name.
        name: String,
    },
    /// [`Catalog::index`] returns a new snapshot.
    IndexChanged,
}

/// What [`Catalog::open`] found.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// Authors whose offers are known again.
    pub offers: usize,
    /// Cards that are known again.
    pub cards: usize,
    /// Records that were skipped, by name; all others were taken.
    pub problems: Vec<(String, RecordError)>,
}

/// Why a peer's stream must be closed. What its frames brought before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The peer speaks another version of the protocol.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
    /// Nothing in it that this version knows.
    #[error("the catalog frame is empty or of an unknown kind")]
    Empty,
    /// Larger than a frame may be.
    #[error("the catalog frame has {bytes} bytes; at most {FRAME_BYTES} are allowed")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// [`Catalog::peer_connected`] was not called, or refused the peer.
    #[error("the peer is not among the catalog's connected peers")]
    NotConnected,
    /// The peer passed on what no honest peer passes on, again and again.
    #[error(
        "the peer sent {faults} changes or cards that are provably bad, the last for reason '{last}'"
    )]
    Misbehaving {
        /// How many.
        faults: u32,
        /// The last one's reason.
        last: Refusal,
    },
}

/// All offers and cards known to this node.
#[derive(Debug)]
pub struct Catalog {
    key: NodeKey,
    me: PeerId,
    mesh: MeshId,
    limits: CatalogLimits,
    offers: Offers,
    cards: Cards,
    peers: BTreeSet<PeerId>,
    conducts: Conducts,
    efforts: Efforts,
    answers: Answers,
    asked_offers: Asks<PeerId>,
    asked_cards: Asks<ExpertId>,
    /// Authors of whom something came in answers that other peers were not told yet, and which peers
    /// know it.
    unannounced: BTreeMap<PeerId, BTreeSet<PeerId>>,
    /// Which peers said that they have what another one was asked for, by author.
    claimants: BTreeMap<PeerId, BTreeSet<PeerId>>,
    forks: Forks,
    ticks: u64,
    index: Arc<Index>,
    counters: Counters,
}

impl Catalog {
    /// Opens the catalog from everything earlier [`Action::Store`]s wrote, in any order. Damaged
    /// records, and those of another version or mesh, are skipped and reported.
    pub fn open(
        config: CatalogConfig,
        stored: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> (Self, Recovered) {
        let CatalogConfig { key, mesh, limits } = config;
        let mut catalog = Self {
            me: key.peer_id(),
            key,
            mesh,
            offers: Offers::default(),
            cards: Cards::default(),
            peers: BTreeSet::new(),
            conducts: Conducts::default(),
            efforts: Efforts::default(),
            answers: Answers::default(),
            asked_offers: Asks::new(limits.authors),
            asked_cards: Asks::new(limits.cards),
            unannounced: BTreeMap::new(),
            claimants: BTreeMap::new(),
            forks: Forks::default(),
            ticks: 0,
            index: Arc::default(),
            counters: Counters::default(),
            limits,
        };
        let mut recovered = Recovered::default();
        for (name, bytes) in stored {
            let taken = record::open(&name, &bytes, &mesh).and_then(|r| catalog.restore(r));
            match taken {
                Ok(()) => {}
                Err(problem) => recovered.problems.push((name, problem)),
            }
        }
        // Ticks go on where the last run's ended, so that what was seen in both compares.
        catalog.ticks = match catalog.offers.last_seen() {
            0 => 0,
            last => last.saturating_add(1),
        };
        catalog.offers.begin_tick(catalog.ticks);
        catalog.conducts.begin_tick(catalog.ticks);
        catalog.cards.begin_tick(catalog.ticks);
        catalog.efforts.begin_tick(catalog.ticks);
        recovered.offers = catalog.offers.iter().count();
        recovered.cards = catalog.cards.len();
        let index = Arc::make_mut(&mut catalog.index);
        for (author, log) in catalog.offers.iter() {
            index.set_offer(*author, Arc::clone(log.offer()), |id| {
                catalog.cards.get(id).cloned()
            });
        }
        (catalog, recovered)
    }

    fn restore(&mut self, record: Record) -> Result<(), RecordError> {
        let fits = match record {
            Record::Card(id, card) => self.cards.restore(id, card, &self.limits),
            Record::Offer(author, log) => {
                let offer = Arc::clone(log.offer());
                let fits = self.offers.get(&author).is_none()
                    && self.offers.restore(author, log, &self.me, &self.limits);
                if fits {
                    self.cards.reference(&offer.experts, &[]);
                }
                fits
            }
        };
        if fits { Ok(()) } else { Err(RecordError::Full) }
    }

    /// Names the cards this node hosts, all of them; what it hosted before is kept only while an
    /// offer speaks of it.
    pub fn set_cards(
        &mut self,
        cards: impl IntoIterator<Item = Arc<ExpertCard>>,
    ) -> Result<Vec<Action>, CardError> {
        let cards: Vec<_> = cards.into_iter().collect();
        cards.iter().try_for_each(|c| c.check())?;
        self.cards.forget_hosted();
        let mut batch = Batch::default();
        for card in cards {
            self.host(card, &mut batch);
        }
        Ok(self.finish(batch))
    }

    /// Names one more card this node hosts.
    pub fn add_card(&mut self, card: Arc<ExpertCard>) -> Result<Vec<Action>, CardError> {
        card.check()?;
        let mut batch = Batch::default();
        self.host(card, &mut batch);
        Ok(self.finish(batch))
    }

    fn host(&mut self, card: Arc<ExpertCard>, batch: &mut Batch) {
        let id = card.id();
        if self.cards.host(id, card.clone()) {
            batch.store(record::card_name(&id), record::seal_card(&card));
            batch.cards.push((id, card));
            self.asked_cards.close(&id);
        }
    }

    /// Called at a steady pace, e.g. every 10 s: compares with all connected peers, puts
    /// questions that went unanswered to others, lets every author change its offer again, and
    /// drops cards no one needs.
    pub fn tick(&mut self) -> Vec<Action> {
        self.ticks = self.ticks.saturating_add(1);
        self.offers.begin_tick(self.ticks);
        self.conducts.begin_tick(self.ticks);
        self.cards.begin_tick(self.ticks);
        self.efforts.begin_tick(self.ticks);
        self.claimants.clear();
        self.asked_offers.expire(self.ticks);
        self.asked_cards.expire(self.ticks);
        let mut batch = Batch::default();
        batch.answers.extend(self.answers.begin_tick());
        self.forks.rolled = false;
        if self.forks.due {
            self.resolve_fork(&mut batch);
        }
        self.announce(&mut batch);
        for peer in &self.peers {
            self.compare_with(*peer, &mut batch);
        }
        self.ask_missing_cards(&mut batch);
        batch.noted.extend(self.offers.note_seen());
        let unused = self.cards.collect();
        let mut actions = self.finish(batch);
        actions.extend(unused.iter().map(|id| Action::Remove {
            name: record::card_name(id),
        }));
        actions
    }

    /// The present snapshot.
    pub fn index(&self) -> Arc<Index> {
        self.index.clone()
    }

    /// One card.
    pub fn card(&self, id: &ExpertId) -> Option<Arc<ExpertCard>> {
        self.cards.get(id).cloned()
    }

    /// Every record, as all [`Action::Store`]s together have written them: for a store that must be
    /// written anew.
    pub fn records(&self) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
        let offers = self.offers.iter().map(|(author, log)| {
            let bytes = record::seal_offer(&self.mesh, log);
            (record::offer_name(author), bytes)
        });
        let cards = self.cards.iter();
        offers.chain(cards.map(|(id, card)| (record::card_name(id), record::seal_card(card))))
    }

    /// What was taken and refused so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Brings the index up to what a batch changed; whether it changed.
    fn patch_index(&mut self, batch: &Batch) -> bool {
        let cards: Vec<_> = batch
            .cards
            .iter()
            .filter(|(id, _)| self.cards.is_referenced(id))
            .collect();
        let authors = batch.evicted.union(&batch.touched);
        if cards.is_empty()
            && batch.evicted.is_empty()
            && batch.touched.is_empty()
            && batch.lost_cards.is_empty()
        {
            return false;
        }
        // Readers hold the one before: what differs is copied, the rest shared.
        let index = Arc::make_mut(&mut self.index);
        for author in authors {
            match self.offers.get(author) {
                Some(log) => index.set_offer(*author, Arc::clone(log.offer()), |id| {
                    self.cards.get(id).cloned()
                }),
                None => index.remove_offer(author),
            }
        }
        for id in &batch.lost_cards {
            index.remove_card(id);
        }
        for (id, card) in cards {
            index.set_card(*id, Arc::clone(card));
        }
        true
    }

    /// Puts actions into the order they must be done in.
    fn finish(&mut self, batch: Batch) -> Vec<Action> {
        let changed = self.patch_index(&batch);
        let mut actions: Vec<Action> = batch
            .evicted
            .iter()
            .map(|author| Action::Remove {
                name: record::offer_name(author),
            })
            .collect();
        actions.extend(batch.lost_cards.iter().map(|id| Action::Remove {
            name: record::card_name(id),
        }));
        actions.extend(batch.stores);
        for author in batch.touched.union(&batch.noted) {
            if let Some(log) = self.offers.get(author) {
                actions.push(Action::Store {
                    name: record::offer_name(author),
                    bytes: record::seal_offer(&self.mesh, log),
                });
            }
        }
        if changed {
            actions.push(Action::IndexChanged);
        }
        actions.extend(batch.sends);
        let answers = batch.answers.into_iter();
        actions.extend(answers.map(|peer| Action::Answer { peer }));
        actions
    }
}

/// What one call leads to, before it is put in order.
#[derive(Debug, Default)]
struct Batch {
    stores: Vec<Action>,
    /// Authors whose record must be written anew, as their offer has changed.
    touched: BTreeSet<PeerId>,
    /// Authors whose record must be written anew though their offer is the same.
    noted: BTreeSet<PeerId>,
    /// Authors whose record must go; those that came back since are among the touched too.
    evicted: BTreeSet<PeerId>,
    /// Cards that gave way to others.
    lost_cards: Vec<ExpertId>,
    /// Cards that are new here.
    cards: Vec<(ExpertId, Arc<ExpertCard>)>,
    sends: Vec<Action>,
    /// Peers for whom there is more to fetch.
    answers: BTreeSet<PeerId>,
}

impl Batch {
    fn store(&mut self, name: String, bytes: Vec<u8>) {
        self.stores.push(Action::Store { name, bytes });
    }

    fn send(&mut self, peer: PeerId, frames: impl IntoIterator<Item = SyncFrame>) {
        self.sends
            .extend(frames.into_iter().map(|frame| Action::Send { peer, frame }));
    }
}
