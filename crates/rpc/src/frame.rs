//! The frames of a lane: eight bytes of header (kind, length, call) and a payload.
//!
//! A decoder never allocates for a length before it has checked it, and never waits for a frame
//! that could not be taken.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use polymath_proto::v1;
use tonic::{
    Code, Status,
    codegen::http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{CONTENT_TYPE, TE, USER_AGENT},
    },
};

/// Bytes of a header.
pub(crate) const HEADER: usize = 8;
/// Longest payload of a frame: what one call may put before others' turn comes.
pub(crate) const LARGEST: usize = 64 << 10;
/// Longest head or end of a call.
pub(crate) const LARGEST_HEAD: usize = 16 << 10;
/// Most metadata entries of one head.
const MOST_METADATA: usize = 128;
/// Below this a payload is copied out of the read buffer, so that a slow reader of a few bytes does
/// not hold all that arrived with them.
const COPIED: usize = 4 << 10;

/// Whose frame it is, within a lane.
pub(crate) type CallId = u32;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// `Hello`, first on a lane, from its opener.
    Hello = 1,
    /// `CallHead`: the caller begins a call.
    Call = 2,
    /// `ReplyHead`: the server begins its reply.
    Reply = 3,
    /// Bytes of messages.
    Data = 4,
    /// `ReplyEnd`: the call is over.
    End = 5,
    /// The call is over for whoever sends this; a `u32` code of why.
    Cancel = 6,
    /// The sender has taken this many bytes (`u32`) and has room for as many more.
    Credit = 7,
    /// The server begins no more calls; those it has begun are finished.
    GoAway = 8,
}

/// The sender of this frame sends no more of this call's messages.
const LAST: u8 = 0x80;

impl Kind {
    fn read(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Call,
            3 => Self::Reply,
            4 => Self::Data,
            5 => Self::End,
            6 => Self::Cancel,
            7 => Self::Credit,
            8 => Self::GoAway,
            _ => return None,
        })
    }

    /// Longest payload of this kind.
    const fn largest(self) -> usize {
        match self {
            Self::Data => LARGEST,
            Self::Call | Self::Reply | Self::End => LARGEST_HEAD,
            Self::Hello => 64,
            Self::Cancel | Self::Credit => 4,
            Self::GoAway => 0,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) last: bool,
    pub(crate) call: CallId,
    pub(crate) payload: Bytes,
}

/// Why bytes are no frame. The lane they came on is given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("a frame of {found} bytes where at most {most} are taken")]
    TooLong { found: usize, most: usize },
    #[error("a head that cannot be read: {0}")]
    Head(String),
}

/// Writes a frame's header.
pub(crate) fn put_header(out: &mut BytesMut, kind: Kind, last: bool, call: CallId, length: usize) {
    debug_assert!(length <= kind.largest());
    out.put_u8(kind as u8 | if last { LAST } else { 0 });
    out.put_uint(length as u64, 3);
    out.put_u32(call);
}

/// Writes a whole frame.
pub(crate) fn put(out: &mut BytesMut, kind: Kind, last: bool, call: CallId, payload: &[u8]) {
    put_header(out, kind, last, call, payload.len());
    out.put_slice(payload);
}

/// Takes the next frame from what has arrived; `None`: more must arrive first.
pub(crate) fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [first, a, b, c, call @ ..] = *header;
    let kind = Kind::read(first & !LAST).ok_or(FrameError::Kind(first))?;
    let found = u32::from_be_bytes([0, a, b, c]) as usize;
    let most = kind.largest();
    if found > most {
        return Err(FrameError::TooLong { found, most });
    }
    if buffer.len() < HEADER + found {
        return Ok(None);
    }
    buffer.advance(HEADER);
    let payload = if found < COPIED {
        let copied = Bytes::copy_from_slice(&buffer[..found]);
        buffer.advance(found);
        copied
    } else {
        buffer.split_to(found).freeze()
    };
    Ok(Some(Frame {
        kind,
        last: first & LAST != 0,
        call: CallId::from_be_bytes(call),
        payload,
    }))
}

/// A `u32` payload: of `Credit`, of `Cancel`.
pub(crate) fn number(payload: &[u8]) -> Result<u32, FrameError> {
    let bytes = payload
        .try_into()
        .map_err(|_| FrameError::Head(format!("{} bytes, not a number", payload.len())))?;
    Ok(u32::from_be_bytes(bytes))
}

/// Reads a head's message.
pub(crate) fn head<M: prost::Message + Default>(payload: Bytes) -> Result<M, FrameError> {
    M::decode(payload).map_err(|e| FrameError::Head(e.to_string()))
}

