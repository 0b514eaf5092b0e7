//! A question in steps: an expert divides it, each step goes to whom it suits, and the same expert puts the answers
//! together. What the planner writes is read once and strictly; where it is no plan, the question is asked as it is.

use futures::future::join_all;
use polymath_proto::v1::RoutedOutcome;
use polymath_router::Candidate;
use polymath_router::many::{Plan, PlanBounds, declines, integration, planning};
use polymath_types::{Failure, Message, Query, Role, SamplingOverrides};
use tokio::time::Instant;

use super::{
    Answer, Ask, Experts, is_over, part_of,
    reply::{self, Reply},
};
use crate::dispatch::{Asked, ledger::Granted};

/// Tokens of a plan: more than any within the bounds.
const PLAN_TOKENS: u32 = 512;
/// Calls that make a plan: to write it, one step, and the end.
const LEAST_CALLS: usize = 3;
/// An end of fewer tokens is not set aside while the steps' answers could be shorter instead.
const LEAST_END: u32 = 128;
/// Least of a step's answer that is carried on, bytes.
const LEAST_CARRIED: usize = 64;

/// What the end is asked.
fn integrated(
    query: &Query,
    plan: &Plan,
    answers: &[Option<String>],
    bounds: &PlanBounds,
) -> Query {
    let mut whole = query.clone();
    let mut turns = whole.messages.iter_mut().rev();
    if let Some(turn) = turns.find(|m| m.role == Role::User) {
        turn.content = integration(&turn.content, plan, answers, bounds);
    }
    whole
}

/// What is kept for the end.
struct End {
    granted: Granted,
    /// How its answer is shortened.
    sampling: SamplingOverrides,
    /// How much of each step's answer it reads.
    bounds: PlanBounds,
}

impl Asked {
    pub(super) async fn plan(
        &mut self,
        query: &Query,
        experts: &Experts,
        deadline: Instant,
    ) -> Result<RoutedOutcome, Failure> {
        let bounds = PlanBounds::default();
        let everybody = experts.led_by(0);
        let Some(planner) = experts.groups.first().cloned() else {
            return Err(experts.nobody());
        };
        if self.ledger.calls_left() < LEAST_CALLS {
            return self.alone(query, everybody, deadline).await;
        }
        let divide = Query {
            messages: vec![
                Message {
                    role: Role::System,
                    content: planning(&bounds),
                },
                Message::user(query.topic()),
            ],
            sampling: SamplingOverrides {
                max_tokens: Some(PLAN_TOKENS),
                temperature: Some(0.0),
                ..SamplingOverrides::default()
            },
            ..query.clone()
        };
        let ask = Ask {
            role: "planner",
            asked: "",
            shares: 3,
            by: part_of(deadline, 1, 4),
        };
        let written = self.reply(ask, &divide, planner.clone()).await;
        let plan = written.ok().and_then(|w| Plan::parse(&w.text, &bounds));
        // First of all what the end takes is set aside: without it the steps would be for nothing.
        let end = plan
            .as_ref()
            .and_then(|p| self.end(query, p, &planner, bounds));
        let (Some(plan), Some(end)) = (plan, end) else {
            return self.alone(query, everybody, deadline).await;
        };
        let replies = self.steps(query, &plan, &bounds, deadline).await;
        if replies.is_empty() {
            end.granted.undo();
            return self.alone(query, everybody, deadline).await;
        }
        self.how = "plan";
        self.role = "integrator";
        let answers = texts(&plan, &replies);
        let mut whole = integrated(query, &plan, &answers, &end.bounds);
        whole.sampling = end.sampling;
        let ended = if self.ledger.is_bounded() {
            let _granted = end.granted;
            let whole = reply::only(&whole, &planner);
            self.attempt_all(&whole, planner, deadline).await
        } else {
            end.granted.undo();
            self.attempt_all(&whole, everybody, deadline).await
        };
        match ended {
            // What the last step says is better than nothing, while nothing was passed on.
            Err(_) if !self.has_passed_on() => {
                let last = replies.len() - 1;
                self.pass(replies, last).await
            }
            ended => ended,
        }
    }

    /// Sets aside what the end takes, at most half of what is left; where that is too little for all that the steps
    /// may say, it reads less of it.
    fn end(
        &self,
        query: &Query,
        plan: &Plan,
        planner: &[Candidate],
        mut bounds: PlanBounds,
    ) -> Option<End> {
        loop {
            let longest = vec![Some("x".repeat(bounds.carried)); plan.steps.len()];
            let whole = integrated(query, plan, &longest, &bounds);
            let last = bounds.carried <= LEAST_CARRIED;
            if let Ok((granted, clipped)) = self.granted(&whole, planner, 2) {
                let full = clipped.sampling == query.sampling;
                if full || last || granted.max_tokens() >= LEAST_END {
                    return Some(End {
                        granted,
                        sampling: clipped.sampling,
                        bounds,
                    });
                }
                granted.undo();
            }
            if last {
                return None;
            }
            bounds.carried /= 2;
        }
    }

    /// Round after round; a step without an answer leaves the others to be asked. What was answered, with the
    /// steps' places.
    async fn steps(
        &self,
        query: &Query,
        plan: &Plan,
        bounds: &PlanBounds,
        deadline: Instant,
    ) -> Vec<Answer> {
        let mut replies: Vec<Answer> = Vec::new();
        let mut left = plan.steps.len();
        for round in plan.rounds() {
            let by = part_of(deadline, 1, 2);
            let answers = texts(plan, &replies);
            let asking = round.iter().enumerate().map(|(before, at)| {
                let asked = plan.asked(*at, &answers, bounds);
                // Later rounds have their shares, too.
                let shares = left.saturating_sub(before).max(1);
                self.step(query, asked, shares, by)
            });
            let told = join_all(asking).await;
            left = left.saturating_sub(round.len());
            let answered = round.iter().zip(told);
            replies.extend(answered.filter_map(|(at, reply)| Some((*at, Ok(reply?)))));
        }
        replies
    }

    async fn step(
        &self,
        query: &Query,
        asked: String,
        shares: usize,
        by: Instant,
    ) -> Option<Reply> {
        let mut step = Query {
            messages: vec![Message::user(asked.clone())],
            ..query.clone()
        };
        // Whom the caller names plans; the steps go to whom they suit.
        step.constraints.model = None;
        let decided = tokio::time::timeout_at(by, self.decide(&step, false)).await;
        let decision = decided.ok()?.decision;
        let expert = decision.candidates.first()?.expert;
        let mut group = decision.candidates;
        group.retain(|c| c.expert == expert);
        if self.ledger.calls_left() == 0 || is_over(by) {
            return None;
        }
        let ask = Ask {
            role: "step",
            asked: &asked,
            shares,
            by,
        };
        let reply = self.reply(ask, &step, group).await.ok()?;
        Some(reply).filter(|r| !declines(&r.text))
    }
}

/// Each step's answer, where it has one.
fn texts(plan: &Plan, replies: &[Answer]) -> Vec<Option<String>> {
    let mut texts = vec![None; plan.steps.len()];
    for (at, reply) in replies {
        if let (Some(text), Ok(reply)) = (texts.get_mut(*at), reply) {
            *text = Some(reply.text.clone());
        }
    }
    texts
}
