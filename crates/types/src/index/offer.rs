//! What one peer's offer says, as the index has it.

use std::{collections::BTreeMap, sync::Arc};

use libp2p_identity::PeerId;

use crate::{ExpertCard, ExpertId};

/// On which terms a peer serves an expert, in its own words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// Millionths of a credit for 1,000 tokens of the prompt; 0 is free.
    pub price_in: u64,
    /// The same of the answer.
    pub price_out: u64,
    /// Longest prompt and answer together, tokens; 0 leaves it at what the card says.
    pub context: u32,
    /// Calls computed at once; 0 is not stated.
    pub concurrency: u32,
}

impl Terms {
    /// No price is higher: a million credits.
    pub const HIGHEST_PRICE: u64 = 1_000_000_000_000;
    /// Millionths in a credit.
    pub const CREDIT: u64 = 1_000_000;

    /// A thousand tokens each way.
    pub const fn price(self) -> u64 {
        self.price_in.saturating_add(self.price_out)
    }

    /// What so many tokens of a prompt and of its answer cost, millionths of a credit, rounded up.
    pub fn cost(self, prompt: u64, answer: u64) -> u64 {
        let of = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let thousandths = of(prompt, self.price_in) + of(answer, self.price_out);
        u64::try_from(thousandths.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// Longest prompt and answer together, tokens, of an expert of this card; 0 where it does not apply.
    pub fn context_of(self, card: &ExpertCard) -> u32 {
        match (self.context, card.model.context_length) {
            (0, stated) => stated,
            (limit, 0) => limit,
            (limit, stated) => limit.min(stated),
        }
    }
}

/// A peer that serves an expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The peer.
    pub peer: PeerId,
    /// Whether the offer says that the expert takes calls now.
    pub accepting: bool,
    /// On which terms.
    pub terms: Terms,
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

impl IndexedExpert {
    /// Who serves it for least, a thousand tokens each way.
    pub fn cheapest(&self) -> Option<&Replica> {
        self.replicas.iter().min_by_key(|r| r.terms.price())
    }

    /// What the cheapest of those who serve it asks for a thousand tokens each way.
    pub fn lowest_price(&self) -> u64 {
        self.cheapest().map_or(0, |r| r.terms.price())
    }
}

/// What one peer's offer says of the peer itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// On which terms, of those for whom it states any.
    pub terms: BTreeMap<ExpertId, Terms>,
    /// What its operator calls it, e.g. `office` and `berlin`.
    pub labels: BTreeMap<String, String>,
}

impl PeerOffer {
    /// On which terms it serves an expert.
    pub fn terms_of(&self, expert: &ExpertId) -> Terms {
        self.terms.get(expert).copied().unwrap_or_default()
    }
}
