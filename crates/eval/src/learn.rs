//! From texts to what the router's estimator takes.

use std::sync::Arc;

use polymath_router::learning::{Codebook, Estimator, EstimatorConfig, Seen, Sparse};
use polymath_types::ExpertId;

/// A text's vector and cues.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Hashed words.
    pub vector: Sparse,
    /// Cheap features.
    pub cues: Vec<f32>,
}

/// By the static encoder, which every node has.
pub fn encode(text: &str) -> Encoded {
    let encoding = polymath_encoder::encode(text);
    Encoded {
        vector: Sparse::new(&encoding.places, &encoding.values),
        cues: encoding.cues.to_vec(),
    }
}

/// The id an expert of a data set goes by.
pub fn expert_id(name: &str) -> ExpertId {
    ExpertId::from_bytes(*blake3::hash(name.as_bytes()).as_bytes())
}

/// An estimator with the default books.
pub fn learner(config: &EstimatorConfig, seed: u64) -> Estimator {
    Estimator::new(config.clone(), Codebook::defaults().into(), seed)
}

/// All rows, prepared.
pub fn see(estimator: &Estimator, rows: &[Encoded]) -> Vec<Arc<Seen>> {
    rows.iter()
        .map(|e| Arc::new(estimator.see(&e.vector, &e.cues)))
        .collect()
}
