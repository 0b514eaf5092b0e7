//! `/v1/chat/completions`: plain and streamed.

mod request;

use std::{
    collections::VecDeque,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use polymath_node::{Answer, Node};
use polymath_proto::v1::{self, ask_event::Event};
use polymath_types::{ErrorKind, RequestId, Terms};
use request::ChatRequest;
use serde_json::{Value, json};

use crate::envelope::Refusal;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const EXPERT: HeaderName = HeaderName::from_static("x-polymath-expert");
const EXPERT_ID: HeaderName = HeaderName::from_static("x-polymath-expert-id");
const PEER: HeaderName = HeaderName::from_static("x-polymath-peer");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-polymath-attempts");
const HOW: HeaderName = HeaderName::from_static("x-polymath-how");
const MAX_CALLS: HeaderName = HeaderName::from_static("x-polymath-max-calls");
const MAX_TOTAL_TOKENS: HeaderName = HeaderName::from_static("x-polymath-max-total-tokens");
const MAX_COST: HeaderName = HeaderName::from_static("x-polymath-max-cost");
/// Time a client gets to send its request.
const UPLOAD: Duration = Duration::from_secs(30);
/// Tells reverse proxies not to hold the stream back.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(crate) async fn completions(State(node): State<Node>, request: Request) -> Response {
    let given = request
        .headers()
        .get(&REQUEST_ID)
        .and_then(|v| v.to_str().ok());
    let id = polymath_node::request_id(given.unwrap_or_default());
    let mut response = answer(&node, request, &id)
        .await
        .unwrap_or_else(Refusal::into_response);
    // Refusals carry it too: it is what a person quotes who looks for one in the log.
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// What the request's headers say of how many experts are asked, and what they may cost.
#[derive(Default)]
struct Bounds {
    how: Option<String>,
    max_calls: u32,
    max_total_tokens: Option<u64>,
    max_cost: Option<u64>,
}

impl Bounds {
    fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let how = text(headers, &HOW)?.map(str::to_owned);
        let cost: Option<f64> = number(headers, &MAX_COST)?;
        let millionths = |credits: f64| {
            let millionths = credits * Terms::CREDIT as f64;
            if (0.0..=Terms::HIGHEST_PRICE as f64).contains(&millionths) {
                Ok(millionths.round() as u64)
            } else {
                let what = format!("{MAX_COST} takes credits from 0 up to a million");
                Err(Refusal::invalid(what))
            }
        };
        Ok(Self {
            how,
            max_calls: number(headers, &MAX_CALLS)?.unwrap_or_default(),
            max_total_tokens: number(headers, &MAX_TOTAL_TOKENS)?,
            max_cost: cost.map(millionths).transpose()?,
        })
    }

    fn apply(self, ask: &mut v1::AskRequest) {
        if let Some(how) = self.how {
            ask.how = how;
        }
        ask.max_calls = self.max_calls;
        ask.max_total_tokens = self.max_total_tokens;
        ask.max_cost = self.max_cost;
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value.to_str();
    text.map(|t| Some(t.trim()))
        .map_err(|_| Refusal::invalid(format!("the header {name} is not readable")))
}

fn number<T: FromStr>(headers: &HeaderMap, name: &HeaderName) -> Result<Option<T>, Refusal> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    let number = text.parse();
    number.map(Some).map_err(|_| {
        let text: String = text.chars().take(40).collect();
        Refusal::invalid(format!("the header {name} takes a number, not '{text}'"))
    })
}

async fn answer(node: &Node, request: Request, id: &RequestId) -> Result<Response, Refusal> {
    let bounds = Bounds::read(request.headers())?;
    let body = tokio::time::timeout(UPLOAD, Json::<ChatRequest>::from_request(request, &()));
    let Json(request) = body.await.map_err(|_| {
        Refusal::invalid(format!("the request was not complete within {UPLOAD:?}"))
            .with_status(StatusCode::REQUEST_TIMEOUT)
    })??;
    let (streams, usage) = (request.streams(), request.wants_usage());
    let mut ask = request.ask(id)?;
    bounds.apply(&mut ask);
    let begun = Begun::wait(node.ask(ask), id).await?;
    if streams {
        Ok(begun.streamed(usage))
    } else {
        begun.whole().await
    }
}

/// An answer whose first token is there: from here on the HTTP status is decided.
struct Begun {
    answer: Answer,
    request_id: String,
    created: u64,
    expert: String,
    expert_id: String,
    peer: String,
    attempts: u32,
    first: Option<Event>,
}

impl Begun {
    async fn wait(mut answer: Answer, id: &RequestId) -> Result<Self, Refusal> {
        let mut begun = v1::Attempt::default();
        while let Some(event) = answer.recv().await {
            match event.event {
                Some(Event::Attempt(attempt)) => begun = attempt,
                Some(Event::Failed(failed)) => return Err(failed.into()),
                first @ Some(Event::Tokens(_) | Event::Done(_)) => {
                    return Ok(Self {
                        answer,
                        request_id: id.to_string(),
                        created: now(),
                        expert: begun.expert,
                        expert_id: begun.expert_id,
                        peer: begun.peer,
                        attempts: begun.number,
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
            (EXPERT, self.expert.clone()),
            (EXPERT_ID, self.expert_id.clone()),
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
                Some(Event::Restarted(_)) => text.clear(),
                Some(Event::Failed(failed)) => return Err(failed.into()),
                Some(Event::Done(done)) => {
                    let body = json!({
                        "id": format!("chatcmpl-{}", self.request_id),
                        "object": "chat.completion",
                        "created": self.created,
                        "model": done.expert,
                        "system_fingerprint": done.engine_fingerprint,
                        "choices": [{
                            "index": 0,
                            "message": { "role": "assistant", "content": text, "refusal": null },
                            "logprobs": null,
                            "finish_reason": finish_reason(&done),
                        }],
                        "usage": usage(&done),
                        "polymath": account(&done),
                    });
                    (self.expert, self.expert_id) = (done.expert, done.expert_id);
                    (self.peer, self.attempts) = (done.peer, done.attempts);
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
                            last["polymath"] = account(&done);
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
            "created": self.created,
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
    Refusal::new(
        ErrorKind::Internal,
        "the node ended in the middle of the answer: ask again",
    )
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

/// What all calls for the question came to; its `usage` is the answer's alone.
fn account(done: &v1::Done) -> Value {
    let total = done.total.unwrap_or_default();
    json!({
        "how": done.how,
        "agreement": (done.agreement > 0.0).then_some(done.agreement),
        "calls_made": done.calls_made,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "cost": done.cost as f64 / Terms::CREDIT as f64,
        "calls": done.calls.iter().map(|c| json!({
            "role": c.role, "expert": c.expert, "expert_id": c.expert_id, "peer": c.peer,
            "outcome": c.outcome, "prompt_tokens": c.prompt_tokens,
            "completion_tokens": c.completion_tokens, "cost": c.cost as f64 / Terms::CREDIT as f64,
        })).collect::<Vec<_>>(),
    })
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
