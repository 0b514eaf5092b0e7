//! The door in the way of a connection: its first substream, before the swarm sees any.

use std::{future::poll_fn, io, pin::pin, task::Poll, time::Duration};

use libp2p::{
    PeerId,
    core::{
        ConnectedPoint, Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt},
    },
};
use tokio::time::timeout;

use super::{Door, Refused};
use crate::shut_out::drive;

/// Knock and answer, with what a slow path and a disk need.
const WITHIN: Duration = Duration::from_secs(5);
/// For the last bytes of a refusal to leave.
const LAST_WORD: Duration = Duration::from_secs(1);

impl Door {
    /// Lets a fresh connection through, or not: whoever dialled opens its first substream and
    /// knocks, the other side answers. Both must be asked to do so. Whether they are `revoked` is known
    /// here alone.
    pub(crate) async fn pass(
        &self,
        mut muxer: StreamMuxerBox,
        me: PeerId,
        them: PeerId,
        endpoint: &ConnectedPoint,
        revoked: bool,
    ) -> Result<StreamMuxerBox, Refused> {
        // Where both dial at once to punch a hole, one of them plays the listener.
        let knocks = matches!(
            endpoint,
            ConnectedPoint::Dialer {
                role_override: Endpoint::Dialer,
                ..
            }
        );
        let passed = timeout(
            WITHIN,
            self.negotiate(&mut muxer, me, them, knocks, revoked),
        )
        .await;
        match passed {
            Ok(Ok(())) => Ok(muxer),
            Ok(Err(refused)) => {
                let _ = timeout(LAST_WORD, muxer.close()).await;
                Err(refused)
            }
            Err(_) => Err(Refused::NoDoor(format!("it says nothing for {WITHIN:?}"))),
        }
    }

    async fn negotiate(
        &self,
        muxer: &mut StreamMuxerBox,
        me: PeerId,
        them: PeerId,
        knocks: bool,
        revoked: bool,
    ) -> Result<(), Refused> {
        let broken = |e: io::Error| Refused::NoDoor(e.to_string());
        let stream = poll_fn(|cx| {
            drive(muxer, cx)?;
            if knocks {
                muxer.poll_outbound_unpin(cx)
            } else {
                muxer.poll_inbound_unpin(cx)
            }
        });
        let stream = stream.await.map_err(broken)?;
        let mut talk = pin!(async {
            if knocks {
                self.knock(stream, me, them).await
            } else {
                self.answer(stream, me, them, revoked).await
            }
        });
        // The substream moves only while its connection is driven.
        poll_fn(|cx| match talk.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => match drive(muxer, cx) {
                Ok(()) => Poll::Pending,
                Err(e) => Poll::Ready(Err(broken(e))),
            },
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::StreamExt;
    use libp2p::{
        Multiaddr, Transport,
        core::{
            transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent},
            upgrade::Version,
        },
        identity::Keypair,
        noise, quic, tcp, yamux,
    };
    use polymath_types::{MeshId, MeshSecret};

    use super::*;

    type Connected = (PeerId, StreamMuxerBox);
    type Bare = fn(&Keypair) -> Boxed<Connected>;

    fn over_tcp(key: &Keypair) -> Boxed<Connected> {
        tcp::tokio::Transport::default()
            .upgrade(Version::V1Lazy)
            .authenticate(noise::Config::new(key).unwrap())
            .multiplex(yamux::Config::default())
            .boxed()
    }

    fn over_quic(key: &Keypair) -> Boxed<Connected> {
        quic::tokio::Transport::new(quic::Config::new(key))
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed()
    }

    /// With `door` in the way of every connection.
    fn behind(door: Door, key: &Keypair, bare: Boxed<Connected>) -> Boxed<Connected> {
        let me = key.public().to_peer_id();
        bare.and_then(move |(them, muxer), endpoint| async move {
            Ok::<_, io::Error>((them, door.pass(muxer, me, them, &endpoint, false).await?))
        })
        .boxed()
    }

    fn door(secret: u8) -> Door {
        let (mesh, secret) = (
            MeshId::from_bytes([1; 32]),
            MeshSecret::from_bytes([secret; 32]),
        );
        Door::member(mesh, secret, None)
    }

    /// What both sides say when one dials the other.
    async fn meet(
        bare: Bare,
        listen: &str,
        outside: Door,
        inside: Door,
    ) -> (io::Result<()>, io::Result<()>) {
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let mut listener = behind(inside, &b, bare(&b));
        listener
            .listen_on(ListenerId::next(), listen.parse().unwrap())
            .unwrap();
        let address: Multiaddr = match listener.select_next_some().await {
            TransportEvent::NewAddress { listen_addr, .. } => listen_addr,
            other => panic!("{other:?}"),
        };
        let mut dialer = behind(outside, &a, bare(&a));
        let opts = DialOpts {
            role: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let dial = dialer.dial(address, opts).unwrap();
        // The dialer's transport must be driven too where it has a socket of its own.
        let dial = async {
            tokio::select! {
                dialled = dial => dialled,
                _ = async { loop { dialer.next().await; } } => unreachable!(),
            }
        };
        let answer = async {
            loop {
                if let TransportEvent::Incoming { upgrade, .. } = listener.select_next_some().await
                {
                    let mut upgrade = pin!(upgrade);
                    return tokio::select! {
                        upgraded = upgrade.as_mut() => upgraded,
                        _ = async { loop { listener.next().await; } } => unreachable!(),
                    };
                }
            }
        };
        // As a swarm would, so that the welcome leaves.
        let answer = async {
            let (_, mut muxer) = answer.await?;
            tokio::spawn(poll_fn(move |cx| match drive(&mut muxer, cx) {
                Ok(()) => Poll::Pending,
                Err(_) => Poll::Ready(()),
            }));
            Ok(())
        };
        let both = async { tokio::join!(dial, answer) };
        let (dialled, answered) = timeout(Duration::from_secs(20), both).await.unwrap();
        (dialled.map(drop), answered)
    }

    const WAYS: [(Bare, &str); 2] = [
        (over_tcp, "/ip4/127.0.0.1/tcp/0"),
        (over_quic, "/ip4/127.0.0.1/udp/0/quic-v1"),
    ];

    #[tokio::test]
    async fn members_pass_over_tcp_and_quic() {
        for (bare, listen) in WAYS {
            let (dialled, answered) = meet(bare, listen, door(1), door(1)).await;
            assert!(
                dialled.is_ok() && answered.is_ok(),
                "{dialled:?} {answered:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_stranger_is_told_and_turned_away_over_tcp_and_quic() {
        for (bare, listen) in WAYS {
            let outside = door(2);
            let (dialled, answered) = meet(bare, listen, outside.clone(), door(1)).await;
            assert!(dialled.is_err() && answered.is_err(), "{listen}");
            let (_, refused) = outside.refusal().unwrap();
            assert_eq!(refused, Refused::Stranger, "{listen}");
        }
    }
}
