//! The way of a question: encode, decide, call ([`attempts`]), one expert or several ([`many`]). Every question
//! ends in `Done` or `Failed`.

mod attempts;
mod call;
mod flags;
mod hedge;
mod ledger;
mod many;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use polymath_net::PeerInfo;
use polymath_proto::v1::{self, Learned, RoutedOutcome, ask_event::Event};
use polymath_router::{Candidate, Decision, Features, PeerState, Reach, Request};
use polymath_rpc as rpc;
use polymath_types::{
    Attempt, Constraints, ErrorKind, ExpertCard, ExpertId, ExpertKind, Failure, Format, How, Index,
    PeerId, Preference, Privacy, Query, RequestId, Role, SamplingOverrides, Terms,
};
use tokio::{sync::mpsc, time::Instant};

use self::{ledger::Ledger, many::Experts};
use crate::{Node, discover::LookUp, hosted::State, learning::expectation, live::Doubt};

/// Events on their way to the one who asked; a slow reader slows the model.
const EVENTS: usize = 64;
/// Longest a question may take.
const LONGEST: Duration = Duration::from_secs(3600);
/// Time for a look into the DHT when the catalog knows nobody.
const LOOK_UP: Duration = Duration::from_secs(20);
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
            let mut asked = Asked::new(node, events.clone(), &request);
            // The one who asked going away drops the work, and with it every call it makes.
            let stopping = asked.node.inner.cancel.clone();
            let ended = tokio::select! {
                () = events.closed() => return,
                () = stopping.cancelled() => Err(Failure::new(ErrorKind::Unavailable, "this node is stopping: ask again when it runs")),
                ended = asked.run(request) => ended,
            };
            if let Err(failure) = ended {
                let account = asked.ledger.account();
                let ended = v1::Failed {
                    calls: account.calls,
                    calls_made: account.made,
                    cost: account.cost,
                    ..failed(&failure)
                };
                let _ = events.send(event(Event::Failed(ended))).await;
            }
        });
        answer
    }
}

/// Whoever waits at the door of its mesh knows no expert, and another mesh is not what it lacks.
fn not_let_in(mesh: &str, why: &str) -> Failure {
    Failure::new(
        ErrorKind::Unavailable,
        format!(
            "this node has not been let into mesh '{mesh}' yet: {why}; `polymath mesh show` tells how it stands"
        ),
    )
}

/// Whoever was revoked reaches nobody.
fn shut_out(mesh: &str, by: &PeerId) -> Failure {
    Failure::new(
        ErrorKind::PermissionDenied,
        format!(
            "this node was shut out of mesh '{mesh}' by its admin {by}: only an admin lets it in again, with `polymath mesh revoked remove`"
        ),
    )
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
        retry_after_ms: failure.retry_after_ms.unwrap_or(0),
        ..v1::Failed::default()
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
        retry_after_ms: (failed.retry_after_ms != 0).then_some(failed.retry_after_ms),
    }
}

