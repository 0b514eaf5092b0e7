//! Offers: native maps `version`, `agent`, `addresses` list, `experts` map of expert id to map with
//! `accepting`. Of the second minor revision: whole numbers `price_in`, `price_out` (millionths of a
//! credit for 1,000 tokens), `context` (tokens) and `concurrency` (calls) of an expert, each 0 where it is
//! left out, and a map `labels` of text to text. Keys that a later one adds are ignored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use automerge::{
    AutomergeError, ObjId, ObjType, ROOT, ReadDoc, Value,
    transaction::{Transactable, Transaction},
};
use polymath_types::{ExpertId, Format, PeerId, PeerOffer, Terms};
use prost::bytes::Bytes;

use super::{Bounds, Category, Kind};
use crate::{
    Catalog, CatalogLimits, Refusal,
    buckets::Position,
    catalog::Shelf,
    document::{Document, Head, MAP_KEYS, Reader, bounded, text, whole},
    limits::{CHANGE_BURST, CHANGES_A_TICK, EXPERT_BYTES},
    record::{DocumentRecord, TermsRecord},
};

/// The schema's minor revision: one more for every key that is read.
const MINOR: u32 = 2;

/// What a peer serves, in its own words.
#[derive(Debug)]
pub(crate) struct OfferKind;

/// What an offer document says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) agent: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) experts: BTreeSet<ExpertId>,
    /// Of some of them, none the default.
    pub(crate) terms: BTreeMap<ExpertId, Terms>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl View {
    fn terms_of(&self, expert: &ExpertId) -> Terms {
        self.terms.get(expert).copied().unwrap_or_default()
    }
}

