//! Bytes that are almost right.

/// Longest input.
const LONGEST: usize = 64 << 10;
/// Values at which lengths and counters go wrong.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xfe, 0x40, 0x10];

/// The same inputs for the same seed.
pub(crate) struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
    given: usize,
}

impl Mutator {
    pub(crate) const fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        Self {
            state: seed,
            seeds,
            given: 0,
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 where that is 0.
    fn below(&mut self, n: usize) -> usize {
        (self.random() % n.max(1) as u64) as usize
    }

    /// Every seed once as it is, then mutations of them; now and then mere noise.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        if let Some(seed) = self.seeds.get(self.given) {
            self.given += 1;
            return seed.clone();
        }
        let mut bytes = match self.below(self.seeds.len() + 1) {
            n if n < self.seeds.len() => self.seeds[n].clone(),
            _ => (0..self.below(300)).map(|_| self.random() as u8).collect(),
        };
        for _ in 0..=self.below(6) {
            self.change(&mut bytes);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let (length, at) = (bytes.len(), self.below(bytes.len()));
        let many = self.below(8) + 1;
        match self.below(9) {
            0 if length > 0 => bytes[at] ^= 1 << self.below(8),
            1 if length > 0 => bytes[at] = EDGES[self.below(EDGES.len())],
            2 if length > 0 => {
                bytes[at] = bytes[at].wrapping_add(self.below(9) as u8).wrapping_sub(4)
            }
            3 => bytes.truncate(at),
            4 => {
                let end = (at + many).min(length);
                bytes.drain(at..end);
            }
            5 => {
                let new: Vec<u8> = (0..many).map(|_| self.random() as u8).collect();
                bytes.splice(at..at, new);
            }
            // A piece of itself once more, or often.
            6 => {
                let end = (at + self.below(64)).min(length);
                let times = if self.below(20) == 0 { 500 } else { 1 };
                let piece = bytes[at..end].repeat(times);
                bytes.splice(at..at, piece);
            }
            // A piece of another seed.
            7 if !self.seeds.is_empty() => {
                let other = self.below(self.seeds.len());
                let from = self.below(self.seeds[other].len());
                let piece = self.seeds[other][from..].to_vec();
                bytes.splice(at..length, piece);
            }
            // A run of one edge: long numbers, deep nesting.
            8 => {
                let edge = if self.below(2) == 0 || length == 0 {
                    EDGES[self.below(EDGES.len())]
                } else {
                    bytes[at]
                };
                bytes.splice(at..at, std::iter::repeat_n(edge, many * many));
            }
            _ => bytes.push(self.random() as u8),
        }
        bytes.truncate(LONGEST);
    }
}
