//! What was refused, dropped or given up, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A public snapshot and the live counters behind it.
macro_rules! counters {
    ($(#[$about:meta])* $snapshot:ident of $live:ident, $($(#[$doc:meta])* $name:ident,)*) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $snapshot { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Debug, Default)]
        pub(crate) struct $live { $(pub(crate) $name: $crate::counters::Counter,)* }

        impl $live {
            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

pub(crate) use counters;

counters! {
    /// What the network side of this node refused, dropped or gave up since it started.
    NetCounters of Counters,
    /// Inbound streams reset because their protocol's queue was full.
    streams_refused_queue_full,
    /// Inbound streams reset because their peer alone had filled its share of the queue.
    streams_refused_peer_full,
    /// Inbound streams reset because their connection carried too many.
    streams_refused_connection_full,
    /// Inbound streams accepted into a queue.
    streams_accepted,
    /// Streams opened to peers.
    streams_opened,
    /// Opens refused because too many were open or waiting on the connection.
    opens_refused,
    /// Connections refused by a limit.
    connections_refused,
    /// Connections given up because the peer fell silent.
    connections_silent,
    /// Idle connections closed to stay under the limit.
    connections_trimmed,
    /// Announcements of a key that reached nobody in time; each is tried again.
    announcements_failed,
    /// Peers met that belong to another mesh, another version, or no mesh.
    foreign_peers,
    /// Callers turned away because too many waited for the same peer or query.
    callers_refused,
    /// Peers dropped from the full address book.
    addresses_evicted,
    /// Writes to mesh streams and circuits that waited for the operator's limit on upload.
    uploads_delayed,
    /// Bytes this node has relayed for others.
    relayed_bytes,
    /// Circuits broken because their peer had used up its allowance.
    circuits_over_quota,
    /// Reservations granted to others.
    reservations_granted,
    /// Reservations refused: too many, or too often.
    reservations_refused,
    /// Circuits granted to others.
    circuits_granted,
    /// Circuits refused: too many, too often, or no reservation.
    circuits_refused,
    /// Dial-backs made for others.
    dial_backs,
    /// Dial-backs refused: too many, or to an address out of the asker's scope.
    dial_backs_refused,
    /// Holes punched.
    holes_punched,
    /// Hole punches that failed.
    punches_failed,
    /// Times a libp2p behaviour panicked and was replaced.
    behaviours_restarted,
    /// Strangers turned away at the door of a closed mesh.
    strangers_refused,
    /// Connections refused because their peer is shut out of the mesh.
    shut_out_refused,
    /// Look-ups and announcements of this node's own that have ended.
    dht_queries,
    /// Requests they sent.
    dht_requests,
    /// Provider records of others kept or renewed.
    provider_records_kept,
    /// Provider records of others refused: a key that is none of this mesh's.
    provider_records_malformed,
    /// Provider records of others refused: their peer had as many as it may.
    provider_records_peer_full,
    /// Provider records of others refused: no room, and no source held more than theirs.
    provider_records_no_room,
    /// Provider records of others that made room for those of a source with fewer.
    provider_records_evicted,
    /// Addresses told by peers that no transport here could dial.
    addresses_undialable,
    /// Addresses told by peers that reach less far than the connection they were told on: private or
    /// loopback ones from afar.
    addresses_out_of_scope,
    /// Addresses told by peers beyond the number kept of one.
    addresses_too_many,
    /// Announcements on the local network that were malformed or of another mesh.
    local_announcements_ignored,
    /// Announcements of members on the local network.
    local_members_heard,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The number so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn up(&self) {
        self.add(1);
    }
}
