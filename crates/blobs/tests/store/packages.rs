//! Pulling by package: what pip is asked, what it may do wrong, and who else is pulling.

use std::{fs, sync::mpsc, thread, time::Duration};

use polymath_blobs::{Origin, PullError, SilentProgress, Source};
use polymath_types::ErrorKind;

use crate::fixture::{Event, Fixture, Observer, names_in, never, sha256};

const DEADLINE: Duration = Duration::from_secs(60);

fn copies_wheel(f: &Fixture) -> String {
    format!("cp '{}' \"$dest\"", f.wheel.display())
}

#[test]
fn pip_is_asked_for_the_exact_package_and_nothing_else() {
    let f = Fixture::new();
    let store = f.store_with_pip(&copies_wheel(&f));
    let progress = Observer::new();
    let installed = store
        .pull(&f.known, &Source::Package, &progress, &never())
        .unwrap();
    assert_eq!(installed.origin, Origin::Package("tiny-pkg==1.0".into()));
    store.verify("tiny", &SilentProgress, &never()).unwrap();
    let asked = f.downloads();
    assert_eq!(asked.len(), 1);
    for part in ["download --no-deps --only-binary=:all:", "-- tiny-pkg==1.0"] {
        assert!(asked[0].contains(part), "{asked:?}");
    }
    let events = progress.events();
    let begun = Event::Begin(
        "Downloading tiny-pkg==1.0".into(),
        Some(f.known.packages[0].size),
    );
    assert!(events.contains(&begun), "{events:?}");
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
}

