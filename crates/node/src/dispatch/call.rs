//! One call: how its peer is reached, how long its silence is borne, and what of its answer is passed
//! on. It is opened first, to its first token; only then is anything of it passed on.

use std::time::Duration;

use futures::StreamExt;
use polymath_net::PeerInfo;
use polymath_proto::v1::{self, ask_event::Event, generate_event::Event as Step};
use polymath_router::{Candidate, Served};
use polymath_rpc as rpc;
use polymath_types::{ErrorKind, ExpertKind, Failure, Format, PathKind, Query, Transport};
use tokio::time::Instant;
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use super::{Asked, attempts::Progress, ledger::ANSWERED};
use crate::{
    admission::Caller,
    serve::{BEAT, Events},
};

/// A connection that takes longer than this counts as none, while others could be asked.
const CONNECT: Duration = Duration::from_secs(5);
/// The same where nobody else could be asked: so that a question to whom nobody can connect ends, with
/// the reason, within ten seconds.
const CONNECT_TO_THE_ONLY_ONE: Duration = Duration::from_secs(9);
/// Silence after which another replica is asked, if there is one: this, or half of the time that is
/// left if that is less, so that the other one still has a chance. A peer at work says so every
/// [`BEAT`], however long the prompt.
const SILENCE: Duration = Duration::from_secs(10);
/// A peer takes an answer on before it computes any of it, so the lack of even that tells soon that it
/// is gone: over QUIC nothing else does for some seconds.
const TAKEN_ON: Duration = Duration::from_secs(3);

/// A text from this length on is packed for a path that is slow, where its bytes take longer than packing
/// them: by a round trip of so much, or through a relay.
const LONG_TEXT: usize = 8 << 10;
const FAR: Duration = Duration::from_millis(5);

type Client = v1::expert_client::ExpertClient<rpc::Channel>;

/// One call to be made.
#[derive(Clone, Copy)]
pub(super) struct Try<'d, 't> {
    pub(super) query: &'d Query,
    pub(super) candidate: &'d Candidate,
    /// Another expert is asked if this one says that it has no answer.
    pub(super) watch: bool,
    /// From 1.
    pub(super) number: usize,
    /// Why the one before failed.
    pub(super) previous: Option<&'t Failure>,
    /// Who could still be asked.
    pub(super) rest: &'t [&'d Candidate],
    /// It is made beside another one that has brought nothing yet.
    pub(super) hedge: bool,
    /// Most tokens of the whole answer.
    pub(super) most_tokens: usize,
    pub(super) deadline: Instant,
    pub(super) began: Instant,
}

impl Try<'_, '_> {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether somebody else could go on from here: then patience is short.
    fn more(&self, progress: &Progress) -> bool {
        self.rest.iter().any(|c| progress.can_go_on_with(c))
    }

    fn patience(&self, progress: &Progress) -> Duration {
        let left = self.left();
        if self.more(progress) {
            SILENCE.min((left / 2).max(BEAT * 2)).min(left)
        } else {
            left
        }
    }

    /// Vectors and labels come whole: their peer cannot say that it is at work.
    fn patience_for_all(&self, progress: &Progress) -> Duration {
        let left = self.left();
        if self.more(progress) { left / 2 } else { left }
    }

    fn patience_to_be_taken_on(&self, progress: &Progress) -> Duration {
        let patience = self.patience(progress);
        if self.more(progress) {
            TAKEN_ON.min(patience)
        } else {
            patience
        }
    }

    fn budget_ms(&self) -> u64 {
        u64::try_from(self.left().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// The message with what is left of the budget in its metadata.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.left());
        request
    }

    /// Bytes of the question.
    fn text(&self) -> usize {
        self.query.messages.iter().map(|m| m.content.len()).sum()
    }

    fn texts(&self) -> Vec<String> {
        self.query
            .messages
            .iter()
            .map(|m| m.content.clone())
            .collect()
    }
}

/// Whether a path is likely to take longer for a text than packing it does.
fn is_slow(peer: &PeerInfo) -> bool {
    peer.path == PathKind::Relayed || peer.rtt.is_some_and(|rtt| rtt >= FAR)
}

/// How a call reaches its peer; without a client the expert is in this process.
struct Route {
    client: Option<Client>,
    path: PathKind,
    transport: Transport,
}

/// What this call alone brought, for the router: an answer that is carried on has other times.
struct Pace {
    began: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    tokens: u32,
}

impl Pace {
    fn note(&mut self, tokens: usize) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.tokens = self
            .tokens
            .saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
    }

