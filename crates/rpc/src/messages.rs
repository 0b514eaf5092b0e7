//! Where the messages of a stream begin and end.

/// gRPC's prefix of a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Follows the messages in a stream's bytes. Checks nothing: lengths are the decoder's to refuse.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that are there.
    known: usize,
    /// Bytes of the message that are not.
    left: usize,
}

impl Messages {
    /// Takes note of the next bytes.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
            } else {
                let taken = (PREFIX - self.known).min(bytes.len());
                self.prefix[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
                self.known += taken;
                bytes = &bytes[taken..];
                if self.known < PREFIX {
                    return;
                }
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
            }
            if self.left == 0 {
                self.known = 0;
            }
        }
    }

    /// Whether all that has begun is complete.
    pub(crate) const fn are_whole(&self) -> bool {
        self.known == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_ends_of_messages_are_seen_however_they_are_cut(
            lengths in prop::collection::vec(0_usize..40, 0..8),
            cut in 1_usize..20,
        ) {
            let mut wire = Vec::new();
            let mut ends = vec![0];
            for length in lengths {
                wire.push(0);
                wire.extend(u32::try_from(length).unwrap_or_default().to_be_bytes());
                wire.extend(vec![0xff; length]);
                ends.push(wire.len());
            }
            let (mut messages, mut at) = (Messages::default(), 0);
            for piece in wire.chunks(cut) {
                messages.pass(piece);
                at += piece.len();
                prop_assert_eq!(messages.are_whole(), ends.contains(&at), "at {}", at);
            }
        }
    }
}
