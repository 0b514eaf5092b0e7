//! The way of a question: encode, decide, call, and when a call fails decide what that means for
//! the next. Every question ends in `Done` or `Failed`.

use std::{collections::HashMap, sync::PoisonError, time::Duration};

use futures::StreamExt;
use polymath_net::PeerInfo;
use polymath_proto::v1::{self, ask_event::Event, generate_event::Event as Step};
use polymath_router::{Candidate, Decision, Outcome, PeerState, Reach, Request, Served};
use polymath_rpc as rpc;
use polymath_types::{
    Attempt, Constraints, ErrorKind, ExpertKind, Failure, Format, PathKind, PeerId, Query,
    RequestId, Transport,
};
use tokio::{sync::mpsc, time::Instant};
use tonic::IntoRequest;

use crate::{Node, serve::Events};

/// Events on their way to the one who asked; a slow reader slows the model.
const EVENTS: usize = 64;
/// Longest a question may take.
const LONGEST: Duration = Duration::from_secs(3600);
/// A connection that takes longer than this counts as none, while others could be asked.
const CONNECT: Duration = Duration::from_secs(5);
/// Silence after which another replica is asked, if there is one.
const SILENCE: Duration = Duration::from_secs(20);
/// Time for a look into the DHT when the catalog knows nobody.
const LOOK_UP: Duration = Duration::from_secs(6);
/// Most bytes of a question.
const MOST_TEXT: usize = 4 << 20;

/// The events of one question, in order; dropping it cancels the question everywhere.
pub type Answer = mpsc::Receiver<v1::AskEvent>;

impl Node {
    /// Asks the mesh. The one door for the CLI, the gateway and everybody else.
    pub fn ask(&self, request: v1::AskRequest) -> Answer {
        let (events, answer) = mpsc::channel(EVENTS);
        let node = self.clone();
        self.inner.tasks.spawn(async move {
            let asked = Asked {
                node,
                events: events.clone(),
                begun: Instant::now(),
            };
            // The one who asked going away drops the work, and with it every call it makes.
            tokio::select! {
                () = events.closed() => {}
                ended = asked.run(request) => {
                    if let Err(failure) = ended {
                        let _ = events.send(event(Event::Failed(failed(&failure)))).await;
                    }
                }
            }
        });
        answer
    }
}

/// A failure as the last event of an answer.
fn failed(failure: &Failure) -> v1::Failed {
    v1::Failed {
        kind: failure.kind.as_str().to_owned(),
        message: failure.message.clone(),
        attempts: failure
            .attempts
            .iter()
            .map(|a| v1::FailedAttempt {
                expert: a.expert.clone(),
                peer: a.peer.clone(),
                outcome: a.outcome.clone(),
            })
            .collect(),
    }
}

/// A [`v1::Failed`] as a failure again.
pub fn failure(failed: v1::Failed) -> Failure {
    Failure {
        kind: ErrorKind::from_name(&failed.kind).unwrap_or(ErrorKind::Internal),
        message: failed.message,
        attempts: failed
            .attempts
            .into_iter()
            .map(|a| Attempt {
                expert: a.expert,
                peer: a.peer,
                outcome: a.outcome,
            })
            .collect(),
    }
}

fn event(event: Event) -> v1::AskEvent {
    v1::AskEvent { event: Some(event) }
}

