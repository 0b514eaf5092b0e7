//! Taking files from members.

use std::{
    collections::HashSet,
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream::FuturesUnordered};
use polymath_blobs::{Mirror, Mirrored};
use polymath_net::{Membership, Net, NetEvent, PeerInfo};
use polymath_proto::v1::{self, files_client::FilesClient};
use polymath_rpc::{self as rpc, Clients, MAX_MESSAGE};
use polymath_types::{ErrorKind, Failure, FileRef, Format, PeerId};
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::BulkLane;

/// Members asked for one file.
const ASKED: usize = 16;
/// Time to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a node that has just started waits for a member to ask.
const ALONE: Duration = Duration::from_secs(3);
/// Silence after which another member goes on.
const SILENCE: Duration = Duration::from_secs(20);
/// Pieces that lie ready for the disk.
const AHEAD: usize = 8;
/// Times a member that gave nothing is tried.
const FAILURES: usize = 2;
/// Members remembered to have given what was not the file.
const MOST_BLAMED: usize = 256;

/// The members of the mesh as a mirror of model files.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    pub(crate) net: Net,
    pub(crate) clients: Clients,
    pub(crate) lane: BulkLane,
    /// Whether there should be members at all.
    pub(crate) expected: bool,
    pub(crate) runtime: Handle,
    /// Ends what a thread would wait for.
    pub(crate) cancel: CancellationToken,
    pub(crate) blame: Arc<Mutex<Blame>>,
}

/// Who gave what.
#[derive(Debug, Default)]
pub(crate) struct Blame {
    /// Members who gave some of the file that is fetched now.
    givers: HashSet<PeerId>,
    /// Those of files that were wrong.
    liars: HashSet<PeerId>,
}

impl Mirror for Members {
    fn open(&self, file: &FileRef) -> Option<Mirrored> {
        let digest = blake3::Hash::from_hex(&file.blake3).ok()?;
        let wanted = Wanted {
            blake3: Bytes::copy_from_slice(digest.as_bytes()),
            size: file.size,
        };
        let asking = self.cancel.run_until_cancelled(self.givers(&wanted));
        let givers = self.runtime.block_on(asking)?;
        let from = format!("member {}", givers.first()?.peer);
        self.blame_book().givers.clear();
        let (pieces, arriving) = mpsc::channel(AHEAD);
        let left = wanted.size;
        let (fetching, cancel) = (self.clone(), self.cancel.clone());
        self.runtime.spawn(async move {
            let fetching = fetching.fetch(wanted, givers, pieces);
            cancel.run_until_cancelled(fetching).await
        });
        Some(Mirrored {
            from,
            reader: Box::new(Arriving {
                pieces: arriving,
                piece: Bytes::new(),
                left,
            }),
        })
    }

    fn blame(&self, _: &FileRef) {
        let mut book = self.blame_book();
        // Several may have given some of it. Whoever is innocent is only asked no more.
        let givers = std::mem::take(&mut book.givers);
        let room = MOST_BLAMED.saturating_sub(book.liars.len());
        book.liars.extend(givers.into_iter().take(room));
    }
}

/// A file that is asked for.
#[derive(Debug, Clone)]
struct Wanted {
    blake3: Bytes,
    size: u64,
}

impl Wanted {
    fn from(&self, offset: u64) -> v1::ReadFileRequest {
        v1::ReadFileRequest {
            version: Format::Wire.current(),
            blake3: self.blake3.clone(),
            offset,
        }
    }
}

impl Members {
    /// Members who have it, the nearest first.
    async fn givers(&self, wanted: &Wanted) -> Vec<PeerInfo> {
        if self.expected {
            self.meet().await;
        }
        let mut members = self.members();
        members.sort_by_key(|p| (p.path, p.rtt.unwrap_or(Duration::MAX)));
        members.truncate(ASKED);
        let asked = members.into_iter().map(|peer| async move {
            let has = timeout(ANSWER, self.has(peer.peer, wanted)).await;
            matches!(has, Ok(Ok(true))).then_some(peer)
        });
        let asked: FuturesUnordered<_> = asked.collect();
        let mut givers: Vec<_> = asked.filter_map(|p| async { p }).collect().await;
        givers.sort_by_key(|p| (p.path, p.rtt.unwrap_or(Duration::MAX)));
        givers
    }

    fn members(&self) -> Vec<PeerInfo> {
        let mut peers = self.net.peers();
        let book = self.blame_book();
        peers.retain(|p| p.membership == Membership::Member && !book.liars.contains(&p.peer));
        peers
    }

