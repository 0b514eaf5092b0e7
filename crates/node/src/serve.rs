//! The `Expert` service: what peers may ask of the experts hosted here. Local questions take the
//! same functions, without a network in between.

use std::{future::Future, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use polymath_engine::{Engine, EngineError, GenerateJob, GenerateStream, Generated, Overlong};
use polymath_proto::v1::{self, expert_server::Expert};
use polymath_rpc as rpc;
use polymath_types::{ErrorKind, ExpertId, Failure, Format, LoadReport, PathKind, Runtime};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    AGENT,
    admission::{Call, Caller, Class, Gate, Lane, Place, Serve},
    doctor,
    hosted::{Hosted, Listed, State},
};

/// Longest a peer may keep an answer going.
const LONGEST_ANSWER: Duration = Duration::from_secs(600);
/// Most texts in one `Embed` or `Classify` call.
const MOST_TEXTS: usize = 256;
/// Most bytes of text in one call.
const MOST_TEXT: usize = 2 << 20;
/// More texts than these in one call are a batch: nobody waits for each of them before a screen.
const FEW_TEXTS: usize = 8;
/// Most labels in one `Classify` call.
const MOST_LABELS: usize = 256;
/// Most tokens another replica may have produced already.
const LONGEST_PREFIX: usize = 1 << 20;

/// How often a call that waits or reads its prompt says that it is at work.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// Events of one answer.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<v1::GenerateEvent, Failure>> + Send>>;

/// Answers calls for the experts hosted here.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) engine: Engine,
    pub(crate) hosted: Hosted,
    pub(crate) gate: Gate,
}

/// An answer on its way: first it waits for its place, then it is the engine's.
struct Answer {
    /// Dropped before the place is given back: the engine then knows that it is free.
    stream: Option<GenerateStream>,
    job: Option<(ExpertId, GenerateJob)>,
    place: Place,
}

impl Service {
    /// The expert that a caller names, if it may ask it, and what computes it: an engine's lane, or a server.
    fn expert(&self, id: &[u8], caller: Caller, lane: Lane) -> Result<(ExpertId, Lane), Failure> {
        let id = ExpertId::try_from(id)
            .map_err(|e| Failure::new(ErrorKind::InvalidInput, e.to_string()))?;
        let card = self.hosted.serving(&id, caller != Caller::Own)?;
        if caller != Caller::Own && self.hosted.manner(&id).paused {
            let paused = Failure::new(
                ErrorKind::Unavailable,
                format!(
                    "{} is paused by whoever runs it: ask another replica, or again later",
                    card.name
                ),
            );
            return Err(paused.retry_after(Duration::from_secs(60)));
        }
        match card.model.runtime {
            Runtime::Upstream => Ok((id, Lane::Outside)),
            _ => Ok((id, lane)),
        }
    }

    /// How busy this node is, as it tells peers.
    pub(crate) fn load(&self) -> LoadReport {
        let (engine, crowd) = (self.engine.load_report(), self.gate.crowd());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let service = crowd.service.unwrap_or_default().as_millis();
        LoadReport {
            queue_depth: engine.queue_depth.saturating_add(count(crowd.waiting)),
            // The engine works for the router's encoder too, which passes no gate.
            active: engine.active.max(count(crowd.at_work)),
            free_slots: count(crowd.free),
            service_ms: u32::try_from(service).unwrap_or(u32::MAX),
            resident_experts: engine.resident_experts,
        }
    }

