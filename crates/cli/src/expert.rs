//! `polymath expert add|edit|show|pause|resume|rm|ls`: at once where a node runs, else at its next start.

use std::path::Path;

use polymath_proto::v1::{self, expert_edit::Edit};
use polymath_types::{ErrorKind, ExpertCard, Failure, Format};
use serde_json::{Value, json};
use toml::Table;

use crate::{
    args::{ExpertAdd, ExpertSays, ExpertVerb},
    catalog::terms,
    output,
    session::Session,
    views::failed,
};

pub(crate) async fn run(session: Session, verb: ExpertVerb) -> Result<(), Failure> {
    session.begin(Table::new())?;
    match verb {
        ExpertVerb::Add(add) => {
            let draft = added(*add)?;
            edit(&session, Edit::Add(draft)).await
        }
        ExpertVerb::Edit { name, says } => {
            let draft = said(says)?;
            if draft == v1::ExpertDraft::default() {
                return Err(Failure::new(
                    ErrorKind::InvalidInput,
                    "nothing to change: say what, such as --describe TEXT or --price 0.5/1.5",
                ));
            }
            edit(&session, Edit::Change(v1::ExpertDraft { name, ..draft })).await
        }
        ExpertVerb::Pause { name } => edit(&session, Edit::Pause(name)).await,
        ExpertVerb::Resume { name } => edit(&session, Edit::Resume(name)).await,
        ExpertVerb::Rm { name } => edit(&session, Edit::Remove(name)).await,
        ExpertVerb::Show { name } => show(&session, &name).await,
        ExpertVerb::Ls => list(&session).await,
    }
}

fn added(add: ExpertAdd) -> Result<v1::ExpertDraft, Failure> {
    let path = add.path.as_deref().map(absolute).transpose()?;
    Ok(v1::ExpertDraft {
        name: add.name.unwrap_or_default(),
        path: path.unwrap_or_default(),
        url: add.upstream.unwrap_or_default(),
        model: add.model.unwrap_or_default(),
        kind: add.kind,
        ..said(add.says)?
    })
}

fn said(says: ExpertSays) -> Result<v1::ExpertDraft, Failure> {
    let file = says.api_key_file.as_deref().map(absolute).transpose()?;
    Ok(v1::ExpertDraft {
        api_key_file: file.unwrap_or_default(),
        api_key_env: says.api_key_env.unwrap_or_default(),
        concurrency: says.concurrency,
        description: says.describe,
        system: says.system,
        examples: says.examples,
        labels: says.labels,
        price: says.price,
        max_tokens: says.max_tokens,
        temperature: says.temperature,
        ..v1::ExpertDraft::default()
    })
}

/// The node may run in another folder.
fn absolute(path: &Path) -> Result<String, Failure> {
    let bad = |why: String| {
        Failure::new(
            ErrorKind::InvalidInput,
            format!("the path {} cannot be used: {why}", path.display()),
        )
    };
    let absolute = std::path::absolute(path).map_err(|e| bad(e.to_string()))?;
    let text = absolute.into_os_string().into_string();
    text.map_err(|_| bad("it is no UTF-8".into()))
}

async fn edit(session: &Session, edit: Edit) -> Result<(), Failure> {
    let done = match &edit {
        Edit::Add(_) => "added",
        Edit::Change(_) => "changed",
        Edit::Pause(_) => "paused",
        Edit::Resume(_) => "resumed",
        Edit::Remove(_) => "removed",
    };
    let change = v1::ExpertEdit { edit: Some(edit) };
    let (expert, live) = match session.daemon().await? {
        Some(mut daemon) => {
            let request = v1::EditExpertRequest {
                version: Format::Control.current(),
                edit: Some(change),
            };
            let edited = daemon.edit_expert(request).await.map_err(failed)?;
            (edited.into_inner().expert.unwrap_or_default(), true)
        }
        None => {
            let home = session.home()?;
            let lock = home.lock()?;
            let config = session.config(Table::new())?.config;
            let store = session.store(&config)?;
            let named = &config.experts;
            let edited = polymath_node::edit_expert_at_rest(&home, &lock, &store, named, change);
            (edited.await?, false)
        }
    };
    let value = json!({ "done": done, "live": live, "expert": expert_json(&expert) });
    output::print(session, &value, || {
        let name = &expert.name;
        let what = match done {
            "paused" => " for peers; your own questions are answered",
            _ => "",
        };
        let next = match (live, expert.state.as_str()) {
            (false, _) => ": it holds from the next `polymath up`".to_owned(),
            (true, "ready" | "removed") => String::new(),
            (true, "failed") => format!(", but it cannot be served: {}", expert.detail),
            (true, state) => format!(", {state}: `polymath expert show {name}` says how far it is"),
        };
        format!("{done} {name}{what}{next}")
    });
    Ok(())
}

