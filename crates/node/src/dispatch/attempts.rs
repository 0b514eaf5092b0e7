//! Candidate after candidate: what a failed call means for the next, what has arrived so far, and when
//! to stop.

use std::time::Duration;

use polymath_proto::v1::{self, RoutedOutcome};
use polymath_router::{Candidate, Decision, Outcome, Served};
use polymath_types::{Attempt, ErrorKind, ExpertId, Failure, Query};
use tokio::time::Instant;

use super::{Asked, call::Try};
use crate::{Node, misses};

/// How much sooner than ours a peer's clock may end a question.
const HAIR: Duration = Duration::from_millis(100);
/// Most bytes of text that a token brings, on average over an answer: a generous bound, against peers
/// that would fill the caller's memory.
const TEXT_PER_TOKEN: usize = 256;
/// Most tokens of an answer by an expert whose card is not known any more.
const MOST_TOKENS: usize = 1 << 20;

/// What has arrived of an answer so far, across replicas.
#[derive(Default)]
pub(super) struct Progress {
    /// Every token, in order.
    pub(super) ids: Vec<u32>,
    /// Bytes of text that came with them.
    text: usize,
    /// Whose tokens these are: only this expert can carry the answer on.
    pub(super) expert: Option<ExpertId>,
    pub(super) seed: Option<u64>,
    pub(super) fingerprint: String,
    pub(super) first: Option<Instant>,
    pub(super) last: Option<Instant>,
    /// Why it ended: stop, length.
    pub(super) finished: &'static str,
}

impl Progress {
    pub(super) fn can_go_on_with(&self, candidate: &Candidate) -> bool {
        self.ids.is_empty() || self.expert == Some(candidate.expert)
    }

    pub(super) fn note(&mut self) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// Takes tokens in, unless a peer sends what no honest one does.
    pub(super) fn take(&mut self, tokens: &v1::Tokens, most: usize) -> Result<(), Failure> {
        let broken = |what: &str| {
            Failure::new(
                ErrorKind::Internal,
                format!("the peer breaks the protocol: it sent {what}"),
            )
        };
        if tokens.ids.is_empty() && tokens.text.is_empty() {
            return Err(broken("tokens without a token"));
        }
        if self.ids.len() + tokens.ids.len() > most {
            return Err(broken("more tokens than were asked for"));
        }
        self.text += tokens.text.len();
        if self.text > (self.ids.len() + tokens.ids.len() + 1) * TEXT_PER_TOKEN {
            return Err(broken("more text than its tokens can hold"));
        }
        self.ids.extend_from_slice(&tokens.ids);
        self.note();
        Ok(())
    }
}

/// Refusals that blame the request itself. From a peer they are hearsay: they do not count against it,
/// so one that lies could end questions for ever. Hence a second opinion.
#[derive(Default)]
struct Refusals<'a>(Vec<(&'a Candidate, ErrorKind)>);

impl<'a> Refusals<'a> {
    const fn blames_request(kind: ErrorKind) -> bool {
        matches!(
            kind,
            ErrorKind::InvalidInput
                | ErrorKind::ContextOverflow
                | ErrorKind::Cancelled
                | ErrorKind::Config
        )
    }

    /// Whether the matter is settled for this expert: this node said so itself, or two peers did.
    fn settled(&self, node: &Node, expert: ExpertId) -> bool {
        let of = self.0.iter().filter(|(c, _)| c.expert == expert);
        let own = of.clone().any(|(c, _)| c.peer == node.peer_id());
        own || of.count() > 1
    }

    /// Whether the matter is settled for every expert: only the context's length is an expert's own.
    fn settled_for_all(&self, node: &Node) -> bool {
        let mut of = self.0.iter();
        of.any(|(c, kind)| *kind != ErrorKind::ContextOverflow && self.settled(node, c.expert))
    }

    /// Another replica answered what these refused: that was their fault after all.
    fn refute(self, node: &Node, expert: ExpertId) {
        let now = node.elapsed();
        for (candidate, _) in self.0.into_iter().filter(|(c, _)| c.expert == expert) {
            let Candidate { expert, peer, .. } = *candidate;
            let mut router = node.router();
            router.started(now, expert, peer);
            let result = Err(ErrorKind::Internal);
            router.observe(
                now,
                &Outcome {
                    expert,
                    peer,
                    result,
                },
            );
        }
    }
}

