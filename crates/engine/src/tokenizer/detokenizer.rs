//! Tokens to text, as they come.

use super::BpeTokenizer;

/// Turns a stream of tokens into text; bytes that do not yet make a character wait, and are dropped
/// when the answer ends there.
#[derive(Debug, Default)]
pub(crate) struct Detokenizer {
    pending: Vec<u8>,
}

impl Detokenizer {
    /// The text that is complete after `id`. Bytes that cannot become a character are replaced by
    /// U+FFFD.
    pub(crate) fn push(&mut self, tokenizer: &BpeTokenizer, id: u32) -> String {
        self.feed(tokenizer.bytes(id))
    }

    fn feed(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = done + invalid.len() == self.pending.len();
            let waits = at_end && may_grow(invalid);
            if !invalid.is_empty() && !waits {
                text.push(char::REPLACEMENT_CHARACTER);
                done += invalid.len();
            }
        }
        self.pending.drain(..done);
        text
    }
}

/// Whether bytes at the end of the input are the beginning of a character.
fn may_grow(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_out_whole() {
        let mut d = Detokenizer::default();
        let euro = "€".as_bytes();
        assert_eq!(d.feed(&euro[..1]), "");
        assert_eq!(d.feed(&euro[1..2]), "");
        assert_eq!(d.feed(&[euro[2], b'x']), "€x");
        assert_eq!(d.feed(&[0xff, b'y']), "\u{fffd}y");
        assert_eq!(d.feed(&euro[..2]), "");
        assert_eq!(d.feed(b"z"), "\u{fffd}z");
    }
}
