//! Who takes part: keys drawn from the seed, and cards of made-up experts.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use polymath_types::{
    ExpertCard, ExpertKind, Keypair, LabelSet, Model, NodeKey, Runtime, Sampling,
};

use crate::{
    Fault,
    chance::{Chance, For},
};

/// The key of node `n`.
pub(crate) fn key(chance: Chance, n: usize) -> Result<NodeKey, Fault> {
    let mut secret = [0; 32];
    for (i, part) in secret.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&chance.word(For::Key, &[n as u64, i as u64]).to_be_bytes());
    }
    let refused = |why: String| Fault::Refused { node: n, why };
    let pair = Keypair::ed25519_from_bytes(secret).map_err(|e| refused(e.to_string()))?;
    let bytes = pair
        .to_protobuf_encoding()
        .map_err(|e| refused(e.to_string()))?;
    // The only door to a key that is not drawn by the system is its text.
    let text = format!("polymath-identity 1\n{}\n", STANDARD.encode(bytes));
    NodeKey::from_text(&text).map_err(|e| refused(e.to_string()))
}

/// A generating expert with nothing to download.
pub(crate) fn card(name: &str) -> Arc<ExpertCard> {
    Arc::new(ExpertCard {
        version: 1,
        name: name.into(),
        kind: ExpertKind::Generate,
        model: Model {
            name: format!("{name}-model"),
            runtime: Runtime::Trigram,
            files: Vec::new(),
            adapter: None,
            context_length: 0,
            dimensions: 0,
            licence: "MIT".into(),
        },
        system: None,
        sampling: Sampling::default(),
        description: format!("Answers questions about the subject of {name}."),
        examples: Vec::new(),
        languages: Vec::new(),
        labels: LabelSet::None,
        capabilities: Vec::new(),
    })
}