    /// Begins an answer; its stream ends by `Finished`, by a failure, or at the deadline.
    pub(crate) fn generate(
        &self,
        caller: Caller,
        request: v1::GenerateRequest,
        budget: Duration,
    ) -> Result<Events, Failure> {
        let (id, lane) = self.expert(&request.expert, caller, Lane::Generate)?;
        if request.prefix_token_ids.len() > LONGEST_PREFIX {
            return Err(Failure::new(
                ErrorKind::InvalidInput,
                "the forced prefix is too long",
            ));
        }
        let deadline = Instant::now() + budget;
        let text: usize = request.messages.iter().map(|m| m.content.len()).sum();
        let call = Call {
            caller,
            lane,
            class: Class::Interactive,
            bytes: text + request.prefix_token_ids.len() * size_of::<u32>(),
        };
        let job = GenerateJob {
            messages: rpc::messages_from_proto(request.messages)?,
            sampling: rpc::sampling_from_proto(request.sampling)?,
            prefix_token_ids: request.prefix_token_ids,
            deadline: Some(deadline.into_std()),
        };
        let mut answer = Answer {
            place: self.gate.enter(call, budget)?,
            job: Some((id, job)),
            stream: None,
        };
        if answer.place.is_ready() {
            self.begin(&mut answer)?;
        }
        let service = self.clone();
        let events = futures::stream::unfold(Some(answer), move |answer| {
            let service = service.clone();
            async move {
                let mut answer = answer?;
                let beat = deadline.min(Instant::now() + BEAT);
                let next = tokio::time::timeout_at(beat, service.next(&mut answer)).await;
                Some(match next {
                    Ok(Ok(event @ Generated::Finished { .. })) => {
                        // What the caller hears of load is without this call.
                        answer.place.completed();
                        (Ok(to_proto(event, service.load())), None)
                    }
                    Ok(Ok(event)) => (Ok(to_proto(event, LoadReport::default())), Some(answer)),
                    Ok(Err(failure)) => (Err(failure), None),
                    Err(_) if beat < deadline => (Ok(working()), Some(answer)),
                    Err(_) => {
                        let late = Failure::new(
                            ErrorKind::DeadlineExceeded,
                            format!("the answer was not complete within {budget:?}"),
                        );
                        (Err(late), None)
                    }
                })
            }
        });
        Ok(events.boxed())
    }

    /// Hands the call to the engine, unless it has it.
    fn begin(&self, answer: &mut Answer) -> Result<(), Failure> {
        if let Some((id, job)) = answer.job.take() {
            answer.stream = Some(self.engine.generate(&id, job).map_err(said)?);
        }
        Ok(())
    }

    /// The next event of an answer, from the gate on. Nothing is lost when this is dropped.
    async fn next(&self, answer: &mut Answer) -> Result<Generated, Failure> {
        answer.place.ready().await?;
        self.begin(answer)?;
        let next = match &mut answer.stream {
            Some(stream) => stream.next().await,
            None => None,
        };
        let lost = || EngineError::Internal("an answer ended without an end".into());
        next.unwrap_or_else(|| Err(lost())).map_err(said)
    }

    pub(crate) async fn embed(
        &self,
        caller: Caller,
        request: v1::EmbedRequest,
        budget: Duration,
    ) -> Result<v1::EmbedResponse, Failure> {
        let (id, lane) = self.expert(&request.expert, caller, Lane::Encode)?;
        check_texts(&request.texts)?;
        let call = encoding(caller, lane, &request.texts);
        let mut place = self.gate.enter(call, budget)?;
        let embedded = within(budget, async {
            place.ready().await?;
            let embedded = self.engine.embed(&id, request.texts, Overlong::Refuse);
            embedded.await.map_err(said)
        })
        .await?;
        place.completed();
        Ok(v1::EmbedResponse {
            vectors: embedded
                .vectors
                .into_iter()
                .map(|values| v1::Vector { values })
                .collect(),
            usage: Some(v1::Usage {
                prompt_tokens: embedded.prompt_tokens,
                ..v1::Usage::default()
            }),
            load: Some(rpc::load_to_proto(self.load())),
        })
    }

