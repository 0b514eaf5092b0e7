//! `polymath join ADDR`.

use polymath_node::Node;
use polymath_proto::v1;
use polymath_types::{Failure, Format};
use serde_json::json;
use toml::Table;

use crate::{args, output, session::Session};

pub(crate) async fn run(session: Session, join: args::Join) -> Result<(), Failure> {
    session.begin(Table::new())?;
    let home = session.home()?;
    let (mesh, name, peer, running) = match session.daemon().await? {
        Some(mut daemon) => {
            let request = v1::JoinRequest {
                version: Format::Control.current(),
                address: join.address,
            };
            let joined = daemon
                .join(request)
                .await
                .map_err(|s| Node::control_failure(&s))?
                .into_inner();
            (joined.mesh_id, joined.mesh_name, joined.peer, true)
        }
        None => {
            let lock = home.lock()?;
            let joined = polymath_node::join(&home, &lock, &join.address).await?;
            (
                joined.mesh.to_string(),
                joined.name,
                joined.peer.to_string(),
                false,
            )
        }
    };
    output::print(
        &session,
        &json!({ "mesh_id": mesh, "mesh_name": name, "peer": peer, "running": running }),
        || {
            let next = if running {
                ""
            } else {
                "\nserve in it with `polymath up`, or ask it with `polymath ask \"...\"`"
            };
            format!("joined mesh '{name}' through {peer}{next}")
        },
    );
    Ok(())
}
