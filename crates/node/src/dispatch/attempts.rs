//! Candidate after candidate: what a failed call means for the next, what has arrived so far, and when
//! to stop.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use polymath_proto::v1::{self, RoutedOutcome, ask_event::Event};
use polymath_router::{
    Candidate, Outcome, Served,
    many::{Beginning, beginning, declines, goes_in_circles},
};
use polymath_types::{Attempt, ErrorKind, ExpertId, ExpertKind, Failure, PeerId, Query, Runtime};
use tokio::time::Instant;

use super::{
    Asked,
    call::{Opened, Try},
    hedge::Race,
    ledger::{ANSWERED, Ledger},
    terms_of,
};
use crate::{Node, misses};

/// How much sooner than ours a peer's clock may end a question.
const HAIR: Duration = Duration::from_millis(100);
/// Most bytes of text that a token brings, on average over an answer: a generous bound, against peers
/// that would fill the caller's memory.
const TEXT_PER_TOKEN: usize = 256;
/// Bytes of a token of usual text, where nobody counts.
pub(super) const BYTES_PER_TOKEN: usize = 4;
/// What a chat template adds to a turn at most, tokens.
const TEMPLATE: u64 = 16;
/// Most tokens of an answer by an expert whose card is not known any more.
const MOST_TOKENS: usize = 1 << 20;

/// What has arrived of an answer so far, across replicas.
#[derive(Default)]
pub(super) struct Progress {
    /// Every token, in order.
    pub(super) ids: Vec<u32>,
    /// Its expert tells no token ids: nobody can carry the answer on.
    pub(super) untold: bool,
    /// Then: how often text came.
    pieces: usize,
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
    /// Its beginning, while it may still become a declaration that there is no answer: not passed on.
    held: Vec<v1::Tokens>,
    heard: String,
    begins: bool,
    /// Why another expert is to begin anew.
    gave_up: Option<&'static str>,
}

/// Tokens and bytes after which a beginning is an answer's, whatever it may still become: honest declarations are
/// shorter, and what is held is in memory.
const MOST_HELD: usize = 64;
const MOST_HEARD: usize = 256;
/// How often an answer is looked at whether it goes in circles, tokens.
const CIRCLES_EVERY: usize = 16;

impl Progress {
    pub(super) fn can_go_on_with(&self, candidate: &Candidate) -> bool {
        self.is_empty() || (!self.untold && self.expert == Some(candidate.expert))
    }

