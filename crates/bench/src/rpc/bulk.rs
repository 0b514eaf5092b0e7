//! The bulk lane: the request a transfer that is answered by another, many at a time on one connection.
//! Its ticket is handed over in the process; in the mesh a call tells it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use polymath_net::{
    Bulk, BulkArrival, BulkConnection, BulkLimits, BulkReceiver, BulkReply, ShutOut,
};
use polymath_types::NodeKey;
use tokio::runtime::Handle;

use super::{
    CALL, Failure, LARGEST, PATIENCE,
    cases::Load,
    echo::check,
    failed,
    load::{Call, Side},
    mesh::Guest,
};

const NAME: &str = "bulk lane";
pub(super) const CONTROL: &str = "our own";
/// Chunks taken in at once.
const CHUNKS: usize = 64;

fn limits() -> BulkLimits {
    let mut limits = BulkLimits::default();
    // As many calls at once as any case makes; a side may wait long for its turn, and then for others.
    limits.transfers = 256;
    limits.body_bytes = LARGEST as u64;
    limits.idle = 12 * CALL;
    limits.stall = CALL;
    limits
}

pub(super) async fn side(server: (&Handle, IpAddr), guest: &Guest) -> Result<Side, Failure> {
    let (on, at) = server;
    let mesh = guest.net.mesh();
    let binding = on.spawn(async move {
        Bulk::bind(
            &NodeKey::generate(),
            mesh,
            SocketAddr::new(at, 0),
            limits(),
            ShutOut::default(),
        )
    });
    let lane = binding.await.map_err(|e| failed(NAME, e))?;
    let lane = lane.map_err(|e| failed(NAME, e))?;
    on.spawn(serve(lane.clone(), on.clone()));

    let key = NodeKey::generate();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let near =
        Bulk::bind(&key, mesh, any, limits(), ShutOut::default()).map_err(|e| failed(NAME, e))?;
    let ticket = lane.ticket(key.peer_id()).map_err(|e| failed(NAME, e))?;
    let address = lane.local_addr().map_err(|e| failed(NAME, e))?;
    let connected = near.connect(lane.local_peer(), address, ticket, PATIENCE);
    let connection = connected.await.map_err(|e| failed(NAME, e))?;
    let callers = move |load: Load| {
        // The lane lives as long as its side.
        let (_lane, connection) = (near.clone(), connection.clone());
        let request = Bytes::from(vec![1; load.request]);
        let callers = (0..load.callers).map(|_| BulkCaller {
            connection: connection.clone(),
            request: request.clone(),
            reply: load.reply,
        });
        let callers: Vec<_> = callers.collect();
        async move { Ok(callers) }
    };
    Ok(Side::new(NAME, guest.transport, CONTROL, callers))
}

async fn serve(lane: Bulk, on: Handle) {
    let filler = Bytes::from(vec![7; 1 << 20]);
    while let Some(connection) = lane.accept().await {
        // An error is the connection's end. The peer may not begin more at a time than the limit says.
        while let Ok(arrival) = connection.accept().await {
            if let BulkArrival::Call(question, reply) = arrival {
                on.spawn(answer(question, reply, filler.clone()));
            }
        }
    }
}

/// The header is the size of the reply.
async fn answer(mut question: BulkReceiver, reply: BulkReply, filler: Bytes) {
    let header: Result<[u8; 8], _> = question.header().as_ref().try_into();
    let asked = header.map(u64::from_be_bytes);
    let Ok(size) = asked.map(|n| n.min(LARGEST as u64)) else {
        return;
    };
    // Whoever asked hears of a failure by its stream.
    let _ = async {
        drain(&mut question).await?;
        let mut sender = reply.send(Bytes::new(), size).await?;
        while sender.remaining() > 0 {
            let chunk = sender.remaining().min(filler.len() as u64) as usize;
            sender.write_chunk(filler.slice(..chunk)).await?;
        }
        sender.finish().await
    }
    .await;
}

async fn drain(body: &mut BulkReceiver) -> Result<usize, polymath_net::TransferError> {
    let mut chunks = vec![Bytes::new(); CHUNKS];
    let mut size = 0;
    loop {
        let read = body.read_chunks(&mut chunks).await?;
        if read == 0 {
            return Ok(size);
        }
        size += chunks.iter().take(read).map(Bytes::len).sum::<usize>();
    }
}

struct BulkCaller {
    connection: BulkConnection,
    request: Bytes,
    reply: usize,
}

impl Call for BulkCaller {
    async fn call(&mut self) -> Result<(), Failure> {
        let header = Bytes::copy_from_slice(&(self.reply as u64).to_be_bytes());
        let got = async {
            let calling = self.connection.call(header, self.request.len() as u64);
            let (mut sender, answer) = calling.await?;
            sender.write_chunk(self.request.clone()).await?;
            let (sent, answered) = tokio::join!(sender.finish(), async {
                drain(&mut answer.begin().await?).await
            });
            sent?;
            answered
        };
        check(got.await.map_err(|e| failed(NAME, e))?, self.reply)
    }
}
