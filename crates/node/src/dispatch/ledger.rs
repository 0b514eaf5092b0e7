//! The calls of one question: who was asked, what came of it, and what all of them may cost and have cost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polymath_proto::v1;
use polymath_router::{
    Candidate,
    many::{Grant, Purse, PurseLimits, Spent},
};
use polymath_types::{ErrorKind, Failure, Terms};

use super::attempts::BYTES_PER_TOKEN;

/// Calls that are told one by one; their count and cost are those of all.
const MOST_TOLD: usize = 64;
/// How a call that answered in full is told.
pub(super) const ANSWERED: &str = "answered";

/// Shared by everything that is done for one question.
#[derive(Debug)]
pub(super) struct Ledger(Mutex<Book>);

#[derive(Debug)]
struct Book {
    purse: Purse,
    /// As many as candidates are tried, in all rounds.
    calls: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    made: v1::CallMade,
    terms: Terms,
    /// Most tokens that its prompt can have: whoever says more lies, and could empty the purse.
    most_prompt: u64,
    /// Its tokens are reckoned, not counted.
    estimated: bool,
}

impl Entry {
    fn spent(&self) -> Spent {
        let (prompt, answer) = (self.made.prompt_tokens, self.made.completion_tokens);
        Spent {
            tokens: u64::from(prompt) + u64::from(answer),
            cost: self.terms.cost(prompt.into(), answer.into()),
        }
    }

    /// Its prompt as it was said to be, as far as that can be; 0: nobody counted.
    fn read(&mut self, tokens: u32) {
        self.estimated = tokens == 0;
        let tokens = match tokens {
            0 => self.most_prompt.div_ceil(BYTES_PER_TOKEN as u64),
            tokens => self.most_prompt.min(tokens.into()),
        };
        self.made.prompt_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    }
}

/// What all calls of a question came to.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) calls: Vec<v1::CallMade>,
    pub(super) made: u32,
    pub(super) cost: u64,
    pub(super) total: v1::Usage,
}

impl Ledger {
    pub(super) fn new(limits: PurseLimits) -> Self {
        Self(Mutex::new(Book {
            purse: Purse::new(limits),
            calls: Vec::new(),
        }))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins. Returns its place.
    pub(super) fn began(
        &self,
        role: &str,
        candidate: &Candidate,
        terms: Terms,
        most_prompt: u64,
    ) -> usize {
        let mut book = self.book();
        book.calls.push(Entry {
            made: v1::CallMade {
                role: role.to_owned(),
                expert_id: candidate.expert.to_string(),
                expert: candidate.name.clone(),
                peer: candidate.peer.to_string(),
                ..v1::CallMade::default()
            },
            terms,
            most_prompt,
            estimated: false,
        });
        book.calls.len() - 1
    }

    /// Its prompt is said to have so many tokens; 0: its peer has not counted them.
    pub(super) fn read(&self, call: usize, tokens: u32) {
        if let Some(entry) = self.book().calls.get_mut(call) {
            entry.read(tokens);
        }
    }

    /// It has answered in full, and this is said of its tokens. What was counted here holds; of what nobody could
    /// count here as much is believed as the call was granted.
    pub(super) fn settle(&self, call: usize, usage: Option<v1::Usage>, counted: bool, most: usize) {
        let usage = usage.unwrap_or_default();
        let mut book = self.book();
        let Some(entry) = book.calls.get_mut(call) else {
            return;
        };
        if usage.prompt_tokens > 0 && (entry.estimated || !counted) {
            entry.read(usage.prompt_tokens);
        }
        if !counted && usage.completion_tokens > 0 {
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            entry.made.completion_tokens = usage.completion_tokens.min(most);
        }
        entry.estimated |= !counted && (usage.estimated || usage.completion_tokens == 0);
    }

    /// So many tokens of its answer have come, which has `most` at most.
    pub(super) fn came(&self, call: usize, tokens: usize, most: usize) {
        if let Some(entry) = self.book().calls.get_mut(call) {
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            let known = &mut entry.made.completion_tokens;
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            *known = known.saturating_add(tokens).min(most);
        }
    }

    /// It ended like this; what was said first holds.
    pub(super) fn ended(&self, call: usize, outcome: &str) {
        if let Some(entry) = self.book().calls.get_mut(call)
            && entry.made.outcome.is_empty()
        {
            outcome.clone_into(&mut entry.made.outcome);
        }
    }

    pub(super) fn calls_left(&self) -> usize {
        self.book().purse.calls_left()
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.book().purse.is_bounded()
    }

    /// Sets aside what a call takes at most, prompt and answer, until what is returned is dropped; of what is left
    /// one of so many shares.
    pub(super) fn grant(
        self: &Arc<Self>,
        tokens: (u64, u64),
        terms: Terms,
        shares: usize,
    ) -> Result<Granted, Failure> {
        let mut book = self.book();
        let spent = book.calls.iter().map(Entry::spent);
        let spent = spent.fold(Spent::default(), |a, b| Spent {
            tokens: a.tokens.saturating_add(b.tokens),
            cost: a.cost.saturating_add(b.cost),
        });
        let grant = book.purse.grant(spent, tokens, terms, shares);
        let grant = grant.ok_or_else(|| {
            Failure::new(
                ErrorKind::ResourceExhausted,
                "what this question may cost leaves no room for another call: raise --max-calls, --max-total-tokens or --max-cost",
            )
        })?;
        Ok(Granted {
            ledger: Arc::clone(self),
            grant: Some(grant),
        })
    }

    pub(super) fn account(&self) -> Account {
        let book = self.book();
        let mut account = Account {
            made: u32::try_from(book.calls.len()).unwrap_or(u32::MAX),
            ..Account::default()
        };
        for entry in &book.calls {
            let cost = entry.spent().cost;
            account.cost = account.cost.saturating_add(cost);
            let total = &mut account.total;
            let made = &entry.made;
            total.prompt_tokens = total.prompt_tokens.saturating_add(made.prompt_tokens);
            total.estimated |= entry.estimated;
            total.completion_tokens = total
                .completion_tokens
                .saturating_add(made.completion_tokens);
            if account.calls.len() < MOST_TOLD {
                account.calls.push(v1::CallMade {
                    cost,
                    ..made.clone()
                });
            }
        }
        account
    }
}

/// What a call may take, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Granted {
    ledger: Arc<Ledger>,
    grant: Option<Grant>,
}

