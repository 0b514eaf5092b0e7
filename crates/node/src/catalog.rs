//! What a person may see of the catalog, and carry from node to node.

use std::{collections::BTreeMap, sync::Arc};

use polymath_catalog::{Action, Catalog, CatalogConfig, Counters};
use polymath_proto::v1::{self, SyncFrame, catalog_event::Event};
use polymath_types::{ErrorKind, Failure, Index, MeshId, PeerId, PeerOffer, Terms};
use tokio::sync::mpsc;

use crate::{
    Home, HomeLock, Node, charter,
    records::{Changes, RecordStore, Records},
};

/// Events on their way to whoever watches; while there is no room, changes are gathered.
const EVENTS: usize = 64;

impl Node {
    /// Every record of the catalog's store.
    pub(crate) async fn catalog_records(&self) -> Result<Records, Failure> {
        self.inner.sync.records().await
    }

    /// Takes what a file holds.
    pub(crate) async fn import_catalog(
        &self,
        frames: Vec<SyncFrame>,
    ) -> Result<v1::CatalogImportResponse, Failure> {
        let (before, after) = self.inner.sync.import(frames).await?;
        Ok(between(&before, &after))
    }

    /// Every offer that is known, and the charter; then what changes.
    pub(crate) fn watch_catalog(&self) -> mpsc::Receiver<v1::CatalogEvent> {
        let (events, watching) = mpsc::channel(EVENTS);
        let (node, mut changed) = (self.clone(), self.inner.sync.changed());
        let cancel = self.inner.cancel.clone();
        self.inner.tasks.spawn(async move {
            let mut known = BTreeMap::new();
            let mut laid_down = None;
            let mut complete = false;
            loop {
                changed.mark_unchanged();
                let index = node.inner.index.load_full();
                let mut news = difference(&mut known, &index);
                if laid_down.as_ref() != Some(index.charter()) {
                    news.push(Event::Charter(charter::to_proto(index.charter())));
                    laid_down = Some(Arc::clone(index.charter()));
                }
                if !std::mem::replace(&mut complete, true) {
                    news.push(Event::Complete(true));
                }
                for event in news {
                    let event = Some(event);
                    if events.send(v1::CatalogEvent { event }).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = events.closed() => return,
                    more = changed.changed() => if more.is_err() {
                        return;
                    },
                }
            }
        });
        watching
    }
}

/// What is new in `index` to whoever knows `known`, which is brought up to it.
fn difference(known: &mut BTreeMap<PeerId, Arc<(PeerOffer, usize)>>, index: &Index) -> Vec<Event> {
    let mut events = Vec::new();
    let gone: Vec<PeerId> = known
        .keys()
        .filter(|peer| !index.peers().contains_key(peer))
        .copied()
        .collect();
    for peer in gone {
        known.remove(&peer);
        events.push(Event::Gone(peer.to_string()));
    }
    for (peer, offer) in index.peers().iter() {
        // A card that comes late is news too.
        let named = offer.experts.iter().filter(|id| index.expert(id).is_some());
        let named = named.count();
        let before = known.get(peer);
        if before.is_none_or(|b| b.0 != *offer || b.1 != named) {
            known.insert(*peer, Arc::new((offer.clone(), named)));
            events.push(Event::Offer(to_proto(peer, offer, index)));
        }
    }
    events
}

fn to_proto(peer: &PeerId, offer: &PeerOffer, index: &Index) -> v1::CatalogOffer {
    let experts = offer.experts.iter().map(|id| v1::CatalogExpert {
        id: id.to_string(),
        name: index
            .expert(id)
            .map(|e| e.card.name.clone())
            .unwrap_or_default(),
        terms: Some(terms_to_proto(offer.terms_of(id))),
    });
    v1::CatalogOffer {
        peer: peer.to_string(),
        epoch: offer.epoch,
        sequence: offer.sequence,
        agent: offer.agent.clone(),
        addresses: offer.addresses.clone(),
        experts: experts.collect(),
        labels: offer.labels.clone().into_iter().collect(),
    }
}

