//! A peer that cannot be reached.

use std::time::Duration;

use polymath_net::{Net, NetConfig, Role};
use polymath_rpc::{Clients, ConnectError};
use polymath_types::{ErrorKind, NodeKey};

use crate::lab::{SOON, node, soon};

/// More than a connection over the loopback takes.
const WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_out_of_reach_is_not_tried_by_every_call_and_is_found_when_it_comes_back() {
    let (gone, genesis) = node().await;
    let key = NodeKey::generate();
    let config = |listen: Vec<_>| NetConfig::new(key.clone(), genesis.clone(), listen);
    let peer = Net::start(config(vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]));
    let peer = peer.await.unwrap();
    let (id, addresses) = (peer.local_peer(), peer.listen_addrs().borrow().clone());
    peer.shutdown().await;
    gone.shutdown().await;

    let mut own = NetConfig::new(NodeKey::generate(), genesis.clone(), Vec::new());
    own.role = Role::Client;
    let own = Net::start(own).await.unwrap();
    own.add_addresses(id, addresses.clone());
    let clients = Clients::new(own);
    let mut tried = 0;
    let paused = soon("a pause", async {
        loop {
            match clients.channel(id, WITHIN).await {
                Err(ConnectError::Open(_)) => tried += 1,
                Err(paused) => return paused,
                Ok(_) => panic!("nobody is there"),
            }
        }
    })
    .await;
    assert_eq!(tried, 3);
    assert_eq!(paused.kind(), ErrorKind::Unavailable);
    let said = paused.to_string();
    assert!(
        said.contains("3 times in a row") && said.contains("tried again in"),
        "{said}"
    );

    let _back = Net::start(config(addresses)).await.unwrap();
    soon("a channel", async {
        // Refused without a try until the pause is over.
        while clients.channel(id, SOON).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
