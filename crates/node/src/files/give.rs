//! Giving files to members.

use std::{
    collections::HashMap,
    io::SeekFrom,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use polymath_blobs::{Store, known_models};
use polymath_proto::v1;
use polymath_rpc as rpc;
use polymath_types::{ErrorKind, Failure, FileRef, Format, PeerId};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{BulkLane, MOST_NAMED, PIECE, is_too_slow};
use crate::admission::Gate;

/// Files given at once: answers come first on a line that both share.
const AT_ONCE: usize = 8;
/// Those to one peer, while others find places.
const TO_A_PEER: usize = 2;
/// When a peer that found no place may ask again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// The files that this node gives; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    store: Store,
    gate: Gate,
    open: bool,
    places: Arc<Semaphore>,
    takers: Arc<Mutex<HashMap<PeerId, usize>>>,
}

/// A peer's place among those who are given files.
#[derive(Debug)]
pub(super) struct Taking {
    takers: Arc<Mutex<HashMap<PeerId, usize>>>,
    peer: PeerId,
    _place: OwnedSemaphorePermit,
}

impl Drop for Taking {
    fn drop(&mut self) {
        let mut takers = self.takers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = takers.get_mut(&self.peer) {
            *n -= 1;
            if *n == 0 {
                takers.remove(&self.peer);
            }
        }
    }
}

/// A file being given, from some offset on.
#[derive(Debug)]
pub(super) struct Given {
    file: File,
    /// Bytes that are still to come.
    pub(super) left: u64,
    began: Instant,
    given: u64,
    shelf: Shelf,
    _taking: Taking,
}

impl Given {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let wanted = self.left.min(PIECE as u64);
        if wanted == 0 {
            return Ok(None);
        }
        if is_too_slow(self.began, self.given) {
            return Err(Failure::new(
                ErrorKind::Unavailable,
                "the file is taken too slowly: others wait for the place",
            ));
        }
        if !self.shelf.is_open() {
            return Err(Failure::new(
                ErrorKind::Unavailable,
                "this peer gives no files any more",
            ));
        }
        let mut piece = Vec::with_capacity(PIECE);
        let mut part = (&mut self.file).take(wanted);
        let read = part.read_to_end(&mut piece).await.map_err(|e| unread(&e))?;
        if read == 0 {
            return Err(unread(&std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= read as u64;
        self.given += read as u64;
        Ok(Some(piece.into()))
    }
}

fn unread(e: &std::io::Error) -> Failure {
    Failure::new(
        ErrorKind::Unavailable,
        format!("this peer cannot read the file: {e}"),
    )
}

impl Shelf {
    /// What `store` has, given while `gate` is open to peers, if it is given at all.
    pub(crate) fn new(store: Store, gate: Gate, open: bool) -> Self {
        Self {
            store,
            gate,
            open,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            takers: Arc::default(),
        }
    }

    fn is_open(&self) -> bool {
        self.open && !self.gate.is_closed()
    }

    /// The file of this digest, if it is here and may be given.
    async fn find(&self, blake3: &[u8]) -> Option<&'static FileRef> {
        let wanted = hex(blake3)?;
        let mut known = known_models().iter().flat_map(|k| &k.model.files);
        let file = known.find(|f| f.blake3 == wanted)?;
        let there = tokio::fs::metadata(self.store.path(file)).await.ok()?;
        (self.is_open() && there.is_file() && there.len() == file.size).then_some(file)
    }

    /// Whether there is anything to give.
    async fn has_any(&self) -> bool {
        let digests = known_models().iter().flat_map(|k| &k.model.files);
        for file in digests.filter_map(|f| blake3::Hash::from_hex(&f.blake3).ok()) {
            if self.find(file.as_bytes()).await.is_some() {
                return true;
            }
        }
        false
    }

    /// Begins to give a file to `peer`.
    pub(super) async fn give(
        &self,
        peer: PeerId,
        request: &v1::ReadFileRequest,
    ) -> Result<Given, Failure> {
        let Some(known) = self.find(&request.blake3).await else {
            return Err(Failure::new(
                ErrorKind::NotFound,
                "this peer has no such file to give",
            ));
        };
        let Some(left) = known.size.checked_sub(request.offset) else {
            return Err(Failure::new(
                ErrorKind::InvalidInput,
                format!("the file has {} bytes", known.size),
            ));
        };
        let taking = self.place(peer)?;
        let path = self.store.path(known);
        let mut file = File::open(&path).await.map_err(|e| unread(&e))?;
        let to = SeekFrom::Start(request.offset);
        file.seek(to).await.map_err(|e| unread(&e))?;
        tracing::debug!(%peer, file = %known.name, offset = request.offset, "a member takes a file");
        Ok(Given {
            file,
            left,
            began: Instant::now(),
            given: 0,
            shelf: self.clone(),
            _taking: taking,
        })
    }

    fn place(&self, peer: PeerId) -> Result<Taking, Failure> {
        let full = |who: &str| {
            let failure = Failure::new(
                ErrorKind::ResourceExhausted,
                format!("this peer gives as many files to {who} as it does at once"),
            );
            failure.retry_after(AGAIN)
        };
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| full("members"))?;
        let mut takers = self.takers.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = takers.entry(peer).or_default();
        let scarce = self.places.available_permits() < AT_ONCE / 2;
        if *taken >= if scarce { 1 } else { TO_A_PEER } {
            return Err(full("you"));
        }
        *taken += 1;
        Ok(Taking {
            takers: Arc::clone(&self.takers),
            peer,
            _place: place,
        })
    }
}

