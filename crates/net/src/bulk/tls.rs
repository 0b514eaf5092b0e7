//! Mutual TLS with the identities of libp2p.
//!
//! Certificates and their proof are `libp2p_tls`'s. The configuration around them is ours for three
//! reasons: a stranger is refused in the handshake and not after it; AES-GCM comes first, where
//! `libp2p_tls` fixes ChaCha20; and no session key is ever written to a file that the environment names.

use std::{fmt, sync::Arc};

use libp2p::PeerId;
use libp2p_tls::certificate;
use polymath_types::NodeKey;
use quinn::{
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    rustls::{
        self, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
        ServerConfig, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{
            CryptoProvider,
            aws_lc_rs::{self, cipher_suite},
        },
        pki_types::{CertificateDer, ServerName, UnixTime},
        server::danger::{ClientCertVerified, ClientCertVerifier},
        sign::{CertifiedKey, SingleCertAndKey},
        version::TLS13,
    },
};
use tokio::time::Instant;

use super::{error::BulkBindError, ticket::Tickets};

/// What proves this node's peer id, for one protocol.
pub(super) struct Identity {
    certificate: Arc<SingleCertAndKey>,
    protocol: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    pub(super) fn new(key: &NodeKey, protocol: &str) -> Result<Self, BulkBindError> {
        let (certificate, key) = certificate::generate(key.keypair())
            .map_err(|e| BulkBindError::Setup(e.to_string()))?;
        let mut provider = aws_lc_rs::default_provider();
        // The client's order counts. Every machine worth sending tensors to has AES in its silicon.
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let key = provider.key_provider.load_private_key(key)?;
        // Whole, not from its parts: those would be read as a web server's, whose critical extensions
        // do not include libp2p's.
        let certificate = CertifiedKey::new(vec![certificate], key);
        Ok(Self {
            certificate: Arc::new(certificate.into()),
            protocol: protocol.as_bytes().to_vec(),
            provider: Arc::new(provider),
        })
    }

    /// For whoever has a ticket.
    pub(super) fn server(
        &self,
        tickets: Arc<Tickets>,
    ) -> Result<quinn::ServerConfig, BulkBindError> {
        let verifier = Arc::new(Proof(Expected::WithTicket(tickets)));
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.certificate.clone());
        config.alpn_protocols = vec![self.protocol.clone()];
        // A resumed session would pass the verifier by, and with it the question for a ticket.
        config.send_tls13_tickets = 0;
        let config =
            QuicServerConfig::try_from(config).map_err(|e| BulkBindError::Setup(e.to_string()))?;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(config)))
    }

    /// To reach this peer and no other.
    pub(super) fn client(&self, peer: PeerId) -> Result<quinn::ClientConfig, BulkBindError> {
        let verifier = Arc::new(Proof(Expected::Peer(peer)));
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.certificate.clone());
        config.alpn_protocols = vec![self.protocol.clone()];
        config.resumption = rustls::client::Resumption::disabled();
        let config =
            QuicClientConfig::try_from(config).map_err(|e| BulkBindError::Setup(e.to_string()))?;
        Ok(quinn::ClientConfig::new(Arc::new(config)))
    }
}

/// Who a connection has proven to lead to.
pub(super) fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let [only] = chain.as_slice() else {
        return None;
    };
    Some(certificate::parse(only).ok()?.peer_id())
}

/// Checks a libp2p certificate, and whose it is.
///
/// Specification: <https://github.com/libp2p/specs/blob/master/tls/tls.md>.
#[derive(Debug)]
struct Proof(Expected);

enum Expected {
    Peer(PeerId),
    WithTicket(Arc<Tickets>),
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer(_) => "Peer",
            Self::WithTicket(_) => "WithTicket",
        })
    }
}

impl Proof {
    fn check(&self, only: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !more.is_empty() {
            return Err(Error::General("more than one certificate".into()));
        }
        let found = certificate::parse(only)?.peer_id();
        let expected = match &self.0 {
            Expected::Peer(peer) => *peer == found,
            Expected::WithTicket(tickets) => tickets.expects_or_counts(&found, Instant::now()),
        };
        if expected {
            Ok(())
        } else {
            // The alert is `access_denied`, which this certificate has no other reason for.
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }
}

fn signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    certificate::parse(certificate)?.verify_signature(
        signed.scheme,
        message,
        signed.signature(),
    )?;
    Ok(HandshakeSignatureValid::assertion())
}

/// TLS 1.2 is not offered.
fn never<T>() -> Result<T, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".into()))
}

/// What `libp2p_tls` signs with, then what other libp2p implementations may.
fn schemes() -> Vec<SignatureScheme> {
    vec![
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ED25519,
    ]
}

impl ServerCertVerifier for Proof {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Proof {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
