//! Programs on this machine find bounds too.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body::Frame;
use polymath_net::PeerId;
use polymath_proto::v1::{echo_client::EchoClient, echo_server::EchoServer};
use polymath_rpc::{Admission, Connections, LocalCalls, Parrot, serve_local};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::{Bytes, Service},
    service::Routes,
    transport::{Channel, Endpoint},
};

use crate::lab::{SOON, payload, soon, until};

const MIB: usize = 1 << 20;

/// A message of two mebibytes of which one comes.
#[derive(Default)]
struct Half(usize);

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let piece = match self.0 {
            0 => Bytes::from_static(&[0, 0, 32, 0, 0]),
            1 => vec![0; MIB].into(),
            _ => return Poll::Pending,
        };
        self.0 += 1;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

async fn served(admission: &Admission, stop: &CancellationToken) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let local = LocalCalls {
        routes: Routes::new(EchoServer::new(Parrot)),
        admission: admission.clone(),
        peer: PeerId::random(),
        connections: 4,
    };
    tokio::spawn(serve_local(listener, local, stop.clone()));
    let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
    soon("a connection", endpoint.connect()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_end_find_no_more_room_than_there_is() {
    let (admission, stop) = (
        Admission::default().holding(16 * MIB),
        CancellationToken::new(),
    );
    let channel = served(&admission, &stop).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let (mut channel, refused) = (channel.clone(), Arc::clone(&refused));
        calls.spawn(async move {
            let mut request = tonic::codegen::http::Request::new(Body::new(Half::default()));
            *request.method_mut() = tonic::codegen::http::Method::POST;
            *request.uri_mut() = "http://here/polymath.v1.Echo/Unary".parse().unwrap();
            let headers = request.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            std::future::poll_fn(|cx| channel.poll_ready(cx))
                .await
                .unwrap();
            let response = channel.call(request).await.unwrap();
            // RESOURCE_EXHAUSTED; of the others nothing is heard while they wait.
            assert_eq!(response.headers()["grpc-status"], "8");
            refused.fetch_add(1, Relaxed);
        });
    }
    until("all but those that fit to be refused", || {
        refused.load(Relaxed) >= 100 - 16
    })
    .await;
    assert!(admission.calls_refused() >= 84);
    calls.shutdown().await;
    // And whoever ends what it begins is answered.
    let mut client = EchoClient::new(channel);
    until_answered(&mut client).await;
    stop.cancel();
}

async fn until_answered(client: &mut EchoClient<Channel>) {
    let answered = async {
        while client.unary(payload(b"hello")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon("an answer", answered).await;
}

#[tokio::test]
async fn whoever_says_nothing_gives_its_place_to_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Duration::from_millis(100);
    let connections = Connections::new(listener, 2).greeting(5, patience);
    let mut mute = Vec::new();
    for _ in 0..2 {
        mute.push(TcpStream::connect(address).await.unwrap());
    }
    let (mut first, _second) = (connections.next().await, connections.next().await);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"hello there").await.unwrap();
    {
        let third = std::pin::pin!(connections.next());
        assert!(futures::poll!(third).is_pending(), "there were two places");
    }
    let silence = first.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(silence.kind(), std::io::ErrorKind::TimedOut);
    drop(first);
    let mut third = tokio::time::timeout(SOON, connections.next())
        .await
        .unwrap();
    let mut said = [0; 11];
    third.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello there");
}
