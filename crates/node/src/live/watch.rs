//! Who was lost: which broken connections count as a peer's death.
//!
//! One that this node gave up because pings went unanswered counts at once: seconds were waited for it
//! already. One that broke otherwise is dialled once more, as the peer may only have made room; of many who
//! were connected with it some do so, drawn by chance, lest a peer that makes room be dialled by all.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use polymath_net::{GivenUp, Membership, Net, NetEvent};
use polymath_types::PeerId;
use tokio::sync::{Semaphore, broadcast::error::RecvError, mpsc};

use super::{Command, LiveHandle};

/// Probes that wait; others are left out, as somebody else will look.
pub(super) const PROBES: usize = 64;
/// Dials at once to see whether a peer is there.
const AT_ONCE: usize = 16;
/// Time for one.
const DIAL: Duration = Duration::from_secs(2);
/// How many of all who lost a peer look again, on average: that fewer than two do is one chance in
/// half a million.
const WITNESSES: usize = 16;

impl LiveHandle {
    /// Tells the table who is connected and who was lost.
    pub(super) async fn watch(self, net: Net, mut wanted: mpsc::Receiver<PeerId>) {
        let mut events = net.events();
        let mut members: HashSet<PeerId> = HashSet::new();
        let mut given_up: HashMap<PeerId, GivenUp> = HashMap::new();
        let dials = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let lost = tokio::select! {
                () = self.cancel.cancelled() => return,
                peer = wanted.recv() => {
                    // The table asks: it was lost before.
                    if let Some(peer) = peer {
                        self.probe(peer, &net, &dials);
                    }
                    continue;
                }
                event = events.recv() => match event {
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(_)) => {
                        given_up.clear();
                        let now = net.peers().into_iter();
                        let now: HashSet<PeerId> = now
                            .filter(|p| p.membership == Membership::Member)
                            .map(|p| p.peer)
                            .collect();
                        let lost = members.difference(&now).copied().collect();
                        members = now;
                        lost
                    }
                    Ok(NetEvent::Identified { peer, .. }) => {
                        members.insert(peer);
                        self.tell(Command::Reached(peer)).await;
                        Vec::new()
                    }
                    Ok(NetEvent::GivenUp { peer, why }) => {
                        given_up.insert(peer, why);
                        continue;
                    }
                    Ok(NetEvent::Disconnected { peer }) if members.remove(&peer) => vec![peer],
                    _ => Vec::new(),
                },
            };
            for peer in lost {
                match given_up.get(&peer) {
                    Some(GivenUp::NoRoom | GivenUp::ShutOut) => {}
                    Some(GivenUp::Silent) => self.tell(Command::Lost(peer)).await,
                    _ if chosen(members.len()) => self.probe(peer, &net, &dials),
                    _ => {}
                }
            }
            // What was given up is gone by the next event, or others carry on.
            given_up.clear();
        }
    }

    async fn tell(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    fn probe(&self, peer: PeerId, net: &Net, dials: &Arc<Semaphore>) {
        let Ok(place) = Arc::clone(dials).try_acquire_owned() else {
            return;
        };
        let (this, net) = (self.clone(), net.clone());
        self.tasks.spawn(async move {
            let reached = tokio::select! {
                () = this.cancel.cancelled() => return,
                reached = net.connect(peer, DIAL) => reached,
            };
            if let Err(e) = reached
                && net.path_to(&peer).is_none()
            {
                tracing::debug!(%peer, "lost: {e}");
                this.tell(Command::Lost(peer)).await;
            }
            drop(place);
        });
    }
}

/// Whether this node is one of those who look, of so many others who were probably connected too.
fn chosen(others: usize) -> bool {
    others <= WITNESSES || {
        let drawn = u64::from_be_bytes(crate::random());
        drawn % (others as u64) < WITNESSES as u64
    }
}
