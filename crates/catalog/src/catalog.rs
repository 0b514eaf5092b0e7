//! The state machine: what the node does with its own offer, and what it does for others.

mod answers;
mod arrived;
mod charters;
mod compare;
mod forks;
mod observed;
mod own;
mod pushed;
mod shelf;
mod sync;

use std::{collections::BTreeSet, sync::Arc};

use answers::Answers;
pub use observed::ObservationsError;
pub(crate) use observed::first_told;
pub use own::{Offer, OfferError};
use polymath_proto::v1::SyncFrame;
use polymath_types::{
    CardError, Charter, ExpertCard, ExpertId, Index, MeshId, NodeKey, PeerId, VersionMismatch,
};

use crate::{
    CatalogLimits, Counters, FRAME_BYTES, RecordError, Refusal,
    asks::Asks,
    cards::Cards,
    conduct::Conducts,
    documents::Author,
    effort::Efforts,
    kind::{
        Category, Kind,
        charter::{CharterKind, merge::Merged},
        observations::ObservationKind,
        offer::OfferKind,
    },
    limits::{NEWS_BYTES, WORK, latest_epoch},
    record::{self, Record},
    weigh::Observers,
};
pub(crate) use shelf::Shelf;

/// Whose catalog, of which mesh, within which bounds.
#[derive(Debug, Clone)]
pub struct CatalogConfig {
    /// Signs this node's offer.
    pub key: NodeKey,
    /// Changes for another mesh are refused.
    pub mesh: MeshId,
    /// The mesh's founding admins, in the order of its genesis.
    pub founders: Vec<PeerId>,
    /// Whether observations are kept and exchanged. A node that does not neither asks for them nor passes
    /// them on, and publishes none.
    pub observations: bool,
    /// What the wall clock shows, Unix seconds; [`Catalog::set_time`] goes on from there.
    pub unix: u64,
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
    /// [`Catalog::index`] returns a new snapshot; the charter is in it.
    IndexChanged,
}

