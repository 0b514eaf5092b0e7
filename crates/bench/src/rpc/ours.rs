//! What the daemon uses: calls on lanes over mesh streams.

use polymath_net::Net;
use polymath_proto::v1::echo_client::EchoClient;
use polymath_rpc::{Admission, Channel, Clients};
use polymath_types::LoadReport;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};

use super::{Failure, PATIENCE, echo, failed, load::Side, mesh::Guest};

pub(super) const NAME: &str = "ours";

fn routes() -> Routes {
    let mut routes = RoutesBuilder::default();
    routes.add_service(echo::service());
    routes.routes()
}

pub(super) fn serve(on: &Handle, net: &Net) {
    let net = net.clone();
    on.spawn(async move {
        let stop = CancellationToken::new();
        // A thousand large requests at once are what is measured here.
        let load = LoadReport {
            free_slots: 1,
            ..LoadReport::default()
        };
        let admission = Admission::reporting(move || load).holding(1 << 30);
        if let Err(error) = polymath_rpc::serve(&net, routes(), admission, stop).await {
            eprintln!("the serving node: {error}");
        }
    });
}

pub(super) async fn client(guest: &Guest) -> Result<EchoClient<Channel>, Failure> {
    let clients = Clients::new(guest.net.clone());
    let channel = clients.channel(guest.server, PATIENCE).await;
    Ok(echo::client(channel.map_err(|e| failed("a lane", e))?))
}

pub(super) async fn side(guest: &Guest) -> Result<Side, Failure> {
    let clients = [client(guest).await?];
    let callers = move |load| {
        let callers = echo::callers(&clients, load);
        async move { Ok(callers) }
    };
    Ok(Side::new(NAME, guest.transport, guest.control(), callers))
}