/// Reads what was asked; says clearly what is wrong with it.
fn parse(request: &v1::AskRequest, id: RequestId) -> Result<Query, Failure> {
    let invalid = |m: String| Failure::new(ErrorKind::InvalidInput, m);
    Format::Control
        .check(request.version)
        .map_err(|e| Failure::new(ErrorKind::VersionMismatch, e.to_string()))?;
    let bytes: usize = request.messages.iter().map(|m| m.content.len()).sum();
    if bytes > MOST_TEXT {
        return Err(invalid(format!(
            "the question has {bytes} bytes; at most {MOST_TEXT} are taken"
        )));
    }
    let peer = |text: &str| {
        text.parse::<PeerId>().map_err(|_| {
            invalid(format!(
                "'{text}' is not a peer id: `polymath peers` shows them"
            ))
        })
    };
    let timeout = match request.timeout_ms {
        0 => Constraints::default().timeout,
        ms => Duration::from_millis(ms).min(LONGEST),
    };
    let messages = rpc::messages_from_proto(request.messages.clone())?;
    if messages.iter().all(|m| m.content.trim().is_empty()) {
        return Err(invalid("the question is empty: say something".into()));
    }
    Ok(Query {
        id,
        kind: request
            .kind
            .parse::<ExpertKind>()
            .map_err(|e| invalid(e.to_string()))?,
        messages,
        labels: request.labels.clone(),
        sampling: rpc::sampling_from_proto(request.sampling.clone())?,
        constraints: Constraints {
            model: (!request.model.is_empty()).then(|| request.model.clone()),
            peer: (!request.peer.is_empty())
                .then(|| peer(&request.peer))
                .transpose()?,
            exclude: request
                .exclude
                .iter()
                .map(|p| peer(p))
                .collect::<Result<_, _>>()?,
            timeout,
        },
    })
}

/// One question on its way.
struct Asked {
    node: Node,
    events: mpsc::Sender<v1::AskEvent>,
    begun: Instant,
}

/// What has arrived of an answer so far, across replicas.
#[derive(Default)]
struct Progress {
    ids: Vec<u32>,
    seed: Option<u64>,
    fingerprint: String,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// How a call reached its peer.
#[derive(Clone, Copy)]
struct Via {
    path: PathKind,
    transport: Transport,
}

impl Asked {
    async fn run(&self, request: v1::AskRequest) -> Result<(), Failure> {
        let inner = &self.node.inner;
        let id = RequestId::parse(&request.request_id)
            .unwrap_or_else(|| RequestId::from_random(crate::random()));
        let query = parse(&request, id)?;
        let deadline = self.begun + query.constraints.timeout;
        let mut decision = self.decide(&query).await;
        if decision.candidates.is_empty() {
            let within = LOOK_UP.min(query.constraints.timeout / 2);
            let found = inner
                .discovered
                .look_up(
                    &inner.net,
                    &inner.clients,
                    query.kind,
                    &query.constraints,
                    within,
                )
                .await;
            if found > 0 {
                decision = self.decide(&query).await;
            }
        }
        self.send(Event::Decision(describe(&decision, &query)))
            .await;
        if decision.candidates.is_empty() {
            return Err(decision
                .failure()
                .cloned()
                .unwrap_or_else(|| Failure::new(ErrorKind::Unavailable, decision.reason)));
        }
        if request.dry_run {
            return Ok(());
        }
        self.attempt_all(&query, decision, deadline).await
    }

    async fn decide(&self, query: &Query) -> Decision {
        let inner = &self.node.inner;
        let index = self.node.index();
        let (features, descriptors) = inner.encoder.encode(query, &index).await;
        let request = Request {
            query,
            features: &features,
        };
        let connected: HashMap<PeerId, PeerInfo> =
            inner.net.peers().into_iter().map(|p| (p.peer, p)).collect();
        let peers = |peer: &PeerId| self.reach(peer, &connected);
        let mut router = inner.router.lock().unwrap_or_else(PoisonError::into_inner);
        router.decide(
            self.node.elapsed(),
            &request,
            &index,
            &|id| descriptors.get(id).cloned(),
            &peers,
        )
    }

    fn reach(&self, peer: &PeerId, connected: &HashMap<PeerId, PeerInfo>) -> PeerState {
        let inner = &self.node.inner;
        if *peer == inner.net.local_peer() {
            return PeerState {
                reach: Reach::Here,
                rtt: Some(Duration::ZERO),
                load: Some(inner.service.engine.load_report()),
            };
        }
        match connected.get(peer) {
            Some(p) => PeerState {
                reach: Reach::Connected { path: p.path },
                rtt: p.rtt,
                load: None,
            },
            None => PeerState {
                reach: Reach::Known,
                rtt: None,
                load: None,
            },
        }
    }

