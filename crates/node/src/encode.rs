//! Texts to vectors for the router: the static encoder, or the sentence embedder where its files
//! lie in the store. Nothing of a question leaves the machine before a peer is chosen.
//!
//! Cards are strangers' texts, so none is embedded inside a question: a task of its own describes
//! them as they come ([`Encoder::prepare`]), and a question that is ahead of it is decided by the
//! static encoder, since one decision compares vectors of one space only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use polymath_blobs::Store;
use polymath_engine::{Engine, Overlong, static_encoder};
use polymath_router::{Descriptor, Descriptors, Features, learning::Sparse};
use polymath_types::{
    ErrorKind, ExpertCard, ExpertId, ExpertKind, Failure, Index, Property, Query, Runtime, Table,
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::yield_now,
    time::{Instant, sleep, timeout},
};

use crate::experts::{self, Card};

/// Longest text that is encoded, bytes; the beginning says what a question is about.
const LONGEST_TEXT: usize = 4096;
/// Cards of one kind described by the embedder; in larger meshes the static encoder serves.
const MOST_EMBEDDED: usize = 256;
/// Questions encoded at once by the embedder.
const TURNS: usize = 8;
/// Pause before a busy engine is asked again.
const BUSY: Duration = Duration::from_millis(20);
/// Descriptors by the embedder that are kept.
const MOST_DESCRIPTORS: usize = 16_384;
/// The same by the static encoder, of cards that nobody offers at present.
const MOST_SPARE: usize = 4096;
/// Cards that a question describes itself by the static encoder: those of a small mesh, and what is new in a
/// large one. The others follow, some at once, so that nothing waits long.
const MOST_AT_ONCE: usize = 256;
const SOME: usize = 4;
/// Cards that wait for their descriptors: all that an index and some questions can want.
const MOST_WANTED: usize = 4 * MOST_EMBEDDED;
/// How often it is looked whether the index changed; comparing two pointers costs nothing.
const LOOK: Duration = Duration::from_millis(100);
/// Pause before an embedder that is not in the store is looked for again.
const ABSENT: Duration = Duration::from_secs(2);
/// The same for one that cannot be loaded, which costs reading it.
const BROKEN: Duration = Duration::from_secs(60);
/// How long a question waits for the embedder while it is being loaded.
const LOADING: Duration = Duration::from_secs(5);
/// How long a question waits for descriptors of its candidates.
const PATIENCE: Duration = Duration::from_millis(300);
/// The same where few texts are missing, as in a small mesh, or the embedder was asked for by name.
const MORE_PATIENCE: Duration = Duration::from_secs(3);
/// Texts that count as few.
const FEW: usize = 128;
/// Texts of cards that are embedded without a pause: those of a small mesh.
const BURST: usize = 64;
/// Longest pause between the descriptors of two cards.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// How alike the vectors of two answers are that say the same, by the embedder and by their words.
const SAME_BY_EMBEDDER: f32 = 0.8;
const SAME_BY_WORDS: f32 = 0.6;
/// Most bytes of a word that one token covers, taken generously.
const LONGEST_TOKEN: usize = 16;

/// How far the embedder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Embedder {
    /// Nobody needed it yet, or it is being loaded.
    Coming,
    Absent,
    Ready(ExpertId),
}

/// A card that has no descriptor yet.
#[derive(Debug)]
struct Wanted {
    card: Arc<ExpertCard>,
    /// A question waits that lacks few texts.
    urgent: bool,
}

/// Encodes questions and cards.
#[derive(Debug)]
pub(crate) struct Encoder {
    engine: Engine,
    store: Store,
    mode: String,
    embedder: watch::Sender<Embedder>,
    /// Encodings at once: the rest of the engine's queue is for others.
    turns: Semaphore,
    by_static: Mutex<Described>,
    by_embedder: Mutex<Descriptors>,
    /// Counts the descriptors that were added.
    described: watch::Sender<u64>,
    wanted: Mutex<HashMap<ExpertId, Wanted>>,
    /// A question waits.
    hurry: Notify,
}

impl Encoder {
    /// `mode` is `router.encoder` of the configuration.
    pub(crate) fn new(engine: Engine, store: Store, mode: &str) -> Self {
        Self {
            engine,
            store,
            mode: mode.to_owned(),
            embedder: watch::Sender::new(Embedder::Coming),
            turns: Semaphore::new(TURNS),
            by_static: Mutex::default(),
            by_embedder: Mutex::default(),
            described: watch::Sender::new(0),
            wanted: Mutex::default(),
            hurry: Notify::new(),
        }
    }