impl Granted {
    pub(super) fn max_tokens(&self) -> u32 {
        let most = self.grant.map_or(0, |g| g.max_tokens);
        u32::try_from(most).unwrap_or(u32::MAX)
    }

    /// The call is not made after all.
    pub(super) fn undo(mut self) {
        if let Some(grant) = self.grant.take() {
            self.ledger.book().purse.undo(grant);
        }
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.ledger.book().purse.give_back(grant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> (Ledger, usize) {
        let limits = PurseLimits {
            calls: 3,
            tokens: Some(1000),
            cost: None,
        };
        let ledger = Ledger::new(limits);
        ledger.book().calls.push(Entry {
            made: v1::CallMade::default(),
            terms: Terms::default(),
            most_prompt: 400,
            estimated: false,
        });
        (ledger, 0)
    }

    fn told(ledger: &Ledger) -> (u32, u32, bool) {
        let total = ledger.account().total;
        (
            total.prompt_tokens,
            total.completion_tokens,
            total.estimated,
        )
    }

    #[test]
    fn a_liar_s_prompt_is_no_longer_than_the_question() {
        let (ledger, call) = ledger();
        ledger.read(call, 4_000_000_000);
        assert_eq!(told(&ledger), (400, 0, false));
    }

    #[test]
    fn what_nobody_counted_is_reckoned_and_then_believed_up_to_what_was_granted() {
        let (ledger, call) = ledger();
        ledger.read(call, 0);
        ledger.came(call, 8000, 50);
        assert_eq!(told(&ledger), (100, 50, true));
        let usage = |prompt_tokens, completion_tokens| {
            Some(v1::Usage {
                prompt_tokens,
                completion_tokens,
                estimated: false,
            })
        };
        ledger.settle(call, usage(90, 40), false, 50);
        assert_eq!(told(&ledger), (90, 40, false));
        ledger.settle(call, usage(90, 9000), false, 50);
        assert_eq!(told(&ledger), (90, 50, false));
    }

    #[test]
    fn what_was_counted_here_holds() {
        let (ledger, call) = ledger();
        ledger.read(call, 30);
        ledger.came(call, 7, 50);
        let usage = v1::Usage {
            prompt_tokens: 1,
            completion_tokens: 1,
            estimated: false,
        };
        ledger.settle(call, Some(usage), true, 50);
        assert_eq!(told(&ledger), (30, 7, false));
    }
}
