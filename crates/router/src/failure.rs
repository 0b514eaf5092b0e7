//! Says in one line why nobody can be asked, and what to do.

use std::collections::BTreeSet;

use polymath_types::{ErrorKind, ExpertKind, Failure, Index};

use crate::{
    Request,
    decision::{Reason, Tally},
    filter::{Filtered, noun, tokens_wanted},
    reason::short,
};

const HOST: &str = "host one with `polymath up --expert NAME` or join a mesh that has one with `polymath join ADDRESS`";
/// Most names suggested, and listed of a peer.
const MAX_NAMES: usize = 3;
/// A longer name is nobody's misspelling: twice what a card allows.
const MAX_NAME: usize = 128;

/// The failure of a decision without candidates.
pub(crate) fn explain(
    request: &Request<'_>,
    index: &Index,
    filtered: &Filtered,
    tally: &Tally,
) -> Failure {
    let query = request.query;
    let constraints = &query.constraints;
    let kind = query.kind;
    if index.is_empty() {
        return Failure::new(
            ErrorKind::Unavailable,
            format!("no expert is known here yet: {HOST}"),
        );
    }
    if let Some(peer) = constraints.peer
        && !index.peers().contains_key(&peer)
    {
        return Failure::new(
            ErrorKind::NotFound,
            format!("peer {peer} is not known in this mesh; `polymath peers` lists those that are"),
        );
    }
    if let Some(model) = &constraints.model
        && filtered.named == 0
    {
        if let Some(is) = filtered.other_kind {
            return Failure::new(
                ErrorKind::InvalidInput,
                format!(
                    "'{model}' is {}, not {}: ask it with `--kind {is}`",
                    noun(is),
                    noun(kind)
                ),
            );
        }
        return Failure::new(ErrorKind::NotFound, unknown_name(model, kind, index));
    }
    if filtered.of_kind == 0 {
        return Failure::new(
            ErrorKind::Unavailable,
            format!("this mesh has no expert that could {kind}: {HOST}"),
        );
    }
    let count = |reason| tally.count(reason);
    if count(Reason::Context) == filtered.named {
        // All that are meant are too short, so the longest of them is the longest there is.
        let meant = index.of_kind(kind).filter(|e| {
            let name = constraints.model.as_ref();
            name.is_none_or(|name| Index::names(e, name))
        });
        let longest = meant.map(|e| e.card.model.context_length).max();
        return Failure::new(
            ErrorKind::ContextOverflow,
            format!(
                "the prompt and the answer need about {} tokens, the longest context here has {}: \
                 shorten the prompt or ask for fewer tokens",
                tokens_wanted(request),
                longest.unwrap_or(0)
            ),
        );
    }
    if count(Reason::Labels) == filtered.named {
        let message = if query.labels.is_empty() {
            "every classifier that fits chooses among labels of the caller: give some"
        } else {
            "every classifier that fits has labels of its own: ask without labels, or host a zero-shot one"
        };
        return Failure::new(ErrorKind::InvalidInput, message);
    }
    if let Some(peer) = constraints.peer
        && count(Reason::PeerRequired) > 0
        && filtered.fitting == 0
    {
        let served: BTreeSet<&str> = index
            .experts()
            .filter(|e| e.replicas.iter().any(|r| r.peer == peer))
            .map(|e| e.card.name.as_str())
            .collect();
        let served = match served.len() {
            0 => "no known expert".to_owned(),
            _ => list(served.iter().copied()),
        };
        return Failure::new(
            ErrorKind::NotFound,
            format!(
                "peer {} does not serve what was asked for; it serves {served}",
                short(&peer)
            ),
        );
    }
    Failure::new(ErrorKind::Unavailable, all_excluded(kind, tally))
}

