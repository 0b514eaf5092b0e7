//! Experts through the DHT: what this node serves is provided under its id, kind, name and model
//! name; what others provide is confirmed by an authenticated `Describe` call before it counts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use polymath_net::{Membership, Net};
use polymath_proto::v1;
use polymath_rpc::Clients;
use polymath_types::{
    Constraints, ExpertCard, ExpertId, ExpertKind, Format, Index, PeerId, PeerOffer,
};
use tokio::time::Instant;

/// Peers that the DHT names asked at most for one question.
const MOST_ASKED: usize = 64;
/// Connected members asked beside, who may serve it unannounced.
const MEMBERS_ASKED: usize = 32;
/// Time for others to answer after the first that serves what is wanted.
const MORE: Duration = Duration::from_millis(300);
/// How long a description is believed.
const BELIEVED: Duration = Duration::from_secs(120);
/// Peers whose description is kept.
const MOST_KNOWN: usize = 1024;
/// Experts taken from one description.
const MOST_EXPERTS: usize = 64;

/// The DHT keys under which an expert is found.
pub(crate) fn keys(card: &ExpertCard) -> Vec<Vec<u8>> {
    let names: BTreeSet<&str> = [card.name.as_str(), card.model.name.as_str()].into();
    let mut keys: Vec<Vec<u8>> = names
        .into_iter()
        .map(|n| format!("model:{n}").into_bytes())
        .collect();
    keys.push(format!("expert:{}", card.id()).into_bytes());
    keys.push(kind_key(card.kind));
    keys
}

/// The key under which every expert of a kind is found.
pub(crate) fn kind_key(kind: ExpertKind) -> Vec<u8> {
    format!("kind:{kind}").into_bytes()
}

/// The key to look a question's experts up by.
fn wanted(kind: ExpertKind, constraints: &Constraints) -> Vec<u8> {
    match &constraints.model {
        Some(name) if name.parse::<ExpertId>().is_ok() => format!("expert:{name}").into_bytes(),
        Some(name) => format!("model:{name}").into_bytes(),
        None => kind_key(kind),
    }
}

#[derive(Debug)]
struct Described {
    until: Instant,
    agent: String,
    cards: Vec<Arc<ExpertCard>>,
}

impl Described {
    fn serves(&self, kind: ExpertKind, constraints: &Constraints) -> bool {
        let named = |card: &ExpertCard, name: &String| Index::is_name(&card.id(), card, name);
        let model = constraints.model.as_ref();
        let mut cards = self.cards.iter().filter(|c| c.kind == kind);
        cards.any(|c| model.is_none_or(|name| named(c, name)))
    }
}

/// How a look-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookUp {
    /// Somebody serves what is wanted.
    Found,
    /// Nobody who could be asked does.
    Nobody,
    /// The time was over before everybody had answered.
    Unfinished,
}

/// Experts found through the DHT.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    peers: Mutex<HashMap<PeerId, Described>>,
}