    /// The question's features, and under the same encoder a descriptor of each expert it could
    /// be sent to; in a large mesh of each that is described so far.
    pub(crate) async fn encode(&self, query: &Query, index: &Index) -> (Features, Descriptors) {
        let topic = clip(query.topic());
        let experts = index.having(Property::Kind(query.kind)).len();
        let tokens = query.messages.iter().map(|m| least_tokens(&m.content));
        let mut features = Features {
            encoder: static_encoder::ENCODER_ID.to_owned(),
            vector: Vec::new(),
            words: Sparse::default(),
            cues: Vec::new(),
            prompt_tokens: u32::try_from(tokens.sum::<usize>()).unwrap_or(u32::MAX),
            language: polymath_engine::detect_language(topic),
        };
        // Where there is no choice, there is nothing to learn.
        if experts > 1 {
            let seen = polymath_encoder::encode(topic);
            features.words = Sparse::new(&seen.places, &seen.values);
            features.cues = seen.cues.to_vec();
        }
        if let Some((id, descriptors)) = self.embedded(query.kind, index).await
            && let Some(mut vectors) = self.vectors(&id, vec![topic.to_owned()]).await
            && let Some(vector) = vectors.pop()
        {
            features.encoder = format!("embedder:{}", id.short());
            features.vector = vector;
            return (features, descriptors);
        }
        features.vector = static_encoder::encode(topic);
        let mut described = lock(&self.by_static);
        described.add(index.cards(), MOST_AT_ONCE);
        (features, described.descriptors.clone())
    }

    /// Vectors of answers, in one space, and how alike two must be there to say the same. Neither bound is
    /// measured: they lie where paraphrases begin.
    pub(crate) async fn compare(&self, texts: &[&str]) -> (Vec<Vec<f32>>, f32) {
        let embedder = *self.embedder.borrow();
        if let Embedder::Ready(id) = embedder {
            let clipped = texts.iter().map(|t| clip(t).to_owned()).collect();
            if let Some(vectors) = self.vectors(&id, clipped).await {
                return (vectors, SAME_BY_EMBEDDER);
            }
        }
        let vectors = texts.iter().map(|t| static_encoder::encode(clip(t)));
        (vectors.collect(), SAME_BY_WORDS)
    }

    /// The embedder and its descriptors of all cards of a kind, if both are here in time.
    async fn embedded(&self, kind: ExpertKind, index: &Index) -> Option<(ExpertId, Descriptors)> {
        let experts = index.having(Property::Kind(kind)).len();
        if self.mode == "static" || !(2..=MOST_EMBEDDED).contains(&experts) {
            return None;
        }
        let cards = index.of_kind(kind).map(|e| (e.id, Arc::clone(&e.card)));
        let cards = &cards.collect::<Vec<_>>()[..];
        let mut described = self.described.subscribe();
        let all = self.descriptors(cards);
        let few = self.missing_texts(cards) <= FEW;
        if all.is_none() {
            self.want(cards.iter(), few);
            self.hurry.notify_one();
        }
        let mut embedder = self.embedder.subscribe();
        let found = timeout(LOADING, embedder.wait_for(|e| *e != Embedder::Coming)).await;
        let Embedder::Ready(id) = *found.ok()?.ok()? else {
            return None;
        };
        if let Some(all) = all {
            return Some((id, all));
        }
        let patience = if few || self.mode == "embedder" {
            MORE_PATIENCE
        } else {
            PATIENCE
        };
        let rest = async {
            loop {
                if let Some(all) = self.descriptors(cards) {
                    return Some((id, all));
                }
                described.changed().await.ok()?;
            }
        };
        timeout(patience, rest).await.ok()?
    }

    /// Descriptors by the embedder, if there is one of each card.
    fn descriptors(&self, cards: &[(ExpertId, Arc<ExpertCard>)]) -> Option<Descriptors> {
        let cache = lock(&self.by_embedder);
        let all = cards.iter().all(|(id, _)| cache.contains_key(id));
        all.then(|| cache.clone())
    }

    fn missing_texts(&self, cards: &[(ExpertId, Arc<ExpertCard>)]) -> usize {
        let done = lock(&self.by_embedder);
        let missing = cards.iter().filter(|(id, _)| !done.contains_key(id));
        missing.map(|(_, card)| texts(card)).sum()
    }

