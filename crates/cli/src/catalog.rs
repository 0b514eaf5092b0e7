//! `polymath catalog ls|show|history|verify|export|import`.
//!
//! What is shown is read from the store and verified from its bytes, whether a node runs or not: a
//! record that does not hold is named, and never shown as if it did.

mod observed;
pub(crate) mod terms;

use std::{collections::BTreeMap, path::Path};

use polymath_node::{FileError, History, Inspected, Step, from_file, inspect, to_file};
use polymath_proto::v1::{self, catalog_event::Event};
use polymath_types::{ErrorKind, ExpertId, Failure, Format, MeshId, PeerOffer};
use serde_json::{Value, json};
use toml::Table;

use crate::{args::CatalogVerb, charter, output, session::Session, signals, views::failed};

/// Frames of a file that are sent to the node in one call.
const FRAMES_A_CALL: usize = 8;
/// Larger than any catalog within its bounds.
const LARGEST_FILE: u64 = 1 << 30;

pub(crate) async fn run(session: Session, verb: CatalogVerb) -> Result<(), Failure> {
    session.begin(Table::new())?;
    match verb {
        CatalogVerb::Ls { watch: true } => watch(&session).await,
        CatalogVerb::Ls { watch: false } => ls(&session).await,
        CatalogVerb::Show { peer } => show(&session, &peer).await,
        CatalogVerb::History { peer } => history(&session, &peer).await,
        CatalogVerb::Verify => verify(&session).await,
        CatalogVerb::Export { file } => export(&session, &file).await,
        CatalogVerb::Import { file } => import(&session, &file).await,
    }
}

fn request() -> v1::CatalogRequest {
    v1::CatalogRequest {
        version: Format::Control.current(),
    }
}

/// The store's records, verified.
struct Known {
    mesh: MeshId,
    whole: Vec<Inspected>,
    names: BTreeMap<ExpertId, String>,
    /// Records that do not hold, and why.
    damaged: Vec<(String, String)>,
}

async fn known(session: &Session) -> Result<Known, Failure> {
    let home = session.home()?;
    let mesh = polymath_node::mesh_at_rest(&home)?;
    let records = match session.daemon().await? {
        Some(mut daemon) => {
            let answer = daemon.catalog_records(request()).await;
            let mut stream = answer.map_err(failed)?.into_inner();
            let mut records = Vec::new();
            while let Some(record) = stream.message().await.map_err(failed)? {
                records.push((record.name, record.bytes.to_vec()));
            }
            records
        }
        None => polymath_node::records_at_rest(&home, &home.lock()?)?,
    };
    let (mut whole, mut damaged) = (Vec::new(), Vec::new());
    for (name, bytes) in records {
        match inspect(&name, &bytes, &mesh) {
            Ok(record) => whole.push(record),
            Err(why) => damaged.push((name, why.to_string())),
        }
    }
    let cards = whole.iter().filter_map(|record| match record {
        Inspected::Card(id, card) => Some((*id, card.name.clone())),
        Inspected::Offer(_) | Inspected::Charter(..) | Inspected::Observations(..) => None,
    });
    let names = cards.collect();
    Ok(Known {
        mesh,
        whole,
        names,
        damaged,
    })
}

fn ambiguous(peer: &str) -> Failure {
    let what = format!("several peers end in '{peer}'; give more of the id");
    Failure::new(ErrorKind::InvalidInput, what)
}

impl Known {
    fn histories(&self) -> impl Iterator<Item = &History> {
        self.whole.iter().filter_map(|record| match record {
            Inspected::Offer(history) => Some(history),
            Inspected::Card(..) | Inspected::Charter(..) | Inspected::Observations(..) => None,
        })
    }

    fn of(&self, peer: &str) -> Result<&History, Failure> {
        let mut named = self
            .histories()
            .filter(|h| !peer.is_empty() && h.author.to_string().ends_with(peer));
        let found = named.next().ok_or_else(|| {
            let what = format!(
                "no offer of a peer '{peer}' is known; `polymath catalog ls` lists those that are"
            );
            Failure::new(ErrorKind::NotFound, what)
        })?;
        if named.next().is_some() {
            return Err(ambiguous(peer));
        }
        Ok(found)
    }

