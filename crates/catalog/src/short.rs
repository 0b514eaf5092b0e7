//! The short form in which changes travel: what whoever has the change before can derive is left out.
//!
//! Of a chunk only its columns are sent. Magic, lengths and checksum follow from the rest; the dependency
//! and the first operation's counter from the change before; the actor from author and epoch; our own
//! changes have no time and no message. That halves an update. Whoever rebuilds a change gets the bytes that were
//! signed, or bytes on which the signature does not hold; a change that is not made in this way travels
//! whole.

use polymath_proto::v1::{ShortChange, SignedChange};
use polymath_types::PeerId;
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    chunk::{self, CHANGE, Header, MAGIC},
    document::{self, Head},
    envelope,
    kind::Kind,
};

/// The columns a change can have, in the order in which they stand: one bit each, the first the lowest.
const COLUMNS: [u8; 13] = [
    0x01, 0x02, 0x11, 0x13, 0x15, 0x34, 0x42, 0x56, 0x57, 0x70, 0x71, 0x73, 0x94,
];
/// What is left out of a chunk has at most so many bytes: magic and checksum 8, type 1, length 5,
/// dependency 33, actor 17, sequence and counter 20, zeros 3, names of columns 15.
pub(crate) const LEFT_OUT: usize = 102;

/// The short form of a change, if it has one.
pub(crate) fn shorten<K: Kind>(change: &SignedChange) -> Option<ShortChange> {
    let author = envelope::peer_id(&change.author)?;
    let header = chunk::header(&change.change)?;
    let columns = columns(&header)?;
    let head = header.follows();
    let position = (change.epoch, change.sequence);
    let rebuilt = rebuild::<K>(&author, position, head, &columns)?;
    (rebuilt == change.change).then(|| ShortChange {
        version: change.version,
        author: envelope::key_bytes(&author),
        epoch: change.epoch,
        sequence: change.sequence,
        columns: columns.into(),
        signature: change.signature.clone(),
    })
}

fn columns(header: &Header<'_>) -> Option<Vec<u8>> {
    let (mut present, mut lengths) = (0u16, Vec::new());
    for (column, length) in &header.columns {
        let at = COLUMNS.iter().position(|c| u64::from(*c) == *column)?;
        present |= 1 << at;
        put(&mut lengths, *length);
    }
    Some([&present.to_le_bytes(), lengths.as_slice(), header.data].concat())
}

/// The chunk of the change at `position` of `author`'s document that follows `head`; `None` if these are
/// no columns. Its size is that of `columns`, which the caller has bounded, and at most [`LEFT_OUT`] more.
pub(crate) fn rebuild<K: Kind>(
    author: &PeerId,
    (epoch, sequence): (u64, u64),
    head: Option<Head>,
    columns: &[u8],
) -> Option<Vec<u8>> {
    let mut reader = chunk::Reader(columns);
    let present = u16::from_le_bytes(reader.take(2)?.try_into().ok()?);
    if present >> COLUMNS.len() != 0 {
        return None;
    }
    let mut body = Vec::with_capacity(columns.len() + LEFT_OUT);
    body.push(u8::from(head.is_some()));
    body.extend(head.iter().flat_map(|head| head.hash));
    let actor = document::actor::<K>(author, epoch);
    put(&mut body, actor.len() as u64);
    body.extend_from_slice(&actor);
    put(&mut body, sequence);
    put(&mut body, head.map_or(0, |h| h.last_op).checked_add(1)?);
    // Time, message, other actors: there are none.
    body.extend_from_slice(&[0, 0, 0]);
    put(&mut body, u64::from(present.count_ones()));
    for (at, column) in COLUMNS.iter().enumerate() {
        if present >> at & 1 == 1 {
            put(&mut body, u64::from(*column));
            put(&mut body, reader.unsigned()?);
        }
    }
    body.extend_from_slice(reader.0);
    let mut start = vec![CHANGE];
    put(&mut start, body.len() as u64);
    let hash = Sha256::new().chain_update(&start).chain_update(&body);
    Some([&MAGIC, &hash.finalize()[..4], &start, &body].concat())
}

/// Unsigned LEB128.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A change as it travels.
#[derive(Debug)]
pub(crate) enum Parcel {
    Whole(SignedChange),
    Short(ShortChange),
}

impl Parcel {
    /// In the short form where it has one.
    pub(crate) fn short<K: Kind>(change: SignedChange) -> Self {
        shorten::<K>(&change).map_or(Self::Whole(change), Self::Short)
    }
}

/// A change that came, and in which form: of a short one the bytes are still to be rebuilt.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) change: SignedChange,
    pub(crate) columns: Option<Bytes>,
}

impl From<SignedChange> for Arrived {
    fn from(change: SignedChange) -> Self {
        Self {
            change,
            columns: None,
        }
    }
}

impl From<ShortChange> for Arrived {
    fn from(short: ShortChange) -> Self {
        let author = envelope::author(&short.author);
        Self {
            change: SignedChange {
                version: short.version,
                author: author.map_or_else(Bytes::new, |author| author.to_bytes().into()),
                epoch: short.epoch,
                sequence: short.sequence,
                change: Bytes::new(),
                signature: short.signature,
            },
            columns: Some(short.columns),
        }
    }
}
