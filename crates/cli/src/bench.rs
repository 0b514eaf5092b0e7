//! `polymath bench`: what this build does on this machine, in the one form all our tables have.

use std::time::Duration;

use polymath_bench::{ROUNDS, Report, Row, Spread, catalog, kernel_congestion_control, rpc};
use polymath_node::RecordStore;
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    args,
    daemon::{self, Daemon},
    demo, output,
    session::Session,
    signals,
};

/// Tokens of an answer.
const TOKENS: u32 = 128;
const QUICK_TOKENS: u32 = 40;

pub(crate) async fn run(session: Session, bench: args::Bench) -> Result<(), Failure> {
    session.begin_apart()?;
    let tokens = if bench.quick { QUICK_TOKENS } else { TOKENS };
    let homes =
        tempfile::tempdir().map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))?;
    let measure = async {
        match bench.name.as_str() {
            "start" => start(homes.path()).await,
            "rpc" => calls(bench.quick, &bench.only).await,
            "catalog" => catalog::run(bench.quick, Folder(homes.path().to_owned())).await,
            _ => {
                let dir = daemon::cache_dir(bench.dir)?;
                let models = demo::prepare_models(&session, &dir).await?;
                remote(homes.path(), &models, tokens).await
            }
        }
    };
    // As in the demo: leaving the select ends every process.
    let report = tokio::select! {
        done = measure => done?,
        told = signals::told_to_end() => return Err(told),
    };
    output::report(&session, report);
    Ok(())
}

/// Where a daemon would keep its catalog.
struct Folder(std::path::PathBuf);

impl catalog::Shelf for Folder {
    fn fill(&self, records: &catalog::Records) -> Result<(), Failure> {
        let records = records.iter();
        let changes = records.map(|(name, bytes)| (name.clone(), Some(bytes.as_slice().into())));
        let (mut store, _) = RecordStore::open(&self.0)?;
        let written = store.write(&changes.collect());
        written.map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))
    }

    fn open(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        RecordStore::open(&self.0).map(|(_, records)| records)
    }
}

/// Time from the start of the process until its API answers, and memory without models.
async fn start(homes: &std::path::Path) -> Result<Report, Failure> {
    let (mut opens, mut memory) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let mut node = Daemon::start(
            "idle",
            &homes.join(format!("idle-{round}")),
            &homes.join("models"),
            &[],
        )?;
        node.until("API", |_| true).await?;
        opens.push(begun.elapsed().as_secs_f64() * 1e3);
        // The first seconds of a life are not idleness.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let status = node.until("status", |_| true).await?;
        #[allow(clippy::cast_precision_loss)]
        memory.push(status.rss_bytes as f64 / 1e6);
        node.kill().await;
    }
    let row = |case: &str, metric, values: &[f64], unit| {
        Row::new(case, metric, Spread::of(values).median, unit)
    };
    let rows = vec![
        row(
            "polymath up, no experts",
            "start until the API answers",
            &opens,
            "ms",
        ),
        row("idle node without models", "resident memory", &memory, "MB"),
    ];
    let conditions =
        json!({ "experts": 0, "transports": "tcp, quic on loopback", "rounds": ROUNDS });
    Ok(Report::new("start", conditions, rows))
}

/// Tokens a second of one expert, asked on its own node and from another.
async fn remote(
    homes: &std::path::Path,
    models: &std::path::Path,
    tokens: u32,
) -> Result<Report, Failure> {
    let mut server = Daemon::start(
        "server",
        &homes.join("server"),
        models,
        &["--expert", "assistant"],
    )?;
    let status = server
        .until("loaded expert", |s| {
            s.hosted.iter().all(|e| e.state == "ready")
        })
        .await?;
    let mut clients = Vec::new();
    for transport in ["tcp", "quic"] {
        let wanted = |a: &&String| a.contains("/quic-v1/") == (transport == "quic");
        let entrance = status
            .addresses
            .iter()
            .find(wanted)
            .cloned()
            .unwrap_or_default();
        let home = homes.join(transport);
        demo::join(&home, &entrance).await?;
        let mut client = Daemon::start(transport, &home, models, &["--client"])?;
        client
            .until("sight of the expert", |s| s.known_experts > 0)
            .await?;
        clients.push((transport, client.control().await?, client));
    }
    let mut own = server.control().await?;
    let question = || {
        let mut q = daemon::question(
            "generate",
            "Tell me a long story about a lighthouse keeper and the sea.",
        );
        q.sampling = Some(v1::Sampling {
            max_tokens: Some(tokens),
            temperature: Some(0.0),
            ..v1::Sampling::default()
        });
        q
    };
    daemon::ask(&mut own, question()).await?; // warms caches and the compute threads
    let mut local = Vec::new();
    let mut results: Vec<(Vec<f64>, Vec<f64>, Vec<f64>)> =
        clients.iter().map(|_| Default::default()).collect();
    for _ in 0..ROUNDS {
        for ((_, control, _), (rates, ratios, ttfts)) in clients.iter_mut().zip(&mut results) {
            let here = daemon::ask(&mut own, question()).await?.done;
            let there = daemon::ask(control, question()).await?.done;
            local.push(here.tokens_per_second);
            rates.push(there.tokens_per_second);
            ratios.push(there.tokens_per_second / here.tokens_per_second);
            ttfts.push(there.ttft_ms - here.ttft_ms);
        }
    }
    let median = |values: &[f64]| Spread::of(values).median;
    let mut rows = vec![Row::new(
        "asked on its own node",
        "decode",
        median(&local),
        "tokens/s",
    )];
    for ((transport, ..), (rates, ratios, ttfts)) in clients.iter().zip(&results) {
        let case = format!("asked from another node, {transport}");
        let rate = Row::new(case.as_str(), "decode", median(rates), "tokens/s");
        rows.push(rate.against("its own node", Spread::of(ratios)));
        rows.push(Row::new(case, "added to TTFT", median(ttfts), "ms"));
    }
    let conditions = json!({
        "model": "smollm2-135m-instruct", "tokens": tokens, "temperature": 0, "network": "loopback",
        "sides": "alternate", "rounds": ROUNDS,
        "congestion_control": { "tcp": kernel_congestion_control(), "quic": "cubic" },
    });
    Ok(Report::new("remote", conditions, rows))
}

/// Calls between two nodes of this process, beside other ways to call.
async fn calls(quick: bool, only: &[String]) -> Result<Report, Failure> {
    eprintln!(
        "Over lines of 20, 100 and 150 ms, with loss: `cargo xtask natlab --part rpc`, as root. \
         Allocations: `cargo run --release -p polymath-bench --example call_allocations`."
    );
    let options = rpc::Options {
        quick,
        only: rpc::Selection::new(only),
        ..rpc::Options::default()
    };
    rpc::run(options).await
}
