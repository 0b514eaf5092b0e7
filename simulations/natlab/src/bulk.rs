//! The bulk lane over a long line that loses packets: its speed program's two ends, one at an anchor and one
//! behind the line.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    echo,
    line::Quality,
    nat::Access,
    topology::{Side, Topology, anchor_address},
    wire::Wiring,
};

/// Half around the world, on a good line.
const QUALITY: Quality = Quality {
    delay: Duration::from_millis(75),
    jitter: Duration::ZERO,
    loss: 0.001,
    rate: 200_000_000,
    queue: Duration::from_millis(100),
};

/// Where the speed program is built to.
pub(crate) fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("examples");
    let program = program.join("bulk_speed");
    ensure!(
        program.is_file(),
        "{} is missing: build it by `cargo build --release --workspace --examples`",
        program.display()
    );
    Ok(program)
}

/// Runs it; what it prints.
pub(crate) fn measure(program: &Path, rounds: usize, json: bool, seed: u64) -> Result<String> {
    let wiring = Wiring::of(QUALITY, seed);
    let net = Topology::build("bulk", Access::Public, Access::Public, &wiring)?;
    let measured = echo::measure(&net)?;
    let line = format!(
        "{}: {} Mbit/s, {} ms there and back ({:.1} measured), {} % of packets lost each way, a queue of {} ms, seed {seed}",
        wiring.by(),
        QUALITY.rate / 1_000_000,
        2 * QUALITY.delay.as_millis(),
        measured.median.as_secs_f64() * 1000.0,
        QUALITY.loss * 100.0,
        QUALITY.queue.as_millis(),
    );
    eprintln!("{line}");
    for host in [net.anchor(0)?, &net.site(Side::A).host] {
        // What most machines have. Where it is missing the table says what there is.
        let _ = host.set("ipv4/tcp_congestion_control", "cubic");
    }
    let server_ip = anchor_address(0).to_string();
    let server = net.anchor(0)?.within(|| {
        let mut command = Command::new(program);
        command
            .args(["--serve", &server_ip])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.spawn().context("cannot start bulk_speed")
    });
    let _server = Ended(server?);
    let asking = net.site(Side::A).host.within(|| {
        let mut command = Command::new(program);
        command
            .args(["--ask", &server_ip, "--line", &line])
            .args(["--rounds", &rounds.to_string()])
            .args(json.then_some("--json"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        command.output().context("cannot start bulk_speed")
    })?;
    ensure!(asking.status.success(), "bulk_speed: {}", asking.status);
    String::from_utf8(asking.stdout).context("bulk_speed prints no text")
}

/// A program that is ended with its holder.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