async fn all(session: &Session) -> Result<Vec<v1::OwnExpert>, Failure> {
    match session.daemon().await? {
        Some(mut daemon) => {
            let request = v1::OwnExpertsRequest {
                version: Format::Control.current(),
            };
            let listed = daemon.own_experts(request).await.map_err(failed)?;
            Ok(listed.into_inner().experts)
        }
        None => {
            let store = session.store(&session.config(Table::new())?.config)?;
            polymath_node::own_experts_at_rest(&session.unopened_home()?, &store)
        }
    }
}

async fn show(session: &Session, name: &str) -> Result<(), Failure> {
    let all = all(session).await?;
    let Some(expert) = all.iter().find(|e| e.name == name) else {
        let names: Vec<&str> = all.iter().map(|e| e.name.as_str()).collect();
        let advice = match names.as_slice() {
            [] => "there is none yet, `polymath expert add` makes one".to_owned(),
            names => format!("there is {}", names.join(", ")),
        };
        return Err(Failure::new(
            ErrorKind::NotFound,
            format!("this home has no expert called '{name}': {advice}"),
        ));
    };
    output::print(session, &json!({ "expert": expert_json(expert) }), || {
        let mut lines = vec![
            format!("name      {}", expert.name),
            format!("state     {}", state(expert)),
        ];
        if !expert.id.is_empty() {
            lines.push(format!("id        {}", expert.id));
        }
        if let Some(card) = card(expert) {
            lines.push(format!("kind      {}", card.kind));
            lines.push(format!("model     {}", card.model.name));
            lines.push(format!("licence   {}", card.model.licence));
            if card.model.context_length > 0 {
                lines.push(format!("context   {} tokens", card.model.context_length));
            }
            if !card.capabilities.is_empty() {
                lines.push(format!("says      {}", card.capabilities.join(", ")));
            }
        }
        lines.push(format!(
            "price     {}",
            terms::price(terms::from_proto(expert.terms))
        ));
        if !expert.definition.is_empty() {
            lines.push(String::new());
            lines.push(expert.definition.trim_end().to_owned());
        }
        lines.join("\n")
    });
    Ok(())
}

async fn list(session: &Session) -> Result<(), Failure> {
    let all = all(session).await?;
    let values: Vec<Value> = all.iter().map(expert_json).collect();
    output::print(session, &json!({ "experts": values }), || {
        if all.is_empty() {
            return "no experts yet: `polymath expert add FILE.gguf`, or `polymath expert add --upstream URL --model M`".into();
        }
        let rows: Vec<Vec<String>> = all
            .iter()
            .map(|e| {
                let card = card(e);
                let of = |f: fn(&ExpertCard) -> String| card.as_ref().map(f).unwrap_or_default();
                vec![
                    e.name.clone(),
                    of(|c| c.kind.to_string()),
                    of(|c| c.model.name.clone()),
                    terms::price(terms::from_proto(e.terms)),
                    if e.own { "this home" } else { "settings" }.to_owned(),
                    state(e),
                ]
            })
            .collect();
        output::table(
            &["EXPERT", "KIND", "MODEL", "PRICE", "FROM", "STATE"],
            &rows,
        )
    });
    Ok(())
}

fn card(expert: &v1::OwnExpert) -> Option<ExpertCard> {
    ExpertCard::from_bytes(&expert.card).ok()
}

fn state(expert: &v1::OwnExpert) -> String {
    let paused = if expert.paused {
        ", paused for peers"
    } else {
        ""
    };
    match expert.detail.as_str() {
        "" => format!("{}{paused}", expert.state),
        detail => format!("{}{paused}: {detail}", expert.state),
    }
}

fn expert_json(expert: &v1::OwnExpert) -> Value {
    let definition: Option<Table> = expert
        .definition
        .parse()
        .ok()
        .filter(|t: &Table| !t.is_empty());
    json!({
        "name": expert.name, "own": expert.own, "state": expert.state, "detail": expert.detail,
        "id": expert.id, "paused": expert.paused, "card": card(expert), "definition": definition,
        "terms": terms::json(terms::from_proto(expert.terms)),
    })
}
