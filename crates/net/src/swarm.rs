//! The swarm put together: which behaviours, which transports, with which settings.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use libp2p::{
    Swarm,
    connection_limits::{self, ConnectionLimits},
    core::upgrade::Version,
    dcutr, identify, kad, ping, relay,
    swarm::{self, NetworkBehaviour, behaviour::toggle::Toggle},
    upnp,
};

use crate::{
    adapter::{Adapter, DirectOnly, OwnCandidates, PublicOnly, Unproven, Vetted},
    config::{
        BOOTSTRAP, IDLE_TIMEOUT, MAX_AGENT, NetConfig, NetLimits, PING_INTERVAL, QUERY_TIMEOUT,
        Role, SILENCE,
    },
    counters::Counters,
    error::StartError,
    guard::Guard,
    meter::Meters,
    names::Names,
    provider_store::ProviderStore,
    shut_out::{self, Verdict},
    sources,
    streams::{self, Registry},
    transports::{self, Transports},
};

#[derive(NetworkBehaviour)]
pub(crate) struct Mesh {
    /// These first: they may refuse the connection.
    pub(crate) shut_out: shut_out::Behaviour,
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) sources: sources::Behaviour,
    pub(crate) identify: Adapter<identify::Behaviour, PublicOnly>,
    pub(crate) ping: ping::Behaviour,
    pub(crate) kad: Adapter<kad::Behaviour<ProviderStore>, Vetted>,
    pub(crate) relay_client: relay::client::Behaviour,
    pub(crate) relay_server: Toggle<Adapter<relay::Behaviour, DirectOnly>>,
    pub(crate) dcutr: Adapter<Guard<dcutr::Behaviour>, OwnCandidates>,
    pub(crate) upnp: Toggle<Adapter<upnp::tokio::Behaviour, Unproven>>,
    /// Last: see [`streams::Behaviour`].
    pub(crate) streams: streams::Behaviour,
}

pub(crate) fn build(
    config: &NetConfig,
    names: &Names,
    registry: &Arc<Registry>,
    counters: &Arc<Counters>,
    meters: &Arc<Meters>,
    verdict: &Arc<Verdict>,
) -> Result<Swarm<Mesh>, StartError> {
    let Transports { transport, relay } =
        transports::build(config, names, meters, counters, verdict)?;
    let behaviour = behaviour(config, names, registry, counters, meters.clone(), relay)?;
    let settings = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        // Saves a round trip for each stream; every protocol here offers one name.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let peer = config.key.peer_id();
    Ok(Swarm::new(transport, behaviour, peer, settings))
}

fn behaviour(
    config: &NetConfig,
    names: &Names,
    registry: &Arc<Registry>,
    counters: &Arc<Counters>,
    meters: Arc<Meters>,
    relay_client: relay::client::Behaviour,
) -> Result<Mesh, StartError> {
    let peer = config.key.peer_id();
    let store = ProviderStore::new(peer, config.limits.clone(), counters.clone());
    let kad = kad::Behaviour::with_config(peer, store, kad_config(names, config.lease)?);
    let identify = identify::Config::new(names.identify(), config.key.keypair().public())
        .with_agent_version(agent(&config.agent))
        .with_push_listen_addr_updates(true)
        // Where this node listens is told by whereabouts, to each as far as it concerns him.
        .with_hide_listen_addrs(true)
        // The address book does this, bounded by us.
        .with_cache_size(0);
    // Liveness is judged by [`SILENCE`]; ping's own timeout only ends the attempt.
    let ping = ping::Config::new()
        .with_interval(PING_INTERVAL)
        .with_timeout(SILENCE);
    let serves = config.role == Role::Server;
    let relay_server = serves.then(|| {
        let mut relay = relay::Behaviour::new(peer, relay_config(&config.limits));
        // Until this node is known to be of use to strangers.
        relay.set_status(Some(relay::Status::Disable));
        Adapter::new(relay)
    });
    let upnp = (serves && config.upnp).then(|| Adapter::new(upnp::tokio::Behaviour::default()));
    Ok(Mesh {
        shut_out: shut_out::Behaviour(config.shut_out.clone()),
        limits: connection_limits::Behaviour::new(connection_limits(&config.limits)),
        sources: sources::Behaviour::new(
            config.limits.pending_per_source,
            config.limits.connections_per_source,
        ),
        identify: Adapter::new(identify::Behaviour::new(identify)),
        ping: ping::Behaviour::new(ping),
        kad: Adapter {
            inner: kad,
            how: Vetted {
                abroad: false,
                counters: counters.clone(),
            },
        },
        relay_client,
        relay_server: relay_server.into(),
        dcutr: Adapter::new(Guard::new(
            move || dcutr::Behaviour::new(peer),
            counters.clone(),
        )),
        upnp: upnp.into(),
        streams: streams::Behaviour::new(registry.clone(), meters),
    })
}

/// Sized for inference and for bulk: what a peer may have relayed is bounded by its allowance
/// ([`crate::meter`]), not by the single circuit, and a circuit lasts as long as a long answer.
fn relay_config(limits: &NetLimits) -> relay::Config {
    let often = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    let second = Duration::from_secs(1);
    relay::Config {
        max_reservations: limits.reservations,
        max_reservations_per_peer: 2,
        reservation_duration: Duration::from_secs(3600),
        reservation_rate_limiters: Vec::new(),
        max_circuits: limits.circuits,
        max_circuits_per_peer: limits.circuits_per_peer,
        max_circuit_duration: Duration::from_secs(4 * 3600),
        max_circuit_bytes: 0,
        circuit_src_rate_limiters: Vec::new(),
    }
    // A burst, and one more each second; a whole office shares an address.
    .reservation_rate_per_peer(often(16), second * 4)
    .reservation_rate_per_ip(often(512), second / 8)
    .circuit_src_per_peer(often(128), second)
    .circuit_src_per_ip(often(1024), second / 16)
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
        // Of each path: an announcement reaches up to four times as many.
        .set_replication_factor(NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN))
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
