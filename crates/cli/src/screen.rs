//! What fits on the reader's screen: widths, colours and wrapped lines of standard output.

use std::{
    io::{IsTerminal, stdout},
    sync::LazyLock,
};

/// Narrower screens are written to as if they had this many columns.
const NARROWEST: usize = 40;

/// Columns of the screen, where standard output is one or `COLUMNS` says so: else lines may be as
/// long as they like, for they are read by programs.
static WIDTH: LazyLock<Option<usize>> = LazyLock::new(|| {
    let told = std::env::var("COLUMNS").ok();
    let told = told.and_then(|c| c.parse::<usize>().ok());
    let told = told.or_else(|| {
        let (width, _) = terminal_size::terminal_size_of(stdout())?;
        Some(usize::from(width.0))
    });
    told.map(|w| w.max(NARROWEST))
});

static COLOUR: LazyLock<bool> =
    LazyLock::new(|| stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());

/// Whether standard output is a screen.
pub(crate) fn is_one() -> bool {
    stdout().is_terminal()
}

fn coloured(code: &str, text: &str) -> String {
    if *COLOUR {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

pub(crate) fn green(text: &str) -> String {
    coloured("32", text)
}

pub(crate) fn yellow(text: &str) -> String {
    coloured("1;33", text)
}

pub(crate) fn red(text: &str) -> String {
    coloured("1;31", text)
}

pub(crate) fn dim(text: &str) -> String {
    coloured("2", text)
}

/// The text, broken between words so that it fits behind `indent` columns.
pub(crate) fn wrapped(text: &str, indent: usize) -> String {
    match *WIDTH {
        Some(width) => wrap(text, width.saturating_sub(indent), indent),
        None => text.to_owned(),
    }
}

fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in words(text, width) {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(&word);
            used += length;
        }
    }
    lines.join(&format!("\n{:indent$}", ""))
}

/// Words, of which a command between backticks is one where it fits a line: it is there to be copied.
fn words(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for (i, part) in text.split('`').enumerate() {
        let command = i % 2 == 1;
        let quoted = if command {
            format!("`{part}`")
        } else {
            part.to_owned()
        };
        let whole = command && quoted.chars().count() <= width;
        let mut pieces = if whole {
            vec![quoted]
        } else {
            quoted.split(' ').map(str::to_owned).collect()
        };
        // Nothing stands between the last word and what follows without a space.
        if i > 0
            && let (Some(last), Some(first)) = (words.last_mut(), pieces.first_mut())
        {
            last.push_str(first);
            pieces.remove(0);
        }
        words.extend(pieces);
    }
    words
}

/// A table whose last column, free text, goes below its row where the screen is too narrow for all.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let whole = crate::output::table(header, rows);
    let widest = whole.lines().map(|l| l.chars().count()).max();
    let Some(width) = WIDTH.filter(|w| widest.is_some_and(|widest| widest > *w)) else {
        return whole;
    };
    below(header, rows, width)
}

fn below(header: &[&str], rows: &[Vec<String>], width: usize) -> String {
    const INDENT: usize = 4;
    let Some((last, first)) = header.split_last() else {
        return String::new();
    };
    let short: Vec<Vec<String>> = rows
        .iter()
        .map(|r| r.iter().take(first.len()).cloned().collect())
        .collect();
    let clip = |line: &str| -> String {
        if line.chars().count() > width {
            let kept: String = line.chars().take(width - 1).collect();
            format!("{kept}…")
        } else {
            line.to_owned()
        }
    };
    let table = crate::output::table(first, &short);
    let mut lines = table.lines().map(clip);
    let mut out: Vec<String> = lines.next().into_iter().collect();
    for (line, row) in lines.zip(rows) {
        out.push(line);
        if let Some(text) = row.get(first.len()).filter(|t| !t.is_empty()) {
            let text = wrap(
                &format!("{}: {text}", last.to_lowercase()),
                width - INDENT,
                INDENT,
            );
            out.push(format!("{:INDENT$}{text}", ""));
        }
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_hang() {
        assert_eq!(wrap("one two three", 7, 2), "one two\n  three");
        assert_eq!(wrap("one", 2, 2), "one");
        assert_eq!(wrap("", 10, 2), "");
        assert_eq!(wrap("run `a b c`, then", 9, 0), "run\n`a b c`,\nthen");
        assert_eq!(wrap("run `a long b`", 6, 0), "run `a\nlong\nb`");
    }

    #[test]
    fn notes_go_below_rows_that_have_one() {
        let rows = [
            vec!["a".to_owned(), String::new()],
            vec!["b".to_owned(), "not used: it has gone away".to_owned()],
        ];
        let text = below(&["PEER", "NOTE"], &rows, 20);
        assert_eq!(
            text,
            "PEER\na\nb\n    note: not used:\n    it has gone away"
        );
        assert!(text.lines().all(|l| l.chars().count() <= 20));
    }
}
