//! Texts to vectors for the router: the static encoder, or the sentence embedder where its files
//! lie in the store. Nothing of a question leaves the machine before a peer is chosen.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use polymath_blobs::Store;
use polymath_engine::{Engine, Overlong, static_encoder};
use polymath_router::{Descriptor, Features};
use polymath_types::{ErrorKind, ExpertCard, ExpertId, Index, Query, Runtime};
use tokio::sync::{OnceCell, Semaphore};

use crate::experts;

/// Longest text that is encoded, bytes; the beginning says what a question is about.
const LONGEST_TEXT: usize = 4096;
/// Cards described by the embedder; in larger meshes the static encoder serves.
const MOST_EMBEDDED: usize = 256;
/// Questions encoded at once by the embedder.
const TURNS: usize = 8;
/// Pause before a busy engine is asked again.
const BUSY: Duration = Duration::from_millis(20);
/// Descriptors kept.
const MOST_DESCRIPTORS: usize = 16_384;
/// Bytes a token has at least, roughly: the estimate of a prompt's length errs upwards.
const BYTES_A_TOKEN: usize = 3;

type Descriptors = HashMap<ExpertId, Arc<Descriptor>>;

/// Encodes questions and cards.
#[derive(Debug)]
pub(crate) struct Encoder {
    engine: Engine,
    store: Store,
    mode: String,
    embedder: OnceCell<Option<ExpertId>>,
    /// Encodings at once: the rest of the engine's queue is for others.
    turns: Semaphore,
    by_static: Mutex<Descriptors>,
    by_embedder: Mutex<Descriptors>,
}

impl Encoder {
    /// `mode` is `router.encoder` of the configuration.
    pub(crate) fn new(engine: Engine, store: Store, mode: &str) -> Self {
        Self {
            engine,
            store,
            mode: mode.to_owned(),
            embedder: OnceCell::new(),
            turns: Semaphore::new(TURNS),
            by_static: Mutex::default(),
            by_embedder: Mutex::default(),
        }
    }

    /// The question's features, and under the same encoder a descriptor of each expert it could
    /// be sent to.
    pub(crate) async fn encode(&self, query: &Query, index: &Index) -> (Features, Descriptors) {
        let topic = clip(query.topic());
        let cards: Vec<_> = index
            .of_kind(query.kind)
            .map(|e| (e.id, Arc::clone(&e.card)))
            .collect();
        let bytes: usize = query.messages.iter().map(|m| m.content.len()).sum();
        let mut features = Features {
            encoder: static_encoder::ENCODER_ID.to_owned(),
            vector: Vec::new(),
            prompt_tokens: u32::try_from(bytes / BYTES_A_TOKEN / 2).unwrap_or(u32::MAX),
            language: polymath_engine::detect_language(topic),
        };
        if let Some(id) = self.embedder(cards.len()).await
            && let Some((vector, descriptors)) = self.embed(&id, topic, &cards).await
        {
            features.encoder = format!("embedder:{}", id.short());
            features.vector = vector;
            return (features, descriptors);
        }
        features.vector = static_encoder::encode(topic);
        let mut cache = self
            .by_static
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let descriptors = cards
            .iter()
            .map(|(id, card)| {
                make_room(&mut cache);
                let descriptor = cache.entry(*id).or_insert_with(|| {
                    let examples: Vec<_> = card
                        .examples
                        .iter()
                        .map(|e| static_encoder::encode(e))
                        .collect();
                    Arc::new(Descriptor::new(
                        &static_encoder::encode(&description(card)),
                        &examples,
                    ))
                });
                (*id, Arc::clone(descriptor))
            })
            .collect();
        (features, descriptors)
    }

    /// The embedder's id, loaded at first use.
    async fn embedder(&self, cards: usize) -> Option<ExpertId> {
        if self.mode == "static" || !(2..=MOST_EMBEDDED).contains(&cards) {
            return None;
        }
        *self
            .embedder
            .get_or_init(|| async {
                let (engine, store, wanted) = (
                    self.engine.clone(),
                    self.store.clone(),
                    self.mode == "embedder",
                );
                let loaded = tokio::task::spawn_blocking(move || {
                    let experts::Card::Known(card) =
                        experts::prepare(experts::find("embedder")?, &store)?
                    else {
                        let other = "the embedder is a file";
                        return Err(polymath_types::Failure::new(ErrorKind::Internal, other));
                    };
                    debug_assert_eq!(card.model.runtime, Runtime::BertSentence);
                    store
                        .check_present(&card.model)
                        .map_err(|e| polymath_types::Failure::new(e.kind(), e.to_string()))?;
                    engine
                        .load(Arc::clone(&card), &|f| store.path(f))
                        .map_err(|e| polymath_types::Failure::new(e.kind(), e.to_string()))?;
                    Ok::<_, polymath_types::Failure>(card.id())
                });
                match loaded.await {
                    Ok(Ok(id)) => Some(id),
                    Ok(Err(e)) if wanted => {
                        tracing::warn!(
                            "router.encoder = \"embedder\", but {e}; the static encoder serves"
                        );
                        None
                    }
                    _ => None,
                }
            })
            .await
    }

    async fn embed(
        &self,
        id: &ExpertId,
        topic: &str,
        cards: &[(ExpertId, Arc<ExpertCard>)],
    ) -> Option<(Vec<f32>, Descriptors)> {
        for (expert, card) in cards {
            if self
                .by_embedder
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(expert)
            {
                continue;
            }
            let mut texts = vec![description(card)];
            texts.extend(card.examples.iter().cloned());
            let mut vectors = self.vectors(id, texts).await?.into_iter();
            let descriptor = Descriptor::new(&vectors.next()?, &vectors.collect::<Vec<_>>());
            let mut cache = self
                .by_embedder
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            make_room(&mut cache);
            cache.insert(*expert, Arc::new(descriptor));
        }
        let vector = self.vectors(id, vec![topic.to_owned()]).await?.pop()?;
        let cache = self
            .by_embedder
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let descriptors = cards
            .iter()
            .filter_map(|(id, _)| Some((*id, Arc::clone(cache.get(id)?))))
            .collect();
        Some((vector, descriptors))
    }
}

impl Encoder {
    /// Vectors of texts. The engine's queue may be full of others' work; choosing by another encoder
    /// then would choose other experts, so this waits.
    async fn vectors(&self, id: &ExpertId, texts: Vec<String>) -> Option<Vec<Vec<f32>>> {
        let _turn = self.turns.acquire().await.ok()?;
        loop {
            match self.engine.embed(id, texts.clone(), Overlong::Cut).await {
                Ok(embedded) => return Some(embedded.vectors),
                Err(e) if e.kind() == ErrorKind::ResourceExhausted => {
                    tokio::time::sleep(BUSY).await
                }
                Err(e) => {
                    tracing::warn!("the embedder does not encode: {e}; the static encoder serves");
                    return None;
                }
            }
        }
    }
}

/// A card without a description is described by its name.
fn description(card: &ExpertCard) -> String {
    if card.description.is_empty() {
        card.name.replace(['-', '_', '.'], " ")
    } else {
        card.description.clone()
    }
}

fn make_room(cache: &mut Descriptors) {
    if cache.len() >= MOST_DESCRIPTORS {
        cache.clear();
    }
}

fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}
