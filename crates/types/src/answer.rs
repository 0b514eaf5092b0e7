//! What comes back from an expert.

use serde::{Deserialize, Serialize};

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model said it was done, or a stop sequence appeared.
    Stop,
    /// The token limit, or the end of the context, was reached.
    Length,
}

impl FinishReason {
    /// The name OpenAI's API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Tokens a request consumed and produced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// Tokens generated, a forced prefix included.
    pub completion_tokens: u32,
    /// Nobody counted: reckoned from the text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

/// A serving peer's load as it answers; advisory, breaks ties only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests that wait.
    pub queue_depth: u32,
    /// Requests being served.
    pub active: u32,
    /// Requests that could start at once.
    pub free_slots: u32,
    /// Moving average of how long an answer takes once it has begun, milliseconds; 0 before the first.
    pub service_ms: u32,
    /// Experts that are loaded.
    pub resident_experts: u32,
}
