//! Offers: native maps `version`, `agent`, `addresses` list, `experts` map of expert id to map with
//! `accepting`. Keys that a later minor revision adds are ignored.

use std::{collections::BTreeSet, sync::Arc};

use automerge::{
    AutomergeError, ObjId, ObjType, ROOT, ReadDoc, Value,
    transaction::{Transactable, Transaction},
};
use polymath_types::{ExpertId, Format, PeerId, PeerOffer};
use prost::bytes::Bytes;

use super::{Bounds, Category, Kind};
use crate::{
    Catalog, CatalogLimits, Refusal,
    buckets::Position,
    catalog::Shelf,
    document::{Head, MAP_KEYS, Reader, bounded, text},
    limits::{CHANGE_BURST, CHANGES_A_TICK},
    record::DocumentRecord,
};

/// What a peer serves, in its own words.
#[derive(Debug)]
pub(crate) struct OfferKind;

/// What an offer document says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) agent: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) experts: BTreeSet<ExpertId>,
}

impl Kind for OfferKind {
    type View = View;
    /// The index has the same one.
    type Said = PeerOffer;

    const CATEGORY: Category = Category::Offers;
    const FORMAT: Format = Format::Offer;
    const DOMAIN: &'static [u8] = b"polymath offer change v1\0";
    const ACTOR: &'static str = "polymath offer actor v1";
    const RECORD: &'static str = "offer-";

    fn bounds(limits: &CatalogLimits) -> Bounds {
        Bounds {
            authors: limits.authors,
            bytes: limits.offer_bytes,
            roll_after: limits.roll_after,
            changes_per_epoch: limits.changes_per_epoch,
            document_bytes: limits.document_bytes,
            change_bytes: limits.change_bytes,
            operations: limits.operations,
            burst: CHANGE_BURST,
            changes_a_tick: CHANGES_A_TICK,
            change_cost: 1,
        }
    }

    fn said(view: View, (epoch, sequence): Position) -> PeerOffer {
        PeerOffer {
            addresses: view.addresses,
            agent: view.agent,
            sequence,
            epoch,
            experts: view.experts.into_iter().collect(),
        }
    }

    fn view(said: &PeerOffer) -> View {
        View {
            agent: said.agent.clone(),
            addresses: said.addresses.clone(),
            experts: said.experts.iter().copied().collect(),
        }
    }

    fn write(
        tx: &mut Transaction<'_>,
        from: Option<&View>,
        to: &View,
    ) -> Result<(), AutomergeError> {
        let (addresses, experts) = if from.is_some() {
            let object = |value: Option<(Value<'_>, ObjId)>| {
                value.map(|(_, id)| id).ok_or(AutomergeError::NotAnObject)
            };
            (
                object(tx.get(ROOT, "addresses")?)?,
                object(tx.get(ROOT, "experts")?)?,
            )
        } else {
            tx.put(ROOT, "version", u64::from(Format::Offer.current()))?;
            (
                tx.put_object(ROOT, "addresses", ObjType::List)?,
                tx.put_object(ROOT, "experts", ObjType::Map)?,
            )
        };
        if from.is_none_or(|f| f.agent != to.agent) {
            tx.put(ROOT, "agent", to.agent.as_str())?;
        }
        let empty = View::default();
        let from = from.unwrap_or(&empty);
        // Only the part of the list that differs.
        let (old, new) = (&from.addresses, &to.addresses);
        let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
        let end = old[start..]
            .iter()
            .rev()
            .zip(new[start..].iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        for _ in start..old.len() - end {
            tx.delete(&addresses, start)?;
        }
        for (at, address) in new.iter().enumerate().take(new.len() - end).skip(start) {
            tx.insert(&addresses, at, address.as_str())?;
        }
        for gone in from.experts.difference(&to.experts) {
            tx.delete(&experts, gone.to_string())?;
        }
        for added in to.experts.difference(&from.experts) {
            let entry = tx.put_object(&experts, added.to_string(), ObjType::Map)?;
            tx.put(&entry, "accepting", true)?;
        }
        Ok(())
    }

    fn read(document: &Reader<'_>, limits: &CatalogLimits) -> Result<View, Refusal> {
        let doc = document.0;
        document.check_root(Format::Offer)?;
        let agent = text(
            &document.scalar(&ROOT, "agent")?,
            CatalogLimits::AGENT_BYTES,
        )?;

        let list = document.object(&ROOT, "addresses", ObjType::List)?;
        let addresses = document.texts(&list, limits.addresses, CatalogLimits::ADDRESS_BYTES)?;

        let map = document.object(&ROOT, "experts", ObjType::Map)?;
        bounded(doc.length(&map), limits.experts)?;
        let mut experts = BTreeSet::new();
        for key in doc.keys(&map) {
            let id: ExpertId = key.parse().map_err(|_| Refusal::Schema)?;
            // One spelling an id, so that two keys cannot mean one expert.
            if id.to_string() != key {
                return Err(Refusal::Schema);
            }
            let entry = document.object(&map, &key, ObjType::Map)?;
            bounded(doc.length(&entry), MAP_KEYS)?;
            if document
                .scalar(&entry, "accepting")?
                .as_bool()
                .ok_or(Refusal::Schema)?
            {
                experts.insert(id);
            }
        }
        Ok(View {
            agent,
            addresses,
            experts,
        })
    }

    fn keep(said: &PeerOffer, record: &mut DocumentRecord) {
        let experts = said.experts.iter();
        record.agent.clone_from(&said.agent);
        record.addresses.clone_from(&said.addresses);
        record.experts = experts
            .map(|e| Bytes::copy_from_slice(e.as_bytes()))
            .collect();
    }

    fn kept(_: &PeerId, _: u64, _: Head, record: &DocumentRecord) -> Option<View> {
        let experts = record.experts.iter();
        Some(View {
            agent: record.agent.clone(),
            addresses: record.addresses.clone(),
            experts: experts
                .map(|e| ExpertId::try_from(e.as_ref()).ok())
                .collect::<Option<_>>()?,
        })
    }

    fn shelf(catalog: &Catalog) -> &Shelf<Self> {
        &catalog.offers
    }

    fn shelf_mut(catalog: &mut Catalog) -> &mut Shelf<Self> {
        &mut catalog.offers
    }

    fn admits(_: &Catalog, _: &PeerId) -> bool {
        true
    }

    /// Cards are kept as long as an offer names them.
    fn became(catalog: &mut Catalog, before: &Arc<PeerOffer>, after: &Arc<PeerOffer>) {
        let lacking = |from: &PeerOffer, what: &PeerOffer| -> Vec<ExpertId> {
            let from: BTreeSet<&ExpertId> = from.experts.iter().collect();
            let gone = what.experts.iter().filter(|id| !from.contains(id));
            gone.copied().collect()
        };
        let (added, removed) = (lacking(before, after), lacking(after, before));
        catalog.cards.reference(&added, &removed);
    }

    /// What a node serves it knows best itself. Without a document of our own there is nothing to
    /// repeat; the next offer steps over theirs.
    fn after_fork(own: Option<View>, _: Option<View>) -> Option<View> {
        own
    }
}