    /// Asks for descriptors of the cards that have none.
    fn want<'a>(&self, cards: impl Iterator<Item = &'a (ExpertId, Arc<ExpertCard>)>, urgent: bool) {
        let done = lock(&self.by_embedder);
        let mut wanted = lock(&self.wanted);
        for (id, card) in cards.filter(|(id, _)| !done.contains_key(id)) {
            if let Some(wanted) = wanted.get_mut(id) {
                wanted.urgent |= urgent;
            } else if wanted.len() < MOST_WANTED {
                let card = Arc::clone(card);
                wanted.insert(*id, Wanted { card, urgent });
            }
        }
    }

    /// Describes the cards of `index` as they come, ahead of the questions. Does not end.
    pub(crate) async fn prepare(&self, index: &ArcSwap<Index>) {
        tokio::join!(self.describe_all(index), self.embed_all(index));
    }

    /// The same by the static encoder.
    async fn describe_all(&self, index: &ArcSwap<Index>) {
        loop {
            let cards = index.load().cards().clone();
            while !lock(&self.by_static).add(&cards, SOME) {
                yield_now().await;
            }
            sleep(LOOK).await;
        }
    }

    /// Loads the embedder as soon as it is in the store and useful, and describes the cards of
    /// `index`, and those that questions miss, one by one. Only a node that wants no embedder sees this return.
    async fn embed_all(&self, index: &ArcSwap<Index>) {
        if self.mode == "static" {
            return;
        }
        let mut seen: Option<Arc<Index>> = None;
        let (mut rest, mut look, mut embedded) = (LOOK, Instant::now(), 0);
        loop {
            let _ = timeout(rest, self.hurry.notified()).await;
            rest = LOOK;
            let now = index.load_full();
            if !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &now)) {
                self.want_all(&now);
                seen = Some(now);
            }
            if lock(&self.wanted).is_empty() {
                embedded = 0;
                continue;
            }
            let found = *self.embedder.borrow();
            match found {
                Embedder::Ready(id) => {
                    let begun = Instant::now();
                    embedded += self.describe_next(&id).await;
                    // Strangers' cards take half of the engine's time at most, unless a question
                    // waits for them.
                    rest = match embedded {
                        ..=BURST => Duration::ZERO,
                        _ => begun.elapsed().min(LONGEST_REST),
                    };
                }
                _ if Instant::now() < look => {}
                _ => match self.load().await {
                    Ok(id) => {
                        self.embedder.send_replace(Embedder::Ready(id));
                        rest = Duration::ZERO;
                    }
                    Err((pause, e)) => {
                        let before = self.embedder.send_replace(Embedder::Absent);
                        if self.mode == "embedder" && before != Embedder::Absent {
                            tracing::warn!(
                                "router.encoder = \"embedder\", but {e}; the static encoder serves until it is there"
                            );
                        }
                        look = Instant::now() + pause;
                    }
                },
            }
        }
    }

    /// Wants what questions over this index will need, and no longer what is not in it. A lone
    /// expert is no choice; two of different kinds are described although neither is one yet, so
    /// that the embedder is loaded and little is left to do when the others come.
    fn want_all(&self, index: &Index) {
        lock(&self.wanted).retain(|_, w| w.urgent);
        if index.experts().nth(1).is_none() {
            return;
        }
        for kind in [
            ExpertKind::Generate,
            ExpertKind::Embed,
            ExpertKind::Classify,
        ] {
            let cards: Vec<_> = index
                .of_kind(kind)
                .map(|e| (e.id, Arc::clone(&e.card)))
                .take(MOST_EMBEDDED + 1)
                .collect();
            if cards.len() <= MOST_EMBEDDED {
                self.want(cards.iter(), false);
            }
        }
    }

    /// Loads the embedder, or says how long not to try again and why.
    async fn load(&self) -> Result<ExpertId, (Duration, Failure)> {
        let (engine, store) = (self.engine.clone(), self.store.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            let absent = |e: Failure| (ABSENT, e);
            let named = experts::find("embedder").map_err(absent)?;
            let Card::Known(card) = experts::prepare(named, &store).map_err(absent)? else {
                let other = Failure::new(ErrorKind::Internal, "the embedder is a file");
                return Err((BROKEN, other));
            };
            debug_assert_eq!(card.model.runtime, Runtime::BertSentence);
            store
                .check_present(&card.model)
                .map_err(|e| absent(Failure::new(e.kind(), e.to_string())))?;
            engine
                .load(Arc::clone(&card), &|f| store.path(f))
                .map_err(|e| (BROKEN, Failure::new(e.kind(), e.to_string())))?;
            Ok(card.id())
        });
        loaded.await.unwrap_or_else(|e| {
            let broken = Failure::new(ErrorKind::Internal, format!("loading broke off: {e}"));
            Err((BROKEN, broken))
        })
    }

    /// Describes one of the wanted cards. Returns how many texts were embedded.
    async fn describe_next(&self, id: &ExpertId) -> usize {
        let Some((expert, card)) = self.next_wanted() else {
            return 0;
        };
        let mut all = vec![description(&card)];
        all.extend(card.examples.iter().cloned());
        if let Some(vectors) = self.vectors(id, all).await
            && let [described, examples @ ..] = &vectors[..]
        {
            let descriptor = Arc::new(Descriptor::new(described, examples));
            let mut cache = lock(&self.by_embedder);
            if cache.len() >= MOST_DESCRIPTORS {
                *cache = Descriptors::default();
            }
            cache.insert(expert, descriptor);
            drop(cache);
            self.described.send_modify(|n| *n += 1);
        }
        texts(&card)
    }

    /// The urgent before the others and the short before the long, so that no author's many or long
    /// cards keep the others' waiting.
    fn next_wanted(&self) -> Option<(ExpertId, Arc<ExpertCard>)> {
        let mut wanted = lock(&self.wanted);
        let next = wanted
            .iter()
            .min_by_key(|(id, w)| (!w.urgent, texts(&w.card), **id));
        let id = *next?.0;
        wanted.remove(&id).map(|w| (id, w.card))
    }

    /// Vectors of texts. The engine's queue may be full of others' work; choosing by another encoder
    /// then would choose other experts, so this waits.
    async fn vectors(&self, id: &ExpertId, texts: Vec<String>) -> Option<Vec<Vec<f32>>> {
        let _turn = self.turns.acquire().await.ok()?;
        loop {
            match self.engine.embed(id, texts.clone(), Overlong::Cut).await {
                Ok(embedded) => return Some(embedded.vectors),
                Err(e) if e.kind() == ErrorKind::ResourceExhausted => sleep(BUSY).await,
                Err(e) => {
                    tracing::warn!("the embedder does not encode: {e}; the static encoder serves");
                    return None;
                }
            }
        }
    }
}

