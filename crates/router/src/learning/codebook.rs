//! Clusters of queries that mean the same on every node, so that counts by cluster can be shared.
//!
//! A book is a few centroids under one encoder, and its id is the hash of its bytes: a new book is published
//! beside the old one and nothing is re-keyed. A point is the query's vector, folded to the book's width,
//! and behind it the query's cues, scaled: words tell the subject, cues the form. Points are centred on the
//! book's mean, else all texts of a language would look alike.

use std::{fmt, sync::OnceLock};

use polymath_types::CodebookId;

use super::Sparse;

mod fitting;

pub use fitting::{Fit, fit};

const MAGIC: &[u8; 8] = b"PMCODE\x00\x01";
/// Bounds of a book that is read.
const MOST_CLUSTERS: usize = 1024;
const MOST_WIDTH: usize = 4096;
const MOST_CUES: usize = 64;
const LONGEST_ENCODER: usize = 128;
/// Clusters a query belongs to at most.
pub(crate) const MEMBERSHIPS: usize = 3;
/// Inverse temperature of soft membership, over products.
const SHARPNESS: f32 = 12.0;

/// One cluster a query belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Member {
    /// Which.
    pub cluster: u16,
    /// How much; those of one query and book add up to 1.
    pub weight: f32,
}

/// What a book's points are made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Space {
    /// Dimensions that vectors are folded to.
    pub width: usize,
    /// How many cues follow.
    pub cues: usize,
    /// What a cue is multiplied with; the vector has length 1.
    pub cue_scale: f32,
}

impl Space {
    /// A query's point; cues that are missing count as 0.
    pub(crate) fn point(&self, vector: &Sparse, cues: &[f32]) -> Vec<f32> {
        let mut point = vector.folded(self.width);
        point.extend((0..self.cues).map(|c| cues.get(c).copied().unwrap_or(0.0) * self.cue_scale));
        point
    }

    const fn dimensions(&self) -> usize {
        self.width + self.cues
    }
}

/// Why bytes are no codebook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodebookError {
    /// Not a codebook, or of another version.
    #[error(
        "these bytes are no codebook of a version this build reads: take one written by this version"
    )]
    Format,
    /// A bound is passed.
    #[error("a codebook has at most {most} {what}, not {found}: fit a smaller one")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The bound.
        most: usize,
        /// What the bytes say.
        found: usize,
    },
}

/// See the module.
#[derive(Clone)]
pub struct Codebook {
    id: CodebookId,
    encoder: String,
    space: Space,
    clusters: usize,
    bytes: Vec<u8>,
    /// By dimension, then by cluster: one pass over a sparse query fills all products.
    centroids: Vec<f32>,
    /// Product of each centroid with the mean: what centring takes off.
    offsets: Vec<f32>,
}

impl fmt::Debug for Codebook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, k) = (self.id, self.clusters);
        f.debug_struct("Codebook")
            .field("id", &id)
            .field("clusters", &k)
            .finish_non_exhaustive()
    }
}