fn all_excluded(kind: ExpertKind, tally: &Tally) -> String {
    let mut parts = Vec::new();
    for (reason, n) in tally.counts() {
        let what = match reason {
            Reason::Kind | Reason::Model | Reason::PeerRequired => continue,
            Reason::Labels => "with other labels",
            Reason::Language => "in other languages",
            Reason::Context => "with too short a context",
            Reason::VectorSpace => "with vectors of another space",
            Reason::Quality => "too far from the question",
            Reason::PeerExcluded => "on excluded peers",
            Reason::Privacy => "where the question may not go",
            Reason::PeerLabels => "on peers without the labels asked for",
            Reason::Price => "dearer than is paid",
            Reason::NotAccepting => "taking no calls now",
            Reason::Unreachable => "out of reach",
            Reason::Suspended => "lost or silent",
            Reason::Leaving => "leaving",
            Reason::BreakerOpen => "left alone after failures",
        };
        match tally.first(reason) {
            Some(e) if reason >= Reason::Unreachable => {
                parts.push(format!("{n} {what} ({}: {})", e.name, e.detail));
            }
            _ => parts.push(format!("{n} {what}")),
        }
    }
    let advice = if tally.count(Reason::BreakerOpen) > 0 {
        "try again shortly"
    } else if tally.count(Reason::PeerExcluded) > 0 {
        "exclude fewer peers"
    } else if tally.count(Reason::Privacy) > 0 {
        "allow it to travel further with `--privacy`, or host such an expert"
    } else if tally.count(Reason::PeerLabels) > 0 {
        "`polymath catalog show PEER` shows a peer's labels"
    } else if tally.count(Reason::Price) > 0 {
        "raise `--max-price`"
    } else if tally.count(Reason::VectorSpace) > 0 {
        "name the model to use another embedder"
    } else {
        "`polymath peers` shows who is connected"
    };
    format!(
        "nobody who could {kind} can be asked now: {}; {advice}",
        parts.join(", ")
    )
}

fn unknown_name(model: &str, kind: ExpertKind, index: &Index) -> String {
    let near = near_names(model, kind, index);
    let shown: String = model.chars().filter(|c| !c.is_control()).take(64).collect();
    let hint = if near.is_empty() {
        String::new()
    } else {
        format!("did you mean {}? ", list(near.into_iter()))
    };
    format!(
        "no expert or model is named '{shown}' in this mesh; {hint}`polymath experts` lists all"
    )
}

/// Names within a third of their length of the wanted one, or that contain it; nearest first.
fn near_names<'a>(wanted: &str, kind: ExpertKind, index: &'a Index) -> Vec<&'a str> {
    if wanted.is_empty() || wanted.len() > MAX_NAME {
        return Vec::new();
    }
    let wanted = wanted.to_lowercase();
    let names: BTreeSet<&str> = index
        .of_kind(kind)
        .flat_map(|e| [e.card.name.as_str(), e.card.model.name.as_str()])
        .collect();
    let mut near: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let limit = (wanted.len().max(lower.len()) / 3).max(1);
            let distance = edit_distance(&wanted, &lower);
            let part = wanted.len() >= 3 && lower.contains(&wanted);
            (distance <= limit || part).then_some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.into_iter()
        .take(MAX_NAMES)
        .map(|(_, name)| name)
        .collect()
}

/// Levenshtein's distance in characters, two swapped neighbours counting once (optimal string
/// alignment: what slips of the fingers look like).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, y) in b.iter().enumerate() {
            let substituted = above[j] + usize::from(x != y);
            row[j + 1] = substituted.min(row[j] + 1).min(above[j + 1] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && b[j - 1] == *x {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(MAX_NAMES);
    let shown: Vec<&str> = names.take(MAX_NAMES).collect();
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_changes() {
        for (a, b, d) in [
            ("", "", 0),
            ("", "abc", 3),
            ("chef", "chef", 0),
            ("chfe", "chef", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("abc", "", 3),
        ] {
            assert_eq!(edit_distance(a, b), d, "{a} {b}");
            assert_eq!(edit_distance(b, a), d, "{b} {a}");
        }
    }
}