/// Cards under the static encoder.
#[derive(Debug, Default)]
struct Described {
    /// All of these are.
    of: Table<ExpertId, ExpertCard>,
    descriptors: Descriptors,
}

impl Described {
    /// Describes at most `most` cards of these that are not yet; whether all are now. Most cards are those of the
    /// last time, which costs nothing.
    fn add(&mut self, cards: &Table<ExpertId, ExpertCard>, most: usize) -> bool {
        if self.of.is_copy_of(cards) {
            return true;
        }
        let mut left = most;
        for (known, shard) in self.of.shards().iter().zip(cards.shards()) {
            if Arc::ptr_eq(known, shard) {
                continue;
            }
            for (id, card) in shard.iter() {
                if self.descriptors.contains_key(id) {
                    continue;
                }
                if left == 0 {
                    return false;
                }
                left -= 1;
                self.descriptors.insert(*id, describe(card));
            }
        }
        self.of = cards.clone();
        if self.descriptors.len() > cards.len() + MOST_SPARE {
            let mut kept = Descriptors::default();
            for (known, shard) in self.descriptors.shards().iter().zip(cards.shards()) {
                for (id, descriptor) in known.iter().filter(|(id, _)| shard.contains_key(id)) {
                    kept.insert(*id, Arc::clone(descriptor));
                }
            }
            self.descriptors = kept;
        }
        true
    }
}

fn describe(card: &ExpertCard) -> Descriptor {
    let examples = card.examples.iter().map(|e| static_encoder::encode(e));
    let examples: Vec<_> = examples.collect();
    Descriptor::new(&static_encoder::encode(&description(card)), &examples)
}

/// Tokens a text has at least, whichever tokenizer an expert has: a filter may exclude by it only
/// those that cannot take the prompt. Tokens end where words do, and are seldom longer than this.
fn least_tokens(text: &str) -> usize {
    text.split_whitespace()
        .map(|word| word.len().div_ceil(LONGEST_TOKEN))
        .sum()
}

/// Texts of a card that are embedded.
fn texts(card: &ExpertCard) -> usize {
    1 + card.examples.len()
}

/// A card without a description is described by its name.
fn description(card: &ExpertCard) -> String {
    if card.description.is_empty() {
        card.name.replace(['-', '_', '.'], " ")
    } else {
        card.description.clone()
    }
}

fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}

/// A cache is whole whatever its last holder did.
fn lock<T>(cache: &Mutex<T>) -> MutexGuard<'_, T> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
