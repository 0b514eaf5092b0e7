//! Hashed words, pairs of words and parts of words (Weinberger et al. 2009, "Feature Hashing for Large
//! Scale Multitask Learning").
//!
//! Words are lower-cased runs of letters and digits; every digit counts as 0, so numbers are told by their
//! length. A feature's weight is by its kind, less for stop words; a place holds the signed sum of its
//! features, damped to `sign(s)·ln(1 + |s|)` so that repetition counts less and less, and the vector has
//! length 1.

use crate::{DIMENSIONS, words::is_stop_word};

const WORD: f32 = 1.0;
const PAIR: f32 = 0.5;
/// A word has many parts, so each counts little.
const GRAM: f32 = 0.3;
/// Factor for words that say nothing about a subject.
const STOP_WORD: f32 = 0.3;
/// Lengths of the parts, bytes. Bytes serve all scripts: a part of three is one CJK character.
const GRAMS: std::ops::RangeInclusive<usize> = 3..=5;
/// Longest word whose parts are looked at, bytes: beyond it lies a key, a hash or a picture.
const LONGEST_WORD: usize = 48;

/// Rising places and their values.
pub(crate) fn hash(text: &str) -> (Vec<u32>, Vec<f32>) {
    let mut sums = vec![0f32; DIMENSIONS];
    let mut word = Vec::with_capacity(LONGEST_WORD + 8);
    let mut before = 0u64;
    for c in text.chars() {
        if c.is_ascii_digit() {
            push(&mut word, '0');
        } else if c.is_ascii_alphabetic() {
            push(&mut word, c.to_ascii_lowercase());
        } else if c.is_alphanumeric() {
            c.to_lowercase().for_each(|c| push(&mut word, c));
        } else if !word.is_empty() {
            before = add_word(&mut sums, &mut word, before);
        }
    }
    if !word.is_empty() {
        add_word(&mut sums, &mut word, before);
    }

    let mut places = Vec::with_capacity(512);
    let mut values = Vec::with_capacity(512);
    for (place, sum) in (0u32..).zip(&sums) {
        if *sum != 0.0 {
            places.push(place);
            values.push(sum.signum() * sum.abs().ln_1p());
        }
    }
    let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    if norm > 0.0 {
        values.iter_mut().for_each(|v| *v /= norm);
    }
    (places, values)
}

/// Words are framed by `^` and `$`, so that a part knows where a word begins and ends.
fn push(word: &mut Vec<u8>, c: char) {
    if word.is_empty() {
        word.push(b'^');
    }
    if word.len() < LONGEST_WORD {
        word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Adds the features of a framed word and empties it; returns its hash.
fn add_word(sums: &mut [f32], word: &mut Vec<u8>, before: u64) -> u64 {
    let factor = if is_stop_word(&word[1..]) {
        STOP_WORD
    } else {
        1.0
    };
    let whole = mix(bytes_hash(b'w', &word[1..]));
    add(sums, whole, WORD * factor);
    if before != 0 {
        add(sums, mix(before.rotate_left(17) ^ whole), PAIR * factor);
    }
    word.push(b'$');
    for start in 0..word.len() {
        let mut h = bytes_hash(b'g', &[]);
        for (n, byte) in (1..=*GRAMS.end()).zip(&word[start..]) {
            h = step(h, *byte);
            if n >= *GRAMS.start() {
                add(sums, mix(h), GRAM * factor);
            }
        }
    }
    word.clear();
    whole
}

fn add(sums: &mut [f32], hash: u64, weight: f32) {
    let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
    sums[(hash % DIMENSIONS as u64) as usize] += sign * weight;
}

/// FNV-1a.
fn bytes_hash(kind: u8, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(step(0xcbf2_9ce4_8422_2325, kind), |h, b| step(h, *b))
}

const fn step(h: u64, byte: u8) -> u64 {
    (h ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

/// SplitMix64's end: the low bits choose the place, the highest the sign.
const fn mix(h: u64) -> u64 {
    let h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        let ((pa, va), (pb, vb)) = (hash(a), hash(b));
        let mut dense = vec![0f32; DIMENSIONS];
        pa.iter().zip(va).for_each(|(p, v)| dense[*p as usize] = v);
        pb.iter().zip(vb).map(|(p, v)| dense[*p as usize] * v).sum()
    }

    #[test]
    fn shared_word_forms_bring_texts_together() {
        for (query, near, far) in [
            (
                "How do I bake bread?",
                "Baking breads and cakes at home",
                "The stock market fell today",
            ),
            (
                "write a rust function",
                "Functions, traits and lifetimes in Rust",
                "How do I cook pasta?",
            ),
            ("東京の天気は", "東京は雨です", "株式市場"),
            (
                "Größe einer Fläche",
                "die größe der flächen",
                "wie spät ist es",
            ),
        ] {
            let (near, far) = (cosine(query, near), cosine(query, far));
            assert!(near > far + 0.05, "{query}: near {near}, far {far}");
        }
    }

    #[test]
    fn vectors_are_unit_rising_and_blind_to_case_and_digits() {
        let (places, values) = hash("Größe, naïve, 東京 123");
        assert!((values.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(places.is_sorted() && places.iter().all(|p| (*p as usize) < DIMENSIONS));
        assert_eq!(hash("in 1999"), hash("IN 2024"));
        assert_eq!(hash(" ,.! "), (Vec::new(), Vec::new()));
    }

    #[test]
    fn the_hash_is_the_one_the_id_names() {
        // A change here changes every vector: give the encoder a new id with it.
        assert_eq!(mix(bytes_hash(b'w', b"bread")), 0xb322f2d973cfa817);
    }
}