    /// Candidate after candidate until one answers in full or the deadline passes.
    async fn attempt_all(
        &self,
        query: &Query,
        decision: Decision,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut progress = Progress::default();
        let mut failures: Vec<Attempt> = Vec::new();
        let mut last: Option<Failure> = None;
        let count = decision.candidates.len();
        for (i, candidate) in decision.candidates.iter().enumerate() {
            // An answer that has begun can only be carried on by the same expert.
            let begun_by_another = !progress.ids.is_empty()
                && decision
                    .candidates
                    .iter()
                    .take(i)
                    .next_back()
                    .is_some_and(|c| c.expert != candidate.expert);
            if begun_by_another || Instant::now() >= deadline {
                break;
            }
            let more = decision.candidates[i + 1..]
                .iter()
                .any(|c| progress.ids.is_empty() || c.expert == candidate.expert);
            let outcome = self
                .attempt(
                    query,
                    candidate,
                    failures.len(),
                    last.as_ref(),
                    more,
                    deadline,
                    &mut progress,
                )
                .await;
            let Err(failure) = outcome else { return Ok(()) };
            tracing::debug!(request_id = %query.id, peer = %candidate.peer, expert = %candidate.name, "attempt failed: {failure}");
            failures.push(Attempt {
                expert: candidate.name.clone(),
                peer: candidate.peer.to_string(),
                outcome: failure.message.clone(),
            });
            let hopeless = !failure.kind.worth_another_replica()
                && !(failure.kind == ErrorKind::DeadlineExceeded && Instant::now() < deadline);
            last = Some(failure);
            if hopeless {
                break;
            }
        }
        let mut end = last.unwrap_or_else(|| {
            Failure::new(
                ErrorKind::DeadlineExceeded,
                format!("no answer within {:?}", query.constraints.timeout),
            )
        });
        if Instant::now() >= deadline {
            end.kind = ErrorKind::DeadlineExceeded;
            end.message = format!(
                "no complete answer within {:?}: raise --timeout, or ask for fewer tokens",
                query.constraints.timeout
            );
        } else if !progress.ids.is_empty() {
            end.message = format!(
                "the answer broke off after {} tokens and no other peer could carry it on: {}",
                progress.ids.len(),
                end.message
            );
        } else if count > 1 && failures.len() > 1 {
            end.message = format!("all {} tries failed", failures.len());
        }
        end.attempts = failures;
        Err(end)
    }

