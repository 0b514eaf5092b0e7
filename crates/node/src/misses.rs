//! What came of the last tries that failed to reach or call a peer: for people who ask why it is not
//! used.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use polymath_net::{DialError, Door, Refused};
use polymath_types::ErrorKind;
use tokio::time::Instant;

use crate::unused::Unused;

/// Peers and addresses whose last failure is kept; the oldest goes first.
const MOST: usize = 512;

/// One failure.
#[derive(Debug, Clone)]
pub(crate) struct Miss {
    /// When.
    pub(crate) at: Instant,
    /// Of which sort.
    pub(crate) reason: Unused,
    /// One line for people.
    pub(crate) what: String,
}

/// The last failure of each peer id and each address dialled.
#[derive(Debug, Default)]
pub(crate) struct Misses(Mutex<HashMap<String, Miss>>);

impl Misses {
    /// Notes that a try to reach or call `target`, a peer id or an address, has failed.
    pub(crate) fn failed(&self, target: impl ToString, reason: Unused, what: impl ToString) {
        let mut misses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let target = target.to_string();
        if misses.len() >= MOST
            && !misses.contains_key(&target)
            && let Some(oldest) = misses.iter().min_by_key(|(_, m)| m.at)
        {
            let oldest = oldest.0.clone();
            misses.remove(&oldest);
        }
        let miss = Miss {
            at: Instant::now(),
            reason,
            what: what.to_string(),
        };
        misses.insert(target, miss);
    }

    /// Notes that it was reached.
    pub(crate) fn met(&self, target: impl ToString) {
        let mut misses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        misses.remove(&target.to_string());
    }

    /// What came of the last try, if it failed.
    pub(crate) fn of(&self, target: impl ToString) -> Option<Miss> {
        let misses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        misses.get(&target.to_string()).cloned()
    }

    /// All of them.
    pub(crate) fn all(&self) -> HashMap<String, Miss> {
        let misses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        misses.clone()
    }
}

/// Of which sort a failed dial is.
fn of_dial(error: &DialError) -> Unused {
    match error {
        DialError::WrongMesh { .. } => Unused::ForeignMesh,
        DialError::NotPolymath { .. } => Unused::NotPolymath,
        DialError::Version { .. } => Unused::VersionMismatch,
        DialError::TurnedAway { .. } => Unused::Refused,
        _ => Unused::NotConnected,
    }
}

/// The refusal at the door of a closed mesh that a failed dial ended with: whoever refused has
/// answered, so nothing is wrong with its address. The transport in which the door stands passes it
/// on as text; `door` knows the refusals whose text differs from peer to peer.
pub(crate) fn refusal(error: &DialError, door: Option<&Door>) -> Option<Refused> {
    let DialError::Unreachable { reason, .. } = error else {
        return None;
    };
    let fixed = [
        Refused::Stranger,
        Refused::Expired,
        Refused::UsedUp,
        Refused::Unknown,
        Refused::Busy,
        Refused::Revoked,
    ];
    let last = door.and_then(Door::refusal).map(|(_, refused)| refused);
    let last = last.filter(|r| matches!(r, Refused::NotTheIssuer(_)));
    fixed
        .into_iter()
        .chain(last)
        .find(|refused| reason.contains(&refused.to_string()))
}

/// Of which sort a failed dial is, and the same in one line for people.
pub(crate) fn told(error: &DialError, door: Option<&Door>) -> (Unused, String) {
    match refusal(error, door) {
        Some(refused) => (Unused::Refused, refused.to_string()),
        None => (of_dial(error), error.to_string()),
    }
}

/// Of which sort a failed call is, where it says something of the peer itself.
pub(crate) fn of_call(kind: ErrorKind) -> Option<Unused> {
    match kind {
        ErrorKind::VersionMismatch => Some(Unused::VersionMismatch),
        ErrorKind::PermissionDenied => Some(Unused::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_refusal_at_the_door_is_no_lack_of_an_answer() {
        let ended = |reason: String| DialError::Unreachable {
            target: "/ip4/192.0.2.1/tcp/1".into(),
            reason,
        };
        let refused = ended(format!("/ip4/192.0.2.1/tcp/1: {}", Refused::UsedUp));
        let (reason, what) = told(&refused, None);
        assert_eq!(reason, Unused::Refused);
        assert_eq!(what, Refused::UsedUp.to_string());
        let silent = ended("/ip4/192.0.2.1/tcp/1: connection refused".into());
        assert_eq!(told(&silent, None).0, Unused::NotConnected);
    }

    #[test]
    fn the_table_is_bounded_and_a_meeting_clears_its_entry() {
        let misses = Misses::default();
        for i in 0..=MOST {
            misses.failed(i, Unused::NotConnected, "no answer");
        }
        assert_eq!(misses.all().len(), MOST);
        assert_eq!(misses.of(MOST).unwrap().what, "no answer");
        misses.failed(MOST, Unused::Refused, "not allowed");
        assert_eq!(misses.all().len(), MOST);
        assert_eq!(misses.of(MOST).unwrap().reason, Unused::Refused);
        misses.met(MOST);
        assert!(misses.of(MOST).is_none());
    }
}
