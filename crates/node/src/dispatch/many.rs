//! Several experts for one question: who they are, what they are asked, and whose answer is passed on.
//!
//! [`polymath_router::many`] decides; here its decisions are carried out. Each expert is asked as a question of
//! its own would be ([`Asked::reply`]), with failover and hedges; all of them share one deadline, one purse,
//! one request id and one ledger.

mod plan;
mod reply;

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use polymath_proto::v1::{self, RoutedOutcome, ask_event::Event};
use polymath_router::{
    Candidate, Decision,
    many::{
        Escalation, Gate, PurseLimits, Said, Standing, Way, declines, groups, medoid, settled,
        short_answer, tally, usual_sharpness,
    },
};
use polymath_types::{ErrorKind, Failure, How, Index, PeerId, Query};
use tokio::time::Instant;

use self::reply::{Ask, Reply};
use super::{Asked, attempts::Refusals};

/// Experts that may be asked for one question, whatever the caller allows.
const MOST_CALLS: usize = 16;
/// A card with this capability, and experts under this category of the charter, are for what suits nobody else.
const GENERAL: &str = "general";

/// What a question may cost, by what its caller says.
pub(super) fn limits(request: &v1::AskRequest, how: How) -> PurseLimits {
    let usual = match how {
        // One is asked; others only where it fails.
        How::One => MOST_CALLS,
        How::Vote | How::Cascade => 3,
        How::Auto => 5,
        How::Plan => 8,
    };
    let calls = match usize::try_from(request.max_calls).unwrap_or(MOST_CALLS) {
        0 => usual,
        calls => calls.min(MOST_CALLS),
    };
    PurseLimits {
        calls,
        tokens: request.max_total_tokens,
        cost: request.max_cost,
    }
}

/// The experts of a decision, best first, and who is asked of them.
pub(super) struct Experts {
    /// The replicas of each.
    groups: Vec<Vec<Candidate>>,
    standings: Vec<Standing>,
    gate: Gate,
    pub(super) way: Way,
}

impl Experts {
    pub(super) fn of(
        decision: &Decision,
        index: &Index,
        me: PeerId,
        query: &Query,
        calls: usize,
    ) -> Self {
        let named = query.constraints.model.is_some();
        let how = match query.constraints.how.unwrap_or_default() {
            // Whoever names an expert thinks that it suits.
            How::Auto if named => How::One,
            how => how,
        };
        let mut groups: Vec<Vec<Candidate>> = Vec::new();
        for candidate in &decision.candidates {
            match groups.iter_mut().find(|g| g[0].expert == candidate.expert) {
                Some(group) => group.push(candidate.clone()),
                None => groups.push(vec![candidate.clone()]),
            }
        }
        let general = index.charter().categories.get(GENERAL);
        let general: &[String] = general.map_or(&[], |s| &s.value);
        let standing = |group: &Vec<Candidate>| {
            let first = &group[0];
            let expert = index.expert(&first.expert);
            let fit = first.terms.iter().find(|t| t.name == "quality");
            let listed = |card| {
                general
                    .iter()
                    .any(|n| Index::is_name(&first.expert, card, n))
            };
            Standing {
                expected: first.expected.quality,
                fit: fit.map_or(0.0, |t| t.value),
                evidence: first.expected.evidence,
                price: super::terms_of(index, first, me).price() as f64,
                general: expert.is_some_and(|e| e.card.can(GENERAL) || listed(&e.card)),
            }
        };
        let standings: Vec<Standing> = groups.iter().map(standing).collect();
        let gate = Gate::default();
        let way = match standings.is_empty() {
            true => Way::Abstain,
            false => gate.choose(how, &standings, calls),
        };
        Self {
            groups,
            standings,
            gate,
            way,
        }
    }

    /// Adds to what is told of the decision.
    pub(super) fn tell(&self, how: How, decision: &mut v1::Decision) {
        let places = match &self.way {
            Way::One(at) | Way::Generalist(at) => vec![*at],
            Way::Vote(voters) => voters.clone(),
            Way::Cascade { cheap, strong } => cheap.iter().chain([strong]).copied().collect(),
            Way::Abstain => Vec::new(),
        };
        let plan = how == How::Plan && !self.groups.is_empty();
        decision.how = if plan { "plan" } else { self.way.as_str() }.to_owned();
        let name = |at: usize| self.groups.get(at).map(|g| g[0].name.clone());
        decision.chosen = places.into_iter().filter_map(name).collect();
        if !self.standings.is_empty() {
            decision.doubt = self.gate.doubt(&self.standings);
        }
    }

