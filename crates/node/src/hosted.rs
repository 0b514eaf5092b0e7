//! The experts this node hosts, from the moment they are named until they are ready to serve.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use polymath_blobs::Store;
use polymath_engine::Engine;
use polymath_types::{ErrorKind, ExpertCard, ExpertId, Failure};
use tokio::sync::watch;

/// How far an expert is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Loading,
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

    /// Loads every expert, one after the other, on a thread that may block.
    pub(crate) fn load_all(&self, store: &Store) {
        for (id, card, _) in self.all() {
            let present = store.check_present(&card.model).map_err(|e| e.to_string());
            let loaded = present.and_then(|()| {
                self.engine
                    .load(Arc::clone(&card), &|f| store.path(f))
                    .map_err(|e| e.to_string())
            });
            let state = match loaded {
                Ok(()) => State::Ready,
                Err(why) => {
                    tracing::error!(expert = %card.name, "cannot be served: {why}");
                    State::Failed(why)
                }
            };
            if let Some(entry) = self
                .experts
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .get_mut(&id)
            {
                entry.1 = state;
            }
            self.changed.send_modify(|n| *n += 1);
        }
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
        self.all().iter().all(|(_, _, s)| *s != State::Loading)
    }

    /// The card of a ready expert, or why it does not serve.
    pub(crate) fn serving(&self, id: &ExpertId) -> Result<Arc<ExpertCard>, Failure> {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        match experts.get(id) {
            Some((card, State::Ready)) => Ok(Arc::clone(card)),
            Some((card, State::Loading)) => Err(Failure::new(
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
