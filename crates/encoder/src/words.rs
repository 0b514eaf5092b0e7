//! Where words begin and end.

/// Longest text that is looked at, bytes: the beginning says what a question is about, and the time for
/// one is bounded.
pub const LONGEST_TEXT: usize = 8 * 1024;

/// The beginning of `text`, within [`LONGEST_TEXT`].
pub(crate) fn clip(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Words that say little about a subject.
pub(crate) fn is_stop_word(word: &[u8]) -> bool {
    word.len() <= 7
        && STOP_WORDS
            .binary_search_by(|w| w.as_bytes().cmp(word))
            .is_ok()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_words_are_sorted_for_the_search_and_short() {
        assert!(STOP_WORDS.is_sorted());
        assert!(STOP_WORDS.iter().all(|w| w.len() <= 7));
        assert!(is_stop_word(b"between") && !is_stop_word(b"bread"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "ü".repeat(LONGEST_TEXT);
        assert_eq!(clip(&text).len(), LONGEST_TEXT);
        assert_eq!(clip(&format!("x{text}")).len(), LONGEST_TEXT - 1);
    }
}
