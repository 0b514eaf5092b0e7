//! Whose suspicions are listened to.
//!
//! A witness is wrong when its subject goes on speaking in the same run. That happens to honest ones
//! whose own line is bad. One that is wrong again and again is not listened to for a while, so that a pair
//! of hostile peers silences nobody but for the moments its first few suspicions last.

use std::{collections::BTreeMap, time::Duration};

use polymath_types::PeerId;

/// Witnesses remembered.
const VOICES: usize = 1024;
/// Refuted suspicions after which a witness is not listened to.
const REFUTED: u32 = 4;
/// For so long; and those refuted longer ago count no more.
const WHILE: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Voice {
    refuted: u32,
    since: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Voices(BTreeMap<PeerId, Voice>);

impl Voices {
    /// A suspicion of `witness` was refuted.
    pub(super) fn refuted(&mut self, now: Duration, witness: PeerId) {
        if self.0.len() >= VOICES && !self.0.contains_key(&witness) {
            self.0.retain(|_, v| now.saturating_sub(v.since) < WHILE);
            let oldest = self.0.iter().min_by_key(|(_, v)| v.since).map(|(p, _)| *p);
            if let Some(oldest) = oldest.filter(|_| self.0.len() >= VOICES) {
                self.0.remove(&oldest);
            }
        }
        let voice = self.0.entry(witness).or_insert(Voice {
            refuted: 0,
            since: now,
        });
        if now.saturating_sub(voice.since) >= WHILE {
            voice.refuted = 0;
        }
        voice.refuted = voice.refuted.saturating_add(1);
        voice.since = now;
    }

    pub(super) fn is_heard(&self, now: Duration, witness: &PeerId) -> bool {
        self.0
            .get(witness)
            .is_none_or(|v| v.refuted < REFUTED || now.saturating_sub(v.since) >= WHILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_that_is_wrong_again_and_again_is_not_heard_for_a_while() {
        let (mut voices, witness, now) = (Voices::default(), PeerId::random(), WHILE);
        for _ in 0..REFUTED {
            assert!(voices.is_heard(now, &witness));
            voices.refuted(now, witness);
        }
        assert!(!voices.is_heard(now, &witness));
        assert!(voices.is_heard(now + WHILE, &witness));
        voices.refuted(now + WHILE, witness);
        assert!(voices.is_heard(now + WHILE, &witness), "it begins anew");
    }

    #[test]
    fn those_remembered_are_bounded() {
        let mut voices = Voices::default();
        for _ in 0..2 * VOICES {
            voices.refuted(Duration::ZERO, PeerId::random());
        }
        assert_eq!(voices.0.len(), VOICES);
    }
}
