//! Taking files from members that do as they like.

#![allow(clippy::unwrap_used)]

use std::{
    io::Read,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use polymath_blobs::{Cancel, Mirror};
use polymath_net::{Net, NetConfig, Role};
use polymath_proto::v1::{self, files_server::FilesServer};
use polymath_rpc::{Admission, Clients};
use polymath_types::{FileRef, FileRole, Genesis, NodeKey};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, service::RoutesBuilder};

use super::{BulkLane, Members};

const SOON: Duration = Duration::from_secs(30);
const SIZE: usize = 400_000;

/// What a member does when it is asked for the bytes from an offset on.
#[derive(Clone)]
struct Giver {
    gives: Arc<dyn Fn(usize) -> Vec<Vec<u8>> + Send + Sync>,
    asked: Arc<AtomicUsize>,
}

impl Giver {
    fn new(gives: impl Fn(usize) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self {
            gives: Arc::new(gives),
            asked: Arc::default(),
        }
    }
}

#[tonic::async_trait]
impl v1::files_server::Files for Giver {
    async fn have(
        &self,
        request: Request<v1::HaveFilesRequest>,
    ) -> Result<Response<v1::HaveFilesResponse>, Status> {
        let blake3 = request.into_inner().blake3;
        Ok(Response::new(v1::HaveFilesResponse { blake3 }))
    }

    type ReadStream = Pin<Box<dyn Stream<Item = Result<v1::FilePiece, Status>> + Send>>;

    async fn read(
        &self,
        request: Request<v1::ReadFileRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        self.asked.fetch_add(1, Relaxed);
        let offset = usize::try_from(request.get_ref().offset).unwrap();
        let pieces = (self.gives)(offset).into_iter();
        let pieces = pieces.map(|data| Ok(v1::FilePiece { data: data.into() }));
        Ok(Response::new(stream::iter(pieces).boxed()))
    }

    async fn ticket(
        &self,
        _: Request<v1::TicketRequest>,
    ) -> Result<Response<v1::TicketResponse>, Status> {
        let ticket = Bytes::from_static(&[0; 32]);
        Ok(Response::new(v1::TicketResponse { ticket, port: 9 }))
    }
}

/// A file, its members, and whoever takes it from them.
struct Scene {
    file: FileRef,
    members: Members,
    _givers: Vec<Net>,
    _tasks: TaskTracker,
    cancel: CancellationToken,
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|i| (i % 251) as u8).collect()
}

impl Scene {
    async fn with(givers: Vec<Giver>) -> Self {
        let founder = NodeKey::generate();
        let genesis = Genesis::new("files", &founder.keypair().public()).unwrap();
        let key = NodeKey::generate();
        let mut config = NetConfig::new(key.clone(), genesis.clone(), Vec::new());
        config.role = Role::Client;
        let net = Net::start(config).await.unwrap();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let mut nets = Vec::new();
        for giver in givers {
            let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
            let config = NetConfig::new(NodeKey::generate(), genesis.clone(), listen);
            let giving = Net::start(config).await.unwrap();
            let mut routes = RoutesBuilder::default();
            routes.add_service(FilesServer::new(giver));
            let (routes, serving, stop) = (routes.routes(), giving.clone(), cancel.clone());
            tasks.spawn(async move {
                let _ = polymath_rpc::serve(&serving, routes, Admission::default(), stop).await;
            });
            let address = giving.listen_addrs().borrow()[0].clone();
            net.dial(address, SOON).await.unwrap();
            nets.push(giving);
        }
        let lane = BulkLane::new(
            net.clone(),
            key,
            &crate::config::Net::default(),
            true,
            &tasks,
            &cancel,
        );
        let clients = Clients::new(net.clone());
        let members = Members::new(net, clients, lane, true, &tasks, &cancel, Cancel::new());
        let bytes = content();
        Self {
            file: FileRef {
                role: FileRole::Weights,
                name: "model.bin".into(),
                size: SIZE as u64,
                sha256: String::new(),
                blake3: blake3::hash(&bytes).to_hex().to_string(),
            },
            members,
            _givers: nets,
            _tasks: tasks,
            cancel,
        }
    }

    /// What comes of the file; nothing where nobody has it.
    async fn read(&self) -> Option<std::io::Result<Vec<u8>>> {
        let (members, file) = (self.members.clone(), self.file.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let mut mirrored = members.open(&file)?;
            let mut bytes = Vec::new();
            let read = mirrored.reader.read_to_end(&mut bytes);
            Some(read.map(|_| bytes))
        });
        tokio::time::timeout(SOON, reading).await.unwrap().unwrap()
    }

    fn blame(&self) {
        self.members.blame(&self.file);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_on_at_the_next_member_where_the_last_stopped() {
    // Each gives a quarter at a time, and has two tries.
    let quarter =
        || Giver::new(|offset| vec![content()[offset..(offset + SIZE / 4).min(SIZE)].to_vec()]);
    let givers = vec![quarter(), quarter()];
    let asked: Vec<_> = givers.iter().map(|g| g.asked.clone()).collect();
    let scene = Scene::with(givers).await;
    assert_eq!(scene.read().await.unwrap().unwrap(), content());
    assert!(asked.iter().all(|n| n.load(Relaxed) == 2), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_something_else_is_not_asked_again() {
    let scene = Scene::with(vec![Giver::new(|_| vec![vec![7; SIZE]])]).await;
    assert_eq!(scene.read().await.unwrap().unwrap(), vec![7; SIZE]);
    scene.blame();
    assert!(scene.read().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_who_gave_a_wrong_file_none_is_blamed() {
    let half = || Giver::new(|_| vec![vec![7; SIZE / 2]]);
    let scene = Scene::with(vec![half(), half()]).await;
    assert_eq!(scene.read().await.unwrap().unwrap(), vec![7; SIZE]);
    scene.blame();
    // The next time one alone is asked, twice, and is then the one to blame.
    assert_eq!(scene.read().await.unwrap().unwrap(), vec![7; SIZE]);
    scene.blame();
    assert_eq!(scene.members.members().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_part_of_the_file_is_not_taken() {
    for pieces in [
        vec![vec![7; SIZE + 1]],
        vec![Vec::new(); 3],
        vec![vec![7; 10]],
        Vec::new(),
    ] {
        let giver = Giver::new(move |_| pieces.clone());
        let asked = giver.asked.clone();
        let scene = Scene::with(vec![giver]).await;
        scene.read().await.unwrap().unwrap_err();
        assert_eq!(asked.load(Relaxed), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_waits_for_no_member() {
    let scene = Scene::with(vec![Giver::new(|offset| match offset {
        0 => vec![vec![7; 10]],
        _ => Vec::new(),
    })])
    .await;
    scene.cancel.cancel();
    assert!(scene.read().await.is_none_or(|read| read.is_err()));
}