    /// All candidates, those of one expert first.
    fn led_by(&self, at: usize) -> Vec<Candidate> {
        let first = self.groups.get(at).into_iter().flatten();
        let rest = self.groups.iter().enumerate();
        let rest = rest.filter(|(other, _)| *other != at).flat_map(|(_, g)| g);
        first.chain(rest).cloned().collect()
    }

    fn expected(&self, at: usize) -> f64 {
        self.standings[at].expected
    }

    /// Likenesses of cards are no expectations by which votes could be weighed.
    fn sharpness(&self, voters: &[usize]) -> f64 {
        let learnt = |at: &usize| self.standings[*at].evidence >= self.gate.learnt;
        usual_sharpness(voters.iter().all(learnt))
    }

    fn nobody(&self) -> Failure {
        let closest = self.standings.iter().zip(&self.groups);
        let closest = closest.max_by(|a, b| a.0.fit.total_cmp(&b.0.fit));
        let closest = closest.map_or_else(String::new, |(s, g)| {
            format!(" (the closest, {}, is {:.2} like it)", g[0].name, s.fit)
        });
        Failure::new(
            ErrorKind::NotFound,
            format!(
                "no expert here suits this question{closest}: ask with --how one to try all the same, or name one with --model"
            ),
        )
    }
}

/// The moment when so many parts of what is left are over.
fn part_of(deadline: Instant, part: u32, of: u32) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) * part / of
}

/// What came of one of several experts: its place, and its answer if there is one.
type Answer = (usize, Result<Reply, Failure>);
/// Whether those that are there are enough.
type Enough<'a> = &'a (dyn Fn(&[Answer]) -> bool + Sync);

/// Answers that were compared.
struct Compared {
    /// Whose is passed on.
    winner: Option<usize>,
    share: f64,
}

impl Asked {
    /// Asks whom the decision names, in its way.
    pub(super) async fn ask_them(
        &mut self,
        query: &Query,
        experts: &Experts,
        deadline: Instant,
    ) -> Result<RoutedOutcome, Failure> {
        self.how = experts.way.as_str();
        match &experts.way {
            _ if query.constraints.how == Some(How::Plan) => {
                self.plan(query, experts, deadline).await
            }
            Way::One(at) | Way::Generalist(at) => {
                self.alone(query, experts.led_by(*at), deadline).await
            }
            Way::Vote(voters) => self.vote(query, experts, voters, deadline).await,
            Way::Cascade { cheap, strong } => {
                self.cascade(query, experts, cheap, *strong, deadline).await
            }
            Way::Abstain => Err(experts.nobody()),
        }
    }

    /// One expert after the other, until one answers. Where tokens or credits are counted, only those for whom there
    /// is room, each with what it is granted: another one may be dearer.
    async fn alone(
        &self,
        query: &Query,
        candidates: Vec<Candidate>,
        deadline: Instant,
    ) -> Result<RoutedOutcome, Failure> {
        if !self.ledger.is_bounded() {
            return self.attempt_all(query, candidates, deadline).await;
        }
        let me = self.node.peer_id();
        let (mut refused, mut ended) = (None, None::<Failure>);
        let (mut attempts, mut blamed) = (Vec::new(), false);
        let mut left = candidates;
        while let Some(first) = left.first() {
            let expert = first.expert;
            let (group, rest): (Vec<_>, Vec<_>) = left
                .into_iter()
                .partition(|c: &Candidate| c.expert == expert);
            left = rest;
            let here = group.iter().any(|c| c.peer == me);
            let mut failure = match self.granted(query, &group, 1) {
                Ok((_granted, query)) => {
                    let query = reply::only(&query, &group);
                    match self.attempt_all(&query, group, deadline).await {
                        Ok(answered) => return Ok(answered),
                        Err(failure) => failure,
                    }
                }
                Err(failure) => {
                    refused = refused.or(Some(failure));
                    continue;
                }
            };
            attempts.append(&mut failure.attempts);
            let kind = failure.kind;
            ended = Some(failure);
            // A refusal of the question by one peer is hearsay; the context's length is an expert's own.
            let blames = Refusals::blames_request(kind);
            let blames = blames && kind != ErrorKind::ContextOverflow;
            let worth = kind.worth_another_replica() || Refusals::blames_request(kind);
            if self.has_passed_on() || is_over(deadline) || !worth || blames && (here || blamed) {
                break;
            }
            blamed |= blames;
        }
        let mut failure = ended
            .or(refused)
            .unwrap_or_else(|| Failure::new(ErrorKind::Unavailable, "nobody can be asked"));
        failure.attempts = attempts;
        Err(failure)
    }

