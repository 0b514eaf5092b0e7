//! Decides what the router sees of a text where no model is at hand: a sparse vector of hashed word
//! parts, and a few cheap cues such as length, digits and marks of code.
//!
//! There are no parameters and no files, so every node has it, it never waits, and vectors of different
//! nodes compare. It sees shared word forms, not shared meaning. It leaves to others what is made of a
//! vector: the router learns from it, and takes vectors of any other encoder just as well.
//!
//! [`ENCODER_ID`] names all that decides a vector's bytes: a change here needs a new one.

mod cues;
mod hashing;
mod words;

pub use cues::{CUE_NAMES, CUES};
pub use words::LONGEST_TEXT;

/// Names this encoder and its version: vectors with another id must not be compared.
pub const ENCODER_ID: &str = "static-sparse-16384-v1";

/// Places of a vector; each feature is hashed to one of them.
pub const DIMENSIONS: usize = 1 << 14;

/// What the router is told of one text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Encoding {
    /// Places that are not zero, rising, each below [`DIMENSIONS`].
    pub places: Vec<u32>,
    /// Their values; the sum of their squares is 1, or there are none.
    pub values: Vec<f32>,
    /// See [`CUE_NAMES`]; each about -2 to 2 for common texts.
    pub cues: [f32; CUES],
}

/// Encodes `text`; what lies beyond [`LONGEST_TEXT`] bytes is ignored.
pub fn encode(text: &str) -> Encoding {
    let text = words::clip(text);
    let (places, values) = hashing::hash(text);
    Encoding {
        places,
        values,
        cues: cues::cues(text),
    }
}
