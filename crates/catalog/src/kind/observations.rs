//! Observations: what a peer has seen of experts, as counts and sums of rewards.
//!
//! Native maps `version` and `codebooks`: codebook id to expert id to `counts` and `rewards`, each of
//! cluster to integer. All ids are in hexadecimal digits, all keys have one spelling, and what has a count
//! has a reward. Keys that a later minor revision adds to the root or to an expert's entry are ignored.

use std::sync::Arc;

use automerge::{
    AutomergeError, ObjId, ObjType, ROOT, ReadDoc, Value,
    transaction::{Transactable, Transaction},
};
use polymath_types::{Cell, CodebookId, Evidence, ExpertId, Format, Observations, PeerId, Seen};
use prost::bytes::Bytes;

use super::{Bounds, Category, Kind};
use crate::{
    Catalog, CatalogLimits, Refusal,
    buckets::Position,
    catalog::Shelf,
    document::{Head, MAP_KEYS, Reader, bounded, whole},
    limits::{CELL_BYTES, OBSERVED, OBSERVED_LEAST},
    record::{DocumentRecord, SeenRecord},
};

/// What a peer has seen of experts.
#[derive(Debug)]
pub(crate) struct ObservationKind;

fn under(value: Option<(Value<'_>, ObjId)>) -> Result<ObjId, AutomergeError> {
    value.map(|(_, id)| id).ok_or(AutomergeError::NotAnObject)
}

/// The map under a key, made if it is not there.
fn map(tx: &mut Transaction<'_>, object: &ObjId, key: &str) -> Result<ObjId, AutomergeError> {
    let found = tx.get(object, key)?.map(|(_, id)| id);
    found.map_or_else(|| tx.put_object(object, key, ObjType::Map), Ok)
}

impl Kind for ObservationKind {
    type View = Observations;
    type Said = Observations;

    const CATEGORY: Category = Category::Observations;
    const FORMAT: Format = Format::Observations;
    const DOMAIN: &'static [u8] = b"polymath observations change v1\0";
    const ACTOR: &'static str = "polymath observations actor v1";
    const RECORD: &'static str = "observations-";

    fn bounds(limits: &CatalogLimits) -> Bounds {
        Bounds {
            authors: limits.observers,
            bytes: limits.observation_bytes,
            roll_after: limits.roll_after.min(OBSERVED.roll_after),
            changes_per_epoch: OBSERVED.changes_per_epoch,
            document_bytes: OBSERVED.document_bytes,
            change_bytes: OBSERVED.change_bytes,
            operations: OBSERVED.operations,
            epoch_operations: OBSERVED.operations * 4,
            burst: OBSERVED.burst * OBSERVED.ticks_a_change,
            changes_a_tick: 1,
            change_cost: OBSERVED.ticks_a_change,
        }
    }

    /// Cells of so few outcomes that no honest node tells them say nothing. They are no poison: another
    /// build may tell fewer.
    fn said(view: Observations, _: Position) -> Observations {
        let told = |(_, evidence): &(Cell, Evidence)| evidence.count >= OBSERVED_LEAST;
        if view.iter().all(|cell| told(&cell)) {
            view
        } else {
            view.iter().filter(told).collect()
        }
    }

    fn weight(said: &Observations) -> usize {
        said.len() * CELL_BYTES
    }

    fn view(said: &Observations) -> Observations {
        said.clone()
    }

    fn write(
        tx: &mut Transaction<'_>,
        from: Option<&Observations>,
        to: &Observations,
    ) -> Result<(), AutomergeError> {
        let codebooks = if from.is_some() {
            under(tx.get(ROOT, "codebooks")?)?
        } else {
            tx.put(ROOT, "version", u64::from(Format::Observations.current()))?;
            tx.put_object(ROOT, "codebooks", ObjType::Map)?
        };
        let empty = Observations::default();
        let from = from.unwrap_or(&empty);
        let has = |all: &Observations, book: &CodebookId| {
            all.seen().iter().any(|seen| seen.codebook == *book)
        };
        let mut gone = None;
        for seen in from.seen() {
            let (book, expert) = (&seen.codebook, &seen.expert);
            if !has(to, book) {
                if gone.replace(*book) != Some(*book) {
                    tx.delete(&codebooks, book.to_string())?;
                }
            } else if to.of(book, expert).is_empty() {
                let book = under(tx.get(&codebooks, book.to_string())?)?;
                tx.delete(&book, expert.to_string())?;
            }
        }
        for seen in to.seen() {
            let before = from.of(&seen.codebook, &seen.expert);
            if before == &*seen.cells {
                continue;
            }
            let book = map(tx, &codebooks, &seen.codebook.to_string())?;
            let entry = map(tx, &book, &seen.expert.to_string())?;
            let (counts, rewards) = (map(tx, &entry, "counts")?, map(tx, &entry, "rewards")?);
            let of = |cells: &[(u16, Evidence)], cluster: u16| {
                let at = cells.binary_search_by_key(&cluster, |(c, _)| *c).ok();
                at.map(|at| cells[at].1)
            };
            for (cluster, _) in before.iter().filter(|(c, _)| of(&seen.cells, *c).is_none()) {
                tx.delete(&counts, cluster.to_string())?;
                tx.delete(&rewards, cluster.to_string())?;
            }
            for (cluster, evidence) in &seen.cells {
                let known = of(before, *cluster);
                if known.is_none_or(|k| k.count != evidence.count) {
                    tx.put(&counts, cluster.to_string(), u64::from(evidence.count))?;
                }
                if known.is_none_or(|k| k.reward != evidence.reward) {
                    tx.put(&rewards, cluster.to_string(), u64::from(evidence.reward))?;
                }
            }
        }
        Ok(())
    }

    fn read(document: &Reader<'_>, _: &CatalogLimits) -> Result<Observations, Refusal> {
        let doc = document.0;
        document.check_root(Format::Observations)?;
        let codebooks = document.object(&ROOT, "codebooks", ObjType::Map)?;
        bounded(doc.length(&codebooks), OBSERVED.codebooks)?;
        let (mut cells, mut experts) = (Vec::new(), 0);
        for book in doc.keys(&codebooks) {
            let codebook: CodebookId = id(&book)?;
            let book = document.object(&codebooks, &book, ObjType::Map)?;
            experts = bounded(experts + doc.length(&book), OBSERVED.experts)?;
            for key in doc.keys(&book) {
                let expert: ExpertId = id(&key)?;
                let entry = document.object(&book, &key, ObjType::Map)?;
                bounded(doc.length(&entry), MAP_KEYS)?;
                let counts = document.object(&entry, "counts", ObjType::Map)?;
                let rewards = document.object(&entry, "rewards", ObjType::Map)?;
                let found = doc.length(&counts);
                bounded(cells.len() + found, OBSERVED.cells)?;
                if found == 0 || doc.length(&rewards) != found {
                    return Err(Refusal::Schema);
                }
                for key in doc.keys(&counts) {
                    let evidence = Evidence {
                        count: integer(document, &counts, &key)?,
                        reward: integer(document, &rewards, &key)?,
                    };
                    if !evidence.is_possible() {
                        return Err(Refusal::Schema);
                    }
                    let cluster = cluster(&key)?;
                    let cell = Cell {
                        codebook,
                        expert,
                        cluster,
                    };
                    cells.push((cell, evidence));
                }
            }
        }
        Ok(cells.into_iter().collect())
    }

    fn keep(said: &Observations, record: &mut DocumentRecord) {
        record.seen_of = said.seen().iter().map(SeenRecord::from).collect();
    }

    fn kept(_: &PeerId, _: u64, _: Head, record: &DocumentRecord) -> Option<Observations> {
        let groups: Option<Vec<Vec<_>>> = record.seen_of.iter().map(SeenRecord::cells).collect();
        Some(groups?.into_iter().flatten().collect())
    }

    fn shelf(catalog: &Catalog) -> &Shelf<Self> {
        &catalog.observations
    }

    fn shelf_mut(catalog: &mut Catalog) -> &mut Shelf<Self> {
        &mut catalog.observations
    }

    fn admits(catalog: &Catalog, _: &PeerId) -> bool {
        catalog.observing
    }

    /// They are weighed when the index is patched.
    fn became(_: &mut Catalog, _: &Arc<Observations>, _: &Arc<Observations>) {}

    /// What a node has seen it knows best itself; what it has forgotten comes with the next ones.
    fn after_fork(own: Option<Observations>, _: Option<Observations>) -> Option<Observations> {
        own
    }
}

/// An id in its one spelling.
fn id<T: std::str::FromStr + ToString>(key: &str) -> Result<T, Refusal> {
    let id: T = key.parse().map_err(|_| Refusal::Schema)?;
    if id.to_string() == key {
        Ok(id)
    } else {
        Err(Refusal::Schema)
    }
}

/// A cluster's number in its one spelling.
fn cluster(key: &str) -> Result<u16, Refusal> {
    let number: u16 = id(key)?;
    if number < OBSERVED.clusters {
        Ok(number)
    } else {
        Err(Refusal::Schema)
    }
}

fn integer(document: &Reader<'_>, map: &ObjId, key: &str) -> Result<u32, Refusal> {
    let number = whole(&document.scalar(map, key)?);
    number
        .and_then(|n| u32::try_from(n).ok())
        .ok_or(Refusal::Schema)
}

impl From<&Seen> for SeenRecord {
    fn from(seen: &Seen) -> Self {
        let cells = seen.cells.iter();
        Self {
            codebook: Bytes::copy_from_slice(seen.codebook.as_bytes()),
            expert: Bytes::copy_from_slice(seen.expert.as_bytes()),
            clusters: cells
                .clone()
                .map(|(cluster, _)| u32::from(*cluster))
                .collect(),
            counts: cells.clone().map(|(_, e)| e.count).collect(),
            rewards: cells.map(|(_, e)| e.reward).collect(),
        }
    }
}

impl SeenRecord {
    fn cells(&self) -> Option<Vec<(Cell, Evidence)>> {
        let codebook = CodebookId::try_from(self.codebook.as_ref()).ok()?;
        let expert = ExpertId::try_from(self.expert.as_ref()).ok()?;
        let whole = [self.counts.len(), self.rewards.len()] == [self.clusters.len(); 2];
        let numbers = self
            .clusters
            .iter()
            .zip(self.counts.iter().zip(&self.rewards));
        let cells = numbers.map(|(cluster, (count, reward))| {
            let cell = Cell {
                codebook,
                expert,
                cluster: u16::try_from(*cluster).ok()?,
            };
            let evidence = Evidence {
                count: *count,
                reward: *reward,
            };
            Some((cell, evidence))
        });
        whole.then(|| cells.collect()).flatten()
    }
}
