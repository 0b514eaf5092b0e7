//! `/v1/chat/completions`: plain and streamed.

mod request;

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use polymath_node::{Answer, Node};
use polymath_proto::v1::{self, ask_event::Event};
use polymath_types::{ErrorKind, RequestId};
use request::ChatRequest;
use serde_json::{Value, json};

use crate::envelope::Refusal;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const EXPERT: HeaderName = HeaderName::from_static("x-polymath-expert");
const EXPERT_ID: HeaderName = HeaderName::from_static("x-polymath-expert-id");
const PEER: HeaderName = HeaderName::from_static("x-polymath-peer");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-polymath-attempts");
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

async fn answer(node: &Node, request: Request, id: &RequestId) -> Result<Response, Refusal> {
    let body = tokio::time::timeout(UPLOAD, Json::<ChatRequest>::from_request(request, &()));
    let Json(request) = body.await.map_err(|_| {
        Refusal::invalid(format!("the request was not complete within {UPLOAD:?}"))
            .with_status(StatusCode::REQUEST_TIMEOUT)
    })??;
    let (streams, usage) = (request.streams(), request.wants_usage());
    let begun = Begun::wait(node.ask(request.ask(id)?), id).await?;
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

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
