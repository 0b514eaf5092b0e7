//! Who gets in: the handshake, the ticket, a place.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use libp2p::PeerId;
use quinn::{Connection, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout},
};

use crate::sources::source_of_ip;

use super::{
    BulkConnection, Shared,
    close::{Broken, FULL, STOPPED, TICKET_REFUSED},
    ticket::Ticket,
    tls::peer_of,
};

/// Answers a good ticket.
const WELCOME: u8 = 1;

/// Shows the ticket; returns when the peer has taken it.
pub(super) async fn hand_in(connection: &Connection, ticket: &Ticket) -> Result<(), Broken> {
    let (mut write, mut read) = connection.open_bi().await?;
    write.write_all(ticket.as_bytes()).await?;
    let mut answer = [0];
    read.read_exact(&mut answer).await?;
    if answer == [WELCOME] {
        Ok(())
    } else {
        Err(Broken::Stream("it answers the ticket with nonsense".into()))
    }
}

/// Lets peers in until the endpoint stops.
pub(super) async fn serve(shared: Arc<Shared>, queue: mpsc::Sender<BulkConnection>) {
    let limits = &shared.limits;
    let door = Arc::new(Places {
        handshakes: Arc::new(Semaphore::new(limits.handshakes)),
        of_source: Shares::new(limits.handshakes_per_source),
        inbound: Arc::new(Semaphore::new(limits.inbound)),
        of_peer: Shares::new(limits.inbound_per_peer),
    });
    loop {
        let incoming = tokio::select! {
            () = shared.stop.cancelled() => break,
            incoming = shared.endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        // No key is agreed on for nobody.
        let place = if shared.tickets.expects_anybody(Instant::now()) {
            door.handshake(incoming.remote_address().ip())
        } else {
            None
        };
        let Some(place) = place else {
            shared.counters.handshakes_refused.up();
            incoming.refuse();
            continue;
        };
        let crowded = door.handshakes.available_permits() < limits.handshakes / 2;
        if crowded && !incoming.remote_address_validated() {
            // Comes again with proof of its address, or was forged. One that may not is refused.
            let _ = incoming.retry();
            continue;
        }
        let (shared_, door, queue) = (shared.clone(), door.clone(), queue.clone());
        shared.tasks.spawn(async move {
            let stop = shared_.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = admit(&shared_, &door, incoming, &queue) => {}
            }
            drop(place);
        });
    }
    shared.endpoint.close(STOPPED, b"stopped");
}

async fn admit(
    shared: &Arc<Shared>,
    door: &Places,
    incoming: Incoming,
    queue: &mpsc::Sender<BulkConnection>,
) {
    let entered = timeout(shared.limits.handshake, enter(shared, door, incoming)).await;
    match entered {
        Ok(Ok(Some((connection, peer, place)))) => {
            shared.counters.connections_accepted.up();
            let connection = BulkConnection::new(shared, connection, peer, place);
            // There are as many places in the queue as for connections.
            if let Err(refused) = queue.try_send(connection) {
                tracing::debug!(%peer, "nobody accepts bulk connections");
                drop(refused);
            }
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            shared.counters.handshakes_failed.up();
            tracing::debug!(?error, "a bulk connection failed in its handshake");
        }
        Err(_) => shared.counters.handshakes_failed.up(),
    }
}

type Entered = (Connection, PeerId, InboundPlace);

/// Handshake and ticket; `None` for whoever was refused and told so.
async fn enter(
    shared: &Shared,
    door: &Places,
    incoming: Incoming,
) -> Result<Option<Entered>, Broken> {
    let connection = incoming.accept()?.await?;
    let Some(peer) = peer_of(&connection) else {
        return Err(Broken::Stream("it proved no peer id".into()));
    };
    let (mut write, mut read) = connection.accept_bi().await?;
    let mut shown = [0; Ticket::BYTES];
    read.read_exact(&mut shown).await?;
    let Some(place) = door.inbound(peer) else {
        // The ticket stays good: it was not its bearer's fault.
        shared.counters.connections_refused.up();
        connection.close(FULL, b"full");
        return Ok(None);
    };
    if !shared.tickets.redeem(&peer, &shown, Instant::now()) {
        connection.close(TICKET_REFUSED, b"ticket");
        return Ok(None);
    }
    // From here on the peer may send as much as its windows allow.
    connection.set_receive_window(shared.limits.inbound_window.into());
    connection.set_max_concurrent_bi_streams(shared.limits.transfers.into());
    write.write_all(&[WELCOME]).await?;
    let _ = write.finish();
    Ok(Some((connection, peer, place)))
}

/// What there is room for.
struct Places {
    handshakes: Arc<Semaphore>,
    of_source: Shares<IpAddr>,
    inbound: Arc<Semaphore>,
    of_peer: Shares<PeerId>,
}

/// A connection's place; given back when dropped.
pub(super) type InboundPlace = (OwnedSemaphorePermit, Share<PeerId>);

impl Places {
    fn handshake(&self, from: IpAddr) -> Option<(OwnedSemaphorePermit, Share<IpAddr>)> {
        let share = self.of_source.take(source_of_ip(from))?;
        Some((self.handshakes.clone().try_acquire_owned().ok()?, share))
    }

    fn inbound(&self, peer: PeerId) -> Option<InboundPlace> {
        let share = self.of_peer.take(peer)?;
        Some((self.inbound.clone().try_acquire_owned().ok()?, share))
    }
}

/// How many places each has. There are never more entries than places.
struct Shares<K: Hash + Eq + Copy> {
    limit: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// One of them.
pub(super) struct Share<K: Hash + Eq + Copy> {
    of: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Hash + Eq + Copy> Shares<K> {
    fn new(limit: usize) -> Self {
        let taken = Arc::default();
        Self { limit, taken }
    }

    fn take(&self, of: K) -> Option<Share<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let has = taken.get(&of).copied().unwrap_or(0);
        (has < self.limit).then(|| {
            taken.insert(of, has + 1);
            let taken = self.taken.clone();
            Share { of, taken }
        })
    }
}

impl<K: Hash + Eq + Copy> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.of) {
            Some(has) if *has > 1 => *has -= 1,
            _ => drop(taken.remove(&self.of)),
        }
    }
}
