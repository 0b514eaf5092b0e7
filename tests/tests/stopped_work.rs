//! A command that is told to end takes everything with it that it started.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use polymath_testkit::{Cli, Lab, eventually};

fn start(cli: Cli, path: Option<&Path>) -> Child {
    let mut command = cli.into_command();
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn tell(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
}

fn exit_code(mut child: Child) -> i32 {
    let status = eventually("it ends", || child.try_wait().unwrap());
    status.code().unwrap_or(-1)
}

/// Processes that still run in a group.
fn running(group: u32) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|p| fs::read_to_string(p.path().join("stat")).ok());
    stats
        .filter(|stat| {
            // The name, in brackets, may hold anything; state, parent and group follow it.
            let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
            let fields: Vec<&str> = after.split_whitespace().collect();
            fields.first() != Some(&"Z") && fields.get(2) == Some(&group.to_string().as_str())
        })
        .collect()
}

/// A pip that never ends, whose process id and group `pid` tells; it is a script with a child.
fn endless_pip(lab: &Lab, pid: &Path) -> std::path::PathBuf {
    let bin = lab.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let pip = bin.join("pip3");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n/bin/sleep 1000 &\necho $$ > '{}'\nwait\n",
        pid.display()
    );
    fs::write(&pip, script).unwrap();
    fs::set_permissions(&pip, fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

#[test]
fn a_signal_while_a_model_is_pulled_leaves_no_process_behind() {
    for signal in ["TERM", "INT", "HUP"] {
        for verb in ["pull", "demo", "bench"] {
            let lab = Lab::new();
            let pid = lab.path().join("pid");
            let bin = endless_pip(&lab, &pid);
            let dir = lab.path().join("cache").display().to_string();
            let args = match verb {
                "pull" => vec!["model", "pull", "smollm2-135m-instruct"],
                "demo" => vec!["demo", "--dir", &dir],
                _ => vec!["bench", "remote", "--dir", &dir],
            };
            let command = start(lab.cli("a", &args), Some(&bin));
            let pip: u32 = eventually("pip runs", || {
                let text = fs::read_to_string(&pid).ok()?;
                text.strip_suffix('\n')?.parse().ok()
            });
            let ours = command.id();
            assert!(running(ours).len() + running(pip).len() >= 3);
            tell(&command, signal);
            assert_eq!(exit_code(command), 130, "{verb} at SIG{signal}");
            eventually("nothing of it runs", || {
                let left = [running(ours), running(pip)].concat();
                left.is_empty().then_some(())
            });
        }
    }
}

#[test]
fn an_import_shows_its_progress_and_hears_a_signal() {
    let lab = Lab::new();
    let files = std::env::var("POLYMATH_TEST_MODELS").expect("run the tests by `cargo xtask test`");
    let from = format!("{files}/SmolLM2-135M-Instruct.Q4_1.gguf");
    let args = ["model", "pull", "mine", "--from", &from];

    let lock = lab.occupy_store();
    let waiting = start(lab.cli("a", &args), None);
    eventually("it watches for signals", || {
        let status = fs::read_to_string(format!("/proc/{}/status", waiting.id())).ok()?;
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught & (1 << 14) != 0).then_some(())
    });
    tell(&waiting, "TERM");
    assert_eq!(exit_code(waiting), 130);
    drop(lock);

    let all: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let imported = lab.cli("a", &all).run().ok();
    assert_eq!(imported.json()["model"]["name"], "mine");
    assert!(
        imported.stderr.contains("Importing mine"),
        "{}",
        imported.stderr
    );
}
