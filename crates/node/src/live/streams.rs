//! The streams: one with every connected member, opened by the one of the two with the smaller id; where it
//! does not, by the other. So also a node hears from a peer that has its stream with another run of the same
//! identity, and takes this one for it.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use futures::{Stream, StreamExt};
use polymath_catalog::live::LIVE_FRAME_BYTES;
use polymath_net::{Membership, Net, NetEvent};
use polymath_proto::v1::{LiveFrame, live_client::LiveClient};
use polymath_rpc::Clients;
use polymath_types::{PathKind, PeerId};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Command, LiveHandle, OUTBOUND};

/// Time to open a stream.
const OPEN: Duration = Duration::from_secs(10);
/// How often it is seen to that every member has one.
const LOOK: Duration = Duration::from_secs(10);
/// Pauses between tries to open a stream to a connected peer, such as one of a build without them.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl LiveHandle {
    /// A peer opened a stream to us.
    pub(crate) fn session(
        &self,
        peer: PeerId,
        relayed: bool,
        inbound: Streaming<LiveFrame>,
    ) -> impl Stream<Item = LiveFrame> + use<> {
        let (outbound, frames) = mpsc::channel(OUTBOUND);
        let this = self.clone();
        self.tasks
            .spawn(async move { this.read(peer, relayed, outbound, inbound).await });
        ReceiverStream::new(frames)
    }

    async fn read(
        &self,
        peer: PeerId,
        relayed: bool,
        outbound: mpsc::Sender<LiveFrame>,
        mut inbound: Streaming<LiveFrame>,
    ) {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        // The task drops its sender to end a session; this copy only watches for that.
        let open = outbound.clone().downgrade();
        let started = Command::Started {
            peer,
            session,
            relayed,
            outbound,
        };
        if self.commands.send(started).await.is_err() {
            return;
        }
        loop {
            let next = tokio::select! {
                next = inbound.next() => next,
                () = self.cancel.cancelled() => None,
            };
            match next {
                Some(Ok(frame)) if open.upgrade().is_some() => {
                    let frame = Command::Frame {
                        peer,
                        session,
                        frame,
                    };
                    if self.commands.send(frame).await.is_err() {
                        return;
                    }
                }
                Some(Err(e)) => {
                    tracing::debug!(%peer, "stream of fast state ended: {}", e.message());
                    break;
                }
                _ => break,
            }
        }
        let _ = self.commands.send(Command::Ended { peer, session }).await;
    }

    /// Opens streams to members that connect.
    pub(super) async fn follow(self, net: Net, clients: Clients) {
        let mut events = net.events();
        let mut open: HashMap<PeerId, tokio::task::JoinHandle<()>> = HashMap::new();
        let mut look = tokio::time::interval(LOOK);
        // Whom the last look has found without a stream.
        let mut without: HashSet<PeerId> = HashSet::new();
        loop {
            let looking = tokio::select! {
                () = self.cancel.cancelled() => return,
                _ = look.tick() => true,
                event = events.recv() => match event {
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(_)) => true,
                    // A stream on a circuit would keep it, and pay for it, for ever.
                    Ok(NetEvent::PathChanged { peer }) => {
                        if let Some(task) = open.remove(&peer) {
                            task.abort();
                        }
                        self.open(peer, &mut open, &net, &clients);
                        false
                    }
                    Ok(NetEvent::Identified { peer, .. }) => {
                        self.open(peer, &mut open, &net, &clients);
                        false
                    }
                    _ => false,
                },
            };
            if looking {
                open.retain(|_, task| !task.is_finished());
                let members = net.peers().into_iter();
                let members: Vec<PeerId> = members
                    .filter(|p| p.membership == Membership::Member)
                    .map(|p| p.peer)
                    .collect();
                let before = std::mem::take(&mut without);
                for peer in members {
                    if net.local_peer() < peer {
                        self.open(peer, &mut open, &net, &clients);
                    } else if !self.shared.streams().contains(&peer) {
                        without.insert(peer);
                        if before.contains(&peer) {
                            self.spawn(peer, &mut open, &net, &clients);
                        }
                    }
                }
            }
        }
    }

    fn open(
        &self,
        peer: PeerId,
        open: &mut HashMap<PeerId, tokio::task::JoinHandle<()>>,
        net: &Net,
        clients: &Clients,
    ) {
        if net.local_peer() < peer {
            self.spawn(peer, open, net, clients);
        }
    }

    fn spawn(
        &self,
        peer: PeerId,
        open: &mut HashMap<PeerId, tokio::task::JoinHandle<()>>,
        net: &Net,
        clients: &Clients,
    ) {
        let under_way = open.get(&peer).is_some_and(|task| !task.is_finished());
        if !under_way {
            let (this, net, clients) = (self.clone(), net.clone(), clients.clone());
            let task = self
                .tasks
                .spawn(async move { this.keep_open(peer, net, clients).await });
            open.insert(peer, task);
        }
    }

    async fn keep_open(&self, peer: PeerId, net: Net, clients: Clients) {
        let mut pause = FIRST_PAUSE;
        while net.path_to(&peer).is_some() && !self.cancel.is_cancelled() {
            let begun = tokio::time::Instant::now();
            if let Err(why) = self.dial(peer, &net, &clients).await {
                tracing::debug!(%peer, "no stream of fast state: {why}");
            }
            if begun.elapsed() >= LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn dial(&self, peer: PeerId, net: &Net, clients: &Clients) -> Result<(), String> {
        let channel = clients.channel(peer, OPEN).await;
        let channel = channel.map_err(|e| e.to_string())?;
        let mut client = LiveClient::new(channel).max_decoding_message_size(LIVE_FRAME_BYTES);
        let (outbound, frames) = mpsc::channel(OUTBOUND);
        let opened = tokio::time::timeout(OPEN, client.exchange(ReceiverStream::new(frames))).await;
        let inbound = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(status.message().to_owned()),
            Err(_) => return Err(format!("no answer within {OPEN:?}")),
        };
        let relayed = net.path_to(&peer) == Some(PathKind::Relayed);
        self.read(peer, relayed, outbound, inbound).await;
        Ok(())
    }
}