    fn served(&self) -> Served {
        let first = self.first.unwrap_or_else(Instant::now);
        let last = self.last.unwrap_or(first);
        Served {
            ttft: first.saturating_duration_since(self.began),
            tokens: self.tokens,
            decode: last.saturating_duration_since(first),
        }
    }
}

/// What a call brought first.
enum Begun {
    /// What was said of the answer, if it was, and its first step of substance.
    Answer {
        events: Events,
        started: Option<v1::Started>,
        step: Step,
    },
    Vectors(v1::EmbedResponse),
    Labels(v1::ClassifyResponse),
}

/// A call that has brought its first token, or for vectors and labels its answer. Nothing of it was passed
/// on yet, so that it may still be dropped for another one.
pub(super) struct Opened {
    begun: Begun,
    route: (String, String),
    pace: Pace,
    /// Its place in the ledger.
    call: usize,
}

impl Asked {
    /// Makes a call and waits for what it brings first.
    pub(super) async fn open(
        &self,
        attempt: &Try<'_, '_>,
        progress: &Progress,
        call: usize,
    ) -> Result<Opened, Failure> {
        let service = &self.node.inner.service;
        let mut pace = Pace {
            began: attempt.began,
            first: None,
            last: None,
            tokens: 0,
        };
        let Route {
            client,
            path,
            transport,
        } = self.route(attempt, progress).await?;
        let route = (path.to_string(), transport.to_string());
        // A second call is told of when it is the one that answers.
        if !attempt.hedge {
            self.announce(attempt, &route).await;
        }
        let (version, expert) = (
            Format::Wire.current(),
            attempt.candidate.expert.as_bytes().to_vec().into(),
        );
        let (request_id, budget_ms) = (attempt.query.id.to_string(), attempt.budget_ms());
        let texts = || attempt.texts();
        let begun = match attempt.query.kind {
            ExpertKind::Generate => {
                let request = generate_request(attempt, progress);
                let events: Events = match client {
                    None => service.generate(Caller::Own, request, attempt.left())?,
                    Some(mut client) => within(
                        attempt.patience_to_be_taken_on(progress),
                        client.generate(attempt.request(request)),
                    )
                    .await?
                    .map(|e| e.map_err(|s| rpc::failure(&s)))
                    .boxed(),
                };
                let read = |tokens| self.ledger.read(call, tokens);
                first_step(events, attempt, progress, read).await?
            }
            ExpertKind::Embed => {
                let request = v1::EmbedRequest {
                    version,
                    expert,
                    request_id,
                    texts: texts(),
                    budget_ms,
                };
                Begun::Vectors(match client {
                    None => service.embed(Caller::Own, request, attempt.left()).await?,
                    Some(mut client) => {
                        within(
                            attempt.patience_for_all(progress),
                            client.embed(attempt.request(request)),
                        )
                        .await?
                    }
                })
            }
            ExpertKind::Classify => {
                let labels = attempt.query.labels.clone();
                let request = v1::ClassifyRequest {
                    version,
                    expert,
                    request_id,
                    texts: texts(),
                    labels,
                    budget_ms,
                };
                Begun::Labels(match client {
                    None => {
                        service
                            .classify(Caller::Own, request, attempt.left())
                            .await?
                    }
                    Some(mut client) => {
                        within(
                            attempt.patience_for_all(progress),
                            client.classify(attempt.request(request)),
                        )
                        .await?
                    }
                })
            }
        };
        pace.note(0);
        let prompt = match &begun {
            Begun::Answer { started, .. } => started.is_none().then_some(0),
            Begun::Vectors(v1::EmbedResponse { usage, .. })
            | Begun::Labels(v1::ClassifyResponse { usage, .. }) => {
                Some(usage.map_or(0, |u| u.prompt_tokens))
            }
        };
        if let Some(tokens) = prompt {
            self.ledger.read(call, tokens);
        }
        Ok(Opened {
            begun,
            route,
            pace,
            call,
        })
    }

