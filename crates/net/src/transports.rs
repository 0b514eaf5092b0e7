//! Every way to reach a peer, as one transport: QUIC, TCP, WebSocket inside TLS, and circuits of
//! relays; names resolved, proxies used, every connection metered and, in a closed mesh, let in.

use std::{io, sync::Arc};

use futures::FutureExt;
use libp2p::{
    PeerId, Transport as _,
    core::{
        muxing::{StreamMuxerBox, SubstreamBox},
        transport::{Boxed, timeout::TransportTimeout},
    },
    dns, quic, relay, tcp, yamux,
};

use crate::{
    config::{CONNECT_TIMEOUT, NetConfig},
    counters::Counters,
    door::Refused,
    error::StartError,
    lingering::Lingering,
    meter::Meters,
    names,
    proxy::Proxied,
    security::{Preferred, Security},
    shut_out::{self, IsShutOut, Verdict, turn_away},
    wss::Wss,
};

/// A transport, and the behaviour that its circuits belong to.
pub(crate) struct Transports {
    pub(crate) transport: Boxed<(PeerId, StreamMuxerBox)>,
    pub(crate) relay: relay::client::Behaviour,
}

pub(crate) fn build(
    config: &NetConfig,
    mesh: &names::Names,
    meters: &Arc<Meters>,
    counters: &Arc<Counters>,
    verdict: &Arc<Verdict>,
) -> Result<Transports, StartError> {
    let key = config.key.keypair();
    let limits = &config.limits;
    // Both directions, and room for libp2p's own protocols: reaching it ends the connection.
    let streams = limits
        .streams_per_connection
        .saturating_mul(2)
        .saturating_add(512);
    let mut mux = yamux::Config::default();
    mux.set_max_num_streams(streams as usize);

    let names = Names::of_the_system();
    let (circuits, relay) = relay::client::new(config.key.peer_id());
    let security = Security::new(key, mux)?;
    let circuits = security.on(circuits, Preferred::Noise);
    let wss = Wss::new(names.around(tcp_stream(config))?)?;
    let wss = security.on(wss, Preferred::Noise);
    let tcp = security.on(tcp_stream(config), Preferred::Tls);
    let mut quic = quic::Config::new(key);
    quic.max_concurrent_stream_limit = limits.streams_per_connection.saturating_add(64);
    let quic = quic::tokio::Transport::new(quic)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Lingering::new(muxer))));
    let plain = quic
        .or_transport(tcp)
        .map(|either, _| either.into_inner())
        .boxed();
    // Last: resolving takes every address.
    let any = circuits
        .or_transport(wss)
        .map(|either, _| either.into_inner())
        .or_transport(names.around(plain)?)
        .map(|either, _| either.into_inner());
    let (meters, counters, verdict) = (meters.clone(), counters.clone(), verdict.clone());
    let (door, me) = (config.door.clone(), config.key.peer_id());
    let shut_out = config.shut_out.clone();
    let farewell = mesh.stream(shut_out::NAME);
    let admitted = any.and_then(
        move |(peer, muxer): (PeerId, StreamMuxerBox), endpoint| async move {
            let unwanted = shut_out.contains(&peer);
            if unwanted && endpoint.is_listener() {
                counters.shut_out_refused.up();
            }
            let muxer = match door {
                Some(door) => {
                    let passed = door.pass(muxer, me, peer, &endpoint, unwanted).await;
                    passed.inspect_err(|refused| {
                        // Who is refused at another's door is no stranger at ours.
                        if endpoint.is_listener() {
                            counters.strangers_refused.up();
                        } else if *refused == Refused::Revoked {
                            verdict.told_by(peer);
                        }
                    })?
                }
                None if unwanted && endpoint.is_listener() => {
                    if let Some(farewell) = farewell {
                        turn_away(muxer, farewell).await;
                    }
                    return Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        IsShutOut(peer),
                    ));
                }
                None => muxer,
            };
            Ok::<_, io::Error>((peer, meters.measure(peer, &endpoint, muxer)))
        },
    );
    Ok(Transports {
        transport: TransportTimeout::new(admitted, CONNECT_TIMEOUT).boxed(),
        relay,
    })
}

/// TCP, through the proxy where one is configured.
fn tcp_stream(config: &NetConfig) -> Boxed<SubstreamBox> {
    let lab = config.lab.clone();
    Proxied {
        proxy: config.proxy.clone(),
    }
    .or_transport(
        tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .and_then(move |stream, point| lab.lay(stream, point).map(io::Result::Ok))
            .map(|stream, _| SubstreamBox::new(stream)),
    )
    .map(|either, _| either.into_inner())
    .boxed()
}

/// Whether the system can resolve names.
#[derive(Debug, Clone, Copy)]
struct Names {
    resolved: bool,
}

impl Names {
    fn of_the_system() -> Self {
        let tried = dns::tokio::Transport::system(());
        if let Err(error) = &tried {
            tracing::warn!(%error, "no system name resolution; only numeric addresses can be dialled");
        }
        Self {
            resolved: tried.is_ok(),
        }
    }

    /// `inner`, with names in its addresses resolved first.
    fn around<O: Send + 'static>(self, inner: Boxed<O>) -> Result<Boxed<O>, StartError> {
        if !self.resolved {
            let none = dns::ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            let opts = dns::ResolverOpts::default();
            return Ok(dns::tokio::Transport::custom(inner, none, opts).boxed());
        }
        dns::tokio::Transport::system(inner)
            .map(libp2p::Transport::boxed)
            .map_err(|e| StartError::Setup(format!("name resolution: {e}")))
    }
}
