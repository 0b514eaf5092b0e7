//! `polymath ask`: tokens on stdout, all else on stderr.

use std::{
    collections::HashMap,
    io::{IsTerminal, Read, Write},
    time::Duration,
};

use polymath_node::{Control, Node, Options};
use polymath_proto::v1::{self, ask_event::Event};
use polymath_types::{ErrorKind, Failure, Format, How, Terms};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use toml::Table;

use crate::{args, output, session::Session};

/// Most bytes read from standard input.
const MOST_INPUT: u64 = 4 << 20;
/// Pause before the home's lock is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// What a hanging node gets beyond the deadline.
const GRACE: Duration = Duration::from_secs(10);
/// Longest `--timeout`, seconds.
const LONGEST: f64 = 3600.0;
/// Characters of what one of several experts said.
const LONGEST_TOLD: usize = 200;
/// Time a passing client gives itself to meet the mesh.
const MEET: Duration = Duration::from_secs(5);

pub(crate) async fn run(session: Session, ask: args::Ask) -> Result<(), Failure> {
    let config = session.begin(Table::new())?;
    let question = question(&ask.question)?;
    let show = Show {
        json: session.json,
        explain: ask.explain,
        dry_run: ask.dry_run,
        verbose: ask.verbose,
    };
    let mut request = request(ask, question)?;
    // What went into a file or a pipe cannot be taken back.
    request.restarts = session.json || std::io::stdout().is_terminal();
    let timeout = Duration::from_millis(request.timeout_ms);
    let begun = Instant::now();
    let mut passing = None;
    let asked = async {
        let (home, lock) = loop {
            if let Some(daemon) = session.daemon().await? {
                return through(daemon, request, &show).await;
            }
            let home = session.home()?;
            match home.lock() {
                Ok(lock) => break (home, lock),
                // Another passing question holds the home for a moment, or a daemon that is starting.
                Err(e) if e.kind == ErrorKind::FailedPrecondition && begun.elapsed() < timeout => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(e) => return Err(e),
            }
        };
        let store = session.store(&config)?;
        let node = passing.insert(
            Node::start(Options {
                home,
                lock,
                config: config.clone(),
                cards: Vec::new(),
                store,
                progress: output::progress(&session),
                passing: true,
                engine: None,
            })
            .await?,
        );
        node.meet(MEET.min(timeout / 2)).await;
        let left = timeout.saturating_sub(begun.elapsed());
        request.timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        show.all(node.ask(request)).await
    };
    let ended = tokio::select! {
        done = asked => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(ErrorKind::Cancelled, "interrupted: the answer was cancelled")),
        // The node keeps the deadline; this is for a node that hangs.
        () = tokio::time::sleep(timeout + GRACE) => Err(Failure::new(
            ErrorKind::DeadlineExceeded,
            format!("the node did not end the question within {timeout:?}: see its log"),
        )),
    };
    // However it ended, peers learn at once that nobody waits any more.
    if let Some(node) = passing {
        node.shut_down().await;
    }
    ended
}

