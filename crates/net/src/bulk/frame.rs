//! A transfer on the wire: its kind (u8), the header's length (u32), the header, the body's length (u64),
//! the body. Numbers are big-endian. The stream's other direction carries the verdict of who takes a plain
//! transfer ([`TAKEN`], or a reset), or the answer to a call, framed in the same way as a plain transfer.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{error::TransferError, limits::MAX_HEADER};

/// What a transfer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
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
pub(crate) enum HeadError {
    TooLong {
        length: u64,
    },
    /// No kind of transfer has this number.
    Kind(u8),
    Read(io::Error),
}

impl From<io::Error> for HeadError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Reads the kind, a header of at most `limit` bytes, and the body's length.
pub(crate) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<(Kind, Bytes, u64), HeadError> {
    let kind = match stream.read_u8().await? {
        0 => Kind::Plain,
        1 => Kind::Call,
        other => return Err(HeadError::Kind(other)),
    };
    let size = stream.read_u32().await?;
    if size as usize > limit.min(MAX_HEADER) {
        return Err(HeadError::TooLong {
            length: size.into(),
        });
    }
    let mut header = vec![0; size as usize];
    stream.read_exact(&mut header).await?;
    let length = stream.read_u64().await?;
    Ok((kind, header.into(), length))
}