/// The caller's own id of a request where it can stand in a log line, else a fresh one.
pub fn request_id(given: &str) -> RequestId {
    RequestId::parse(given).unwrap_or_else(|| RequestId::from_random(crate::random()))
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
    let peers = |texts: &[String]| texts.iter().map(|p| peer(p)).collect::<Result<Vec<_>, _>>();
    let timeout = match request.timeout_ms {
        0 => Constraints::default().timeout,
        ms => Duration::from_millis(ms).min(LONGEST),
    };
    let kind = request
        .kind
        .parse::<ExpertKind>()
        .map_err(|e| invalid(e.to_string()))?;
    let messages = rpc::messages_from_proto(request.messages.clone())?;
    let sampling = rpc::sampling_from_proto(request.sampling.clone())?;
    // What an expert of this kind could not heed is refused, not ignored.
    if kind != ExpertKind::Generate {
        if messages.iter().any(|m| m.role != Role::User) {
            return Err(invalid(format!(
                "there is nobody to instruct: --system is for generating, not to {kind}"
            )));
        }
        if sampling != SamplingOverrides::default() {
            return Err(invalid(format!(
                "tokens, temperature, seed and stop strings are for generating, not to {kind}"
            )));
        }
    }
    let how = match request.how.as_str() {
        "" => None,
        name => Some(named(name, "way to ask", How::from_name)?),
    };
    if kind != ExpertKind::Generate && how.is_some_and(|h| h != How::One) {
        return Err(invalid(format!(
            "votes, cascades and plans are for generating, not to {kind}"
        )));
    }
    if kind != ExpertKind::Classify && !request.labels.is_empty() {
        return Err(invalid(format!(
            "labels are for `--kind classify`, not to {kind}"
        )));
    }
    let mut labels = request.labels.clone();
    labels.sort_unstable();
    if let Some(twice) = labels.windows(2).find(|two| two[0] == two[1]) {
        return Err(invalid(format!("the label '{}' is given twice", twice[0])));
    }
    if messages.iter().all(|m| m.content.trim().is_empty()) {
        return Err(invalid("the question is empty: say something".into()));
    }
    Ok(Query {
        id,
        kind,
        messages,
        labels: request.labels.clone(),
        sampling,
        constraints: Constraints {
            model: (!request.model.is_empty()).then(|| request.model.clone()),
            peer: (!request.peer.is_empty())
                .then(|| peer(&request.peer))
                .transpose()?,
            allow: peers(&request.allow)?,
            exclude: peers(&request.exclude)?,
            privacy: named(&request.privacy, "privacy", Privacy::from_name)?,
            peer_labels: request.peer_labels.clone().into_iter().collect(),
            prefer: named(&request.prefer, "preference", Preference::from_name)?,
            how,
            max_price: request.max_price,
            timeout,
        },
    })
}

/// What a name stands for, or what is usual where there is none.
fn named<T: Default>(name: &str, what: &str, of_name: fn(&str) -> Option<T>) -> Result<T, Failure> {
    if name.is_empty() {
        return Ok(T::default());
    }
    of_name(name).ok_or_else(|| {
        Failure::new(
            ErrorKind::InvalidInput,
            format!("there is no {what} '{name}': `polymath ask --help` names those there are"),
        )
    })
}

/// A built-in expert that could do what nobody here can.
const fn example(kind: ExpertKind) -> &'static str {
    match kind {
        ExpertKind::Generate => "--expert assistant",
        ExpertKind::Embed => "--expert embedder",
        ExpertKind::Classify => "--expert topics --expert language",
    }
}

/// When whoever found no place for a question may ask again.
const AGAIN: Duration = Duration::from_secs(1);

/// A decision, and what it was made from.
struct Decided {
    decision: Decision,
    features: Features,
    /// Which policy decided, and what it had heard.
    learned: Learned,
}

/// Notes how a question ended, whichever way it ended.
struct Noted<'a> {
    node: &'a Node,
    id: &'a RequestId,
    number: Option<u64>,
    begun: Instant,
    outcome: RoutedOutcome,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.total_ms = self.begun.elapsed().as_secs_f64() * 1e3;
        let learning = &self.node.inner.learning;
        learning.ended(self.id.as_str(), self.number, outcome);
    }
}

/// One question on its way, or the part of it that one of several experts is asked.
struct Asked {
    node: Node,
    events: mpsc::Sender<v1::AskEvent>,
    begun: Instant,
    /// Every call of the question, and what they may cost.
    ledger: Arc<Ledger>,
    /// As what the next calls are made.
    role: &'static str,
    /// How many experts answer it.
    how: &'static str,
    /// The answer's share of the votes, where there were any.
    agreement: f64,
    /// The caller can take back what it was given.
    restarts: bool,
    /// Something of an answer was passed on.
    passed_on: AtomicBool,
}

impl Asked {
    fn new(node: Node, events: mpsc::Sender<v1::AskEvent>, request: &v1::AskRequest) -> Self {
        let how = How::from_name(&request.how).unwrap_or_default();
        Self {
            node,
            events,
            begun: Instant::now(),
            ledger: Arc::new(Ledger::new(many::limits(request, how))),
            role: "answer",
            how: How::One.as_str(),
            agreement: 0.0,
            restarts: request.restarts,
            passed_on: AtomicBool::new(false),
        }
    }

    /// The part of one of several, whose events go elsewhere.
    fn part(&self, role: &'static str, events: mpsc::Sender<v1::AskEvent>) -> Self {
        Self {
            node: self.node.clone(),
            events,
            begun: Instant::now(),
            ledger: Arc::clone(&self.ledger),
            role,
            how: self.how,
            agreement: 0.0,
            restarts: false,
            passed_on: AtomicBool::new(false),
        }
    }

