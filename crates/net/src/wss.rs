//! WebSocket inside TLS, for networks that let nothing but port 443 out.
//!
//! TLS is there for the firewall on the way, not for us: whom a connection leads to is proven by noise
//! inside, as on every other transport. So any certificate is taken, and a listener makes its own.
//! Addresses are `/…/tcp/PORT/tls/ws` or `/…/tcp/PORT/wss`.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use futures_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    },
};
use libp2p::{
    Multiaddr, TransportError,
    core::{
        ConnectedPoint,
        muxing::SubstreamBox,
        transport::{Boxed, DialOpts, ListenerId, Transport, TransportEvent},
    },
    multiaddr::Protocol,
    websocket,
};

use crate::error::StartError;

type Inner = websocket::Config<Boxed<SubstreamBox>>;

/// Serves and dials TLS WebSocket addresses over a transport for TCP ones.
pub(crate) struct Wss {
    inner: Inner,
}

impl Wss {
    pub(crate) fn new(tcp: Boxed<SubstreamBox>) -> Result<Self, StartError> {
        let setup = |e: &dyn std::fmt::Display| StartError::Setup(format!("TLS: {e}"));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .map_err(|e| setup(&e))?;
        let key = PrivatePkcs8KeyDer::from(made.key_pair.serialize_der());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| setup(&e))?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .map_err(|e| setup(&e))?;
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| setup(&e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        let (acceptor, connector) = (
            TlsAcceptor::from(Arc::new(server)),
            TlsConnector::from(Arc::new(client)),
        );
        let tls = tcp.and_then(move |stream, endpoint| async move {
            Ok::<_, io::Error>(match endpoint {
                ConnectedPoint::Dialer { address, .. } => {
                    SubstreamBox::new(connector.connect(name(&address)?, stream).await?)
                }
                ConnectedPoint::Listener { .. } => {
                    SubstreamBox::new(acceptor.accept(stream).await?)
                }
            })
        });
        Ok(Self {
            inner: websocket::Config::new(tls.boxed()),
        })
    }
}

/// The server's name as TLS wants it.
fn name(address: &Multiaddr) -> io::Result<ServerName<'static>> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Ok(ServerName::IpAddress(IpAddr::V4(ip).into())),
        Some(Protocol::Ip6(ip)) => Ok(ServerName::IpAddress(IpAddr::V6(ip).into())),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            ServerName::try_from(name.into_owned()).map_err(io::Error::other)
        }
        _ => Err(io::Error::other("an address without a host")),
    }
}

/// `/…/tcp/PORT/tls/ws` as the plain WebSocket address inside TLS; what is behind it stays.
pub(crate) fn inside_tls(address: &Multiaddr) -> Option<Multiaddr> {
    let parts: Vec<_> = address.iter().collect();
    let at = parts.iter().position(|p| matches!(p, Protocol::Tcp(_)))?;
    let behind = match &parts[at + 1..] {
        [Protocol::Tls, Protocol::Ws(path), rest @ ..] => (path.clone(), rest),
        [Protocol::Wss(path), rest @ ..] => (path.clone(), rest),
        _ => return None,
    };
    let (path, rest) = behind;
    let head = parts[..=at].iter().cloned();
    let plain = head.chain([Protocol::Ws(path)]).chain(rest.iter().cloned());
    Some(plain.collect())
}

/// The inverse of [`inside_tls`].
fn around_tls(address: Multiaddr) -> Multiaddr {
    address
        .iter()
        .flat_map(|part| match part {
            Protocol::Ws(path) => vec![Protocol::Tls, Protocol::Ws(path)],
            other => vec![other],
        })
        .collect()
}

type Output = <Inner as Transport>::Output;

impl Transport for Wss {
    type Output = Output;
    type Error = <Inner as Transport>::Error;
    type ListenerUpgrade = BoxFuture<'static, Result<Output, Self::Error>>;
    type Dial = BoxFuture<'static, Result<Output, Self::Error>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        match inside_tls(&addr) {
            Some(plain) => self.inner.listen_on(id, plain),
            None => Err(TransportError::MultiaddrNotSupported(addr)),
        }
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        match inside_tls(&addr) {
            Some(plain) => self.inner.dial(plain, opts).map(FutureExt::boxed),
            None => Err(TransportError::MultiaddrNotSupported(addr)),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx).map(|event| match event {
            TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            } => TransportEvent::NewAddress {
                listener_id,
                listen_addr: around_tls(listen_addr),
            },
            TransportEvent::AddressExpired {
                listener_id,
                listen_addr,
            } => TransportEvent::AddressExpired {
                listener_id,
                listen_addr: around_tls(listen_addr),
            },
            TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            } => TransportEvent::Incoming {
                listener_id,
                upgrade: upgrade.boxed(),
                local_addr: around_tls(local_addr),
                send_back_addr: around_tls(send_back_addr),
            },
            TransportEvent::ListenerClosed {
                listener_id,
                reason,
            } => TransportEvent::ListenerClosed {
                listener_id,
                reason,
            },
            TransportEvent::ListenerError { listener_id, error } => {
                TransportEvent::ListenerError { listener_id, error }
            }
        })
    }
}

/// Takes every certificate; signatures must be right all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_address_inside_tls_and_back() {
        let addr = |text: &str| text.parse::<Multiaddr>().unwrap();
        let plain = addr("/dns4/a.example/tcp/443/ws");
        assert_eq!(
            inside_tls(&addr("/dns4/a.example/tcp/443/tls/ws")),
            Some(plain.clone())
        );
        assert_eq!(
            inside_tls(&addr("/dns4/a.example/tcp/443/wss")),
            Some(plain.clone())
        );
        assert_eq!(around_tls(plain), addr("/dns4/a.example/tcp/443/tls/ws"));
        assert_eq!(inside_tls(&addr("/ip4/192.0.2.1/tcp/443/ws")), None);
        assert_eq!(inside_tls(&addr("/ip4/192.0.2.1/udp/443/quic-v1")), None);
    }
}