/// Asks the running node.
async fn through(mut daemon: Control, request: v1::AskRequest, show: &Show) -> Result<(), Failure> {
    let stream = daemon.ask(request).await;
    let mut stream = stream.map_err(|s| Node::control_failure(&s))?.into_inner();
    let (events, answer) = mpsc::channel(1);
    let pump = async move {
        while let Some(event) = stream
            .message()
            .await
            .map_err(|s| Node::control_failure(&s))?
        {
            if events.send(event).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let (shown, pumped) = tokio::join!(show.all(answer), pump);
    // A broken connection explains an answer that ended too early.
    pumped.and(shown)
}

fn question(words: &[String]) -> Result<String, Failure> {
    let invalid = |m: String| Failure::new(ErrorKind::InvalidInput, m);
    let from_stdin = words.is_empty() || words == ["-"];
    if !from_stdin {
        return Ok(words.join(" "));
    }
    if words.is_empty() && std::io::stdin().is_terminal() {
        return Err(invalid(
            "no question: write it behind `polymath ask`, or pipe it in".into(),
        ));
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MOST_INPUT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| invalid(format!("standard input cannot be read: {e}")))?;
    if bytes.len() as u64 > MOST_INPUT {
        return Err(invalid(format!(
            "the question on standard input is longer than {}",
            output::bytes(MOST_INPUT)
        )));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        invalid(format!("standard input is not UTF-8 (byte {at}): convert it first, for example with `iconv -t UTF-8`"))
    })
}

fn request(ask: args::Ask, question: String) -> Result<v1::AskRequest, Failure> {
    use v1::chat_message::Role;
    if !(ask.timeout > 0.0 && ask.timeout <= LONGEST) {
        return Err(Failure::new(
            ErrorKind::InvalidInput,
            format!("--timeout takes seconds over 0 and up to {LONGEST}"),
        ));
    }
    let timeout_ms =
        u64::try_from(Duration::from_secs_f64(ask.timeout).as_millis()).unwrap_or(u64::MAX);
    let message = |role: Role, content: String| v1::ChatMessage {
        role: role as i32,
        content,
    };
    let mut messages: Vec<_> = ask
        .system
        .into_iter()
        .map(|s| message(Role::System, s))
        .collect();
    messages.push(message(Role::User, question));
    Ok(v1::AskRequest {
        version: Format::Control.current(),
        kind: ask.kind,
        messages,
        labels: ask.labels,
        sampling: Some(v1::Sampling {
            max_tokens: ask.max_tokens,
            temperature: ask.temperature,
            top_p: None,
            top_k: None,
            seed: ask.seed,
            stop: ask.stop,
        }),
        // The name under which the API's clients leave the choice to the router.
        model: ask.model.filter(|m| m != "auto").unwrap_or_default(),
        peer: ask.peer.unwrap_or_default(),
        allow: ask.allow,
        exclude: ask.exclude,
        privacy: ask.privacy.unwrap_or_default(),
        peer_labels: peer_labels(&ask.peer_labels)?,
        max_price: ask.max_price.map(|c| price("--max-price", c)).transpose()?,
        prefer: ask.prefer.unwrap_or_default(),
        how: match ask.plan {
            true => How::Plan.as_str().to_owned(),
            false => ask.how.unwrap_or_default(),
        },
        max_calls: ask.max_calls.unwrap_or_default(),
        max_total_tokens: ask.max_total_tokens,
        max_cost: ask.max_cost.map(|c| price("--max-cost", c)).transpose()?,
        restarts: false,
        timeout_ms: timeout_ms.max(1),
        dry_run: ask.dry_run,
        request_id: String::new(),
    })
}

fn peer_labels(labels: &[String]) -> Result<HashMap<String, String>, Failure> {
    let label = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(Failure::new(
                ErrorKind::InvalidInput,
                format!("--peer-label takes KEY=VALUE, or KEY for any value, not '{text}'"),
            ));
        }
        Ok((key.to_owned(), value.to_owned()))
    };
    labels.iter().map(label).collect()
}

/// Credits as millionths.
fn price(flag: &str, credits: f64) -> Result<u64, Failure> {
    let millionths = credits * Terms::CREDIT as f64;
    if (0.0..=Terms::HIGHEST_PRICE as f64).contains(&millionths) {
        Ok(millionths.round() as u64)
    } else {
        Err(Failure::new(
            ErrorKind::InvalidInput,
            format!("{flag} takes credits from 0 up to a million"),
        ))
    }
}

/// How much of an answer's way is shown.
struct Show {
    json: bool,
    explain: bool,
    dry_run: bool,
    verbose: bool,
}

impl Show {
    async fn all(&self, mut answer: mpsc::Receiver<v1::AskEvent>) -> Result<(), Failure> {
        let mut collected = Collected::default();
        while let Some(event) = answer.recv().await {
            let Some(event) = event.event else { continue };
            match event {
                Event::Decision(decision) => {
                    if self.dry_run && !decision.candidates.is_empty() {
                        let text = if self.json {
                            json!({ "decision": decision_json(&decision) }).to_string()
                        } else {
                            explain(&decision)
                        };
                        return say(&text, true);
                    }
                    if self.explain && !self.json {
                        output::note(&output::dim(&explain(&decision)));
                    }
                    collected.decision = Some(decision);
                }
                Event::Attempt(attempt) => {
                    if attempt.hedge {
                        output::note(&output::dim(&format!(
                            "slow: {} on {} answered a second call first",
                            attempt.expert,
                            output::short_peer(&attempt.peer)
                        )));
                    } else if attempt.number > 1 {
                        output::note(&output::dim(&format!(
                            "{}: asking {} on {} instead",
                            attempt.previous_failure,
                            attempt.expert,
                            output::short_peer(&attempt.peer)
                        )));
                    }
                }
                Event::Started(_) => {}
                Event::Tokens(tokens) => {
                    if !self.json {
                        say(&tokens.text, false)?;
                        collected.text_begun |= !tokens.text.is_empty();
                    }
                    collected.text.push_str(&tokens.text);
                }
                Event::Part(part) => {
                    if self.verbose && !self.json {
                        output::note(&output::dim(&told(&part)));
                    }
                    collected.parts.push(part);
                }
                Event::Restarted(restarted) => {
                    if collected.text_begun {
                        say("", true)?;
                    }
                    output::note(&output::dim(&restarted.why));
                    collected.text.clear();
                    collected.text_begun = false;
                }
                Event::Embeddings(embeddings) => collected.vectors = embeddings.vectors,
                Event::Classifications(c) => collected.classes = c.classifications,
                Event::Done(done) => return self.done(&collected, &done),
                Event::Failed(failed) => {
                    if collected.text_begun {
                        say("", true)?;
                    }
                    if !self.json && (failed.calls_made > 1 || failed.cost > 0) {
                        output::note(&output::dim(&format!(
                            "{} calls were made all the same: {} credits",
                            failed.calls_made,
                            credits(failed.cost)
                        )));
                    }
                    return Err(polymath_node::failure(failed));
                }
            }
        }
        Err(Failure::new(
            ErrorKind::Internal,
            "the answer ended without a result: see the node's log",
        ))
    }