/// A digest as stores name it.
fn hex(blake3: &[u8]) -> Option<String> {
    let bytes: [u8; 32] = blake3.try_into().ok()?;
    Some(blake3::Hash::from_bytes(bytes).to_hex().to_string())
}

/// The `Files` service.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) shelf: Shelf,
    pub(crate) lane: BulkLane,
    /// Ends what is given when the node does.
    pub(crate) cancel: CancellationToken,
}

#[tonic::async_trait]
impl v1::files_server::Files for Files {
    async fn have(
        &self,
        request: Request<v1::HaveFilesRequest>,
    ) -> Result<Response<v1::HaveFilesResponse>, Status> {
        let request = request.into_inner();
        rpc::check_version(Format::Wire, request.version)?;
        if request.blake3.len() > MOST_NAMED {
            return Err(Status::invalid_argument(format!(
                "{} files named; {MOST_NAMED} are looked for at most",
                request.blake3.len()
            )));
        }
        let mut blake3 = Vec::new();
        for digest in request.blake3 {
            if self.shelf.find(&digest).await.is_some() {
                blake3.push(digest);
            }
        }
        Ok(Response::new(v1::HaveFilesResponse { blake3 }))
    }

    type ReadStream = Pin<Box<dyn Stream<Item = Result<v1::FilePiece, Status>> + Send>>;

    async fn read(
        &self,
        request: Request<v1::ReadFileRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let peer = crate::serve::caller(&request)?.peer;
        rpc::check_version(Format::Wire, request.get_ref().version)?;
        let given = self.shelf.give(peer, request.get_ref()).await;
        let given = given.map_err(|f| rpc::status(&f))?;
        let pieces = stream::unfold(Some(given), |given| async {
            let mut given = given?;
            match given.next().await {
                Ok(Some(data)) => Some((Ok(v1::FilePiece { data }), Some(given))),
                Ok(None) => None,
                Err(failure) => Some((Err(rpc::status(&failure)), None)),
            }
        });
        let cancel = self.cancel.clone();
        let stopped = cancel.clone().cancelled_owned();
        // Without a status of its own a reply that is cut short would read as a whole one.
        let end = stream::poll_fn(move |_| {
            let stopped = cancel.is_cancelled();
            std::task::Poll::Ready(
                stopped.then(|| Err(Status::unavailable("this peer is shutting down"))),
            )
        });
        let pieces = pieces.take_until(stopped).chain(end.take(1));
        Ok(Response::new(pieces.boxed()))
    }

    async fn ticket(
        &self,
        request: Request<v1::TicketRequest>,
    ) -> Result<Response<v1::TicketResponse>, Status> {
        let peer = crate::serve::caller(&request)?.peer;
        rpc::check_version(Format::Wire, request.get_ref().version)?;
        if !self.shelf.has_any().await {
            return Err(Status::failed_precondition(
                "this peer has no files to give",
            ));
        }
        let (ticket, port) = self
            .lane
            .ticket(peer, &self.shelf)
            .await
            .map_err(|f| rpc::status(&f))?;
        Ok(Response::new(v1::TicketResponse {
            ticket: Bytes::copy_from_slice(ticket.as_bytes()),
            port: port.into(),
        }))
    }
}
