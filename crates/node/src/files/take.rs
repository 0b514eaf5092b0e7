//! Taking files from members.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream::FuturesUnordered};
use polymath_blobs::{Cancel, Mirror, Mirrored};
use polymath_net::{Membership, Net, NetEvent, PeerInfo};
use polymath_proto::v1::{self, files_client::FilesClient};
use polymath_rpc::{self as rpc, Clients, MAX_MESSAGE};
use polymath_types::{ErrorKind, Failure, FileRef, Format, PathKind, PeerId};
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::{broadcast::error::RecvError, mpsc},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{BulkLane, is_too_slow};

/// Members asked for one file.
const ASKED: usize = 16;
/// Time to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a node that has just started waits for a member that has what it lacks.
const ALONE: Duration = Duration::from_secs(3);
/// Silence after which another member goes on.
const SILENCE: Duration = Duration::from_secs(20);
/// Pieces that lie ready for the disk.
const AHEAD: usize = 32;
/// Times a member is tried that gives too little to speak of, and what is enough.
const FAILURES: usize = 2;
const ENOUGH: u64 = 1 << 20;
/// How long a file that only busy members have is waited for, and between tries.
const BUSY: Duration = Duration::from_secs(120);
const AGAIN: Duration = Duration::from_secs(5);
/// Members remembered for having given what was not the file, and for how long.
const MOST_BLAMED: usize = 256;
const BLAMED: Duration = Duration::from_secs(3600);

/// The members of the mesh as a mirror of model files.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    net: Net,
    clients: Clients,
    lane: BulkLane,
    /// Until when members are waited for.
    alone: Instant,
    runtime: Handle,
    tasks: TaskTracker,
    /// Ends what a thread would wait for; then `stopped` is told at once.
    cancel: CancellationToken,
    stopped: Cancel,
    book: Arc<Mutex<Book>>,
}

/// Who gave what.
#[derive(Debug, Default)]
struct Book {
    /// Members who gave some of the file that is fetched now.
    givers: HashSet<PeerId>,
    /// Several gave what was not the file: next time one is to give all.
    from_one: bool,
    /// Those who did alone, and when.
    liars: HashMap<PeerId, Instant>,
}

impl Members {
    /// `expected`: there should be members. Needs a running Tokio runtime.
    pub(crate) fn new(
        net: Net,
        clients: Clients,
        lane: BulkLane,
        expected: bool,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
        stopped: Cancel,
    ) -> Self {
        Self {
            net,
            clients,
            lane,
            alone: Instant::now() + if expected { ALONE } else { Duration::ZERO },
            runtime: Handle::current(),
            tasks: tasks.clone(),
            cancel: cancel.clone(),
            stopped,
            book: Arc::default(),
        }
    }
}

impl Mirror for Members {
    fn open(&self, file: &FileRef) -> Option<Mirrored> {
        let digest = blake3::Hash::from_hex(&file.blake3).ok()?;
        let wanted = Wanted {
            blake3: Bytes::copy_from_slice(digest.as_bytes()),
            size: file.size,
        };
        let asking = self.cancel.run_until_cancelled(self.givers(&wanted));
        let Some(mut givers) = self.runtime.block_on(asking) else {
            self.stopped.cancel();
            return None;
        };
        {
            let mut book = self.book();
            book.givers.clear();
            if std::mem::take(&mut book.from_one) {
                givers.truncate(1);
            }
        }
        let from = format!("member {}", givers.first()?.peer);
        let left = wanted.size;
        let (pieces, arriving) = mpsc::channel(AHEAD);
        let (fetching, cancel) = (self.clone(), self.cancel.clone());
        let fetch = async move {
            let stopped = fetching.stopped.clone();
            let fetched = cancel.run_until_cancelled(fetching.fetch(wanted, givers, &pieces));
            if fetched.await.is_none() {
                stopped.cancel();
            }
        };
        self.tasks.spawn_on(fetch, &self.runtime);
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
        let mut book = self.book();
        book.liars.retain(|_, since| since.elapsed() < BLAMED);
        let givers = std::mem::take(&mut book.givers);
        match *Vec::from_iter(givers) {
            [only] if book.liars.len() < MOST_BLAMED => {
                book.liars.insert(only, Instant::now());
            }
            // Which of them it was is not known.
            _ => book.from_one = true,
        }
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

/// A file on its way: what has come of it, and to whom it goes.
struct Coming<'a> {
    wanted: &'a Wanted,
    offset: u64,
    pieces: &'a mpsc::Sender<io::Result<Bytes>>,
    /// Of the member that gives now: since when, and from where.
    began: Instant,
    from: u64,
}

impl Coming<'_> {
    fn is_whole(&self) -> bool {
        self.offset >= self.wanted.size
    }

    /// Hands bytes to whoever writes them down; waits while enough lie ready.
    async fn pass_on(&mut self, data: Bytes) -> Result<(), Failure> {
        let size = data.len() as u64;
        if size == 0 || size > self.wanted.size - self.offset {
            return Err(Failure::new(
                ErrorKind::DataLoss,
                "the peer sends what is no part of the file",
            ));
        }
        let sent = self.pieces.send(Ok(data)).await;
        sent.map_err(|_| Failure::new(ErrorKind::Cancelled, "nobody takes the file any more"))?;
        self.offset += size;
        if is_too_slow(self.began, self.offset - self.from) {
            return Err(Failure::new(
                ErrorKind::Unavailable,
                "the peer gives the file too slowly",
            ));
        }
        Ok(())
    }
}

