//! A text encoder without parameters: every node has it, so vectors of different nodes compare
//! even when they share no model.
//!
//! Features are lower-cased words, their stems, and character 3- to 5-grams of each word; each is
//! hashed with a sign into one of [`DIMENSIONS`] places (Weinberger et al. 2009, "Feature Hashing
//! for Large Scale Multitask Learning"), weighted by 1 + ln(count), and the vector is normalised to
//! length 1. It sees shared word forms, not shared meaning.

/// Names this encoder and its version: vectors with another id must not be compared.
pub const ENCODER_ID: &str = "static-hash-1024-v1";

/// Length of the vectors.
pub const DIMENSIONS: usize = 1024;

/// Longest text that is looked at, bytes; the rest is ignored.
const MAX_TEXT: usize = 64 * 1024;

const WORD: f32 = 1.0;
const STEM: f32 = 1.0;
/// A word has many n-grams, so each counts little.
const GRAM: f32 = 0.25;
/// Factor for words that say nothing about a topic.
const STOP_WORD: f32 = 0.1;

const STOP_WORDS: [&str; 100] = [
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be",
    "been", "between", "but", "by", "can", "could", "did", "do", "does", "explain", "for", "from",
    "get", "give", "had", "has", "have", "he", "her", "him", "his", "how", "i", "if", "in", "into",
    "is", "it", "its", "just", "like", "long", "make", "many", "may", "me", "more", "most", "much",
    "my", "need", "no", "not", "of", "on", "one", "only", "or", "other", "our", "out", "please",
    "she", "should", "so", "some", "such", "tell", "than", "that", "the", "their", "them", "then",
    "there", "these", "they", "this", "to", "two", "up", "us", "use", "want", "was", "we", "were",
    "what", "when", "where", "which", "who", "why", "will", "with", "would", "you",
];

/// The unit vector of `text`, [`DIMENSIONS`] long; all zeros when it has no word.
pub fn encode(text: &str) -> Vec<f32> {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let lower = text[..end].to_lowercase();
    let mut features = Vec::with_capacity(lower.len() * 3);
    let [word_kind, stem_kind, gram_kind] = ["word", "stem", "gram"].map(kind);
    let mut framed = String::new();
    for word in lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
    {
        let factor = if STOP_WORDS.binary_search(&word).is_ok() {
            STOP_WORD
        } else {
            1.0
        };
        features.push((mix(feed(word_kind, word)), WORD * factor));
        features.push((mix(feed(stem_kind, stem(word))), STEM * factor));
        framed.clear();
        framed.extend(std::iter::once('^').chain(word.chars()).chain(['$']));
        for (start, _) in framed.char_indices() {
            let rest = &framed[start..];
            let mut hash = gram_kind;
            for (n, (at, c)) in (1..=5).zip(rest.char_indices()) {
                hash = feed(hash, &rest[at..at + c.len_utf8()]);
                if n >= 3 {
                    features.push((mix(hash), GRAM * factor));
                }
            }
        }
    }
    let mut vector = vec![0f32; DIMENSIONS];
    // Ordered, so that sums and therefore vectors are equal on every machine. The first weight of equals counts.
    let (mut places, ends) = by_place(&features);
    let mut begin = 0;
    for (value, end) in vector.iter_mut().zip(ends) {
        let features = &mut places[begin..end];
        begin = end;
        features.sort_by_key(|(hash, _)| *hash);
        for equal in features.chunk_by(|a, b| a.0 == b.0) {
            let (hash, weight) = equal[0];
            let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
            let damped = if equal.len() == 1 {
                1.0
            } else {
                1.0 + (equal.len() as f32).ln()
            };
            *value += sign * weight * damped;
        }
    }
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|v| *v /= norm);
    }
    vector
}

const fn place(hash: u64) -> usize {
    (hash % DIMENSIONS as u64) as usize
}

/// Features place behind place, those of one in their order, and where each place ends.
fn by_place(features: &[(u64, f32)]) -> (Vec<(u64, f32)>, Vec<usize>) {
    let mut next = vec![0usize; DIMENSIONS + 1];
    for (hash, _) in features {
        next[place(*hash) + 1] += 1;
    }
    for at in 1..next.len() {
        next[at] += next[at - 1];
    }
    let mut sorted = vec![(0, 0.0); features.len()];
    for feature in features {
        let at = &mut next[place(feature.0)];
        sorted[*at] = *feature;
        *at += 1;
    }
    next.truncate(DIMENSIONS);
    (sorted, next)
}

/// FNV-1a of a kind and what ends it.
fn kind(name: &str) -> u64 {
    feed(feed(0xcbf2_9ce4_8422_2325, name), "\0")
}

/// FNV-1a, gone on with.
fn feed(hash: u64, text: &str) -> u64 {
    text.bytes().fold(hash, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// SplitMix64's end: the low bits choose the place, the highest the sign.
const fn mix(h: u64) -> u64 {
    let h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// Cuts the commonest English endings where at least three letters remain.
fn stem(word: &str) -> &str {
    const ENDINGS: [&str; 16] = [
        "ational", "fulness", "ations", "ation", "ments", "ings", "ment", "ness", "ers", "ing",
        "ies", "ed", "es", "er", "ly", "s",
    ];
    let cut = ENDINGS
        .iter()
        .find_map(|e| word.strip_suffix(e).filter(|w| w.chars().count() >= 3));
    let stem = cut.unwrap_or(word);
    stem.strip_suffix('e')
        .filter(|w| w.chars().count() >= 3)
        .unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        encode(a).iter().zip(encode(b)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
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
            (
                "cooking time for eggs",
                "How long should an egg be cooked?",
                "How does merge sort work?",
            ),
            (
                "translate this letter",
                "Translation of letters and documents",
                "How do I plant tomatoes?",
            ),
        ] {
            let (near, far) = (cosine(query, near), cosine(query, far));
            assert!(near > far + 0.1, "{query}: near {near}, far {far}");
        }
    }

    #[test]
    fn vectors_are_unit_and_stable() {
        let norm: f32 = encode("Größe, naïve, 東京 123").iter().map(|v| v * v).sum();
        assert!((norm - 1.0).abs() < 1e-5);
        assert_eq!(encode("same"), encode("SAME"));
        assert!(encode(" ,.! ").iter().all(|v| *v == 0.0));
        assert_eq!(encode("x").len(), DIMENSIONS);
        assert!((cosine(&"lengthy ".repeat(50_000), "lengthy") - 1.0).abs() < 1e-5);
    }

    #[test]
    fn a_vector_is_the_one_the_id_names() {
        // A sum over places, of which each bit counts.
        let vector = encode("How do I bake bread, and for how long? 東京 naïve bread");
        let mut hash = kind("vector");
        for value in &vector {
            hash = feed(hash, &value.to_bits().to_string());
        }
        assert_eq!(mix(hash), 0xfa93_2174_4afe_b1f6);
    }

    #[test]
    fn the_hash_is_the_one_the_id_names() {
        // A change here changes every vector: give the encoder a new id with it.
        assert_eq!(mix(feed(kind("word"), "bread")), 0x29aa_54c9_8916_13b0);
    }
}
