//! `polymath mesh create|leave|show|invite|anchors`.

use polymath_node::InviteTerms;
use polymath_proto::v1;
use polymath_types::{Access, AnchorList, ErrorKind, Failure, Format};
use serde_json::{Value, json};
use toml::Table;

use crate::{
    args::{Lifetime, MeshVerb},
    charter, join, output,
    session::Session,
    views::{self, failed},
};

pub(crate) async fn run(session: Session, verb: MeshVerb) -> Result<(), Failure> {
    match verb {
        MeshVerb::Join(join) => join::run(session, join).await,
        MeshVerb::Create { name, closed } => create(&session, &name, closed),
        MeshVerb::Leave { stop } => leave(&session, stop).await,
        MeshVerb::Show => show(&session).await,
        MeshVerb::Invite { expires, uses } => invite(&session, expires, uses).await,
        MeshVerb::Anchors {
            address,
            expires,
            txt,
        } => anchors(&session, address, expires, txt).await,
        MeshVerb::Charter(verb) => charter::run(&session, verb).await,
    }
}

fn create(session: &Session, name: &str, closed: bool) -> Result<(), Failure> {
    session.begin(Table::new())?;
    let home = session.home()?;
    let lock = home.lock()?;
    let access = if closed { Access::Closed } else { Access::Open };
    let view = polymath_node::create(&home, &lock, name, access)?;
    output::print(session, &view_json(&view), || {
        format!(
            "founded the {access} mesh '{}' ({})\nrun it with `polymath up`, then let others in with `polymath mesh invite`",
            view.name,
            short(&view.id)
        )
    });
    Ok(())
}

async fn leave(session: &Session, stop: bool) -> Result<(), Failure> {
    session.begin(Table::new())?;
    if session.daemon().await?.is_some() {
        if !stop {
            return Err(Failure::new(
                ErrorKind::FailedPrecondition,
                "a node runs on this home: stop it with `polymath down`, or let `polymath mesh leave --stop` do so",
            ));
        }
        views::stop(session).await?;
    }
    let home = session.home()?;
    let lock = home.lock()?;
    let left = polymath_node::leave(&home, &lock)?;
    let (name, id) = (left.genesis.name(), left.genesis.id());
    output::print(
        session,
        &json!({ "left": { "id": id.to_string(), "name": name } }),
        || {
            let secret = match left.genesis.access() {
                Access::Open => "",
                Access::Closed => "; its secret is forgotten here, only an invite leads back",
            };
            format!("left mesh '{name}' ({}){secret}", id.short())
        },
    );
    Ok(())
}

async fn show(session: &Session) -> Result<(), Failure> {
    session.begin(Table::new())?;
    let view = match session.daemon().await? {
        Some(mut daemon) => {
            let request = v1::StatusRequest {
                version: Format::Control.current(),
            };
            let status = daemon.status(request).await.map_err(failed)?.into_inner();
            status.mesh.unwrap_or_default()
        }
        None => polymath_node::view_at_rest(&session.home()?)?,
    };
    output::print(session, &view_json(&view), || view_text(&view));
    Ok(())
}

async fn invite(session: &Session, expires: Lifetime, uses: Option<u32>) -> Result<(), Failure> {
    let config = session.begin(Table::new())?;
    let written = match session.daemon().await? {
        Some(mut daemon) => {
            let request = v1::InviteRequest {
                version: Format::Control.current(),
                expires_s: expires.0.unwrap_or(0),
                uses: uses.unwrap_or(0),
            };
            daemon.invite(request).await.map_err(failed)?.into_inner()
        }
        None => {
            let home = session.home()?;
            let lock = home.lock()?;
            let terms = InviteTerms {
                expires_in: expires.0,
                uses,
            };
            let invite = polymath_node::invite_at_rest(&home, &lock, &config.net.announce, terms)?;
            v1::InviteResponse {
                invite: invite.to_string(),
                expires: invite.claims().expires.unwrap_or(0),
                uses: invite.claims().uses.unwrap_or(0),
                addresses: invite.addresses().to_vec(),
            }
        }
    };
    let value = json!({
        "invite": written.invite,
        "expires": (written.expires != 0).then_some(written.expires),
        "uses": (written.uses != 0).then_some(written.uses),
        "addresses": written.addresses,
    });
    if !session.json && written.addresses.iter().all(|a| only_here(a)) {
        output::note("this node listens on this machine only: nobody elsewhere can use the invite");
    }
    output::print(session, &value, || written.invite.clone());
    Ok(())
}

