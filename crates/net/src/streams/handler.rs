//! One connection's part: negotiates streams both ways.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Stream, StreamProtocol,
    core::upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::sync::oneshot;

use super::{MeshStream, Registry};
use crate::{
    error::{OpenError, OpenRefusal},
    link::{Claim, Direction, Link},
};

/// Outbound streams negotiated at once. Below the 128 that the far side negotiates at once, so
/// that the wait happens here, where it is counted.
const CONCURRENT: usize = 64;
/// Negotiating one stream.
const NEGOTIATION: Duration = Duration::from_secs(10);

/// A wish for a stream. Dropping it unanswered tells the asker that the connection died.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) protocol: StreamProtocol,
    pub(crate) reply: oneshot::Sender<Result<MeshStream, OpenRefusal>>,
}

pub(crate) struct Handler {
    link: Arc<Link>,
    registry: Arc<Registry>,
    /// Claimed, not yet being negotiated; bounded by the claims a connection gives out.
    waiting: VecDeque<(OpenRequest, Claim)>,
    negotiating: usize,
}

impl Handler {
    pub(super) fn new(link: Arc<Link>, registry: Arc<Registry>) -> Self {
        Self {
            link,
            registry,
            waiting: VecDeque::new(),
            negotiating: 0,
        }
    }

    fn opened(&mut self, stream: Stream, (request, claim): (OpenRequest, Claim)) {
        self.negotiating = self.negotiating.saturating_sub(1);
        self.registry.counters.streams_opened.up();
        // The asker may have given up meanwhile: the stream is then dropped, which closes it.
        let _ = request.reply.send(Ok(MeshStream::new(stream, claim)));
    }

    fn failed(
        &mut self,
        error: StreamUpgradeError<Infallible>,
        (request, _): (OpenRequest, Claim),
    ) {
        self.negotiating = self.negotiating.saturating_sub(1);
        let peer = self.link.peer;
        let error = match error {
            StreamUpgradeError::NegotiationFailed => OpenError::Unsupported {
                peer,
                protocol: request.protocol.to_string(),
            },
            StreamUpgradeError::Timeout => OpenError::Timeout {
                peer,
                protocol: request.protocol.to_string(),
                within: NEGOTIATION,
            },
            StreamUpgradeError::Io(e) => OpenError::ConnectionLost {
                peer,
                reason: e.to_string(),
            },
            StreamUpgradeError::Apply(never) => match never {},
        };
        let _ = request.reply.send(Err(OpenRefusal::Final(error)));
    }

    fn accepted(&mut self, (stream, protocol): (Stream, StreamProtocol)) {
        let limit = self.registry.limits.streams_per_connection;
        match self.link.claim(Direction::Inbound, limit) {
            Some(claim) => {
                self.link.use_once(&protocol);
                self.registry
                    .deliver(&protocol, MeshStream::new(stream, claim));
            }
            None => self.registry.counters.streams_refused_connection_full.up(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenRequest;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offered;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = (OpenRequest, Claim);

    fn listen_protocol(&self) -> SubstreamProtocol<Offered> {
        SubstreamProtocol::new(Offered(self.registry.offered()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.link.keep.load(Relaxed)
    }

    fn on_behaviour_event(&mut self, request: OpenRequest) {
        match self.link.claim(
            Direction::Outbound,
            self.registry.limits.streams_per_connection,
        ) {
            Some(claim) => {
                self.link.use_once(&request.protocol);
                self.waiting.push_back((request, claim));
            }
            None => {
                self.registry.counters.opens_refused.up();
                let error = OpenError::TooManyStreams {
                    peer: self.link.peer,
                };
                let _ = request.reply.send(Err(OpenRefusal::Final(error)));
            }
        }
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Infallible>>
    {
        // Woken by `on_behaviour_event` and by finished negotiations: both are followed by a poll.
        while self.negotiating < CONCURRENT {
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            if next.0.reply.is_closed() {
                continue;
            }
            self.negotiating += 1;
            let upgrade = ReadyUpgrade::new(next.0.protocol.clone());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(upgrade, next).with_timeout(NEGOTIATION),
            });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            (),
            (OpenRequest, Claim),
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => {
                self.accepted(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol,
                info,
            }) => {
                self.opened(protocol, info);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.failed(error, info);
            }
            _ => {}
        }
    }
}

/// Offers the protocols accepted at this moment and yields the stream with the one chosen.
#[derive(Debug)]
pub(crate) struct Offered(Arc<[StreamProtocol]>);

impl UpgradeInfo for Offered {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        Vec::from(&*self.0).into_iter()
    }
}

impl InboundUpgrade<Stream> for Offered {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
