//! This node's own offer: how it is written, and what is done when others hold another one.

use std::collections::BTreeSet;

use polymath_types::ExpertId;

use super::{Action, Batch, Catalog};
use crate::{CatalogLimits, Refusal, document::View, frames};

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

/// Versions of our own document that others hold and we do not know.
#[derive(Debug, Default)]
pub(super) struct Forks {
    /// The highest epoch seen in one; our next document is above it.
    pub(super) epoch: u64,
    /// A new epoch was begun since the last tick; another waits for the next one, so that two
    /// nodes with one key cannot drive each other on without end.
    pub(super) rolled: bool,
    pub(super) due: bool,
}

impl Catalog {
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
            .is_some_and(|own| own.view() == view);
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
            if let Some(own) = self.offers.get(&self.me) {
                let changes = own.after(before);
                for peer in &self.peers {
                    batch.send(*peer, frames::offers(changes.clone()));
                }
            }
        }
        Ok(())
    }

    /// Steps over every version of our document that others hold, with what it says now.
    pub(super) fn resolve_fork(&mut self, batch: &mut Batch) {
        self.forks.due = false;
        // Without a document of our own there is nothing to repeat; `set_offer` will step over.
        let Some(own) = self.offers.get(&self.me) else {
            return;
        };
        if own.position().0 > self.forks.epoch {
            return;
        }
        self.forks.rolled = true;
        tracing::warn!(
            epoch = self.forks.epoch,
            "peers hold an offer of this node that is not in its storage; starting a new epoch above it"
        );
        if let Err(refusal) = self.begin_epoch(own.view(), batch) {
            tracing::error!(%refusal, "the offer document could not be started anew");
        }
    }
}