impl Members {
    /// Members who have it, the nearest first. Shortly after the start, members that come are asked too.
    async fn givers(&self, wanted: &Wanted) -> Vec<PeerInfo> {
        let mut events = self.net.events();
        let mut asked = HashSet::new();
        loop {
            let mut members = self.members();
            members.retain(|p| asked.insert(p.peer));
            let mut givers = self.ask(members, wanted).await;
            if !givers.is_empty() {
                givers.sort_by_key(distance);
                return givers;
            }
            loop {
                match timeout_at(self.alone, events.recv()).await {
                    Ok(Ok(NetEvent::Identified { .. }) | Err(RecvError::Lagged(_))) => break,
                    Ok(Ok(_)) => {}
                    Ok(Err(RecvError::Closed)) | Err(_) => return Vec::new(),
                }
            }
        }
    }

    async fn ask(&self, mut members: Vec<PeerInfo>, wanted: &Wanted) -> Vec<PeerInfo> {
        members.sort_by_key(distance);
        members.truncate(ASKED);
        let asked = members.into_iter().map(|peer| async move {
            let has = timeout(ANSWER, self.has(peer.peer, wanted)).await;
            matches!(has, Ok(Ok(true))).then_some(peer)
        });
        let asked: FuturesUnordered<_> = asked.collect();
        asked.filter_map(|p| async { p }).collect().await
    }

    pub(super) fn members(&self) -> Vec<PeerInfo> {
        let mut peers = self.net.peers();
        let mut book = self.book();
        book.liars.retain(|_, since| since.elapsed() < BLAMED);
        peers.retain(|p| p.membership == Membership::Member && !book.liars.contains_key(&p.peer));
        peers
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
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
        pieces: &mpsc::Sender<io::Result<Bytes>>,
    ) {
        let mut coming = Coming {
            wanted: &wanted,
            offset: 0,
            pieces,
            began: Instant::now(),
            from: 0,
        };
        let mut tried: HashSet<_> = givers.iter().map(|g| g.peer).collect();
        let mut givers: Vec<_> = givers.into_iter().map(|g| (g, 0)).collect();
        let mut why = String::new();
        let patience = Instant::now() + BUSY;
        while !givers.is_empty() {
            let mut busy = true;
            for (giver, failures) in &mut givers {
                (coming.began, coming.from) = (Instant::now(), coming.offset);
                let taken = self.take(giver, &mut coming).await;
                let came = coming.offset - coming.from;
                if came > 0 {
                    self.book().givers.insert(giver.peer);
                }
                let Err(failure) = taken else { return };
                if pieces.is_closed() {
                    return;
                }
                if failure.kind != ErrorKind::ResourceExhausted {
                    busy = false;
                    *failures = if came < ENOUGH { *failures + 1 } else { 0 };
                }
                why = failure.message;
                tracing::debug!(peer = %giver.peer, offset = coming.offset, "a file does not come: {why}");
            }
            givers.retain(|(_, failures)| *failures < FAILURES);
            if givers.is_empty() {
                // Whoever has come meanwhile.
                let mut others = self.members();
                others.retain(|p| tried.insert(p.peer));
                let others = self.ask(others, &wanted).await;
                givers.extend(others.into_iter().map(|g| (g, 0)));
            }
            if busy {
                if Instant::now() > patience {
                    break;
                }
                sleep(crate::hosted::jittered(AGAIN)).await;
            }
        }
        let _ = pieces.send(Err(io::Error::other(why))).await;
    }

    /// All that is missing, from one member.
    async fn take(&self, giver: &PeerInfo, coming: &mut Coming<'_>) -> Result<(), Failure> {
        // As it is reached now.
        let giver = self.net.peer(&giver.peer).unwrap_or_else(|| giver.clone());
        if self.lane.suits(&giver) {
            match self.take_in_bulk(&giver, coming).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    tracing::debug!(peer = %giver.peer, "not by the bulk lane: {}", failure.message);
                }
            }
        }
        let mut client = self.client(giver.peer).await?;
        let reading = timeout(SILENCE, client.read(coming.wanted.from(coming.offset))).await;
        let reading = reading.map_err(|_| silent())?;
        let mut reading = reading.map_err(|s| rpc::failure(&s))?.into_inner();
        while !coming.is_whole() {
            let piece = timeout(SILENCE, reading.message()).await;
            let piece = piece.map_err(|_| silent())?.map_err(|s| rpc::failure(&s))?;
            coming.pass_on(piece.ok_or_else(short)?.data).await?;
        }
        Ok(())
    }

    async fn take_in_bulk(&self, giver: &PeerInfo, coming: &mut Coming<'_>) -> Result<(), Failure> {
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
        let header = coming.wanted.from(coming.offset).encode_to_vec();
        let asked = timeout(SILENCE, connection.ask(header.into())).await;
        let mut body = asked.map_err(|_| silent())?.map_err(lost)?;
        tracing::info!(peer = %giver.peer, rtt = ?connection.rtt(), "a model file comes by the bulk lane");
        let mut chunks = [const { Bytes::new() }; 32];
        loop {
            let read = timeout(SILENCE, body.read_chunks(&mut chunks)).await;
            let read = read.map_err(|_| silent())?.map_err(lost)?;
            if read == 0 {
                break;
            }
            for chunk in &mut chunks[..read] {
                coming.pass_on(std::mem::take(chunk)).await?;
            }
        }
        if coming.is_whole() {
            Ok(())
        } else {
            Err(short())
        }
    }
}

/// What is taken first: what needs no relay, then what is near.
fn distance(peer: &PeerInfo) -> (PathKind, Duration) {
    (peer.path, peer.rtt.unwrap_or(Duration::MAX))
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