    /// What an expert is called, or the beginning of its id while its card is missing.
    fn name(&self, id: &ExpertId) -> String {
        let name = self.names.get(id).cloned();
        name.unwrap_or_else(|| format!("{:.8}?", id.to_string()))
    }

    fn experts(&self, offer: &PeerOffer) -> String {
        let names: Vec<String> = offer.experts.iter().map(|id| self.name(id)).collect();
        names.join(", ")
    }

    fn json(&self, peer: &str, offer: &PeerOffer) -> Value {
        let expert = |id: &ExpertId| {
            let mut value = terms::json(offer.terms_of(id));
            value["id"] = id.to_string().into();
            value["name"] = self.names.get(id).cloned().into();
            value
        };
        json!({
            "peer": peer, "epoch": offer.epoch, "sequence": offer.sequence, "agent": offer.agent,
            "addresses": offer.addresses, "labels": offer.labels,
            "experts": offer.experts.iter().map(expert).collect::<Vec<_>>(),
        })
    }

    /// Says on standard error how many records were left out.
    fn warn(&self) {
        if !self.damaged.is_empty() {
            output::note(&format!(
                "{} damaged record(s) left out: see `polymath catalog verify`",
                self.damaged.len()
            ));
        }
    }
}

async fn ls(session: &Session) -> Result<(), Failure> {
    let known = known(session).await?;
    known.warn();
    let offers = || known.histories().filter_map(|h| Some((h, h.offer()?)));
    let all = offers().map(|(h, offer)| known.json(&h.author.to_string(), offer));
    let observed: Vec<Value> = known.observations().map(|o| o.summary()).collect();
    let value = json!({ "offers": all.collect::<Vec<_>>(), "observations": observed });
    output::print(session, &value, || {
        let rows: Vec<Vec<String>> = offers()
            .map(|(h, offer)| {
                vec![
                    h.author.to_string(),
                    format!("{}.{}", offer.epoch, offer.sequence),
                    offer.agent.clone(),
                    known.experts(offer),
                ]
            })
            .collect();
        let offers = if rows.is_empty() {
            "no offer is known yet".to_owned()
        } else {
            output::table(&["PEER", "VERSION", "AGENT", "EXPERTS"], &rows)
        };
        match observed::table(&known) {
            Some(observers) => format!("{offers}\n\n{observers}"),
            None => offers,
        }
    });
    Ok(())
}

async fn watch(session: &Session) -> Result<(), Failure> {
    let answer = session.running().await?.catalog_watch(request()).await;
    let mut stream = answer.map_err(failed)?.into_inner();
    let interrupted = signals::told_to_end();
    tokio::pin!(interrupted);
    loop {
        let event = tokio::select! {
            event = stream.message() => event.map_err(failed)?,
            _ = &mut interrupted => return Ok(()),
        };
        let Some(event) = event else {
            return Err(Failure::new(
                ErrorKind::Unavailable,
                "the node has stopped: start it again with `polymath up`",
            ));
        };
        match event.event {
            Some(event) => print_event(session, &event),
            None => continue,
        }
        if output::closed() {
            return Ok(());
        }
    }
}

fn print_event(session: &Session, event: &Event) {
    match event {
        Event::Offer(offer) => {
            let expert = |e: &v1::CatalogExpert| {
                let mut value = terms::json(terms::from_proto(e.terms));
                value["id"] = e.id.as_str().into();
                value["name"] = Some(e.name.as_str()).filter(|n| !n.is_empty()).into();
                value
            };
            let labels: BTreeMap<_, _> = offer.labels.iter().collect();
            let value = json!({
                "event": "offer", "peer": offer.peer, "epoch": offer.epoch, "sequence": offer.sequence,
                "agent": offer.agent, "addresses": offer.addresses, "labels": labels,
                "experts": offer.experts.iter().map(expert).collect::<Vec<_>>(),
            });
            output::print(session, &value, || {
                let name = |e: &v1::CatalogExpert| match e.name.as_str() {
                    "" => format!("{:.8}?", e.id),
                    name => name.to_owned(),
                };
                let experts: Vec<String> = offer.experts.iter().map(name).collect();
                let version = format!("{}.{}", offer.epoch, offer.sequence);
                format!("{}  {version}  {}", offer.peer, experts.join(", "))
            });
        }
        Event::Gone(peer) => {
            let value = json!({ "event": "gone", "peer": peer });
            output::print(session, &value, || format!("{peer}  gone"));
        }
        Event::Charter(view) => {
            output::print(session, &charter::whole_json(view), || charter::line(view));
        }
        Event::Complete(_) => {
            let value = json!({ "event": "complete" });
            output::print(session, &value, || {
                "that is all that is known; changes follow".to_owned()
            });
        }
    }
}

