//! A strict OpenAI-compatible server that behaves, or misbehaves in one way at a time.
//!
//! It answers 400 to whatever OpenAI's API does not know, so that what is sent stays within it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What it does with a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// Says `words` one by one, then how many they were.
    Says(Vec<String>),
    /// The same, but nobody counts.
    SaysUncounted(Vec<String>),
    /// The same in one piece, whatever was asked.
    Whole(String),
    /// Takes the question and is silent.
    Hangs,
    /// Says `words`, then is silent.
    HangsAfter(Vec<String>),
    /// Says `words`, then closes the connection.
    DiesAfter(Vec<String>),
    /// Says the same word until the connection ends.
    Endless(String),
    /// States so many tokens as its usage.
    Overcounts(u32),
    /// Promises more bytes than it sends.
    ShortBody,
    /// This status, these header lines, this body.
    Status(u16, String, String),
    /// These bytes for a response.
    Raw(Vec<u8>),
    /// A stream of these bytes.
    Stream(Vec<u8>),
    /// The same, then silence.
    SilentAfter(Vec<u8>),
    /// A stream of this piece, again and again.
    Flood(Vec<u8>),
    /// A vector for each text.
    Vectors(Vec<f32>),
}

#[derive(Debug)]
struct State {
    mode: Mutex<Mode>,
    models: Mutex<Vec<String>>,
    key: Option<String>,
    asked: watch::Sender<Vec<Value>>,
    /// Questions whose connection is open.
    open: watch::Sender<usize>,
}

/// The server; it ends with the runtime.
#[derive(Debug, Clone)]
pub struct FakeUpstream {
    state: Arc<State>,
    address: SocketAddr,
    accepting: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
}

impl FakeUpstream {
    /// Starts it on a free port.
    pub async fn start(models: &[&str], key: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            mode: Mutex::new(says("Hello from far away.")),
            models: Mutex::new(models.iter().map(|m| (*m).to_owned()).collect()),
            key: key.map(str::to_owned),
            asked: watch::Sender::default(),
            open: watch::Sender::default(),
        });
        let fake = Self {
            state,
            address,
            accepting: Arc::default(),
        };
        fake.accept(listener);
        fake
    }

    fn accept(&self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&state), stream));
            }
        });
        *self.accepting.lock().unwrap() = Some(accepting);
    }

    /// Its base address.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// From now on it does this.
    pub fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
    }

    /// From now on it has these models.
    pub fn set_models(&self, models: &[&str]) {
        *self.state.models.lock().unwrap() = models.iter().map(|m| (*m).to_owned()).collect();
    }

    /// Nobody can connect any more, until [`Self::open`].
    pub async fn close(&self) {
        let accepting = self.accepting.lock().unwrap().take();
        if let Some(accepting) = accepting {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    /// On its old port again.
    pub async fn open(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.accept(listener);
    }

    /// The questions' bodies so far.
    pub fn asked(&self) -> Vec<Value> {
        self.state.asked.borrow().clone()
    }

    /// Waits for so many questions.
    pub async fn wait_asked(&self, n: usize) -> Vec<Value> {
        let mut asked = self.state.asked.subscribe();
        asked.wait_for(|a| a.len() >= n).await.unwrap().clone()
    }

    /// Waits until exactly so many questions' connections are open.
    pub async fn wait_open(&self, n: usize) {
        let mut open = self.state.open.subscribe();
        open.wait_for(|o| *o == n).await.unwrap();
    }
}

/// What says these words.
pub fn says(text: &str) -> Mode {
    Mode::Says(words(text))
}

/// A text in words, each with the blank behind it.
pub fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

struct Open<'a>(&'a State);

impl<'a> Open<'a> {
    fn new(state: &'a State) -> Self {
        state.open.send_modify(|n| *n += 1);
        Self(state)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.send_modify(|n| *n -= 1);
    }
}

async fn serve(state: Arc<State>, mut stream: TcpStream) {
    let Some((head, body)) = read(&mut stream).await else {
        return;
    };
    let line = head.lines().next().unwrap_or_default().to_owned();
    let has = |wanted: &str| head.lines().any(|l| l.eq_ignore_ascii_case(wanted));
    if let Some(key) = &state.key
        && !has(&format!("authorization: Bearer {key}"))
    {
        let said = json!({ "error": { "message": format!("Incorrect API key provided: {head}") } });
        return respond(&mut stream, 401, "", &said.to_string()).await;
    }
    match line.as_str() {
        "GET /v1/models HTTP/1.1" => {
            let models = state.models.lock().unwrap().clone();
            let data: Vec<Value> = models
                .iter()
                .map(|id| json!({ "id": id, "object": "model", "max_model_len": 4096 }))
                .collect();
            let list = json!({ "object": "list", "data": data }).to_string();
            respond(&mut stream, 200, "", &list).await;
        }
        "POST /v1/chat/completions HTTP/1.1" | "POST /v1/embeddings HTTP/1.1" => {
            let Ok(asked) = serde_json::from_slice::<Value>(&body) else {
                return respond(&mut stream, 400, "", "no JSON").await;
            };
            if let Err(wrong) = check(&asked, line.contains("chat"), &state) {
                let said = json!({ "error": { "message": wrong } });
                return respond(&mut stream, 400, "", &said.to_string()).await;
            }
            let _open = Open::new(&state);
            state.asked.send_modify(|all| all.push(asked.clone()));
            let mode = state.mode.lock().unwrap().clone();
            let (mut reading, mut writing) = stream.split();
            let mut rest = [0; 64];
            tokio::select! {
                () = act(&mut writing, mode, &asked) => {}
                // The client has gone.
                _ = reading.read(&mut rest) => {}
            }
        }
        _ => respond(&mut stream, 404, "", "nothing here").await,
    }
}

async fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(all[..end].to_vec()).ok()?;
            let length = head
                .lines()
                .filter_map(|l| l.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, n)| n.parse().unwrap());
            let mut body = all.split_off(end + 4);
            while body.len() < length {
                let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
                body.extend_from_slice(&piece[..n]);
            }
            return Some((head, body));
        }
        let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&piece[..n]);
    }
}

fn check(asked: &Value, chat: bool, state: &State) -> Result<(), String> {
    let known: &[&str] = if chat {
        &[
            "model",
            "messages",
            "stream",
            "stream_options",
            "max_tokens",
            "temperature",
            "top_p",
            "seed",
            "stop",
        ]
    } else {
        &["model", "input", "encoding_format"]
    };
    let fields = asked.as_object().ok_or("no object")?;
    if let Some(unknown) = fields.keys().find(|k| !known.contains(&k.as_str())) {
        return Err(format!("Unrecognized request argument supplied: {unknown}"));
    }
    let model = asked["model"].as_str().ok_or("no model")?;
    if !state.models.lock().unwrap().iter().any(|m| m == model) {
        return Err(format!("model {model} does not exist"));
    }
    if chat {
        let messages = asked["messages"].as_array().ok_or("no messages")?;
        let sound = |m: &Value| {
            ["system", "user", "assistant"].contains(&m["role"].as_str().unwrap_or_default())
                && m["content"].is_string()
        };
        if messages.is_empty() || !messages.iter().all(sound) {
            return Err("bad messages".into());
        }
    }
    Ok(())
}

async fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &str) {
    let (_, mut writing) = stream.split();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = writing.write_all(head.as_bytes()).await;
}

type Writing<'a> = tokio::net::tcp::WriteHalf<'a>;

async fn chunk(to: &mut Writing<'_>, bytes: &[u8]) -> bool {
    let framed = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    to.write_all(&framed).await.is_ok()
}

async fn event(to: &mut Writing<'_>, value: &Value) -> bool {
    chunk(to, format!("data: {value}\n\n").as_bytes()).await
}

fn delta(text: &str) -> Value {
    json!({ "id": "x", "object": "chat.completion.chunk",
        "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] })
}

const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

async fn say(to: &mut Writing<'_>, words: &[String]) {
    let _ = to.write_all(STREAM).await;
    let role = json!({ "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": null }] });
    event(to, &role).await;
    for word in words {
        event(to, &delta(word)).await;
    }
}

async fn end(to: &mut Writing<'_>, usage: Option<Value>) {
    let last = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    event(to, &last).await;
    if let Some(usage) = usage {
        event(to, &json!({ "choices": [], "usage": usage })).await;
    }
    chunk(to, b"data: [DONE]\n\n").await;
    let _ = to.write_all(b"0\r\n\r\n").await;
}

async fn act(to: &mut Writing<'_>, mode: Mode, asked: &Value) {
    match mode {
        Mode::Says(words) => {
            say(to, &words).await;
            let n = words.len();
            end(
                to,
                Some(json!({ "prompt_tokens": 7, "completion_tokens": n, "total_tokens": n + 7 })),
            )
            .await;
        }
        Mode::SaysUncounted(words) => {
            say(to, &words).await;
            end(to, None).await;
        }
        Mode::Overcounts(n) => {
            say(to, &words("two words")).await;
            end(
                to,
                Some(json!({ "prompt_tokens": n, "completion_tokens": n })),
            )
            .await;
        }
        Mode::Whole(text) => {
            let body = json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }],
                "usage": { "prompt_tokens": 7, "completion_tokens": 3 } }).to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = to.write_all(head.as_bytes()).await;
        }
        Mode::Hangs => std::future::pending().await,
        Mode::HangsAfter(words) => {
            say(to, &words).await;
            std::future::pending().await
        }
        Mode::DiesAfter(words) => say(to, &words).await,
        Mode::Endless(word) => {
            say(to, &[]).await;
            while event(to, &delta(&word)).await {}
        }
        Mode::ShortBody => {
            let _ = to
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"choices\"")
                .await;
        }
        Mode::Status(code, headers, body) => {
            let head = format!(
                "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = to.write_all(head.as_bytes()).await;
        }
        Mode::Raw(bytes) => {
            let _ = to.write_all(&bytes).await;
        }
        Mode::Stream(bytes) => {
            let _ = to.write_all(STREAM).await;
            chunk(to, &bytes).await;
            let _ = to.write_all(b"0\r\n\r\n").await;
        }
        Mode::SilentAfter(bytes) => {
            let _ = to.write_all(STREAM).await;
            chunk(to, &bytes).await;
            std::future::pending().await
        }
        Mode::Flood(piece) => {
            let _ = to.write_all(STREAM).await;
            while chunk(to, &piece).await {}
        }
        Mode::Vectors(vector) => {
            let n = asked["input"].as_array().map_or(1, Vec::len);
            let data: Vec<Value> = (0..n)
                .rev()
                .map(|i| json!({ "index": i, "embedding": vector }))
                .collect();
            let body = json!({ "data": data, "usage": { "prompt_tokens": n } }).to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = to.write_all(head.as_bytes()).await;
        }
    }
}
