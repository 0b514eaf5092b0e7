//! This node's own offer: what it may say.

use std::collections::{BTreeMap, BTreeSet};

use polymath_types::{ExpertId, Terms};

use super::{Action, Batch, Catalog};
use crate::{
    CatalogLimits, Refusal,
    kind::offer::{OfferKind, View, is_label},
};

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Software and version.
    pub agent: String,
    /// Where it can be dialled (multiaddr text); order does not matter.
    pub addresses: Vec<String>,
    /// What it hosts; the cards must have been added. Order does not matter.
    pub experts: Vec<ExpertId>,
    /// On which terms; of experts it does not host they are left out.
    pub terms: BTreeMap<ExpertId, Terms>,
    /// What its operator calls this node, e.g. `office` and `berlin`.
    pub labels: BTreeMap<String, String>,
}

/// Why an offer cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// More than an offer may hold.
    #[error("an offer holds at most {limit} {what}, not {found}; leave some out")]
    TooMany {
        /// Addresses, experts or labels.
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
    /// Empty, too long, or with characters that a label cannot have.
    #[error(
        "the label '{}' cannot be: a key of 1 to {} and a value of 1 to {} bytes, without '=', control characters and spaces around them",
        text.escape_debug(), CatalogLimits::LABEL_BYTES.0, CatalogLimits::LABEL_BYTES.1
    )]
    Label {
        /// Key and value.
        text: String,
    },
    /// Higher than a price may be.
    #[error(
        "{price} millionths of a credit for 1,000 tokens of expert {expert}: at most {} can be asked",
        Terms::HIGHEST_PRICE
    )]
    Price {
        /// Of whom.
        expert: ExpertId,
        /// What was to be asked.
        price: u64,
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

impl Catalog {
    /// Says what this node offers from now on: one signed change of its document, or nothing when
    /// the document says it already.
    pub fn set_offer(&mut self, offer: Offer) -> Result<Vec<Action>, OfferError> {
        let view = self.check_offer(offer)?;
        let mut batch = Batch::default();
        self.write_or_roll::<OfferKind>(view, &mut batch)
            .map_err(OfferError::Document)?;
        Ok(self.finish(batch))
    }

    fn check_offer(&self, offer: Offer) -> Result<View, OfferError> {
        let Offer {
            agent,
            addresses,
            experts,
            mut terms,
            labels,
        } = offer;
        let addresses: BTreeSet<String> = addresses.into_iter().collect();
        let experts: BTreeSet<ExpertId> = experts.into_iter().collect();
        let l = &self.limits;
        for (what, found, limit) in [
            ("addresses", addresses.len(), l.addresses),
            ("experts", experts.len(), l.experts),
            ("labels", labels.len(), CatalogLimits::LABELS),
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
        if let Some((key, value)) = labels.iter().find(|(k, v)| !is_label(k, v)) {
            let (most, more) = CatalogLimits::LABEL_BYTES;
            let text = format!("{key}={value}").chars().take(most + more).collect();
            return Err(OfferError::Label { text });
        }
        terms.retain(|id, stated| experts.contains(id) && *stated != Terms::default());
        for (id, stated) in &terms {
            let price = stated.price_in.max(stated.price_out);
            if price > Terms::HIGHEST_PRICE {
                return Err(OfferError::Price { expert: *id, price });
            }
        }
        Ok(View {
            agent,
            addresses: addresses.into_iter().collect(),
            experts,
            terms,
            labels,
        })
    }
}