    /// Passes an opened call's answer on until it is complete.
    pub(super) async fn answer(
        &self,
        opened: Opened,
        attempt: &Try<'_, '_>,
        progress: &mut Progress,
    ) -> Result<Served, Failure> {
        let Opened {
            begun,
            route,
            mut pace,
            call,
        } = opened;
        if attempt.hedge {
            self.announce(attempt, &route).await;
        }
        let finished = match begun {
            Begun::Answer {
                events,
                started,
                step,
            } => {
                let Candidate { expert, peer, .. } = *attempt.candidate;
                self.node.router().spoke(self.node.elapsed(), expert, peer);
                // An answer that is carried on has started already.
                if let (Some(started), true) = (started, progress.is_empty()) {
                    progress.untold = self.tells_no_ids(attempt.candidate);
                    progress.expert = Some(attempt.candidate.expert);
                    progress.seed = Some(started.seed);
                    progress.fingerprint.clone_from(&started.engine_fingerprint);
                    self.send(Event::Started(started)).await;
                }
                self.relay(step, events, attempt, progress, (&mut pace, call))
                    .await?
            }
            Begun::Vectors(response) => {
                progress.note();
                self.send(Event::Embeddings(v1::Embeddings {
                    vectors: response.vectors,
                }))
                .await;
                complete(response.usage, response.load)
            }
            Begun::Labels(response) => {
                progress.note();
                let classifications = response.classifications;
                self.send(Event::Classifications(v1::Classifications {
                    classifications,
                }))
                .await;
                complete(response.usage, response.load)
            }
        };
        if let Some(load) = rpc::load_from_proto(finished.load) {
            let loads = &self.node.inner.loads;
            loads.heard(Instant::now(), attempt.candidate.peer, load);
        }
        progress.finished = match finished.reason() {
            v1::finished::Reason::Length => "length",
            _ => "stop",
        };
        self.ledger.ended(call, ANSWERED);
        self.finish(attempt, route, finished, progress).await;
        Ok(pace.served())
    }

    /// Tells the one who asked whom it is that answers.
    async fn announce(&self, attempt: &Try<'_, '_>, (path, transport): &(String, String)) {
        let candidate = attempt.candidate;
        self.send(Event::Attempt(v1::Attempt {
            number: u32::try_from(attempt.number).unwrap_or(u32::MAX),
            expert_id: candidate.expert.to_string(),
            expert: candidate.name.clone(),
            peer: candidate.peer.to_string(),
            path: path.clone(),
            transport: transport.clone(),
            previous_failure: attempt
                .previous
                .map(|f| f.message.clone())
                .unwrap_or_default(),
            hedge: attempt.hedge,
        }))
        .await;
    }

    async fn route(&self, attempt: &Try<'_, '_>, progress: &Progress) -> Result<Route, Failure> {
        let inner = &self.node.inner;
        let peer = attempt.candidate.peer;
        if peer == inner.net.local_peer() {
            return Ok(Route {
                client: None,
                path: PathKind::Local,
                transport: Transport::None,
            });
        }
        inner.introduce(&peer);
        let patience = if attempt.more(progress) {
            CONNECT
        } else {
            CONNECT_TO_THE_ONLY_ONE
        };
        let client = inner
            .clients
            .expert(peer, patience.min(attempt.left()))
            .await
            .map_err(|e| self.node.unreached(peer, &e))?;
        let info = inner.net.peer(&peer);
        let slow = info.as_ref().is_some_and(is_slow);
        let (path, transport) = info.map_or((PathKind::Direct, Transport::Tcp), |p| {
            (p.path, p.transport)
        });
        let client = if slow && attempt.text() >= LONG_TEXT {
            client.send_compressed(CompressionEncoding::Gzip)
        } else {
            client
        };
        Ok(Route {
            client: Some(client),
            path,
            transport,
        })
    }

    /// Passes an answer's events on, from its first step to its end.
    async fn relay(
        &self,
        mut step: Step,
        mut events: Events,
        attempt: &Try<'_, '_>,
        progress: &mut Progress,
        (pace, call): (&mut Pace, usize),
    ) -> Result<v1::Finished, Failure> {
        let again = attempt.watch && self.restarts;
        loop {
            match step {
                Step::Tokens(tokens) => {
                    progress.take(&tokens, attempt.most_tokens)?;
                    let came = progress.came(&tokens);
                    pace.note(came);
                    let weight = progress.weigh(&tokens);
                    self.ledger.came(call, weight, attempt.most_tokens);
                    for tokens in progress.sift(tokens, again)? {
                        self.send(Event::Tokens(tokens)).await;
                    }
                }
                Step::Finished(finished) => {
                    let most = attempt.most_tokens;
                    self.ledger
                        .settle(call, finished.usage, !progress.untold, most);
                    for tokens in progress.sift_end()? {
                        self.send(Event::Tokens(tokens)).await;
                    }
                    return Ok(finished);
                }
                // It is at work; and it has started already.
                Step::Working(_) | Step::Started(_) => {}
            }
            step = next_step(&mut events, attempt, progress).await?;
        }
    }