    fn has_passed_on(&self) -> bool {
        self.passed_on.load(Relaxed)
    }

    async fn run(&mut self, request: v1::AskRequest) -> Result<(), Failure> {
        let node = self.node.clone();
        let inner = &node.inner;
        let id = request_id(&request.request_id);
        let mut query = parse(&request, id)?;
        flags::heed(&mut query)?;
        let how = query.constraints.how.unwrap_or_default();
        // What a flag asks for is bounded as what the request asks for.
        self.ledger = Arc::new(Ledger::new(many::limits(&request, how)));
        // What the mesh's admins call it.
        if let Some(name) = &mut query.constraints.model {
            let meant = self.node.charter().resolve(name).to_owned();
            *name = meant;
        }
        let deadline = self.begun + query.constraints.timeout;
        let _place = inner.questions.try_acquire().map_err(|_| {
            inner.service.gate.question_refused();
            let full = Failure::new(
                ErrorKind::ResourceExhausted,
                "too many questions at once: ask again shortly",
            );
            full.retry_after(AGAIN)
        })?;
        let bytes = query.messages.iter().map(|m| m.content.len()).sum();
        let _text = inner.service.gate.hold(bytes)?;
        let late = |_| {
            let timeout = query.constraints.timeout;
            Failure::new(
                ErrorKind::DeadlineExceeded,
                format!("no expert was chosen within {timeout:?}: raise --timeout"),
            )
        };
        // Whoever asks several has no use for an experiment.
        let explore = !request.dry_run && how == How::One;
        let mut decided = tokio::time::timeout_at(deadline, self.decide(&query, explore))
            .await
            .map_err(late)?;
        let mut looked = LookUp::Found;
        if decided.decision.candidates.is_empty() {
            if let Some(by) = self.node.revoked_by() {
                return Err(shut_out(inner.net.genesis().name(), &by));
            }
            // What must not leave this node is nobody else's to answer.
            if query.constraints.privacy != Privacy::Local {
                looked = inner
                    .discovered
                    .look_up(
                        &inner.net,
                        &inner.clients,
                        query.kind,
                        &query.constraints,
                        LOOK_UP.min(query.constraints.timeout * 3 / 4),
                    )
                    .await;
            }
            decided = tokio::time::timeout_at(deadline, self.decide(&query, explore))
                .await
                .map_err(late)?;
        }
        let Decided {
            decision,
            features,
            learned,
        } = decided;
        let calls = self.ledger.calls_left();
        let experts = Experts::of(&decision, &node.index(), node.peer_id(), &query, calls);
        let mut described = describe(&decision, &query);
        experts.tell(how, &mut described);
        self.send(Event::Decision(described)).await;
        if decision.candidates.is_empty() {
            if let Some(failure) = self.not_ready_here(&query) {
                return Err(failure);
            }
            if let Some(why) = self.node.waiting() {
                return Err(not_let_in(inner.net.genesis().name(), &why));
            }
            let mut failure = decision
                .failure()
                .cloned()
                .unwrap_or_else(|| Failure::new(ErrorKind::Unavailable, decision.reason));
            failure.message = failure
                .message
                .replace("--expert NAME", example(query.kind));
            let unknown = matches!(failure.kind, ErrorKind::NotFound | ErrorKind::Unavailable);
            if looked == LookUp::Unfinished && unknown {
                failure.kind = ErrorKind::Unavailable;
                failure.message = format!(
                    "{}; but not every member answered in time: ask again, or raise --timeout",
                    failure.message
                );
            }
            return Err(failure);
        }
        if request.dry_run {
            return Ok(());
        }
        let learning = &inner.learning;
        // What a plan says is nobody's own answer: rating it would teach nothing of its experts.
        let number = match how {
            How::Plan => None,
            _ => learning.note(&query, &features, learned, &decision),
        };
        let mut noted = Noted {
            node: &node,
            id: &query.id,
            number,
            begun: self.begun,
            outcome: RoutedOutcome {
                failure: ErrorKind::Cancelled.as_str().to_owned(),
                ..RoutedOutcome::default()
            },
        };
        let ended = self.ask_them(&query, &experts, deadline).await;
        noted.outcome = match &ended {
            Ok(answered) => answered.clone(),
            Err(failure) => RoutedOutcome {
                failure: failure.kind.as_str().to_owned(),
                ..RoutedOutcome::default()
            },
        };
        ended.map(|_| ())
    }