    /// Whether nothing has come yet.
    pub(super) const fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.pieces == 0
    }

    /// Tokens so far, of an expert that tells none as far as that can be known.
    pub(super) const fn tokens(&self) -> usize {
        self.ids.len() + self.pieces
    }

    /// How many tokens these are, as far as that can be known.
    pub(super) const fn came(&self, tokens: &v1::Tokens) -> usize {
        if self.untold { 1 } else { tokens.ids.len() }
    }

    /// The same for what they cost: nobody pays less for coming in great pieces.
    pub(super) fn weigh(&self, tokens: &v1::Tokens) -> usize {
        if self.untold {
            tokens.text.len().div_ceil(BYTES_PER_TOKEN)
        } else {
            tokens.ids.len()
        }
    }

    /// What of these tokens may be passed on: nothing yet while the answer may turn out to be none. An error is
    /// why another expert should be asked; `again`: also once something was passed on.
    pub(super) fn sift(
        &mut self,
        tokens: v1::Tokens,
        again: bool,
    ) -> Result<Vec<v1::Tokens>, Failure> {
        if self.begins {
            let room = MOST_HEARD.saturating_sub(self.heard.len());
            let heard = tokens.text.floor_char_boundary(room);
            self.heard.push_str(&tokens.text[..heard]);
            let full = heard < tokens.text.len() || self.tokens() > MOST_HELD;
            self.held.push(tokens);
            return match beginning(&self.heard) {
                Beginning::Open if full => {
                    self.begins = false;
                    Ok(std::mem::take(&mut self.held))
                }
                Beginning::Open => Ok(Vec::new()),
                Beginning::Declines => Err(self.give_up("it says that it cannot answer")),
                Beginning::Answers => {
                    self.begins = false;
                    Ok(std::mem::take(&mut self.held))
                }
            };
        }
        if again && self.ids.len().is_multiple_of(CIRCLES_EVERY) && goes_in_circles(&self.ids) {
            return Err(self.give_up("its answer goes in circles"));
        }
        let mut all = std::mem::take(&mut self.held);
        all.push(tokens);
        Ok(all)
    }

    /// The same at the answer's end.
    pub(super) fn sift_end(&mut self) -> Result<Vec<v1::Tokens>, Failure> {
        if self.begins && declines(&self.heard) {
            return Err(self.give_up("it says that it cannot answer"));
        }
        self.begins = false;
        Ok(std::mem::take(&mut self.held))
    }

    fn give_up(&mut self, why: &'static str) -> Failure {
        self.gave_up = Some(why);
        Failure::new(ErrorKind::NotFound, why)
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
        if self.untold {
            self.pieces += 1;
            self.text += tokens.text.len();
            if !tokens.ids.is_empty() || self.text > most.saturating_mul(TEXT_PER_TOKEN) {
                return Err(broken("more than its card and the question allow"));
            }
            self.note();
            return Ok(());
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
/// so one that lies could end questions for ever. Hence a second opinion. So is what a server behind an
/// expert of this node says.
#[derive(Default)]
pub(super) struct Refusals(Vec<(Candidate, ErrorKind)>);

impl Refusals {
    pub(super) const fn blames_request(kind: ErrorKind) -> bool {
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
        let index = node.index();
        let entry = index.expert(&expert);
        let outside = entry.is_some_and(|e| e.card.model.runtime == Runtime::Upstream);
        let own = !outside && of.clone().any(|(c, _)| c.peer == node.peer_id());
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
            let Candidate { expert, peer, .. } = candidate;
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
        candidates: Vec<Candidate>,
        deadline: Instant,
    ) -> Result<RoutedOutcome, Failure> {
        // Where the router chose, an expert that has no answer may be followed by another one, once.
        let free = query.kind == ExpertKind::Generate && query.constraints.model.is_none();
        let mut watch = free;
        let mut progress = Progress::default();
        let mut failures: Vec<Attempt> = Vec::new();
        let mut last: Option<Failure> = None;
        let mut soonest: Option<u64> = None;
        let mut refusals = Refusals::default();
        let mut calls = 0;
        let mut left: VecDeque<_> = candidates.into_iter().map(Arc::new).collect();
        let mut again = Again::default();
        // Who names an expert asks no other one.
        let most = match query.constraints.model {
            Some(_) => usize::MAX,
            None => self.ledger.calls_left().max(1),
        };
        let mut met: Vec<ExpertId> = Vec::new();
        'asking: loop {
            if Instant::now() >= deadline {
                break;
            }
            let Some(candidate) = left.pop_front() else {
                // Nobody can carry on what tells no token ids: there is nothing to wait for.
                let lost = progress.untold && !progress.is_empty();
                let begun = !progress.is_empty();
                let pause = again.pause(begun, self.begun.elapsed());
                let Some(pause) = pause.filter(|_| !lost) else {
                    break;
                };
                left = self.decide_again(query, pause, deadline, &again).await;
                continue;
            };
            let candidate = candidate.as_ref();
            if !progress.can_go_on_with(candidate) || refusals.settled(&self.node, candidate.expert)
            {
                continue;
            }
            if !met.contains(&candidate.expert) {
                if met.len() >= most {
                    continue;
                }
                met.push(candidate.expert);
            }
            if met.len() >= most {
                left.retain(|c| met.contains(&c.expert));
            }
            let others: Vec<Arc<Candidate>> = left.iter().cloned().collect();
            let rest: Vec<&Candidate> = others.iter().map(Arc::as_ref).collect();
            watch &= rest.iter().any(|c| c.expert != candidate.expert);
            progress.begins = watch && (progress.begins || progress.is_empty());
            let attempt = Try {
                query,
                candidate,
                watch,
                number: calls + 1,
                previous: last.as_ref(),
                rest: &rest,
                hedge: false,
                most_tokens: self.most_tokens(query, candidate),
                deadline,
                began: Instant::now(),
            };
            let Race {
                opened,
                calls: made,
                mut lost,
            } = self.race(&attempt, &progress).await;
            calls += made;
            if let Some((attempt, opened, report)) = opened {
                let answerer = attempt.candidate;
                left.retain(|c| !is_same(c, answerer));
                if attempt.hedge && lost.is_empty() {
                    // Slow is not dead: should this answer break off, it could still be asked.
                    left.push_back(Arc::new(candidate.clone()));
                }
                let passed = self.pass_on(&attempt, opened, report, &mut progress).await;
                if let Some(why) = progress.gave_up.filter(|_| watch) {
                    watch = false;
                    if progress.held.is_empty() {
                        let why = format!("{}: {why}", answerer.name);
                        self.send(Event::Restarted(v1::Restarted { why })).await;
                    }
                    left.retain(|c| c.expert != answerer.expert);
                    progress = Progress::default();
                    failures.push(Attempt {
                        expert: answerer.name.clone(),
                        peer: answerer.peer.to_string(),
                        outcome: why.to_owned(),
                    });
                    last = Some(Failure::new(ErrorKind::NotFound, why));
                    continue;
                }
                match passed {
                    Ok(()) => {
                        refusals.refute(&self.node, answerer.expert);
                        return Ok(RoutedOutcome {
                            expert: answerer.expert.as_bytes().to_vec().into(),
                            peer: answerer.peer.to_bytes().into(),
                            tokens: u32::try_from(progress.tokens()).unwrap_or(u32::MAX),
                            finished: progress.finished.to_owned(),
                            ..RoutedOutcome::default()
                        });
                    }
                    Err(failure) => lost.push((answerer, failure)),
                }
            }
            for (candidate, failure) in lost {
                tracing::debug!(request_id = %query.id, peer = %candidate.peer, expert = %candidate.name, "attempt failed: {failure}");
                left.retain(|c| !is_same(c, candidate));
                again.failed(candidate, failure.kind);
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
                    refusals.0.push((candidate.clone(), failure.kind));
                }
                let hopeless = !failure.kind.worth_another_replica() && !fell_silent && !refused;
                last = Some(failure);
                if hopeless || refusals.settled_for_all(&self.node) {
                    break 'asking;
                }
            }
        }
        let tokens = progress.tokens();
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

    /// Candidates as they are now: who was away or left alone when the question came may be back.
    async fn decide_again(
        &self,
        query: &Query,
        pause: Duration,
        deadline: Instant,
        again: &Again,
    ) -> VecDeque<Arc<Candidate>> {
        let until = deadline.min(Instant::now() + pause);
        tokio::time::sleep_until(until).await;
        let decided = tokio::time::timeout_at(deadline, self.decide(query, false)).await;
        let candidates = decided.map_or_else(|_| Vec::new(), |d| d.decision.candidates);
        candidates
            .into_iter()
            .filter(|c| again.may_ask(c))
            .map(Arc::new)
            .collect()
    }

    /// Whether the expert tells no token ids, by its card.
    pub(super) fn tells_no_ids(&self, candidate: &Candidate) -> bool {
        let index = self.node.index();
        let expert = index.expert(&candidate.expert);
        expert.is_some_and(|e| !e.card.can_be_carried_on())
    }

    fn most_tokens(&self, query: &Query, candidate: &Candidate) -> usize {
        let index = self.node.index();
        let by_card = index
            .expert(&candidate.expert)
            .map_or(MOST_TOKENS, |e| e.card.sampling.max_tokens as usize);
        let asked = query.sampling.max_tokens.map(|n| n as usize);
        asked.unwrap_or(by_card)
    }

    /// Most tokens of the question as an expert reads it: none is less than a byte.
    pub(super) fn most_prompt(&self, query: &Query, expert: &ExpertId) -> u64 {
        let index = self.node.index();
        let system = index
            .expert(expert)
            .and_then(|e| e.card.system.as_ref().map(String::len));
        let bytes = query.messages.iter().map(|m| m.content.len());
        let bytes = bytes.sum::<usize>() + system.unwrap_or_default();
        let turns = query.messages.len() as u64 + 2;
        let prompt = bytes as u64 + TEMPLATE * turns;
        // Of labels that are asked about each is read with the whole text.
        let labels = query.labels.iter().map(String::len).sum::<usize>() as u64;
        let each = query.labels.len().max(1) as u64;
        prompt.saturating_mul(each).saturating_add(labels * turns)
    }

    /// Opens one call, of which the router learns however it ends, cancellation included.
    pub(super) async fn begin<'d>(
        &'d self,
        attempt: &Try<'d, '_>,
        progress: &Progress,
    ) -> Result<(Opened, Report<'d>), Failure> {
        let Candidate { expert, peer, .. } = *attempt.candidate;
        self.node
            .router()
            .started(self.node.elapsed(), expert, peer);
        let terms = terms_of(&self.node.index(), attempt.candidate, self.node.peer_id());
        let prompt = self.most_prompt(attempt.query, &expert) + progress.ids.len() as u64;
        let call = self
            .ledger
            .began(self.role, attempt.candidate, terms, prompt);
        let mut report = Report {
            node: &self.node,
            ledger: &self.ledger,
            call,
            candidate: attempt.candidate,
            result: Err(ErrorKind::Cancelled),
        };
        match self.open(attempt, progress, call).await {
            Ok(opened) => Ok((opened, report)),
            Err(failure) => {
                report.failed(attempt, &failure);
                Err(failure)
            }
        }
    }

    /// Passes on what an opened call brings, to its end.
    async fn pass_on(
        &self,
        attempt: &Try<'_, '_>,
        opened: Opened,
        mut report: Report<'_>,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        match self.answer(opened, attempt, progress).await {
            Ok(served) => {
                report.result = Ok(served);
                self.node.inner.misses.met(attempt.candidate.peer);
                Ok(())
            }
            // Its peer did what it was asked to.
            Err(failure) if progress.gave_up.is_some() => {
                self.ledger.ended(report.call, "gave_up");
                Err(failure)
            }
            Err(failure) => {
                report.failed(attempt, &failure);
                Err(failure)
            }
        }
    }
}

