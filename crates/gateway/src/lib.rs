//! OpenAI-compatible HTTP API and health
