//! `polymath bench`: what this build does on this machine, in the one form all our tables have.

use std::time::Duration;

use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure};
use serde_json::{Value, json};
use tokio::time::Instant;

mod rpc;

use crate::{
    args,
    daemon::{self, Daemon},
    demo, output,
    session::Session,
    signals,
};

/// Rounds of a comparison; its sides alternate. `--quick` makes them shorter, not fewer.
const ROUNDS: usize = 9;
/// Tokens of an answer.
const TOKENS: u32 = 128;
const QUICK_TOKENS: u32 = 40;

/// One measured figure.
struct Row {
    case: String,
    metric: &'static str,
    value: f64,
    unit: &'static str,
    /// What it is held against, and the median ratio with its spread.
    peer: Option<(&'static str, Spread)>,
}

/// Median, least and greatest of some values.
struct Spread {
    median: f64,
    least: f64,
    greatest: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        };
        Self {
            median,
            least: at(0),
            greatest: at(sorted.len().wrapping_sub(1)),
        }
    }
}

pub(crate) async fn run(session: Session, bench: args::Bench) -> Result<(), Failure> {
    session.begin_apart()?;
    let tokens = if bench.quick { QUICK_TOKENS } else { TOKENS };
    let homes =
        tempfile::tempdir().map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))?;
    let measure = async {
        match bench.name.as_str() {
            "start" => start(homes.path()).await,
            "rpc" => rpc::run(bench.quick).await,
            _ => {
                let dir = daemon::cache_dir(bench.dir)?;
                let models = demo::prepare_models(&session, &dir).await?;
                remote(homes.path(), &models, tokens).await
            }
        }
    };
    // As in the demo: leaving the select ends every process.
    let (rows, conditions) = tokio::select! {
        done = measure => done?,
        told = signals::told_to_end() => return Err(told),
    };
    report(&session, &bench.name, conditions, &rows);
    Ok(())
}

/// Time from the start of the process until its API answers, and memory without models.
async fn start(homes: &std::path::Path) -> Result<(Vec<Row>, Value), Failure> {
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
    let row = |case: &str, metric, values: &[f64], unit| Row {
        case: case.into(),
        metric,
        value: Spread::of(values).median,
        unit,
        peer: None,
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
    Ok((
        rows,
        json!({ "experts": 0, "transports": "tcp, quic on loopback" }),
    ))
}

/// Tokens a second of one expert, asked on its own node and from another.
async fn remote(
    homes: &std::path::Path,
    models: &std::path::Path,
    tokens: u32,
) -> Result<(Vec<Row>, Value), Failure> {
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
    let mut rows = vec![Row {
        case: "asked on its own node".into(),
        metric: "decode",
        value: Spread::of(&local).median,
        unit: "tokens/s",
        peer: None,
    }];
    for ((transport, ..), (rates, ratios, ttfts)) in clients.iter().zip(&results) {
        rows.push(Row {
            case: format!("asked from another node, {transport}"),
            metric: "decode",
            value: Spread::of(rates).median,
            unit: "tokens/s",
            peer: Some(("its own node", Spread::of(ratios))),
        });
        rows.push(Row {
            case: format!("asked from another node, {transport}"),
            metric: "added to TTFT",
            value: Spread::of(ttfts).median,
            unit: "ms",
            peer: None,
        });
    }
    Ok((
        rows,
        json!({ "model": "smollm2-135m-instruct", "tokens": tokens, "temperature": 0, "network": "loopback", "sides": "alternate",
            "congestion_control": { "tcp": kernel_congestion_control(), "quic": "cubic" } }),
    ))
}

/// The kernel's choice for TCP; quinn's default serves QUIC.
fn kernel_congestion_control() -> String {
    let name = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    name.map_or_else(|_| "unknown".into(), |n| n.trim().to_owned())
}

fn report(session: &Session, name: &str, mut conditions: Value, rows: &[Row]) {
    conditions["cores"] = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .into();
    conditions["profile"] = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    }
    .into();
    conditions["version"] = crate::VERSION.into();
    conditions["rounds"] = ROUNDS.into();
    let values: Vec<Value> = rows
        .iter()
        .map(|r| {
            let mut row =
                json!({ "case": r.case, "metric": r.metric, "value": r.value, "unit": r.unit });
            if let Some((peer, ratio)) = &r.peer {
                row["peer"] = (*peer).into();
                row["ratio"] = ratio.median.into();
                row["ratio_range"] = json!([ratio.least, ratio.greatest]);
            }
            row
        })
        .collect();
    output::print(
        session,
        &json!({ "bench": name, "conditions": conditions, "rows": values }),
        || {
            let lines: Vec<Vec<String>> = rows
                .iter()
                .map(|r| {
                    let ratio = r.peer.as_ref().map_or(String::new(), |(peer, s)| {
                        format!(
                            "{:.3} of {peer} ({:.3} to {:.3})",
                            s.median, s.least, s.greatest
                        )
                    });
                    vec![
                        r.case.clone(),
                        r.metric.into(),
                        format!("{:.1} {}", r.value, r.unit),
                        ratio,
                    ]
                })
                .collect();
            format!(
                "{}\n{}",
                output::table(&["CASE", "METRIC", "MEDIAN", "RATIO"], &lines),
                conditions
            )
        },
    );
}