/// The terms as they stand in an expert's entry.
fn numbers(terms: Terms) -> [(&'static str, u64); 4] {
    [
        ("price_in", terms.price_in),
        ("price_out", terms.price_out),
        ("context", terms.context.into()),
        ("concurrency", terms.concurrency.into()),
    ]
}

/// Whether a label of a peer can be: it is shown on terminals, and written as `KEY=VALUE`, several with
/// commas between them.
pub fn is_label(key: &str, value: &str) -> bool {
    let (keys, values) = CatalogLimits::LABEL_BYTES;
    let fits = |text: &str, most: usize| {
        (1..=most).contains(&text.len())
            && text.trim() == text
            && !text.contains(|c: char| c.is_control() || is_unseen(c) || c == '=')
    };
    fits(key, keys) && fits(value, values) && !key.contains(',')
}

/// Characters that are not seen themselves and change what is: Unicode's format characters, such as those of
/// zero width and those that turn the direction, and its separators of lines and paragraphs (`General_Category`
/// Cf, Zl, Zp of Unicode 16).
pub(crate) fn is_unseen(c: char) -> bool {
    matches!(
        u32::from(c),
        0x00AD
            | 0x0600..=0x0605
            | 0x061C
            | 0x06DD
            | 0x070F
            | 0x0890..=0x0891
            | 0x08E2
            | 0x180E
            | 0x200B..=0x200F
            | 0x2028..=0x202E
            | 0x2060..=0x2064
            | 0x2066..=0x206F
            | 0xFEFF
            | 0xFFF9..=0xFFFB
            | 0x1_10BD
            | 0x1_10CD
            | 0x1_3430..=0x1_343F
            | 0x1_BCA0..=0x1_BCA3
            | 0x1_D173..=0x1_D17A
            | 0xE_0001
            | 0xE_0020..=0xE_007F
    )
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
            epoch_operations: limits.operations * 8,
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
            terms: view.terms,
            labels: view.labels,
        }
    }

    fn weight(said: &Self::Said) -> usize {
        said.experts.len() * EXPERT_BYTES
    }

    fn view(said: &PeerOffer) -> View {
        View {
            agent: said.agent.clone(),
            addresses: said.addresses.clone(),
            experts: said.experts.iter().copied().collect(),
            terms: said.terms.clone(),
            labels: said.labels.clone(),
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
        for expert in &to.experts {
            let known = from.experts.contains(expert);
            let (before, after) = (from.terms_of(expert), to.terms_of(expert));
            if known && before == after {
                continue;
            }
            let entry = match tx.get(&experts, expert.to_string())? {
                Some((_, entry)) if known => entry,
                _ => {
                    let entry = tx.put_object(&experts, expert.to_string(), ObjType::Map)?;
                    tx.put(&entry, "accepting", true)?;
                    entry
                }
            };
            for ((key, before), (_, after)) in numbers(before).into_iter().zip(numbers(after)) {
                match after {
                    _ if before == after => {}
                    0 => tx.delete(&entry, key)?,
                    _ => tx.put(&entry, key, after)?,
                }
            }
        }
        write_labels(tx, &from.labels, &to.labels)
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
        let (mut experts, mut terms) = (BTreeSet::new(), BTreeMap::new());
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
                let stated = read_terms(document, &entry)?;
                if stated != Terms::default() {
                    terms.insert(id, stated);
                }
            }
        }
        Ok(View {
            agent,
            addresses,
            experts,
            terms,
            labels: read_labels(document)?,
        })
    }

    fn keep(said: &PeerOffer, record: &mut DocumentRecord) {
        let experts = said.experts.iter();
        record.minor = MINOR;
        record.agent.clone_from(&said.agent);
        record.addresses.clone_from(&said.addresses);
        record.experts = experts
            .map(|e| Bytes::copy_from_slice(e.as_bytes()))
            .collect();
        record.terms = said.terms.iter().map(TermsRecord::from).collect();
        record.labels.clone_from(&said.labels);
    }

    fn kept(author: &PeerId, epoch: u64, head: Head, record: &DocumentRecord) -> Option<View> {
        // An earlier build passed over what it did not know; the changes have it.
        if record.minor < MINOR
            && let Ok(document) = Document::replay::<Self>(author, epoch, &record.changes, head)
            && let Ok(view) = document.view::<Self>(&CatalogLimits::default())
        {
            return Some(view);
        }
        let experts = record.experts.iter();
        Some(View {
            agent: record.agent.clone(),
            addresses: record.addresses.clone(),
            experts: experts
                .map(|e| ExpertId::try_from(e.as_ref()).ok())
                .collect::<Option<_>>()?,
            terms: record
                .terms
                .iter()
                .map(TermsRecord::terms)
                .collect::<Option<_>>()?,
            labels: record.labels.clone(),
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

fn write_labels(
    tx: &mut Transaction<'_>,
    from: &BTreeMap<String, String>,
    to: &BTreeMap<String, String>,
) -> Result<(), AutomergeError> {
    if from == to {
        return Ok(());
    }
    let labels = match tx.get(ROOT, "labels")? {
        Some((_, labels)) => labels,
        None => tx.put_object(ROOT, "labels", ObjType::Map)?,
    };
    for gone in from.keys().filter(|key| !to.contains_key(*key)) {
        tx.delete(&labels, gone.as_str())?;
    }
    for (key, value) in to
        .iter()
        .filter(|(key, value)| from.get(*key) != Some(value))
    {
        tx.put(&labels, key.as_str(), value.as_str())?;
    }
    Ok(())
}

fn read_terms(document: &Reader<'_>, entry: &ObjId) -> Result<Terms, Refusal> {
    let number = |key: &str| match document.0.get(entry, key) {
        Ok(None) => Ok(0),
        Ok(Some((value, _))) => whole(&value).ok_or(Refusal::Schema),
        Err(_) => Err(Refusal::Schema),
    };
    let price = |key| number(key).and_then(at_most(Terms::HIGHEST_PRICE));
    let small = |key| {
        let number = number(key)?;
        u32::try_from(number).map_err(|_| Refusal::Schema)
    };
    Ok(Terms {
        price_in: price("price_in")?,
        price_out: price("price_out")?,
        context: small("context")?,
        concurrency: small("concurrency")?,
    })
}

fn at_most(most: u64) -> impl Fn(u64) -> Result<u64, Refusal> {
    move |number| Some(number).filter(|n| *n <= most).ok_or(Refusal::Schema)
}

fn read_labels(document: &Reader<'_>) -> Result<BTreeMap<String, String>, Refusal> {
    let doc = document.0;
    if doc
        .get(&ROOT, "labels")
        .map_err(|_| Refusal::Schema)?
        .is_none()
    {
        return Ok(BTreeMap::new());
    }
    let map = document.object(&ROOT, "labels", ObjType::Map)?;
    bounded(doc.length(&map), CatalogLimits::LABELS)?;
    let labels = doc.keys(&map).map(|key| {
        let value = text(&document.scalar(&map, &key)?, CatalogLimits::LABEL_BYTES.1)?;
        if is_label(&key, &value) {
            Ok((key, value))
        } else {
            Err(Refusal::Schema)
        }
    });
    labels.collect()
}

impl From<(&ExpertId, &Terms)> for TermsRecord {
    fn from((expert, terms): (&ExpertId, &Terms)) -> Self {
        Self {
            expert: Bytes::copy_from_slice(expert.as_bytes()),
            price_in: terms.price_in,
            price_out: terms.price_out,
            context: terms.context,
            concurrency: terms.concurrency,
        }
    }
}

impl TermsRecord {
    fn terms(&self) -> Option<(ExpertId, Terms)> {
        let terms = Terms {
            price_in: self.price_in,
            price_out: self.price_out,
            context: self.context,
            concurrency: self.concurrency,
        };
        Some((ExpertId::try_from(self.expert.as_ref()).ok()?, terms))
    }
}

#[cfg(test)]
mod tests {
    use super::is_label;

    #[test]
    fn labels_say_what_is_seen() {
        for good in ["berlin", "Zürich", "東京", "a b", "a, b"] {
            assert!(is_label("office", good), "{good}");
        }
        let unseen =
            "\u{202e}\u{200b}\u{200d}\u{2066}\u{2028}\u{2029}\u{feff}\u{ad}\u{61c}\u{e0041}";
        for c in unseen.chars().chain("\n\u{1b}=".chars()) {
            let text = format!("a{c}b");
            assert!(!is_label("office", &text), "{text:?}");
            assert!(!is_label(&text, "berlin"), "{text:?}");
        }
        assert!(!is_label("office,rack", "berlin"));
    }
}
