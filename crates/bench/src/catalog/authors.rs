//! Peers that make offers, each of its own four experts.

use std::sync::Arc;

use polymath_catalog::{Action, Catalog, CatalogConfig, Offer};
use polymath_proto::v1::{Offers, sync_frame::Frame};
use polymath_types::{
    ExpertCard, ExpertKind, Failure, LabelSet, Model, NodeKey, PeerId, Runtime, Sampling,
};

use super::{Records, config, failed};

/// The cards of one peer's experts.
pub(super) fn cards(number: usize) -> impl Iterator<Item = Arc<ExpertCard>> {
    (0..4).map(move |expert| {
        Arc::new(ExpertCard {
            version: 1,
            name: format!("expert-{number}-{expert}"),
            kind: ExpertKind::Generate,
            model: Model {
                name: "tiny".into(),
                runtime: Runtime::Trigram,
                files: Vec::new(),
                adapter: None,
                context_length: 2048,
                dimensions: 0,
                licence: "Apache-2.0".into(),
            },
            system: Some(format!(
                "You answer questions on subject {number}.{expert}."
            )),
            sampling: Sampling::default(),
            description: format!("Knows all about subject {number}.{expert}, and little else"),
            examples: Vec::new(),
            languages: Vec::new(),
            labels: LabelSet::None,
            capabilities: Vec::new(),
        })
    })
}

/// A peer that has made an offer. Its catalog is opened when it writes: thousands of them would be what
/// is measured.
pub(super) struct Author {
    number: usize,
    pub(super) key: NodeKey,
    stored: Records,
    version: usize,
}

impl Author {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            key: NodeKey::generate(),
            stored: Records::new(),
            version: 0,
        }
    }

    /// Writes the next change, and sends it: one of three addresses is another.
    pub(super) fn next(&mut self) -> Result<Offers, Failure> {
        let config = CatalogConfig {
            unix: 0,
            key: self.key.clone(),
            ..config()
        };
        let (mut catalog, _) = Catalog::open(config, std::mem::take(&mut self.stored));
        // Somebody to tell it to.
        let _ = catalog.peer_connected(PeerId::random());
        let mut actions = catalog
            .set_cards(cards(self.number))
            .map_err(|e| failed("a card", e))?;
        let offered = catalog.set_offer(self.offer());
        actions.extend(offered.map_err(|e| failed("an offer", e))?);
        let mut sent = None;
        for action in actions {
            match action {
                Action::Store { name, bytes } => {
                    self.stored.insert(name, bytes);
                }
                Action::Send { frame, .. } => {
                    if let Some(Frame::Offers(offers)) = frame.frame {
                        sent = Some(offers);
                    }
                }
                _ => {}
            }
        }
        sent.ok_or_else(|| failed("an offer", "it made no change"))
    }

    fn offer(&mut self) -> Offer {
        self.version += 1;
        let (high, low) = (self.number / 256, self.number % 256);
        let (number, version) = (self.number, self.version);
        Offer {
            agent: "polymath/0.1.0".into(),
            addresses: vec![
                format!("/ip4/10.7.{high}.{low}/tcp/4001"),
                format!("/ip4/10.7.{high}.{low}/udp/4001/quic-v1"),
                format!("/ip6/2001:db8:7:{number:x}::{version:x}/udp/4001/quic-v1"),
            ],
            experts: cards(self.number).map(|c| c.id()).collect(),
            ..Offer::default()
        }
    }
}
