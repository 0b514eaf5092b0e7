//! Which cases there are, what they are called, and which of them are wanted. Pure.

use std::fmt;

/// Over what calls travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Quic,
    /// By a third node, over TCP to and from it.
    Relayed,
}

impl Transport {
    pub(super) const DIRECT: [Self; 2] = [Self::Tcp, Self::Quic];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Relayed => "relayed",
        }
    }
}

/// What is called, and by how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// Bytes of the request.
    pub(super) request: usize,
    /// Bytes of the reply.
    pub(super) reply: usize,
    /// Calls under way at once.
    pub(super) callers: usize,
}

impl Load {
    pub(super) const fn echo(bytes: usize, callers: usize) -> Self {
        Self {
            request: bytes,
            reply: bytes,
            callers,
        }
    }

    /// A large request with a small reply.
    pub(super) const fn upload(bytes: usize, callers: usize) -> Self {
        Self {
            request: bytes,
            reply: 128,
            callers,
        }
    }

    /// Megabytes that one call carries, both ways.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn megabytes(self) -> f64 {
        (self.request + self.reply) as f64 / 1e6
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.request {
            n if n >= 1 << 20 => write!(f, "{} MiB", n >> 20)?,
            n if n >= 1 << 10 => write!(f, "{} KiB", n >> 10)?,
            n => write!(f, "{n} B")?,
        }
        let (callers, s) = (self.callers, if self.callers == 1 { "" } else { "s" });
        write!(f, ", {callers} caller{s}")
    }
}

/// Short calls with replies of their size, large ones with a small reply.
const LOADS: [Load; 7] = [
    Load::echo(128, 1),
    Load::echo(128, 64),
    Load::echo(4 << 10, 1),
    Load::echo(4 << 10, 64),
    Load::upload(256 << 10, 1),
    Load::upload(256 << 10, 64),
    Load::upload(16 << 20, 4),
];

/// Those that have targets.
const QUICK: [Load; 3] = [LOADS[0], LOADS[1], LOADS[5]];

/// On a long line a lone caller tells its length, and many large calls its rate.
const LONG: [Load; 4] = [
    Load::echo(128, 64),
    Load::echo(4 << 10, 64),
    Load::upload(256 << 10, 8),
    Load::upload(16 << 20, 1),
];

/// What is measured without being named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The cases that have targets: calls of ours beside plain tonic.
    Targets,
    /// Every side with every load.
    Near,
    /// The same over a line that is no loopback.
    Far,
}

impl Extent {
    pub(super) const fn loads(self) -> &'static [Load] {
        match self {
            Self::Targets => &QUICK,
            Self::Near => &LOADS,
            Self::Far => &LONG,
        }
    }

    /// Whether this side belongs to it.
    pub(super) fn has(self, side: &str, transport: Transport) -> bool {
        self != Self::Targets || side == super::ours::NAME && transport != Transport::Relayed
    }
}

/// The name of a case.
pub(super) fn case(load: Load, line: Option<&str>, transport: Transport, side: &str) -> String {
    let line = line.map_or_else(String::new, |line| format!("{line}, "));
    format!("{load}, {line}{}, {side}", transport.name())
}

/// Which cases are wanted, by words of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection(Vec<Vec<String>>);

impl Selection {
    /// Each pattern is words parted by commas; it covers the cases whose name has all of them. Without a
    /// pattern all are covered.
    pub fn new(patterns: &[String]) -> Self {
        let words = |pattern: &String| {
            let words = pattern.split(',').map(|w| w.trim().to_lowercase());
            words.filter(|w| !w.is_empty()).collect()
        };
        Self(patterns.iter().map(words).collect())
    }

    /// Whether no pattern was given.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a case of this name is wanted.
    pub fn covers(&self, case: &str) -> bool {
        let case = case.to_lowercase();
        let has_all = |words: &Vec<String>| words.iter().all(|w| case.contains(w.as_str()));
        self.is_all() || self.0.iter().any(has_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(patterns: &[&str]) -> Selection {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        Selection::new(&patterns)
    }

    #[test]
    fn a_case_is_named_by_load_line_transport_and_side() {
        let one = Load::upload(256 << 10, 1);
        let near = case(one, None, Transport::Quic, "ours");
        assert_eq!(near, "256 KiB, 1 caller, quic, ours");
        let far = case(
            Load::echo(128, 64),
            Some("20 ms"),
            Transport::Relayed,
            "ours",
        );
        assert_eq!(far, "128 B, 64 callers, 20 ms, relayed, ours");
    }

    #[test]
    fn a_pattern_wants_all_its_words_and_several_patterns_any_of_them() {
        let case = "256 KiB, 1 caller, quic, bulk lane";
        assert!(only(&[]).covers(case));
        assert!(only(&["quic"]).covers(case) && only(&[" BULK , quic"]).covers(case));
        assert!(!only(&["quic, 16 MiB"]).covers(case));
        assert!(only(&["quic, 16 MiB", "1 caller"]).covers(case));
    }

    #[test]
    fn the_targets_are_a_part_of_all_cases() {
        let all = Extent::Near.loads();
        assert!(Extent::Targets.loads().iter().all(|l| all.contains(l)));
        assert!(Extent::Targets.has("ours", Transport::Tcp));
        assert!(!Extent::Targets.has("ours", Transport::Relayed));
        assert!(!Extent::Targets.has("framed stream", Transport::Tcp));
    }
}
