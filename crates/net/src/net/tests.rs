#![allow(clippy::unwrap_used)]
use polymath_types::NodeKey;
use tokio::io::AsyncWriteExt;

use super::*;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn when_the_swarm_task_dies_every_call_says_so() {
    let key = NodeKey::generate();
    let genesis = Genesis::new("test", &key.keypair().public()).unwrap();
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let net = Net::start(NetConfig::new(key, genesis, listen))
        .await
        .unwrap();
    let mut incoming = net.accept("echo").unwrap();
    let addr: Multiaddr = "/ip4/127.0.0.1/tcp/9".parse().unwrap();
    net.commands.send(Command::Crash).await.unwrap();

    timeout(SOON, async {
        assert!(incoming.next().await.is_none());
        assert_eq!(net.dial(addr, SOON).await, Err(DialError::Stopped));
        let peer = PeerId::random();
        assert_eq!(net.connect(peer, SOON).await, Err(DialError::Stopped));
        assert!(matches!(
            net.open(peer, "echo", SOON).await,
            Err(OpenError::Stopped)
        ));
        assert_eq!(net.provide(b"key").await, Err(DhtError::Stopped));
        assert_eq!(net.providers(b"key", SOON).await, Err(DhtError::Stopped));
        assert!(matches!(net.accept("other"), Err(AcceptError::Stopped)));
        net.stop_providing(b"key").await;
        net.disconnect(peer).await;
        net.shutdown().await;
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_hello_that_hangs_is_a_task_that_shutdown_waits_for() {
    let node = async |listen: &[&str]| {
        let key = NodeKey::generate();
        let genesis = Genesis::new("test", &key.keypair().public()).unwrap();
        let listen = listen.iter().map(|a| a.parse().unwrap()).collect();
        Net::start(NetConfig::new(key, genesis, listen))
            .await
            .unwrap()
    };
    let (net, stranger) = (node(&["/ip4/127.0.0.1/tcp/0"]).await, node(&[]).await);
    let idle = net.tasks.len();
    let addr = net.listen_addrs().borrow()[0].clone();
    timeout(SOON, async {
        let peer = stranger
            .dial_until(addr, Need::Connected, SOON)
            .await
            .unwrap();
        let mut silent = stranger.request_stream(peer, HELLO, true).await.unwrap();
        // Half a question: the answerer waits for the rest.
        silent.write_all(&[0, 0]).await.unwrap();
        silent.flush().await.unwrap();
        while net.tasks.len() == idle {
            sleep(PORT_CHECK).await;
        }
        net.shutdown().await;
        assert!(net.tasks.is_empty());
    })
    .await
    .unwrap();
}
