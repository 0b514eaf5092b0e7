//! Says in one line why the first candidate is first.

use polymath_types::{ExpertKind, PeerId, Query};

use crate::{
    filter::{Filtered, noun},
    ranking::Group,
    replica::Seat,
};

/// `groups` is sorted best first and not empty.
pub(crate) fn explain(
    query: &Query,
    filtered: &Filtered,
    groups: &[Group<'_>],
    vector_spaces: bool,
) -> String {
    let Some((best, rest)) = groups.split_first() else {
        return String::new();
    };
    format!(
        "{}; {}",
        choice(query, filtered, best, rest, vector_spaces),
        place(best)
    )
}

/// Says why the first is tried although another was expected to do better.
pub(crate) fn experiment(groups: &[Group<'_>]) -> String {
    let [tried, expected, ..] = groups else {
        return String::new();
    };
    format!(
        "{} is tried, so that it is learnt how well it answers ({:.2} is expected, {:.2} of {}); {}",
        tried.ranked.expert.card.name,
        tried.ranked.expected(),
        expected.ranked.expected(),
        expected.ranked.expert.card.name,
        place(tried)
    )
}

fn choice(
    query: &Query,
    filtered: &Filtered,
    best: &Group<'_>,
    rest: &[Group<'_>],
    vector_spaces: bool,
) -> String {
    let name = &best.ranked.expert.card.name;
    let what = noun(query.kind)
        .split_once(' ')
        .map_or("", |(_, noun)| noun);
    let topic = if query.kind == ExpertKind::Generate {
        "the question"
    } else {
        "the text"
    };
    if let Some((closer, their)) = closer_but_foreign(best, rest) {
        let own = best.ranked.quality.unwrap_or(0.0);
        let card = &closer.ranked.expert.card;
        return format!(
            "{} is closer to {topic} ({their:.2} over {own:.2}), but states {} only: {name}",
            card.name,
            card.languages.join(", ")
        );
    }
    let rival = rest
        .iter()
        .max_by(|a, b| a.ranked.content.total_cmp(&b.ranked.content));
    let Some(rival) = rival else {
        return match &query.constraints.model {
            Some(model) if model == name => format!("you asked for {name}"),
            Some(model) => format!("you asked for {model}, which is {name}"),
            None if vector_spaces => format!("{name} is the {what} most peers serve"),
            None if filtered.of_kind == 1 => format!("{name} is the only {what}"),
            None => format!("{name} is the only {what} that fits and can answer now"),
        };
    };
    let other = &rival.ranked.expert.card.name;
    if let Some((_, answers)) = best.ranked.learned.or(rival.ranked.learned)
        && best.ranked.content > rival.ranked.content
    {
        let (best, rival) = (best.ranked.expected(), rival.ranked.expected());
        return format!(
            "{name} is expected to answer {topic} best ({best:.2} over {other} {rival:.2}, by some {answers:.0} graded answers)"
        );
    }
    let (Some(own), Some(their)) = (best.ranked.quality, rival.ranked.quality) else {
        return match best.ranked.quality {
            Some(own) => {
                format!("{name} is closest to {topic} ({own:.2}; {other} could not be compared)")
            }
            None => format!(
                "no {what} could be compared with {topic}; {name} is expected to answer first"
            ),
        };
    };
    if best.ranked.content < rival.ranked.content || own == their {
        format!(
            "{name} and {other} are about equally close to {topic} ({own:.2}, {their:.2}), {name} is expected to be faster"
        )
    } else {
        format!("{name} is closest to {topic} ({own:.2} over {other} {their:.2})")
    }
}

/// The closest of those that lost by their language alone.
fn closer_but_foreign<'a, 'b>(
    best: &Group<'_>,
    rest: &'b [Group<'a>],
) -> Option<(&'b Group<'a>, f64)> {
    let own = best.ranked.quality?;
    rest.iter()
        .filter(|g| g.ranked.foreign && !best.ranked.foreign)
        .filter_map(|g| Some((g, g.ranked.quality?)))
        .filter(|(_, their)| *their > own)
        .max_by(|a, b| a.1.total_cmp(&b.1))
}

fn place(best: &Group<'_>) -> String {
    let Some(first) = best.seats.first() else {
        return String::new();
    };
    let place = label(first);
    let Some(second) = best.seats.get(1) else {
        return if first.here {
            "it runs on this node".into()
        } else {
            format!("it runs on {place}")
        };
    };
    let why = if first.familiar {
        format!("{place} had this conversation before")
    } else if first.step() == second.step() {
        if first.here {
            return format!("{} replicas, one of them on this node", best.replicas);
        } else if first.load < second.load {
            format!("{place} reports less load")
        } else if first.path < second.path {
            format!("{place} has the better path")
        } else {
            format!("{place} by lot among equals")
        }
    } else if first.in_flight < second.in_flight {
        format!(
            "{place} has fewer calls under way ({} over {})",
            first.in_flight, second.in_flight
        )
    } else if !first.expected.measured {
        format!("{place} has not been measured yet")
    } else if second.expected.measured && first.expected.ttft >= second.expected.ttft {
        let (a, b) = (first.expected.per_token, second.expected.per_token);
        format!(
            "{place} is faster ({:.0} ms a token over {:.0} ms)",
            a * 1e3,
            b * 1e3
        )
    } else {
        let (a, b) = (first.expected.ttft, second.expected.ttft);
        format!(
            "{place} is faster (TTFT {:.0} ms over {:.0} ms)",
            a * 1e3,
            b * 1e3
        )
    };
    format!("{} replicas, {why}", best.replicas)
}

fn label(seat: &Seat) -> String {
    if seat.here {
        "this node".into()
    } else {
        short(&seat.peer)
    }
}

/// A peer's id, shortened for people.
pub(crate) fn short(peer: &PeerId) -> String {
    let text = peer.to_base58();
    match (text.get(..4), text.get(text.len().saturating_sub(4)..)) {
        (Some(head), Some(tail)) if text.len() > 10 => format!("{head}…{tail}"),
        _ => text,
    }
}
