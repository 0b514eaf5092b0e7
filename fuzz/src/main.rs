//! Hostile bytes for every decoder of what the network brings, for a time each.
//!
//!     cargo xtask fuzz [--seconds 60 | --executions N] [--target NAME] [--seed N]
//!
//! Mutates the golden files and what it is told is worth trying, in this process, on the stable
//! toolchain. No coverage guides it, so it finds what mutation of valid bytes finds: panics, overflows
//! of arithmetic where they are checked, and inputs that take long. An input that makes a decoder panic
//! is kept in `target/fuzz`, and run first from then on. Panics of Automerge that the catalog's sandbox
//! catches are no failure; they are counted by place.

#![allow(clippy::print_stdout)]

mod caught;
mod chunks;
mod mutate;
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    mutate::Mutator,
    targets::{TARGETS, Target},
};

/// No decoder may take longer for one input; a thousand times what they take.
const SLOWEST: Duration = Duration::from_secs(2);

struct Args {
    seconds: u64,
    /// Inputs for each target, however long they take.
    executions: Option<u64>,
    target: Option<String>,
    seed: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("fuzz: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn args() -> Result<Args> {
    let mut args = Args {
        seconds: 60,
        executions: None,
        target: None,
        seed: 1,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--seconds" => args.seconds = value.parse().context("--seconds")?,
            "--executions" => args.executions = Some(value.parse().context("--executions")?),
            "--target" => args.target = Some(value),
            "--seed" => args.seed = value.parse().context("--seed")?,
            _ => bail!("unexpected argument '{word}'"),
        }
    }
    Ok(args)
}

fn run() -> Result<()> {
    let args = args()?;
    caught::count();
    let chosen: Vec<&Target> = TARGETS
        .iter()
        .filter(|t| args.target.as_ref().is_none_or(|name| t.name == name))
        .collect();
    let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
    ensure!(!chosen.is_empty(), "no such target; there are {names:?}");
    println!("{:<16} {:>12} {:>12}", "target", "inputs", "slowest");
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let enough = match args.executions {
        Some(inputs) => Enough::Inputs(inputs),
        None => Enough::Time(Duration::from_secs(args.seconds)),
    };
    // A target a core at a time.
    let work = || {
        while let Some(target) = chosen.get(next.fetch_add(1, Relaxed)) {
            match fuzz(target, enough, args.seed) {
                Ok((inputs, slowest)) => {
                    println!("{:<16} {inputs:>12} {slowest:>12.1?}", target.name);
                }
                Err(e) => {
                    println!("{:<16} FAILED: {e:#}", target.name);
                    failed.fetch_add(1, Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    caught::print();
    if let Some(peak) = peak() {
        println!("memory at its peak: {peak}");
    }
    let failed = failed.into_inner();
    ensure!(failed == 0, "{failed} targets failed");
    Ok(())
}

/// When a target has had enough.
#[derive(Clone, Copy)]
enum Enough {
    Time(Duration),
    Inputs(u64),
}

/// The most memory this process has held, as the kernel puts it.
fn peak() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where inputs that failed are kept.
fn kept(target: &Target) -> PathBuf {
    root().join("target/fuzz").join(target.name)
}

fn fuzz(target: &Target, enough: Enough, seed: u64) -> Result<(u64, Duration)> {
    let mut seeds: Vec<Vec<u8>> = target.seeds.iter().map(|s| s.to_vec()).collect();
    for golden in target.golden {
        let path = root().join("crates").join(golden);
        seeds.push(fs::read(&path).with_context(|| path.display().to_string())?);
    }
    if let Ok(failed) = fs::read_dir(kept(target)) {
        for entry in failed {
            seeds.push(fs::read(entry?.path())?);
        }
    }
    let mut mutator = Mutator::new(seed, seeds);
    let (start, mut inputs, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    loop {
        let begun = Instant::now();
        let over = match enough {
            Enough::Time(time) => begun - start >= time,
            Enough::Inputs(most) => inputs >= most,
        };
        if over {
            return Ok((inputs, slowest));
        }
        // Seeds themselves come first.
        let input = mutator.next();
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            bail!("it panicked on {}", keep(target, &input)?.display());
        }
        let took = begun.elapsed();
        if took > SLOWEST {
            let path = keep(target, &input)?;
            bail!("it took {took:.1?} for {}", path.display());
        }
        slowest = slowest.max(took);
        inputs += 1;
    }
}

fn keep(target: &Target, input: &[u8]) -> Result<PathBuf> {
    let folder = kept(target);
    fs::create_dir_all(&folder)?;
    let path = folder.join(&blake3::hash(input).to_hex()[..16]);
    fs::write(&path, input)?;
    Ok(path)
}