async fn show(session: &Session, peer: &str) -> Result<(), Failure> {
    let known = known(session).await?;
    known.warn();
    let observed = known.observed_by(peer)?;
    // Whoever only asks observes, and offers nothing.
    let history = match known.of(peer) {
        Err(failure) if observed.is_none() || failure.kind != ErrorKind::NotFound => {
            return Err(failure);
        }
        found => found.ok(),
    };
    if let (Some(history), Some(observed)) = (history, &observed)
        && history.author.to_string() != observed.author
    {
        return Err(ambiguous(peer));
    }
    let offer = history.and_then(|h| Some((h.author.to_string(), h.offer()?)));
    let mut value = match (&offer, &observed) {
        (Some((peer, offer)), _) => known.json(peer, offer),
        (None, Some(observed)) => json!({ "peer": observed.author }),
        (None, None) => return Ok(()),
    };
    if let Some(observed) = &observed {
        value["observations"] = observed.json(&known);
    }
    output::print(session, &value, || {
        let mut lines = Vec::new();
        if let Some((peer, offer)) = &offer {
            lines.extend(shown(&known, peer, offer));
        }
        if let Some(observed) = &observed {
            if offer.is_none() {
                lines.push(format!("peer       {}", observed.author));
            }
            lines.extend(observed.lines(&known));
        }
        lines.join("\n")
    });
    Ok(())
}

/// What a peer offers, for people.
fn shown(known: &Known, peer: &str, offer: &PeerOffer) -> Vec<String> {
    let experts = offer.experts.iter().map(|id| {
        let stated = terms::stated(offer.terms_of(id));
        format!("{} ({id}){stated}", known.name(id))
    });
    let experts: Vec<String> = experts.collect();
    let mut lines = vec![
        format!("peer       {peer}"),
        format!(
            "version    epoch {}, change {}",
            offer.epoch, offer.sequence
        ),
        format!("agent      {}", offer.agent),
        format!("addresses  {}", offer.addresses.join("\n           ")),
        format!("experts    {}", experts.join("\n           ")),
    ];
    if !offer.labels.is_empty() {
        lines.push(format!("labels     {}", terms::labels(&offer.labels)));
    }
    lines
}

async fn history(session: &Session, peer: &str) -> Result<(), Failure> {
    let known = known(session).await?;
    known.warn();
    let history = known.of(peer)?;
    let peer = history.author.to_string();
    let steps = history.steps.iter().map(|step| {
        let mut value = known.json(&peer, &step.offer);
        value["operations"] = step.operations.into();
        value["bytes"] = step.change.change.len().into();
        value
    });
    let value = json!({ "peer": peer, "changes": steps.collect::<Vec<_>>() });
    output::print(session, &value, || {
        let row = |step: &Step| {
            vec![
                format!("{}.{}", step.offer.epoch, step.offer.sequence),
                step.change.change.len().to_string(),
                step.operations.to_string(),
                step.offer.addresses.len().to_string(),
                known.experts(&step.offer),
            ]
        };
        let rows: Vec<_> = history.steps.iter().map(row).collect();
        output::table(
            &["VERSION", "BYTES", "OPERATIONS", "ADDRESSES", "EXPERTS"],
            &rows,
        )
    });
    Ok(())
}

