//! A simulated line: which packets pass it, and when. Pure: time and packets in, packets out.
//!
//! A packet waits in a queue of bounded length until the line has sent those before it, then travels
//! for the delay and a random part of the jitter. Packets do not overtake each other.

use std::{collections::VecDeque, time::Duration};

/// What a line does to packets, in each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quality {
    /// One way.
    pub(crate) delay: Duration,
    /// At most this more, evenly distributed.
    pub(crate) jitter: Duration,
    /// Share of packets lost, 0 to 1.
    pub(crate) loss: f64,
    /// Bits a second.
    pub(crate) rate: u64,
    /// What the queue holds, by the time it takes to send it.
    pub(crate) queue: Duration,
}

/// One direction of a line. Times count from any common beginning.
#[derive(Debug)]
pub(crate) struct Direction {
    quality: Quality,
    chance: Chance,
    /// When the last packet accepted so far has left the queue.
    idle_at: Duration,
    travelling: VecDeque<(Duration, Vec<u8>)>,
}

impl Direction {
    pub(crate) const fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            chance: Chance(seed),
            idle_at: Duration::ZERO,
            travelling: VecDeque::new(),
        }
    }

    /// Takes a packet, or loses it.
    pub(crate) fn offer(&mut self, now: Duration, packet: Vec<u8>) {
        let Quality {
            delay,
            jitter,
            loss,
            rate,
            queue,
        } = self.quality;
        let start = self.idle_at.max(now);
        // What is offered is drawn for even when the queue is full: the same packets meet the same luck.
        let lost = self.chance.next() < loss;
        let late = jitter.mul_f64(self.chance.next());
        if lost || start - now > queue {
            return;
        }
        let bits = packet.len() as f64 * 8.0;
        self.idle_at = start + Duration::from_secs_f64(bits / rate.max(1) as f64);
        let before = self
            .travelling
            .back()
            .map_or(Duration::ZERO, |(due, _)| *due);
        let due = (self.idle_at + delay + late).max(before);
        self.travelling.push_back((due, packet));
    }

    /// When the next packet arrives, if one is under way.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.travelling.front().map(|(due, _)| *due)
    }

    /// The next packet that has arrived by now.
    pub(crate) fn arrived(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.next_due().filter(|due| *due <= now)?;
        self.travelling.pop_front().map(|(_, packet)| packet)
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    /// Evenly distributed from 0 to 1, without 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 53 bits fill a float's fraction.
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn perfect() -> Quality {
        Quality {
            delay: 10 * MS,
            jitter: Duration::ZERO,
            loss: 0.0,
            rate: 8_000_000,
            queue: 100 * MS,
        }
    }

    #[test]
    fn a_packet_takes_its_length_and_the_delay() {
        let mut line = Direction::new(perfect(), 1);
        line.offer(5 * MS, vec![0; 1000]);
        // 8,000 bits at 8 Mbit/s are one millisecond.
        assert_eq!(line.next_due(), Some(16 * MS));
        assert!(line.arrived(15 * MS).is_none());
        assert!(line.arrived(16 * MS).is_some());
        assert!(line.arrived(16 * MS).is_none());
    }

    #[test]
    fn the_rate_bounds_what_passes_and_the_queue_what_waits() {
        let mut line = Direction::new(perfect(), 1);
        for _ in 0..1000 {
            line.offer(Duration::ZERO, vec![0; 1000]);
        }
        let mut passed = 0;
        while line.arrived(10_000 * MS).is_some() {
            passed += 1;
        }
        // 100 ms of queue are 100 packets of one millisecond, and one may be on its way.
        assert_eq!(passed, 101);
    }

    #[test]
    fn loss_is_the_share_that_was_asked_for() {
        let mut line = Direction::new(
            Quality {
                loss: 0.1,
                rate: u64::MAX,
                ..perfect()
            },
            7,
        );
        for _ in 0..10_000 {
            line.offer(Duration::ZERO, vec![0; 100]);
        }
        let mut passed = 0;
        while line.arrived(1000 * MS).is_some() {
            passed += 1;
        }
        assert!((8_900..9_100).contains(&passed), "{passed}");
    }

    #[test]
    fn jitter_delays_and_never_reorders() {
        let mut line = Direction::new(
            Quality {
                jitter: 20 * MS,
                ..perfect()
            },
            3,
        );
        for i in 0..50_u8 {
            line.offer(u32::from(i) * MS, vec![i]);
        }
        let mut last = None;
        while let Some(packet) = line.arrived(200 * MS) {
            assert!(last < Some(packet[0]));
            last = Some(packet[0]);
        }
        assert_eq!(last, Some(49));
    }

    #[test]
    fn the_same_seed_is_the_same_line() {
        let dues = |seed| {
            let mut line = Direction::new(
                Quality {
                    jitter: 20 * MS,
                    loss: 0.2,
                    ..perfect()
                },
                seed,
            );
            for i in 0..20 {
                line.offer(i * 50 * MS, vec![0; 500]);
            }
            line.travelling
                .iter()
                .map(|(due, _)| *due)
                .collect::<Vec<_>>()
        };
        assert_eq!(dues(4), dues(4));
        assert_ne!(dues(4), dues(5));
    }
}
