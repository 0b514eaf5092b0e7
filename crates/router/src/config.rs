//! The router's constants, each with its unit and reason.

use std::time::Duration;

use polymath_types::Preference;

/// How similarities to a card's parts become one number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// Weight of the description's cosine, 0 to 1; the examples have the rest.
    pub description: f32,
    /// How many of the closest examples are averaged.
    pub top_examples: usize,
}

impl Default for Blend {
    fn default() -> Self {
        Self {
            description: 0.35,
            top_examples: 3,
        }
    }
}

/// Constants of a [`Router`](crate::Router).
#[derive(Debug, Clone, PartialEq)]
pub struct RouterConfig {
    /// How quality is made of similarities.
    pub blend: Blend,
    /// Taken off an expert whose card states languages, the query's not among them.
    pub language_penalty: f64,
    /// Most that slowness takes off a score.
    pub latency_weight: f64,
    /// Most that advertised load takes off a score.
    pub load_weight: f64,
    /// Most that a relayed path takes off a score; a peer still to be dialled loses half of it.
    pub path_weight: f64,
    /// Most that the price takes off a score: of [`Self::dear`] it takes half.
    pub cost_weight: f64,
    /// The price of an answer that counts as dear, credits.
    pub dear: f64,
    /// Taken off a replica on a peer that holds no role in the mesh.
    pub trust_weight: f64,
    /// Experts, those closest to the query, of whom it is asked what was learnt.
    pub judged: usize,
    /// Generating experts below this share of the best one's content are not tried after it,
    /// unless the caller named the model. Under a sentence embedder cosines of unrelated texts
    /// lie near zero, of related ones about a half.
    pub fallback_ratio: f64,
    /// Beyond this many fitting experts, one product each with a mean vector preselects as many.
    pub shortlist: usize,
    /// Most candidates in a decision.
    pub max_candidates: usize,
    /// Most replicas of one expert among them, so that other experts keep a place.
    pub max_replicas: usize,
    /// Most exclusions told one by one; the rest are counted.
    pub max_excluded: usize,
    /// (expert, peer) pairs and peers whose statistics are kept; the longest unused go first.
    pub max_statistics: usize,
    /// Answer length assumed when the caller allows more, tokens.
    pub typical_tokens: u32,
    /// Time to first token assumed of a replica never asked: optimistic, so that it gets asked.
    pub prior_ttft: Duration,
    /// Time per token assumed of a replica never asked.
    pub prior_per_token: Duration,
    /// Added for a peer that must be dialled first. Members keep their connections, so a missing one
    /// often means a peer that is gone, and finding that out takes seconds.
    pub dial: Duration,
    /// Added for a relayed path never measured.
    pub relay: Duration,
    /// Time constant with which a new measurement outweighs older, lower ones.
    pub smoothing: Duration,
    /// Time constant with which an old measurement fades into the prior, so that a replica that
    /// once was slow is asked again.
    pub forgetting: Duration,
    /// How long a replica is left alone after its first failures; doubles with each further one.
    pub backoff: Duration,
    /// The longest it is left alone. A probe that has not ended by then is taken for lost.
    pub max_backoff: Duration,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            blend: Blend::default(),
            language_penalty: 0.15,
            latency_weight: 0.02,
            load_weight: 0.01,
            path_weight: 0.01,
            cost_weight: 0.02,
            dear: 1.0,
            trust_weight: 0.002,
            judged: 32,
            fallback_ratio: 0.25,
            shortlist: 64,
            max_candidates: 16,
            max_replicas: 8,
            max_excluded: 64,
            max_statistics: 4096,
            typical_tokens: 128,
            prior_ttft: Duration::from_millis(100),
            prior_per_token: Duration::from_millis(5),
            dial: Duration::from_secs(3),
            relay: Duration::from_millis(200),
            smoothing: Duration::from_secs(30),
            forgetting: Duration::from_secs(600),
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
        }
    }
}

/// What a term weighs more where the caller prefers it: enough to decide between experts of different quality.
const PREFERRED: f64 = 10.0;

impl RouterConfig {
    /// With weights as the caller prefers.
    pub(crate) fn steered(&self, prefer: Preference) -> Self {
        let mut steered = self.clone();
        match prefer {
            Preference::Balanced => {}
            Preference::Fast => steered.latency_weight *= PREFERRED,
            Preference::Cheap => steered.cost_weight *= PREFERRED,
            Preference::Best => (steered.latency_weight, steered.cost_weight) = (0.0, 0.0),
        }
        steered
    }

    /// The margin of content within which a replica may decide between experts: all that latency, load, path,
    /// price and trust together can take off a score. A larger difference is never overturned.
    pub fn near_tie(&self) -> f64 {
        let place = self.latency_weight + self.load_weight + self.path_weight;
        place + self.cost_weight + self.trust_weight
    }
}
