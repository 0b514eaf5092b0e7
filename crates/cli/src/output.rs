//! Results on stdout, everything else on stderr.

use std::{
    io::{ErrorKind, IsTerminal, Write},
    process::ExitCode,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use polymath_figures::Report;
use polymath_types::{ErrorKind as Kind, Failure};
use serde_json::{Value, json};

use crate::session::Session;

static COLOUR: LazyLock<bool> =
    LazyLock::new(|| std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());

/// The first result that could not be written.
static LOST: Mutex<Option<Failure>> = Mutex::new(None);

/// Whether standard output takes no more.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// The exit code of a result that itself says what is wrong.
static END: Mutex<Option<Kind>> = Mutex::new(None);

/// The exit code of a verb whose printed result says that something is wrong: nothing more is
/// printed.
pub(crate) fn end_with(kind: Kind) {
    *END.lock().unwrap_or_else(PoisonError::into_inner) = Some(kind);
}

/// The exit code of a verb that has not failed.
pub(crate) fn code() -> ExitCode {
    let end = END.lock().unwrap_or_else(PoisonError::into_inner);
    end.map_or(ExitCode::SUCCESS, |kind| ExitCode::from(kind.exit_code()))
}

/// Prints a result: JSON if asked for, else what `text` gives.
pub(crate) fn print(session: &Session, value: &Value, text: impl FnOnce() -> String) {
    let line = if session.json {
        value.to_string()
    } else {
        session.hint(&text())
    };
    raw(format!("{line}\n").as_bytes());
}

/// Prints bytes as they are.
pub(crate) fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    let Err(e) = written else { return };
    CLOSED.store(true, Relaxed);
    // A reader that went away (`| head`) is no fault of ours; a full disk is one of somebody's.
    if e.kind() != ErrorKind::BrokenPipe {
        let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert_with(|| unwritten(&e));
    }
}

/// Whether nothing more can be written: for verbs that print without end.
pub(crate) fn closed() -> bool {
    CLOSED.load(Relaxed)
}

/// Why a result did not reach standard output, if one did not.
pub(crate) fn lost() -> Option<Failure> {
    LOST.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A failure to write to standard output.
pub(crate) fn unwritten(error: &std::io::Error) -> Failure {
    let (kind, message) = match error.kind() {
        ErrorKind::BrokenPipe => (Kind::Cancelled, "the answer's reader went away".to_owned()),
        ErrorKind::StorageFull => (
            Kind::ResourceExhausted,
            format!("standard output cannot be written: {error}: free some space"),
        ),
        _ => (
            Kind::Internal,
            format!("standard output cannot be written: {error}"),
        ),
    };
    Failure::new(kind, message)
}

/// A line on standard error for whoever watches; nobody has to be able to read it.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints help, or what is wrong with the command line; with `--json` as an object, too.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args().any(|a| a == "--json") {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
        print_failure(&Failure::new(Kind::InvalidInput, message), true);
    } else {
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Prints why a verb failed.
pub(crate) fn print_failure(failure: &Failure, json: bool) {
    if json {
        let mut error = json!({ "kind": failure.kind, "message": failure.message, "attempts": failure.attempts });
        if let Some(wait) = failure.retry_after_ms {
            error["retry_after_ms"] = wait.into();
        }
        let _ = writeln!(std::io::stdout(), "{}", json!({ "error": error }));
    }
    let mark = if *COLOUR {
        "\u{1b}[1;31merror:\u{1b}[0m"
    } else {
        "error:"
    };
    note(&format!("{mark} {failure}"));
}

/// Dim text on a terminal's stderr.
pub(crate) fn dim(text: &str) -> String {
    if *COLOUR {
        format!("\u{1b}[2m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// A table with a header line and columns as wide as their content.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells
            .zip(&widths)
            .map(|(c, w)| format!("{c:<w$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|r| line(&mut r.iter().map(String::as_str))));
    lines.join("\n")
}

/// Prints measured figures, with the version they were measured on.
pub(crate) fn report(session: &Session, mut report: Report) {
    report.condition("version", crate::VERSION);
    print(session, &report.json(), || {
        let lines = report.table();
        let (header, lines) = lines.split_first().unwrap_or((const { &Vec::new() }, &[]));
        let header: Vec<String> = header.iter().map(|h| h.to_ascii_uppercase()).collect();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        format!("{}\n{}", table(&header, lines), report.conditions())
    });
}

/// Bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let x = n as f64;
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", x / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", x / 1e6),
        _ => format!("{:.2} GB", x / 1e9),
    }
}

/// The last characters of a peer id: they tell peers apart, the first ones do not.
pub(crate) fn short_peer(id: &str) -> String {
    if id.len() > 12 && id.is_ascii() {
        format!("…{}", &id[id.len() - 8..])
    } else {
        id.to_owned()
    }
}

/// How downloads and hashing show their progress.
pub(crate) fn progress(session: &Session) -> Arc<dyn polymath_blobs::Progress + Send + Sync> {
    if session.json {
        Arc::new(polymath_blobs::JsonProgress::stderr())
    } else {
        Arc::new(polymath_blobs::TerminalProgress::stderr())
    }
}
