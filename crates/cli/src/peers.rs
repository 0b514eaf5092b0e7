//! `polymath peers`.

use std::{collections::BTreeSet, time::Duration};

use polymath_node::Control;
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure, Format};
use serde_json::{Value, json};

use crate::{args, output, screen, session::Session, views::failed};

/// Seconds between two looks.
const PAUSES: std::ops::RangeInclusive<f64> = 0.1..=3600.0;
/// Fewest characters of an id that people are shown.
const SHORTEST: usize = 6;
/// Experts named in a row.
const MOST_NAMED: usize = 3;

pub(crate) async fn run(session: Session, peers: args::Peers) -> Result<(), Failure> {
    let Some(seconds) = peers.watch else {
        let mut daemon = session.running().await?;
        let peers = ask(&mut daemon).await?;
        output::print(&session, &to_json(&peers), || text(&peers));
        return Ok(());
    };
    if !PAUSES.contains(&seconds) {
        return Err(Failure::new(
            ErrorKind::InvalidInput,
            format!(
                "--watch takes seconds from {} to {}",
                PAUSES.start(),
                PAUSES.end()
            ),
        ));
    }
    tokio::select! {
        ended = watch(&session, Duration::from_secs_f64(seconds)) => ended,
        // To be interrupted is how watching ends.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Shows them again and again: in place on a screen, else one below the other.
async fn watch(session: &Session, pause: Duration) -> Result<(), Failure> {
    let mut daemon = session.running().await?;
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        ticks.tick().await;
        let peers = ask(&mut daemon).await?;
        if !session.json {
            if screen::is_one() {
                output::raw(b"\x1b[H\x1b[2J\x1b[3J");
            } else if !first {
                output::raw(b"\n");
            }
        }
        first = false;
        output::print(session, &to_json(&peers), || text(&peers));
        if output::closed() {
            return Ok(());
        }
    }
}

async fn ask(daemon: &mut Control) -> Result<Vec<v1::Peer>, Failure> {
    let request = v1::PeersRequest {
        version: Format::Control.current(),
    };
    let peers = daemon.peers(request).await.map_err(failed)?;
    Ok(peers.into_inner().peers)
}

fn to_json(peers: &[v1::Peer]) -> Value {
    let peer = |p: &v1::Peer| {
        json!({
            "id": p.id, "connected": p.connected, "path": p.path, "transport": p.transport,
            "rtt_ms": p.rtt_ms, "received_bytes": p.received, "sent_bytes": p.sent, "age_ms": p.age_ms,
            "relay": p.relay, "agent": p.agent, "experts": p.experts, "addresses": p.addresses,
            "used": p.reason.is_empty(), "reason": p.reason, "detail": p.detail, "note": p.note,
            "last_failure": p.last_failure, "last_failure_age_ms": p.last_failure_age_ms,
        })
    };
    json!({ "peers": peers.iter().map(peer).collect::<Vec<_>>() })
}

fn text(peers: &[v1::Peer]) -> String {
    if peers.is_empty() {
        return "no peers yet: `polymath status` prints the address others join by".into();
    }
    let ids = Ids::of(peers);
    let rows: Vec<Vec<String>> = peers.iter().map(|p| row(p, &ids)).collect();
    screen::table(
        &[
            "PEER",
            "PATH",
            "TRANSPORT",
            "RTT",
            "IN/OUT",
            "AGE",
            "VERSION",
            "EXPERTS",
            "NOTE",
        ],
        &rows,
    )
}

fn row(p: &v1::Peer, ids: &Ids) -> Vec<String> {
    let connected = |text: String| {
        if p.connected { text } else { "-".to_owned() }
    };
    vec![
        ids.short(&p.id),
        connected(p.path.clone()),
        connected(p.transport.clone()),
        if p.rtt_ms > 0.0 {
            format!("{:.1} ms", p.rtt_ms)
        } else {
            "-".to_owned()
        },
        connected(format!("{}/{}", size(p.received), size(p.sent))),
        connected(age(Duration::from_millis(p.age_ms))),
        p.agent
            .strip_prefix("polymath/")
            .unwrap_or(&p.agent)
            .to_owned(),
        experts(&p.experts),
        ids.shortened(&p.note),
    ]
}

/// Bytes in few characters.
fn size(n: u64) -> String {
    output::bytes(n).replace(' ', "")
}

/// The greatest unit that fits, in few characters.
fn age(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

fn experts(names: &[String]) -> String {
    if names.is_empty() {
        return "-".into();
    }
    let shown: Vec<&str> = names.iter().take(MOST_NAMED).map(String::as_str).collect();
    match names.len() - shown.len() {
        0 => shown.join(","),
        more => format!("{} +{more}", shown.join(",")),
    }
}

/// Ids as people see them: as many of their last characters as tell them apart.
struct Ids {
    all: Vec<String>,
    length: usize,
}

impl Ids {
    fn of(peers: &[v1::Peer]) -> Self {
        let relays = peers.iter().map(|p| &p.relay).filter(|r| !r.is_empty());
        let all: BTreeSet<String> = peers.iter().map(|p| &p.id).chain(relays).cloned().collect();
        let longest = all.iter().map(String::len).max().unwrap_or(0);
        let differ = |n: &usize| {
            let ends: BTreeSet<&str> = all.iter().map(|id| end(id, *n)).collect();
            ends.len() == all.len()
        };
        let length = (SHORTEST..longest).find(differ).unwrap_or(longest);
        Self {
            all: all.into_iter().collect(),
            length,
        }
    }

    fn short(&self, id: &str) -> String {
        format!("…{}", end(id, self.length))
    }

    /// A text in which whole ids of listed peers are short.
    fn shortened(&self, text: &str) -> String {
        let shorten = |text: String, id: &String| text.replace(id.as_str(), &self.short(id));
        self.all.iter().fold(text.to_owned(), shorten)
    }
}

fn end(id: &str, length: usize) -> &str {
    id.get(id.len().saturating_sub(length)..).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str) -> v1::Peer {
        v1::Peer {
            id: id.to_owned(),
            ..v1::Peer::default()
        }
    }

    #[test]
    fn ids_are_as_long_as_tells_them_apart() {
        let ids = Ids::of(&[peer("12D3KooWaaaaaaaaXYZ"), peer("12D3KooWbbbbbbbbXYZ")]);
        assert_eq!(ids.short("12D3KooWaaaaaaaaXYZ"), "…aaaXYZ");
        let alike = Ids::of(&[peer("1a234567890"), peer("1b234567890")]);
        assert_eq!(alike.short("1a234567890"), "…a234567890");
        assert_eq!(
            alike.shortened("not used: peer 1b234567890 is down"),
            "not used: peer …b234567890 is down"
        );
    }

    #[test]
    fn rows_are_short() {
        assert_eq!(age(Duration::from_secs(59)), "59s");
        assert_eq!(age(Duration::from_secs(7300)), "2h");
        assert_eq!(size(1_234_567), "1.2MB");
        let names: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        assert_eq!(experts(&names), "a,b,c +1");
        assert_eq!(experts(&names[..1]), "a");
    }
}
