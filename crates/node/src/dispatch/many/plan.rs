//! A question in steps: an expert divides it, each step goes to whom it suits, and the same expert puts the answers
//! together. What the planner writes is read once and strictly; where it is no plan, the question is asked as it is.

use futures::future::join_all;
use polymath_proto::v1::RoutedOutcome;
use polymath_router::many::{Plan, PlanBounds, declines, integration, planning};
use polymath_types::{Failure, Message, Query, Role, SamplingOverrides};
use tokio::time::Instant;

use super::{Ask, Experts, is_over, part_of};
use crate::dispatch::Asked;

/// Tokens of a plan: more than any within the bounds.
const PLAN_TOKENS: u32 = 512;

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
        let written = self.reply(ask, &divide, planner).await;
        let plan = written.ok().and_then(|w| Plan::parse(&w.text, &bounds));
        let answers = match &plan {
            Some(plan) => self.steps(query, plan, &bounds, deadline).await,
            None => Vec::new(),
        };
        let known = answers.iter().any(Option::is_some);
        let Some(plan) = plan.filter(|_| known) else {
            return self.alone(query, everybody, deadline).await;
        };
        self.how = "plan";
        self.role = "integrator";
        let mut whole = query.clone();
        let last = whole.messages.iter_mut().rev();
        if let Some(turn) = last.into_iter().find(|m| m.role == Role::User) {
            turn.content = integration(&turn.content, &plan, &answers, &bounds);
        }
        self.alone(&whole, everybody, deadline).await
    }

    /// Round after round; a step without an answer leaves the others to be asked.
    async fn steps(
        &self,
        query: &Query,
        plan: &Plan,
        bounds: &PlanBounds,
        deadline: Instant,
    ) -> Vec<Option<String>> {
        let mut answers: Vec<Option<String>> = vec![None; plan.steps.len()];
        for round in plan.rounds() {
            let by = part_of(deadline, 1, 2);
            let asking = round.iter().enumerate().map(|(before, at)| {
                let asked = plan.asked(*at, &answers, bounds);
                // Later rounds and the end have their shares, too.
                let shares = plan.steps.len() - before + 1;
                self.step(query, asked, shares, by)
            });
            let told = join_all(asking).await;
            for (at, answer) in round.iter().zip(told) {
                answers[*at] = answer;
            }
        }
        answers
    }

    async fn step(
        &self,
        query: &Query,
        asked: String,
        shares: usize,
        by: Instant,
    ) -> Option<String> {
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
        // One call is kept for the end.
        if self.ledger.calls_left() < 2 || is_over(by) {
            return None;
        }
        let ask = Ask {
            role: "step",
            asked: &asked,
            shares,
            by,
        };
        let reply = self.reply(ask, &step, group).await.ok()?;
        Some(reply.text).filter(|text| !declines(text))
    }
}
