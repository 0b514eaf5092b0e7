//! `/v1/chat/completions`: plain and streamed.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use polymath_node::{Answer, Node};
use polymath_proto::v1::{self, ask_event::Event};
use polymath_types::{ErrorKind, Failure, Format};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{envelope::Refusal, models::AUTO};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const EXPERT: HeaderName = HeaderName::from_static("x-polymath-expert");
const PEER: HeaderName = HeaderName::from_static("x-polymath-peer");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-polymath-attempts");
/// Tells reverse proxies not to hold the stream back.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What OpenAI's API takes; unknown fields are left alone, as its clients expect.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatRequest {
    #[serde(default)]
    model: String,
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
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    stop: Option<Stop>,
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    #[serde(default)]
    logprobs: Option<bool>,
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

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

impl ChatRequest {
    fn ask(self, request_id: &str) -> Result<v1::AskRequest, Refusal> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(Refusal::invalid("n must be 1: one answer a request"));
        }
        if self.tools.as_ref().is_some_and(|t| !t.is_empty()) {
            return Err(Refusal::invalid(
                "tools are not supported by the experts of this mesh",
            ));
        }
        if self
            .response_format
            .as_ref()
            .is_some_and(|f| f.kind != "text")
        {
            return Err(Refusal::invalid(
                "response_format other than text is not supported by the experts of this mesh",
            ));
        }
        if self.logprobs == Some(true) {
            return Err(Refusal::invalid(
                "logprobs are not supported by the experts of this mesh",
            ));
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
        Ok(v1::AskRequest {
            version: Format::Control.current(),
            kind: "generate".into(),
            messages,
            sampling: Some(v1::Sampling {
                max_tokens: self.max_completion_tokens.or(self.max_tokens),
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: None,
                seed: self.seed.map(i64::cast_unsigned),
                stop,
            }),
            model: if self.model == AUTO {
                String::new()
            } else {
                self.model
            },
            request_id: request_id.to_owned(),
            ..v1::AskRequest::default()
        })
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

pub(crate) async fn completions(
    State(node): State<Node>,
    headers: HeaderMap,
    body: Result<Json<ChatRequest>, JsonRejection>,
) -> Response {
    let request_id = headers
        .get(&REQUEST_ID)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let Json(request) = match body {
        Ok(body) => body,
        Err(e) => {
            return Refusal::invalid(format!("the request cannot be read: {}", e.body_text()))
                .into_response();
        }
    };
    let stream = request.stream.unwrap_or(false);
    let usage = request
        .stream_options
        .as_ref()
        .is_some_and(|o| o.include_usage);
    match request.ask(&request_id) {
        Err(refusal) => refusal.into_response(),
        Ok(ask) => {
            let begun = Begun::wait(node.ask(ask)).await;
            let result = match begun {
                Err(refusal) => Err(refusal),
                Ok(begun) if stream => Ok(begun.streamed(usage)),
                Ok(begun) => begun.whole().await,
            };
            result.unwrap_or_else(Refusal::into_response)
        }
    }
}

/// An answer whose first token is there: from here on the HTTP status is decided.
struct Begun {
    answer: Answer,
    request_id: String,
    expert: String,
    peer: String,
    attempts: u32,
    first: Option<Event>,
}

impl Begun {
    async fn wait(mut answer: Answer) -> Result<Self, Refusal> {
        let mut begun = (String::new(), String::new(), String::new(), 0);
        while let Some(event) = answer.recv().await {
            match event.event {
                Some(Event::Decision(d)) => begun.0 = d.request_id,
                Some(Event::Attempt(a)) => {
                    (begun.1, begun.2, begun.3) = (a.expert, a.peer, a.number)
                }
                Some(Event::Failed(failed)) => return Err(failed.into()),
                first @ Some(Event::Tokens(_) | Event::Done(_)) => {
                    let (request_id, expert, peer, attempts) = begun;
                    return Ok(Self {
                        answer,
                        request_id,
                        expert,
                        peer,
                        attempts,
                        first,
                    });
                }
                _ => {}
            }
        }
        Err(broken())
    }

    async fn next(&mut self) -> Option<Event> {
        match self.first.take() {
            Some(first) => Some(first),
            None => self.answer.recv().await?.event,
        }
    }

    fn headers(&self, response: &mut Response) {
        for (name, value) in [
            (REQUEST_ID, self.request_id.clone()),
            (EXPERT, self.expert.clone()),
            (PEER, self.peer.clone()),
            (ATTEMPTS, self.attempts.to_string()),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
    }

    async fn whole(mut self) -> Result<Response, Refusal> {
        let mut text = String::new();
        loop {
            match self.next().await {
                Some(Event::Tokens(tokens)) => text.push_str(&tokens.text),
                Some(Event::Failed(failed)) => return Err(failed.into()),
                Some(Event::Done(done)) => {
                    let body = json!({
                        "id": format!("chatcmpl-{}", self.request_id),
                        "object": "chat.completion",
                        "created": now(),
                        "model": done.expert,
                        "system_fingerprint": done.engine_fingerprint,
                        "choices": [{
                            "index": 0,
                            "message": { "role": "assistant", "content": text, "refusal": null },
                            "logprobs": null,
                            "finish_reason": finish_reason(&done),
                        }],
                        "usage": usage(&done),
                    });
                    (self.expert, self.peer, self.attempts) =
                        (done.expert, done.peer, done.attempts);
                    let mut response = Json(body).into_response();
                    self.headers(&mut response);
                    return Ok(response);
                }
                Some(_) => {}
                None => return Err(broken()),
            }
        }
    }

    fn streamed(self, with_usage: bool) -> Response {
        let mut lines =
            VecDeque::from([self.chunk(json!({ "role": "assistant", "content": "" }), None)]);
        if with_usage {
            null_usage(&mut lines);
        }
        let mut response = Response::new(Body::empty());
        self.headers(&mut response);
        let state = Some((self, lines));
        let stream = futures::stream::unfold(state, move |state| async move {
            let (mut begun, mut lines) = state?;
            loop {
                if let Some(line) = lines.pop_front() {
                    return Some((
                        Ok::<_, std::convert::Infallible>(format!("data: {line}\n\n")),
                        Some((begun, lines)),
                    ));
                }
                match begun.next().await {
                    Some(Event::Tokens(tokens)) if tokens.text.is_empty() => {}
                    Some(Event::Tokens(tokens)) => {
                        lines.push_back(begun.chunk(json!({ "content": tokens.text }), None));
                        if with_usage {
                            null_usage(&mut lines);
                        }
                    }
                    Some(Event::Done(done)) => {
                        lines.push_back(begun.chunk(json!({}), Some(finish_reason(&done))));
                        if with_usage {
                            null_usage(&mut lines);
                            let mut last = begun.frame(json!([]));
                            last["usage"] = usage(&done);
                            lines.push_back(last);
                        }
                        let mut end: String =
                            lines.iter().map(|l| format!("data: {l}\n\n")).collect();
                        end.push_str("data: [DONE]\n\n");
                        return Some((Ok(end), None));
                    }
                    Some(Event::Failed(failed)) => {
                        let body = Refusal::from(failed).body();
                        return Some((Ok(format!("data: {body}\n\n")), None));
                    }
                    Some(_) => {}
                    None => return Some((Ok(format!("data: {}\n\n", broken().body())), None)),
                }
            }
        });
        *response.body_mut() = Body::from_stream(stream);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(UNBUFFERED, HeaderValue::from_static("no"));
        response
    }

    fn frame(&self, choices: Value) -> Value {
        json!({
            "id": format!("chatcmpl-{}", self.request_id),
            "object": "chat.completion.chunk",
            "created": now(),
            "model": self.expert,
            "choices": choices,
        })
    }

    fn chunk(&self, delta: Value, finish: Option<&str>) -> Value {
        self.frame(
            json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]),
        )
    }
}

/// With `include_usage` every chunk but the last says that its usage is null.
fn null_usage(lines: &mut VecDeque<Value>) {
    if let Some(line) = lines.back_mut() {
        line["usage"] = Value::Null;
    }
}

fn broken() -> Refusal {
    Refusal(Failure::new(
        ErrorKind::Internal,
        "the node ended in the middle of the answer: ask again",
    ))
}

fn finish_reason(done: &v1::Done) -> &'static str {
    match done.reason() {
        v1::finished::Reason::Length => "length",
        _ => "stop",
    }
}

fn usage(done: &v1::Done) -> Value {
    let u = done.usage.unwrap_or_default();
    json!({
        "prompt_tokens": u.prompt_tokens,
        "completion_tokens": u.completion_tokens,
        "total_tokens": u64::from(u.prompt_tokens) + u64::from(u.completion_tokens),
    })
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
