//! A node that serves, and nodes that call it.

use std::{future::Future, time::Duration};

use polymath_net::{Multiaddr, Net, NetConfig, PeerId, Role};
use polymath_proto::v1::{Payload, echo_client::EchoClient, echo_server::EchoServer};
use polymath_rpc::{Admission, Channel, Clients};
use polymath_types::{Genesis, LoadReport, NodeKey};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, codec::CompressionEncoding, service::RoutesBuilder};

use crate::probe::Probe;

/// Longer than anything here takes; only a hang reaches it.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Of messages, both ways.
pub(crate) const LARGEST: usize = 8 << 20;
/// What the server says of itself.
pub(crate) const LOAD: LoadReport = LoadReport {
    queue_depth: 1,
    active: 2,
    free_slots: 3,
    service_ms: 4,
    resident_experts: 5,
};
pub(crate) const BOTH: [&str; 2] = ["tcp", "quic"];

pub(crate) struct Lab {
    pub(crate) server: Net,
    pub(crate) admission: Admission,
    pub(crate) probe: Probe,
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<()>,
    genesis: Genesis,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        let (server, genesis) = node().await;
        let (admission, probe) = (Admission::reporting(|| LOAD), Probe::default());
        let stop = CancellationToken::new();
        let mut routes = RoutesBuilder::default();
        routes.add_service(
            EchoServer::new(probe.clone())
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(LARGEST)
                .max_encoding_message_size(LARGEST),
        );
        let served = tokio::spawn({
            let (net, routes) = (server.clone(), routes.routes());
            let (admission, stop) = (admission.clone(), stop.clone());
            async move {
                let served = polymath_rpc::serve(&net, routes, admission, stop);
                served.await.unwrap();
            }
        });
        Self {
            server,
            admission,
            probe,
            stop,
            served,
            genesis,
        }
    }

    /// Waits until no call is being answered.
    pub(crate) async fn nothing_left(&self) {
        self.probe.idle().await;
        until("the last call to leave", || self.admission.calls() == 0).await;
    }

    pub(crate) async fn guest(&self, transport: &str) -> Guest {
        Guest::of(&self.server, &self.genesis, transport).await
    }
}

/// A node that others can dial, over both transports.
pub(crate) async fn node() -> (Net, Genesis) {
    let key = NodeKey::generate();
    let genesis = Genesis::new("calls", &key.keypair().public()).unwrap();
    let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let listen = listen.iter().map(|a| a.parse().unwrap()).collect();
    let net = Net::start(NetConfig::new(key, genesis.clone(), listen));
    (net.await.unwrap(), genesis)
}

/// A node that calls another.
pub(crate) struct Guest {
    pub(crate) net: Net,
    pub(crate) clients: Clients,
    pub(crate) server: PeerId,
    /// The load heard last, and whose it is.
    pub(crate) heard: watch::Receiver<Option<(PeerId, LoadReport)>>,
}

impl Guest {
    pub(crate) async fn of(server: &Net, genesis: &Genesis, transport: &str) -> Self {
        let mut config = NetConfig::new(NodeKey::generate(), genesis.clone(), Vec::new());
        config.role = Role::Client;
        let net = Net::start(config).await.unwrap();
        let addrs: Vec<Multiaddr> = server.listen_addrs().borrow().clone();
        let addr = addrs.iter().find(|a| a.to_string().contains(transport));
        net.dial(addr.unwrap().clone(), SOON).await.unwrap();
        let (hear, heard) = watch::channel(None);
        let hear = move |peer, load| {
            hear.send_replace(Some((peer, load)));
        };
        Self {
            clients: Clients::hearing(net.clone(), hear),
            net,
            server: server.local_peer(),
            heard,
        }
    }

    pub(crate) async fn client(&self) -> EchoClient<Channel> {
        let channel = self.clients.channel(self.server, SOON).await.unwrap();
        EchoClient::new(channel)
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST)
    }

    /// Whether a call of this guest is answered, on whatever lane.
    pub(crate) async fn is_served(&self) {
        let mut client = self.client().await;
        let call = client.unary(asks("", payload(b"hello")));
        let reply = soon("an answer", call).await.unwrap();
        assert_eq!(reply.into_inner().data, "hello");
    }
}

pub(crate) fn payload(data: &[u8]) -> Payload {
    Payload {
        data: data.to_vec().into(),
        ..Payload::default()
    }
}

/// A request for the [`Probe`] to do `what`.
pub(crate) fn asks<T>(what: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let what = what.parse().unwrap();
    request.metadata_mut().insert("do", what);
    request
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// Asks again until the answer is yes. For states that have no event of their own.
pub(crate) async fn until(what: &str, mut check: impl FnMut() -> bool) {
    soon(what, async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
