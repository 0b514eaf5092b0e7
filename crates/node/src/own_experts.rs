//! Adding, changing and taking out experts that the home defines: live on a running node, and at rest.
//!
//! The definition is on the disk before anything else changes. A running node then hosts it at once, and its
//! offer tells the others.

use std::collections::BTreeMap;

use polymath_blobs::Store;
use polymath_proto::v1::{self, expert_edit::Edit};
use polymath_types::{ErrorKind, ExpertCard, ExpertId, Failure, Terms};

use crate::{
    Home, HomeLock, Node,
    catalog::terms_to_proto,
    experts::{Card, Definition, Own, name_of},
    hosted::{Listed, State},
    terms::price_each_way,
};

/// What an edit came to.
enum Edited {
    /// To be hosted, with what is known of it already.
    Written(Definition, Card),
    Removed(Definition, bool),
}

/// What an edit adds. A server may be asked, which takes its time: other edits do not wait for it.
async fn added(own: &Own, edit: &Edit, hosted: &[String]) -> Result<Option<Definition>, Failure> {
    let Edit::Add(draft) = edit else {
        return Ok(None);
    };
    check_free(own, hosted, &draft.name)?;
    Definition::of_draft(draft).await.map(Some)
}

/// Carries an edit out on the disk; `hosted` are names that settings and flags have brought.
async fn edit(
    own: &Own,
    store: &Store,
    edit: Edit,
    added: Option<Definition>,
    hosted: &[String],
) -> Result<Edited, Failure> {
    let definition = match edit {
        Edit::Add(_) => {
            let definition = added.ok_or_else(|| {
                Failure::new(ErrorKind::Internal, "nothing was made of the draft")
            })?;
            check_free(own, hosted, &definition.name)?;
            definition
        }
        Edit::Change(draft) => {
            let mut definition = find(own, hosted, &draft.name)?;
            definition.change(&draft)?;
            definition
        }
        Edit::Pause(name) => with_pause(find(own, hosted, &name)?, true),
        Edit::Resume(name) => with_pause(find(own, hosted, &name)?, false),
        Edit::Remove(name) => {
            // One that is damaged can go, too.
            let damaged = !own.holds(&name) || own.get(&name).is_err();
            let definition = match find(own, hosted, &name) {
                Err(_) if own.holds(&name) => Definition::nameless(&name),
                found => found?,
            };
            own.remove(&name)?;
            return Ok(Edited::Removed(definition, damaged));
        }
    };
    let (folder, store, of) = (own.clone(), store.clone(), definition.clone());
    // Headers of files are read: off the async threads.
    let card = tokio::task::spawn_blocking(move || folder.card(of, &store)).await;
    let card = card.map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))??;
    own.write(&definition)?;
    Ok(Edited::Written(definition, card))
}

fn with_pause(mut definition: Definition, paused: bool) -> Definition {
    definition.set_paused(paused);
    definition
}

fn check_free(own: &Own, hosted: &[String], name: &str) -> Result<(), Failure> {
    let taken = |advice: String| {
        Err(Failure::new(
            ErrorKind::FailedPrecondition,
            format!("there is an expert '{name}' here already: {advice}"),
        ))
    };
    if own.holds(name) {
        return taken(format!(
            "change it with `polymath expert edit {name}`, or give this one another --name"
        ));
    }
    if hosted.iter().any(|h| h == name) {
        return taken("give this one another --name".to_owned());
    }
    Ok(())
}

fn find(own: &Own, hosted: &[String], name: &str) -> Result<Definition, Failure> {
    if !own.holds(name) && hosted.iter().any(|h| h == name) {
        return Err(Failure::new(
            ErrorKind::FailedPrecondition,
            format!(
                "'{name}' is hosted by the settings (`experts`) or by --expert, not by a definition in this home: change it there"
            ),
        ));
    }
    own.get(name)
}

fn wanted(edit: v1::ExpertEdit) -> Result<Edit, Failure> {
    edit.edit
        .ok_or_else(|| Failure::new(ErrorKind::InvalidInput, "the edit says nothing"))
}

/// An expert as it is when no node runs.
fn resting(definition: &Definition, card: Option<&ExpertCard>) -> v1::OwnExpert {
    v1::OwnExpert {
        name: definition.name.clone(),
        own: true,
        state: "resting".into(),
        detail: String::new(),
        id: card.map(|c| c.id().to_string()).unwrap_or_default(),
        paused: definition.is_paused(),
        card: card.map(|c| c.to_bytes().into()).unwrap_or_default(),
        definition: toml::to_string(definition).unwrap_or_default(),
        terms: definition.price().and_then(|p| price_each_way(p).ok()).map(
            |(price_in, price_out)| {
                terms_to_proto(Terms {
                    price_in,
                    price_out,
                    ..Terms::default()
                })
            },
        ),
    }
}

/// The card, where it is known without reading a file to its end.
fn known(card: &Card) -> Option<&ExpertCard> {
    match card {
        Card::Known(card) | Card::Outside(card, _) => Some(card),
        Card::Awaited(_) => None,
        Card::Defined(card, _) => known(card),
    }
}

/// Edits the experts of a home while no node runs; `named` is what its settings host.
pub async fn edit_expert_at_rest(
    home: &Home,
    _lock: &HomeLock,
    store: &Store,
    named: &[String],
    change: v1::ExpertEdit,
) -> Result<v1::OwnExpert, Failure> {
    let (own, change) = (Own::of(home), wanted(change)?);
    let hosted: Vec<String> = named.iter().filter_map(|n| name_of(n)).collect();
    let added = added(&own, &change, &hosted).await?;
    Ok(match edit(&own, store, change, added, &hosted).await? {
        Edited::Written(definition, card) => resting(&definition, known(&card)),
        Edited::Removed(definition, _) => resting(&definition, None),
    })
}

