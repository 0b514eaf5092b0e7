//! `polymath mesh admin|role|revoked|alias|category|codebook`: what the mesh's admins lay down.

use polymath_proto::v1::{self, charter_edit::Edit};
use polymath_types::{Failure, Format};
use serde_json::{Value, json};
use toml::Table;

use crate::{
    args::{AdminVerb, AliasVerb, CategoryVerb, CharterVerb, CodebookVerb, RevokedVerb, RoleVerb},
    output,
    session::Session,
    views::failed,
};

/// What a verb is about, as its lists are headed and keyed.
#[derive(Debug, Clone, Copy)]
enum Section {
    Admins,
    Roles,
    Revoked,
    Aliases,
    Categories,
    Codebooks,
}

pub(crate) async fn run(session: &Session, verb: CharterVerb) -> Result<(), Failure> {
    session.begin(Table::new())?;
    let (section, change) = match verb {
        CharterVerb::Admin { verb } => (Section::Admins, admin(verb)),
        CharterVerb::Role { verb } => (Section::Roles, role(verb)),
        CharterVerb::Revoked { verb } => (Section::Revoked, revoked(verb)),
        CharterVerb::Alias { verb } => (Section::Aliases, alias(verb)),
        CharterVerb::Category { verb } => (Section::Categories, category(verb)),
        CharterVerb::Codebook { verb } => (Section::Codebooks, codebook(verb)),
    };
    match change {
        None => list(session, section).await,
        Some((edit, done)) => lay_down(session, section, edit, &done).await,
    }
}

fn keyed(key: &str, says: Vec<String>) -> v1::KeyedEdit {
    let key = key.to_owned();
    v1::KeyedEdit { key, says }
}

/// An edit and what is said when it is done; nothing for a verb that only looks.
type Change = Option<(Edit, String)>;

fn admin(verb: AdminVerb) -> Change {
    match verb {
        AdminVerb::Ls => None,
        AdminVerb::Add { peer } => {
            let done = format!("{peer} is an admin of this mesh");
            Some((Edit::Appoint(peer), done))
        }
        AdminVerb::Remove { peer, void } => {
            let gone = if void {
                ", and what it laid down is void"
            } else {
                ""
            };
            let done = format!("{peer} is no admin of this mesh any more{gone}");
            Some((Edit::Dismiss(v1::DismissEdit { peer, void }), done))
        }
    }
}

fn role(verb: RoleVerb) -> Change {
    match verb {
        RoleVerb::Ls => None,
        RoleVerb::Set { peer, role } => {
            let done = format!("{peer} has the role '{role}'");
            Some((Edit::Role(keyed(&peer, vec![role])), done))
        }
        RoleVerb::Remove { peer } => {
            let done = format!("{peer} has no role any more");
            Some((Edit::Role(keyed(&peer, Vec::new())), done))
        }
    }
}

fn revoked(verb: RevokedVerb) -> Change {
    match verb {
        RevokedVerb::Ls => None,
        RevokedVerb::Add { peer } => {
            let done =
                format!("{peer} is shut out: members end its connections as they hear of it");
            Some((Edit::Revoke(peer), done))
        }
        RevokedVerb::Remove { peer } => {
            let done = format!("{peer} may come in again");
            Some((Edit::Readmit(peer), done))
        }
    }
}

fn alias(verb: AliasVerb) -> Change {
    match verb {
        AliasVerb::Ls => None,
        AliasVerb::Set { name, expert } => {
            let done = format!("'{name}' stands for {expert}");
            Some((Edit::Alias(keyed(&name, vec![expert])), done))
        }
        AliasVerb::Remove { name } => {
            let done = format!("'{name}' stands for nothing any more");
            Some((Edit::Alias(keyed(&name, Vec::new())), done))
        }
    }
}

fn category(verb: CategoryVerb) -> Change {
    match verb {
        CategoryVerb::Ls => None,
        CategoryVerb::Set { name, experts } => {
            let done = format!("questions of '{name}' suit {}", experts.join(", "));
            Some((Edit::Category(keyed(&name, experts)), done))
        }
        CategoryVerb::Remove { name } => {
            let done = format!("nothing is said of '{name}' any more");
            Some((Edit::Category(keyed(&name, Vec::new())), done))
        }
    }
}

fn codebook(verb: CodebookVerb) -> Change {
    match verb {
        CodebookVerb::Ls => None,
        CodebookVerb::Set { name, version } => {
            let done = format!("version {version} of codebook '{name}' is in use");
            let says = vec![version.to_string()];
            Some((Edit::Codebook(keyed(&name, says)), done))
        }
        CodebookVerb::Remove { name } => {
            let done = format!("nothing is said of codebook '{name}' any more");
            Some((Edit::Codebook(keyed(&name, Vec::new())), done))
        }
    }
}

async fn list(session: &Session, section: Section) -> Result<(), Failure> {
    let view = match session.daemon().await? {
        Some(mut daemon) => {
            let version = Format::Control.current();
            let view = daemon.charter(v1::CharterRequest { version }).await;
            view.map_err(failed)?.into_inner()
        }
        None => {
            let home = session.home()?;
            polymath_node::charter_at_rest(&home, &home.lock()?)?
        }
    };
    output::print(session, &section.json(&view), || section.text(&view));
    Ok(())
}

