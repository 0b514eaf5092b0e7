//! From the command line to the report.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use serde_json::json;

use crate::{
    args::{Args, Part},
    bulk,
    cell::{self, Cell},
    daemon::{LOG, TESTIMONY},
    mesh::Place,
    nat::Access,
    punch::{self, Met},
    report::Report,
    rpc,
    sandbox::{self, HOMES, INSIDE},
    scenario::{self, Scenario},
    selftest,
    tally::fits,
    trial::{self, Run},
    wire::Wiring,
};

/// Of simulated lines.
const SEED: u64 = 1;

/// Runs the lab as the process' arguments say: inside its sandbox, which it enters first.
pub fn main() -> ExitCode {
    let mut given: Vec<_> = std::env::args_os().collect();
    let inside = given.get(1).is_some_and(|a| a == INSIDE);
    if inside {
        given.remove(1);
    }
    // Outside too, so that usage is known to be right before anything is made.
    let args = Args::parse_from(given);
    let ended = if inside { run(&args) } else { sandbox::enter() };
    ended.unwrap_or_else(|error| {
        eprintln!("natlab: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    sandbox::settle()?;
    if args.wants(Part::Bulk) {
        let program = bulk::program()?;
        let table = bulk::measure(&program, args.repeats.get(), args.json, SEED)?;
        print(&table)?;
    }
    if args.wants(Part::Rpc) {
        let report = rpc::measure(&args.only, args.repeats.get(), SEED)?;
        let text = if args.json {
            report.json().to_string() + "\n"
        } else {
            report.markdown()
        };
        print(&text)?;
    }
    let only_measured = |p: &Part| matches!(p, Part::Bulk | Part::Rpc);
    if !args.parts.is_empty() && args.parts.iter().all(only_measured) {
        return Ok(ExitCode::SUCCESS);
    }
    let began = Instant::now();
    let lab = Lab::new(args)?;
    let mut report = Report::default();
    if args.wants(Part::SelfTest) {
        lab.self_test(&mut report)?;
    }
    if args.wants(Part::Punch) {
        lab.punch(&mut report)?;
    }
    if args.wants(Part::Matrix) {
        lab.matrix(&mut report);
    }
    if args.wants(Part::Scenarios) {
        lab.scenarios(&mut report);
    }
    report.conditions = lab.conditions();
    report.seconds = began.elapsed().as_secs_f64();
    let text = if args.json {
        report.json().to_string() + "\n"
    } else {
        report.markdown()
    };
    print(&text)?;
    let shortfalls = report.shortfalls();
    for shortfall in &shortfalls {
        eprintln!("natlab: short of theory: {shortfall}");
    }
    Ok(if shortfalls.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("nobody reads the report")
}

struct Lab<'a> {
    args: &'a Args,
    polymath: PathBuf,
    jobs: usize,
    cores: usize,
}

impl<'a> Lab<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        let polymath = match &args.polymath {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("polymath"),
        };
        ensure!(
            polymath.is_file(),
            "{} is missing: build it, or name another by --polymath",
            polymath.display()
        );
        if let Some(folder) = &args.logs {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let jobs = args.jobs.map_or(cores, usize::from);
        Ok(Self {
            args,
            polymath,
            jobs,
            cores,
        })
    }

    fn conditions(&self) -> Vec<(&'static str, serde_json::Value)> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        vec![
            ("cores", json!(self.cores)),
            ("jobs", json!(self.jobs)),
            ("repeats", json!(self.args.repeats)),
            ("kernel", json!(kernel.trim())),
            ("seed", json!(SEED)),
        ]
    }

    fn place(&self, name: &str) -> Place {
        Place {
            polymath: self.polymath.clone(),
            homes: Path::new(HOMES).join(name),
        }
    }

    fn self_test(&self, report: &mut Report) -> Result<()> {
        let measured = side_by_side(self.jobs, &Access::ALL, |access| {
            let measured = selftest::measure(&format!("self-{access}"), *access);
            if let Ok(measured) = &measured {
                eprintln!("{access:<20} {}", measured.text());
            }
            measured
        });
        for (access, measured) in Access::ALL.into_iter().zip(measured) {
            let measured = measured.with_context(|| format!("{access} cannot be measured"))?;
            report.accesses.push((access, measured));
        }
        Ok(())
    }

    fn punch(&self, report: &mut Report) -> Result<()> {
        let mut pairs: Vec<(Access, Access)> = self
            .cells()
            .iter()
            .map(|c| (c.asks.min(c.answers), c.asks.max(c.answers)))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        let met = side_by_side(self.jobs, &pairs, |(a, b)| {
            let met = punch::attempt(&format!("punch-{a}-{b}"), *a, *b);
            if let Ok(met) = met {
                let good = met == Met::expected(*a, *b);
                let mark = if good { "" } else { "  <-- theory is wrong" };
                eprintln!("{:<40} {}{mark}", format!("{a}/{b}"), met.text());
            }
            met
        });
        for ((a, b), met) in pairs.into_iter().zip(met) {
            let met = met.with_context(|| format!("{a} and {b} cannot be tried"))?;
            report.punched.push((a, b, met));
        }
        Ok(())
    }

    fn cells(&self) -> Vec<Cell> {
        let mut cells = if self.args.quick {
            cell::telling()
        } else {
            cell::all()
        };
        let wanted = &self.args.cells;
        cells.retain(|c| wanted.is_empty() || wanted.iter().any(|p| p.covers(*c)));
        cells
    }

    fn matrix(&self, report: &mut Report) {
        let cells = self.cells();
        let runs: Vec<Cell> = (0..self.args.repeats.get())
            .flat_map(|_| cells.clone())
            .collect();
        let ended = AtomicUsize::new(0);
        let number = AtomicUsize::new(0);
        let outcomes = side_by_side(self.jobs, &runs, |cell| {
            let name = format!("c{}", number.fetch_add(1, Ordering::Relaxed));
            let began = Instant::now();
            let place = self.place(&name);
            let run = trial::run(&place, &name, *cell, &Wiring::Plain)
                .unwrap_or_else(|e| Run::without_connection(format!("the lab failed: {e:#}")));
            let good = fits(cell.expected(), &run);
            eprintln!(
                "[{:>3}/{}] {:<45} {} ({}; theory: {}) {:.1} s{}",
                ended.fetch_add(1, Ordering::Relaxed) + 1,
                runs.len(),
                cell.to_string(),
                run.settled,
                run.note,
                cell.expected(),
                began.elapsed().as_secs_f64(),
                if good { "" } else { "  <-- short" }
            );
            self.leave(&place, &cell.to_string().replace('/', "_"), good);
            run
        });
        for (cell, run) in runs.into_iter().zip(outcomes) {
            report.tallies.add(cell, run);
        }
    }

    fn scenarios(&self, report: &mut Report) {
        let wanted: Vec<Scenario> = if !self.args.scenarios.is_empty() {
            self.args.scenarios.clone()
        } else if self.args.quick {
            Scenario::QUICK.to_vec()
        } else {
            Scenario::ALL.to_vec()
        };
        report.scenarios = side_by_side(self.jobs, &wanted, |scenario| {
            let place = self.place(scenario.name());
            let outcome = scenario::play(&place, scenario.name(), *scenario, SEED);
            let (Ok(told) | Err(told)) = &outcome.result;
            eprintln!("{scenario:<20} {told}");
            self.leave(&place, scenario.name(), outcome.result.is_ok());
            outcome
        });
    }

    /// Frees the memory of a run's homes; the logs of one that fell short are kept where asked.
    fn leave(&self, place: &Place, name: &str, good: bool) {
        if let Some(folder) = self.args.logs.as_ref().filter(|_| !good) {
            for entry in fs::read_dir(&place.homes).into_iter().flatten().flatten() {
                let home = entry.path();
                let who = entry.file_name().to_string_lossy().into_owned();
                for file in [LOG, TESTIMONY] {
                    // Not every daemon left a testimony.
                    let kept = folder.join(format!("{name}-{who}-{file}"));
                    let _ = fs::copy(home.join(file), kept);
                }
            }
        }
        let _ = fs::remove_dir_all(&place.homes);
    }
}

/// Does `work` with each item, `jobs` at a time; results in the items' order.
fn side_by_side<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(i) else { break };
                    let result = work(item);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}
