//! `polymath status|experts|pause|resume|down`.

use std::time::Duration;

use polymath_node::Node;
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure, Format};
use serde_json::{Value, json};

use crate::{catalog::terms, output, session::Session};

/// Time a daemon gets to end after it was told to.
const GOODBYE: Duration = Duration::from_secs(30);

const fn version() -> u32 {
    Format::Control.current()
}

pub(crate) fn failed(status: polymath_node::Status) -> Failure {
    Node::control_failure(&status)
}

/// The mesh as `mesh show` has it, and whether it is this home's own.
fn mesh_json(s: &v1::StatusResponse) -> Value {
    let mut view = s
        .mesh
        .as_ref()
        .map(crate::mesh::view_json)
        .unwrap_or_default();
    view["own"] = s.own_mesh.into();
    view
}

pub(crate) fn status_json(s: &v1::StatusResponse) -> Value {
    let load = s.load.unwrap_or_default();
    let limits = s.limits.unwrap_or_default();
    let limit = |n: u64| (n > 0).then_some(n);
    json!({
        "peer": s.peer, "mesh": mesh_json(s),
        "addresses": s.addresses, "api": s.gateway, "home": s.home, "version": s.version, "pid": s.pid,
        "uptime_ms": s.uptime_ms, "connected_peers": s.connected_peers, "known_experts": s.known_experts,
        "rss_bytes": s.rss_bytes, "generated_tokens": s.generated_tokens,
        "counters": s.counters.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "load": { "queue_depth": load.queue_depth, "active": load.active, "free_slots": load.free_slots,
            "service_ms": load.service_ms, "resident_experts": load.resident_experts },
        "serve": s.serve, "paused": s.paused, "catalog_trouble": s.catalog_trouble,
        "limits": {
            "memory": limit(limits.memory), "models": limits.models, "concurrent": limit(limits.concurrent.into()),
            "upload": limit(limits.upload), "disk": limit(limits.disk),
        },
        "experts": s.hosted.iter().map(|e| json!({
            "id": e.id, "name": e.name, "kind": e.kind, "model": e.model, "state": e.state, "detail": e.detail,
        })).collect::<Vec<_>>(),
    })
}

/// `chef, coder (loading), x (failed: why)`.
pub(crate) fn hosted(s: &v1::StatusResponse) -> String {
    if s.hosted.is_empty() {
        return "none".into();
    }
    let names: Vec<String> = s
        .hosted
        .iter()
        .map(|e| match e.state.as_str() {
            "ready" => e.name.clone(),
            "failed" => format!("{} (failed: {})", e.name, e.detail),
            state => format!("{} ({state})", e.name),
        })
        .collect();
    names.join(", ")
}

/// Why peers get no answer, if they get none.
pub(crate) fn answers_no_peer(s: &v1::StatusResponse) -> Option<&'static str> {
    match (s.serve.as_str(), s.paused) {
        ("self", _) => Some("this machine's user alone (serve = \"self\")"),
        (_, true) => Some("no peer: paused, `polymath resume` ends that"),
        _ => None,
    }
}

