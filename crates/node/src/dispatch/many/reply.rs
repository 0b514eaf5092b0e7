//! One of several experts, asked to the end of its answer, which is kept until it is known whose is passed on.

use polymath_proto::v1::{self, RoutedOutcome, ask_event::Event};
use polymath_router::{Candidate, many};
use polymath_types::{ErrorKind, Failure, Query, Terms};
use tokio::{sync::mpsc, time::Instant};

use crate::dispatch::{Asked, EVENTS, ledger::Granted, terms_of};

/// Most bytes of an answer that is kept.
const MOST_KEPT: usize = 256 << 10;
/// Most of it that is told beside the answer.
const MOST_TOLD: usize = 4 << 10;
/// Most tokens of it.
const MOST_KEPT_TOKENS: usize = 64 << 10;
/// Bytes and tokens of a piece of it: tokens that are kept one by one would be a hundred times their size.
const PIECE: usize = 4 << 10;
const PIECE_TOKENS: usize = 1 << 10;

/// A whole answer, not passed on yet.
pub(super) struct Reply {
    /// In order, without the end.
    pub(super) events: Vec<Event>,
    pub(super) text: String,
    pub(super) done: v1::Done,
    pub(super) outcome: RoutedOutcome,
}

impl Reply {
    /// What it says, where that is short; who declines says nothing.
    pub(super) fn short(&self) -> Option<String> {
        many::short_answer(&self.text).filter(|_| !many::declines(&self.text))
    }

    pub(super) fn is_long(&self) -> bool {
        self.short().is_none() && !many::declines(&self.text)
    }
}

/// The same question to one expert alone, also where candidates are sought anew.
pub(super) fn only(query: &Query, group: &[Candidate]) -> Query {
    let mut query = query.clone();
    query.constraints.model = group.first().map(|c| c.expert.to_string());
    query
}

/// As what one of several is asked.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) role: &'static str,
    /// What a plan's step asks.
    pub(super) asked: &'a str,
    /// Its part of what the question may still cost is one of so many.
    pub(super) shares: usize,
    pub(super) by: Instant,
}

#[derive(Default)]
struct Kept {
    events: Vec<Event>,
    text: String,
    ids: usize,
    done: Option<v1::Done>,
}

impl Kept {
    fn add(&mut self, tokens: v1::Tokens) -> Result<(), Failure> {
        self.text.push_str(&tokens.text);
        self.ids += tokens.ids.len();
        if self.text.len() > MOST_KEPT || self.ids > MOST_KEPT_TOKENS {
            return Err(Failure::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "its answer is over {MOST_KEPT} bytes or {MOST_KEPT_TOKENS} tokens: too long to be held beside others"
                ),
            ));
        }
        match self.events.last_mut() {
            Some(Event::Tokens(last))
                if last.text.len() < PIECE && last.ids.len() < PIECE_TOKENS =>
            {
                last.text.push_str(&tokens.text);
                last.ids.extend_from_slice(&tokens.ids);
            }
            _ => self.events.push(Event::Tokens(tokens)),
        }
        Ok(())
    }
}

async fn keep(mut heard: mpsc::Receiver<v1::AskEvent>) -> Result<Kept, Failure> {
    let mut kept = Kept::default();
    while let Some(event) = heard.recv().await {
        match event.event {
            Some(Event::Done(done)) => kept.done = Some(done),
            Some(Event::Tokens(tokens)) => kept.add(tokens)?,
            Some(event @ (Event::Attempt(_) | Event::Started(_))) => kept.events.push(event),
            _ => {}
        }
    }
    Ok(kept)
}

fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(MOST_TOLD)].to_owned()
}

impl Asked {
    /// Asks one expert, on whichever of its replicas, and keeps what it says.
    pub(super) async fn reply(
        &self,
        Ask {
            role,
            asked,
            shares,
            by,
        }: Ask<'_>,
        query: &Query,
        group: Vec<Candidate>,
    ) -> Result<Reply, Failure> {
        let first = group.first().map(|c| (c.expert, c.name.clone()));
        let ended = self.reply_kept(role, query, group, (shares, by)).await;
        let (answer, failure, peer) = match &ended {
            Ok(reply) => (clip(&reply.text), String::new(), reply.done.peer.clone()),
            Err(failure) => (String::new(), failure.to_string(), String::new()),
        };
        let (expert_id, expert) =
            first.map_or_else(Default::default, |(id, n)| (id.to_string(), n));
        self.send(Event::Part(v1::Part {
            role: role.to_owned(),
            expert_id,
            expert,
            peer,
            asked: asked.to_owned(),
            answer,
            failure,
        }))
        .await;
        ended
    }

    async fn reply_kept(
        &self,
        role: &'static str,
        query: &Query,
        group: Vec<Candidate>,
        (shares, by): (usize, Instant),
    ) -> Result<Reply, Failure> {
        let (_granted, query) = self.granted(query, &group, shares)?;
        let query = only(&query, &group);
        let (events, heard) = mpsc::channel(EVENTS);
        let part = self.part(role, events);
        let ask = async {
            // Its end closes the channel, which ends the keeping.
            let part = part;
            part.attempt_all(&query, group, by).await
        };
        let (outcome, kept) = futures::future::try_join(ask, keep(heard)).await?;
        let done = kept.done.ok_or_else(|| {
            Failure::new(ErrorKind::Internal, "the answer ended without a result")
        })?;
        Ok(Reply {
            events: kept.events,
            text: kept.text,
            done,
            outcome,
        })
    }

    /// The question as it may be asked of this expert now: its answer may be shortened to what is left of the
    /// question's bounds, of which one of so many shares is set aside.
    pub(super) fn granted(
        &self,
        query: &Query,
        group: &[Candidate],
        shares: usize,
    ) -> Result<(Granted, Query), Failure> {
        let index = self.node.index();
        let me = self.node.peer_id();
        // Any of the replicas may be the one that answers.
        let terms = group.iter().map(|c| terms_of(&index, c, me));
        let terms = terms.fold(Terms::default(), |a, b| Terms {
            price_in: a.price_in.max(b.price_in),
            price_out: a.price_out.max(b.price_out),
            ..a
        });
        let first = group.first();
        let prompt = first.map_or(0, |c| self.most_prompt(query, &c.expert));
        let card = first.and_then(|c| index.expert(&c.expert));
        let by_card = card.map_or(u32::MAX, |e| e.card.sampling.max_tokens);
        let answer = query.sampling.max_tokens.unwrap_or(by_card);
        let granted = self.ledger.grant((prompt, answer.into()), terms, shares)?;
        let mut query = query.clone();
        if granted.max_tokens() < answer {
            query.sampling.max_tokens = Some(granted.max_tokens());
        }
        Ok((granted, query))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_kept_is_kept_in_few_pieces_and_bounded() {
        let mut kept = Kept::default();
        let token = |text: &str| v1::Tokens {
            ids: vec![1],
            text: text.to_owned(),
        };
        let mut added = 0;
        let failure = loop {
            match kept.add(token("")) {
                Ok(()) => added += 1,
                Err(failure) => break failure,
            }
        };
        assert_eq!(added, MOST_KEPT_TOKENS);
        assert_eq!(kept.events.len(), MOST_KEPT_TOKENS / PIECE_TOKENS);
        assert_eq!(failure.kind, ErrorKind::ResourceExhausted);

        let mut kept = Kept::default();
        for _ in 0..MOST_KEPT / 4 {
            kept.add(token("abcd")).unwrap();
        }
        assert!(kept.add(token("a")).is_err());
    }
}