    pub(crate) async fn classify(
        &self,
        caller: Caller,
        request: v1::ClassifyRequest,
        budget: Duration,
    ) -> Result<v1::ClassifyResponse, Failure> {
        let (id, lane) = self.expert(&request.expert, caller, Lane::Encode)?;
        check_texts(&request.texts)?;
        let labels = &request.labels;
        if labels.len() > MOST_LABELS || labels.iter().any(|l| l.is_empty() || l.len() > 256) {
            return Err(Failure::new(
                ErrorKind::InvalidInput,
                format!("at most {MOST_LABELS} labels of 1 to 256 bytes each"),
            ));
        }
        let mut place = self
            .gate
            .enter(encoding(caller, lane, &request.texts), budget)?;
        let classified = within(budget, async {
            place.ready().await?;
            let classified = self.engine.classify(&id, request.texts, request.labels);
            classified.await.map_err(said)
        })
        .await?;
        place.completed();
        let classifications = classified
            .labels
            .into_iter()
            .map(|scores| v1::Classification {
                labels: scores
                    .into_iter()
                    .map(|(label, score)| v1::LabelScore { label, score })
                    .collect(),
            })
            .collect();
        Ok(v1::ClassifyResponse {
            classifications,
            usage: Some(v1::Usage {
                prompt_tokens: classified.prompt_tokens,
                ..v1::Usage::default()
            }),
            load: Some(rpc::load_to_proto(self.load())),
        })
    }

    fn describe(&self) -> v1::DescribeResponse {
        let told = match self.gate.serve() {
            Serve::Mesh => self.hosted.listed(),
            Serve::Own => Vec::new(),
        };
        let experts = told
            .into_iter()
            .filter_map(
                |Listed {
                     id,
                     card,
                     state,
                     manner,
                     ..
                 }| {
                    let id = id?;
                    Some(v1::DescribedExpert {
                        id: id.as_bytes().to_vec().into(),
                        card: card.to_bytes().into(),
                        ready: state == State::Ready && !manner.paused && !self.gate.is_closed(),
                        engine_fingerprint: self.engine.fingerprint(&id).unwrap_or_default(),
                    })
                },
            )
            .collect();
        v1::DescribeResponse {
            version: Format::Wire.current(),
            agent: AGENT.to_owned(),
            experts,
            load: Some(rpc::load_to_proto(self.load())),
            unix_ms: doctor::look::unix_ms(),
        }
    }
}