impl Asked {
    /// Candidate after candidate until one answers in full or the deadline passes.
    pub(super) async fn attempt_all(
        &self,
        query: &Query,
        decision: Decision,
        deadline: Instant,
    ) -> Result<RoutedOutcome, Failure> {
        let mut progress = Progress::default();
        let mut failures: Vec<Attempt> = Vec::new();
        let mut last: Option<Failure> = None;
        let mut soonest: Option<u64> = None;
        let mut refusals = Refusals::default();
        for (i, candidate) in decision.candidates.iter().enumerate() {
            if Instant::now() >= deadline {
                break;
            }
            if !progress.can_go_on_with(candidate) || refusals.settled(&self.node, candidate.expert)
            {
                continue;
            }
            let attempt = Try {
                query,
                candidate,
                number: failures.len() + 1,
                previous: last.as_ref(),
                rest: &decision.candidates[i + 1..],
                most_tokens: self.most_tokens(query, candidate),
                deadline,
                began: Instant::now(),
            };
            let Err(failure) = self.attempt(&attempt, &mut progress).await else {
                refusals.refute(&self.node, candidate.expert);
                return Ok(RoutedOutcome {
                    expert: candidate.expert.as_bytes().to_vec().into(),
                    peer: candidate.peer.to_bytes().into(),
                    tokens: u32::try_from(progress.ids.len()).unwrap_or(u32::MAX),
                    finished: progress.finished.to_owned(),
                    ..RoutedOutcome::default()
                });
            };
            tracing::debug!(request_id = %query.id, peer = %candidate.peer, expert = %candidate.name, "attempt failed: {failure}");
            soonest = soonest.into_iter().chain(failure.retry_after_ms).min();
            failures.push(Attempt {
                expert: candidate.name.clone(),
                peer: candidate.peer.to_string(),
                outcome: failure.message.clone(),
            });
            let fell_silent =
                failure.kind == ErrorKind::DeadlineExceeded && Instant::now() < deadline;
            let refused = Refusals::blames_request(failure.kind);
            if refused {
                refusals.0.push((candidate, failure.kind));
            }
            let hopeless = !failure.kind.worth_another_replica() && !fell_silent && !refused;
            last = Some(failure);
            if hopeless || refusals.settled_for_all(&self.node) {
                break;
            }
        }
        let tokens = progress.ids.len();
        let mut end = last.unwrap_or_else(|| Failure::new(ErrorKind::DeadlineExceeded, ""));
        // A peer counts down the same budget, and may be first to say that it is over.
        let late = match end.kind {
            ErrorKind::DeadlineExceeded => Instant::now() + HAIR >= deadline,
            _ => Instant::now() >= deadline,
        };
        if late {
            // Of several tries the last that was not merely too late tells more than the clock.
            let why = match end.kind {
                ErrorKind::DeadlineExceeded => {
                    "raise --timeout, or ask for fewer tokens".to_owned()
                }
                _ => end.message.clone(),
            };
            end.kind = ErrorKind::DeadlineExceeded;
            end.message = format!(
                "no complete answer within {:?}: {why}",
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
            } else if failures.len() > 1 && !Refusals::blames_request(end.kind) {
                end.message = format!("all {} tries failed; ask again in a while", failures.len());
            }
        }
        end.attempts = failures;
        end.retry_after_ms = soonest;
        Err(end)
    }

    fn most_tokens(&self, query: &Query, candidate: &Candidate) -> usize {
        let index = self.node.index();
        let by_card = index
            .expert(&candidate.expert)
            .map_or(MOST_TOKENS, |e| e.card.sampling.max_tokens as usize);
        let asked = query.sampling.max_tokens.map(|n| n as usize);
        asked.unwrap_or(by_card)
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
                self.node.inner.misses.met(peer);
                Ok(())
            }
            Err(failure) => {
                if let Some(reason) = misses::of_call(failure.kind) {
                    let misses = &self.node.inner.misses;
                    misses.failed(peer, reason, &failure.message);
                }
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
