//! Calling candidate after candidate: what a failed call means for the next, and how an answer that
//! broke off is carried on by another replica.

use std::time::Duration;

use futures::StreamExt;
use polymath_proto::v1::{self, ask_event::Event, generate_event::Event as Step};
use polymath_router::{Candidate, Decision, Outcome, Served};
use polymath_rpc as rpc;
use polymath_types::{
    Attempt, ErrorKind, ExpertId, ExpertKind, Failure, Format, PathKind, Query, Transport,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, transport::Channel};

use super::Asked;
use crate::{Node, serve::Events};

/// A connection that takes longer than this counts as none, while others could be asked.
const CONNECT: Duration = Duration::from_secs(5);
/// Silence after which another replica is asked, if there is one: this, or half of the time that is
/// left if that is less, so that the other one still has a chance.
const SILENCE: Duration = Duration::from_secs(20);

/// A peer takes an answer on before it computes any of it, so the lack of even that tells soon that it
/// is gone: over QUIC nothing else does for some seconds.
const TAKEN_ON: Duration = Duration::from_secs(3);

type Client = v1::expert_client::ExpertClient<Channel>;

/// What has arrived of an answer so far, across replicas.
#[derive(Default)]
struct Progress {
    /// Every token, in order.
    ids: Vec<u32>,
    /// Whose tokens these are: only this expert can carry the answer on.
    expert: Option<ExpertId>,
    seed: Option<u64>,
    fingerprint: String,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Progress {
    fn can_go_on_with(&self, candidate: &Candidate) -> bool {
        self.ids.is_empty() || self.expert == Some(candidate.expert)
    }

    fn note(&mut self) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
    }
}

/// One call to be made.
struct Try<'a> {
    query: &'a Query,
    candidate: &'a Candidate,
    /// From 1.
    number: usize,
    /// Why the one before failed.
    previous: Option<&'a Failure>,
    /// Whether others could still be asked: then patience is short.
    more: bool,
    deadline: Instant,
    began: Instant,
}