    /// All at once; as soon as the others can change nothing they are asked no longer.
    async fn vote(
        &mut self,
        query: &Query,
        experts: &Experts,
        voters: &[usize],
        deadline: Instant,
    ) -> Result<RoutedOutcome, Failure> {
        let sharpness = experts.sharpness(voters);
        let enough = |replies: &[Answer]| {
            let shorts = replies.iter().map(|(at, reply)| {
                let short = reply.as_ref().ok().map(Reply::short);
                (short, experts.expected(*at))
            });
            // Long answers are compared when all are there.
            let all_short = replies
                .iter()
                .all(|(_, r)| !matches!(r, Ok(r) if r.is_long()));
            let shorts = shorts.map(|(short, expected)| (short.flatten(), expected));
            let missing = voters
                .iter()
                .filter(|v| replies.iter().all(|(at, _)| at != *v));
            let missing = missing.map(|at| experts.expected(*at));
            all_short && settled(shorts, missing, sharpness)
        };
        let voting = Ask {
            role: "voter",
            asked: "",
            shares: 0,
            by: part_of(deadline, 9, 10),
        };
        let enough: Enough<'_> = &enough;
        let until = (enough, voters.len() / 2 + 1);
        let replies = self.replies(voting, query, experts, voters, until).await;
        let compared = self.compare(experts, &replies, sharpness, deadline).await;
        self.agreement = compared.share;
        match compared.winner {
            Some(at) => self.pass(replies, at).await,
            None => Err(no_winner(replies)),
        }
    }

