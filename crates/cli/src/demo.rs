//! `polymath demo`: a mesh of real experts on this machine, asked real questions.
//!
//! Three nodes in processes of their own host the experts; a fourth, which hosts nothing, asks.
//! They meet over loopback TCP and QUIC exactly as they would over any network.

use std::{collections::BTreeSet, path::Path, time::Duration};

use polymath_blobs::{Source, Store, known_models};
use polymath_node::{Control, Entrance};
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    args,
    daemon::{self, Answered, Daemon},
    model, output,
    session::Session,
    signals,
};

/// Who hosts what: the chef lives on two nodes.
const NODES: [(&str, &[&str]); 3] = [
    ("anna", &["chef", "embedder", "language"]),
    ("ben", &["coder", "chef", "topics"]),
    ("cleo", &["geographer", "physician"]),
];

/// Questions: kind, text, labels.
const QUESTIONS: [(&str, &str, &[&str]); 10] = [
    ("generate", "How do I make a creamy mushroom soup?", &[]),
    (
        "generate",
        "Write a Python function that adds two numbers.",
        &[],
    ),
    (
        "generate",
        "What is the capital of Italy, and which river flows through it?",
        &[],
    ),
    (
        "generate",
        "What helps against a cold and a runny nose?",
        &[],
    ),
    ("generate", "How long do potatoes need in the oven?", &[]),
    (
        "generate",
        "How do I loop over the lines of a text file in Python?",
        &[],
    ),
    (
        "generate",
        "Which mountains lie between France and Spain?",
        &[],
    ),
    (
        "classify",
        "Wo finde ich hier in der Nähe einen guten Bäcker?",
        &[],
    ),
    (
        "classify",
        "The central bank raised interest rates to slow inflation.",
        &["sports", "economy", "music", "weather"],
    ),
    (
        "embed",
        "A mesh of experts answers from many machines.",
        &[],
    ),
];

/// Asked again after the peer that answered it was killed.
const AGAIN: &str = "How do I make a creamy mushroom soup?";
/// Tokens an answer may have here: enough to be read, few enough for a slow machine.
const MAX_TOKENS: u32 = 64;
/// Time until the asking node has met everybody.
const MEET: Duration = Duration::from_secs(60);

pub(crate) async fn run(session: Session, demo: args::Demo) -> Result<(), Failure> {
    session.begin_apart()?;
    let dir = daemon::cache_dir(demo.dir)?;
    // Leaving the select drops every node, and dropping a node ends its process; so with a pull.
    tokio::select! {
        done = play(&session, &dir) => done,
        told = signals::told_to_end() => Err(told),
    }
}

