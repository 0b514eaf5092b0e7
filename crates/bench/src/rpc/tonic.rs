//! tonic as it comes, without encryption: the reference.

use std::net::IpAddr;

use futures::FutureExt;
use tokio::{net::TcpListener, runtime::Handle};
use tonic::transport::{Endpoint, Server, server::TcpIncoming};

use super::{
    Failure,
    cases::Transport,
    echo, failed,
    load::{Side, drive},
    sample::Sample,
};
use crate::kernel_congestion_control;

pub(super) const NAME: &str = "plain tonic";
/// Each round counts the best of these.
const CONNECTIONS: [usize; 3] = [1, 2, 4];
/// HTTP/2's windows: large enough never to be what is measured.
const WINDOW: u32 = 64 << 20;

pub(super) fn http2_server() -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(1 << 20)
}

pub(super) fn endpoint(address: String) -> Result<Endpoint, Failure> {
    let endpoint = Endpoint::from_shared(address).map_err(|e| failed("an address", e))?;
    Ok(endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW))
}

pub(super) async fn side(on: &Handle, at: IpAddr) -> Result<Side, Failure> {
    let trouble = |e: &dyn std::fmt::Display| failed("tonic's server", e);
    let binding = on.spawn(TcpListener::bind((at, 0))).await;
    let listener = binding.map_err(|e| trouble(&e))?.map_err(|e| trouble(&e))?;
    let address = listener.local_addr().map_err(|e| trouble(&e))?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    on.spawn(
        http2_server()
            .add_service(echo::service())
            .serve_with_incoming(incoming),
    );
    let mut rivals = Vec::new();
    for connections in CONNECTIONS {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let channel = endpoint(format!("http://{address}"))?.connect().await;
            clients.push(echo::client(
                channel.map_err(|e| failed("tonic's client", e))?,
            ));
        }
        rivals.push(clients);
    }
    Ok(Side {
        name: NAME,
        transport: Transport::Tcp,
        control: kernel_congestion_control(),
        run: Box::new(move |load, pace, meter| {
            let rivals = rivals.clone();
            async move {
                let mut best: Option<Sample> = None;
                for clients in rivals.iter().filter(|r| r.len() <= load.callers) {
                    let sample = drive(echo::callers(clients, load), load, pace, meter).await?;
                    best = Some(best.filter(|b| b.rate >= sample.rate).unwrap_or(sample));
                }
                best.ok_or_else(|| failed("plain tonic", "nobody calls"))
            }
            .boxed()
        }),
    })
}