    fn done(&self, c: &Collected, done: &v1::Done) -> Result<(), Failure> {
        if self.json {
            return say(&c.json(done, self.explain).to_string(), true);
        }
        if !c.vectors.is_empty() {
            for vector in &c.vectors {
                say(&json!(vector.values).to_string(), true)?;
            }
        } else if !c.classes.is_empty() {
            for class in &c.classes {
                let labels: Vec<String> = class
                    .labels
                    .iter()
                    .take(5)
                    .map(|l| format!("{} {:.3}", l.label, l.score))
                    .collect();
                say(&labels.join("\n"), true)?;
            }
        } else {
            say("", true)?;
        }
        if self.verbose {
            let usage = done.usage.unwrap_or_default();
            let about = if usage.estimated { "about " } else { "" };
            let tries = if done.attempts > 1 {
                format!(" · {} tries", done.attempts)
            } else {
                String::new()
            };
            output::note(&output::dim(&format!(
                "{} · {} ({}) on {} · {} {} · TTFT {:.0} ms · {:.1} tokens/s · {about}{} + {} tokens · {:.0} ms{tries}",
                c.decision.as_ref().map_or("", |d| &d.request_id),
                done.expert,
                done.model,
                output::short_peer(&done.peer),
                done.path,
                done.transport,
                done.ttft_ms,
                done.tokens_per_second,
                usage.prompt_tokens,
                usage.completion_tokens,
                done.total_ms
            )));
            if done.calls_made > 1 {
                let total = done.total.unwrap_or_default();
                output::note(&output::dim(&format!(
                    "{}: {} calls · {} + {} tokens · {} credits{}",
                    done.how,
                    done.calls_made,
                    total.prompt_tokens,
                    total.completion_tokens,
                    credits(done.cost),
                    if done.agreement > 0.0 {
                        format!(" · {:.0} % of the votes", 100.0 * done.agreement)
                    } else {
                        String::new()
                    }
                )));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Collected {
    decision: Option<v1::Decision>,
    text: String,
    text_begun: bool,
    vectors: Vec<v1::Vector>,
    classes: Vec<v1::Classification>,
    parts: Vec<v1::Part>,
}

impl Collected {
    fn json(&self, done: &v1::Done, explain: bool) -> Value {
        let usage = done.usage.unwrap_or_default();
        let mut value = json!({
            "expert": done.expert, "expert_id": done.expert_id, "model": done.model, "peer": done.peer,
            "path": done.path, "transport": done.transport, "attempts": done.attempts,
            "ttft_ms": done.ttft_ms, "total_ms": done.total_ms, "tokens_per_second": done.tokens_per_second,
            "finish_reason": if done.reason() == v1::finished::Reason::Length { "length" } else { "stop" },
            "usage": { "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
                "estimated": usage.estimated },
            "engine_fingerprint": done.engine_fingerprint, "seed": done.seed, "hedged": done.hedged,
            "how": done.how, "calls_made": done.calls_made, "cost": credits(done.cost),
            "total_usage": done.total.map(|t| json!({
                "prompt_tokens": t.prompt_tokens, "completion_tokens": t.completion_tokens,
            })),
            "calls": done.calls.iter().map(|c| json!({
                "role": c.role, "expert": c.expert, "expert_id": c.expert_id, "peer": c.peer,
                "outcome": c.outcome, "prompt_tokens": c.prompt_tokens,
                "completion_tokens": c.completion_tokens, "cost": credits(c.cost),
            })).collect::<Vec<_>>(),
        });
        if !self.parts.is_empty() {
            let part = |p: &v1::Part| {
                json!({
                    "role": p.role, "expert": p.expert, "peer": p.peer, "asked": p.asked,
                    "answer": p.failure.is_empty().then_some(&p.answer),
                    "failure": (!p.failure.is_empty()).then_some(&p.failure),
                })
            };
            value["parts"] = self.parts.iter().map(part).collect();
            value["agreement"] = done.agreement.into();
        }
        if !self.vectors.is_empty() {
            value["embeddings"] = self.vectors.iter().map(|v| json!(v.values)).collect();
        } else if !self.classes.is_empty() {
            value["classifications"] = self
                .classes
                .iter()
                .map(|c| {
                    c.labels
                        .iter()
                        .map(|l| json!({ "label": l.label, "score": l.score }))
                        .collect::<Value>()
                })
                .collect();
        } else {
            value["answer"] = self.text.clone().into();
        }
        if let Some(decision) = &self.decision {
            value["request_id"] = decision.request_id.clone().into();
            value["reason"] = decision.reason.clone().into();
            if explain {
                value["decision"] = decision_json(decision);
            }
        }
        value
    }
}

/// Millionths as credits.
fn credits(millionths: u64) -> f64 {
    millionths as f64 / Terms::CREDIT as f64
}

/// What one of several experts said, in a line.
fn told(part: &v1::Part) -> String {
    let said = match part.failure.as_str() {
        "" => part.answer.trim(),
        failure => failure,
    };
    let mut line: String = said.chars().take(LONGEST_TOLD).collect();
    line = line.replace('\n', " ");
    let more = if said.chars().nth(LONGEST_TOLD).is_some() {
        "…"
    } else {
        ""
    };
    let asked = match part.asked.as_str() {
        "" => String::new(),
        asked => format!(", asked \"{asked}\""),
    };
    format!("{} {}{asked}: {line}{more}", part.role, part.expert)
}

/// Writes to stdout at once; a reader that went away ends the question.
fn say(text: &str, newline: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let end = if newline { "\n" } else { "" };
    write!(out, "{text}{end}")
        .and_then(|()| out.flush())
        .map_err(|e| output::unwritten(&e))
}

pub(crate) fn decision_json(d: &v1::Decision) -> Value {
    json!({
        "request_id": d.request_id, "encoder": d.encoder, "reason": d.reason,
        "explored": d.explored, "how": d.how, "chosen": d.chosen, "doubt": d.doubt,
        "candidates": d.candidates.iter().map(|c| json!({
            "expert": c.expert, "expert_id": c.expert_id, "model": c.model, "peer": c.peer, "score": c.score,
            "expected": c.expected.map(|e| json!({
                "prior": e.prior, "quality": e.quality, "evidence": e.evidence, "propensity": e.propensity,
            })),
            "terms": c.terms.iter().map(|t| json!({ "name": t.name, "value": t.value, "weight": t.weight })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "excluded": d.excluded.iter().map(|e| json!({
            "expert": e.expert, "peer": e.peer, "reason": e.reason, "detail": e.detail,
        })).collect::<Vec<_>>(),
    })
}

fn explain(d: &v1::Decision) -> String {
    let rows: Vec<Vec<String>> = d
        .candidates
        .iter()
        .map(|c| {
            let terms: Vec<String> = c
                .terms
                .iter()
                .filter(|t| t.value != 0.0)
                .map(|t| format!("{} {:.2}×{:.2}", t.name, t.value, t.weight))
                .collect();
            vec![
                c.expert.clone(),
                output::short_peer(&c.peer),
                format!("{:.3}", c.score),
                terms.join("  "),
            ]
        })
        .collect();
    let mut text = format!(
        "{}\n{}",
        d.reason,
        output::table(&["EXPERT", "PEER", "SCORE", "TERMS"], &rows)
    );
    for e in &d.excluded {
        let peer = if e.peer.is_empty() {
            String::new()
        } else {
            format!(" on {}", output::short_peer(&e.peer))
        };
        text.push_str(&format!(
            "\nnot {}{peer}: {} ({})",
            e.expert, e.reason, e.detail
        ));
    }
    if d.chosen.len() > 1 || d.how != How::One.as_str() {
        let names = d.chosen.join(", ");
        text.push_str(&format!("\n{} ({names}), doubt {:.2}", d.how, d.doubt));
    }
    text.push_str(&format!("\nencoder {}", d.encoder));
    text
}
