//! The state machine: what the node does with its own offer, and what it does for others.

mod sync;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use polymath_proto::v1::SyncFrame;
use polymath_types::{
    CardError, ExpertCard, ExpertId, Index, MeshId, NodeKey, PeerId, VersionMismatch,
};

use crate::{
    CatalogLimits, Counters, FRAME_BYTES, RecordError, Refusal,
    asks::Asks,
    cards::Cards,
    document::View,
    frames,
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

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Software and version.
    pub agent: String,
    /// Where it can be dialled (multiaddr text); order does not matter.
    pub addresses: Vec<String>,
    /// What it hosts; the cards must have been added. Order does not matter.
    pub experts: Vec<ExpertId>,
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

/// Why an offer cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// More than an offer may hold.
    #[error("an offer holds at most {limit} {what}, not {found}; leave some out")]
    TooMany {
        /// Addresses or experts.
        what: &'static str,
        /// How many there were.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Longer than it may be, or with control characters.
    #[error("the {what} '{}' must be at most {limit} bytes without control characters", text.escape_debug())]
    Text {
        /// Address or agent.
        what: &'static str,
        /// The text.
        text: String,
        /// Its bound, bytes.
        limit: usize,
    },
    /// Peers could not fetch the card.
    #[error(
        "the card of expert {0} was not added to the catalog; add it before offering the expert"
    )]
    NoCard(ExpertId),
    /// Automerge or the key refused; a fresh document was tried too.
    #[error(
        "the offer document could not be written ({0}); restart the node with an empty catalog folder"
    )]
    Document(Refusal),
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

#[derive(Debug, Default)]
struct Connected {
    faults: u32,
    last: Option<Refusal>,
}