    async fn finish(
        &self,
        attempt: &Try<'_, '_>,
        (path, transport): (String, String),
        finished: v1::Finished,
        progress: &Progress,
    ) {
        let (now, candidate) = (Instant::now(), attempt.candidate);
        let first = progress.first.unwrap_or(now);
        let decode = progress
            .last
            .unwrap_or(first)
            .saturating_duration_since(first);
        let tokens = u32::try_from(progress.tokens()).unwrap_or(u32::MAX);
        let decoded = tokens > 1 && !decode.is_zero();
        let rate = if decoded {
            f64::from(tokens - 1) / decode.as_secs_f64()
        } else {
            0.0
        };
        let since = |at: Instant| at.saturating_duration_since(self.begun).as_secs_f64() * 1e3;
        let done = self.accounted(v1::Done {
            reason: finished.reason,
            usage: finished.usage,
            expert_id: candidate.expert.to_string(),
            expert: candidate.name.clone(),
            model: candidate.model.clone(),
            peer: candidate.peer.to_string(),
            path,
            transport,
            ttft_ms: since(first),
            total_ms: since(now),
            tokens_per_second: rate,
            attempts: u32::try_from(attempt.number).unwrap_or(u32::MAX),
            engine_fingerprint: progress.fingerprint.clone(),
            seed: progress.seed.unwrap_or_default(),
            hedged: attempt.hedge,
            ..v1::Done::default()
        });
        self.send(Event::Done(done)).await;
    }

    /// With what all calls of the question came to.
    pub(super) fn accounted(&self, done: v1::Done) -> v1::Done {
        let account = self.ledger.account();
        v1::Done {
            how: self.how.to_owned(),
            agreement: self.agreement,
            calls: account.calls,
            calls_made: account.made,
            cost: account.cost,
            total: Some(account.total),
            ..done
        }
    }
}

/// The first step that is part of the answer, with what was said before it. A prompt that was read is told of at
/// once: a call may be dropped before it brings anything.
async fn first_step(
    mut events: Events,
    attempt: &Try<'_, '_>,
    progress: &Progress,
    read: impl Fn(u32),
) -> Result<Begun, Failure> {
    let mut started = None;
    loop {
        match next_step(&mut events, attempt, progress).await? {
            Step::Started(said) => {
                read(said.prompt_tokens);
                started = Some(said);
            }
            Step::Working(_) => {}
            step @ (Step::Tokens(_) | Step::Finished(_)) => {
                return Ok(Begun::Answer {
                    events,
                    started,
                    step,
                });
            }
        }
    }
}

/// The next step of an answer, within the patience for it and the question's deadline.
async fn next_step(
    events: &mut Events,
    attempt: &Try<'_, '_>,
    progress: &Progress,
) -> Result<Step, Failure> {
    loop {
        // What has come in the meantime, but too late, is too late all the same.
        if attempt.left().is_zero() {
            return Err(Failure::new(
                ErrorKind::DeadlineExceeded,
                "the time for the answer is over",
            ));
        }
        let patience = attempt.patience(progress);
        let next = tokio::time::timeout(patience, events.next())
            .await
            .map_err(|_| {
                Failure::new(
                    ErrorKind::DeadlineExceeded,
                    format!("the peer fell silent for {patience:?}"),
                )
            })?;
        let next = next.ok_or_else(|| {
            Failure::new(
                ErrorKind::Unavailable,
                "the peer went away in the middle of the answer",
            )
        })?;
        if let Some(step) = next?.event {
            return Ok(step);
        }
    }
}

fn generate_request(attempt: &Try<'_, '_>, progress: &Progress) -> v1::GenerateRequest {
    let query = attempt.query;
    let mut sampling = rpc::sampling_to_proto(&query.sampling);
    // A resumed answer goes on with the seed it began with.
    sampling.seed = sampling.seed.or(progress.seed);
    v1::GenerateRequest {
        version: Format::Wire.current(),
        expert: attempt.candidate.expert.as_bytes().to_vec().into(),
        request_id: query.id.to_string(),
        messages: rpc::messages_to_proto(&query.messages),
        sampling: Some(sampling),
        prefix_token_ids: progress.ids.clone(),
        engine_fingerprint: progress.fingerprint.clone(),
        budget_ms: attempt.budget_ms(),
    }
}

/// How an answer of one message ends.
fn complete(usage: Option<v1::Usage>, load: Option<v1::Load>) -> v1::Finished {
    v1::Finished {
        reason: v1::finished::Reason::Stop as i32,
        usage,
        load,
    }
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(patience, call).await {
        Ok(done) => done.map(Response::into_inner).map_err(|s| rpc::failure(&s)),
        Err(_) => Err(Failure::new(
            ErrorKind::DeadlineExceeded,
            format!("the peer did not answer within {patience:?}"),
        )),
    }
}