    #[allow(clippy::too_many_arguments)]
    async fn attempt(
        &self,
        query: &Query,
        candidate: &Candidate,
        failed_before: usize,
        last: Option<&Failure>,
        more: bool,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let inner = &self.node.inner;
        let began = Instant::now();
        inner
            .router
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .started(self.node.elapsed(), candidate.expert, candidate.peer);
        // Ends what `started` began on every way out, cancellation included.
        let mut report = Report {
            node: &self.node,
            candidate,
            result: Some(Err(ErrorKind::Cancelled)),
        };
        let number = u32::try_from(failed_before + 1).unwrap_or(u32::MAX);
        let served = self
            .call(
                query, candidate, number, last, more, deadline, progress, began,
            )
            .await;
        match served {
            Ok(served) => {
                report.result = Some(Ok(served));
                Ok(())
            }
            Err(failure) => {
                report.result = Some(Err(failure.kind));
                Err(failure)
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn call(
        &self,
        query: &Query,
        candidate: &Candidate,
        number: u32,
        last: Option<&Failure>,
        more: bool,
        deadline: Instant,
        progress: &mut Progress,
        began: Instant,
    ) -> Result<Served, Failure> {
        let inner = &self.node.inner;
        let here = candidate.peer == inner.net.local_peer();
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = if more { SILENCE.min(left) } else { left };
        let mut client = None;
        let via = if here {
            Via {
                path: PathKind::Local,
                transport: Transport::None,
            }
        } else {
            inner.introduce(&candidate.peer);
            let connect = if more {
                CONNECT.min(left)
            } else {
                left.min(CONNECT * 2)
            };
            let connected = inner.clients.expert(candidate.peer, connect).await;
            client = Some(connected.map_err(|e| Failure::new(e.kind(), e.to_string()))?);
            let info = inner
                .net
                .peers()
                .into_iter()
                .find(|p| p.peer == candidate.peer);
            info.map_or(
                Via {
                    path: PathKind::Direct,
                    transport: Transport::Tcp,
                },
                |p| Via {
                    path: p.path,
                    transport: p.transport,
                },
            )
        };
        self.send(Event::Attempt(v1::Attempt {
            number,
            expert_id: candidate.expert.to_string(),
            expert: candidate.name.clone(),
            peer: candidate.peer.to_string(),
            path: via.path.to_string(),
            transport: via.transport.to_string(),
            previous_failure: last.map(|f| f.message.clone()).unwrap_or_default(),
        }))
        .await;
        let left = deadline.saturating_duration_since(Instant::now());
        let budget_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let finished = match query.kind {
            ExpertKind::Generate => {
                let request = generate_request(query, candidate, progress, budget_ms);
                let events: Events = match client {
                    None => inner.service.generate(request, left)?,
                    Some(mut client) => {
                        let mut request = request.into_request();
                        request.set_timeout(left);
                        let opened = within(patience, client.generate(request)).await?;
                        opened
                            .into_inner()
                            .map(|e| e.map_err(|s| rpc::failure(&s)))
                            .boxed()
                    }
                };
                self.relay(events, patience, progress).await?
            }
            ExpertKind::Embed => {
                let request = v1::EmbedRequest {
                    version: Format::Wire.current(),
                    expert: candidate.expert.as_bytes().to_vec().into(),
                    request_id: query.id.to_string(),
                    texts: query.messages.iter().map(|m| m.content.clone()).collect(),
                    budget_ms,
                };
                let response = match client {
                    None => inner.service.embed(request, left).await?,
                    Some(mut client) => {
                        let mut request = request.into_request();
                        request.set_timeout(left);
                        within(patience, client.embed(request)).await?.into_inner()
                    }
                };
                self.note_first(progress);
                self.send(Event::Embeddings(v1::Embeddings {
                    vectors: response.vectors,
                }))
                .await;
                v1::Finished {
                    reason: v1::finished::Reason::Stop as i32,
                    usage: response.usage,
                    load: response.load,
                }
            }
            ExpertKind::Classify => {
                let request = v1::ClassifyRequest {
                    version: Format::Wire.current(),
                    expert: candidate.expert.as_bytes().to_vec().into(),
                    request_id: query.id.to_string(),
                    texts: query.messages.iter().map(|m| m.content.clone()).collect(),
                    labels: query.labels.clone(),
                    budget_ms,
                };
                let response = match client {
                    None => inner.service.classify(request, left).await?,
                    Some(mut client) => {
                        let mut request = request.into_request();
                        request.set_timeout(left);
                        within(patience, client.classify(request))
                            .await?
                            .into_inner()
                    }
                };
                self.note_first(progress);
                self.send(Event::Classifications(v1::Classifications {
                    classifications: response.classifications,
                }))
                .await;
                v1::Finished {
                    reason: v1::finished::Reason::Stop as i32,
                    usage: response.usage,
                    load: response.load,
                }
            }
        };
        Ok(self
            .finish(candidate, number, via, finished, progress, began)
            .await)
    }

    /// Passes an answer's events on until it is complete.
    async fn relay(
        &self,
        mut events: Events,
        patience: Duration,
        progress: &mut Progress,
    ) -> Result<v1::Finished, Failure> {
        loop {
            let next = match tokio::time::timeout(patience, events.next()).await {
                Ok(next) => next,
                Err(_) => {
                    return Err(Failure::new(
                        ErrorKind::DeadlineExceeded,
                        format!("the peer fell silent for {patience:?}"),
                    ));
                }
            };
            let broken = || {
                Failure::new(
                    ErrorKind::Unavailable,
                    "the peer went away in the middle of the answer",
                )
            };
            match next.ok_or_else(broken)??.event {
                Some(Step::Started(started)) => {
                    if progress.ids.is_empty() {
                        progress.seed = Some(started.seed);
                        progress.fingerprint.clone_from(&started.engine_fingerprint);
                        self.send(Event::Started(started)).await;
                    }
                }
                Some(Step::Tokens(tokens)) => {
                    self.note_first(progress);
                    progress.ids.extend_from_slice(&tokens.ids);
                    self.send(Event::Tokens(tokens)).await;
                }
                Some(Step::Finished(finished)) => return Ok(finished),
                None => {}
            }
        }
    }

    fn note_first(&self, progress: &mut Progress) {
        let now = Instant::now();
        progress.first.get_or_insert(now);
        progress.last = Some(now);
    }

    async fn finish(
        &self,
        candidate: &Candidate,
        attempts: u32,
        via: Via,
        finished: v1::Finished,
        progress: &Progress,
        began: Instant,
    ) -> Served {
        let now = Instant::now();
        let first = progress.first.unwrap_or(now);
        let decode = progress
            .last
            .unwrap_or(first)
            .saturating_duration_since(first);
        let tokens = u32::try_from(progress.ids.len()).unwrap_or(u32::MAX);
        let rate = if tokens > 1 && !decode.is_zero() {
            f64::from(tokens - 1) / decode.as_secs_f64()
        } else {
            0.0
        };
        let done = v1::Done {
            reason: finished.reason,
            usage: finished.usage,
            expert_id: candidate.expert.to_string(),
            expert: candidate.name.clone(),
            model: candidate.model.clone(),
            peer: candidate.peer.to_string(),
            path: via.path.to_string(),
            transport: via.transport.to_string(),
            ttft_ms: first.saturating_duration_since(self.begun).as_secs_f64() * 1e3,
            total_ms: now.saturating_duration_since(self.begun).as_secs_f64() * 1e3,
            tokens_per_second: rate,
            attempts,
            engine_fingerprint: progress.fingerprint.clone(),
            seed: progress.seed.unwrap_or_default(),
        };
        self.send(Event::Done(done)).await;
        Served {
            ttft: first.saturating_duration_since(began),
            tokens,
            decode,
        }
    }

    async fn send(&self, what: Event) {
        // A closed channel ends the question at the next await of `Node::ask`'s select.
        let _ = self.events.send(event(what)).await;
    }
}

fn generate_request(
    query: &Query,
    candidate: &Candidate,
    progress: &Progress,
    budget_ms: u64,
) -> v1::GenerateRequest {
    let mut sampling = rpc::sampling_to_proto(&query.sampling);
    // A resumed answer goes on with the seed it began with.
    sampling.seed = sampling.seed.or(progress.seed);
    v1::GenerateRequest {
        version: Format::Wire.current(),
        expert: candidate.expert.as_bytes().to_vec().into(),
        request_id: query.id.to_string(),
        messages: rpc::messages_to_proto(&query.messages),
        sampling: Some(sampling),
        prefix_token_ids: progress.ids.clone(),
        engine_fingerprint: progress.fingerprint.clone(),
        budget_ms,
    }
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<tonic::Response<T>, Failure> {
    match tokio::time::timeout(patience, call).await {
        Ok(done) => done.map_err(|s| rpc::failure(&s)),
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
    result: Option<Result<Served, ErrorKind>>,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let Some(result) = self.result.take() else {
            return;
        };
        let inner = &self.node.inner;
        if matches!(result, Err(ErrorKind::Unavailable)) {
            inner.clients.forget(&self.candidate.peer);
        }
        let outcome = Outcome {
            expert: self.candidate.expert,
            peer: self.candidate.peer,
            result,
        };
        let now = self.node.elapsed();
        inner
            .router
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .observe(now, &outcome);
    }
}

fn describe(decision: &Decision, query: &Query) -> v1::Decision {
    v1::Decision {
        request_id: query.id.to_string(),
        encoder: decision.encoder.clone(),
        candidates: decision
            .candidates
            .iter()
            .map(|c| v1::Candidate {
                expert_id: c.expert.to_string(),
                expert: c.name.clone(),
                model: c.model.clone(),
                peer: c.peer.to_string(),
                score: c.score,
                terms: c
                    .terms
                    .iter()
                    .map(|t| v1::Term {
                        name: t.name.to_owned(),
                        value: t.value,
                        weight: t.weight,
                    })
                    .collect(),
            })
            .collect(),
        excluded: decision
            .excluded
            .iter()
            .map(|e| v1::Excluded {
                expert: e.name.clone(),
                peer: e.peer.map(|p| p.to_string()).unwrap_or_default(),
                reason: e.reason.as_str().to_owned(),
                detail: e.detail.clone(),
            })
            .collect(),
        reason: decision.reason.clone(),
    }
}
