//! The counters of the network side by their names, for `status`.

use std::collections::HashMap;

use polymath_net::NetCounters;

macro_rules! by_name {
    ($counters:ident: $($name:ident,)*) => {
        [$((stringify!($name), $counters.$name),)*]
    };
}

/// Every counter by its name.
pub(super) fn named(counters: &NetCounters) -> HashMap<String, u64> {
    let named = by_name! { counters:
        streams_refused_queue_full,
        streams_refused_peer_full,
        streams_refused_connection_full,
        streams_accepted,
        streams_opened,
        opens_refused,
        connections_refused,
        connections_silent,
        connections_trimmed,
        announcements_failed,
        foreign_peers,
        callers_refused,
        addresses_evicted,
        uploads_delayed,
        relayed_bytes,
        circuits_over_quota,
        reservations_granted,
        reservations_refused,
        circuits_granted,
        circuits_refused,
        dial_backs,
        dial_backs_refused,
        holes_punched,
        punches_failed,
        behaviours_restarted,
        strangers_refused,
        shut_out_refused,
        dht_queries,
        dht_requests,
        provider_records_kept,
        provider_records_malformed,
        provider_records_peer_full,
        provider_records_no_room,
        provider_records_evicted,
        addresses_undialable,
        addresses_out_of_scope,
        addresses_too_many,
        local_announcements_ignored,
        local_members_heard,
    };
    named.map(|(name, n)| (name.to_owned(), n)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_counter_is_left_out() {
        let counters = NetCounters::default();
        let fields = format!("{counters:?}").matches(": ").count();
        assert_eq!(named(&counters).len(), fields);
    }
}