    /// The cheap ones; where their answers are not worth enough, the strong one.
    async fn cascade(
        &mut self,
        query: &Query,
        experts: &Experts,
        cheap: &[usize],
        strong: usize,
        deadline: Instant,
    ) -> Result<RoutedOutcome, Failure> {
        let rule = Escalation::default();
        // The strong one's share is kept.
        let first = Ask {
            role: "first",
            asked: "",
            shares: 1,
            by: part_of(deadline, 1, 2),
        };
        // Where half of them cannot be waited for, the strong one is better asked.
        let all: Enough<'_> = &|_| false;
        let until = (all, cheap.len().div_ceil(2));
        let replies = self.replies(first, query, experts, cheap, until).await;
        let compared = self
            .compare(experts, &replies, rule.sharpness, deadline)
            .await;
        let escalates = rule.escalates(compared.share, experts.expected(strong));
        self.agreement = compared.share;
        if let Some(at) = compared.winner.filter(|_| !escalates) {
            return self.pass(replies, at).await;
        }
        self.role = "strongest";
        let failure = match self.granted(query, &experts.groups[strong], 1) {
            Ok((_granted, query)) => {
                let query = reply::only(&query, &experts.groups[strong]);
                let group = experts.groups[strong].clone();
                match self.attempt_all(&query, group, deadline).await {
                    Ok(answered) => return Ok(answered),
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        // What the cheap ones said is better than nothing, while nothing was passed on.
        match compared.winner.filter(|_| !self.has_passed_on()) {
            Some(at) => self.pass(replies, at).await,
            None => Err(failure),
        }
    }

    /// Asks several at once, until `enough` of what is there; in the order of `places`. Once a quorum has answered,
    /// the others have as long again as its slowest took, and fail then. Of what the question may still cost each has
    /// one share, beside those that are kept.
    async fn replies(
        &self,
        kept: Ask<'_>,
        query: &Query,
        experts: &Experts,
        places: &[usize],
        (enough, quorum): (Enough<'_>, usize),
    ) -> Vec<Answer> {
        let begun = Instant::now();
        let ask = async |(before, at): (usize, usize)| {
            let group = experts.groups[at].clone();
            let shares = kept.shares + places.len() - before;
            (at, self.reply(Ask { shares, ..kept }, query, group).await)
        };
        let places_of = places.iter().copied().enumerate();
        let mut asking: FuturesUnordered<_> = places_of.map(ask).collect();
        let mut replies = Vec::with_capacity(places.len());
        let mut until = kept.by;
        let mut slow = false;
        loop {
            // The first wait ends by itself, with what each failed of.
            let next = match slow {
                true => tokio::time::timeout_at(until, asking.next()).await,
                false => Ok(asking.next().await),
            };
            let Ok(next) = next else {
                let there: Vec<usize> = replies.iter().map(|(at, _): &Answer| *at).collect();
                let missing = places.iter().filter(|at| !there.contains(at));
                replies.extend(missing.map(|at| (*at, Err(too_slow()))));
                break;
            };
            let Some(reply) = next else { break };
            replies.push(reply);
            if enough(&replies) {
                break;
            }
            if replies.iter().filter(|(_, r)| r.is_ok()).count() >= quorum {
                let now = Instant::now();
                let patience = LEAST_PATIENCE.max(now.saturating_duration_since(begun));
                until = kept.by.min(now + patience);
                slow = true;
            }
        }
        drop(asking);
        let place = |at: usize| places.iter().position(|p| *p == at);
        replies.sort_by_key(|(at, _)| place(*at));
        replies
    }

    /// Which answer most say, and its share of the votes. Who failed or has no answer has no vote.
    async fn compare(
        &self,
        experts: &Experts,
        replies: &[Answer],
        sharpness: f64,
        deadline: Instant,
    ) -> Compared {
        let given = replies.iter().filter_map(|(_, reply)| reply.as_ref().ok());
        let long = given.clone().any(Reply::is_long);
        let (mut vectors, mut least) = (Vec::new(), 1.0);
        if long {
            let texts: Vec<&str> = given.map(|r| r.text.as_str()).collect();
            let encoder = &self.node.inner.encoder;
            // Where there is no time for it, long answers are alike in nothing.
            let patience = part_of(deadline, 1, 4);
            if let Ok(found) = tokio::time::timeout_at(patience, encoder.compare(&texts)).await {
                (vectors, least) = found;
            }
        }
        let mut vectors = vectors.into_iter();
        let said: Vec<Said> = replies
            .iter()
            .map(|(_, reply)| match reply {
                Ok(reply) => Said {
                    short: short_answer(&reply.text),
                    vector: vectors.next().unwrap_or_default(),
                    declined: declines(&reply.text),
                },
                Err(_) => Said {
                    declined: true,
                    ..Said::default()
                },
            })
            .collect();
        let groups = groups(&said, least);
        let expected = replies.iter().map(|(at, _)| experts.expected(*at));
        let tally = tally(groups.iter().copied().zip(expected), sharpness);
        let members = tally.winner.map(|winner| {
            let mut members: Vec<usize> = (0..groups.len()).collect();
            members.retain(|at| groups[*at] == Some(winner));
            members
        });
        Compared {
            winner: members.and_then(|members| medoid(&said, &members)),
            share: tally.share,
        }
    }

    /// Passes on the answer of one of them.
    async fn pass(&self, mut replies: Vec<Answer>, at: usize) -> Result<RoutedOutcome, Failure> {
        let (_, reply) = replies.swap_remove(at);
        let Reply {
            events,
            done,
            outcome,
            ..
        } = reply?;
        for event in events {
            self.send(event).await;
        }
        let now = self.begun.elapsed().as_secs_f64() * 1e3;
        self.send(Event::Done(self.accounted(v1::Done {
            ttft_ms: now,
            total_ms: now,
            ..done
        })))
        .await;
        Ok(outcome)
    }
}

/// Why none of several answers is passed on.
fn no_winner(replies: Vec<Answer>) -> Failure {
    let asked = replies.len();
    let mut failures = replies.into_iter().filter_map(|(_, r)| r.err());
    match failures.next() {
        Some(mut first) => {
            for other in failures {
                first.attempts.extend(other.attempts);
                first.retry_after_ms = [first.retry_after_ms, other.retry_after_ms]
                    .into_iter()
                    .flatten()
                    .min();
            }
            first.message = format!("none of {asked} experts has an answer: {}", first.message);
            first
        }
        None => Failure::new(
            ErrorKind::NotFound,
            format!(
                "each of the {asked} experts asked says that it cannot answer: name another with --model"
            ),
        ),
    }
}

fn too_slow() -> Failure {
    Failure::new(
        ErrorKind::DeadlineExceeded,
        "it took more than twice as long as the others",
    )
}

/// Least time that the slow have once a quorum has answered: models differ.
const LEAST_PATIENCE: Duration = Duration::from_secs(3);
/// The least time that is worth a call.
const LEAST_TIME: Duration = Duration::from_millis(1);

fn is_over(deadline: Instant) -> bool {
    deadline.saturating_duration_since(Instant::now()) < LEAST_TIME
}
