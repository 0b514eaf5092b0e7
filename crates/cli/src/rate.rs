//! `polymath rate`: how good an answer was.

use polymath_node::Node;
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure, Format};
use serde_json::json;
use toml::Table;

use crate::{args, output, session::Session};

pub(crate) async fn run(session: Session, rate: args::Rate) -> Result<(), Failure> {
    session.begin(Table::new())?;
    let reward = match rate.rating.as_str() {
        "good" => Some(1.0),
        "bad" => Some(0.0),
        number => number.parse().ok().filter(|r| (0.0..=1.0).contains(r)),
    };
    let reward = reward.ok_or_else(|| {
        Failure::new(
            ErrorKind::InvalidInput,
            format!(
                "'{}' is no rating: say good, bad, or a number from 0 to 1",
                rate.rating
            ),
        )
    })?;
    let mut daemon = session.daemon().await?.ok_or_else(|| {
        Failure::new(
            ErrorKind::FailedPrecondition,
            "no node runs here, and only a running one learns: start it with `polymath up`, then ask and rate",
        )
    })?;
    let request = v1::RateRequest {
        version: Format::Control.current(),
        request_id: rate.request.unwrap_or_default(),
        reward,
    };
    let rated = daemon.rate(request).await;
    let rated = rated.map_err(|s| Node::control_failure(&s))?.into_inner();
    let value = json!({
        "request_id": rated.request_id, "expert": rated.expert, "expert_id": rated.expert_id,
        "peer": rated.peer, "rating": reward,
    });
    output::print(&session, &value, || {
        let expert = if rated.expert.is_empty() {
            &rated.expert_id
        } else {
            &rated.expert
        };
        format!(
            "rated {reward}: the answer of {expert} on {} to {}",
            output::short_peer(&rated.peer),
            rated.request_id
        )
    });
    Ok(())
}
