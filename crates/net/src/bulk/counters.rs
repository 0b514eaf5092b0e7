//! What the bulk lane carried and refused, counted.

use crate::counters::counters;

counters! {
    /// What the bulk lane of this node carried, refused or gave up since it started.
    BulkCounters of Counters,
    /// Connections opened to peers.
    connections_opened,
    /// Connections of peers let in with a ticket.
    connections_accepted,
    /// Connections refused before the handshake: too many at once, or from one source.
    handshakes_refused,
    /// Handshakes that failed or took too long: another mesh, no proof of identity, no ticket shown.
    handshakes_failed,
    /// Peers refused in the handshake because no ticket was issued to them.
    strangers_refused,
    /// Tickets issued.
    tickets_issued,
    /// Tickets not issued because their peer, or all together, had too many.
    tickets_denied,
    /// Tickets never used in time.
    tickets_expired,
    /// Tickets shown that were never issued to their bearer, used before, or expired.
    tickets_refused,
    /// Connections with a ticket refused because there were too many.
    connections_refused,
    /// Connections closed because nothing was transferred on them.
    connections_idle,
    /// Transfers refused for the length of their header or body.
    transfers_refused,
    /// Transfers that ended early, went on too long, stalled, or were given up by either side.
    transfers_broken,
    /// Transfers sent whole.
    transfers_sent,
    /// Transfers received whole.
    transfers_received,
    /// Bytes of bodies sent.
    bytes_sent,
    /// Bytes of bodies received.
    bytes_received,
}
