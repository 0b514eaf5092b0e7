//! One run of one cell: two nodes that never met, one question, and the way it took.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    cell::Cell,
    daemon::{Daemon, Link, eventually, text},
    mesh::{self, Anchors, Place},
    tally::fits,
    topology::{Carried, Side, Topology},
    wire::Wiring,
};

/// How long the asking node may take to learn of the other's expert.
const LEARN: Duration = Duration::from_secs(10);
/// After first contact: by then the path is what it will be.
const SETTLED: Duration = Duration::from_secs(5);
/// Between two looks at the path.
const LOOK: Duration = Duration::from_millis(100);
/// Deadline of a question.
const ANSWER: Duration = Duration::from_secs(20);
/// What a command gets beyond its own deadline.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes of a question: far above all that pings and gossip send meanwhile.
pub(crate) const QUESTION: usize = 64 * 1024;
const LONG_QUESTION: usize = 1024 * 1024;
/// In letters nearly as long as a text may be (2 MiB).
const LONGEST_QUESTION: usize = 3 * 512 * 1024 - 64 * 1024;
const SENTENCE: &str = "Which language is this, please? ";
/// The verdict on a cell without connection must be there by then.
pub(crate) const VERDICT: Duration = Duration::from_secs(10);

/// The way of a question, as the counters at both edges saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From edge to edge.
    Direct,
    /// Through an anchor.
    Relayed,
    /// Neither alone.
    Unclear,
    /// There was no answer.
    None,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
            Self::Unclear => "unclear",
            Self::None => "none",
        })
    }
}

/// What became of a run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The first question's way, asked at first contact.
    pub(crate) first: Way,
    /// From first contact until a question was answered, the first or one after it.
    pub(crate) answered_after: Option<Duration>,
    /// The way of a question asked when the path had settled.
    pub(crate) settled: Way,
    /// From first contact until the asking node had a direct path.
    pub(crate) direct_after: Option<Duration>,
    /// How long the doctor took to say why there is no connection.
    pub(crate) verdict_after: Option<Duration>,
    /// What the node said of the settled path, or why there is none.
    pub(crate) note: String,
}

impl Run {
    pub(crate) fn without_connection(note: String) -> Self {
        Self {
            first: Way::None,
            answered_after: None,
            settled: Way::None,
            direct_after: None,
            verdict_after: None,
            note,
        }
    }
}

/// Runs a cell once, in namespaces and homes named `name`. The first of the cell asks the second.
pub(crate) fn run(place: &Place, name: &str, cell: Cell, wiring: &Wiring) -> Result<Run> {
    let net = Topology::build(name, cell.asks, cell.answers, wiring)?;
    let anchors = Anchors::start(place, &net, cell.transports, "")?;
    // The one that answers was there before: what is measured is how a newcomer gets to it.
    let b = mesh::start(place, &net, &anchors, Side::B, cell.transports)?;
    mesh::reached(&b)?;
    if alone(&b)? {
        return diagnosed(&b);
    }
    let a = mesh::start(place, &net, &anchors, Side::A, cell.transports)?;
    let Some((met, mut link)) = first_contact(&a, &b.peer)? else {
        return diagnosed(&a);
    };
    let direct_at_once = link.as_ref().is_some_and(Link::is_direct);
    let mut direct_after = direct_at_once.then(|| met.elapsed());
    let (first, answered_after) = thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&a, &b.peer, met));
        let first = ask(&net, &a)?;
        let mut answered = first.way != Way::None;
        let mut answered_after = answered.then(|| met.elapsed());
        // As people do: again, until it works.
        while !answered && met.elapsed() < SETTLED {
            thread::sleep(LOOK);
            answered = ask(&net, &a)?.way != Way::None;
            answered_after = answered.then(|| met.elapsed());
        }
        let watched = watching
            .join()
            .unwrap_or_else(|_| bail!("the watching thread panicked"));
        let (time, last) = watched?;
        direct_after = direct_after.or(time);
        link = last;
        anyhow::Ok((first, answered_after))
    })?;
    let settled = ask(&net, &a)?;
    let mut note = link.map_or("no path".into(), |l| format!("{} {}", l.path, l.transport));
    if !settled.note.is_empty() {
        note = settled.note;
    }
    if first.way == Way::None {
        note += &format!("; the first question: {}", first.note);
    }
    let run = Run {
        first: first.way,
        answered_after,
        settled: settled.way,
        direct_after,
        verdict_after: None,
        note,
    };
    if !fits(cell.expected(), &run) {
        a.testify()?;
        b.testify()?;
    }
    Ok(run)
}

/// Whether nobody is connected to it.
fn alone(node: &Daemon<'_>) -> Result<bool> {
    let status = node.look(&["status"])?.unwrap_or_default();
    Ok(status["connected_peers"] == 0)
}

/// What the doctor of a node that never heard of the other says.
fn diagnosed(patient: &Daemon<'_>) -> Result<Run> {
    let began = Instant::now();
    let reply = patient.run(&["doctor"], "", VERDICT + GRACE)?;
    let verdict = text(&reply.json["verdict"]);
    // One that finds nothing wrong has not found what is.
    let found = reply.json["ok"] == false && !verdict.is_empty();
    let note = if reply.json.is_null() {
        format!(
            "the two never heard of each other, and no doctor: {}",
            reply.complaint()
        )
    } else {
        verdict
    };
    Ok(Run {
        verdict_after: found.then(|| began.elapsed()),
        ..Run::without_connection(note)
    })
}