    /// Why an expert of this node that could answer does not: what is still loading first.
    fn not_ready_here(&self, query: &Query) -> Option<Failure> {
        let (me, constraints) = (self.node.peer_id(), &query.constraints);
        if constraints.peer.is_some_and(|p| p != me) || constraints.exclude.contains(&me) {
            return None;
        }
        let wanted = |id: &ExpertId, card: &ExpertCard| {
            let named = |name: &String| Index::is_name(id, card, name);
            card.kind == query.kind && constraints.model.as_ref().is_none_or(named)
        };
        let hosted = self.node.inner.service.hosted.all();
        let waiting = hosted.iter().filter(|(id, card, _)| wanted(id, card));
        let failures = waiting.filter_map(|(_, card, state)| match state {
            State::Ready => None,
            State::Loading | State::Pulling => Some((
                false,
                format!("{} is still loading: ask again shortly", card.name),
            )),
            State::Failed(why) => Some((true, format!("{} cannot be served: {why}", card.name))),
        });
        let (_, message) = failures.min_by_key(|(failed, _)| *failed)?;
        Some(Failure::new(ErrorKind::Unavailable, message))
    }

    async fn decide(&self, query: &Query, explore: bool) -> Decided {
        let inner = &self.node.inner;
        let index = self.node.index();
        let (features, descriptors) = inner.encoder.encode(query, &index).await;
        let request = Request {
            query,
            features: &features,
            explore,
        };
        let connected: HashMap<PeerId, PeerInfo> =
            inner.net.peers().into_iter().map(|p| (p.peer, p)).collect();
        let peers = |peer: &PeerId| self.reach(peer, &connected);
        let mut router = self.node.router();
        let decision = router.decide(self.node.elapsed(), &request, &index, &descriptors, &peers);
        // Under the router's lock, so that no grade comes between.
        let learned = inner.learning.learned();
        Decided {
            decision,
            features,
            learned,
        }
    }

    fn reach(&self, peer: &PeerId, connected: &HashMap<PeerId, PeerInfo>) -> PeerState {
        let inner = &self.node.inner;
        if *peer == inner.net.local_peer() {
            return PeerState {
                own: true,
                reach: Reach::Here,
                rtt: Some(Duration::ZERO),
                load: Some(inner.service.load()),
            };
        }
        match connected.get(peer) {
            Some(p) => PeerState {
                own: inner.own_peers.contains(peer),
                // That a connection stands weighs more than what others say.
                reach: match inner.live.doubt(peer) {
                    Some(Doubt::Leaving) => Reach::Leaving,
                    _ => Reach::Connected { path: p.path },
                },
                rtt: p.rtt,
                load: inner
                    .loads
                    .of(Instant::now(), peer)
                    .or_else(|| inner.live.load(peer)),
            },
            None => PeerState {
                own: inner.own_peers.contains(peer),
                reach: match inner.live.doubt(peer) {
                    Some(Doubt::Leaving) => Reach::Leaving,
                    Some(doubt) => Reach::Suspended { why: doubt.words() },
                    None => Reach::Known,
                },
                rtt: None,
                load: inner.live.load(peer),
            },
        }
    }

    async fn send(&self, what: Event) {
        match &what {
            Event::Tokens(_) => self.passed_on.store(true, Relaxed),
            Event::Restarted(_) => self.passed_on.store(false, Relaxed),
            _ => {}
        }
        // A closed channel ends the question at the next await of `Node::ask`'s select.
        let _ = self.events.send(event(what)).await;
    }
}

/// On which terms a candidate answers; nobody pays for what is computed at home.
fn terms_of(index: &Index, candidate: &Candidate, me: PeerId) -> Terms {
    let expert = index.expert(&candidate.expert);
    let replica = expert.and_then(|e| e.replicas.iter().find(|r| r.peer == candidate.peer));
    let terms = replica.map_or_else(Terms::default, |r| r.terms);
    if candidate.peer == me {
        Terms::default()
    } else {
        terms
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
                expected: Some(expectation(&c.expected)),
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
        explored: decision.explored,
        ..v1::Decision::default()
    }
}
