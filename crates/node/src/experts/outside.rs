//! Experts that another server computes: how a definition names it, and the card that says so.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use polymath_types::{ErrorKind, ExpertKind, Failure, LabelSet, Model, NOT_PROMISED, Runtime};
use polymath_upstream::{Address, Config, KeySource, Patience, Upstream};
use serde::{Deserialize, Serialize};

use super::{Card, Definition, UNSTATED};

/// Calls at once, unless the definition says otherwise.
const CONCURRENCY: usize = 8;
/// Most calls at once of one server.
const MOST: usize = 32;

/// Most tokens of an answer, unless the definition says otherwise: a model that thinks before it answers
/// spends hundreds of them before the first word.
const MAX_TOKENS: u32 = 2048;

/// The same, leaving half of a small context to the question.
pub(super) fn max_tokens(context: u32) -> u32 {
    match context {
        0 => MAX_TOKENS,
        context => MAX_TOKENS.min(context / 2).max(1),
    }
}

/// A model on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamDefinition {
    /// Base address, such as `http://127.0.0.1:11434/v1`.
    pub url: String,
    /// A file that holds the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// Or the environment variable that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Calls at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// Prompt and answer together, tokens, as the server says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
}

impl UpstreamDefinition {
    /// What asks the server for `model`.
    pub(crate) fn open(&self, model: &str) -> Result<Upstream, Failure> {
        let bad = |what: &str| Failure::new(ErrorKind::Config, what.to_owned());
        let key = match (&self.api_key_file, &self.api_key_env) {
            (Some(_), Some(_)) => {
                return Err(bad(
                    "name the API key's file or its environment variable, not both",
                ));
            }
            (Some(file), None) => KeySource::File(file.clone()),
            (None, Some(name)) => KeySource::Env(name.clone()),
            (None, None) => KeySource::None,
        };
        let concurrency = self.concurrency.unwrap_or(CONCURRENCY);
        if !(1..=MOST).contains(&concurrency) {
            return Err(bad(&format!("a server gets 1 to {MOST} calls at once")));
        }
        let address: Address = self.url.parse()?;
        Ok(Upstream::new(Config {
            address,
            model: model.to_owned(),
            key,
            concurrency,
            patience: Patience::default(),
        }))
    }
}

/// A model's id on a server as a card may have it.
pub(crate) fn plain_name(id: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = id.chars().map(plain).take(64).collect();
    name.trim_start_matches('.').to_owned()
}

pub(super) fn outside(
    mut definition: Definition,
    upstream: &UpstreamDefinition,
) -> Result<Card, Failure> {
    let asked = upstream.open(&definition.model)?;
    if definition.kind == ExpertKind::Classify {
        return Err(Failure::new(
            ErrorKind::Config,
            format!(
                "expert '{}': servers are asked to generate or to embed, not to classify",
                definition.name
            ),
        ));
    }
    let not_promised: BTreeSet<String> = NOT_PROMISED.map(str::to_owned).into();
    definition.capabilities.extend(not_promised);
    let model = Model {
        name: plain_name(&definition.model),
        runtime: Runtime::Upstream,
        files: Vec::new(),
        adapter: None,
        context_length: upstream.context.unwrap_or(0),
        dimensions: 0,
        licence: UNSTATED.into(),
    };
    let card = definition.card(model)?;
    debug_assert_eq!(card.labels, LabelSet::None);
    Ok(Card::Outside(Arc::new(card), asked))
}