/// Waits until A has a connection to the peer or knows what it serves. When that was, and the
/// connection if it is one already.
fn first_contact(a: &Daemon<'_>, peer: &str) -> Result<Option<(Instant, Option<Link>)>> {
    let mut met = None;
    eventually(LEARN, || {
        // What was seen may be as old as the look.
        let now = Instant::now();
        let link = a.path_to(peer)?;
        if met.is_none() && (link.is_some() || a.knows(mesh::expert(Side::B))?) {
            met = Some((now, link));
        }
        // A question needs the expert.
        Ok(met.is_some() && a.knows(mesh::expert(Side::B))?)
    })
    .map(|known| met.filter(|_| known))
}

/// Watches until the path is direct, or has had its time.
fn watch(a: &Daemon<'_>, peer: &str, since: Instant) -> Result<(Option<Duration>, Option<Link>)> {
    loop {
        let link = a.path_to(peer)?;
        if link.as_ref().is_some_and(Link::is_direct) {
            return Ok((Some(since.elapsed()), link));
        }
        if since.elapsed() >= SETTLED {
            return Ok((None, link));
        }
        thread::sleep(LOOK);
    }
}

/// A question that was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) way: Way,
    /// Why there was no answer, or no clear way.
    pub(crate) note: String,
}

/// Asks B's expert through A; the counters tell the way.
pub(crate) fn ask(net: &Topology, a: &Daemon<'_>) -> Result<Asked> {
    ask_with(net, a, QUESTION)
}

/// As [`ask`], with a question that takes a slow line seconds.
pub(crate) fn ask_long(net: &Topology, a: &Daemon<'_>) -> Result<Asked> {
    ask_with(net, a, LONG_QUESTION)
}

/// As [`ask`], with megabytes.
pub(crate) fn ask_longest(net: &Topology, a: &Daemon<'_>) -> Result<Asked> {
    ask_with(net, a, LONGEST_QUESTION)
}

fn ask_with(net: &Topology, a: &Daemon<'_>, bytes: usize) -> Result<Asked> {
    let before = carried(net)?;
    let question = question(bytes);
    let timeout = ANSWER.as_secs().to_string();
    let expert = mesh::expert(Side::B);
    let arguments = [
        "ask",
        "-",
        "--kind",
        "classify",
        "--model",
        expert,
        "--timeout",
        &timeout,
    ];
    let reply = a.run(&arguments, &question, ANSWER + GRACE)?;
    if !reply.done() {
        return Ok(Asked {
            way: Way::None,
            note: reply.complaint().to_owned(),
        });
    }
    let after = carried(net)?;
    let seen = [0, 1].map(|i| after[i].since(before[i]));
    let way = way(seen, bytes);
    let note = match way {
        Way::Unclear => format!("the edges saw {seen:?}"),
        _ => String::new(),
    };
    Ok(Asked { way, note })
}

/// A text that is `bytes` long on the wire, packed or not: letters by chance, six bits each.
fn question(bytes: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789, ";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let letters = (0..bytes * 4 / 3).map(|_| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(LETTERS[(state >> 58) as usize])
    });
    SENTENCE.chars().chain(letters).collect()
}

fn carried(net: &Topology) -> Result<[Carried; 2]> {
    Ok([net.site(Side::A).carried()?, net.site(Side::B).carried()?])
}

/// The way of `question` bytes: both edges have seen them on it, and not half of them on the other. What a
/// node talks over with an anchor meanwhile passes one edge alone.
pub(crate) fn way(seen: [Carried; 2], question: usize) -> Way {
    let question = question as u64;
    let both = |bytes: fn(Carried) -> u64| bytes(seen[0]).min(bytes(seen[1]));
    let peer = both(|c| c.peer);
    let anchors = both(|c| c.anchors.iter().sum());
    if peer >= question && anchors < question / 2 {
        Way::Direct
    } else if anchors >= question && peer < question / 2 {
        Way::Relayed
    } else {
        Way::Unclear
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_counts_decide() {
        let question = QUESTION as u64;
        let edge = |peer, anchor| Carried {
            peer,
            anchors: [anchor, 0],
        };
        let seen = |peer, anchor| way([edge(peer, anchor); 2], QUESTION);
        assert_eq!(seen(question + 4000, 3000), Way::Direct);
        assert_eq!(seen(3000, question + 4000), Way::Relayed);
        assert_eq!(seen(question, question), Way::Unclear);
        assert_eq!(seen(0, 0), Way::Unclear);
        // One that talks with its anchor has nothing relayed, and what only one edge saw went nowhere.
        let talks = [edge(question + 4000, question), edge(question + 4000, 3000)];
        assert_eq!(way(talks, QUESTION), Way::Direct);
        let lost = [edge(question + 4000, 3000), edge(3000, 3000)];
        assert_eq!(way(lost, QUESTION), Way::Unclear);
    }
}