/// A question that lost its peer so soon is worth another second.
const PROMPT: Duration = Duration::from_secs(2);

/// When nobody is left to be asked: how often, and after which pauses, candidates are sought anew.
#[derive(Default)]
struct Again {
    rounds: usize,
    failed: HashMap<(ExpertId, PeerId), ErrorKind>,
}

impl Again {
    /// A question that nobody has begun to answer is tried with those who are there now; where its peer was lost,
    /// also with those who are back by then and were just being tried. One that was being answered is worth more
    /// waiting: peers that were updated or restarted are back within seconds.
    const PAUSES: [Duration; 6] = [
        Duration::ZERO,
        Duration::from_millis(250),
        Duration::from_millis(750),
        Duration::from_secs(1),
        Duration::from_secs(3),
        Duration::from_secs(5),
    ];

    fn pause(&mut self, begun: bool, waited: Duration) -> Option<Duration> {
        // Without a failure the list was all there is.
        let lost = self.failed.values().any(|k| *k == ErrorKind::Unavailable);
        let most = match (self.failed.is_empty(), begun) {
            (true, _) => 0,
            // Whom it took long to find lost it would take long again.
            (false, false) if lost && waited < PROMPT => 3,
            (false, false) => 1,
            (false, true) => Self::PAUSES.len(),
        };
        let pause = Self::PAUSES[..most].get(self.rounds).copied();
        self.rounds += 1;
        pause
    }