fn only_here(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}

async fn anchors(
    session: &Session,
    addresses: Vec<String>,
    expires: Lifetime,
    txt: bool,
) -> Result<(), Failure> {
    session.begin(Table::new())?;
    let list = match session.daemon().await? {
        Some(mut daemon) => {
            let request = v1::SignAnchorsRequest {
                version: Format::Control.current(),
                addresses,
                expires_s: expires.0.unwrap_or(0),
            };
            let signed = daemon.sign_anchors(request).await.map_err(failed)?;
            AnchorList::from_bytes(&signed.into_inner().list)
                .map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))?
        }
        None if addresses.is_empty() => {
            return Err(Failure::new(
                ErrorKind::InvalidInput,
                "no node runs here whose address could be taken: name the anchors with --address",
            ));
        }
        None => {
            let home = session.home()?;
            let lock = home.lock()?;
            polymath_node::sign_anchors(&home, &lock, addresses, expires.0)?
        }
    };
    let text = if txt {
        list.to_txt()
    } else {
        String::from_utf8(list.to_bytes()).unwrap_or_default()
    };
    if txt {
        output::print(
            session,
            &json!({ "txt": text, "serial": list.serial() }),
            || text.clone(),
        );
    } else {
        // The list is JSON itself, and its bytes are what is signed.
        output::raw(format!("{text}\n").as_bytes());
    }
    Ok(())
}

/// The first digits of a mesh's id, as in protocol names.
fn short(id: &str) -> &str {
    id.get(..16).unwrap_or(id)
}

pub(crate) fn view_json(view: &v1::MeshView) -> Value {
    let anchors = view.anchors.as_ref().map(|a| {
        json!({
            "serial": a.serial, "issued": a.issued, "expires": (a.expires != 0).then_some(a.expires),
            "addresses": a.addresses, "from": a.from,
        })
    });
    let sources: Vec<Value> = view
        .sources
        .iter()
        .map(|s| {
            json!({
                "name": s.name, "state": s.state, "reached": s.reached, "failed": s.failed,
                "detail": s.detail, "age_ms": s.age_ms,
            })
        })
        .collect();
    json!({
        "id": view.id, "name": view.name, "access": view.access, "founders": view.founders,
        "joined": view.joined, "inside": view.inside, "waiting": view.waiting, "anchors": anchors,
        "public_anchors": polymath_node::PUBLIC, "sources": sources,
        "revoked_by": (!view.revoked_by.is_empty()).then_some(&view.revoked_by),
    })
}

fn view_text(view: &v1::MeshView) -> String {
    let here = if view.joined {
        "joined"
    } else {
        "founded here"
    };
    let mut lines = vec![
        format!(
            "mesh      {} ({}), {}, {here}",
            view.name,
            short(&view.id),
            view.access
        ),
        format!("founder   {}", view.founders.join(", ")),
    ];
    if !view.inside {
        lines.push(format!("waiting   to be let in: {}", view.waiting));
    }
    if !view.revoked_by.is_empty() {
        lines.push(format!(
            "revoked   this node is shut out, by {}",
            view.revoked_by
        ));
    }
    lines.push(match &view.anchors {
        Some(a) => format!(
            "anchors   list {} from {}: {}",
            a.serial,
            a.from,
            a.addresses.join("\n          ")
        ),
        None => "anchors   none: no list is known, and none is built in".to_owned(),
    });
    if !view.sources.is_empty() {
        let rows: Vec<Vec<String>> = view
            .sources
            .iter()
            .map(|s| {
                let count = format!("{}/{}", s.reached, s.reached + s.failed);
                vec![s.name.clone(), s.state.clone(), count, s.detail.clone()]
            })
            .collect();
        lines.push(String::new());
        lines.push(output::table(
            &["MEMBERS BY", "STATE", "MET", "DETAIL"],
            &rows,
        ));
    }
    lines.join("\n")
}
