//! libp2p swarms as their users build them: the transports' defaults, and one behaviour.

use std::net::IpAddr;

use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};

use super::{CALL, Failure, cases::Transport, failed};

pub(super) fn swarm<B: NetworkBehaviour>(behaviour: B) -> Result<Swarm<B>, Failure> {
    let builder = SwarmBuilder::with_new_identity().with_tokio().with_tcp(
        tcp::Config::default().nodelay(true),
        (libp2p_tls::Config::new, noise::Config::new),
        yamux::Config::default,
    );
    let builder = builder.map_err(|e| failed("libp2p", e))?.with_quic();
    let builder = builder.with_behaviour(|_| behaviour);
    let builder = builder.map_err(|e| failed("libp2p", e))?;
    // A side waits while the others have their turns.
    let patient = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(12 * CALL);
    Ok(builder.with_swarm_config(patient).build())
}

/// Listens; returns where.
pub(super) async fn listen<B: NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    at: IpAddr,
    transport: Transport,
) -> Result<Multiaddr, Failure> {
    let version = if at.is_ipv4() { "ip4" } else { "ip6" };
    let rest = match transport {
        Transport::Quic => "udp/0/quic-v1",
        _ => "tcp/0",
    };
    let address = format!("/{version}/{at}/{rest}").parse::<Multiaddr>();
    let address = address.map_err(|e| failed("an address", e))?;
    swarm.listen_on(address).map_err(|e| failed("libp2p", e))?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return Ok(address);
        }
    }
}
