//! Calls move to a better path. Loopback stands for the internet here.

use polymath_net::{Multiaddr, Net, NetConfig, NetEvent};
use polymath_proto::v1::{echo_client::EchoClient, echo_server::EchoServer};
use polymath_rpc::{Admission, Clients};
use polymath_types::{Genesis, NodeKey};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::{
    lab::{SOON, asks, payload, soon, until},
    probe::Probe,
};

async fn start(genesis: &Genesis, listen: &[&str], anchor: bool) -> Net {
    let listen = listen.iter().map(|a| a.parse().unwrap()).collect();
    let mut config = NetConfig::new(NodeKey::generate(), genesis.clone(), listen);
    config.loopback_is_internet = true;
    config.anchor = anchor;
    Net::start(config).await.unwrap()
}

fn circuits(net: &Net) -> Vec<Multiaddr> {
    let mut all = net.announced().borrow().clone();
    all.retain(|a| a.to_string().contains("p2p-circuit"));
    all
}

#[tokio::test]
async fn new_calls_leave_a_relay_for_a_direct_path_and_those_on_it_finish() {
    const TCP: &str = "/ip4/127.0.0.1/tcp/0";
    let genesis = Genesis::new("paths", &NodeKey::generate().keypair().public()).unwrap();
    let anchor = start(&genesis, &[TCP], true).await;
    let server = start(&genesis, &[], false).await;
    let guest = start(&genesis, &[TCP], false).await;
    let mut routes = RoutesBuilder::default();
    routes.add_service(EchoServer::new(Probe::default()));
    let admission = Admission::default();
    tokio::spawn({
        let (net, routes, admission) = (server.clone(), routes.routes(), admission.clone());
        let never = CancellationToken::new();
        async move { polymath_rpc::serve(&net, routes, admission, never).await }
    });
    let relay = anchor.listen_addrs().borrow()[0].clone();
    for net in [&guest, &server] {
        net.dial(relay.clone(), SOON).await.unwrap();
    }
    until("a circuit", || !circuits(&server).is_empty()).await;
    guest.add_addresses(server.local_peer(), circuits(&server));
    let (clients, mut events) = (Clients::new(guest.clone()), guest.events());
    let channel = clients.channel(server.local_peer(), SOON).await.unwrap();
    let mut client = EchoClient::new(channel);
    let (sender, messages) = mpsc::channel(1);
    let call = client.both(asks("path", ReceiverStream::new(messages)));
    let mut old = soon("a call", call).await.unwrap().into_inner();
    let path = soon("its path", old.message()).await.unwrap().unwrap();
    assert_eq!(path.data, "Relayed");
    soon("a direct path", async {
        let changed = NetEvent::PathChanged {
            peer: server.local_peer(),
        };
        while events.recv().await.unwrap() != changed {}
    })
    .await;
    let reply = soon("a call", client.unary(asks("path", payload(b"")))).await;
    assert_ne!(reply.unwrap().into_inner().data, "Relayed");
    assert_eq!(admission.lanes(), 2);
    sender.send(payload(b"still here")).await.unwrap();
    let reply = soon("an answer", old.message()).await.unwrap().unwrap();
    assert_eq!(reply.data, "still here");
    drop(sender);
    assert!(soon("the end", old.message()).await.unwrap().is_none());
    until("the relayed lane to end", || admission.lanes() == 1).await;
}