/// What [`Catalog::open`] found.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// Authors whose offers are known again.
    pub offers: usize,
    /// Admins whose charter documents are known again.
    pub charters: usize,
    /// Authors whose observations are known again.
    pub observations: usize,
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
    pub(crate) me: PeerId,
    mesh: MeshId,
    pub(crate) founders: Vec<PeerId>,
    pub(crate) limits: CatalogLimits,
    pub(crate) offers: Shelf<OfferKind>,
    pub(crate) charters: Shelf<CharterKind>,
    pub(crate) observations: Shelf<ObservationKind>,
    /// Observations are kept and exchanged.
    pub(crate) observing: bool,
    observers: Observers,
    untold: observed::Untold,
    /// Observations of others that an earlier run kept and this one does not; the disk is told with the
    /// first actions.
    leftover: Vec<PeerId>,
    pub(crate) merged: Merged,
    /// The highest epoch up to which this node's own charter document was ever known to be void.
    pub(crate) voided_met: u64,
    /// A charter document has changed.
    pub(crate) merge_due: bool,
    pub(crate) cards: Cards,
    peers: BTreeSet<PeerId>,
    conducts: Conducts,
    efforts: Efforts,
    /// What news cost, and what is passed on of them.
    works: Efforts,
    spread: Efforts,
    answers: Answers,
    asked_cards: Asks<ExpertId>,
    ticks: u64,
    /// The highest epoch there can be now.
    pub(crate) latest_epoch: u64,
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
        let CatalogConfig {
            unix,
            key,
            mesh,
            founders,
            observations,
            limits,
        } = config;
        let mut catalog = Self {
            me: key.peer_id(),
            key,
            mesh,
            founders,
            offers: Shelf::new(limits.authors),
            charters: Shelf::new(CharterKind::bounds(&limits).authors),
            observations: Shelf::new(limits.observers),
            observing: observations,
            observers: Observers::default(),
            untold: observed::Untold::default(),
            leftover: Vec::new(),
            merged: Merged::default(),
            voided_met: 0,
            // Whose documents no longer count is told to the disk with the first actions.
            merge_due: true,
            cards: Cards::default(),
            peers: BTreeSet::new(),
            conducts: Conducts::default(),
            efforts: Efforts::default(),
            works: Efforts::new(WORK),
            spread: Efforts::new(NEWS_BYTES),
            answers: Answers::default(),
            asked_cards: Asks::new(limits.cards),
            ticks: 0,
            latest_epoch: latest_epoch(unix),
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
        if !catalog.observing {
            catalog.drop_observations();
        }
        // Ticks go on where the last run's ended, so that what was seen in both compares.
        let last_seen = [
            catalog.offers.documents.last_seen(),
            catalog.charters.documents.last_seen(),
            catalog.observations.documents.last_seen(),
        ];
        catalog.ticks = match last_seen.into_iter().max() {
            None | Some(0) => 0,
            Some(last) => last.saturating_add(1),
        };
        catalog.set_time(unix);
        catalog.begin_tick::<OfferKind>();
        catalog.begin_tick::<CharterKind>();
        catalog.begin_tick::<ObservationKind>();
        catalog.conducts.begin_tick(catalog.ticks);
        catalog.cards.begin_tick(catalog.ticks);
        catalog.efforts.begin_tick(catalog.ticks);
        catalog.works.begin_tick(catalog.ticks);
        catalog.spread.begin_tick(catalog.ticks);
        catalog.merged = catalog.merged_now();
        catalog.voided_met = catalog.merged.voided(&catalog.me);
        catalog.step_over_void();
        catalog.set_members();
        recovered.offers = catalog.offers.documents.iter().count();
        recovered.charters = catalog.charters.documents.iter().count();
        recovered.observations = catalog.observations.documents.iter().count();
        recovered.cards = catalog.cards.len();
        let index = Arc::make_mut(&mut catalog.index);
        let charter = &catalog.merged.charter;
        for (author, log) in catalog.offers.documents.iter() {
            if !charter.is_revoked(author) && log.other().is_none() {
                index.set_offer(*author, Arc::clone(log.said()), |id| {
                    catalog.cards.get(id).cloned()
                });
            }
        }
        index.set_charter(Arc::new(charter.clone()));
        catalog.weigh_all();
        (catalog, recovered)
    }

    fn restore(&mut self, record: Record) -> Result<(), RecordError> {
        let fits = match record {
            Record::Card(id, card) => self.cards.restore(id, card, &self.limits),
            Record::Offer(author, log) => {
                let offer = Arc::clone(log.said());
                let fits = self.put_back::<OfferKind>(author, log);
                if fits {
                    self.cards.reference(&offer.experts, &[]);
                }
                fits
            }
            Record::Charter(author, log) => self.put_back::<CharterKind>(author, log),
            Record::Observations(author, log) => self.put_back::<ObservationKind>(author, log),
        };
        if fits { Ok(()) } else { Err(RecordError::Full) }
    }

    fn put_back<K: Kind>(&mut self, author: PeerId, log: Author<K>) -> bool {
        let (me, limits) = (self.me, self.limits.clone());
        let documents = &mut K::shelf_mut(self).documents;
        documents.get(&author).is_none() && documents.restore(author, log, &me, &limits)
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

    /// Says what the wall clock shows, Unix seconds; often. By it epochs are bounded, and nothing else is: a clock
    /// that is wrong by days does no harm.
    pub fn set_time(&mut self, unix: u64) {
        let before = std::mem::replace(&mut self.latest_epoch, latest_epoch(unix));
        self.offers.documents.set_latest_epoch(self.latest_epoch);
        self.charters.documents.set_latest_epoch(self.latest_epoch);
        let observations = &mut self.observations.documents;
        observations.set_latest_epoch(self.latest_epoch);
        let late = self
            .merged
            .not_yet
            .is_some_and(|epoch| epoch <= self.latest_epoch);
        self.merge_due |= late || self.latest_epoch < before;
    }

    /// Called at a steady pace, e.g. every 30 s: compares with all connected peers, puts
    /// questions that went unanswered to others, lets every author change its offer again, and
    /// drops cards no one needs.
    pub fn tick(&mut self) -> Vec<Action> {
        self.ticks = self.ticks.saturating_add(1);
        self.begin_tick::<OfferKind>();
        self.begin_tick::<CharterKind>();
        self.begin_tick::<ObservationKind>();
        self.conducts.begin_tick(self.ticks);
        self.cards.begin_tick(self.ticks);
        self.efforts.begin_tick(self.ticks);
        self.works.begin_tick(self.ticks);
        self.spread.begin_tick(self.ticks);
        self.asked_cards.expire(self.ticks);
        let mut batch = Batch::default();
        batch.answers.extend(self.answers.begin_tick());
        self.tick_kind::<CharterKind>(&mut batch);
        self.tick_kind::<OfferKind>(&mut batch);
        self.tick_kind::<ObservationKind>(&mut batch);
        self.weigh_again();
        self.ask_missing_cards(&mut batch);
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
        let offers = self.sealed::<OfferKind>();
        let charters = self.sealed::<CharterKind>();
        let observations = self.sealed::<ObservationKind>();
        let cards = self.cards.iter();
        let cards = cards.map(|(id, card)| (record::card_name(id), record::seal_card(card)));
        offers.chain(charters).chain(observations).chain(cards)
    }

    fn sealed<K: Kind>(&self) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
        let documents = K::shelf(self).documents.iter();
        documents.map(|(author, log)| {
            let bytes = record::seal(&self.mesh, log);
            (record::name(K::CATEGORY, author), bytes)
        })
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
        let changed = batch.evicted.union(&batch.touched);
        let offers = changed.filter(|(category, _)| *category == Category::Offers);
        let mut authors: BTreeSet<PeerId> = offers.map(|(_, author)| *author).collect();
        authors.extend(&batch.relisted);
        let same = cards.is_empty()
            && authors.is_empty()
            && batch.lost_cards.is_empty()
            && batch.charter.is_none();
        if !same {
            // Readers hold the one before: what differs is copied, the rest shared.
            let index = Arc::make_mut(&mut self.index);
            if let Some(charter) = &batch.charter {
                index.set_charter(Arc::clone(charter));
            }
            for author in &authors {
                let documents = &self.offers.documents;
                let out =
                    self.merged.charter.is_revoked(author) || documents.contradicts_itself(author);
                match documents.get(author).filter(|_| !out) {
                    Some(log) => index.set_offer(*author, Arc::clone(log.said()), |id| {
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
        }
        // What is offered now decides what is weighed.
        let observed = self.weigh_changed(batch, &authors);
        if same && observed.is_empty() {
            return false;
        }
        let index = Arc::make_mut(&mut self.index);
        for (expert, weighed) in observed {
            index.set_observed(expert, weighed);
        }
        true
    }

    fn seal_of<K: Kind>(&self, author: &PeerId) -> Option<Vec<u8>> {
        let log = K::shelf(self).documents.get(author)?;
        Some(record::seal(&self.mesh, log))
    }

    /// Puts actions into the order they must be done in.
    pub(crate) fn finish(&mut self, mut batch: Batch) -> Vec<Action> {
        // The first may begin a document of our own anew.
        for _ in 0..2 {
            if self.merge_due {
                self.remerge(&mut batch);
            }
        }
        let leftover = std::mem::take(&mut self.leftover).into_iter();
        let leftover = leftover.map(|author| (Category::Observations, author));
        batch.evicted.extend(leftover);
        let changed = self.patch_index(&batch);
        let mut actions: Vec<Action> = batch
            .evicted
            .iter()
            .map(|(category, author)| Action::Remove {
                name: record::name(*category, author),
            })
            .collect();
        actions.extend(batch.lost_cards.iter().map(|id| Action::Remove {
            name: record::card_name(id),
        }));
        actions.extend(batch.stores);
        for (category, author) in batch.touched.union(&batch.noted) {
            let bytes = match category {
                Category::Offers => self.seal_of::<OfferKind>(author),
                Category::Charter => self.seal_of::<CharterKind>(author),
                Category::Observations => self.seal_of::<ObservationKind>(author),
            };
            if let Some(bytes) = bytes {
                let name = record::name(*category, author);
                actions.push(Action::Store { name, bytes });
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
pub(crate) struct Batch {
    stores: Vec<Action>,
    /// Documents whose record must be written anew, as they have changed.
    touched: BTreeSet<(Category, PeerId)>,
    /// Documents whose record must be written anew though they are the same.
    noted: BTreeSet<(Category, PeerId)>,
    /// Documents whose record must go; those that came back since are among the touched too.
    evicted: BTreeSet<(Category, PeerId)>,
    /// Peers that were shut out, or no longer are, or have a role, or no longer have one.
    relisted: BTreeSet<PeerId>,
    /// The charter, if it changed.
    charter: Option<Arc<Charter>>,
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
