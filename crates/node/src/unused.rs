//! Why a peer is not used.

use polymath_net::Membership;

use crate::{doctor::Reachability, live::Doubt, misses::Miss};

/// Why a peer is not used, for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Unused {
    /// No connection with it stands; it is dialled when it is needed.
    NotConnected,
    /// It belongs to another mesh.
    ForeignMesh,
    /// It speaks another version.
    VersionMismatch,
    /// It is no Polymath node.
    NotPolymath,
    /// It has not said yet who it is.
    Unidentified,
    /// Calls to it failed, and it is left alone for a while.
    FailedLately,
    /// It does not let this node in.
    Refused,
    /// The mesh's admins have shut it out.
    Revoked,
    /// It says that it leaves, or has left.
    Leaving,
    /// Others have lost it.
    Suspended,
    /// It has not been heard of for too long.
    Silent,
    /// It serves no experts.
    NoExperts,
}

impl Unused {
    /// Its stable name, as in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::ForeignMesh => "foreign_mesh",
            Self::VersionMismatch => "version_mismatch",
            Self::NotPolymath => "not_polymath",
            Self::Unidentified => "unidentified",
            Self::FailedLately => "failed_lately",
            Self::Refused => "refused",
            Self::Revoked => "revoked",
            Self::Leaving => "leaving",
            Self::Suspended => "suspended",
            Self::Silent => "silent",
            Self::NoExperts => "no_experts",
        }
    }
}

/// What is known of a peer.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    /// Whether it is one of us; nothing while it is not connected.
    pub(crate) membership: Option<Membership>,
    /// Experts it offers.
    pub(crate) experts: usize,
    /// Why the router leaves all of them alone, if it does.
    pub(crate) left_alone: Option<String>,
    /// What others say against it.
    pub(crate) doubt: Option<Doubt>,
    /// What came of the last try that failed.
    pub(crate) miss: Option<&'a Miss>,
    /// By which way it is reached, or would be.
    pub(crate) reach: Option<Reachability>,
}

/// Why it is not used, if it is not.
pub(crate) fn why(known: &Known<'_>) -> Option<(Unused, String)> {
    let miss = known.miss;
    let of_itself = |m: &&Miss| m.reason != Unused::NotConnected;
    let refuses = |m: &&Miss| matches!(m.reason, Unused::Refused | Unused::VersionMismatch);
    let doubted = known.doubt.map(|doubt| {
        let reason = match doubt {
            Doubt::Leaving => Unused::Leaving,
            Doubt::Suspended => Unused::Suspended,
            Doubt::Silent(_) => Unused::Silent,
        };
        (reason, doubt.words())
    });
    match known.membership {
        None if doubted.is_some() => doubted,
        Some(Membership::Member) if known.doubt == Some(Doubt::Leaving) => doubted,
        None => Some(match (miss, &known.reach) {
            (Some(m), _) if of_itself(&m) => (m.reason, m.what.clone()),
            (Some(m), Some(reach)) => (
                Unused::NotConnected,
                format!("{}; it {}", m.what, reach.why),
            ),
            (Some(m), None) => (Unused::NotConnected, m.what.clone()),
            (None, _) => (
                Unused::NotConnected,
                "not connected; it is dialled when it is needed".to_owned(),
            ),
        }),
        Some(Membership::Foreign) => Some(match miss.filter(of_itself) {
            Some(m) => (m.reason, m.what.clone()),
            None => (Unused::ForeignMesh, "not of this mesh".to_owned()),
        }),
        Some(Membership::Unidentified) => Some((
            Unused::Unidentified,
            "has not said yet who it is".to_owned(),
        )),
        // What it was taken for before it said that it is one of us is settled.
        Some(Membership::Member) => match (miss.filter(refuses), &known.left_alone) {
            (Some(m), _) => Some((m.reason, m.what.clone())),
            (None, Some(why)) => Some((Unused::FailedLately, why.clone())),
            (None, None) if known.experts == 0 => {
                Some((Unused::NoExperts, "serves no experts".to_owned()))
            }
            (None, None) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::doctor::{Place, reachability};

    fn known(membership: Option<Membership>) -> Known<'static> {
        Known {
            membership,
            experts: 1,
            left_alone: None,
            doubt: None,
            miss: None,
            reach: None,
        }
    }

    fn miss(reason: Unused, what: &str) -> Miss {
        Miss {
            at: Instant::now(),
            reason,
            what: what.to_owned(),
        }
    }

    fn reason(known: &Known<'_>) -> Option<Unused> {
        why(known).map(|(reason, _)| reason)
    }

    #[test]
    fn a_connected_member_with_experts_is_used_unless_something_speaks_against_it() {
        let member = || known(Some(Membership::Member));
        assert_eq!(why(&member()), None);
        let idle = Known {
            experts: 0,
            ..member()
        };
        assert_eq!(reason(&idle), Some(Unused::NoExperts));
        let shut = Known {
            left_alone: Some("failed lately (unavailable), next try in 3.0 s".into()),
            ..member()
        };
        assert_eq!(reason(&shut), Some(Unused::FailedLately));
        let refused = miss(Unused::Refused, "not on its list");
        let refused = Known {
            miss: Some(&refused),
            ..member()
        };
        assert_eq!(
            why(&refused),
            Some((Unused::Refused, "not on its list".into()))
        );
        // What was before it connected and told its mesh says nothing of a member.
        for before in [Unused::NotConnected, Unused::ForeignMesh] {
            let before = miss(before, "no answer");
            let now = Known {
                miss: Some(&before),
                ..member()
            };
            assert_eq!(why(&now), None);
        }
    }

    #[test]
    fn a_peer_that_is_not_connected_tells_the_last_dial_and_what_stands_between() {
        let failed = miss(Unused::NotConnected, "no connection within 10s");
        let place = Place::told(["/ip4/192.168.1.7/tcp/4040"]);
        let absent = Known {
            miss: Some(&failed),
            reach: Some(reachability(&Place::default(), &place)),
            ..known(None)
        };
        let (reason, detail) = why(&absent).unwrap_or((Unused::NoExperts, String::new()));
        assert_eq!(reason, Unused::NotConnected);
        assert!(detail.contains("within 10s"), "{detail}");
        assert!(detail.contains("private network"), "{detail}");
        assert_eq!(why(&known(None)).map(|w| w.0), Some(Unused::NotConnected));
    }

    #[test]
    fn what_others_say_counts_where_no_connection_says_otherwise() {
        let doubted = |membership, doubt| Known {
            doubt: Some(doubt),
            ..known(membership)
        };
        let suspended = doubted(None, Doubt::Suspended);
        assert_eq!(reason(&suspended), Some(Unused::Suspended));
        let member = Some(Membership::Member);
        assert_eq!(reason(&doubted(member, Doubt::Suspended)), None);
        let leaving = doubted(member, Doubt::Leaving);
        assert_eq!(reason(&leaving), Some(Unused::Leaving));
    }

    #[test]
    fn foreigners_say_in_which_way_they_are_foreign() {
        assert_eq!(
            reason(&known(Some(Membership::Foreign))),
            Some(Unused::ForeignMesh)
        );
        for kind in [Unused::VersionMismatch, Unused::NotPolymath] {
            let told = miss(kind, "told");
            for membership in [None, Some(Membership::Foreign)] {
                let foreign = Known {
                    miss: Some(&told),
                    ..known(membership)
                };
                assert_eq!(reason(&foreign), Some(kind));
            }
        }
        assert_eq!(
            reason(&known(Some(Membership::Unidentified))),
            Some(Unused::Unidentified)
        );
    }
}
