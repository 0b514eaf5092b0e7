//! Automerge chunks out of bytes that were a frame before they were mutated.
//!
//! A mutation that adds or takes a byte breaks every length around it, and with a wrong checksum Automerge
//! looks at nothing: so chunks are found by their magic number, and length and checksum are put right.

use sha2::{Digest as _, Sha256};

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
/// Behind magic number and checksum: what the checksum is over.
const HASHED: usize = 8;
/// Tag and length of the signature that follows a change in its envelope.
const SIGNATURE: [u8; 2] = [0x32, 0x40];
/// Chunks of one input.
const MOST: usize = 8;

/// The changes in these bytes, as a decoder that believes nothing would like to have them.
pub(crate) fn find(bytes: &[u8]) -> Vec<Vec<u8>> {
    let starts = |at: &usize| bytes[*at..].starts_with(&MAGIC);
    let starts: Vec<usize> = (0..bytes.len()).filter(starts).take(MOST).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let pieces = starts.iter().zip(ends).map(|(from, to)| &bytes[*from..to]);
    pieces.filter_map(mended).collect()
}

fn mended(piece: &[u8]) -> Option<Vec<u8>> {
    let envelope = |at: &usize| piece[*at..].starts_with(&SIGNATURE);
    let end = (0..piece.len()).rev().find(envelope).unwrap_or(piece.len());
    let (kind, rest) = piece[..end].get(HASHED..)?.split_first()?;
    let length = rest.iter().position(|b| b & 0x80 == 0)? + 1;
    let body = &rest[length..];
    let mut hashed = vec![*kind];
    let mut left = body.len();
    loop {
        let byte = (left & 0x7f) as u8;
        left >>= 7;
        hashed.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    hashed.extend_from_slice(body);
    let checksum = Sha256::digest(&hashed);
    Some([&MAGIC[..], &checksum[..4], &hashed].concat())
}
