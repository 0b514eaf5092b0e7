//! A question in steps, as an expert wrote them down: read strictly, so that what is no plan is seen as none.
//!
//! An expert's text decides what is asked next, so all of it is bounded: steps, rounds, and bytes of each
//! step and of what is carried from one to another. A plan is read once; no answer can add a step to it.

use std::fmt::Write;

/// What a plan may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanBounds {
    /// Steps.
    pub steps: usize,
    /// Steps that wait for one another, one after the other.
    pub rounds: usize,
    /// Bytes of a step.
    pub step: usize,
    /// Bytes of an answer that are carried on.
    pub carried: usize,
}

impl Default for PlanBounds {
    fn default() -> Self {
        Self {
            steps: 5,
            rounds: 3,
            step: 512,
            carried: 2048,
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is to be asked, `{1}` standing for the first step's answer.
    pub text: String,
    /// The earlier steps whose answers it needs, from 0.
    pub needs: Vec<usize>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// At least two.
    pub steps: Vec<Step>,
}

/// What a planner is told. The question follows as the user's turn.
pub fn planning(bounds: &PlanBounds) -> String {
    format!(
        "Divide the question into two to {} short questions for different experts, each of which can be answered by itself. \
         Write one a line, numbered: `1. ...`, `2. ...`, and nothing else. Where one needs the answer to an earlier one, \
         write {{1}} for that answer. If the question needs no division, write only: none",
        bounds.steps
    )
}

/// What the one who puts the answers together is asked.
pub fn integration(
    question: &str,
    plan: &Plan,
    answers: &[Option<String>],
    bounds: &PlanBounds,
) -> String {
    let mut text = format!("{question}\n\nWhat is known:\n");
    for at in 0..plan.steps.len() {
        let answer = answers.get(at).and_then(Option::as_deref);
        let answer = answer.map_or("(no answer)", |a| clip(a.trim(), bounds.carried));
        // Writing to a text does not fail.
        let _ = writeln!(
            text,
            "{}. {}\n{answer}",
            at + 1,
            plan.asked(at, answers, bounds)
        );
    }
    text.push_str("\nAnswer the question from this, briefly.");
    text
}

fn clip(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// `1. text`, `1) text`, `Step 1: text`: the number and the text.
fn numbered(line: &str) -> Option<(usize, &str)> {
    let line = line.trim().trim_start_matches('*').trim_start();
    let head = line.get(..5).unwrap_or_default();
    let line = if head.eq_ignore_ascii_case("step ") {
        &line[5..]
    } else {
        line
    };
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let number = line[..digits].parse().ok()?;
    let text = line[digits..].strip_prefix(['.', ')', ':'])?;
    Some((number, text.trim().trim_end_matches('*').trim()))
}

/// The numbers in braces.
fn references(text: &str) -> impl Iterator<Item = usize> {
    text.split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}')?.0.trim().parse().ok())
}

impl Plan {
    /// Reads what a planner wrote; `None` where that is no plan, or none within the bounds.
    pub fn parse(text: &str, bounds: &PlanBounds) -> Option<Self> {
        let mut steps: Vec<Step> = Vec::new();
        for (number, text) in text.lines().filter_map(numbered) {
            let right = number == steps.len() + 1 && number <= bounds.steps;
            if !right || text.len() > bounds.step || !text.chars().any(char::is_alphanumeric) {
                return None;
            }
            let mut needs: Vec<usize> = references(text).collect();
            if needs.iter().any(|n| *n == 0 || *n > steps.len()) {
                return None;
            }
            needs.iter_mut().for_each(|n| *n -= 1);
            needs.sort_unstable();
            needs.dedup();
            let text = text.to_owned();
            steps.push(Step { text, needs });
        }
        let plan = Self { steps };
        let fits = plan.steps.len() > 1 && plan.rounds().len() <= bounds.rounds;
        fits.then_some(plan)
    }

    /// The steps, by when they can be asked: those of one round at once.
    pub fn rounds(&self) -> Vec<Vec<usize>> {
        let mut of = vec![0; self.steps.len()];
        let mut rounds: Vec<Vec<usize>> = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            of[at] = step.needs.iter().map(|n| of[*n] + 1).max().unwrap_or(0);
            if rounds.len() <= of[at] {
                rounds.push(Vec::new());
            }
            rounds[of[at]].push(at);
        }
        rounds
    }

    /// What a step asks, with the answers it needs in their places.
    pub fn asked(&self, at: usize, answers: &[Option<String>], bounds: &PlanBounds) -> String {
        let Some(step) = self.steps.get(at) else {
            return String::new();
        };
        let mut text = String::with_capacity(step.text.len());
        let mut rest = step.text.as_str();
        // An answer that has braces itself is not read again.
        while let Some((before, behind)) = rest.split_once('{') {
            text.push_str(before);
            let known = behind.split_once('}').and_then(|(number, after)| {
                let number: usize = number.trim().parse().ok()?;
                Some((answers.get(number.checked_sub(1)?)?.as_deref(), after))
            });
            rest = match known {
                Some((answer, after)) => {
                    let answer = answer.map_or("unknown", |a| clip(a.trim(), bounds.carried));
                    text.push_str(answer);
                    after
                }
                None => {
                    text.push('{');
                    behind
                }
            };
        }
        text.push_str(rest);
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: PlanBounds = PlanBounds {
        steps: 5,
        rounds: 3,
        step: 64,
        carried: 16,
    };

    fn parse(text: &str) -> Option<Plan> {
        Plan::parse(text, &BOUNDS)
    }

    #[test]
    fn numbered_lines_are_steps_and_what_they_need_comes_before_them() {
        let text = "Here is my plan:\n1. How many eggs?\n**2) How hot?**\nStep 3: Given {1} and {2}, how long?";
        let plan = parse(text).unwrap();
        assert_eq!(plan.steps.len(), 3);
        assert_eq!(plan.steps[1].text, "How hot?");
        assert_eq!(plan.rounds(), [vec![0, 1], vec![2]]);
        let answers = [
            Some("six".into()),
            Some("{1} degrees, or so it seems".into()),
        ];
        let asked = plan.asked(2, &answers, &BOUNDS);
        assert_eq!(asked, "Given six and {1} degrees, or , how long?");
        let asked = plan.asked(2, &[None, None], &BOUNDS);
        assert_eq!(asked, "Given unknown and unknown, how long?");
        let whole = integration("Eggs?", &plan, &[None, Some("hot".into())], &BOUNDS);
        assert!(
            whole.starts_with("Eggs?") && whole.contains("(no answer)") && whole.contains("hot")
        );
    }

    #[test]
    fn what_is_no_plan_or_too_large_a_one_is_none() {
        let long = format!("1. a\n2. {}", "b".repeat(65));
        for text in [
            "none",
            "Boil them for six minutes.",
            "1. only one",
            "1. a\n3. c",
            "2. a\n3. b",
            "1. a\n2. needs {2}",
            "1. a\n2. needs {3}",
            "1. a\n2. needs {0}",
            "1. a\n2. ...",
            "1. a\n2. b\n3. c\n4. d\n5. e\n6. f",
            "1. a\n2. {1}\n3. {2}\n4. {3}",
            &long,
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_plan_within_the_bounds_or_none(text in "(([1-6][.)] ?[a-z{}0-9 ]{0,20}\n)|.{0,30}\n){0,9}") {
            if let Some(plan) = parse(&text) {
                prop_assert!((2..=BOUNDS.steps).contains(&plan.steps.len()));
                let rounds = plan.rounds();
                prop_assert!(rounds.len() <= BOUNDS.rounds);
                prop_assert_eq!(rounds.iter().map(Vec::len).sum::<usize>(), plan.steps.len());
                let answers = vec![Some("x".repeat(100)); plan.steps.len()];
                for at in 0..plan.steps.len() {
                    // A reference is three bytes at least.
                    let most = BOUNDS.step + BOUNDS.step / 3 * BOUNDS.carried;
                    prop_assert!(plan.asked(at, &answers, &BOUNDS).len() <= most);
                }
            }
        }
    }
}