async fn play(session: &Session, dir: &Path) -> Result<(), Failure> {
    let begun = Instant::now();
    let models = prepare_models(session, dir).await?;
    let homes = tempfile::Builder::new()
        .prefix("polymath-demo-")
        .tempdir()
        .map_err(|e| {
            Failure::new(
                ErrorKind::Internal,
                format!("no temporary folder for the nodes: {e}"),
            )
        })?;

    output::note(&format!(
        "starting {} nodes, and one that only asks",
        NODES.len()
    ));
    let mut nodes = Vec::new();
    let mut entrance = String::new();
    for (name, experts) in NODES {
        let home = homes.path().join(name);
        join(&home, &entrance).await?;
        let mut args = Vec::new();
        for expert in experts {
            args.extend(["--expert", *expert]);
        }
        let mut node = Daemon::start(name, &home, &models, &args)?;
        if entrance.is_empty() {
            let status = node.until("address", |s| !s.addresses.is_empty()).await?;
            entrance.clone_from(&status.addresses[0]);
        }
        nodes.push(node);
    }
    let home = homes.path().join("asker");
    join(&home, &entrance).await?;
    let mut asker = Daemon::start("asker", &home, &models, &["--client"])?;
    let mut peers = Vec::new();
    for node in &mut nodes {
        let status = node
            .until("loaded experts", |s| {
                s.hosted.iter().all(|e| e.state == "ready")
            })
            .await?;
        output::note(&format!(
            "  {:<6} {} hosts {}",
            node.name,
            output::short_peer(&status.peer),
            crate::views::hosted(&status)
        ));
        peers.push(status.peer);
    }
    let offers = NODES.iter().flat_map(|(_, experts)| *experts);
    let offers = offers.collect::<BTreeSet<_>>().len();
    let met = asker.until("sight of every expert", |s| {
        s.known_experts as usize >= offers
    });
    let status = tokio::time::timeout(MEET, met).await.map_err(|_| {
        Failure::new(
            ErrorKind::DeadlineExceeded,
            format!("the asking node did not see all {offers} experts within {MEET:?}"),
        )
    })??;
    output::note(&format!(
        "  asker  {} knows {} experts after dialling one peer\n",
        output::short_peer(&status.peer),
        status.known_experts
    ));

    let mut control = asker.control().await?;
    let name_of = |peer: &str| {
        let at = peers.iter().position(|p| p == peer);
        at.map_or_else(|| output::short_peer(peer), |i| NODES[i].0.to_owned())
    };
    for (kind, text, labels) in QUESTIONS {
        let answered = put(&mut control, kind, text, labels).await?;
        show(
            session,
            kind,
            text,
            &answered,
            &name_of(&answered.done.peer),
        );
    }

    let first = put(&mut control, "generate", AGAIN, &[]).await?;
    let victim = peers
        .iter()
        .position(|p| *p == first.done.peer)
        .ok_or_else(|| {
            Failure::new(
                ErrorKind::Internal,
                "the answer came from a peer the demo did not start",
            )
        })?;
    output::note(&format!(
        "killing {} (pid {}), who just answered, and asking again",
        nodes[victim].name,
        nodes[victim].pid()
    ));
    nodes[victim].kill().await;
    let again = put(&mut control, "generate", AGAIN, &[]).await?;
    show(
        session,
        "generate",
        AGAIN,
        &again,
        &name_of(&again.done.peer),
    );
    if again.done.peer == first.done.peer {
        return Err(Failure::new(
            ErrorKind::Internal,
            "the second answer claims to come from the peer that was killed",
        ));
    }
    output::note(&format!(
        "re-routed from {} to {}; everything is being stopped, {:.0} s in all",
        name_of(&first.done.peer),
        name_of(&again.done.peer),
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Puts every known model into the demo's store.
pub(crate) async fn prepare_models(
    session: &Session,
    dir: &Path,
) -> Result<std::path::PathBuf, Failure> {
    let models = dir.join("models");
    let store = Store::open(&models).map_err(|e| Failure::new(e.kind(), e.to_string()))?;
    for known in known_models() {
        model::pull(session, &store, known, Source::Package).await?;
    }
    Ok(models)
}

/// Makes the home at `dir` belong to the mesh behind `entrance`, as `polymath join` does.
pub(crate) async fn join(dir: &Path, entrance: &str) -> Result<(), Failure> {
    if entrance.is_empty() {
        return Ok(());
    }
    let home = polymath_node::Home::open(dir)?;
    let lock = home.lock()?;
    // Both ends are ours: there is nobody else to read along.
    let entrance = Entrance::parse(entrance)?;
    polymath_node::join(&home, &lock, &entrance, true)
        .await
        .map(drop)
}

async fn put(
    control: &mut Control,
    kind: &str,
    text: &str,
    labels: &[&str],
) -> Result<Answered, Failure> {
    let mut question = daemon::question(kind, text);
    question.labels = labels.iter().map(|l| (*l).to_owned()).collect();
    question.sampling = (kind == "generate").then(|| v1::Sampling {
        max_tokens: Some(MAX_TOKENS),
        ..v1::Sampling::default()
    });
    daemon::ask(control, question).await
}

fn show(session: &Session, kind: &str, text: &str, answered: &Answered, peer: &str) {
    let done = &answered.done;
    let answer = match kind {
        "embed" => {
            let values = answered
                .vectors
                .first()
                .map(|v| v.values.as_slice())
                .unwrap_or_default();
            let first: Vec<String> = values.iter().take(4).map(|x| format!("{x:.3}")).collect();
            format!("{} dimensions: {}, …", values.len(), first.join(", "))
        }
        "classify" => {
            let labels = answered
                .classes
                .first()
                .map(|c| c.labels.as_slice())
                .unwrap_or_default();
            let best: Vec<String> = labels
                .iter()
                .take(3)
                .map(|l| format!("{} {:.2}", l.label, l.score))
                .collect();
            best.join(", ")
        }
        _ => answered.text.trim().to_owned(),
    };
    let value: Value = json!({
        "kind": kind, "question": text, "answer": answer, "expert": done.expert, "peer": done.peer, "node": peer,
        "why": answered.reason, "path": done.path, "transport": done.transport, "ttft_ms": done.ttft_ms,
        "tokens_per_second": done.tokens_per_second, "attempts": done.attempts, "previous_failures": answered.previous_failures,
    });
    output::print(session, &value, || {
        let speed = if done.tokens_per_second > 0.0 {
            format!(" · {:.1} tokens/s", done.tokens_per_second)
        } else {
            String::new()
        };
        let tries = if done.attempts > 1 {
            format!(
                "\n    tried  {} time(s) before: {}",
                done.attempts - 1,
                answered.previous_failures.join("; ")
            )
        } else {
            String::new()
        };
        format!(
            "Q ({kind}) {text}\n{}\n    by     {} on {peer} · {} {} · TTFT {:.0} ms{speed}\n    why    {}{tries}\n",
            answer
                .lines()
                .map(|l| format!("  {l}"))
                .collect::<Vec<_>>()
                .join("\n"),
            done.expert,
            done.path,
            done.transport,
            done.ttft_ms,
            answered.reason
        )
    });
}
