//! What a chat request may say, and the question it becomes.

use polymath_proto::v1;
use polymath_types::{Format, How, RequestId};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{envelope::Refusal, models::AUTO};

/// Parameters that would change the answer and that no expert of this mesh heeds yet. To ignore them
/// would be a lie; fields not named here are hints, and left alone as OpenAI's clients expect.
const UNSUPPORTED: [&str; 17] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "min_p",
    "modalities",
    "n",
    "presence_penalty",
    "repetition_penalty",
    "response_format",
    "tool_choice",
    "tools",
    "top_logprobs",
    "typical_p",
    "web_search_options",
];

/// What OpenAI's API takes.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatRequest {
    #[serde(default)]
    model: Option<String>,
    messages: Vec<ChatMessage>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    /// Not OpenAI's, but common among servers.
    #[serde(default)]
    top_k: Option<u32>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    stop: Option<Stop>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct ChatMessage {
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

impl ChatRequest {
    /// Whether the answer is wanted token by token.
    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether a stream ends with its usage.
    pub(super) fn wants_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|o| o.include_usage)
    }

    /// The question to the mesh.
    pub(super) fn ask(self, id: &RequestId) -> Result<v1::AskRequest, Refusal> {
        for name in UNSUPPORTED {
            if let Some(value) = self.others.get(name)
                && !asks_for_nothing(name, value)
            {
                let value: String = value.to_string().chars().take(40).collect();
                return Err(Refusal::invalid(format!(
                    "{name} = {value} is not supported by the experts of this mesh: leave it out"
                ))
                .of_param(name));
            }
        }
        let messages = self
            .messages
            .into_iter()
            .map(ChatMessage::into_proto)
            .collect::<Result<_, _>>()?;
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(one)) => vec![one],
            Some(Stop::Many(many)) => many,
        };
        let (model, prefer, how) = choice(self.model);
        // Who gets an answer whole can be given another one instead.
        let restarts = !self.stream.unwrap_or(false);
        Ok(v1::AskRequest {
            version: Format::Control.current(),
            kind: "generate".into(),
            messages,
            sampling: Some(v1::Sampling {
                max_tokens: self.max_completion_tokens.or(self.max_tokens),
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                seed: self.seed.map(i64::cast_unsigned),
                stop,
            }),
            model,
            prefer,
            how,
            restarts,
            request_id: id.to_string(),
            ..v1::AskRequest::default()
        })
    }
}

/// What a model's name says: that model, or that the router chooses, and by what: `auto:fast`, or how many:
/// `auto:vote`.
fn choice(model: Option<String>) -> (String, String, String) {
    let model = model.unwrap_or_default();
    let none = String::new;
    match model.strip_prefix(AUTO) {
        Some("") => (none(), none(), none()),
        Some(rest) if rest.starts_with(':') => match How::from_name(&rest[1..]) {
            Some(how) => (none(), none(), how.as_str().to_owned()),
            None => (none(), rest[1..].to_owned(), none()),
        },
        _ => (model, none(), none()),
    }
}

/// Whether a parameter has a value that changes nothing; many clients send every default.
fn asks_for_nothing(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(wanted) => !wanted,
        Value::Number(n) => {
            let neutral = match name {
                "n" | "repetition_penalty" | "typical_p" => 1.0,
                _ => 0.0,
            };
            n.as_f64() == Some(neutral)
        }
        Value::String(text) => {
            matches!(name, "tool_choice" | "function_call")
                && matches!(text.as_str(), "none" | "auto")
        }
        Value::Array(items) => {
            items.is_empty() || (name == "modalities" && items.iter().all(|i| i == "text"))
        }
        Value::Object(fields) => {
            fields.is_empty()
                || (name == "response_format"
                    && fields.get("type").is_some_and(|kind| kind == "text"))
        }
    }
}

impl ChatMessage {
    fn into_proto(self) -> Result<v1::ChatMessage, Refusal> {
        use v1::chat_message::Role;
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                return Err(Refusal::invalid(format!(
                    "the role '{other}' is not supported: use system, user or assistant"
                )));
            }
        };
        let content = match self.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                if let Some(part) = parts.iter().find(|p| p.kind != "text") {
                    return Err(Refusal::invalid(format!(
                        "content of type '{}' is not supported: only text",
                        part.kind
                    )));
                }
                parts.into_iter().map(|p| p.text).collect()
            }
        };
        Ok(v1::ChatMessage {
            role: role as i32,
            content,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn ask(more: &Value) -> Result<v1::AskRequest, Refusal> {
        let mut body =
            json!({ "model": "auto", "messages": [{ "role": "user", "content": "hi" }] });
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        let request: ChatRequest = serde_json::from_value(body).unwrap();
        request.ask(&RequestId::from_random([1; 8]))
    }

    #[test]
    fn what_no_expert_heeds_is_refused_unless_it_asks_for_nothing() {
        for more in [
            json!({ "n": 2 }),
            json!({ "logprobs": true }),
            json!({ "top_logprobs": 3 }),
            json!({ "frequency_penalty": 0.5 }),
            json!({ "presence_penalty": -1 }),
            json!({ "repetition_penalty": 1.1 }),
            json!({ "logit_bias": { "50256": -100 } }),
            json!({ "tools": [{ "type": "function" }] }),
            json!({ "tool_choice": "required" }),
            json!({ "function_call": { "name": "f" } }),
            json!({ "response_format": { "type": "json_object" } }),
            json!({ "modalities": ["text", "audio"] }),
            json!({ "audio": { "voice": "x" } }),
        ] {
            let (name, _) = more.as_object().unwrap().iter().next().unwrap();
            let body = ask(&more).unwrap_err().body();
            assert_eq!(&body["error"]["param"], name, "{body}");
        }
        let defaults = json!({
            "n": 1, "logprobs": false, "top_logprobs": null, "frequency_penalty": 0,
            "presence_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": {}, "tools": [],
            "tool_choice": "auto", "response_format": { "type": "text" }, "modalities": ["text"],
            "user": "me", "store": true, "metadata": { "a": "b" }, "top_k": 7,
        });
        assert_eq!(ask(&defaults).unwrap().sampling.unwrap().top_k, Some(7));
    }
}