fn check_texts(texts: &[String]) -> Result<(), Failure> {
    let invalid = |m: String| Err(Failure::new(ErrorKind::InvalidInput, m));
    if texts.is_empty() || texts.len() > MOST_TEXTS {
        return invalid(format!("{} texts; give 1 to {MOST_TEXTS}", texts.len()));
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    if bytes > MOST_TEXT {
        return invalid(format!(
            "{bytes} bytes of text; at most {MOST_TEXT} are taken in one call"
        ));
    }
    Ok(())
}

/// A call that the encoders answer.
fn encoding(caller: Caller, lane: Lane, texts: &[String]) -> Call {
    Call {
        caller,
        lane,
        class: if texts.len() > FEW_TEXTS {
            Class::Batch
        } else {
            Class::Interactive
        },
        bytes: texts.iter().map(String::len).sum(),
    }
}

fn said(error: EngineError) -> Failure {
    match error {
        EngineError::Outside(failure) => failure,
        error => Failure::new(error.kind(), error.to_string()),
    }
}

async fn within<T>(
    budget: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(budget, work).await {
        Ok(done) => done,
        Err(_) => Err(Failure::new(
            ErrorKind::DeadlineExceeded,
            format!("no answer within {budget:?}"),
        )),
    }
}

fn to_proto(event: Generated, load: LoadReport) -> v1::GenerateEvent {
    use v1::generate_event::Event;
    let event = match event {
        Generated::Started {
            prompt_tokens,
            seed,
            fingerprint,
        } => Event::Started(v1::Started {
            engine_fingerprint: fingerprint,
            prompt_tokens,
            seed,
        }),
        Generated::Tokens { ids, text } => Event::Tokens(v1::Tokens { ids, text }),
        Generated::Finished { reason, usage } => Event::Finished(v1::Finished {
            reason: rpc::reason_to_proto(reason) as i32,
            usage: Some(rpc::usage_to_proto(usage)),
            load: Some(rpc::load_to_proto(load)),
        }),
    };
    v1::GenerateEvent { event: Some(event) }
}

/// Tells the caller that its request is not forgotten.
fn working() -> v1::GenerateEvent {
    v1::GenerateEvent {
        event: Some(v1::generate_event::Event::Working(v1::Working {})),
    }
}

pub(crate) fn caller<T>(request: &Request<T>) -> Result<rpc::Caller, Status> {
    request
        .extensions()
        .get::<rpc::Caller>()
        .copied()
        .ok_or_else(|| {
            rpc::status(&Failure::new(
                ErrorKind::PermissionDenied,
                "this service is for peers of the mesh",
            ))
        })
}

/// Whose question it is: a peer's, or, where it came by no lane of the mesh, this machine's user's.
fn asker<T>(request: &Request<T>) -> Caller {
    let peer = request.extensions().get::<rpc::Caller>();
    peer.map_or(Caller::Own, |caller| Caller::Peer(caller.peer))
}

#[tonic::async_trait]
impl Expert for Service {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<v1::GenerateEvent, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let caller = asker(&request);
        rpc::check_version(Format::Wire, request.get_ref().version)?;
        let budget = rpc::budget(&request, request.get_ref().budget_ms, LONGEST_ANSWER);
        let request = request.into_inner();
        tracing::debug!(request_id = %clip(&request.request_id), ?caller, "generate");
        let events = Self::generate(self, caller, request, budget);
        let events = events.map_err(|f| rpc::status(&f))?;
        Ok(Response::new(
            events.map(|e| e.map_err(|f| rpc::status(&f))).boxed(),
        ))
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        let caller = asker(&request);
        rpc::check_version(Format::Wire, request.get_ref().version)?;
        let budget = rpc::budget(&request, request.get_ref().budget_ms, LONGEST_ANSWER);
        Self::embed(self, caller, request.into_inner(), budget)
            .await
            .map(Response::new)
            .map_err(|f| rpc::status(&f))
    }

    async fn classify(
        &self,
        request: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        let caller = asker(&request);
        rpc::check_version(Format::Wire, request.get_ref().version)?;
        let budget = rpc::budget(&request, request.get_ref().budget_ms, LONGEST_ANSWER);
        Self::classify(self, caller, request.into_inner(), budget)
            .await
            .map(Response::new)
            .map_err(|f| rpc::status(&f))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        rpc::check_version(Format::Wire, request.get_ref().version)?;
        Ok(Response::new(Self::describe(self)))
    }
}

/// A foreign request id, short enough for a log line.
fn clip(id: &str) -> String {
    id.chars()
        .filter(|c| c.is_ascii_graphic())
        .take(64)
        .collect()
}

/// Serves the catalog's `Sync` by handing each stream to the catalog's own task.
#[derive(Debug, Clone)]
pub(crate) struct SyncService {
    /// Nothing when the exchange is switched off.
    pub(crate) sync: Option<crate::sync::SyncHandle>,
}

#[tonic::async_trait]
impl v1::catalog_server::Catalog for SyncService {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<v1::SyncFrame, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::SyncFrame>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let caller = caller(&request)?;
        let Some(sync) = &self.sync else {
            return Err(rpc::status(&Failure::new(
                ErrorKind::FailedPrecondition,
                "this peer does not exchange its catalog: find its experts through the DHT",
            )));
        };
        let outbound = sync.session(caller.peer, request.into_inner());
        Ok(Response::new(outbound.map(Ok).boxed()))
    }
}

/// Serves `Live` by handing each stream to the task that keeps fast state.
#[derive(Debug, Clone)]
pub(crate) struct LiveService {
    /// Nothing on a node that is here for one question.
    pub(crate) live: Option<crate::live::LiveHandle>,
}

#[tonic::async_trait]
impl v1::live_server::Live for LiveService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<v1::LiveFrame, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::LiveFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let caller = caller(&request)?;
        let Some(live) = &self.live else {
            return Err(rpc::status(&Failure::new(
                ErrorKind::FailedPrecondition,
                "this peer is here for one question only",
            )));
        };
        let relayed = caller.path == PathKind::Relayed;
        let outbound = live.session(caller.peer, relayed, request.into_inner());
        Ok(Response::new(outbound.map(Ok).boxed()))
    }
}
