//! Encryption of stream transports: libp2p's TLS, and noise for peers that speak nothing else.
//!
//! Both prove the same identity. TLS runs AES-GCM where the processors have it, at several times the
//! rate of the ChaCha20 that noise prescribes, so it comes first. A dialler that offered both would have
//! to wait a round trip for the choice. So it offers TLS alone, and a peer that declines is dialled
//! again with noise; who listens takes either.

use std::{
    collections::VecDeque,
    fmt, io,
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    AsyncRead, AsyncWrite, FutureExt,
    future::{BoxFuture, Either},
};
use futures_rustls::{
    TlsAcceptor, TlsConnector, TlsStream,
    rustls::{
        ClientConfig, ServerConfig,
        pki_types::{CertificateDer, ServerName},
    },
};
use libp2p::{
    Multiaddr, PeerId, TransportError,
    core::{
        ConnectedPoint, Endpoint,
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, Transport, TransportEvent},
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    },
    identity, noise, yamux,
};
use multistream_select::{
    Negotiated, NegotiationError, Version, dialer_select_proto, listener_select_proto,
};
use tokio::time::Instant;

use crate::{
    batched::{GatheredWrites, ReadAhead},
    error::StartError,
    tls,
};

const TLS: &str = "/tls/1.0.0";
const ALPN: &str = "libp2p";
const NOISE: &str = "/noise";
/// Addresses remembered to be of peers without TLS, and for how long: a peer may learn it.
const REMEMBERED: usize = 256;
const BELIEVED: Duration = Duration::from_secs(3600);
/// What a dial ends with when TLS was declined.
const DECLINED: &str = "the peer declined TLS";

/// An encrypted stream.
type Secured<C> = Either<TlsStream<Negotiated<C>>, noise::Output<Negotiated<C>>>;

/// A stream of which nobody needs to know more.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Secures and multiplexes streams.
#[derive(Clone)]
pub(crate) struct Security {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    noise: noise::Config,
    mux: yamux::Config,
    without_tls: WithoutTls,
}

/// What a dialler offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preferred {
    Tls,
    /// Where something else is slower than any cipher, or has encrypted once already.
    Noise,
}

impl Security {
    pub(crate) fn new(key: &identity::Keypair, mux: yamux::Config) -> Result<Self, StartError> {
        let setup = |e: &dyn fmt::Display| StartError::Setup(format!("encryption: {e}"));
        let identity = tls::Identity::new(key).map_err(|e| setup(&e))?;
        // Whose identity it is, the dial checks, and the door.
        let anybody: tls::Welcome = Arc::new(|_| true);
        let server = identity.server(ALPN, anybody.clone());
        let client = identity.client(ALPN, anybody);
        Ok(Self {
            server: Arc::new(server.map_err(|e| setup(&e))?),
            client: Arc::new(client.map_err(|e| setup(&e))?),
            noise: noise::Config::new(key).map_err(|e| setup(&e))?,
            mux,
            without_tls: WithoutTls::default(),
        })
    }

    /// `streams`, encrypted and multiplexed.
    pub(crate) fn on<T>(&self, streams: T, preferred: Preferred) -> Boxed<(PeerId, StreamMuxerBox)>
    where
        T: Transport + Send + Unpin + 'static,
        T::Output: Io,
        T::Error: Send + Sync + 'static,
        T::Dial: Send,
        T::ListenerUpgrade: Send,
    {
        let security = self.clone();
        let secured = streams
            .and_then(move |stream, point| {
                security.secure(ReadAhead::new(stream), point, preferred)
            })
            .boxed();
        match preferred {
            Preferred::Noise => secured,
            Preferred::Tls => Again {
                inner: Arc::new(Mutex::new(secured)),
            }
            .boxed(),
        }
    }