impl Codebook {
    /// The books that every node has, coarse ones first: 8 clusters, and 32 thrice from other beginnings.
    ///
    /// Fitted by `cargo run --release -p polymath-eval --example fit_codebooks` on the training questions of
    /// ulab-uiuc/LLMRouter (MIT), without their outcomes.
    pub fn defaults() -> &'static [Self] {
        static BOOKS: OnceLock<Vec<Codebook>> = OnceLock::new();
        BOOKS.get_or_init(|| {
            let mut rest: &[u8] = include_bytes!("codebook/default.bin");
            let mut books = Vec::new();
            // A test reads them all, so none is missing here.
            while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                let length = u32::from_le_bytes(*length) as usize;
                let Some((bytes, tail)) = tail.split_at_checked(length) else {
                    break;
                };
                books.extend(Self::parse(bytes).ok());
                rest = tail;
            }
            books
        })
    }

    /// Reads a book.
    pub fn parse(bytes: &[u8]) -> Result<Self, CodebookError> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(CodebookError::Format)?;
        let mut number = |what: &'static str, most: usize| {
            let (head, tail) = rest.split_first_chunk::<4>().ok_or(CodebookError::Format)?;
            rest = tail;
            let found = u32::from_le_bytes(*head) as usize;
            match found {
                0 => Err(CodebookError::Format),
                _ if found > most => Err(CodebookError::TooLarge { what, most, found }),
                _ => Ok(found),
            }
        };
        let clusters = number("clusters", MOST_CLUSTERS)?;
        let width = number("dimensions", MOST_WIDTH)?;
        let cues = number("cues", MOST_CUES)?;
        let cue_scale = f32::from_bits(number("bits of a scale", u32::MAX as usize)? as u32);
        let name = number("bytes of its encoder's name", LONGEST_ENCODER)?;
        let space = Space {
            width,
            cues,
            cue_scale,
        };
        let dimensions = space.dimensions();
        let (name, rest) = rest.split_at_checked(name).ok_or(CodebookError::Format)?;
        let encoder = std::str::from_utf8(name)
            .map_err(|_| CodebookError::Format)?
            .to_owned();
        if rest.len() != (clusters + 1) * (dimensions + 4) {
            return Err(CodebookError::Format);
        }
        let rows: Vec<Vec<f32>> = rest.chunks_exact(dimensions + 4).map(row).collect();
        let (mean, rows) = rows.split_first().ok_or(CodebookError::Format)?;
        if !cue_scale.is_finite() || !rows.iter().chain([mean]).flatten().all(|v| v.is_finite()) {
            return Err(CodebookError::Format);
        }
        let centroids = (0..dimensions)
            .flat_map(|d| rows.iter().map(move |r| r[d]))
            .collect();
        let offsets = rows
            .iter()
            .map(|r| r.iter().zip(mean).map(|(a, b)| a * b).sum())
            .collect();
        Ok(Self {
            id: CodebookId::from_bytes(*blake3::hash(bytes).as_bytes()),
            encoder,
            space,
            clusters,
            bytes: bytes.to_vec(),
            centroids,
            offsets,
        })
    }

    /// Writes a book of a mean and centroids, all in `space`, and reads it back.
    pub fn write(
        encoder: &str,
        space: Space,
        mean: &[f32],
        centroids: &[Vec<f32>],
    ) -> Result<Self, CodebookError> {
        let mut bytes = MAGIC.to_vec();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        for n in [
            number(centroids.len()),
            number(space.width),
            number(space.cues),
            space.cue_scale.to_bits(),
            number(encoder.len()),
        ] {
            bytes.extend(n.to_le_bytes());
        }
        bytes.extend(encoder.as_bytes());
        for values in std::iter::once(mean).chain(centroids.iter().map(Vec::as_slice)) {
            let scale = values.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
            bytes.extend(scale.to_le_bytes());
            bytes.extend(
                values
                    .iter()
                    .map(|v| (v / scale.max(f32::MIN_POSITIVE)).round() as i8 as u8),
            );
        }
        Self::parse(&bytes)
    }

    /// Its id: equal ids mean equal clusters.
    pub const fn id(&self) -> CodebookId {
        self.id
    }

    /// The encoder whose vectors it sorts.
    pub fn encoder(&self) -> &str {
        &self.encoder
    }

    /// How many clusters it has.
    pub const fn clusters(&self) -> usize {
        self.clusters
    }

    /// What its id is the hash of.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The nearest clusters, nearest first, by softmax over products.
    pub fn assign(&self, vector: &Sparse, cues: &[f32]) -> [Member; MEMBERSHIPS] {
        let mut cosines: Vec<f32> = self.offsets.iter().map(|o| -o).collect();
        let mut add = |place: usize, value: f32| {
            let row = &self.centroids[place * self.clusters..(place + 1) * self.clusters];
            cosines
                .iter_mut()
                .zip(row)
                .for_each(|(c, r)| *c += r * value);
        };
        // Folded first: a long text has several values for each of the book's dimensions.
        let mut folded = vec![0f32; self.space.width];
        for (place, value) in vector.iter() {
            folded[place % self.space.width] += value;
        }
        for (place, value) in folded.iter().enumerate().filter(|(_, v)| **v != 0.0) {
            add(place, *value);
        }
        for (cue, value) in cues.iter().take(self.space.cues).enumerate() {
            add(self.space.width + cue, value * self.space.cue_scale);
        }
        let mut nearest = [(f32::NEG_INFINITY, 0u16); MEMBERSHIPS];
        for (cluster, cosine) in (0u16..).zip(cosines) {
            let mut item = (cosine, cluster);
            for place in &mut nearest {
                if item.0 > place.0 {
                    std::mem::swap(place, &mut item);
                }
            }
        }
        let best = nearest[0].0;
        let mut members = nearest.map(|(cosine, cluster)| Member {
            cluster,
            weight: ((cosine - best) * SHARPNESS).exp(),
        });
        let sum: f32 = members.iter().map(|m| m.weight).sum();
        members
            .iter_mut()
            .for_each(|m| m.weight /= sum.max(f32::MIN_POSITIVE));
        members
    }
}