/// The experts that a home defines, while no node runs.
pub fn own_experts_at_rest(home: &Home, store: &Store) -> Result<Vec<v1::OwnExpert>, Failure> {
    let own = Own::of(home);
    let all = own.all()?.into_iter().map(|(name, definition)| {
        let described = definition.and_then(|definition| {
            let card = own.card(definition.clone(), store)?;
            Ok(resting(&definition, known(&card)))
        });
        described.unwrap_or_else(|e| damaged(name, &e))
    });
    Ok(all.collect())
}

fn damaged(name: String, error: &Failure) -> v1::OwnExpert {
    v1::OwnExpert {
        name,
        own: true,
        state: "damaged".into(),
        detail: error.message.clone(),
        ..v1::OwnExpert::default()
    }
}

impl Node {
    /// Edits the experts of the home, and hosts them as they are then.
    pub(crate) async fn edit_expert(
        &self,
        change: v1::ExpertEdit,
    ) -> Result<v1::OwnExpert, Failure> {
        let inner = &self.inner;
        let hosted = &inner.service.hosted;
        if inner.config.client {
            return Err(Failure::new(
                ErrorKind::FailedPrecondition,
                "this node hosts no experts (client): start it without --client first",
            ));
        }
        let (own, change) = (Own::of(&inner.home), wanted(change)?);
        let added = added(&own, &change, &self.foreign_names()).await?;
        // One edit at a time, each on what the one before left.
        let _turn = inner.editing.lock().await;
        let store = hosted.store().ok_or_else(|| {
            Failure::new(
                ErrorKind::Unavailable,
                "the node is still starting: try again shortly",
            )
        })?;
        match edit(&own, &store, change, added, &self.foreign_names()).await? {
            Edited::Written(definition, card) => {
                hosted.host(card)?;
                let mut now = self.own_experts()?.into_iter();
                // The latest: one before it may still be serving on.
                let now = now.rfind(|e| e.own && e.name == definition.name);
                Ok(now.unwrap_or_else(|| resting(&definition, None)))
            }
            Edited::Removed(definition, damaged) => {
                let mut was = resting(&definition, None);
                if !damaged
                    && let Some(id) = self.own_expert(&definition.name)
                    && let Some(card) = hosted.card(&id)
                {
                    was.id = id.to_string();
                    was.card = card.to_bytes().into();
                }
                while let Some(id) = self.own_expert(&definition.name) {
                    hosted.remove(&id);
                }
                was.state = "removed".into();
                Ok(was)
            }
        }
    }

    /// Names of the experts that settings and flags have brought.
    fn foreign_names(&self) -> Vec<String> {
        let all = self.inner.service.hosted.listed().into_iter();
        let foreign = all.filter(|l| !l.manner.own);
        foreign.map(|l| l.card.name.clone()).collect()
    }

    /// The key of the newest expert that the home defines under this name.
    fn own_expert(&self, name: &str) -> Option<ExpertId> {
        let all = self.inner.service.hosted.listed().into_iter();
        let own = all.filter(|l| l.manner.own && l.card.name == name);
        own.max_by_key(|l| l.edit).map(|l| l.card.id())
    }

    /// Every expert that is hosted here or defined in the home.
    pub(crate) fn own_experts(&self) -> Result<Vec<v1::OwnExpert>, Failure> {
        let inner = &self.inner;
        let mut definitions: BTreeMap<_, _> = Own::of(&inner.home).all()?.into_iter().collect();
        let mut all = Vec::new();
        let mut listed = inner.service.hosted.listed();
        // The newest of a name is the last of it.
        listed.sort_by_key(|l| l.edit);
        let own = listed.iter().filter(|l| l.manner.own);
        let taken: Vec<String> = own.map(|l| l.card.name.clone()).collect();
        for Listed {
            id,
            card,
            state,
            manner,
            edit: _,
        } in listed
        {
            let definition = manner.own.then(|| definitions.get(&card.name)).flatten();
            let definition = definition.and_then(|d| d.as_ref().ok());
            let cards = [card.clone()];
            let terms = inner.terms_of(&cards).into_values().next();
            let (state, detail) = state_name(state, id.is_none());
            all.push(v1::OwnExpert {
                name: card.name.clone(),
                own: manner.own,
                state: state.to_owned(),
                detail,
                id: id.map(|id| id.to_string()).unwrap_or_default(),
                paused: manner.paused,
                card: card.to_bytes().into(),
                definition: definition
                    .and_then(|d| toml::to_string(&d).ok())
                    .unwrap_or_default(),
                terms: terms.map(terms_to_proto),
            });
        }
        definitions.retain(|name, _| !taken.contains(name));
        // What was put there by hand, or could not be hosted.
        all.extend(definitions.into_iter().map(|(name, d)| match d {
            Ok(definition) => v1::OwnExpert {
                detail: "the node has not taken it up: its log says why".into(),
                ..resting(&definition, None)
            },
            Err(e) => damaged(name, &e),
        }));
        Ok(all)
    }
}

/// What a state is called, and why.
pub(crate) fn state_name(state: State, importing: bool) -> (&'static str, String) {
    match state {
        State::Loading => ("loading", String::new()),
        State::Pulling if importing => ("importing", String::new()),
        State::Pulling => ("pulling", String::new()),
        State::Ready => ("ready", String::new()),
        State::Failed(why) => ("failed", why),
    }
}