    async fn secure<C: Io>(
        self,
        stream: C,
        point: ConnectedPoint,
        preferred: Preferred,
    ) -> io::Result<(PeerId, StreamMuxerBox)> {
        let mux = self.mux.clone();
        // In a hole punched by both sides, one of the diallers acts as the listener.
        if let ConnectedPoint::Dialer {
            address,
            role_override: Endpoint::Dialer,
            ..
        } = point
        {
            let tls = preferred == Preferred::Tls && !self.without_tls.knows(&address);
            let offer = if tls { TLS } else { NOISE };
            let (_, stream) = dialer_select_proto(stream, [offer], Version::V1Lazy).await?;
            let without_tls = self.without_tls.clone();
            let (peer, stream) = self.dialled(stream, tls).await.map_err(|e| {
                match (is_declined(&e), tls) {
                    (false, _) => e,
                    (true, true) => {
                        without_tls.note(address);
                        io::Error::other(DECLINED)
                    }
                    (true, false) => {
                        // Whoever is there now may speak TLS.
                        without_tls.forget(&address);
                        e
                    }
                }
            })?;
            let (protocol, stream) =
                dialer_select_proto(stream, mux.protocol_info(), Version::V1Lazy).await?;
            let muxer = mux.upgrade_outbound(GatheredWrites::new(stream), protocol);
            return Ok((peer, StreamMuxerBox::new(muxer.await?)));
        }
        let (offered, stream) = listener_select_proto(stream, [TLS, NOISE]).await?;
        let (peer, stream) = self.accepted(stream, offered == TLS).await?;
        let (protocol, stream) = listener_select_proto(stream, mux.protocol_info()).await?;
        let muxer = mux.upgrade_inbound(GatheredWrites::new(stream), protocol);
        Ok((peer, StreamMuxerBox::new(muxer.await?)))
    }

    async fn dialled<C: Io>(
        self,
        stream: Negotiated<C>,
        tls: bool,
    ) -> io::Result<(PeerId, Secured<C>)> {
        if tls {
            // No name: an address is not sent (libp2p's TLS specification asks for that).
            let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
            let stream = TlsConnector::from(self.client).connect(nobody, stream);
            let stream = stream.await?;
            let peer = proven(stream.get_ref().1.peer_certificates())?;
            return Ok((peer, Either::Left(stream.into())));
        }
        let noise = self.noise.upgrade_outbound(stream, NOISE).await;
        let (peer, stream) = noise.map_err(io::Error::other)?;
        Ok((peer, Either::Right(stream)))
    }

    async fn accepted<C: Io>(
        self,
        stream: Negotiated<C>,
        tls: bool,
    ) -> io::Result<(PeerId, Secured<C>)> {
        if tls {
            let stream = TlsAcceptor::from(self.server).accept(stream).await?;
            let peer = proven(stream.get_ref().1.peer_certificates())?;
            return Ok((peer, Either::Left(stream.into())));
        }
        let noise = self.noise.upgrade_inbound(stream, NOISE).await;
        let (peer, stream) = noise.map_err(io::Error::other)?;
        Ok((peer, Either::Right(stream)))
    }
}

fn proven(certificates: Option<&[CertificateDer<'_>]>) -> io::Result<PeerId> {
    let peer = certificates.and_then(tls::peer_of);
    peer.ok_or_else(|| io::Error::other("a certificate that proves no peer id"))
}

/// Addresses at which TLS was declined; the oldest are forgotten first.
#[derive(Debug, Clone, Default)]
struct WithoutTls(Arc<Mutex<VecDeque<(Multiaddr, Instant)>>>);

impl WithoutTls {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Multiaddr, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, address: Multiaddr) {
        let mut known = self.lock();
        known.retain(|(a, _)| *a != address);
        if known.len() >= REMEMBERED {
            known.pop_front();
        }
        known.push_back((address, Instant::now()));
    }

    fn knows(&self, address: &Multiaddr) -> bool {
        let mut known = self.lock();
        known.retain(|(_, noted)| noted.elapsed() < BELIEVED);
        known.iter().any(|(a, _)| a == address)
    }

    fn forget(&self, address: &Multiaddr) {
        self.lock().retain(|(a, _)| a != address);
    }
}

/// Dials a second time where TLS was declined.
struct Again<O> {
    inner: Arc<Mutex<Boxed<O>>>,
}

impl<O> Again<O> {
    fn lock(inner: &Mutex<Boxed<O>>) -> MutexGuard<'_, Boxed<O>> {
        inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: Send + 'static> Transport for Again<O> {
    type Output = O;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<O> as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<O>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        Self::lock(&self.inner).listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        Self::lock(&self.inner).remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let first = Self::lock(&self.inner).dial(address.clone(), opts)?;
        let inner = Arc::clone(&self.inner);
        Ok(async move {
            let error = match first.await {
                // The error's type is hidden by what is stacked on the transport; its words are not.
                Err(e) if e.to_string() == DECLINED => e,
                done => return done,
            };
            let second = Self::lock(&inner).dial(address, opts);
            second.map_err(|_| error)?.await
        }
        .boxed())
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let mut inner = Self::lock(&self.inner);
        Pin::new(&mut *inner).poll(cx)
    }
}

/// Whether the other side answered, and knows no such protocol.
fn is_declined(e: &io::Error) -> bool {
    let inside = e.get_ref().and_then(|e| e.downcast_ref());
    matches!(inside, Some(NegotiationError::Failed))
}
