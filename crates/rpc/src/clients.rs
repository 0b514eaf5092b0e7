//! Clients to peers.

use std::{sync::Arc, time::Duration};

use polymath_net::{Net, OpenError};
use polymath_proto::v1::{catalog_client::CatalogClient, expert_client::ExpertClient};
use polymath_types::{ErrorKind, LoadReport, PeerId};

use crate::{
    channel::Channel,
    pool::{Class, Heard, Pool},
};

/// Largest message either side decodes: the longest question, and what is around it. Answers stream,
/// so a message is never a whole answer.
pub const MAX_MESSAGE: usize = 5 << 20;

/// Clients to peers; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients {
    pool: Pool,
}

/// Why a peer cannot be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No stream to the peer.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be reached a few times just now.
    #[error("peer {peer} is not tried now: {why}")]
    Paused {
        /// The peer.
        peer: PeerId,
        /// When it is tried again, and why it was not reached.
        why: String,
    },
}

impl ConnectError {
    /// Its place in the taxonomy.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(e) => e.kind(),
            Self::Paused { .. } => ErrorKind::Unavailable,
        }
    }
}

impl Clients {
    /// Clients over `net`.
    pub fn new(net: Net) -> Self {
        Self::hearing(net, |_, _| {})
    }

    /// The same; `load` is told how busy a peer is whenever a call to it ends, however it ends.
    pub fn hearing(net: Net, load: impl Fn(PeerId, LoadReport) + Send + Sync + 'static) -> Self {
        Self {
            pool: Pool::new(net, Heard(Arc::new(load))),
        }
    }

    /// A channel to `peer` for any generated client, connected within `within`.
    pub async fn channel(&self, peer: PeerId, within: Duration) -> Result<Channel, ConnectError> {
        let peer = self.pool.peer(peer);
        peer.connect(Class::Interactive, within).await?;
        Ok(Channel::new(peer))
    }

    /// A client of `peer`'s experts, connected within `within`.
    pub async fn expert(
        &self,
        peer: PeerId,
        within: Duration,
    ) -> Result<ExpertClient<Channel>, ConnectError> {
        let channel = self.channel(peer, within).await?;
        Ok(ExpertClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    /// A client of `peer`'s catalog.
    pub async fn catalog(
        &self,
        peer: PeerId,
        within: Duration,
    ) -> Result<CatalogClient<Channel>, ConnectError> {
        let channel = self.channel(peer, within).await?;
        Ok(CatalogClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    /// Leaves the lanes to a peer that went away to the calls on them.
    pub fn forget(&self, peer: &PeerId) {
        self.pool.forget(peer);
    }

    /// Ends lanes that nobody used for a while.
    pub fn reap(&self) {
        self.pool.reap();
    }
}