    fn blame_book(&self) -> MutexGuard<'_, Blame> {
        self.blame.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a little for the first member.
    async fn meet(&self) {
        let mut events = self.net.events();
        let until = Instant::now() + ALONE;
        while self.members().is_empty() {
            match tokio::time::timeout_at(until, events.recv()).await {
                Ok(Ok(NetEvent::Identified { .. })) => return,
                Ok(Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_))) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    async fn client(&self, peer: PeerId) -> Result<FilesClient<rpc::Channel>, Failure> {
        let channel = self.clients.channel(peer, ANSWER).await;
        let channel = channel.map_err(|e| Failure::new(e.kind(), e.to_string()))?;
        Ok(FilesClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    async fn has(&self, peer: PeerId, wanted: &Wanted) -> Result<bool, Failure> {
        let request = v1::HaveFilesRequest {
            version: Format::Wire.current(),
            blake3: vec![wanted.blake3.clone()],
        };
        let had = self.client(peer).await?.have(request).await;
        let had = had.map_err(|s| rpc::failure(&s))?.into_inner();
        Ok(had.blake3.contains(&wanted.blake3))
    }

    /// Fetches a file, from the next member where one breaks off. Ends when it is whole, when nobody is
    /// left, or when nobody reads it any more.
    async fn fetch(
        self,
        wanted: Wanted,
        givers: Vec<PeerInfo>,
        pieces: mpsc::Sender<io::Result<Bytes>>,
    ) {
        let mut offset = 0;
        let mut why = String::new();
        for giver in &givers {
            let mut failures = 0;
            while failures < FAILURES {
                let begun = offset;
                let taken = self.take(giver, &wanted, &mut offset, &pieces).await;
                if offset > begun {
                    self.blame_book().givers.insert(giver.peer);
                }
                let Err(failure) = taken else { return };
                if pieces.is_closed() {
                    return;
                }
                if offset == begun {
                    failures += 1;
                }
                why = failure.message;
                tracing::debug!(peer = %giver.peer, offset, "a file does not come: {why}");
            }
        }
        let _ = pieces.send(Err(io::Error::other(why))).await;
    }

    /// All that is missing behind `offset`, from one member.
    async fn take(
        &self,
        giver: &PeerInfo,
        wanted: &Wanted,
        offset: &mut u64,
        pieces: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), Failure> {
        if self.lane.suits(giver) {
            match self.take_in_bulk(giver, wanted, offset, pieces).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    tracing::debug!(peer = %giver.peer, "not by the bulk lane: {}", failure.message);
                }
            }
        }
        let mut client = self.client(giver.peer).await?;
        let reading = timeout(SILENCE, client.read(wanted.from(*offset))).await;
        let reading = reading.map_err(|_| silent())?;
        let mut reading = reading.map_err(|s| rpc::failure(&s))?.into_inner();
        while *offset < wanted.size {
            let piece = timeout(SILENCE, reading.message()).await;
            let piece = piece.map_err(|_| silent())?.map_err(|s| rpc::failure(&s))?;
            let data = piece.ok_or_else(short)?.data;
            pass_on(data, wanted, offset, pieces).await?;
        }
        Ok(())
    }

    async fn take_in_bulk(
        &self,
        giver: &PeerInfo,
        wanted: &Wanted,
        offset: &mut u64,
        pieces: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), Failure> {
        let lost =
            |e: polymath_net::TransferError| Failure::new(ErrorKind::Unavailable, e.to_string());
        let request = v1::TicketRequest {
            version: Format::Wire.current(),
        };
        let mut client = self.client(giver.peer).await?;
        let ticket = timeout(ANSWER, client.ticket(request)).await;
        let ticket = ticket.map_err(|_| silent())?;
        let ticket = ticket.map_err(|s| rpc::failure(&s))?.into_inner();
        let connection = self.lane.connect(giver, &ticket).await?;
        let header = wanted.from(*offset).encode_to_vec();
        let mut body = connection.ask(header.into()).await.map_err(lost)?;
        tracing::info!(peer = %giver.peer, rtt = ?connection.rtt(), "a model file comes by the bulk lane");
        let mut chunks = [const { Bytes::new() }; 32];
        loop {
            let read = body.read_chunks(&mut chunks).await.map_err(lost)?;
            if read == 0 {
                break;
            }
            for chunk in &mut chunks[..read] {
                pass_on(std::mem::take(chunk), wanted, offset, pieces).await?;
            }
        }
        if *offset < wanted.size {
            return Err(short());
        }
        Ok(())
    }
}

/// Hands bytes to whoever writes them down; waits while enough lie ready.
async fn pass_on(
    data: Bytes,
    wanted: &Wanted,
    offset: &mut u64,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), Failure> {
    let size = data.len() as u64;
    if size > wanted.size - *offset {
        return Err(Failure::new(
            ErrorKind::DataLoss,
            "the peer sends more than the file has",
        ));
    }
    let sent = pieces.send(Ok(data)).await;
    sent.map_err(|_| Failure::new(ErrorKind::Cancelled, "nobody takes the file any more"))?;
    *offset += size;
    Ok(())
}

fn silent() -> Failure {
    Failure::new(
        ErrorKind::Unavailable,
        format!("the peer has said nothing for {SILENCE:?}"),
    )
}

fn short() -> Failure {
    Failure::new(ErrorKind::Unavailable, "the peer ended before the file did")
}

/// A file on its way, for a thread that may block.
struct Arriving {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    left: u64,
}

impl Read for Arriving {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None if self.left > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let n = buf.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buf[..n]);
        self.left = self.left.saturating_sub(n as u64);
        Ok(n)
    }
}