    fn failed(&mut self, candidate: &Candidate, kind: ErrorKind) {
        self.failed.insert((candidate.expert, candidate.peer), kind);
    }

    /// Whoever went away may come back, which the router's breakers pace; other failures stay what they are.
    fn may_ask(&self, candidate: &Candidate) -> bool {
        let failed = self.failed.get(&(candidate.expert, candidate.peer));
        failed.is_none_or(|kind| *kind == ErrorKind::Unavailable)
    }
}

fn is_same(a: &Candidate, b: &Candidate) -> bool {
    (a.expert, a.peer) == (b.expert, b.peer)
}

/// Tells the router how a call ended, whichever way it ended.
pub(super) struct Report<'a> {
    node: &'a Node,
    ledger: &'a Ledger,
    call: usize,
    candidate: &'a Candidate,
    result: Result<Served, ErrorKind>,
}

impl Report<'_> {
    fn failed(&mut self, attempt: &Try<'_, '_>, failure: &Failure) {
        if let Some(reason) = misses::of_call(failure.kind) {
            let misses = &self.node.inner.misses;
            misses.failed(self.candidate.peer, reason, &failure.message);
        }
        // A caller who gave little time says nothing of the peer.
        let in_time = Instant::now() < attempt.deadline;
        self.result = Err(if in_time {
            failure.kind
        } else {
            ErrorKind::Cancelled
        });
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let inner = &self.node.inner;
        let Candidate { expert, peer, .. } = *self.candidate;
        if self.result == Err(ErrorKind::Unavailable) {
            inner.clients.forget(&peer);
        }
        let told = match self.result {
            Ok(_) => ANSWERED,
            Err(kind) => kind.as_str(),
        };
        self.ledger.ended(self.call, told);
        let outcome = Outcome {
            expert,
            peer,
            result: self.result,
        };
        let now = self.node.elapsed();
        self.node.router().observe(now, &outcome);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_stays_open_for_ever_is_held_to_its_bound_only() {
        let mut progress = Progress {
            begins: true,
            ..Progress::default()
        };
        let (mut passed, mut most) = (0, 0);
        for id in 0..500 {
            let blank = v1::Tokens {
                ids: vec![id],
                text: " ".to_owned(),
            };
            progress.take(&blank, 1000).unwrap();
            passed += progress.sift(blank, false).unwrap().len();
            most = most.max(progress.held.len());
        }
        assert_eq!(passed, 500);
        assert_eq!(most, MOST_HELD);
        assert!(progress.heard.len() <= MOST_HEARD);
    }

    #[test]
    fn one_great_piece_of_blanks_is_no_beginning() {
        let mut progress = Progress {
            begins: true,
            untold: true,
            ..Progress::default()
        };
        let blank = v1::Tokens {
            ids: Vec::new(),
            text: " ".repeat(32 << 10),
        };
        progress.take(&blank, 1000).unwrap();
        assert_eq!(progress.weigh(&blank), 8 << 10);
        assert_eq!(progress.sift(blank, false).unwrap().len(), 1);
        assert!(progress.heard.len() <= MOST_HEARD);
    }
}
