//! The calls of one question: who was asked, what came of it, and what all of them may cost and have cost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polymath_proto::v1;
use polymath_router::{
    Candidate,
    many::{Grant, Purse, PurseLimits, Spent},
};
use polymath_types::{ErrorKind, Failure, Terms};

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
}

impl Entry {
    fn spent(&self) -> Spent {
        let (prompt, answer) = (self.made.prompt_tokens, self.made.completion_tokens);
        Spent {
            tokens: u64::from(prompt) + u64::from(answer),
            cost: self.terms.cost(prompt.into(), answer.into()),
        }
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
    pub(super) fn began(&self, role: &str, candidate: &Candidate, terms: Terms) -> usize {
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
        });
        book.calls.len() - 1
    }

    /// Its prompt has so many tokens.
    pub(super) fn read(&self, call: usize, tokens: u32) {
        if let Some(entry) = self.book().calls.get_mut(call) {
            entry.made.prompt_tokens = tokens;
        }
    }

    /// So many tokens of its answer have come.
    pub(super) fn came(&self, call: usize, tokens: usize) {
        if let Some(entry) = self.book().calls.get_mut(call) {
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            let known = &mut entry.made.completion_tokens;
            *known = known.saturating_add(tokens);
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
            grant,
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
    grant: Grant,
}

impl Granted {
    pub(super) fn max_tokens(&self) -> u32 {
        u32::try_from(self.grant.max_tokens).unwrap_or(u32::MAX)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.ledger.book().purse.give_back(self.grant);
    }
}
