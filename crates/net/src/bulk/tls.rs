//! The lane's own TLS: strangers are refused in the handshake.

use std::sync::Arc;

use libp2p::PeerId;
use polymath_types::NodeKey;
use quinn::{
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    rustls::pki_types::CertificateDer,
};
use tokio::time::Instant;

use super::{error::BulkBindError, ticket::Tickets};
use crate::tls;

/// What proves this node's peer id, for one protocol.
pub(super) struct Identity {
    inner: tls::Identity,
    protocol: String,
}

impl Identity {
    pub(super) fn new(key: &NodeKey, protocol: &str) -> Result<Self, BulkBindError> {
        let inner = tls::Identity::new(key.keypair());
        Ok(Self {
            inner: inner.map_err(|e| BulkBindError::Setup(e.to_string()))?,
            protocol: protocol.to_owned(),
        })
    }

    /// For whoever has a ticket.
    pub(super) fn server(
        &self,
        tickets: Arc<Tickets>,
    ) -> Result<quinn::ServerConfig, BulkBindError> {
        let welcome = move |peer: &PeerId| tickets.expects_or_counts(peer, Instant::now());
        let config = self.inner.server(&self.protocol, Arc::new(welcome))?;
        let config =
            QuicServerConfig::try_from(config).map_err(|e| BulkBindError::Setup(e.to_string()))?;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(config)))
    }

    /// To reach this peer and no other.
    pub(super) fn client(&self, peer: PeerId) -> Result<quinn::ClientConfig, BulkBindError> {
        let welcome = move |found: &PeerId| *found == peer;
        let config = self.inner.client(&self.protocol, Arc::new(welcome))?;
        let config =
            QuicClientConfig::try_from(config).map_err(|e| BulkBindError::Setup(e.to_string()))?;
        Ok(quinn::ClientConfig::new(Arc::new(config)))
    }
}

/// Who a connection has proven to lead to.
pub(super) fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::peer_of(&chain)
}