/// A scale and a signed byte for each dimension.
fn row(bytes: &[u8]) -> Vec<f32> {
    let (scale, values) = bytes.split_at(4);
    let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
    values.iter().map(|v| f32::from(*v as i8) * scale).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_default_books_are_those_whose_counts_others_share() {
        // New books get new ids; counts under the old ones are of no use to them.
        let ids: Vec<String> = Codebook::defaults()
            .iter()
            .map(|b| format!("{} {}", b.clusters(), &b.id().to_string()[..16]))
            .collect();
        assert_eq!(
            ids,
            [
                "8 4dfbb440b60a58df",
                "32 d950a6390e898b93",
                "32 b9807802bc7d6b16",
                "32 3840d70f62adbbc5"
            ]
        );
        assert!(
            Codebook::defaults()
                .iter()
                .all(|b| b.encoder() == "static-sparse-16384-v1")
        );
    }

    #[test]
    fn a_book_survives_its_bytes_and_hostile_bytes_are_refused() {
        let space = Space {
            width: 4,
            cues: 1,
            cue_scale: 0.5,
        };
        let rows = [vec![1.0, 0.0, 0.0, 0.0, 0.0], vec![0.0, 1.0, 0.0, 0.0, 0.0]];
        let book = Codebook::write("test", space, &[0.0; 5], &rows).unwrap();
        assert_eq!(Codebook::parse(book.bytes()).unwrap().id(), book.id());
        let members = book.assign(&Sparse::new(&[5], &[1.0]), &[]);
        assert_eq!(members[0].cluster, 1, "place 5 folds to 1");
        assert!((members.iter().map(|m| m.weight).sum::<f32>() - 1.0).abs() < 1e-6);
        for cut in 0..book.bytes().len() {
            assert!(Codebook::parse(&book.bytes()[..cut]).is_err());
        }
        let mut huge = book.bytes().to_vec();
        huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            Codebook::parse(&huge),
            Err(CodebookError::TooLarge { .. })
        ));
    }

    #[test]
    fn balanced_fitting_finds_groups_of_unequal_size() {
        let text = |group: u32, n: u32| {
            let places = [group * 7, group * 7 + 1, 100 + n % 40];
            (Sparse::new(&places, &[0.7, 0.6, 0.39]), Vec::new())
        };
        let texts: Vec<_> = (0..120)
            .map(|n| text(if n < 80 { 0 } else { 1 + n % 2 }, n))
            .collect();
        let space = Space {
            width: 256,
            cues: 0,
            cue_scale: 0.0,
        };
        let fitted = fit(
            "test",
            &texts,
            &Fit {
                clusters: 3,
                space,
                ..Fit::default()
            },
        );
        // A book without cues is refused by its reader, as is any of no clusters.
        assert_eq!(fitted.err(), Some(CodebookError::Format));
        let space = Space {
            width: 256,
            cues: 1,
            cue_scale: 0.1,
        };
        let book = fit(
            "test",
            &texts,
            &Fit {
                clusters: 3,
                space,
                ..Fit::default()
            },
        )
        .unwrap();
        let cluster = |n: usize| book.assign(&texts[n].0, &[])[0].cluster;
        assert!((0..80).all(|n| cluster(n) == cluster(0)));
        assert_ne!(cluster(0), cluster(80));
        assert_ne!(cluster(80), cluster(81));
    }
}