async fn verify(session: &Session) -> Result<(), Failure> {
    let known = known(session).await?;
    let offers = known.histories().count();
    let charters = known.whole.iter().filter_map(|record| match record {
        Inspected::Charter(_, changes) => Some(changes.len()),
        _ => None,
    });
    let charters: Vec<usize> = charters.collect();
    let observations: Vec<usize> = known.observations().map(|o| o.changes).collect();
    let of_offers: usize = known.histories().map(|h| h.steps.len()).sum();
    let changes = of_offers + charters.iter().chain(&observations).sum::<usize>();
    let (charters, observations) = (charters.len(), observations.len());
    let cards = known.whole.len() - offers - charters - observations;
    let damaged = |(name, why): &(String, String)| json!({ "record": name, "why": why });
    let value = json!({
        "offers": offers, "charters": charters, "observations": observations, "changes": changes, "cards": cards,
        "damaged": known.damaged.iter().map(damaged).collect::<Vec<_>>(),
    });
    if !known.damaged.is_empty() {
        output::end_with(ErrorKind::DataLoss);
    }
    output::print(session, &value, || {
        let mut lines = vec![format!(
            "{offers} offers, {charters} charter and {observations} observations documents with {changes} signed changes, and {cards} cards hold"
        )];
        let bad = known.damaged.iter();
        lines.extend(bad.map(|(name, why)| format!("damaged: {name}: {why}")));
        if !known.damaged.is_empty() {
            lines.push("peers bring what is damaged again: restart the node with `polymath down` and `polymath up`".to_owned());
        }
        lines.join("\n")
    });
    Ok(())
}

async fn export(session: &Session, path: &Path) -> Result<(), Failure> {
    let known = known(session).await?;
    known.warn();
    let bytes = to_file(&known.mesh, &known.whole);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &bytes));
    written.map_err(|e| {
        let what = format!(
            "cannot write {}: {e}; name a file that is not there yet",
            path.display()
        );
        Failure::new(ErrorKind::InvalidInput, what)
    })?;
    let (offers, cards) = (known.histories().count(), known.names.len());
    let of = |kind: fn(&Inspected) -> bool| known.whole.iter().filter(|r| kind(r)).count();
    let observers = of(|r| matches!(r, Inspected::Observations(..)));
    let admins = of(|r| matches!(r, Inspected::Charter(..)));
    let value = json!({
        "file": path.display().to_string(), "bytes": bytes.len(), "offers": offers, "cards": cards,
        "observations": observers, "charters": admins,
    });
    output::print(session, &value, || {
        let size = output::bytes(bytes.len() as u64);
        format!(
            "{offers} offers, {cards} cards, what {admins} admin(s) laid down and {observers} peer(s) observed, {size}, in {}",
            path.display()
        )
    });
    Ok(())
}

async fn import(session: &Session, path: &Path) -> Result<(), Failure> {
    let unusable = |why: String| {
        let what = format!("{} cannot be imported: {why}", path.display());
        Failure::new(ErrorKind::InvalidInput, what)
    };
    let size = std::fs::metadata(path)
        .map_err(|e| unusable(e.to_string()))?
        .len();
    if size > LARGEST_FILE {
        return Err(unusable("it is larger than any catalog".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|e| unusable(e.to_string()))?;
    let home = session.home()?;
    let mesh = polymath_node::mesh_at_rest(&home)?;
    let frames = from_file(&bytes, &mesh).map_err(|e: FileError| unusable(e.to_string()))?;
    let taken = match session.daemon().await? {
        Some(mut daemon) => {
            let mut all = v1::CatalogImportResponse::default();
            for frames in frames.chunks(FRAMES_A_CALL) {
                let request = v1::CatalogImportRequest {
                    version: Format::Control.current(),
                    frames: frames.to_vec(),
                };
                let taken = daemon.catalog_import(request).await.map_err(failed)?;
                let taken = taken.into_inner();
                all.changes += taken.changes;
                all.cards += taken.cards;
                all.repeats += taken.repeats;
                for (reason, n) in taken.refused {
                    *all.refused.entry(reason).or_default() += n;
                }
            }
            all
        }
        None => polymath_node::import_at_rest(&home, &home.lock()?, frames)?,
    };
    let refused: BTreeMap<_, _> = taken.refused.iter().collect();
    let value = json!({
        "changes": taken.changes, "cards": taken.cards, "known": taken.repeats, "refused": refused,
    });
    output::print(session, &value, || {
        let mut text = format!(
            "{} changes and {} cards were taken, {} were known",
            taken.changes, taken.cards, taken.repeats
        );
        for (reason, n) in refused {
            text.push_str(&format!("\n{n} refused: {reason}"));
        }
        text
    });
    Ok(())
}