async fn lay_down(
    session: &Session,
    section: Section,
    edit: Edit,
    done: &str,
) -> Result<(), Failure> {
    let edit = v1::CharterEdit { edit: Some(edit) };
    let answer = match session.daemon().await? {
        Some(mut daemon) => {
            let request = v1::EditCharterRequest {
                version: Format::Control.current(),
                edit: Some(edit),
            };
            let answer = daemon.edit_charter(request).await;
            answer.map_err(failed)?.into_inner()
        }
        None => {
            let home = session.home()?;
            polymath_node::edit_charter_at_rest(&home, &home.lock()?, edit)?
        }
    };
    let mut value = section.json(&answer.charter.unwrap_or_default());
    value["changed"] = answer.changed.into();
    value["unknown"] = answer.unknown.clone().into();
    for name in &answer.unknown {
        eprintln!(
            "nobody is known here to offer '{name}' now: `polymath experts` shows who is there"
        );
    }
    output::print(session, &value, || {
        let before = if answer.changed { "" } else { " already" };
        format!("{done}{before}")
    });
    Ok(())
}

impl Section {
    const fn key(self) -> &'static str {
        match self {
            Self::Admins => "admins",
            Self::Roles => "roles",
            Self::Revoked => "revoked",
            Self::Aliases => "aliases",
            Self::Categories => "categories",
            Self::Codebooks => "codebooks",
        }
    }

    fn statements(self, view: &v1::CharterView) -> &[v1::Statement] {
        match self {
            Self::Admins => &[],
            Self::Roles => &view.roles,
            Self::Revoked => &view.revoked,
            Self::Aliases => &view.aliases,
            Self::Categories => &view.categories,
            Self::Codebooks => &view.codebooks,
        }
    }

    fn json(self, view: &v1::CharterView) -> Value {
        let one = |s: &v1::Statement| {
            let first = s.says.first();
            match self {
                Self::Admins => Value::Null,
                Self::Roles => json!({ "peer": s.key, "role": first, "by": s.by }),
                Self::Revoked => json!({ "peer": s.key, "by": s.by }),
                Self::Aliases => json!({ "name": s.key, "expert": first, "by": s.by }),
                Self::Categories => json!({ "name": s.key, "experts": s.says, "by": s.by }),
                Self::Codebooks => {
                    let version = first.and_then(|v| v.parse::<u64>().ok());
                    json!({ "name": s.key, "version": version, "by": s.by })
                }
            }
        };
        let admin = |a: &v1::AdminView| json!({ "peer": a.peer, "by": (!a.by.is_empty()).then_some(&a.by) });
        let all: Vec<Value> = match self {
            Self::Admins => view.admins.iter().map(admin).collect(),
            _ => self.statements(view).iter().map(one).collect(),
        };
        json!({ self.key(): all })
    }

    fn text(self, view: &v1::CharterView) -> String {
        let (columns, none): (&[&str], &str) = match self {
            Self::Admins => (&["ADMIN", "APPOINTED BY"], "there are no admins"),
            Self::Roles => (&["PEER", "ROLE", "SET BY"], "nobody has a role"),
            Self::Revoked => (&["PEER", "REVOKED BY"], "nobody is shut out"),
            Self::Aliases => (&["ALIAS", "EXPERT", "SET BY"], "there are no aliases"),
            Self::Categories => (
                &["CATEGORY", "EXPERTS", "SET BY"],
                "there are no categories",
            ),
            Self::Codebooks => (
                &["CODEBOOK", "VERSION", "SET BY"],
                "nothing is said of codebooks",
            ),
        };
        let one = |s: &v1::Statement| match self {
            Self::Revoked => vec![s.key.clone(), s.by.clone()],
            _ => vec![s.key.clone(), s.says.join(", "), s.by.clone()],
        };
        let admin = |a: &v1::AdminView| {
            let by = if a.by.is_empty() { "founder" } else { &a.by };
            vec![a.peer.clone(), by.to_owned()]
        };
        let rows: Vec<Vec<String>> = match self {
            Self::Admins => view.admins.iter().map(admin).collect(),
            _ => self.statements(view).iter().map(one).collect(),
        };
        if rows.is_empty() {
            none.to_owned()
        } else {
            output::table(columns, &rows)
        }
    }
}

/// How much of it there is, in one line for whoever watches.
pub(crate) fn line(view: &v1::CharterView) -> String {
    format!(
        "charter  {} admin(s), {} role(s), {} revoked, {} alias(es), {} category hint(s), {} codebook(s)",
        view.admins.len(),
        view.roles.len(),
        view.revoked.len(),
        view.aliases.len(),
        view.categories.len(),
        view.codebooks.len(),
    )
}

/// All of it, for whoever watches.
pub(crate) fn whole_json(view: &v1::CharterView) -> Value {
    let mut whole = json!({ "event": "charter" });
    for section in [
        Section::Admins,
        Section::Roles,
        Section::Revoked,
        Section::Aliases,
        Section::Categories,
        Section::Codebooks,
    ] {
        whole[section.key()] = section.json(view)[section.key()].take();
    }
    whole
}