/// Headers as metadata of the wire, without those that belong to HTTP/2 alone.
pub(crate) fn metadata(headers: &HeaderMap) -> Vec<v1::Metadata> {
    let carried = headers
        .iter()
        .filter(|(name, _)| ![CONTENT_TYPE, TE, USER_AGENT].contains(*name));
    carried
        .map(|(name, value)| v1::Metadata {
            key: name.as_str().to_owned(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        })
        .collect()
}

/// Metadata of the wire as headers.
pub(crate) fn headers(metadata: Vec<v1::Metadata>) -> Result<HeaderMap, FrameError> {
    if metadata.len() > MOST_METADATA {
        return Err(FrameError::Head(format!(
            "{} entries of metadata; at most {MOST_METADATA} are taken",
            metadata.len()
        )));
    }
    let mut headers = HeaderMap::new();
    for entry in metadata {
        let name = HeaderName::from_bytes(entry.key.as_bytes());
        let value = HeaderValue::from_maybe_shared(entry.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(FrameError::Head("metadata that gRPC does not allow".into()));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// Whether a head with such metadata is taken on the other side.
pub(crate) fn fits(head: &impl prost::Message, metadata: &[v1::Metadata]) -> bool {
    head.encoded_len() <= LARGEST_HEAD && metadata.len() <= MOST_METADATA
}

/// The end of a reply as trailers that say `grpc-status`.
pub(crate) fn trailers(end: v1::ReplyEnd) -> Result<HeaderMap, FrameError> {
    let mut trailers = headers(end.metadata)?;
    let code = i32::try_from(end.code).map_or(Code::Unknown, Code::from_i32);
    Status::with_details(code, end.message, end.details)
        .add_header(&mut trailers)
        .map_err(|e| FrameError::Head(e.to_string()))?;
    Ok(trailers)
}

/// Trailers, or the headers of a reply that has nothing else, as the end of a reply. `None`: they name
/// no status.
pub(crate) fn end(trailers: &HeaderMap) -> Option<v1::ReplyEnd> {
    // The common end of all, made without a detour.
    if trailers.len() == 1 && trailers.get(Status::GRPC_STATUS).is_some_and(|s| s == "0") {
        return Some(v1::ReplyEnd::default());
    }
    let status = Status::from_header_map(trailers)?;
    Some(of_status(&status))
}

/// A status as the end of a reply.
pub(crate) fn of_status(status: &Status) -> v1::ReplyEnd {
    let mut end = v1::ReplyEnd {
        code: status.code() as u32,
        message: status.message().to_owned(),
        details: Bytes::copy_from_slice(status.details()),
        metadata: metadata(status.metadata().as_ref()),
        load: None,
    };
    // Nothing is ever cut silently: a status too long for its frame says so.
    if !fits(&end, &end.metadata) {
        let cut = "(the status was too long for the wire and lost its details)";
        let message: String = end.message.chars().take(1024).collect();
        end = v1::ReplyEnd {
            code: end.code,
            message: format!("{message} {cut}"),
            ..v1::ReplyEnd::default()
        };
    }
    end
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_length_is_checked_before_its_bytes_are_there() {
        let mut data = BytesMut::new();
        data.put_slice(&[Kind::Data as u8, 0xff, 0xff, 0xff, 0, 0, 0, 1]);
        let error = take(&mut data).unwrap_err();
        assert_eq!(
            error,
            FrameError::TooLong {
                found: 0xff_ffff,
                most: LARGEST
            }
        );
        let mut credit = BytesMut::from(&[Kind::Credit as u8, 0, 0, 5, 0, 0, 0, 1][..]);
        assert!(take(&mut credit).is_err());
    }

    #[test]
    fn a_status_crosses_with_details_and_metadata() {
        let mut status = Status::with_details(Code::NotFound, "Grüße\n", Bytes::from("details"));
        let metadata = status.metadata_mut();
        metadata.insert("a", "1".parse().unwrap());
        metadata.append("a", "2".parse().unwrap());
        metadata.insert_bin(
            "b-bin",
            tonic::metadata::MetadataValue::from_bytes(&[0, 255]),
        );
        let got = Status::from_header_map(&trailers(of_status(&status)).unwrap()).unwrap();
        assert_eq!((got.code(), got.message()), (Code::NotFound, "Grüße\n"));
        assert_eq!(got.details(), b"details");
        let all: Vec<_> = got.metadata().get_all("a").iter().collect();
        assert_eq!(all, ["1", "2"]);
        let bin = got.metadata().get_bin("b-bin").unwrap();
        assert_eq!(bin.to_bytes().unwrap().as_ref(), [0, 255]);
    }

    #[test]
    fn a_status_too_long_for_the_wire_keeps_its_code() {
        let status = Status::internal("x".repeat(LARGEST_HEAD));
        let end = of_status(&status);
        assert_eq!(end.code, Code::Internal as u32);
        assert!(end.encoded_len() < LARGEST_HEAD && end.message.contains("too long"));
    }

    fn frames() -> impl Strategy<Value = Vec<(u8, bool, u32, Vec<u8>)>> {
        let frame = (2_u8..=5, any::<bool>(), any::<u32>(), any::<Vec<u8>>());
        prop::collection::vec(frame, 0..8)
    }

    proptest! {
        #[test]
        fn frames_arrive_as_sent_however_they_are_cut(sent in frames(), cut in 1_usize..40) {
            let mut wire = BytesMut::new();
            for (kind, last, call, payload) in &sent {
                put(&mut wire, Kind::read(*kind).unwrap(), *last, *call, payload);
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                buffer.put_slice(piece);
                while let Some(f) = take(&mut buffer).unwrap() {
                    got.push((f.kind as u8, f.last, f.call, f.payload.to_vec()));
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = take(&mut buffer) {
                let _ = head::<v1::CallHead>(frame.payload.clone()).map(|h| headers(h.metadata));
                let _ = head::<v1::ReplyEnd>(frame.payload.clone()).map(trailers);
                let _ = number(&frame.payload);
            }
        }
    }
}