/// Versions of our own document that others hold and we do not know.
#[derive(Debug, Default)]
struct Forks {
    /// The highest epoch seen in one; our next document is above it.
    epoch: u64,
    /// A new epoch was begun since the last tick; another waits for the next one, so that two
    /// nodes with one key cannot drive each other on without end.
    rolled: bool,
    due: bool,
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
    peers: BTreeMap<PeerId, Connected>,
    asked_offers: Asks<PeerId>,
    asked_cards: Asks<ExpertId>,
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
            peers: BTreeMap::new(),
            asked_offers: Asks::new(limits.authors),
            asked_cards: Asks::new(limits.cards),
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
        recovered.offers = catalog.offers.iter().count();
        recovered.cards = catalog.cards.len();
        catalog.rebuild_index();
        (catalog, recovered)
    }

    fn restore(&mut self, record: Record) -> Result<(), RecordError> {
        let fits = match record {
            Record::Card(id, card) => self.cards.restore(id, card, &self.limits),
            Record::Offer(author, log) => {
                let experts: Vec<ExpertId> = log.view().experts.iter().copied().collect();
                let fits = self.offers.get(&author).is_none()
                    && self.offers.restore(author, log, &self.me, &self.limits);
                if fits {
                    self.cards.reference(&experts, &[]);
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
            batch.index |= self.cards.is_referenced(&id);
            self.asked_cards.close(&id);
        }
    }

    /// Says what this node offers from now on: one signed change of its document, or nothing when
    /// the document says it already.
    pub fn set_offer(&mut self, offer: Offer) -> Result<Vec<Action>, OfferError> {
        let view = self.check_offer(offer)?;
        let mut batch = Batch::default();
        let (epoch, sequence) = self.offers.position(&self.me);
        let grown = sequence >= self.limits.roll_after as u64
            || self.offers.document_bytes(&self.me) + self.limits.change_bytes
                > self.limits.document_bytes;
        let unchanged = self
            .offers
            .get(&self.me)
            .is_some_and(|own| *own.view() == view);
        if unchanged {
            return Ok(Vec::new());
        }
        let written = if grown || epoch <= self.forks.epoch {
            None
        } else {
            self.write_own(epoch, view.clone(), &mut batch).ok()
        };
        if written.is_none() {
            // Also the way out of a document that cannot be continued.
            self.begin_epoch(view, &mut batch)
                .map_err(OfferError::Document)?;
        }
        Ok(self.finish(batch))
    }

    fn check_offer(&self, offer: Offer) -> Result<View, OfferError> {
        let Offer {
            agent,
            addresses,
            experts,
        } = offer;
        let addresses: BTreeSet<String> = addresses.into_iter().collect();
        let experts: BTreeSet<ExpertId> = experts.into_iter().collect();
        let l = &self.limits;
        for (what, found, limit) in [
            ("addresses", addresses.len(), l.addresses),
            ("experts", experts.len(), l.experts),
        ] {
            if found > limit {
                return Err(OfferError::TooMany { what, found, limit });
            }
        }
        let texts = addresses
            .iter()
            .map(|a| ("address", a, CatalogLimits::ADDRESS_BYTES));
        for (what, text, limit) in texts.chain([("agent", &agent, CatalogLimits::AGENT_BYTES)]) {
            if text.len() > limit || text.chars().any(char::is_control) {
                return Err(OfferError::Text {
                    what,
                    text: text.chars().take(limit).collect(),
                    limit,
                });
            }
        }
        if let Some(id) = experts.iter().find(|id| self.cards.get(id).is_none()) {
            return Err(OfferError::NoCard(*id));
        }
        Ok(View {
            agent,
            addresses: addresses.into_iter().collect(),
            experts,
        })
    }

    /// Starts a fresh document above every epoch of ours that anyone has seen.
    fn begin_epoch(&mut self, view: View, batch: &mut Batch) -> Result<(), Refusal> {
        let last = self.offers.position(&self.me).0.max(self.forks.epoch);
        self.write_own(last.checked_add(1).ok_or(Refusal::Continuity)?, view, batch)
    }

    fn write_own(&mut self, epoch: u64, view: View, batch: &mut Batch) -> Result<(), Refusal> {
        let before = self.offers.position(&self.me);
        if let Some((added, removed)) = self.offers.write(&self.key, &self.mesh, epoch, view)? {
            self.cards.reference(&added, &removed);
            batch.touched.insert(self.me);
            batch.index = true;
            if let Some(own) = self.offers.get(&self.me) {
                let changes = own.after(before).to_vec();
                for peer in self.peers.keys() {
                    batch.send(*peer, frames::offers(changes.clone()));
                }
            }
        }
        Ok(())
    }

    /// Called at a steady pace, e.g. every 10 s: repeats the digest to all connected peers, puts
    /// questions that went unanswered to others, lets every author change its offer again, and
    /// drops cards no one needs.
    pub fn tick(&mut self) -> Vec<Action> {
        self.ticks += 1;
        self.offers.begin_tick(self.ticks);
        self.asked_offers.expire(self.ticks);
        self.asked_cards.expire(self.ticks);
        let mut batch = Batch::default();
        self.forks.rolled = false;
        if self.forks.due {
            self.resolve_fork(&mut batch);
        }
        let digest = self.digest();
        for peer in self.peers.keys() {
            batch.send(*peer, digest.clone());
        }
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

    /// What was taken and refused so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn rebuild_index(&mut self) {
        let peers = self
            .offers
            .iter()
            .map(|(peer, log)| (*peer, log.to_offer()))
            .collect();
        self.index = Arc::new(Index::build(peers, |id| self.cards.get(id).cloned()));
    }

    /// Puts actions into the order they must be done in.
    fn finish(&mut self, batch: Batch) -> Vec<Action> {
        let mut actions: Vec<Action> = batch
            .evicted
            .iter()
            .map(|author| Action::Remove {
                name: record::offer_name(author),
            })
            .collect();
        actions.extend(batch.stores);
        for author in batch.touched {
            if let Some(log) = self.offers.get(&author) {
                actions.push(Action::Store {
                    name: record::offer_name(&author),
                    bytes: record::seal_offer(&self.mesh, log),
                });
            }
        }
        if batch.index {
            self.rebuild_index();
            actions.push(Action::IndexChanged);
        }
        actions.extend(batch.sends);
        actions
    }
}

/// What one call leads to, before it is put in order.
#[derive(Debug, Default)]
struct Batch {
    stores: Vec<Action>,
    /// Authors whose record must be written anew.
    touched: BTreeSet<PeerId>,
    /// Authors whose record must go; those that came back since are among the touched too.
    evicted: BTreeSet<PeerId>,
    index: bool,
    sends: Vec<Action>,
}

impl Batch {
    fn store(&mut self, name: String, bytes: Vec<u8>) {
        self.stores.push(Action::Store { name, bytes });
    }

    fn send(&mut self, peer: PeerId, frames: Vec<SyncFrame>) {
        self.sends
            .extend(frames.into_iter().map(|frame| Action::Send { peer, frame }));
    }
}
