//! TLS with the identities of libp2p.
//!
//! Certificates and their proof are `libp2p_tls`'s: one certificate, signed by itself, in which the peer's
//! identity signs the certificate's key (<https://github.com/libp2p/specs/blob/master/tls/tls.md>). The
//! configuration around them is ours for three reasons: whoever may not come in is refused in the
//! handshake and not after it; AES-GCM comes first where it runs in hardware, and `libp2p_tls` fixes
//! ChaCha20; and no session key is ever written to a file that the environment names.

use std::{fmt, sync::Arc};

use futures_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use libp2p::{PeerId, identity::Keypair};
use libp2p_tls::certificate;

/// Who may be on the other side.
pub(crate) type Welcome = Arc<dyn Fn(&PeerId) -> bool + Send + Sync>;

/// What proves this node's peer id.
#[derive(Clone)]
pub(crate) struct Identity {
    certificate: Arc<SingleCertAndKey>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// Makes a certificate for `key`.
    pub(crate) fn new(key: &Keypair) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (certificate, key) = certificate::generate(key)?;
        let mut provider = aws_lc_rs::default_provider();
        // The client's order counts.
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        if !has_aes() {
            provider.cipher_suites.rotate_right(1);
        }
        let key = provider.key_provider.load_private_key(key)?;
        // Whole, not from its parts: those would be read as a web server's, whose critical extensions
        // do not include libp2p's.
        let certificate = CertifiedKey::new(vec![certificate], key);
        Ok(Self {
            certificate: Arc::new(certificate.into()),
            provider: Arc::new(provider),
        })
    }

    /// To be called by whoever is welcome.
    pub(crate) fn server(&self, protocol: &str, welcome: Welcome) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Proof(welcome)))
            .with_cert_resolver(self.certificate.clone());
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        // A resumed session would pass the verifier by.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// To call whoever is welcome.
    pub(crate) fn client(&self, protocol: &str, welcome: Welcome) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Proof(welcome)))
            .with_client_cert_resolver(self.certificate.clone());
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// Who a connection has proven to lead to.
pub(crate) fn peer_of(chain: &[CertificateDer<'_>]) -> Option<PeerId> {
    let [only] = chain else {
        return None;
    };
    Some(certificate::parse(only).ok()?.peer_id())
}

/// Whether AES runs in hardware; where it does not, ChaCha20 is faster, and constant in time.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// Checks a libp2p certificate, and whose it is.
struct Proof(Welcome);

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof")
    }
}

impl Proof {
    fn check(&self, only: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !more.is_empty() {
            return Err(Error::General("more than one certificate".into()));
        }
        let found = certificate::parse(only)?.peer_id();
        if (self.0)(&found) {
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
