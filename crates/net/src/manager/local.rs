//! Members announced on the local network: whom to dial unasked, and when.

use std::time::Duration;

use libp2p::{
    Multiaddr, PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use tokio::time::Instant;

use super::{Manager, dials::Dial};

/// A member found on the local network that cannot be reached is tried again after this.
const LOCAL_RETRY: Duration = Duration::from_secs(30);
/// So often in a row; then it must announce itself again.
const LOCAL_TRIES: u32 = 5;
/// Both sides discover each other at once; the one with the greater id leaves the other so long.
const LOCAL_COURTESY: Duration = Duration::from_secs(3);

/// A member announced on the local network.
pub(super) struct LocalMember {
    /// When to dial it, unless it is connected.
    due: Instant,
    tries: u32,
}

impl Manager {
    /// A member announced itself on the local network.
    pub(super) fn discovered(&mut self, id: PeerId, addresses: Vec<Multiaddr>) {
        if id == self.shared.local || self.shared.shut_out.contains(&id) {
            return;
        }
        if !self.local.contains_key(&id) && self.local.len() >= self.shared.limits.local_peers {
            self.shared.counters.local_announcements_ignored.up();
            return;
        }
        self.shared.learn(id, addresses);
        let courtesy = if self.shared.local < id {
            Duration::ZERO
        } else {
            LOCAL_COURTESY
        };
        let now = Instant::now();
        let due = now + courtesy;
        self.local
            .entry(id)
            .and_modify(|m| {
                *m = LocalMember {
                    due: m.due.min(due),
                    tries: 0,
                }
            })
            .or_insert(LocalMember { due, tries: 0 });
        self.dial_local(now);
    }

    pub(super) fn dial_local(&mut self, now: Instant) {
        let mut due = Vec::new();
        self.local.retain(|id, member| {
            if self.peers.contains_key(id) {
                member.tries = 0;
            } else if member.due <= now {
                *member = LocalMember {
                    due: now + LOCAL_RETRY,
                    tries: member.tries + 1,
                };
                due.push(*id);
            }
            member.tries <= LOCAL_TRIES
        });
        for id in due {
            let opts = DialOpts::peer_id(id)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(self.shared.addresses(&id))
                .build();
            let connection = opts.connection_id();
            if self.swarm.dial(opts).is_ok() {
                self.dials.insert(connection, Dial::local(id));
            }
        }
    }
}
