//! `polymath identity show|export|import`.

use polymath_node::IdentityView;
use polymath_types::Failure;
use serde_json::{Value, json};
use toml::Table;

use crate::{args::IdentityVerb, output, session::Session};

pub(crate) fn run(session: &Session, verb: &IdentityVerb) -> Result<(), Failure> {
    session.begin(Table::new())?;
    let home = session.home()?;
    match verb {
        IdentityVerb::Show => {
            let view = home.show_identity()?;
            output::print(session, &shown(&view), || {
                let runs = match view.incarnation {
                    Some(n) => format!("incarnation {n}"),
                    None => "has not run yet".to_owned(),
                };
                format!(
                    "peer  {}\nkey   {}\nruns  {runs}",
                    view.peer,
                    view.file.display()
                )
            });
        }
        IdentityVerb::Export { file } => {
            let view = home.export_identity(file)?;
            let mut value = shown(&view);
            value["exported"] = file.display().to_string().into();
            output::print(session, &value, || {
                format!(
                    "wrote the key of {} to {}: whoever has it is this node, and it may run in one place at a time",
                    view.peer,
                    file.display()
                )
            });
        }
        IdentityVerb::Import { file } => {
            let lock = home.lock()?;
            let view = home.import_identity(file, &lock)?;
            output::print(session, &shown(&view), || {
                format!(
                    "{} is {} from now on: do not run it elsewhere at the same time",
                    home.dir().display(),
                    view.peer
                )
            });
        }
    }
    Ok(())
}

fn shown(view: &IdentityView) -> Value {
    json!({
        "peer": view.peer.to_string(),
        "key": view.file.display().to_string(),
        "incarnation": view.incarnation,
    })
}
