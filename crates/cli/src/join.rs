//! `polymath join ADDR|INVITE|public`.

use std::io::{BufRead, IsTerminal};

use polymath_node::{Entrance, Node, Notice};
use polymath_proto::v1;
use polymath_types::{Failure, Format};
use serde_json::json;
use toml::Table;

use crate::{args, output, session::Session};

pub(crate) async fn run(session: Session, join: args::Join) -> Result<(), Failure> {
    let mut flags = Table::new();
    if join.accept_public {
        flags.insert("accept_public".into(), true.into());
    }
    let mut accepted = session.begin(flags)?.accept_public;
    let (joined, running) = loop {
        let (answer, running) = attempt(&session, &join.entrance, accepted).await?;
        if answer.notice.is_empty() {
            break (answer, running);
        }
        let notice = Notice {
            name: answer.mesh_name,
        };
        if !understood(&session, &notice) {
            return Err(notice.refusal());
        }
        accepted = true;
    };
    let value = json!({
        "mesh_id": joined.mesh_id, "mesh_name": joined.mesh_name, "peer": joined.peer,
        "trouble": joined.trouble, "running": running,
    });
    output::print(&session, &value, || {
        let name = &joined.mesh_name;
        let through = if joined.peer.is_empty() {
            format!("; no member was met yet: {}", joined.trouble)
        } else {
            format!(" through {}", joined.peer)
        };
        let next = if running {
            ""
        } else {
            "\nserve in it with `polymath up`, or ask it with `polymath ask \"...\"`"
        };
        format!("joined mesh '{name}'{through}{next}")
    });
    Ok(())
}

/// Joins through the daemon if one runs, else on the home itself; says which.
async fn attempt(
    session: &Session,
    entrance: &str,
    accepted: bool,
) -> Result<(v1::JoinResponse, bool), Failure> {
    let parsed = Entrance::parse(entrance)?;
    if let Some(mut daemon) = session.daemon().await? {
        let request = v1::JoinRequest {
            version: Format::Control.current(),
            address: entrance.to_owned(),
            accept_public: accepted,
        };
        let joined = daemon
            .join(request)
            .await
            .map_err(|s| Node::control_failure(&s))?;
        return Ok((joined.into_inner(), true));
    }
    let home = session.home()?;
    let lock = home.lock()?;
    let outcome = polymath_node::join(&home, &lock, &parsed, accepted).await?;
    Ok((outcome.into(), false))
}

/// Asks whoever sits there; nobody does where input or errors go elsewhere.
fn understood(session: &Session, notice: &Notice) -> bool {
    if session.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    output::note(&notice.text());
    output::note("Join it? [y/N]");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
