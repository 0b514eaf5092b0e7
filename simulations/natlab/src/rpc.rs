//! Ways to call over long lines: every side of `polymath bench rpc`, the serving node and the relay at the
//! anchors, the calling node behind the line. The nodes are threads of this process, each in its namespace.

use std::{fs::File, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use polymath_bench::{
    Report,
    rpc::{self, Line, Options, Place, Selection},
};

use crate::{
    echo,
    line::Quality,
    nat::Access,
    netns::{Netns, enter},
    topology::{Side, Topology, anchor_address},
    wire::Wiring,
};

const fn quality(delay_ms: u64, loss: f64) -> Quality {
    Quality {
        delay: Duration::from_millis(delay_ms),
        jitter: Duration::ZERO,
        loss,
        rate: 200_000_000,
        queue: Duration::from_millis(100),
    }
}

/// The delay is that of one way.
const LINES: [(&str, Quality); 3] = [
    ("20 ms", quality(10, 0.0)),
    ("100 ms", quality(50, 0.0)),
    ("150 ms 0.1 % loss", quality(75, 0.001)),
];
/// A case that has taken so long gets no further round: 16 MiB take a minute where packets are lost.
const BUDGET: Duration = Duration::from_secs(300);

/// Over one line after the other.
pub(crate) fn measure(only: &[String], rounds: usize, seed: u64) -> Result<Report> {
    let mut all: Option<Report> = None;
    for (number, (name, quality)) in LINES.into_iter().enumerate() {
        let options = Options {
            only: Selection::new(only),
            rounds,
            budget: Some(BUDGET),
            ..Options::default()
        };
        let cell = format!("rpc{number}");
        let (report, conditions) = over(&cell, name, quality, seed, options)?;
        let all = match &mut all {
            Some(all) => {
                all.add(report);
                all
            }
            none => none.insert(report),
        };
        all.condition(&format!("line of {name}"), conditions);
    }
    let mut all = all.context("there is no line")?;
    all.condition("network", "a line at a time, see there");
    Ok(all)
}

/// Over one line; what it is like comes along.
fn over(
    cell: &str,
    name: &str,
    quality: Quality,
    seed: u64,
    options: Options,
) -> Result<(Report, String)> {
    let wiring = Wiring::of(quality, seed);
    let net = Topology::build(cell, Access::Public, Access::Public, &wiring)?;
    let measured = echo::measure(&net)?;
    let conditions = format!(
        "{}: {} Mbit/s, {} ms there and back ({:.1} measured), {} % of packets lost each way, a queue of {} ms, seed {seed}",
        wiring.by(),
        quality.rate / 1_000_000,
        2 * quality.delay.as_millis(),
        measured.median.as_secs_f64() * 1000.0,
        quality.loss * 100.0,
        quality.queue.as_millis(),
    );
    eprintln!("{conditions}");
    let (server, relay, client) = (net.anchor(0)?, net.anchor(1)?, &net.site(Side::A).host);
    for host in [server, relay, client] {
        // What most machines have. Where it is missing the table says what there is.
        let _ = host.set("ipv4/tcp_congestion_control", "cubic");
    }
    let line = Line {
        name: name.to_owned(),
        conditions: conditions.clone(),
    };
    let place = Place::over(
        line,
        (IpAddr::from(anchor_address(0)), inside(server)?),
        inside(client)?,
        (IpAddr::from(anchor_address(1)), inside(relay)?),
    );
    let report = rpc::measure(Options { place, ..options });
    Ok((report.map_err(|e| anyhow!("{name}: {e}"))?, conditions))
}

/// Moves a node's thread into a namespace.
fn inside(namespace: &Netns) -> Result<impl Fn() + Send + Sync + 'static> {
    let path = namespace.path();
    let handle = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(move || {
        // Left outside, a node reaches nobody, and the first case says so.
        if let Err(error) = enter(&handle) {
            eprintln!("natlab: {error:#}");
        }
    })
}
