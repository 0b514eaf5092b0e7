//! Two calls in a race: the router says when a second one is worth it, the first that brings something is
//! passed on, and the other one is dropped, which ends it on its peer too.

use std::pin::pin;

use polymath_router::Candidate;
use polymath_types::Failure;
use tokio::time::{Instant, timeout_at};

use super::{
    Asked,
    attempts::{Progress, Report},
    call::{Opened, Try},
};

/// How the opening of one call, or of two, ended.
pub(super) struct Race<'d, 't> {
    /// The call that brought something first.
    pub(super) opened: Option<(Try<'d, 't>, Opened, Report<'d>)>,
    /// How many were made.
    pub(super) calls: usize,
    /// Those that failed before that, in their order.
    pub(super) lost: Vec<(&'d Candidate, Failure)>,
}

impl<'d, 't> Race<'d, 't> {
    const fn new(calls: usize) -> Self {
        Self {
            opened: None,
            calls,
            lost: Vec::new(),
        }
    }

    fn ended(mut self, attempt: &Try<'d, 't>, end: Result<(Opened, Report<'d>), Failure>) -> Self {
        match end {
            Ok((opened, report)) => self.opened = Some((*attempt, opened, report)),
            Err(failure) => self.lost.push((attempt.candidate, failure)),
        }
        self
    }
}

impl Asked {
    /// Opens a call; if it brings nothing for longer than such calls take, a second one beside it.
    pub(super) async fn race<'d, 't>(
        &'d self,
        first: &Try<'d, 't>,
        progress: &Progress,
    ) -> Race<'d, 't> {
        let mut opening = pin!(self.begin(first, progress));
        let Some(other) = self.other(first, progress) else {
            return Race::new(1).ended(first, opening.await);
        };
        let (expert, slow) = (first.candidate.expert, first.candidate.peer);
        let after = self.node.router().hedge_after(self.node.elapsed(), expert);
        let Some(due) = after.and_then(|after| first.began.checked_add(after)) else {
            return Race::new(1).ended(first, opening.await);
        };
        if let Ok(end) = timeout_at(due.min(first.deadline), &mut opening).await {
            return Race::new(1).ended(first, end);
        }
        let now = self.node.elapsed();
        let may = Instant::now() < first.deadline
            && self.node.router().may_hedge(now, expert, slow, other.peer);
        if !may {
            return Race::new(1).ended(first, opening.await);
        }
        tracing::debug!(request_id = %first.query.id, %slow, other = %other.peer, "a second call is made");
        let second = Try {
            candidate: other,
            number: first.number + 1,
            previous: None,
            hedge: true,
            began: Instant::now(),
            ..*first
        };
        let mut hedging = pin!(self.begin(&second, progress));
        let race = Race::new(2);
        // Where both have something, the first one's is taken: nothing need be said of a second call.
        tokio::select! {
            biased;
            end = &mut opening => {
                let race = race.ended(first, end);
                match race.opened {
                    Some(_) => race,
                    None => race.ended(&second, hedging.await),
                }
            }
            end = &mut hedging => {
                if end.is_ok() {
                    let waited = first.began.elapsed();
                    self.node.router().outrun(self.node.elapsed(), expert, slow, waited);
                }
                let race = race.ended(&second, end);
                match race.opened {
                    Some(_) => race,
                    None => race.ended(first, opening.await),
                }
            }
        }
    }

    /// Who could be called beside: another replica of the same expert. An answer that is carried on has
    /// lost its time already, and its next replica is not measured by how others begin.
    fn other<'d>(&self, first: &Try<'d, '_>, progress: &Progress) -> Option<&'d Candidate> {
        let candidate = first.candidate;
        let is_other = |c: &&&Candidate| c.expert == candidate.expert && c.peer != candidate.peer;
        let other = first.rest.iter().find(is_other).copied();
        other.filter(|_| progress.is_empty())
    }
}
