//! A transfer on the wire: its kind (u8), the header's length (u32), the header, the body's length (u64),
//! the body. Numbers are big-endian. The stream's other direction carries the verdict of who takes a plain
//! transfer ([`TAKEN`], or a reset), or the answer to a call, framed in the same way as a plain transfer.

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ReadExactError, RecvStream};

use super::{error::TransferError, limits::MAX_HEADER};

/// What a transfer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To be told when it is taken.
    Plain = 0,
    /// Another transfer.
    Call = 1,
}

/// The verdict on a plain transfer whose reader has all of it.
pub(super) const TAKEN: u8 = 1;

/// What comes before a body, to be sent as it is. The header is not copied.
pub(super) fn head(kind: Kind, header: Bytes, length: u64) -> Result<[Bytes; 3], TransferError> {
    let size = check_header(&header)?;
    let mut before = BytesMut::with_capacity(5);
    before.put_u8(kind as u8);
    before.put_u32(size);
    let mut after = BytesMut::with_capacity(8);
    after.put_u64(length);
    Ok([before.freeze(), header, after.freeze()])
}

/// The length of a header that the wire allows.
pub(super) fn check_header(header: &Bytes) -> Result<u32, TransferError> {
    u32::try_from(header.len())
        .ok()
        .filter(|size| *size as usize <= MAX_HEADER)
        .ok_or(TransferError::HeaderTooLong {
            length: header.len() as u64,
            limit: MAX_HEADER as u64,
        })
}

/// Why a head cannot be read.
#[derive(Debug)]
pub(super) enum HeadError {
    TooLong {
        length: u64,
    },
    /// No kind of transfer has this number.
    Kind(u8),
    Read(ReadExactError),
}

impl From<ReadExactError> for HeadError {
    fn from(error: ReadExactError) -> Self {
        Self::Read(error)
    }
}

/// Reads the kind, a header of at most `limit` bytes, and the body's length.
pub(super) async fn read_head(
    stream: &mut RecvStream,
    limit: usize,
) -> Result<(Kind, Bytes, u64), HeadError> {
    let mut kind = [0];
    stream.read_exact(&mut kind).await?;
    let kind = match kind {
        [0] => Kind::Plain,
        [1] => Kind::Call,
        [other] => return Err(HeadError::Kind(other)),
    };
    let mut size = [0; 4];
    stream.read_exact(&mut size).await?;
    let size = u32::from_be_bytes(size);
    if size as usize > limit.min(MAX_HEADER) {
        return Err(HeadError::TooLong {
            length: size.into(),
        });
    }
    let mut header = vec![0; size as usize];
    stream.read_exact(&mut header).await?;
    let mut length = [0; 8];
    stream.read_exact(&mut length).await?;
    Ok((kind, header.into(), u64::from_be_bytes(length)))
}