impl Discovered {
    /// Asks the members connected here, and those the DHT names, what they serve; ends soon after one
    /// serves what is wanted, or when there is nobody left to ask.
    pub(crate) async fn look_up(
        &self,
        net: &Net,
        clients: &Clients,
        kind: ExpertKind,
        constraints: &Constraints,
        within: Duration,
    ) -> LookUp {
        let until = Instant::now() + within;
        let mut seen = BTreeSet::from([net.local_peer()]);
        let mut named = 0;
        let mut asked = FuturesUnordered::new();
        let ask = |peer| async move {
            let left = until.saturating_duration_since(Instant::now());
            let described = tokio::time::timeout(left, describe(clients, peer, left)).await;
            let described = described.unwrap_or_else(|_| Err("no answer in time".into()));
            (peer, described)
        };
        let members = net.peers().into_iter();
        for member in members.filter(|p| p.membership == Membership::Member) {
            if seen.len() <= MEMBERS_ASKED && seen.insert(member.peer) {
                asked.push(ask(member.peer));
            }
        }
        // Half of the time, so that those found can still be asked.
        let search = tokio::time::sleep(within / 2);
        let providers = net.look_up(&wanted(kind, constraints)).await;
        let providers = providers.inspect_err(|e| tracing::debug!("DHT lookup: {e}"));
        let providers = stream::iter(providers.ok()).flatten().take_until(search);
        let mut providers = std::pin::pin!(providers);
        let (mut searching, mut end) = (true, until);
        while searching || !asked.is_empty() {
            tokio::select! {
                found = providers.next(), if searching => match found {
                    Some(peer) if named < MOST_ASKED && seen.insert(peer) => {
                        named += 1;
                        asked.push(ask(peer));
                    }
                    Some(_) => {}
                    None => searching = false,
                },
                Some((peer, described)) = asked.next() => match described {
                    Ok(described) => {
                        let allowed = constraints.peer.is_none_or(|p| p == peer)
                            && !constraints.exclude.contains(&peer);
                        if allowed && described.serves(kind, constraints) {
                            end = end.min(Instant::now() + MORE);
                        }
                        self.insert(peer, described);
                    }
                    Err(why) => tracing::debug!(%peer, "its experts are not known: {why}"),
                },
                () = tokio::time::sleep_until(end) => break,
            }
        }
        if end < until {
            LookUp::Found
        } else if Instant::now() < until {
            LookUp::Nobody
        } else {
            LookUp::Unfinished
        }
    }

    fn insert(&self, peer: PeerId, described: Described) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        peers.retain(|_, d| d.until > now);
        if peers.len() < MOST_KNOWN || peers.contains_key(&peer) {
            peers.insert(peer, described);
        }
    }

    /// The catalog's index together with what was found.
    pub(crate) fn merged(&self, index: &Arc<Index>) -> Arc<Index> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh: Vec<_> = peers
            .iter()
            .filter(|(peer, d)| {
                d.until > now
                    && !index.peers().contains_key(peer)
                    && !index.charter().is_revoked(peer)
            })
            .collect();
        if fresh.is_empty() {
            return Arc::clone(index);
        }
        let mut merged = Index::clone(index);
        for (peer, described) in fresh {
            let cards: BTreeMap<ExpertId, &Arc<ExpertCard>> =
                described.cards.iter().map(|c| (c.id(), c)).collect();
            for (id, card) in &cards {
                merged.set_card(*id, Arc::clone(card));
            }
            let offer = PeerOffer {
                experts: cards.keys().copied().collect(),
                agent: described.agent.clone(),
                ..PeerOffer::default()
            };
            merged.set_offer(*peer, Arc::new(offer), |id| {
                cards.get(id).copied().map(Arc::clone)
            });
        }
        Arc::new(merged)
    }
}

async fn describe(clients: &Clients, peer: PeerId, within: Duration) -> Result<Described, String> {
    let mut client = clients
        .expert(peer, within)
        .await
        .map_err(|e| e.to_string())?;
    let request = v1::DescribeRequest {
        version: Format::Wire.current(),
    };
    let response = client
        .describe(request)
        .await
        .map_err(|s| s.message().to_owned())?
        .into_inner();
    Format::Wire
        .check(response.version)
        .map_err(|e| e.to_string())?;
    let cards = response
        .experts
        .into_iter()
        .take(MOST_EXPERTS)
        .filter(|e| e.ready)
        .filter_map(|e| {
            let card = ExpertCard::from_bytes(&e.card).ok()?;
            (card.id().as_bytes()[..] == e.id[..]).then(|| Arc::new(card))
        })
        .collect();
    let agent = response
        .agent
        .chars()
        .filter(|c| !c.is_control())
        .take(64)
        .collect();
    Ok(Described {
        until: Instant::now() + BELIEVED,
        agent,
        cards,
    })
}