/// The limits that are set.
fn limits(s: &v1::StatusResponse) -> Option<String> {
    let limits = s.limits.unwrap_or_default();
    let mut parts = Vec::new();
    if limits.memory > 0 {
        parts.push(format!(
            "memory {} (models {})",
            output::bytes(limits.memory),
            output::bytes(limits.models)
        ));
    }
    if limits.concurrent > 0 {
        parts.push(format!("{} calls of peers at once", limits.concurrent));
    }
    if limits.upload > 0 {
        parts.push(format!("upload {}/s", output::bytes(limits.upload)));
    }
    if limits.disk > 0 {
        parts.push(format!("disk {}", output::bytes(limits.disk)));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Who was turned away, if anybody was.
fn refused(s: &v1::StatusResponse) -> Option<String> {
    let of = |name: &str| s.counters.get(name).copied().unwrap_or(0);
    let parts: Vec<String> = [
        (of("strangers_refused"), "strangers at the door"),
        (of("connections_refused"), "connections over a limit"),
        (
            of("calls_refused_full") + of("calls_refused_bytes") + of("calls_evicted"),
            "calls for want of room",
        ),
        (of("calls_refused_late"), "calls that were too late"),
        (of("calls_refused_batch"), "batches at a busy time"),
        (
            of("calls_refused_closed"),
            "calls of peers that get no answer",
        ),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, what)| format!("{n} {what}"))
    .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

pub(crate) async fn status(session: Session) -> Result<(), Failure> {
    let request = v1::StatusRequest { version: version() };
    let s = session
        .running()
        .await?
        .status(request)
        .await
        .map_err(failed)?
        .into_inner();
    output::print(&session, &status_json(&s), || {
        let load = s.load.unwrap_or_default();
        let rows = [
            ("peer", s.peer.clone()),
            (
                "mesh",
                format!(
                    "{} ({}), {}{}{}",
                    s.mesh_name,
                    &s.mesh_id[..16.min(s.mesh_id.len())],
                    s.mesh.as_ref().map_or("", |m| &m.access),
                    if s.own_mesh { ", founded here" } else { "" },
                    match &s.mesh {
                        Some(m) if !m.inside => format!(", waiting to be let in: {}", m.waiting),
                        _ => String::new(),
                    }
                ),
            ),
            (
                "addresses",
                if s.addresses.is_empty() {
                    "none: client only".into()
                } else {
                    s.addresses.join("\n           ")
                },
            ),
            (
                "API",
                if s.gateway.is_empty() {
                    "off".into()
                } else {
                    format!("http://{}/v1", s.gateway)
                },
            ),
            ("experts", hosted(&s)),
            (
                "known",
                format!(
                    "{} experts, {} connected peers",
                    s.known_experts, s.connected_peers
                ),
            ),
            (
                "load",
                format!(
                    "{} answering, {} waiting, {} free",
                    load.active, load.queue_depth, load.free_slots
                ),
            ),
            (
                "process",
                format!(
                    "pid {}, up {:.0?}, {} resident, {}",
                    s.pid,
                    Duration::from_millis(s.uptime_ms),
                    output::bytes(s.rss_bytes),
                    s.version
                ),
            ),
            ("home", s.home.clone()),
        ];
        let serves = answers_no_peer(&s).map(|whom| ("serves", whom.to_owned()));
        let limits = limits(&s).map(|all| ("limits", all));
        let refused = refused(&s).map(|what| ("refused", what));
        let why = Some(&s.catalog_trouble).filter(|why| !why.is_empty());
        let catalog = why.map(|why| {
            (
                "catalog",
                format!("its store cannot be written, and nothing is exchanged: {why}"),
            )
        });
        rows.iter()
            .chain(&serves)
            .chain(&limits)
            .chain(&refused)
            .chain(&catalog)
            .map(|(k, v)| format!("{k:<10} {v}"))
            .collect::<Vec<_>>()
            .join("\n")
    });
    Ok(())
}

pub(crate) async fn experts(session: Session) -> Result<(), Failure> {
    let request = v1::ExpertsRequest { version: version() };
    let experts = session
        .running()
        .await?
        .experts(request)
        .await
        .map_err(failed)?
        .into_inner()
        .experts;
    let value: Vec<Value> = experts
        .iter()
        .map(|e| {
            let cheapest = terms::json(terms::from_proto(e.cheapest));
            json!({
                "id": e.id, "name": e.name, "kind": e.kind, "cheapest": cheapest, "model": e.model, "description": e.description,
                "licence": e.licence, "context_length": e.context_length, "peers": e.peers, "hosted_here": e.hosted_here,
                "weights_id": e.weights_id,
            })
        })
        .collect();
    output::print(&session, &json!({ "experts": value }), || {
        if experts.is_empty() {
            return "no experts known yet: host one with `polymath up --expert NAME`, or join a mesh with `polymath join ADDR`".into();
        }
        let rows: Vec<Vec<String>> = experts
            .iter()
            .map(|e| {
                let here = if e.hosted_here { " (here)" } else { "" };
                let about: String = e.description.chars().take(60).collect();
                vec![
                    e.name.clone(),
                    e.kind.clone(),
                    e.model.clone(),
                    format!("{}{here}", e.peers.len()),
                    terms::price(terms::from_proto(e.cheapest)),
                    e.id[..12.min(e.id.len())].to_owned(),
                    about,
                ]
            })
            .collect();
        output::table(
            &["EXPERT", "KIND", "MODEL", "PEERS", "PRICE", "ID", "ABOUT"],
            &rows,
        )
    });
    Ok(())
}

/// `polymath pause|resume`.
pub(crate) async fn pause(session: Session, paused: bool) -> Result<(), Failure> {
    let request = v1::PauseRequest {
        version: version(),
        paused,
    };
    let mut node = session.running().await?;
    let response = node.pause(request).await.map_err(failed)?.into_inner();
    let value = json!({ "paused": paused, "changed": response.changed });
    output::print(&session, &value, || {
        let line = match (paused, response.changed) {
            (true, true) => {
                "paused: peers get no answer until `polymath resume`; answers under way are finished"
            }
            (true, false) => "paused already: `polymath resume` ends that",
            (false, true) => "resumed: peers are answered again",
            (false, false) => "peers are answered, nothing was paused",
        };
        line.into()
    });
    Ok(())
}

pub(crate) async fn down(session: Session) -> Result<(), Failure> {
    stop(&session).await?;
    output::print(&session, &json!({ "stopped": true }), || "stopped".into());
    Ok(())
}

/// Ends the running node and waits until its home is free.
pub(crate) async fn stop(session: &Session) -> Result<(), Failure> {
    session
        .running()
        .await?
        .shutdown(v1::ShutdownRequest { version: version() })
        .await
        .map_err(failed)?;
    let home = session.home()?;
    let ended = async {
        // The lock is what a next `up` needs, so its release is what "down" means.
        while home.lock().is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(GOODBYE, ended).await.map_err(|_| {
        Failure::new(
            ErrorKind::DeadlineExceeded,
            format!("the node was told to stop but still runs after {GOODBYE:?}"),
        )
    })
}
