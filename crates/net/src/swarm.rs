//! The swarm put together: which behaviours, which transports, with which settings.

use std::{io, num::NonZeroUsize, sync::Arc, time::Duration};

use futures::FutureExt;
use libp2p::{
    Swarm, SwarmBuilder, Transport,
    connection_limits::{self, ConnectionLimits},
    core::upgrade::Version,
    identify, kad, noise, ping,
    swarm::NetworkBehaviour,
    tcp, yamux,
};

use crate::{
    config::{
        BOOTSTRAP, CONNECT_TIMEOUT, IDLE_TIMEOUT, MAX_AGENT, NetConfig, NetLimits, PING_INTERVAL,
        QUERY_TIMEOUT, SILENCE,
    },
    counters::Counters,
    error::StartError,
    names::Names,
    provider_store::ProviderStore,
    sources,
    streams::{self, Registry},
};

#[derive(NetworkBehaviour)]
pub(crate) struct Mesh {
    /// These two first: they may refuse the connection.
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) sources: sources::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) kad: kad::Behaviour<ProviderStore>,
    /// Last: see [`streams::Behaviour`].
    pub(crate) streams: streams::Behaviour,
}

pub(crate) fn build(
    config: &NetConfig,
    names: &Names,
    registry: &Arc<Registry>,
    counters: &Arc<Counters>,
) -> Result<Swarm<Mesh>, StartError> {
    let behaviour = behaviour(config, names, registry, counters)?;
    let limits = &config.limits;
    // Both directions, and room for libp2p's own protocols: reaching it ends the connection.
    let yamux_streams = limits
        .streams_per_connection
        .saturating_mul(2)
        .saturating_add(512);
    let transports = || {
        SwarmBuilder::with_existing_identity(config.key.keypair().clone())
            .with_tokio()
            .with_quic_config(|mut quic| {
                quic.max_concurrent_stream_limit = limits.streams_per_connection.saturating_add(64);
                quic
            })
            .with_other_transport(|key| {
                let mut yamux = yamux::Config::default();
                yamux.set_max_num_streams(yamux_streams as usize);
                let lab = config.lab.clone();
                let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
                Ok(tcp
                    .and_then(move |stream, point| lab.lay(stream, point).map(io::Result::Ok))
                    .upgrade(Version::V1Lazy)
                    .authenticate(noise::Config::new(key)?)
                    .multiplex(yamux))
            })
            .map_err(|e| StartError::Setup(e.to_string()))
    };
    macro_rules! finish {
        ($builder:expr) => {
            $builder
                .with_behaviour(|_| behaviour)
                .map_err(|e| StartError::Setup(e.to_string()))?
                .with_swarm_config(|c| {
                    c.with_idle_connection_timeout(IDLE_TIMEOUT)
                        // Saves a round trip for each stream; every protocol here offers one name.
                        .with_substream_upgrade_protocol_override(Version::V1Lazy)
                })
                .with_connection_timeout(CONNECT_TIMEOUT)
                .build()
        };
    }
    match transports()?.with_dns() {
        Ok(builder) => Ok(finish!(builder)),
        Err(error) => {
            tracing::warn!(%error, "no system name resolution; only numeric addresses can be dialled");
            let none = libp2p::dns::ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            Ok(finish!(transports()?.with_dns_config(
                none,
                libp2p::dns::ResolverOpts::default()
            )))
        }
    }
}

fn behaviour(
    config: &NetConfig,
    names: &Names,
    registry: &Arc<Registry>,
    counters: &Arc<Counters>,
) -> Result<Mesh, StartError> {
    let peer = config.key.peer_id();
    let store = ProviderStore::new(peer, config.limits.clone(), counters.clone());
    let kad = kad::Behaviour::with_config(peer, store, kad_config(names, config.lease)?);
    let identify = identify::Config::new(names.identify(), config.key.keypair().public())
        .with_agent_version(agent(&config.agent))
        .with_push_listen_addr_updates(true)
        // The address book does this, bounded by us.
        .with_cache_size(0);
    // Liveness is judged by [`SILENCE`]; ping's own timeout only ends the attempt.
    let ping = ping::Config::new()
        .with_interval(PING_INTERVAL)
        .with_timeout(SILENCE);
    Ok(Mesh {
        limits: connection_limits::Behaviour::new(connection_limits(&config.limits)),
        sources: sources::Behaviour::new(
            config.limits.pending_per_source,
            config.limits.connections_per_source,
        ),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping),
        kad,
        streams: streams::Behaviour::new(registry.clone()),
    })
}

fn kad_config(names: &Names, lease: Duration) -> Result<kad::Config, StartError> {
    let protocol = names
        .kad()
        .ok_or_else(|| StartError::Setup("no protocol name for the DHT".into()))?;
    let mut config = kad::Config::new(protocol);
    config
        .set_query_timeout(QUERY_TIMEOUT)
        // In a mesh of hundreds the few dead peers on the way must not hold up a look-up, nor those
        // who mislead: as many paths, none of which takes directions from another's peers.
        .disjoint_query_paths(true)
        .set_parallelism(NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN))
        // Twenty closer peers with eight addresses each, and a sample of providers.
        .set_max_packet_size(64 * 1024)
        // Only peers whose identify names this mesh get in.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        // Records pass by the swarm task, which knows where they come from.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        // Every connection brings news of its own; this only mends what they missed.
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP))
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_record_ttl(Some(lease))
        .set_provider_publication_interval(Some(lease / 3));
    Ok(config)
}

fn connection_limits(limits: &NetLimits) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending_connections))
        .with_max_pending_outgoing(Some(limits.pending_connections))
        .with_max_established_incoming(Some(limits.inbound()))
        .with_max_established(Some(limits.connections))
        .with_max_established_per_peer(Some(limits.connections_per_peer))
}

/// At most [`MAX_AGENT`] bytes of `text`, without control characters.
pub(crate) fn agent(text: &str) -> String {
    let mut agent: String = text.chars().filter(|c| !c.is_control()).collect();
    while agent.len() > MAX_AGENT {
        agent.pop();
    }
    agent
}
