//! The wire by hand, for whoever speaks it wrongly.

use std::io;

use polymath_net::MeshStream;
use polymath_proto::v1::{CallHead, Hello, Metadata};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{Guest, SOON, soon};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Call,
    Reply,
    Data,
    End,
    Cancel,
    Credit,
    GoAway,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Hello,
        Self::Call,
        Self::Reply,
        Self::Data,
        Self::End,
        Self::Cancel,
        Self::Credit,
        Self::GoAway,
    ];
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) call: u32,
    pub(crate) payload: Vec<u8>,
}

/// A frame as bytes; `kind` with the bit for the last.
pub(crate) fn frame(kind: u8, call: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&call.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn hello() -> Vec<u8> {
    frame(Kind::Hello as u8, 0, &Hello { version: 1 }.encode_to_vec())
}

pub(crate) fn head(method: &str, metadata: &[(&str, &str)], timeout_us: Option<u64>) -> Vec<u8> {
    let entry = |(key, value): &(&str, &str)| Metadata {
        key: (*key).to_owned(),
        value: value.as_bytes().to_vec().into(),
    };
    let head = CallHead {
        method: method.to_owned(),
        metadata: metadata.iter().map(entry).collect(),
        timeout_us,
    };
    head.encode_to_vec()
}

pub(crate) struct Raw(MeshStream);

impl Raw {
    pub(crate) async fn open(guest: &Guest) -> Self {
        let opened = guest.net.open(guest.server, polymath_rpc::CALLS, SOON);
        Self(opened.await.unwrap())
    }

    pub(crate) const fn of(stream: MeshStream) -> Self {
        Self(stream)
    }

    /// Writes, unless the other side has ended it.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        soon("a write", async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        })
        .await
    }

    pub(crate) async fn hello(&mut self) {
        self.write(&hello()).await.unwrap();
    }

    pub(crate) async fn call(
        &mut self,
        call: u32,
        method: &str,
        metadata: &[(&str, &str)],
        timeout_us: Option<u64>,
    ) {
        let head = head(method, metadata, timeout_us);
        self.write(&frame(Kind::Call as u8, call, &head))
            .await
            .unwrap();
    }

    pub(crate) async fn data(&mut self, call: u32, data: &[u8], last: bool) {
        let kind = Kind::Data as u8 | if last { 0x80 } else { 0 };
        self.write(&frame(kind, call, data)).await.unwrap();
    }

    pub(crate) async fn cancel(&mut self, call: u32) {
        let bytes = frame(Kind::Cancel as u8, call, &1_u32.to_be_bytes());
        self.write(&bytes).await.unwrap();
    }

    /// The next frame; `None`: the other side has ended it.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        soon("a frame", self.try_next()).await
    }

    /// The same, however long it takes.
    pub(crate) async fn try_next(&mut self) -> Option<Frame> {
        let bytes = self.next_bytes().await?;
        let kind = Kind::ALL.into_iter().find(|k| *k as u8 == bytes[0] & 0x7f);
        Some(Frame {
            kind: kind.unwrap(),
            call: u32::from_be_bytes(bytes[4..8].try_into().unwrap()),
            payload: bytes[8..].to_vec(),
        })
    }

    /// The same, as it came.
    pub(crate) async fn next_bytes(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 8];
        self.0.read_exact(&mut bytes).await.ok()?;
        let length = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]) as usize;
        bytes.resize(8 + length, 0);
        self.0.read_exact(&mut bytes[8..]).await.ok()?;
        Some(bytes)
    }

    /// Waits for the other side to end it.
    pub(crate) async fn is_ended(&mut self) {
        while self.next().await.is_some() {}
    }
}
