//! What this node knows of its own place in the network: for `doctor`, `status` and logs.

use libp2p::{Multiaddr, PeerId};
use polymath_types::Transport;

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// This machine.
    Loopback,
    /// This link or private network (RFC 1918, RFC 4193, RFC 6598, link-local).
    Private,
    /// The whole internet, or a name.
    Global,
    /// Through a relay.
    Circuit,
}

/// How a NAT chooses the outer port (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mapping {
    /// Fewer than two observers on different addresses have told.
    #[default]
    Unknown,
    /// No translation: others see an address of this machine.
    None,
    /// Every destination sees the same outer address.
    EndpointIndependent,
    /// Every destination sees another one: holes cannot be punched from here to a peer behind a
    /// port-restricted NAT.
    EndpointDependent,
}

/// Whom a NAT or firewall lets in unasked (RFC 4787, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Filtering {
    /// Nobody has tried.
    #[default]
    Unknown,
    /// Strangers get in: one did, or an address that owes nothing to earlier traffic answered.
    Open,
    /// A host that was dialled before gets in on any port. Whether strangers do, nobody has shown:
    /// address-dependent filtering would keep them out.
    Contacts,
    /// No dial-back got through.
    Restricted,
}

/// What is known of one transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportReport {
    /// Which.
    pub transport: Transport,
    /// Addresses under which peers see this node, with the peers that said so.
    pub observed: Vec<(Multiaddr, PeerId)>,
    /// How ports are translated.
    pub mapping: Mapping,
    /// Who gets in.
    pub filtering: Filtering,
    /// Members connected over it now.
    pub peers: usize,
}

/// Where an own address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressSource {
    /// An interface listened on.
    Listen,
    /// Configured by `--announce`.
    Announced,
    /// Seen by peers.
    Observed,
    /// Mapped by the gateway.
    Upnp,
    /// Granted by a relay.
    Relay,
}

/// What is known of an own address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody has dialled it back yet.
    Untested,
    /// This peer has.
    Confirmed(PeerId),
    /// It did not answer.
    Failed(String),
    /// Needs no dial-back: it is told to peers of its scope only, or its relay has granted it.
    NotNeeded,
}

/// One of this node's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressReport {
    /// Without this node's id.
    pub address: Multiaddr,
    /// How far it reaches.
    pub scope: Scope,
    /// Where it comes from.
    pub source: AddressSource,
    /// Whether it answers.
    pub verdict: Verdict,
    /// Whether strangers are told of it now.
    pub announced: bool,
}

/// How it stands with one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayState {
    /// Asked, not answered yet.
    Asked,
    /// Granted; circuits through it lead here.
    Reserved,
    /// Refused, or gone.
    Failed(String),
}

/// A relay this node uses or tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayReport {
    /// Which.
    pub peer: PeerId,
    /// How it stands.
    pub state: RelayState,
}

/// What the gateway said to UPnP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UpnpReport {
    /// Not asked: nothing is listened on, or it is switched off.
    #[default]
    Off,
    /// Asked, no answer yet.
    Searching,
    /// No gateway here speaks it.
    NoGateway,
    /// The gateway itself has no public address.
    NotPublic,
    /// It forwards these addresses.
    Mapped(Vec<Multiaddr>),
}

/// What this node knows of its own place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct NetReport {
    /// TCP and QUIC, as far as they are used.
    pub transports: Vec<TransportReport>,
    /// Own addresses.
    pub addresses: Vec<AddressReport>,
    /// Relays used or tried.
    pub relays: Vec<RelayReport>,
    /// The gateway.
    pub upnp: UpnpReport,
    /// Whether this node serves others as relay and dial-back server.
    pub anchor: bool,
    /// Whether it keeps a part of the DHT.
    pub dht_server: bool,
    /// Members in the routing table.
    pub routed: usize,
    /// Connections of every kind.
    pub connections: usize,
    /// Connected members that relay or dial others back.
    pub anchors: usize,
}