#[test]
fn without_pip_the_line_says_what_to_install() {
    let f = Fixture::new();
    let error = f
        .store()
        .pull(&f.known, &Source::Package, &SilentProgress, &never())
        .unwrap_err();
    assert!(matches!(error, PullError::NoPip { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let line = error.to_string();
    assert!(line.contains("apt-get install python3-pip"), "{line}");
    assert!(
        line.contains("--from FILE") && line.contains("tiny-1.0-py3-none-any.whl"),
        "{line}"
    );
}

#[test]
fn what_pip_complains_of_is_passed_on_in_one_line() {
    let f = Fixture::new();
    let store = f.store_with_pip(
        "echo 'WARNING: noise' >&2; echo 'ERROR: No matching distribution' >&2; exit 1",
    );
    let error = store
        .pull(&f.known, &Source::Package, &SilentProgress, &never())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let line = error.to_string();
    assert!(
        line.contains("tiny-pkg==1.0: No matching distribution;"),
        "{line}"
    );
    assert!(!line.contains("noise") && !line.contains('\n'), "{line}");
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
}

#[test]
fn a_changed_package_is_refused() {
    let f = Fixture::new();
    let name = &f.known.packages[0].wheel;
    let store = f.store_with_pip(&format!("echo changed > \"$dest/{name}\""));
    let error = store
        .pull(&f.known, &Source::Package, &SilentProgress, &never())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    let line = error.to_string();
    assert!(line.contains(&sha256(b"changed\n")), "{line}");
    assert!(line.contains(&f.known.packages[0].sha256), "{line}");
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
}

#[test]
fn another_package_stands_in_for_one_that_is_gone() {
    let mut f = Fixture::new();
    let mut gone = f.known.packages[0].clone();
    gone.requirement = "gone==1.0".into();
    f.known.packages.insert(0, gone);
    let script = format!("[ \"$last\" = gone==1.0 ] && exit 1; {}", copies_wheel(&f));
    let store = f.store_with_pip(&script);
    let progress = Observer::new();
    let installed = store
        .pull(&f.known, &Source::Package, &progress, &never())
        .unwrap();
    assert_eq!(installed.origin, Origin::Package("tiny-pkg==1.0".into()));
    assert!(progress.noted("trying tiny-pkg==1.0"));
}

#[test]
fn a_whole_wheel_that_a_killed_pull_left_is_used() {
    let f = Fixture::new();
    let left = f.dir().join("partial/pip-killed/wheel");
    fs::create_dir_all(&left).unwrap();
    fs::copy(&f.wheel, left.join(&f.known.packages[0].wheel)).unwrap();
    let progress = Observer::new();
    f.store()
        .pull(&f.known, &Source::Package, &progress, &never())
        .unwrap();
    assert!(progress.noted("had come whole"));
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
}

#[test]
fn a_half_wheel_that_a_killed_pull_left_is_thrown_away() {
    let f = Fixture::new();
    let left = f.dir().join("partial/pip-killed/wheel");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join(&f.known.packages[0].wheel), b"PK half").unwrap();
    let store = f.store_with_pip(&copies_wheel(&f));
    store
        .pull(&f.known, &Source::Package, &SilentProgress, &never())
        .unwrap();
    assert_eq!(f.downloads().len(), 1);
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
}

#[test]
fn a_wheel_that_the_disk_cannot_hold_twice_is_not_downloaded() {
    let f = Fixture::new();
    f.store_with_pip(&copies_wheel(&f));
    let store = f.store_with(|o| {
        o.search_path = Some(f.tmp.path().join("bin").into());
        // Enough for the files and the reserve, not for the wheel beside them.
        o.free_bytes = |_| Ok(16 * 1024 * 1024 + 1_000_000);
    });
    let error = store
        .pull(&f.known, &Source::Package, &SilentProgress, &never())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(f.downloads(), Vec::<String>::new());
}

#[test]
fn a_cancel_kills_pip() {
    let f = Fixture::new();
    let pid_file = f.tmp.path().join("pid");
    let store = f.store_with_pip(&format!(
        "echo $$ > '{}'; exec sleep 1000",
        pid_file.display()
    ));
    let (progress, heard) = Observer::telling();
    let cancel = never();
    thread::scope(|scope| {
        let pull = scope.spawn(|| store.pull(&f.known, &Source::Package, &progress, &cancel));
        wait_for(
            &heard,
            |e| matches!(e, Event::Begin(what, _) if what.starts_with("Downloading")),
        );
        let deadline = std::time::Instant::now() + DEADLINE;
        while fs::read_to_string(&pid_file).map_or(true, |s| !s.ends_with('\n')) {
            assert!(std::time::Instant::now() < deadline, "pip did not start");
            thread::yield_now();
        }
        cancel.cancel();
        let error = pull.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    });
    let pid = fs::read_to_string(&pid_file).unwrap();
    let proc = std::path::Path::new("/proc").join(pid.trim());
    assert!(!proc.exists(), "pip outlived its pull");
    assert_eq!(names_in(&f.dir().join("partial")), Vec::<String>::new());
}

#[test]
fn a_cancel_kills_what_pip_started_too() {
    let f = Fixture::new();
    let pid_file = f.tmp.path().join("pid");
    let store = f.store_with_pip(&format!(
        "sleep 1000 & echo $! > '{}'; wait",
        pid_file.display()
    ));
    let cancel = never();
    thread::scope(|scope| {
        let pull = scope.spawn(|| store.pull(&f.known, &Source::Package, &SilentProgress, &cancel));
        let deadline = std::time::Instant::now() + DEADLINE;
        while fs::read_to_string(&pid_file).map_or(true, |s| !s.ends_with('\n')) {
            assert!(std::time::Instant::now() < deadline, "pip did not start");
            thread::yield_now();
        }
        cancel.cancel();
        pull.join().unwrap().unwrap_err();
    });
    let pid = fs::read_to_string(&pid_file).unwrap();
    let stat = std::path::Path::new("/proc").join(pid.trim()).join("stat");
    let deadline = std::time::Instant::now() + DEADLINE;
    // Whoever adopted it may take a moment to reap it.
    while fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z ")) {
        assert!(std::time::Instant::now() < deadline, "it outlived its pull");
        thread::yield_now();
    }
}

#[test]
fn of_two_pulls_at_once_one_downloads_and_the_other_says_that_it_waits() {
    let f = Fixture::new();
    let go = f.tmp.path().join("go");
    let script = format!(
        "while [ ! -e '{}' ]; do sleep 0.05; done; {}",
        go.display(),
        copies_wheel(&f)
    );
    let (one, two) = (f.store_with_pip(&script), f.store_with_pip(&script));
    let (first, heard_first) = Observer::telling();
    let (second, heard_second) = Observer::telling();
    thread::scope(|scope| {
        let a = scope.spawn(|| one.pull(&f.known, &Source::Package, &first, &never()));
        wait_for(
            &heard_first,
            |e| matches!(e, Event::Begin(what, _) if what.starts_with("Downloading")),
        );
        let b = scope.spawn(|| two.pull(&f.known, &Source::Package, &second, &never()));
        wait_for(&heard_second, |e| {
            matches!(e, Event::Note(line) if line.contains("waiting for process")
                && line.contains("pulling tiny"))
        });
        fs::write(&go, b"").unwrap();
        let (a, b) = (a.join().unwrap().unwrap(), b.join().unwrap().unwrap());
        assert_eq!(a, b);
    });
    assert_eq!(f.downloads().len(), 1);
}

#[test]
fn a_requirement_that_pip_could_take_for_something_else_is_refused() {
    for requirement in [
        "--index-url=x",
        "tiny",
        "tiny @ file:///x",
        "-r==x",
        "tiny==1.0 other",
    ] {
        let mut f = Fixture::new();
        f.known.packages[0].requirement = requirement.into();
        let store = f.store_with_pip(&copies_wheel(&f));
        let error = store
            .pull(&f.known, &Source::Package, &SilentProgress, &never())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{requirement}");
        assert_eq!(f.downloads(), Vec::<String>::new());
    }
}

fn wait_for(heard: &mpsc::Receiver<Event>, wanted: impl Fn(&Event) -> bool) {
    while !wanted(&heard.recv_timeout(DEADLINE).expect("the event in time")) {}
}
