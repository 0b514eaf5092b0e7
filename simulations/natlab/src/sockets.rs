//! Plain sockets for measurements, and what an anchor sees of them.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

use crate::{netns::Netns, theory::Protocol};

/// How long a packet that comes at all may take; all is on this machine.
pub(crate) const PATIENCE: Duration = Duration::from_millis(400);

/// What a server on the anchor, at `at`, sees of the host's `port`; `None` when nothing arrives.
pub(crate) fn observed(
    protocol: Protocol,
    host: &Netns,
    port: u16,
    anchor: &Netns,
    at: SocketAddrV4,
) -> Result<Option<SocketAddr>> {
    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    match protocol {
        Protocol::Quic => {
            let server = anchor.within(|| datagrams(at))?;
            let client = host.within(|| datagrams(from))?;
            client
                .send_to(b"who am I", at)
                .context("the host has no route")?;
            Ok(received(&server)?.map(|(_, source)| source))
        }
        Protocol::Tcp => {
            let server = anchor.within(|| listener(at))?;
            // Kept open until the answer is there: both ends close afterwards.
            let Some(_client) = host.within(|| Ok(connection(from, at)))? else {
                return Ok(None);
            };
            Ok(accepted(&server)?.map(|(_, source)| source))
        }
    }
}

/// A socket whose port may be shared, as a hole punch needs it.
fn bound(kind: Type, at: SocketAddrV4) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, None).context("no socket")?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket
        .bind(&at.into())
        .with_context(|| format!("cannot bind {at}"))?;
    Ok(socket)
}

pub(crate) fn datagrams(at: SocketAddrV4) -> Result<UdpSocket> {
    let socket = bound(Type::DGRAM, at)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

pub(crate) fn listener(at: SocketAddrV4) -> Result<TcpListener> {
    let socket = bound(Type::STREAM, at)?;
    socket.listen(4)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// `None` when the other side cannot be reached in time.
pub(crate) fn connection(from: SocketAddrV4, to: SocketAddrV4) -> Option<TcpStream> {
    connection_within(from, to, PATIENCE)
}

pub(crate) fn connection_within(
    from: SocketAddrV4,
    to: SocketAddrV4,
    limit: Duration,
) -> Option<TcpStream> {
    let socket = bound(Type::STREAM, from).ok()?;
    // Closing at once, without TIME_WAIT, leaves the pair of ports for the next measurement.
    socket.set_linger(Some(Duration::ZERO)).ok()?;
    socket.connect_timeout(&to.into(), limit).ok()?;
    Some(socket.into())
}

pub(crate) fn received(socket: &UdpSocket) -> Result<Option<(Vec<u8>, SocketAddr)>> {
    let mut buffer = [0; 64];
    match socket.recv_from(&mut buffer) {
        Ok((length, source)) => Ok(Some((buffer[..length].to_vec(), source))),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(e) => Err(e).context("a datagram socket failed"),
    }
}

pub(crate) fn accepted(listener: &TcpListener) -> Result<Option<(TcpStream, SocketAddr)>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, source)) => {
                stream.set_nonblocking(false)?;
                return Ok(Some((stream, source)));
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e).context("a listener failed"),
        }
    }
}