pub(crate) fn terms_to_proto(terms: Terms) -> v1::Terms {
    v1::Terms {
        price_in: terms.price_in,
        price_out: terms.price_out,
        context: terms.context,
        concurrency: terms.concurrency,
    }
}

fn between(before: &Counters, after: &Counters) -> v1::CatalogImportResponse {
    let refused = after.refusals().map(|(reason, n)| {
        let n = n - before.refused(reason);
        (reason.as_str().to_owned(), n)
    });
    v1::CatalogImportResponse {
        changes: after.changes - before.changes,
        cards: after.cards - before.cards,
        repeats: after.repeats - before.repeats,
        refused: refused.filter(|(_, n)| *n > 0).collect(),
    }
}

/// The mesh of a home.
pub fn mesh_at_rest(home: &Home) -> Result<MeshId, Failure> {
    let membership = home.membership()?.ok_or_else(|| {
        Failure::new(
            ErrorKind::NotFound,
            "this home belongs to no mesh, so it has no catalog: join one with `polymath join ADDR|INVITE`",
        )
    })?;
    Ok(membership.genesis.id())
}

fn founders(home: &Home) -> Result<Vec<PeerId>, Failure> {
    let membership = home.membership()?;
    Ok(membership.map_or_else(Vec::new, |m| m.genesis.admins()))
}

/// The catalog of a home while no node runs, and its store.
pub(crate) struct CatalogAtRest {
    pub(crate) catalog: Catalog,
    store: RecordStore,
}

pub(crate) fn open_at_rest(home: &Home, lock: &HomeLock) -> Result<CatalogAtRest, Failure> {
    let mesh = mesh_at_rest(home)?;
    let dir = home.mesh_dir(mesh).join("catalog");
    let (store, records) = RecordStore::open(&dir)?;
    let store = store.marking(&dir, &home.identity(lock)?.peer_id(), &records);
    let catalog = read(home, lock, records)?;
    Ok(CatalogAtRest { catalog, store })
}

/// The catalog of a home while no node runs, to look at: its store stays as it is, damaged or not.
pub(crate) fn look_at_rest(home: &Home, lock: &HomeLock) -> Result<Catalog, Failure> {
    read(home, lock, records_at_rest(home, lock)?)
}

fn read(home: &Home, lock: &HomeLock, records: Records) -> Result<Catalog, Failure> {
    let config = CatalogConfig {
        unix: crate::unix_now(),
        mesh: mesh_at_rest(home)?,
        key: home.identity(lock)?,
        founders: founders(home)?,
        // A node that keeps none drops them at its next start.
        observations: true,
        limits: Default::default(),
    };
    Ok(Catalog::open(config, records).0)
}

impl CatalogAtRest {
    /// Writes what is to be durable of `actions`; there is nobody to hear the rest.
    pub(crate) fn write(&mut self, actions: Vec<Action>) -> Result<(), Failure> {
        let mut changes = Changes::new();
        for action in actions {
            match action {
                Action::Store { name, bytes } => changes.insert(name, Some(bytes.into())),
                Action::Remove { name } => changes.insert(name, None),
                _ => None,
            };
        }
        self.store.write(&changes).map_err(|e| {
            let what = format!("the catalog's store cannot be written: {e}");
            Failure::new(ErrorKind::Unavailable, what)
        })
    }
}

/// Every record of the catalog's store while no node runs.
pub fn records_at_rest(home: &Home, _lock: &HomeLock) -> Result<Records, Failure> {
    let dir = home.mesh_dir(mesh_at_rest(home)?).join("catalog");
    RecordStore::look(&dir)
}

/// Takes what a file holds while no node runs.
pub fn import_at_rest(
    home: &Home,
    lock: &HomeLock,
    frames: Vec<SyncFrame>,
) -> Result<v1::CatalogImportResponse, Failure> {
    let mut at_rest = open_at_rest(home, lock)?;
    let before = at_rest.catalog.counters().clone();
    let actions = at_rest.catalog.import(frames);
    at_rest.write(actions)?;
    Ok(between(&before, at_rest.catalog.counters()))
}
