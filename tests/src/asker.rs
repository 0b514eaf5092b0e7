//! Asking a daemon over its control API, many questions at once, and what became of each.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use polymath_node::{Control, Home};
use polymath_proto::v1::{self, ask_event::Event};
use polymath_types::Format;
use tokio::time::{Instant, timeout};

use crate::script::Line;

/// Streams on one connection: fewer than servers allow as a rule.
const STREAMS: usize = 96;
/// What a machine that is busy with a dozen daemons may take to tell of an end.
const TELLING: Duration = Duration::from_secs(5);

/// What became of a question.
#[derive(Debug)]
pub struct Outcome {
    /// What was asked.
    pub line: Line,
    /// The expert asked.
    pub expert: String,
    /// When.
    pub asked: Instant,
    /// How long it took to its end.
    pub took: Duration,
    /// Whom it was passed to, in order.
    pub peers: Vec<String>,
    /// How it ended.
    pub end: End,
}

/// How a question ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// With its whole answer, each token once.
    Answered {
        /// By a second call beside a slow one.
        hedged: bool,
        /// As the daemon says.
        total: Duration,
        /// As the daemon says.
        ttft: Duration,
    },
    /// With an answer that is not what was asked for.
    Wrong(String),
    /// With an error.
    Failed(String),
    /// Not within its deadline and some time for telling so.
    Hung,
}

/// Asks one daemon.
#[derive(Debug)]
pub struct Asker {
    clients: Vec<Control>,
    next: AtomicUsize,
    /// Questions that are being answered, by id: whom they were passed to last.
    working: Mutex<HashMap<u64, String>>,
}

impl Asker {
    /// Asks the daemon on this home, at most `most` questions at once.
    pub async fn new(home: &Path, most: usize) -> Arc<Self> {
        let home = Home::at(home);
        let mut clients = Vec::new();
        for _ in 0..most.div_ceil(STREAMS) {
            let client = polymath_node::connect(&home).await.unwrap();
            clients.push(client.expect("the daemon runs"));
        }
        Arc::new(Self {
            clients,
            next: AtomicUsize::new(0),
            working: Mutex::default(),
        })
    }

    /// Ids of the questions that this peer is answering now.
    pub fn working_at(&self, peer: &str) -> Vec<u64> {
        let working = self.working.lock().unwrap();
        let at = working.iter().filter(|(_, at)| *at == peer);
        at.map(|(id, _)| *id).collect()
    }

    /// Asks and waits for the end.
    pub async fn ask(&self, line: Line, expert: &str, deadline: Duration) -> Outcome {
        let asked = Instant::now();
        let mut peers = Vec::new();
        let end = timeout(
            deadline + TELLING,
            self.follow(line, expert, deadline, &mut peers),
        );
        let end = end.await.unwrap_or(End::Hung);
        self.working.lock().unwrap().remove(&line.id);
        Outcome {
            line,
            expert: expert.to_owned(),
            asked,
            took: asked.elapsed(),
            peers,
            end,
        }
    }

    async fn follow(
        &self,
        line: Line,
        expert: &str,
        deadline: Duration,
        peers: &mut Vec<String>,
    ) -> End {
        let at = self.next.fetch_add(1, Relaxed) % self.clients.len();
        let mut client = self.clients[at].clone();
        let request = v1::AskRequest {
            version: Format::Control.current(),
            kind: "generate".into(),
            messages: vec![v1::ChatMessage {
                role: v1::chat_message::Role::User.into(),
                content: line.question(),
            }],
            model: expert.into(),
            timeout_ms: u64::try_from(deadline.as_millis()).unwrap(),
            ..v1::AskRequest::default()
        };
        let mut events = match client.ask(request).await {
            Ok(events) => events.into_inner(),
            Err(status) => return End::Failed(status.to_string()),
        };
        let (mut text, mut next, mut end) = (String::new(), 0, None);
        loop {
            let event = match events.message().await {
                Ok(Some(event)) => event.event,
                Ok(None) => break,
                Err(status) => return End::Failed(status.to_string()),
            };
            if end.is_some() {
                return End::Wrong(format!("an event after the end: {event:?}"));
            }
            match event {
                Some(Event::Attempt(attempt)) => {
                    let mut working = self.working.lock().unwrap();
                    working.insert(line.id, attempt.peer.clone());
                    peers.push(attempt.peer);
                }
                Some(Event::Tokens(tokens)) => {
                    for id in tokens.ids {
                        if id != next {
                            return End::Wrong(format!("token {id} where {next} was to come"));
                        }
                        next += 1;
                    }
                    text.push_str(&tokens.text);
                }
                Some(Event::Done(done)) => {
                    end = Some(End::Answered {
                        hedged: done.hedged,
                        total: Duration::from_secs_f64(done.total_ms / 1e3),
                        ttft: Duration::from_secs_f64(done.ttft_ms / 1e3),
                    });
                }
                Some(Event::Failed(failed)) => {
                    let tried = failed.attempts.iter().map(|a| format!("; {}", a.outcome));
                    let tried: String = tried.collect();
                    end = Some(End::Failed(format!(
                        "{}: {}{tried}",
                        failed.kind, failed.message
                    )));
                }
                _ => {}
            }
        }
        match end {
            Some(End::Answered { .. }) if text != line.answer() => {
                End::Wrong(format!("{} bytes of another text", text.len()))
            }
            Some(end) => end,
            None => End::Wrong("the stream ended without an end".into()),
        }
    }
}
