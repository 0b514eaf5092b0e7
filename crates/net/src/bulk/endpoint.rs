//! The socket and the tuning of QUIC.

use std::{io, net::SocketAddr, sync::Arc};

use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TokioRuntime,
    TransportConfig, VarInt, congestion::BbrConfig,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    congestion::Bottleneck,
    error::BulkBindError,
    limits::{BulkLimits, Congestion, KEEP_ALIVE, SILENCE, SOCKET_BUFFER, STRANGERS_WINDOW},
};

/// Opens the endpoint; `server` gets the tuning for strangers.
pub(super) fn open(
    addr: SocketAddr,
    mut server: ServerConfig,
    limits: &BulkLimits,
) -> Result<Endpoint, BulkBindError> {
    let mut for_strangers = transport(limits);
    for_strangers
        .receive_window(STRANGERS_WINDOW.into())
        .max_concurrent_bidi_streams(1u32.into());
    server
        .transport_config(Arc::new(for_strangers))
        .max_incoming(limits.handshakes)
        .migration(false);
    let mut config = EndpointConfig::default();
    config
        .supported_versions(vec![1])
        .max_udp_payload_size(limits.largest_datagram.max(LEAST_DATAGRAM))
        .map_err(|e| BulkBindError::Setup(e.to_string()))?;
    let endpoint = socket(addr)
        .and_then(|socket| Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)));
    endpoint.map_err(|source| BulkBindError::Listen { addr, source })
}

/// The tuning of a connection whose peer is known.
pub(super) fn transport(limits: &BulkLimits) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(limits.largest_datagram);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(limits.transfers.into())
        .max_concurrent_uni_streams(0u32.into())
        .receive_window(limits.receive_window.into())
        .stream_receive_window(limits.stream_window.into())
        .send_window(limits.send_window)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            SILENCE.as_millis() as u32,
        ))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .allow_spin(false)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(match limits.congestion {
            Congestion::Bottleneck => Arc::new(Bottleneck::default()),
            Congestion::Bbr => Arc::new(BbrConfig::default()),
        });
    config
}

/// What every path of QUIC carries (RFC 9000, section 14).
const LEAST_DATAGRAM: u16 = 1200;

fn socket(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        // One port for both families, where the system can.
        let _ = socket.set_only_v6(false);
    }
    // The system grants what it allows; less costs speed, nothing else.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}