impl Try<'_> {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn patience(&self) -> Duration {
        if self.more {
            SILENCE.min(self.left() / 2)
        } else {
            self.left()
        }
    }

    fn patience_to_be_taken_on(&self) -> Duration {
        if self.more {
            TAKEN_ON.min(self.patience())
        } else {
            self.patience()
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

    fn texts(&self) -> Vec<String> {
        self.query
            .messages
            .iter()
            .map(|m| m.content.clone())
            .collect()
    }
}

/// How a call reaches its peer; without a client the expert is in this process.
struct Route {
    client: Option<Client>,
    path: PathKind,
    transport: Transport,
}

impl Asked {
    /// Candidate after candidate until one answers in full or the deadline passes.
    pub(super) async fn attempt_all(
        &self,
        query: &Query,
        decision: Decision,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut progress = Progress::default();
        let mut failures: Vec<Attempt> = Vec::new();
        let mut last: Option<Failure> = None;
        for (i, candidate) in decision.candidates.iter().enumerate() {
            if Instant::now() >= deadline {
                break;
            }
            if !progress.can_go_on_with(candidate) {
                continue;
            }
            let rest = &decision.candidates[i + 1..];
            let attempt = Try {
                query,
                candidate,
                number: failures.len() + 1,
                previous: last.as_ref(),
                more: rest.iter().any(|c| progress.can_go_on_with(c)),
                deadline,
                began: Instant::now(),
            };
            let Err(failure) = self.attempt(&attempt, &mut progress).await else {
                return Ok(());
            };
            tracing::debug!(request_id = %query.id, peer = %candidate.peer, expert = %candidate.name, "attempt failed: {failure}");
            failures.push(Attempt {
                expert: candidate.name.clone(),
                peer: candidate.peer.to_string(),
                outcome: failure.message.clone(),
            });
            let fell_silent =
                failure.kind == ErrorKind::DeadlineExceeded && Instant::now() < deadline;
            let hopeless = !failure.kind.worth_another_replica() && !fell_silent;
            last = Some(failure);
            if hopeless {
                break;
            }
        }
        let tokens = progress.ids.len();
        let mut end = last.unwrap_or_else(|| Failure::new(ErrorKind::DeadlineExceeded, ""));
        if Instant::now() >= deadline {
            end.kind = ErrorKind::DeadlineExceeded;
            end.message = format!(
                "no complete answer within {:?}: raise --timeout, or ask for fewer tokens",
                query.constraints.timeout
            );
        } else {
            if end.kind == ErrorKind::DeadlineExceeded {
                // Not the caller's deadline: the peers were silent.
                end.kind = ErrorKind::Unavailable;
            }
            if tokens > 0 {
                end.message = format!(
                    "the answer broke off after {tokens} tokens and no other peer could carry it on ({}): ask again",
                    end.message
                );
            } else if failures.len() > 1 {
                end.message = format!("all {} tries failed; ask again in a while", failures.len());
            }
        }
        end.attempts = failures;
        Err(end)
    }

    /// One call, of which the router learns however it ends, cancellation included.
    async fn attempt(&self, attempt: &Try<'_>, progress: &mut Progress) -> Result<(), Failure> {
        let Candidate { expert, peer, .. } = *attempt.candidate;
        self.node
            .router()
            .started(self.node.elapsed(), expert, peer);
        let mut report = Report {
            node: &self.node,
            candidate: attempt.candidate,
            result: Err(ErrorKind::Cancelled),
        };
        match self.call(attempt, progress).await {
            Ok(served) => {
                report.result = Ok(served);
                Ok(())
            }
            Err(failure) => {
                // A caller who gave little time says nothing of the peer.
                let in_time = Instant::now() < attempt.deadline;
                report.result = Err(if in_time {
                    failure.kind
                } else {
                    ErrorKind::Cancelled
                });
                Err(failure)
            }
        }
    }

    async fn call(&self, attempt: &Try<'_>, progress: &mut Progress) -> Result<Served, Failure> {
        let service = &self.node.inner.service;
        let candidate = attempt.candidate;
        let route = self.route(attempt).await?;
        let (path, transport) = (route.path.to_string(), route.transport.to_string());
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
        }))
        .await;
        let (version, expert) = (
            Format::Wire.current(),
            candidate.expert.as_bytes().to_vec().into(),
        );
        let (request_id, budget_ms) = (attempt.query.id.to_string(), attempt.budget_ms());
        let finished = match attempt.query.kind {
            ExpertKind::Generate => {
                let request = generate_request(attempt, progress);
                let events: Events = match route.client {
                    None => service.generate(request, attempt.left())?,
                    Some(mut client) => within(
                        attempt.patience_to_be_taken_on(),
                        client.generate(attempt.request(request)),
                    )
                    .await?
                    .map(|e| e.map_err(|s| rpc::failure(&s)))
                    .boxed(),
                };
                self.relay(events, attempt, progress).await?
            }
            ExpertKind::Embed => {
                let request = v1::EmbedRequest {
                    version,
                    expert,
                    request_id,
                    texts: attempt.texts(),
                    budget_ms,
                };
                let response = match route.client {
                    None => service.embed(request, attempt.left()).await?,
                    Some(mut client) => {
                        within(attempt.patience(), client.embed(attempt.request(request))).await?
                    }
                };
                progress.note();
                self.send(Event::Embeddings(v1::Embeddings {
                    vectors: response.vectors,
                }))
                .await;
                complete(response.usage, response.load)
            }
            ExpertKind::Classify => {
                let labels = attempt.query.labels.clone();
                let request = v1::ClassifyRequest {
                    version,
                    expert,
                    request_id,
                    texts: attempt.texts(),
                    labels,
                    budget_ms,
                };
                let response = match route.client {
                    None => service.classify(request, attempt.left()).await?,
                    Some(mut client) => {
                        within(
                            attempt.patience(),
                            client.classify(attempt.request(request)),
                        )
                        .await?
                    }
                };
                progress.note();
                let classifications = response.classifications;
                self.send(Event::Classifications(v1::Classifications {
                    classifications,
                }))
                .await;
                complete(response.usage, response.load)
            }
        };
        Ok(self
            .finish(attempt, path, transport, finished, progress)
            .await)
    }

    async fn route(&self, attempt: &Try<'_>) -> Result<Route, Failure> {
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
        let patience = if attempt.more { CONNECT } else { CONNECT * 2 };
        let client = inner
            .clients
            .expert(peer, patience.min(attempt.left()))
            .await
            .map_err(|e| match e.kind() {
                ErrorKind::DeadlineExceeded => Failure::new(ErrorKind::Unavailable, e.to_string()),
                kind => Failure::new(kind, e.to_string()),
            })?;
        let info = inner.net.peers().into_iter().find(|p| p.peer == peer);
        let (path, transport) = info.map_or((PathKind::Direct, Transport::Tcp), |p| {
            (p.path, p.transport)
        });
        Ok(Route {
            client: Some(client),
            path,
            transport,
        })
    }

    /// Passes an answer's events on until it is complete.
    async fn relay(
        &self,
        mut events: Events,
        attempt: &Try<'_>,
        progress: &mut Progress,
    ) -> Result<v1::Finished, Failure> {
        loop {
            let patience = attempt.patience();
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
            match next?.event {
                Some(Step::Started(started)) if progress.ids.is_empty() => {
                    progress.expert = Some(attempt.candidate.expert);
                    progress.seed = Some(started.seed);
                    progress.fingerprint.clone_from(&started.engine_fingerprint);
                    self.send(Event::Started(started)).await;
                }
                Some(Step::Tokens(tokens)) => {
                    progress.note();
                    progress.ids.extend_from_slice(&tokens.ids);
                    self.send(Event::Tokens(tokens)).await;
                }
                Some(Step::Finished(finished)) => return Ok(finished),
                // An answer that is carried on has started already.
                Some(Step::Started(_)) | None => {}
            }
        }
    }

    async fn finish(
        &self,
        attempt: &Try<'_>,
        path: String,
        transport: String,
        finished: v1::Finished,
        progress: &Progress,
    ) -> Served {
        let (now, candidate) = (Instant::now(), attempt.candidate);
        let first = progress.first.unwrap_or(now);
        let decode = progress
            .last
            .unwrap_or(first)
            .saturating_duration_since(first);
        let tokens = u32::try_from(progress.ids.len()).unwrap_or(u32::MAX);
        let decoded = tokens > 1 && !decode.is_zero();
        let rate = if decoded {
            f64::from(tokens - 1) / decode.as_secs_f64()
        } else {
            0.0
        };
        let since = |at: Instant| at.saturating_duration_since(self.begun).as_secs_f64() * 1e3;
        self.send(Event::Done(v1::Done {
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
        }))
        .await;
        Served {
            ttft: first.saturating_duration_since(attempt.began),
            tokens,
            decode,
        }
    }
}

fn generate_request(attempt: &Try<'_>, progress: &Progress) -> v1::GenerateRequest {
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

/// Tells the router how a call ended, whichever way it ended.
struct Report<'a> {
    node: &'a Node,
    candidate: &'a Candidate,
    result: Result<Served, ErrorKind>,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let inner = &self.node.inner;
        let Candidate { expert, peer, .. } = *self.candidate;
        if self.result == Err(ErrorKind::Unavailable) {
            inner.clients.forget(&peer);
        }
        let outcome = Outcome {
            expert,
            peer,
            result: self.result,
        };
        let now = self.node.elapsed();
        self.node.router().observe(now, &outcome);
    }
}
